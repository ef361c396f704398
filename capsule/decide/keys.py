"""When the key of a service was made, and when it is due.

Rules kept: pure; durations are exact: a key of 90 days is due 90 times 24 hours after it was made, whatever
clocks and calendars do in between. Called by conditions, proposals and status.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from capsule.documents.types import Service
from capsule_agent.protocol.messages import Report, instant


def key_created(report: Report) -> datetime | None:
    """When the present key was made, as far as the agent knows. Raises InvalidMessage."""
    return instant(report.key_created_at) if report.key_created_at else None


def key_due(created: datetime | None, every: timedelta) -> datetime | None:
    """When a key is due: exactly so long after it was made. None: unknown, or past the calendar's end."""
    return _moved(created, every) if created else None


def key_instants(service: Service, created: datetime | None) -> tuple[datetime, ...]:
    """When time alone changes what is said of the key: when its rotation may be proposed, when it is due."""
    rotation = service.spec.rotation
    due = key_due(created, rotation.every) if rotation else None
    if rotation is None or due is None:
        return ()
    soon = _moved(due, -rotation.propose) if rotation.propose is not None else None
    return (soon, due) if soon else (due,)


def _moved(at: datetime, by: timedelta) -> datetime | None:
    """`at` moved exactly so far; None beyond the calendar, where an agent's wrong clock may lie."""
    try:
        return at + by
    except OverflowError:
        return None
