"""`capsule audit verify`: the whole history proved again from a clone, offline."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

from capsule.commands.audit_ahead import Ahead
from capsule.commands.audit_memory import remember, remembered
from capsule.commands.errors import CommandError
from capsule.commands.repository import Repository
from capsule.trust.audit import AuditVerdict, verify_audit
from capsule.trust.checkpoints import Checkpoint
from capsule.trust.objects import MissingObject
from capsule_agent.protocol.sshsig import PublicKey

_OBJECTS_BETWEEN_COLLECTIONS = 100_000


def verify(
    repository: Repository,
    *,
    checkpoint: Checkpoint | None = None,
    signed_by: PublicKey | None = None,
    from_start: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> AuditVerdict:
    """The verdict on both branches as last fetched; its origin counts as proved when the root is pinned, or
    when `checkpoint` is borne out, signed by `signed_by` or else by a principal of the policy of its day.

    What this clone proved before is not proved again, unless `from_start`. `progress` is called with commits
    done and commits in all. Raises CommandError without an audit branch, SetUpProblem for an incomplete
    clone.
    """
    audit = audit_tip(repository)
    store = repository.store
    with closing(Ahead(store.git_folder, store)) as ahead, _rare_collections():
        try:
            return verify_audit(
                store,
                repository.root,
                repository.main,
                audit,
                pinned=repository.root_source != "first commit",
                progress=progress,
                ahead=ahead,
                signed_with=ahead.signed_with,
                checkpoint=checkpoint,
                checkpoint_key=signed_by,
                resume=None if from_start else partial(remembered, store.git_folder),
                keep=partial(remember, store.git_folder),
            )
        except MissingObject as error:
            raise repository.missing(error) from None


def audit_tip(repository: Repository) -> str:
    """The tip of audit. Raises CommandError where there is none."""
    if repository.audit is None:
        raise CommandError(
            "NoAudit",
            "there is no branch audit, so nothing is on record",
            "A clone gets it with `git fetch`; the first pass of `capsule reconcile` begins it.",
        )
    return repository.audit


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A proof makes millions of small objects and hardly a cycle: look for cycles more rarely."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def in_words(verdict: AuditVerdict) -> str:
    """The verdict as a sentence."""
    proved = (
        f"{_count(verdict.operations, 'operation')} proved, {_count(verdict.commits, 'commit')} of audit, "
        f"{_count(verdict.main_steps, 'step')} of main"
    )
    if verdict.state_orders:
        proved = f"{_count(verdict.state_orders, 'desired-state order')} and {proved}"
    if verdict.unfinished:
        proved += f"; {_count(verdict.unfinished, 'operation')} without a result yet"
    if verdict.first_bad:
        return f"does not hold from commit {verdict.first_bad.commit} on (before it: {proved})"
    if not verdict.origin_proved:
        return f"consistent, origin unproved: {proved}"
    return f"proved from root {verdict.root}: {proved}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
