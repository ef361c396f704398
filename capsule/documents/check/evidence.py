"""Checks of the evidence that rules take: that people can be told by it at all. Called by check.tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from capsule.documents.check.people import people_of
from capsule.documents.check.sources import Loc, Source
from capsule.documents.problems import Problem
from capsule.documents.types import Capsule, ForgeSettings, Policy, Principal, Rule


def check_evidence(source: Source[Policy], settings: Source[Capsule] | None) -> Iterator[Problem]:
    """Accounts and e-mails that do not tell people apart, and rules whose evidence nobody can give.

    `settings` name the forge; None when they cannot be read.
    """
    yield from _shared_accounts(source)
    yield from _shared_emails(source)
    for at, rule in enumerate(source.document.spec.rules):
        if rule.approvals and rule.evidence != "signature":
            yield from _rule(source, settings, rule, ("spec", "rules", at, "evidence"))


def _shared_accounts(source: Source[Policy]) -> Iterator[Problem]:
    holders: dict[tuple[str, int], str] = {}
    for name, principal in source.document.spec.principals.items():
        for forge, user in principal.forge.items():
            holder = holders.setdefault((forge, user), name)
            if holder != name:
                message = f'this account is also listed for "{holder}"'
                hint = "give every principal an account of its own"
                loc: Loc = ("spec", "principals", name, "forge", forge)
                yield source.problem(loc, "SharedAccount", message, hint=hint)


def _shared_emails(source: Source[Policy]) -> Iterator[Problem]:
    """Where a rule takes merges, an e-mail of two people names nobody."""
    if not any(rule.approvals and rule.evidence == "merge" for rule in source.document.spec.rules):
        return
    holders: dict[str, str] = {}
    for name, principal in source.document.spec.principals.items():
        holder = holders.setdefault(principal.email.lower(), name) if principal.email else name
        if holder != name:
            message = f'"{holder}" has this e-mail too: merges by it count for nobody'
            loc: Loc = ("spec", "principals", name, "email")
            yield source.problem(loc, "SharedEmail", message, severity="warning")


def _rule(
    source: Source[Policy], settings: Source[Capsule] | None, rule: Rule, loc: Loc
) -> Iterator[Problem]:
    change = rule.match.change
    if change == "policy":
        message = f"a change of {change} is judged by signatures: {rule.evidence} is not taken for it"
        yield source.problem(loc, "EvidenceNotTaken", message, hint="evidence: signature", severity="warning")
        return
    forge = settings.document.spec.forge if settings else None
    if settings and forge is None and rule.evidence == "forge":
        message = "the settings name no forge whose reviews could be read"
        hint = f"add `forge` to the spec of {settings.path}"
        yield source.problem(loc, "EvidenceOfNobody", message, hint=hint, severity="warning")
    for need in rule.approvals:
        people = people_of(source.document, (need.team,))
        unknown = [
            name for name in people if not _is_known(source.document.spec.principals[name], rule, forge)
        ]
        known = len(people) - len(unknown)
        if known >= need.count and rule.evidence == "forge":
            yield from _without_account(source, need.team, unknown)
        if known < need.count:
            message = (
                f'only {known} of "{need.team}" can be told by {rule.evidence}, {need.count} must approve'
            )
            hint = "add their `forge` ids" if rule.evidence == "forge" else "add their `email`"
            yield source.problem(loc, "EvidenceOfNobody", message, hint=hint, severity="warning")


def _without_account(source: Source[Policy], team: str, people: Sequence[str]) -> Iterator[Problem]:
    for name in sorted(people):
        message = (
            f'"{name}" may approve for "{team}", and has no account at the forge: reviews count for nobody'
        )
        loc: Loc = ("spec", "principals", name)
        hint = "add `forge` with the number of the account"
        yield source.problem(loc, "AccountMissing", message, hint=hint, severity="warning")


def _is_known(principal: Principal, rule: Rule, forge: ForgeSettings | None) -> bool:
    """Whether a review or merge of theirs is told to be theirs: by any account, where no forge is named."""
    account = forge.kind in principal.forge if forge else bool(principal.forge)
    return account or (rule.evidence == "merge" and principal.email is not None)
