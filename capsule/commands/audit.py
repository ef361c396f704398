"""`capsule audit verify`: the whole history proved again from a clone, offline."""

from __future__ import annotations

from capsule.commands.errors import CommandError
from capsule.commands.repository import Repository
from capsule.trust.audit import AuditVerdict, verify_audit
from capsule.trust.objects import MissingObject


def verify(repository: Repository) -> AuditVerdict:
    """The verdict on both branches as last fetched; its origin counts as proved when the root is pinned.

    Raises CommandError without an audit branch, SetUpProblem for an incomplete clone.
    """
    if repository.audit is None:
        raise CommandError(
            "NoAudit",
            "there is no branch audit, so nothing is on record",
            "A clone gets it with `git fetch`; the first pass of `capsule reconcile` begins it.",
        )
    try:
        return verify_audit(
            repository.store,
            repository.root,
            repository.main,
            repository.audit,
            pinned=repository.root_source != "first commit",
        )
    except MissingObject as error:
        raise repository.missing(error) from None


def in_words(verdict: AuditVerdict) -> str:
    """The verdict as a sentence."""
    proved = (
        f"{_count(verdict.operations, 'operation')} proved, {_count(verdict.commits, 'commit')} of audit, "
        f"{_count(verdict.main_steps, 'step')} of main"
    )
    if verdict.unfinished:
        proved += f"; {_count(verdict.unfinished, 'operation')} without a result yet"
    if verdict.first_bad:
        return f"does not hold from commit {verdict.first_bad.commit} on (before it: {proved})"
    if not verdict.origin_proved:
        return f"consistent, origin unproved: {proved}"
    return f"proved from root {verdict.root}: {proved}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
