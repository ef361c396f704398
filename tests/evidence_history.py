"""Histories whose approvals are merges and reviews at a forge: honest ones, for tests to make hostile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from capsule.documents.codec import emit
from capsule.documents.paths import ChangeFolder, RequestFolder
from capsule.documents.types import Attestation, ChangeAttestation, Evidence, Review, Writer
from capsule.trust import objects
from capsule.trust.arrivals import Arrivals
from capsule.trust.attestations import ForgeFacts, attest
from capsule.trust.change_reviews import Origin, attest_change
from capsule.trust.key_validity import SeenOnAudit
from capsule.trust.mainline import judge
from capsule.trust.requests import judge_requests
from capsule.trust.state import JudgedRequest, MainState, SeenApproval
from tests.trust_history import (
    DEFAULT_RULES,
    Audit,
    Files,
    History,
    first_files,
    key,
    policy_text,
    request_text,
)

ACCOUNTS = {"alice": 101, "bob": 102, "carol": 103, "dave": 104, "mallory": 105}
SERVER, REPOSITORY = "https://github.com", "acme/state"
SETTINGS = (
    "apiVersion: capsule/v1\nkind: Capsule\nmetadata: {name: team}\nspec:\n  limits: {maxShare: 100}\n"
    f'  forge: {{kind: github, server: "{SERVER}", repository: {REPOSITORY}}}\n'
).encode()
FOLDER = RequestFolder("2026/11", "r1")
HEAD = "ab" * 20
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def policy_of(
    evidence: Evidence, count: int = 1, *, accounts: Mapping[str, int] | None = None, **more: Any
) -> bytes:
    """A policy whose rotations of production take `evidence`, with an account at the forge for everybody."""
    rule = (
        "{match: {action: rotateKey, selector: {env: prod}}, mayRequest: [operators], "
        f"approvals: [{{team: reviewers, count: {count}}}], evidence: {evidence}}}"
    )
    text = policy_text(rules=more.pop("rules", (rule, *DEFAULT_RULES)), **more).decode()
    for who, user in (ACCOUNTS if accounts is None else accounts).items():
        text = re.sub(rf"^(    {who}: {{)", rf"\1forge: {{github: {user}}}, ", text, flags=re.MULTILINE)
    return text.encode()


def files_of(policy: bytes) -> Files:
    return first_files() | {"policy.yaml": policy, "capsule.yaml": SETTINGS}


def review(who: str | int, state: str = "approved", *, after: int = 0, **said: Any) -> Review:
    """A review of the merged head by the account of `who`, `after` minutes after the others."""
    values: dict[str, Any] = {
        "id": 7000 + after,
        "user": who if isinstance(who, int) else ACCOUNTS[who],
        "login": str(who),
        "state": state,
        "commit": HEAD,
        "submitted_at": NOW - timedelta(hours=1) + timedelta(minutes=after),
        **said,
    }
    return Review(**values)


@dataclass
class Desk:
    """A history with the request r1, and what a reconciler recorded of its reviews."""

    history: History
    raw: bytes = field(default_factory=request_text)
    told: list[Attestation] = field(default_factory=list)

    @classmethod
    def of(cls, evidence: Evidence, count: int = 1, **more: Any) -> Desk:
        return cls(History.begun(files_of(policy_of(evidence, count, **more))))

    # ---- ways to main ----

    def side(self, edits: Mapping[str, bytes | None] | None = None, **options: Any) -> str:
        """A commit beside main that holds the request (or `edits`)."""
        files = self.history.edited(self.history.request(self.raw) if edits is None else edits)
        return self.history.raw_commit(self.history.tree(files), [self.history.tip], **options)

    def merge(
        self,
        who: str = "bob",
        *,
        sides: Sequence[str] | None = None,
        edits: Mapping[str, bytes | None] | None = None,
        by: str | None = None,
        **options: Any,
    ) -> str:
        """A merge of the request's branch by `who` (e-mail), signed by `by`; `edits` make it evil."""
        sides = [self.side()] if sides is None else sides
        files = self.history.edited(self.history.request(self.raw) if edits is None else edits)
        said = {"name": who, "email": f"{who}@example.com", **options}
        return self.history.commit(files, [self.history.tip, *sides], by=key(by) if by else None, **said)

    def squash(self, who: str = "bob") -> str:
        """One commit with the request, as the web page of a forge makes it."""
        return self.history.step(self.history.request(self.raw), email=f"{who}@example.com")

    # ---- reviews ----

    def attest(self, *reviews: Review, merged: str | None = None, **said: Any) -> Attestation:
        """Record reviews: the truth, unless a field of the document is overridden."""
        judged = self.judged()
        arrival = Arrivals(self.history).of(self.history.tip, judged.path, judged.blob)
        facts = ForgeFacts(
            forge="github",
            server=SERVER,
            repository=REPOSITORY,
            number=12,
            merged=merged or arrival or "0" * 40,
            head=HEAD,
            author=ACCOUNTS["alice"],
            paths={judged.path: judged.blob},
            reviews=reviews,
        )
        facts = replace(facts, **{name: said.pop(name) for name in ("author", "paths") if name in said})
        found = attest(
            judged,
            facts,
            policy=self.history.judged().policy.document,
            revision=self.history.tip,
            reconciler="reconciler-1",
            now=NOW,
        )
        found = found.model_copy(update={"spec": found.spec.model_copy(update=said)})
        self.told.append(found)
        return found

    def record(self, number: int = 1, **said: Any) -> dict[str, bytes | None]:
        """The file of the last attestation, its fields overridden."""
        last = self.told[-1]
        return {
            FOLDER.attestation(number): emit(
                last.model_copy(update={"spec": last.spec.model_copy(update=said)})
            )
        }

    # ---- the verdict ----

    def judged(self, now: datetime | None = None) -> JudgedRequest:
        told = {"r1": self.told}
        return judge_requests(self.history, self.history.judged(), attestations=told, now=now)["r1"]

    def seen(self) -> SeenApproval:
        """The one approval that was seen."""
        (found,) = self.judged().approvals
        return found

    def refused(self) -> str:
        """Why the one approval that was seen does not count: the request stays proposed."""
        judged = self.judged()
        assert (judged.verdict, judged.approved_by) == ("proposed", ())
        return self.seen().reason


# ---- changes of documents -----------------------------------------------------------------------

CHAT = "services/openai-chat.yaml"
REVIEWED_CHANGES = (
    "{match: {change: service, selector: {env: prod}}, mayRequest: [operators], "
    "approvals: [{team: reviewers, count: 1}], evidence: forge}",
    "{match: {change: service, selector: {env: test}}, mayRequest: [operators], approvals: [], "
    "evidence: forge}",
    "{match: {change: service, selector: {env: sealed}}, mayRequest: [operators], "
    "approvals: [{team: reviewers, count: 1}]}",
    "{match: {change: settings}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}], "
    "evidence: forge}",
    "{match: {change: policy}, mayRequest: [owners], approvals: [{team: owners, count: 1}], evidence: forge}",
)
RECORDED = (("Capsule-Evidence", "forge"),)


@dataclass
class ChangeDesk:
    """A history whose changes of documents are let in by reviews, and the audit branch that tells of them."""

    history: History
    audit: Audit
    last: ChangeAttestation | None = None
    known: MainState | None = None

    @classmethod
    def of(cls, *, rules: Sequence[str] = REVIEWED_CHANGES, **more: Any) -> ChangeDesk:
        others = tuple(rule for rule in DEFAULT_RULES if "change:" not in rule)
        policy = policy_of("forge", rules=(*rules, *others), **more)
        history = History.begun(files_of(policy))
        return cls(history, Audit(history))

    def told(
        self,
        *reviews: Review,
        paths: Sequence[str] = (CHAT,),
        steps: Sequence[str] = (),
        writers: Sequence[Writer] = (),
        bases: Mapping[str, str] | None = None,
        **said: Any,
    ) -> ChangeAttestation:
        """What the forge knows of the pull request that became the tip, unless told otherwise: alice's, and
        branched off before the first of `steps`."""
        blobs = {
            path: self.history.put("blob", self.history.files[path])
            for path in paths
            if path in self.history.files
        }
        steps = steps or (self.history.tip,)
        facts = ForgeFacts(
            forge="github",
            server=SERVER,
            repository=REPOSITORY,
            number=12,
            merged=said.pop("merged", steps[0]),
            head=HEAD,
            author=ACCOUNTS["alice"],
            paths=blobs,
            reviews=reviews,
        )
        found = attest_change(
            facts,
            Origin(
                writers or [Writer(user=ACCOUNTS["alice"])],
                self._before(steps[-1], paths) if bases is None else bases,
            ),
            policy=self.history.judged().policy.document,
            steps=steps,
            absent=[path for path in paths if path not in blobs],
            revision=self.history.tip,
            reconciler="reconciler-1",
            now=NOW,
        )
        self.last = found.model_copy(update={"spec": found.spec.model_copy(update=said)})
        return self.last

    def _before(self, step: str, paths: Sequence[str]) -> dict[str, str]:
        """The blob ids of `paths` at the parent of `step`."""
        history = self.history
        (parent, *_) = objects.parents_of(objects.raw_commit(history, step)) or (step,)
        tree = objects.tree_of(objects.raw_commit(history, parent))
        return {path: entry.oid for path in paths if (entry := objects.find(history, tree, path))}

    def record(self, *told: ChangeAttestation, number: int = 1, **options: Any) -> None:
        """A commit of audit with these attestations, numbered from `number` on."""
        edits: dict[str, bytes | None] = {
            ChangeFolder(options.pop("at", self.history.tip)).attestation(number + at): emit(each)
            for at, each in enumerate(told)
        }
        subject = options.pop("subject", None) or _reviews_recorded(told)
        self.audit.step(edits, subject=subject, trailers=RECORDED, **options)

    def review(self, *reviews: Review, number: int = 1, **said: Any) -> None:
        """What the forge knows, recorded at once."""
        self.record(self.told(*reviews, **said), number=number)

    def state(self) -> MainState:
        """Main as judged from the root, which is as it is judged on top of the last look."""
        history = self.history
        seen = SeenOnAudit(history, history.root, history.tip, self.audit.tip, NOW)
        anew = judge(history, history.root, history.tip, None, seen)
        self.known = judge(history, history.root, history.tip, self.known, seen)
        assert self.known == anew
        return anew

    def in_force(self, path: str = CHAT) -> bool:
        """Whether what the tree holds at `path` is in force."""
        return all(change.path != path for change in self.state().pending)

    def why(self) -> str:
        """Why the one change waits: its reason and its message."""
        (change,) = self.state().pending
        return f"{change.reason}: {change.message}"


def _reviews_recorded(told: Sequence[ChangeAttestation]) -> str:
    spec = told[0].spec
    more = f" (+{len(told) - 1} more)" if len(told) > 1 else ""
    return f"change by {spec.forge} pull request {spec.number}: reviews recorded{more}"
