"""The text of a message: one event with its lines, or a digest of many. Called by notify.mailbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from capsule.documents.secrets import redacted
from capsule.documents.types import EventKind
from capsule.notify.delivery import Message
from capsule.view.events import Event, plain

LISTED = 20
_FIRST: tuple[EventKind, ...] = (
    "ReconcilerSuspended",
    "BreakGlass",
    "KeyChangedOutsideCapsule",
    "SecretInReport",
    "OperationUnknown",
    "OperationFailed",
    "RolloutStopped",
    "ServiceOffline",
    "ServiceUnhealthy",
    "Flapping",
    "CorrectionStopped",
    "KeyOverdue",
    "ReconcilerSilent",
    "Drift",
    "DisabledByRequest",
    "TrustOutdated",
    "Finding",
    "KeyDueSoon",
    "ChangePending",
    "RequestRefused",
    "ApprovalPending",
)
_CALM: frozenset[EventKind] = frozenset(
    {"ApprovalPending", "ChangePending", "DisabledByRequest", "KeyDueSoon", "RequestRefused"}
)
# An agent writes some of the text: what chat programs read as a mention, a link or markup is taken from it.
_DEFUSED = str.maketrans({"<": "‹", ">": "›", "@": "＠", "`": "'", "[": "(", "]": ")", "*": "∗"})


def message_of(title: str, events: Sequence[Event]) -> Message:
    """What a receiver is told of `events`, of which there is at least one; `title` is the repository's."""
    ordered = sorted(events, key=lambda event: (_FIRST.index(event.kind), event.key))
    urgent = any(event.kind not in _CALM for event in ordered)
    where = f"Capsule {plain(title)}".rstrip()
    if len(ordered) == 1:
        (event,) = ordered
        since = [f"since {event.since:%Y-%m-%d %H:%M} UTC"] if event.since else []
        return _message(f"{where}: {event.title}", [event.kind, *event.lines, *since], urgent)
    counts = Counter(event.kind for event in ordered)
    lines = [", ".join(f"{count} {kind}" for kind, count in counts.items())]
    lines += [f"- {event.title}" for event in ordered[:LISTED]]
    if len(ordered) > LISTED:
        lines.append(f"and {len(ordered) - LISTED} more; all: capsule notify list")
    return _message(f"{where}: {len(ordered)} events", lines, urgent)


def _message(title: str, lines: Sequence[str], urgent: bool) -> Message:
    # Before the defusing, which could change what a secret is known by.
    text = redacted("\n".join(lines))
    return Message(redacted(title).translate(_DEFUSED), text.translate(_DEFUSED), urgent)
