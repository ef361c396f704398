"""Who the teams of a policy are. Called by check.policy and check.evidence."""

from __future__ import annotations

from collections.abc import Sequence

from capsule.documents.types import Policy


def people_of(policy: Policy, teams: Sequence[str]) -> set[str]:
    """The people, without machines, in any of the teams."""
    spec = policy.spec
    members = {name for team in teams for name in spec.teams.get(team, ())}
    return {name for name in members if name in spec.principals and not spec.principals[name].machine}
