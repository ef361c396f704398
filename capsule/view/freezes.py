"""The freezes in force, told where people look: what they hold back, until when, and why. Called by build."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from capsule.documents.types import Policy
from capsule.trust.freezes import window
from capsule.view.model import ConditionRow


def freezes_at(policy: Policy, now: datetime) -> Iterator[ConditionRow]:
    """A condition for each freeze that holds at `now`, in the order of the policy."""
    for freeze in policy.spec.freezes:
        start, end = window(freeze)
        if start <= now < end:
            labels = ", ".join(f"{key}={value}" for key, value in freeze.selector.items())
            who = f" (except {', '.join(freeze.except_)})" if freeze.except_ else ""
            why = f": {freeze.reason}" if freeze.reason else ""
            message = f"{labels or 'everything'} is frozen until {end:%Y-%m-%d %H:%M} UTC{who}{why}"
            yield ConditionRow("Freeze", "Frozen", message, start)
