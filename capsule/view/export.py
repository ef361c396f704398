"""Rows of the ledger as CSV and as JSON lines, for other programs.

Rules kept: columns are stable and only ever added at the end; a cell that a spreadsheet would take for a
formula gets an apostrophe in front (CSV alone: JSON tells the values as they are); every line stands alone,
so that millions are written without being held. CSV: RFC 4180, UTF-8. Called by commands.audit_ledger.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import datetime

from capsule.documents.scalars import instant_text
from capsule.view.ledger_rows import LedgerRow

COLUMNS: dict[str, str] = {
    "at": "When it ended or was seen; UTC",
    "kind": "operation, desired-state, refusal or exception",
    "service": "Name of the service; empty for what is about main itself",
    "labels": "Labels of the service when it was claimed, as key=value, separated by blanks; unknown (in "
    "JSON null) where no document of the service was in force",
    "action": "What was done",
    "request": "Name of the request",
    "outcome": "succeeded, failed, refused, cancelled, unknown, running …",
    "reason": "Reason code; of an exception, which one",
    "message": "One line for people",
    "why": "The reason that the request gives",
    "requestedBy": "Who asked",
    "approvedBy": "Whose approvals counted, separated by blanks",
    "evidence": "Weakest kind of evidence: signature, forge, merge, break-glass",
    "reconciler": "Which reconciler acted",
    "attempt": "Number of the attempt",
    "claimedAt": "When it was begun; UTC",
    "opId": "Id of the operation",
    "receiptDigest": "SHA-256 of the agent's signed receipt",
    "revision": "Commit of main that was judged",
    "commit": "Commit of audit that tells of it",
    "params": "Parameters that the request gives, as name=value, separated by blanks",
}
UNKNOWN = "unknown"
"""What stands for labels that nobody can tell."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "−", "﹢", "﹣", "﹦", "﹫")


def values(row: LedgerRow) -> dict[str, object]:
    """The row by column."""
    return {
        "at": _time(row.at),
        "kind": row.kind,
        "service": row.service,
        "labels": None if row.labels is None else dict(sorted(row.labels.items())),
        "action": row.action,
        "request": row.request,
        "outcome": row.outcome,
        "reason": row.reason,
        "message": row.message,
        "why": row.why,
        "requestedBy": row.requested_by,
        "approvedBy": list(row.approved_by),
        "evidence": row.evidence,
        "reconciler": row.reconciler,
        "attempt": row.attempt or None,
        "claimedAt": _time(row.claimed_at),
        "opId": row.op_id,
        "receiptDigest": row.receipt_digest,
        "revision": row.revision,
        "commit": row.commit,
        "params": dict(sorted(row.params.items())),
    }


def as_csv(rows: Iterable[LedgerRow]) -> Iterator[str]:
    """The lines of a CSV file, the head first, each with its line's end."""
    yield _line(COLUMNS)
    for row in rows:
        told = values(row)
        told["labels"] = UNKNOWN if row.labels is None else told["labels"]
        yield _line(map(_cell, told.values()))


def as_json_lines(rows: Iterable[LedgerRow]) -> Iterator[str]:
    """One JSON object a line."""
    for row in rows:
        yield json.dumps(values(row), ensure_ascii=True) + "\n"


def safe_cell(text: str) -> str:
    """The text as a spreadsheet takes it for text: never for a formula."""
    return f"'{text}" if text.lstrip(" \u00a0\ufeff").startswith(_FORMULA) else text


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return safe_cell(" ".join(f"{name}={part}" for name, part in value.items()))
    if isinstance(value, list):
        return safe_cell(" ".join(map(str, value)))
    return safe_cell(str(value))


def _line(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue()


def _time(at: datetime | None) -> str | None:
    return instant_text(at) if at else None
