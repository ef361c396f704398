"""Which refs of a remote can be taken in: well named, each a commit that is here with all it needs.

Rules kept: whoever may push one branch must not stop the reading of the others, so a ref that cannot be
taken in is left out alone, with the reason; only without main or audit nothing can go on. Called by
store.git_store and testing.memory_store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from capsule.documents.paths import AUDIT, MAIN
from capsule.store.api import DamagedObject, RemoteUnreachable, StoreError
from capsule.store.graph import new_objects
from capsule.store.objects import Read, check_ref_name
from capsule.trust.objects import MissingObject

ESSENTIAL = (MAIN, AUDIT)

_log = logging.getLogger("capsule.store")


def well_named(refs: Mapping[str, str]) -> dict[str, str]:
    """The refs whose names git and a file system can hold: others are not even fetched."""
    return {name: oid for name, oid in refs.items() if not _name_problem(name)}


def _name_problem(name: str) -> str:
    try:
        check_ref_name(name)
    except StoreError as error:
        return str(error)
    return ""


@dataclass(slots=True)
class Incoming:
    """Sorts out what one remote offers. `skipped`: why refs of the last refresh were left out, by name."""

    read: Read
    has: Callable[[str], bool]
    shown: str
    skipped: dict[str, str] = field(default_factory=dict)
    _damaged: dict[str, str] = field(default_factory=dict)
    """Commits that stay unusable whatever comes later: looked through once, not at every refresh."""

    def sort_out(
        self, offered: Mapping[str, str], known: Iterable[str], shallow: Collection[str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """The refs to take in, and why others are left out.

        `known` are commits that are here with all their history. Raises RemoteUnreachable when main or
        audit cannot be taken in.
        """
        had = set(known)
        left_out = {name: problem for name in offered if (problem := _name_problem(name))}
        # Main and audit first: what they hold need not be looked through again for a branch.
        names = sorted(offered.keys() - left_out.keys(), key=lambda name: (name not in ESSENTIAL, name))
        commits = {name: offered[name] for name in names if self._is_commit(name, offered[name], left_out)}
        new = [oid for oid in commits.values() if oid not in had]
        if not any(oid in self._damaged for oid in new) and self._lacking(new, had, shallow) is None:
            return commits, left_out
        for name, oid in list(commits.items()):
            lacking = None if oid in had else self._damaged.get(oid) or self._lacking([oid], had, shallow)
            if lacking is None:
                had.add(oid)
            else:
                self._leave_out(name, lacking, left_out)
                del commits[name]
        return commits, left_out

    def _is_commit(self, name: str, oid: str, left_out: dict[str, str]) -> bool:
        try:
            return self.read(oid)[0] == "commit"
        except (MissingObject, DamagedObject) as error:
            self._leave_out(name, str(error), left_out)
            return False

    def _leave_out(self, name: str, lacking: str, left_out: dict[str, str]) -> None:
        if name in ESSENTIAL:
            raise RemoteUnreachable(
                f"{self.shown} sent an incomplete history: {lacking}", "run `git fsck` there"
            )
        left_out[name] = lacking

    def _lacking(self, new: list[str], had: Collection[str], shallow: Collection[str]) -> str | None:
        try:
            needed = new_objects(self.read, new, had, shallow)
            return next((f"object {oid} is not there" for _, oid in needed if not self.has(oid)), None)
        except MissingObject as error:
            return str(error)
        except DamagedObject as error:
            if len(new) == 1:
                self._damaged[new[0]] = str(error)
            return str(error)

    def note_skipped(self, left_out: Mapping[str, str]) -> None:
        """Tell in the log what was left out, once for each."""
        for name, why in left_out.items():
            if self.skipped.get(name) != why:
                _log.warning("the ref %a of %s is left out: %.300a", name[:200], self.shown, why)
        self.skipped = dict(left_out)
