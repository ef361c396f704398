"""Whether a push to the repository that everybody shares may happen, ref by ref, before anything moves.

Rules kept: main goes forward alone, along first parents, and takes nothing that the policy does not
authorise; audit takes what a present reconciler wrote; a request's branch holds that request alone; no name
shadows a branch that people trust; a ref of no known kind is refused. Other branches are free, and so is what
they hold. Called by the hook of a server (commands.hook).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from capsule.documents.paths import AUDIT, HEARTBEATS, MAIN, REQUEST_BRANCHES
from capsule.documents.scalars import NAME
from capsule.trust import objects
from capsule.trust.key_validity import SeenOnAudit, policy_at
from capsule.trust.mainline import BadRoot, advance, judge
from capsule.trust.objects import BadObject, MissingObject, NotDescended, ObjectReader
from capsule.trust.policy import is_machine, signer_of
from capsule.trust.pushed_audit import Mainline, Untaken, check_new_commits
from capsule.trust.refused_pushes import (
    ADVICE,
    ASK_SERVER,
    BEAT,
    FETCH,
    MAIN_FIRST,
    MEND,
    OTHER_ROOT,
    REQUEST_FORM,
    REWOUND,
    Refused,
    RefusedPush,
    check_brought,
    untakeable,
)
from capsule.trust.requests import judge_requests
from capsule.trust.state import MainState
from capsule.trust.story import BadStory
from capsule_agent.protocol import sshsig

REASONS: dict[str, str] = {
    "BranchDeleted": "A push that deletes main or audit. Both are the history; neither is ever deleted.",
    "BranchRewound": "A push that does not go on from the tip of main or audit along first parents: it would "
    "rewind or replace history. Fetch, put your commits on top, and push again.",
    "PushTooLong": "A push of more commits than are judged at once. Push the history in parts.",
    "ChangeNotAuthorised": "A push to main of a change that the policy does not authorise (yet). Push it to "
    "a branch of its own, and have it approved.",
    "MainMissing": "A push of something that is judged by the policy, to a repository without main.",
    "HeartbeatRefused": "A heartbeat that is not one commit without parents, signed by the machine it is "
    "named after.",
    "RefShadows": "A tag or branch whose name git or a person could take for main, audit, a request's branch "
    "or a commit.",
    "RefNotServed": "A ref that no state repository serves: branches, tags and heartbeats alone are.",
    "BadRequestBranch": "A branch request/<name> whose name is not that of a request.",
    "BranchHoldsMore": "A request's branch changes more than its own folder under requests/.",
    "ObjectMissing": "A push builds on a commit that the repository does not have.",
}

MAX_STEPS = 50_000
"""Commits judged of one branch in one push: minutes, not hours."""

_SHADOWING = re.compile(
    r"(?:.*/)?(?:main|audit|head)(?:/.*)?|request|(?:.*/)?request/.*|refs/.*|[0-9a-f]{40}", re.DOTALL
)
_NAME = re.compile(NAME)
_HEADS = "refs/heads/"
_TAGS = "refs/tags/"


@dataclass(frozen=True, slots=True)
class Push:
    """One ref that a push would move; None stands for a ref that does not exist (before, or after)."""

    ref: str
    old: str | None
    new: str | None


def judge_push(
    reader: ObjectReader,
    root: str,
    refs: Mapping[str, str],
    pushes: Sequence[Push],
    now: datetime | None = None,
    *,
    known: Callable[[], MainState | None] = lambda: None,
    keep: Callable[[MainState], None] = lambda _: None,
) -> tuple[RefusedPush, ...]:
    """What must not be moved of `pushes`, main first; nothing when all may.

    `root` is the id pinned in the server's own settings, `refs` what the repository has before the push, by
    full name; `reader` must also find what is pushed. `now` is the time of the push, for keys that speak for
    a while only: without it they do not count for what audit has not taken in. `known` gives main as it was
    judged at an earlier push, to be gone on from, and `keep` is told how it is judged before this one. Never
    raises for what a push holds.
    """
    judging = _Judging(reader, root, refs, pushes, now, known, keep)
    ordered = sorted(pushes, key=lambda push: push.ref != MAIN)
    return tuple(found for push in ordered if (found := judging.refusal(push)))


class _Judging:
    """One push under judgement."""

    def __init__(
        self,
        reader: ObjectReader,
        root: str,
        refs: Mapping[str, str],
        pushes: Sequence[Push],
        now: datetime | None,
        known: Callable[[], MainState | None],
        keep: Callable[[MainState], None],
    ) -> None:
        self._known = known
        self._keep = keep
        self._reader = reader
        self._root = root
        self._names = refs.keys() | {push.ref for push in pushes}
        self._main = refs.get(MAIN)
        self._audit = refs.get(AUDIT)
        self._now = now
        self._judged: MainState | None = None

    def refusal(self, push: Push) -> RefusedPush | None:
        """Why one ref must not be moved; None when it may."""
        try:
            self._check(push)
        except Refused as refused:
            return RefusedPush(push.ref, refused.reason, str(refused), refused.advice)
        except (BadObject, BadStory, Untaken) as error:
            return RefusedPush(push.ref, error.reason, str(error), ADVICE.get(error.reason, MEND))
        except BadRoot as error:
            return RefusedPush(push.ref, error.reason, str(error), ASK_SERVER)
        except MissingObject as error:
            return RefusedPush(push.ref, "ObjectMissing", f"an object is not here: {error}", FETCH)
        return None

    def _check(self, push: Push) -> None:
        if push.ref == MAIN:
            self._check_main(push)
        elif push.ref == AUDIT:
            self._check_audit(push)
        elif push.ref.startswith(HEARTBEATS):
            self._check_heartbeat(push)
        elif not push.ref.startswith((_HEADS, _TAGS)):
            raise Refused(
                "RefNotServed",
                f"{push.ref} is no branch, tag or heartbeat, and nothing else is served here",
                "Push a branch: git push origin HEAD:refs/heads/NAME",
            )
        elif push.new is None:
            return
        elif push.ref.startswith(REQUEST_BRANCHES):
            self._check_request(push.ref, push.new)
        else:
            self._check_name(push.ref)

    # ---- main ----

    def _check_main(self, push: Push) -> None:
        new = _kept(push, "main")
        steps = self._steps(new, push.old or self._root, "main")
        state = self._judged_to(push.old or self._root, self._seen(new, self._audit))
        after = state
        for commit in steps:
            after = advance(self._reader, after, commit)
            if after.tip != commit:
                raise untakeable(after, commit)
        check_brought(state, after)
        self._main, self._judged = new, after

    def _steps(self, new: str, old: str, branch: str) -> list[str]:
        """The commits from `old` (left out) to `new` along first parents, oldest first."""
        found: list[str] = []
        try:
            for commit in objects.first_parents(self._reader, new, old):
                found.append(commit)
                if len(found) > MAX_STEPS:
                    raise Refused(
                        "PushTooLong",
                        f"more than {MAX_STEPS} commits for {branch} in one push",
                        f"Push them in parts: git push origin OLDER_COMMIT:refs/heads/{branch}",
                    )
        except NotDescended:
            if old == self._root:
                message = f"{branch} does not begin with the root {old} that is pinned here"
                raise Refused("BranchRewound", message, OTHER_ROOT) from None
            message = f"{new[:12]} does not go on from {old[:12]}, the {branch} here, along first parents"
            raise Refused("BranchRewound", message, REWOUND.format(branch=branch)) from None
        return found[::-1]

    # ---- audit ----

    def _check_audit(self, push: Push) -> None:
        new = _kept(push, "audit")
        steps = self._steps(new, push.old or self._root, "audit")
        seen = self._seen(self._tip, new)
        policy = policy_at(self._state.policy.document, self._now)
        main = Mainline(self._root, self._positions, policy, seen)
        check_new_commits(self._reader, main, push.old, steps)

    @property
    def _state(self) -> MainState:
        """Main as it would be with this push."""
        if self._judged is None:
            self._judged = self._judged_to(self._tip, self._seen(self._tip, self._audit))
        return self._judged

    def _judged_to(self, tip: str, seen: SeenOnAudit) -> MainState:
        """Main as it stands here, gone on from what was judged of it before. Kept for the next push."""
        before = self._known()
        if before and not self._lies_before(before.tip, tip):
            before = None  # the server's main was put back by hand
        state = judge(self._reader, self._root, tip, before, seen)
        if before is None or before.tip != state.tip:
            self._keep(replace(state, seen=None))
        return state

    def _lies_before(self, old: str, tip: str) -> bool:
        try:
            return all(True for _ in objects.first_parents(self._reader, tip, old))
        except NotDescended:
            return False

    def _seen(self, main: str, audit: str | None) -> SeenOnAudit:
        return SeenOnAudit(self._reader, self._root, main, audit, self._now)

    @property
    def _tip(self) -> str:
        if self._main is None:
            raise Refused("MainMissing", "there is no main here to judge this by", MAIN_FIRST)
        return self._main

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        """The place of every commit of main along first parents."""
        return {oid: at for at, oid in enumerate([self._root, *self._steps(self._tip, self._root, "main")])}

    # ---- requests ----

    def _check_request(self, ref: str, new: str) -> None:
        name = ref.removeprefix(REQUEST_BRANCHES)
        if not _NAME.fullmatch(name):
            raise Refused(
                "BadRequestBranch",
                f"{name[:80]!r} cannot be the name of a request",
                "`capsule request` names it; or use lower-case letters, digits and dashes.",
            )
        state = self._state
        own = re.compile(rf"requests/[0-9]{{4}}/[0-9]{{2}}/{name}/.+", re.DOTALL)
        base, tree = (
            objects.tree_of(objects.raw_commit(self._reader, commit)) for commit in (self._base(new), new)
        )
        for change in objects.changes(self._reader, base, tree):
            if not own.fullmatch(change.path):
                raise Refused(
                    "BranchHoldsMore",
                    f"the branch also changes {change.path}, which is not of the request {name}",
                    "Keep the request on its branch, and put all else on a branch of its own.",
                )
        found = judge_requests(self._reader, state, {ref: new}, left_out=lambda _: True)
        for finding in found.findings:
            raise Refused(finding.reason, finding.message, REQUEST_FORM)
        judged = found.get(name)
        if judged and judged.verdict == "refused":
            raise Refused(judged.reason, judged.message, REQUEST_FORM)

    def _base(self, new: str) -> str:
        """The newest commit of main that `new` holds along first parents or through a merge of main."""
        best, oid = -1, new
        for _ in range(MAX_STEPS):
            if oid in self._positions:
                best = max(best, self._positions[oid])
                break
            parents = objects.parents_of(objects.raw_commit(self._reader, oid))
            best = max([best, *(self._positions[each] for each in parents if each in self._positions)])
            if not parents:
                break
            oid = parents[0]
        if best < 0:
            raise Refused(
                "BranchHoldsMore",
                f"{new[:12]} does not begin at main",
                "Begin it anew: git switch -c NAME main",
            )
        return next(oid for oid, at in self._positions.items() if at == best)

    # ---- heartbeats and names ----

    def _check_heartbeat(self, push: Push) -> None:
        machine = push.ref.removeprefix(HEARTBEATS)
        if push.new is None:
            raise Refused("HeartbeatRefused", "a heartbeat is replaced, never deleted", ASK_SERVER)
        info = objects.read_commit(self._reader, push.new)
        policy = policy_at(self._state.policy.document, self._now)
        try:
            signer = signer_of(policy, info.signed_payload, info.signature or "", sshsig.COMMIT)
        except sshsig.BadSignature as error:
            raise Refused("HeartbeatRefused", f"no machine of the policy signed it: {error}", BEAT) from None
        if signer != machine or not is_machine(policy, signer):
            message = f"signed by {signer}, expected the machine {machine[:80]!r}"
            raise Refused("HeartbeatRefused", message, BEAT)
        if info.parents:
            raise Refused("HeartbeatRefused", "its commit has parents", BEAT)

    def _check_name(self, ref: str) -> None:
        kind, other = ("tag", _HEADS) if ref.startswith(_TAGS) else ("branch", _TAGS)
        name = ref.removeprefix(_TAGS).removeprefix(_HEADS)
        if _SHADOWING.fullmatch(name.casefold()) or other + name in self._names:
            raise Refused(
                "RefShadows",
                f"the {kind} {name} could be taken for another branch, tag or commit",
                f"Give the {kind} another name: git push origin HEAD:{ref.removesuffix(name)}NAME",
            )


def _kept(push: Push, branch: str) -> str:
    """Where the branch would stand. Raises Refused when the push deletes it."""
    if push.new is None:
        raise Refused(
            "BranchDeleted", f"{branch} holds the history and is never deleted", "Leave it as it is."
        )
    return push.new
