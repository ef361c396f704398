"""What to do, as values: (verified state, observed, now) → effects.

Rules kept: pure; nothing here executes, stores or waits; every request yields exactly one decision with a
reason code, so that `plan` and `reconcile` can never differ. Called by plan and the reconciler.
"""

from capsule.decide.effects import Ask, Begin, Cancel, Decision, Effect, Hold, Refuse, SetStatus
from capsule.decide.requests import World, decide
from capsule.decide.status import LastChange, status_change

__all__ = [
    "Ask",
    "Begin",
    "Cancel",
    "Decision",
    "Effect",
    "Hold",
    "LastChange",
    "Refuse",
    "SetStatus",
    "World",
    "decide",
    "status_change",
]
