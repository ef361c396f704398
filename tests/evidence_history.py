"""Histories whose approvals are merges and reviews at a forge: honest ones, for tests to make hostile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from capsule.documents.codec import emit
from capsule.documents.paths import RequestFolder
from capsule.documents.types import Attestation, Evidence, Review
from capsule.trust.attestations import ForgeFacts, attest
from capsule.trust.merges import Arrivals
from capsule.trust.requests import judge_requests
from capsule.trust.state import JudgedRequest, SeenApproval
from tests.trust_history import DEFAULT_RULES, Files, History, first_files, key, policy_text, request_text

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
        found = attest(judged, facts, revision=self.history.tip, reconciler="reconciler-1", now=NOW)
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
