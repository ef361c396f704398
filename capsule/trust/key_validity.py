"""Keys that speak for a while only: the policy as it was at an instant, and when audit first took in a step.

Rules kept: an instant is never one that a signer wrote: it is the time at which a reconciler took the commit
in, which the committer time of its commit on audit tells for ever after, or now for what it did not take in
yet. Where nobody knows the time, a key with an end or a beginning speaks for nobody. Called by mainline,
one_request, audit and whoever verifies a signature under a policy.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from capsule.documents.types import DatedKey, Policy, Principal
from capsule.trust import objects
from capsule.trust.objects import BadObject, CommitInfo, ObjectReader
from capsule.trust.told_changes import Told, ToldOnAudit

_LATEST = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp())


class Same:
    """A policy compared by identity, so that what follows from it is found once."""

    __slots__ = ("policy",)

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.policy is self.policy

    def __hash__(self) -> int:
        return id(self.policy)


class Seen(Protocol):
    """What audit knows of the steps of main: when they were first seen, and what was recorded of reviews."""

    @property
    def now(self) -> datetime | None:
        """The time of what is not taken in yet; None where nobody says."""
        ...

    def of(self, step: str) -> datetime | None:
        """When audit took in this step of main; None: not yet."""
        ...

    @property
    def told(self) -> Told | None:
        """What audit holds of the reviews of changes; None where nothing of it is to be believed."""
        ...


# ---- the policy at an instant -------------------------------------------------------------------


def key_text(entry: str | DatedKey) -> str:
    """The OpenSSH text of a key in a policy."""
    return entry if isinstance(entry, str) else entry.key


def valid_at(entry: str | DatedKey, at: datetime) -> bool:
    """Whether a key speaks at that time: from `validAfter` on, and no more from `validBefore` on."""
    if isinstance(entry, str):
        return True
    begun = entry.valid_after is None or entry.valid_after <= at
    return begun and (entry.valid_before is None or at < entry.valid_before)


def never_valid(entry: str | DatedKey) -> bool:
    """Whether a key ends before it begins."""
    if isinstance(entry, str) or entry.valid_after is None or entry.valid_before is None:
        return False
    return entry.valid_before <= entry.valid_after


def is_timed(policy: Policy) -> bool:
    """Whether any key of the policy speaks for a while only."""
    return bool(_bounds(Same(policy)))


def policy_at(policy: Policy, at: datetime | None) -> Policy:
    """The policy with those keys alone that speak at that time; with None, those that always do. Whoever has
    keys, and none that speaks then, has neither an account at a forge nor an e-mail.

    A policy whose keys all speak always is given back as it is.
    """
    bounds = _bounds(Same(policy))
    if not bounds:
        return policy
    return _between(Same(policy), bisect_right(bounds, at) if at else -1)


@lru_cache(maxsize=64)
def _bounds(same: Same) -> tuple[datetime, ...]:
    """The instants at which a key begins or ceases to speak, in order."""
    found = {
        at
        for principal in same.policy.spec.principals.values()
        for entry in principal.keys
        if isinstance(entry, DatedKey)
        for at in (entry.valid_after or datetime.min.replace(tzinfo=UTC), entry.valid_before)
        if at
    }
    return tuple(sorted(found))


@lru_cache(maxsize=128)
def _between(same: Same, place: int) -> Policy:
    """The policy between two of its bounds; before the first one of all for -1."""
    at = _bounds(same)[place - 1] if place > 0 else None
    principals = {name: _with_keys(principal, at) for name, principal in same.policy.spec.principals.items()}
    return same.policy.model_copy(
        update={"spec": same.policy.spec.model_copy(update={"principals": principals})}
    )


def _with_keys(principal: Principal, at: datetime | None) -> Principal:
    keys = tuple(
        key_text(entry)
        for entry in principal.keys
        if isinstance(entry, str) or (at is not None and valid_at(entry, at))
    )
    if not keys:  # whose time is over, or did not come yet: no other name speaks either
        return principal.model_copy(update={"keys": keys, "forge": {}, "email": None})
    return principal.model_copy(update={"keys": keys})


def committed_at(info: CommitInfo) -> datetime:
    """The time that a commit says it was made: to be believed of reconcilers alone."""
    return datetime.fromtimestamp(min(info.committer.at, _LATEST), UTC)


# ---- when a step was seen -----------------------------------------------------------------------


class SeenOnAudit:
    """When audit took in the steps of main, looked up from its tip backwards, and only as far as is asked."""

    def __init__(
        self, reader: ObjectReader, root: str, main: str, audit: str | None, now: datetime | None
    ) -> None:
        self.now = now
        self.told: Told | None = ToldOnAudit(reader, audit)
        self._reader = reader
        self._root = root
        self._main = main
        self._known: dict[str, datetime | None] = {}
        self._points = self._walk(audit) if audit else iter(())
        self._begun = False

    def of(self, step: str) -> datetime | None:
        """When audit took in `step`; None for one that it has not. Raises MissingObject."""
        if not self._begun:
            self._begun = True
            self._note_fresh()
        while step not in self._known:
            if next(self._points, None) is None:
                return None
        return self._known[step]

    def _note_fresh(self) -> None:
        """The steps that audit has not taken in: looked at first, or each would be sought on all of audit."""
        newest = next(self._points, None)
        if newest is None:
            return
        fresh: list[str] = []
        for step in self._steps(self._main):
            if step in self._known:
                self._known |= dict.fromkeys(fresh)
                return
            fresh.append(step)

    def _walk(self, audit: str) -> Iterator[str]:
        """Note, for one point of main after another that audit took in, the steps up to it and their time."""
        above: tuple[str, datetime] | None = None
        for info in self._commits(audit):
            main_points = [each for each in info.parents[1:] if self._is_step(each, info)]
            if not main_points:
                continue
            if above:
                self._note(*above, until=main_points[0])
                yield above[0]
            above = main_points[0], committed_at(info)
        if above:
            self._note(*above, until=self._root)
            yield above[0]

    def _commits(self, audit: str) -> Iterator[CommitInfo]:
        at = audit
        while at != self._root:
            try:
                info = objects.read_commit(self._reader, at)
            except BadObject:
                return
            yield info
            if not info.parents:
                return
            at = info.parents[0]

    @staticmethod
    def _is_step(parent: str, info: CommitInfo) -> bool:
        """Whether the second parent is a point of main, as the commit says: others are request branches."""
        return info.trailers.get("Capsule-Revision", ())[-1:] == (parent,)

    def _note(self, point: str, at: datetime, *, until: str) -> None:
        for step in self._steps(point):
            if step == until:
                return
            self._known[step] = at

    def _steps(self, tip: str) -> Iterator[str]:
        """First parents from `tip` to the root, both included."""
        at: str | None = tip
        while at is not None:
            yield at
            try:
                parents = objects.parents_of(objects.raw_commit(self._reader, at))
            except BadObject:
                return
            at = parents[0] if parents else None
