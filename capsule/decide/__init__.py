"""What to do, as values: (verified state, observed, now) → effects.

Rules kept: pure; nothing here executes, stores or waits; every request yields exactly one decision with a
reason code, so that `plan` and `reconcile` can never differ. Called by plan and the reconciler.
"""

from capsule.decide.convergence import converge, correction_stopped, within_reach
from capsule.decide.effects import (
    Acknowledge,
    Ask,
    Attest,
    Begin,
    Cancel,
    Converge,
    Decision,
    Effect,
    Hold,
    Propose,
    Refuse,
    SetStatus,
    Wait,
)
from capsule.decide.keys import key_due
from capsule.decide.ledger import LastChange, LastWord, Ledger, read_ledger, why
from capsule.decide.open import OpenRequests, open_requests
from capsule.decide.proposals import proposal_name
from capsule.decide.requests import decide, orders_under_way
from capsule.decide.status import next_change, status_change
from capsule.decide.world import World

__all__ = [
    "Acknowledge",
    "Ask",
    "Attest",
    "Begin",
    "Cancel",
    "Converge",
    "Decision",
    "Effect",
    "Hold",
    "LastChange",
    "LastWord",
    "Ledger",
    "OpenRequests",
    "Propose",
    "Refuse",
    "SetStatus",
    "Wait",
    "World",
    "converge",
    "correction_stopped",
    "decide",
    "key_due",
    "next_change",
    "open_requests",
    "orders_under_way",
    "proposal_name",
    "read_ledger",
    "status_change",
    "why",
    "within_reach",
]
