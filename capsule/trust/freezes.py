"""Freezes: when nothing is begun, of which services, and for whom they make an exception.

Rules kept: the freeze that holds longest counts. Called by decide, view, policy_checks and `capsule policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from capsule.documents.types import Freeze, Policy
from capsule.trust.policy import people, selects


def frozen_until(policy: Policy, labels: Mapping[str, str], requester: str, now: datetime) -> datetime | None:
    """Until when (UTC) a freeze holds back what `requester` asked of a service with `labels`; None: free."""
    holding = freeze_in_force(policy, labels, requester, now)
    return holding[0] if holding else None


def freeze_in_force(
    policy: Policy, labels: Mapping[str, str], requester: str, now: datetime
) -> tuple[datetime, Freeze] | None:
    """The end (UTC) and the document of the freeze that holds longest, or None."""
    holding = [
        (end, freeze)
        for freeze in policy.spec.freezes
        if selects(freeze.selector, labels) and requester not in people(policy, freeze.except_)
        for start, end in [window(freeze)]
        if start <= now < end
    ]
    return max(holding, key=lambda each: each[0], default=None)


def window(freeze: Freeze) -> tuple[datetime, datetime]:
    """Start and end in UTC. Where the clocks change, the longer reading of a local time holds.

    Raises ZoneInfoNotFoundError, ValueError or OSError for a zone that is none, and OverflowError beyond the
    calendar: `policy_checks` lets no such freeze come into force.
    """
    zone = ZoneInfo(freeze.timezone)
    starts, ends = (
        [local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        for local in (freeze.start, freeze.end)
    )
    return min(starts), max(ends)
