"""What is said of a picture whose history a shallow clone left out. Called by view.build."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from capsule.view.model import ConditionRow, Snapshot

REASONS: dict[str, str] = {
    "HistoryMissing": "The clone is shallow: what is on record now is shown as it stands, but how it came to "
    "be cannot be proved here; `git fetch --unshallow` gets the rest.",
}


def without_history(seen: Snapshot) -> Snapshot:
    """`seen` with the condition that its past cannot be proved here."""
    reason = "HistoryMissing"
    text = REASONS[reason]
    condition = ConditionRow("HistoryNotProved", reason, text[0].lower() + text[1:].rstrip("."))
    revision = hashlib.sha256(f"{seen.revision} {reason}".encode()).hexdigest()
    return replace(seen, conditions=(*seen.conditions, condition), revision=revision)
