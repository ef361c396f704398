"""The rows of the ledger as values: operations, desired-state orders, refusals, and what an auditor must see.

Rules kept: pure values; an exception repeats the row it is about, so that each stands alone. Called by
ledger, report, export and commands.audit_ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

Kind = Literal["operation", "desired-state", "refusal", "exception"]
KEY_CHANGED = "KeyChangedOutsideCapsule"
EXCEPTIONS: dict[str, str] = {
    "BreakGlass": "An operation was begun without approvals.",
    "Acknowledged": "A reviewer acknowledged something, such as that the glass was broken.",
    "WeakEvidence": "An approval rested on a forge's word or on a merge alone, not on a signature.",
    KEY_CHANGED: "A key changed with no operation behind it.",
    "ChangeNotAuthorised": "A change on main was not taken over.",
    "MainSuspended": "Main could not be acted on.",
    "UnknownOutcome": "Nobody knows whether an operation had its effect.",
    "RefusedByAgent": "An agent refused what it was told.",
    "DamagedRecord": "A record that cannot be read.",
}


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One row. `at` is when it ended, or the time of the commit; `commit` is of audit.

    For an exception `reason` is one of EXCEPTIONS. `outcome` is "running" for what has no result yet.
    `labels` is None where a service is named of which no document was in force: its labels are not known.
    """

    at: datetime
    kind: Kind
    service: str
    action: str
    outcome: str
    reason: str
    message: str = ""
    request: str = ""
    why: str = ""
    requested_by: str = ""
    approved_by: tuple[str, ...] = ()
    evidence: str = ""
    reconciler: str = ""
    attempt: int = 0
    claimed_at: datetime | None = None
    labels: Mapping[str, str] | None = field(default_factory=dict)
    op_id: str = ""
    receipt_digest: str = ""
    revision: str = ""
    commit: str = ""
    params: Mapping[str, str | int | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyAge:
    """The key of one service at the end: when it was made, and how long it may last."""

    service: str
    labels: Mapping[str, str]
    created: datetime | None
    due: datetime | None
    overdue: bool


def exceptions_of(row: LedgerRow) -> Iterator[LedgerRow]:
    """What an auditor must see of an operation besides its row."""
    named = {
        "BreakGlass": row.evidence == "break-glass",
        "WeakEvidence": row.evidence in ("forge", "merge"),
        "UnknownOutcome": row.outcome == "unknown",
        "RefusedByAgent": row.outcome == "refused",
        "Acknowledged": (row.action, row.outcome) == ("acknowledge", "succeeded"),
    }
    for reason, holds in named.items():
        if holds:
            yield _as_exception(row, reason)


def _as_exception(row: LedgerRow, reason: str) -> LedgerRow:
    text = row.message or row.why or EXCEPTIONS[reason]
    message = f"{row.reason}: {text}" if row.kind == "operation" or row.message else text
    return replace(row, kind="exception", reason=reason, message=message)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are wanted: a window (`until` left out), labels as of the operation, and one action."""

    since: datetime | None = None
    until: datetime | None = None
    selector: Mapping[str, str] = field(default_factory=dict)
    action: str = ""

    def takes(self, row: LedgerRow) -> bool:
        """Whether the row is wanted. What is about no service (main itself), and what is about one whose
        labels are not known, fits every selector: nothing is left out because nobody knows whose it is."""
        if self.since and row.at < self.since:
            return False
        if self.until and row.at >= self.until:
            return False
        if self.action and row.action != self.action:
            return False
        return not row.service or row.labels is None or self.selects(row.labels)

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels fit the selector."""
        return all(labels.get(name) == value for name, value in self.selector.items())


def chosen(rows: Iterable[LedgerRow], selection: Selection) -> Iterator[LedgerRow]:
    """The rows that are wanted."""
    return (row for row in rows if selection.takes(row))
