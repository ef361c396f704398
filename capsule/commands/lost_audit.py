"""Whether audit still goes on from what a reconciler of this clone has seen on it.

Rules kept: nothing is fetched or moved. Called by doctor and guide.
"""

from __future__ import annotations

from dataclasses import dataclass

from capsule.commands.repository import Repository
from capsule.reconciler.watching import SEEN
from capsule.trust.believed import goes_on
from capsule.trust.objects import MissingObject


@dataclass(frozen=True, slots=True)
class LostAudit:
    """What is wrong, in a sentence, and the command that puts back what was lost."""

    message: str
    remedy: str


def lost_audit(repository: Repository) -> LostAudit | None:
    """What audit has lost of what was seen on it here; None where it has everything, or nobody looked."""
    seen = repository.store.refs(SEEN).get(SEEN)
    if seen is None or _holds(repository, seen):
        return None
    now = f"is at {repository.audit[:12]} and does not hold" if repository.audit else "is gone, and so is"
    shared = repository.store.has_remote()
    remedy = f"git push origin {seen}:refs/heads/audit" if shared else f"git branch -f audit {seen}"
    return LostAudit(f"audit {now} {seen[:12]}, which a reconciler here has seen on it", remedy)


def _holds(repository: Repository, seen: str) -> bool:
    try:
        return repository.audit is not None and goes_on(repository.store, repository.audit, seen)
    except MissingObject:
        return False
