"""Main as people see it: judged, and compared with the point that the reconciler recorded last.

Rules kept: who looks for the first time notices a main that was rewound before, because audit names the
revision it observed; only a revision that leads from the root, named by a machine of the policy in force
there, is believed, and anything else is passed over. Called by view.build and by commands.
"""

from __future__ import annotations

import re

from capsule.trust.key_validity import Seen, committed_at, policy_at
from capsule.trust.mainline import advance, judge
from capsule.trust.objects import (
    BadObject,
    MissingObject,
    NotDescended,
    ObjectReader,
    first_parents,
    raw_commit,
    read_commit,
)
from capsule.trust.policy import is_machine, signer_of
from capsule.trust.state import MainState
from capsule_agent.protocol import sshsig

_OBSERVED = "Capsule-Revision"
_COMMIT_ID = re.compile(r"[0-9a-f]{40}")


def judged_main(
    reader: ObjectReader,
    root: str,
    main: str,
    audit: str | None,
    known: MainState | None = None,
    seen: Seen | None = None,
) -> MainState:
    """Main judged up to its tip `main`, suspended as HistoryRewritten when audit has seen another one.

    `audit` is the tip of audit, `known` the outcome of an earlier look; `seen` tells when steps were seen,
    for keys that speak for a while only, which do not count without it. Raises BadRoot, MissingObject and
    BadObject for what main holds; for what audit says, never.
    """
    state = judge(reader, root, main, known, seen)
    if audit is None or audit == root:
        return state
    try:
        return _compared(reader, state, main, audit, seen)
    except (BadObject, MissingObject, sshsig.BadSignature):
        return state


def _compared(reader: ObjectReader, state: MainState, main: str, audit: str, seen: Seen | None) -> MainState:
    info = read_commit(reader, audit)
    named = info.trailers.get(_OBSERVED, ())
    if len(named) != 1 or not _COMMIT_ID.fullmatch(named[0]) or named[0] == state.tip:
        return state
    raw_commit(reader, named[0])
    if _leads_to(reader, named[0], main):
        return state
    before = judge(reader, state.root, named[0], seen=seen)
    policy = policy_at(before.policy.document, committed_at(info))
    if before.tip != named[0] or not is_machine(
        policy, signer_of(policy, info.signed_payload, info.signature or "", sshsig.COMMIT)
    ):
        return state
    return advance(reader, before, main)


def _leads_to(reader: ObjectReader, commit: str, tip: str) -> bool:
    try:
        return all(True for _ in first_parents(reader, tip, commit))
    except NotDescended:
        return False
