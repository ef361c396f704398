"""What a refused push is told: why, and what the pusher does next.

Rules kept: every refusal has advice that can be typed or acted upon, and none names a way around the policy.
Called by trust.pushes.
"""

from __future__ import annotations

from dataclasses import dataclass

from capsule.documents.paths import SERVICES, SIGNERS_FOLDER
from capsule.trust.state import Finding, MainState, PendingChange


@dataclass(frozen=True, slots=True)
class RefusedPush:
    """Why a ref must not be moved, and what the pusher does next. `reason` is a reason code."""

    ref: str
    reason: str
    message: str
    advice: str


class Refused(Exception):
    def __init__(self, reason: str, message: str, advice: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.advice = advice


def untakeable(state: MainState, commit: str) -> Refused:
    """What to say of a step of main that can never be taken over."""
    finding = state.suspended or Finding("HistoryRewritten", "it does not go on from what was judged")
    if finding.reason == "HistoryRewritten":
        return Refused(finding.reason, finding.message, ASK_SERVER)
    advice = f"Write the commit again without it: git rebase -i {commit[:12]}^"
    return Refused(finding.reason, f"commit {commit[:12]}: {finding.message}", advice)


def check_brought(before: MainState, after: MainState) -> None:
    """Raise Refused for what the steps between leave unauthorised; what waited before is not theirs."""
    waiting = {(change.path, change.new) for change in before.pending}
    brought = [change for change in after.pending if (change.path, change.new) not in waiting]
    if after.held and not before.held and after.held.path == SERVICES:
        raise Refused(after.held.reason, after.held.message, "Remove services one by one, never the last.")
    if brought:
        raise Refused("ChangeNotAuthorised", "; ".join(map(_told, brought)), _APPROVE)
    known = {(finding.reason, finding.message) for finding in before.findings}
    for finding in after.findings:
        signers = finding.path.startswith(SIGNERS_FOLDER) and finding.severity == "error"
        if signers and (finding.reason, finding.message) not in known:
            raise Refused(finding.reason, f"{finding.path}: {finding.message}", "Run: capsule policy signers")


def _told(change: PendingChange) -> str:
    """A change that is not authorised, why, and who may still approve it."""
    needed = [
        f"{missing.count} of team {missing.team} ({', '.join(missing.candidates) or 'nobody can'})"
        for missing in change.missing
    ]
    asked = f"; still needed: {' and '.join(needed)}" if needed else ""
    return f"{change.path}: {change.message} ({change.reason}){asked}"


REWOUND = (
    "Get what is here and put your work on top:\n"
    "  git fetch origin && git switch {branch} && git rebase origin/{branch}\n"
    "A branch of yours comes in by: git switch {branch} && git merge --no-ff BRANCH"
)
_APPROVE = (
    "Push it to a branch of its own instead, and have it approved; the last approval merges it:\n"
    "  git push origin HEAD:refs/heads/change/NAME\n"
    "  capsule propose change/NAME        (its author)\n"
    "  capsule approve change/NAME        (whoever is named above)"
)
REQUEST_FORM = "Mend the request and push again; `capsule request` writes one that is right."
MAIN_FIRST = "Push main first: git push origin main"
FETCH = "Get what is here, and push again: git fetch origin"
OTHER_ROOT = "Is this the repository you mean? Else ask whoever runs the server: capsule.root is set there."
ASK_SERVER = "Ask whoever runs the server."
BEAT = "Reconcilers write heartbeats: run `capsule reconcile` with the key that the policy lists."
_RECONCILE = "Reconcilers alone write audit, with a key that the policy lists: run `capsule reconcile`."
MEND = "Write the commit again without what is named, and push again."
ADVICE = dict.fromkeys(
    (
        "AuditUnsigned",
        "AuditBadSignature",
        "AuditByPerson",
        "AuthorMismatch",
        "ForeignTree",
        "MainPointNotRising",
        "EmptyCommit",
        "RecordChanged",
        "RecordDeleted",
    ),
    _RECONCILE,
)
