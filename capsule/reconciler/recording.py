"""Commits on audit: facts become documents, a subject for people and trailers for programs.

Rules kept: one commit per batch of facts, never an empty one; a new main tip is taken in as second parent;
records are created, never rewritten; the ref moves by compare-and-swap at the authority, and a lost race
is an exception that throws the batch away. Called by the reconciler alone.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from capsule.documents.codec import emit
from capsule.documents.digests import bytes_digest
from capsule.documents.paths import AUDIT, CHANGES, RECORDS, RequestFolder, status_path
from capsule.documents.secrets import redacted
from capsule.documents.types import (
    API_VERSION,
    Claim,
    ClaimSpec,
    Metadata,
    Refusal,
    RefusalSpec,
    Result,
    ResultOutcome,
    ResultSpec,
    Scalar,
    ServiceStatus,
)
from capsule.lifecycle import RequestRecords
from capsule.reconciler.context import about
from capsule.reconciler.watcher import Fact, Unwatched, Watcher, facts_of
from capsule.store.api import Draft, Person, PushUnclear, RefMoved, RefUpdate, Store, StoreError
from capsule.trust.objects import BadObject, MissingObject, find, read_commit
from capsule.trust.state import JudgedRequest
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Receipt, instant

log = logging.getLogger("capsule.reconciler")
OBSERVED = "Capsule-Revision"
MOST_FACTS = 500
"""Facts in one commit: readers refuse a commit object above 1 MiB."""
Words = tuple[str, str, str]
"""Action, service, and what is to be said of it."""
_COMMIT_ID = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Tips:
    """Where audit stands, and the main tip it has taken in."""

    audit: str | None
    observed: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What one commit says: documents by path, parents beside the first, subject, trailers."""

    edits: Mapping[str, bytes | None] = field(default_factory=dict)
    subject: str = ""
    trailers: Sequence[tuple[str, str]] = ()
    parents: Sequence[str] = ()


def claim_facts(claims: Iterable[tuple[RequestFolder, Claim]], parents: Sequence[str]) -> Facts:
    """All claims of a pass, as one commit."""
    pairs = list(claims)
    edits = {folder.claim(item.spec.service, item.spec.attempt): emit(item) for folder, item in pairs}
    trailers = [pair for _, item in pairs for pair in _claim_trailers(item.spec)]
    return Facts(
        edits, told_of([(i.spec.action, i.spec.service, "claimed") for _, i in pairs]), trailers, parents
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result with the receipt that proves it (payload bytes and armored signature, or neither)."""

    folder: RequestFolder
    claim: Claim
    result: Result
    receipt: bytes | None = None
    signature: str | None = None


def result_facts(outcomes: Sequence[Outcome]) -> Facts:
    """All results of a pass, as one commit."""
    edits: dict[str, bytes | None] = {}
    for item in outcomes:
        service = item.result.spec.service
        edits[item.folder.result(service)] = emit(item.result)
        if item.receipt is not None and item.signature is not None:
            edits[item.folder.receipt(service)] = item.receipt
            edits[item.folder.receipt_signature(service)] = item.signature.encode()
    trailers = [
        pair
        for item in outcomes
        for pair in (
            *_claim_trailers(item.claim.spec),
            ("Capsule-Outcome", item.result.spec.outcome),
            ("Capsule-Reason", item.result.spec.reason),
        )
    ]
    return Facts(edits, told_of(result_words(outcomes)), trailers)


def result_words(outcomes: Sequence[Outcome]) -> list[Words]:
    """Action, service and outcome of each."""
    return [
        (item.result.spec.action, item.result.spec.service, item.result.spec.outcome) for item in outcomes
    ]


def refusal_facts(judged: JudgedRequest, refusal: Refusal, records: RequestRecords | None) -> Facts:
    """The end of a request that is not executed (any further), beside its records if there are any."""
    folder = records.folder if records else folder_of(judged)
    spec = refusal.spec
    trailers = [
        ("Capsule-Request", spec.request),
        ("Capsule-Outcome", spec.phase),
        ("Capsule-Reason", spec.reason),
    ]
    if judged.document:
        trailers.insert(1, ("Capsule-Action", judged.document.spec.action))
        trailers.append(("Requested-by", judged.document.spec.requested_by))
    # The text that was refused must stay provable, so a branch that main never had becomes a parent.
    parents = [judged.revision] if judged.source == "branch" else []
    subject = f"{spec.request}: {spec.phase} ({spec.reason})"
    return Facts({folder.refusal: emit(refusal)}, subject, trailers, parents)


def status_facts(changes: Sequence[tuple[str, ServiceStatus, str]]) -> Facts:
    """Changes of status (path of the service's document, status, subject), as one commit."""
    edits = {status_path(path): emit(status) for path, status, _ in changes}
    trailers = [("Capsule-Service", status.metadata.name) for _, status, _ in changes]
    subjects = [subject for _, _, subject in changes]
    words = Counter(status.spec.effective_status for _, status, _ in changes)
    summary = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
    return Facts(
        edits,
        subjects[0] if len(subjects) == 1 else f"status of {len(subjects)} services: {summary}",
        trailers,
    )


def joined(parts: Sequence[Facts]) -> Facts:
    """Several batches as one commit; the first subject stands, the others follow in the body's trailers."""
    edits = {path: data for part in parts for path, data in part.edits.items()}
    trailers = [pair for part in parts for pair in part.trailers]
    parents = [parent for part in parts for parent in part.parents]
    subjects = [part.subject for part in parts]
    subject = subjects[0] if len(subjects) == 1 else f"{subjects[0]} (+{len(subjects) - 1} more)"
    return Facts(edits, subject, trailers, parents)


def make_refusal(
    judged: JudgedRequest,
    phase: Literal["Rejected", "Expired", "Cancelled"],
    reason: str,
    message: str,
    revision: str,
    now: datetime,
) -> Refusal:
    """The Refusal document for a request."""
    spec = RefusalSpec(
        request=judged.name,
        request_digest=judged.digest,
        phase=phase,
        reason=reason,
        message=message[:2000],
        observed_revision=revision,
        recorded_at=now,
    )
    return Refusal(api_version=API_VERSION, kind="Refusal", metadata=Metadata(name=judged.name), spec=spec)


def make_result(
    claim: Claim,
    outcome: ResultOutcome,
    reason: str,
    message: str,
    now: datetime,
    receipt: Receipt | None = None,
    payload: bytes | None = None,
    outputs: Mapping[str, Scalar] | None = None,
) -> Result:
    """The Result document for a claimed operation; `payload` are the signed bytes of the agent's receipt, or
    `outputs` those of a built-in action, which has none."""
    spec = claim.spec
    return Result(
        api_version=API_VERSION,
        kind="Result",
        metadata=Metadata(name=spec.request),
        spec=ResultSpec(
            request=spec.request,
            op_id=spec.op_id,
            service=spec.service,
            action=spec.action,
            attempt=receipt.attempt if receipt else spec.attempt,
            outcome=outcome,
            reason=reason,
            message=message[:500],
            outputs=outputs or plain_outputs(receipt),
            started_at=instant(receipt.started_at) if receipt and receipt.started_at else None,
            finished_at=instant(receipt.finished_at) if receipt and receipt.finished_at else None,
            recorded_at=now,
            receipt_digest=bytes_digest(payload) if payload is not None else None,
        ),
    )


def plain_outputs(receipt: Receipt | None) -> Mapping[str, str | int | bool]:
    """What an agent gave out, as far as records hold it; nothing without a receipt."""
    if receipt is None:
        return {}
    return {name: value for name, value in receipt.outputs.items() if isinstance(value, str | int | bool)}


def folder_of(judged: JudgedRequest) -> RequestFolder:
    """The folder of a judged request; its path was checked when it was judged."""
    folder = RequestFolder.of(judged.path)
    if folder is None:
        raise ValueError(f"{judged.path} is no request")
    return folder


class RecordExists(StoreError):
    """A record that was to be created is on audit already; nothing was written."""


class AuditBranch:
    """The machine's branch: writes facts as signed commits, moves the ref by compare-and-swap."""

    def __init__(
        self, store: Store, signer: sshsig.Signer, name: str, root: str, watcher: Watcher | None = None
    ) -> None:
        self._store = store
        self._watcher = watcher or Unwatched()
        self._signer = signer
        self._person = Person(name, f"{name}@reconciler.invalid")
        self._root = root
        self.own_word: set[str] = set()
        """The commits of its own that take main in, or record reviews of changes."""

    def tips(self) -> Tips:
        """Where audit stands now; observed is the root as long as there is no audit."""
        audit = self._store.refs(AUDIT).get(AUDIT)
        if audit is None:
            return Tips(None, self._root)
        try:
            observed = read_commit(self._store, audit).trailers.get(OBSERVED, ())
        except (BadObject, MissingObject):
            observed = ()
        known = bool(observed) and _COMMIT_ID.fullmatch(observed[-1])
        return Tips(audit, observed[-1] if known else self._root)

    def record(self, tips: Tips, facts: Facts, main: str, now: datetime) -> Tips:
        """Commit `facts` on `tips`, taking in the judged main tip `main` where it is new.

        Raises RefMoved when another reconciler was first: nothing was recorded then. An unclear push is
        settled by reading the remote.
        """
        takes_in = main != tips.observed
        first = tips.audit or self._root
        self._check_new(first, facts)
        if takes_in and not facts.subject:
            facts = replace(facts, subject=f"take in main {main[:12]}")
        parents = [first, *([main] if takes_in else []), *facts.parents]
        draft = Draft(
            base=first,
            edits=facts.edits,
            parents=list(dict.fromkeys(parents)),
            message=_message(facts, main),
            author=self._person,
            at=now,
            sign=lambda data: self._signer.sign(data, sshsig.COMMIT),
            overlay=main if takes_in else None,
        )
        commit = self._store.write(draft)
        if takes_in or any(path.startswith(f"{CHANGES}/") for path in facts.edits):
            self.own_word.add(commit)
        self._publish(tips.audit, commit)
        self._tell(commit, facts)
        return Tips(commit, main)

    def _tell(self, commit: str, facts: Facts) -> None:
        told = list(facts_of(facts.trailers))
        only = told[0] if len(told) == 1 else Fact()
        with about(request=only.request, service=only.service):
            log.info("audit %s: %s", commit[:12], facts.subject)
        self._watcher.recorded(commit, told)

    def _check_new(self, base: str, facts: Facts) -> None:
        """Records are created, never rewritten: whoever asks for that has a defect, or came too late."""
        tree = read_commit(self._store, base).tree
        for path in facts.edits:
            if path.startswith(f"{RECORDS}/") and find(self._store, tree, path):
                raise RecordExists(f"{path} is on record already")

    def _publish(self, old: str | None, commit: str) -> None:
        try:
            self._store.publish([RefUpdate(AUDIT, old, commit)])
        except PushUnclear as error:
            self._store.refresh()
            if self._store.refs(AUDIT).get(AUDIT) != commit:
                raise RefMoved(f"nothing was recorded: {error}") from None


def _message(facts: Facts, main: str) -> str:
    lines = [f"{name}: {value}" for name, value in (*facts.trailers, (OBSERVED, main))]
    return redacted(f"{facts.subject}\n\n" + "\n".join(lines) + "\n")


def _claim_trailers(spec: ClaimSpec) -> list[tuple[str, str]]:
    return [
        ("Capsule-Request", spec.request),
        ("Capsule-Service", spec.service),
        ("Capsule-Action", spec.action),
        ("Capsule-Evidence", spec.evidence),
        ("Requested-by", spec.requested_by),
        *(("Approved-by", name) for name in spec.approved_by),
    ]


def told_of(words: Sequence[Words]) -> str:
    """Such as "rotateKey openai-chat: succeeded", or "rotateKey: 3 succeeded, 1 failed"."""
    if len(words) == 1:
        action, service, outcome = words[0]
        return f"{action} {service}: {outcome}"
    parts = []
    for action in dict.fromkeys(word[0] for word in words):
        counts = Counter(outcome for name, _, outcome in words if name == action)
        parts.append(f"{action}: " + ", ".join(f"{count} {word}" for word, count in sorted(counts.items())))
    return "; ".join(parts)
