"""Main as people see it: judged beside as much of audit as is believed, and compared with the point that the
reconciler recorded last.

Rules kept: who looks for the first time notices a main that was rewound before, because audit names the
revision it observed; only a revision that leads from the root, named by a machine of the policy in force
there, is believed, and anything else is passed over. Called by view.tips and by commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from capsule.trust.believed import Belief, believed, goes_on
from capsule.trust.key_validity import SeenOnAudit, committed_at, policy_at
from capsule.trust.mainline import advance, judge
from capsule.trust.objects import BadObject, MissingObject, ObjectReader, raw_commit, read_commit
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
    now: datetime | None = None,
    *,
    earlier: str | None = None,
    proved: Callable[[], str | None] = lambda: None,
    known: MainState | None = None,
) -> Belief:
    """Main judged up to its tip `main`, suspended as HistoryRewritten when audit has seen another one.

    All else is as for `believed`. Raises BadRoot, MissingObject and BadObject.
    """
    belief = believed(reader, root, main, audit, now, earlier=earlier, proved=proved, known=known)
    if audit is None or audit == root:
        return belief
    try:
        return replace(belief, state=_compared(reader, belief, main, audit, now))
    except (BadObject, MissingObject, sshsig.BadSignature):
        return belief


def _compared(reader: ObjectReader, belief: Belief, main: str, audit: str, now: datetime | None) -> MainState:
    state = belief.state
    info = read_commit(reader, audit)
    named = info.trailers.get(_OBSERVED, ())
    if len(named) != 1 or not _COMMIT_ID.fullmatch(named[0]) or named[0] == state.tip:
        return state
    raw_commit(reader, named[0])
    if goes_on(reader, main, named[0]):
        return state
    before = judge(
        reader, state.root, named[0], seen=SeenOnAudit(reader, state.root, named[0], belief.commit, now)
    )
    policy = policy_at(before.policy.document, committed_at(info))
    if before.tip != named[0] or not is_machine(
        policy, signer_of(policy, info.signed_payload, info.signature or "", sshsig.COMMIT)
    ):
        return state
    return advance(reader, before, main)
