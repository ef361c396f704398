"""`capsule history`: uptime and incidents of services, computed from what audit recorded.

Rules kept: nothing is written, no network is used; what no reconciler could see is not known, and not up.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from capsule.commands.errors import CommandError
from capsule.commands.reads import one_service
from capsule.commands.repository import Repository
from capsule.trust.objects import BadObject, MissingObject
from capsule.view.model import Snapshot
from capsule.view.past import StatusPast
from capsule.view.uptime import LONGEST, HistoryRow, history, last_sign

_WHOLE = 10**9


@dataclass(frozen=True, slots=True)
class Histories:
    """The histories asked for; `cut` says that this clone does not reach back to the window's start."""

    rows: tuple[HistoryRow, ...]
    cut: bool


def histories(repository: Repository, seen: Snapshot, service: str = "") -> Histories:
    """The history of every service in force, or of `service`. Raises WrongUsage for one that is not."""
    past = StatusPast()
    store = repository.store
    try:
        past.bring_to(store, seen.audit, seen.root, seen.now - LONGEST, _WHOLE)
        names = [one_service(seen, service).name] if service else [row.name for row in seen.services]
        rows = tuple(history(name, past.moments(store, name), seen.now, last_sign(seen)) for name in names)
    except MissingObject as error:
        raise repository.missing(error) from None
    except BadObject as error:
        raise CommandError(error.reason, str(error), "capsule audit verify names the commit") from None
    return Histories(rows, bool(store.history_cut()) and not _reaches(past, seen.now))


def _reaches(past: StatusPast, now: datetime) -> bool:
    return past.reached is None or past.reached < now - LONGEST
