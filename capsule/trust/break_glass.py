"""Who may acknowledge that the glass was broken: that a request was begun without the approvals it needed.

Rules kept: never who broke it; somebody of a team whose approval its rule asks today, or an owner where no
rule asks any more. Called by decide and by records, so that what is decided is what is proved.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from capsule.documents.types import ClaimSpec
from capsule.trust.policy import OWNERS, people, rule_for_action
from capsule.trust.state import MainState

LEAKED = "LEAKED: "
"""How the reason of a request begins that revokes the old key at once: a mark, nobody's own words."""

_MARKS = re.compile(rf"^(?:\s*{LEAKED.strip()})*\s*", re.IGNORECASE)


def own_words(reason: str) -> str:
    """What the person says themselves, without the marks before it."""
    return _MARKS.sub("", reason, count=1).rstrip()


def broken(claim: ClaimSpec) -> bool:
    """Whether the glass was broken for what is claimed."""
    return claim.evidence == "break-glass"


def acknowledging_teams(state: MainState, claims: Collection[ClaimSpec]) -> tuple[str, ...]:
    """The teams whose approval `claims` went without, by the rules in force now."""
    teams: dict[str, None] = {}
    for claim in claims:
        service = state.services.get(claim.service)
        labels = service.document.metadata.labels if service else None
        rule = rule_for_action(state.policy.document, claim.action, labels) if labels is not None else None
        teams |= dict.fromkeys(each.team for each in rule.approvals) if rule else {}
    return tuple(teams) or (OWNERS,)


def unfit_to_acknowledge(state: MainState, who: str, claims: Collection[ClaimSpec]) -> str:
    """Why `who` cannot acknowledge the request with these `claims`, all of a broken glass; empty when they
    can."""
    if not claims:
        return "nothing was begun without approvals in the request it names"
    if any(claim.requested_by == who for claim in claims):
        return f"{who} broke the glass, and somebody else must acknowledge it"
    teams = acknowledging_teams(state, claims)
    if who not in people(state.policy.document, teams):
        return f"{who} is in none of {', '.join(teams)}, whose approval was left out"
    return ""
