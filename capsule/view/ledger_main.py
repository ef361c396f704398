"""Main as the ledger follows it: how far each commit of audit takes it in, and which rows tell of that.

Rules kept: what counts as main, and when it was seen, is what the proof does, and a request's branch is no
step of it; what was not taken over, and what came into force on a forge's word or by a merge, is a row, each
once; labels that nobody can tell are None, which is not the same as empty. Memory grows with the services,
and by 20 bytes and their place for each step of main. Called by ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from capsule.documents.paths import service_name
from capsule.documents.types import Capsule, ChangeAttestation, Service
from capsule.trust.audit_chain import Chain
from capsule.trust.audit_walk import SeenOnWay
from capsule.trust.evidence import weakest
from capsule.trust.hearing import hear
from capsule.trust.mainline import advance, begin
from capsule.trust.objects import CommitInfo, ObjectReader
from capsule.trust.state import Finding, InForce, MainState, PendingChange
from capsule.view.ledger_rows import EXCEPTIONS, LedgerRow

OBSERVED = "Capsule-Revision"
"""The trailer in which a commit of audit names the point of main that it was made under."""


class MainFollowed:
    """Main, step after step as audit takes it in; `state` is how it was judged there."""

    def __init__(self, reader: ObjectReader, root: str, main: str) -> None:
        """`main` is its tip. Raises BadRoot, NotDescended, BadObject, MissingObject."""
        self._reader = reader
        self._positions = Chain.of(reader, main, root).positions()
        self._at = 0
        self._seen = SeenOnWay(self._positions)
        self.state: MainState = replace(begin(reader, root), seen=self._seen)
        self._told: set[tuple[str, str, str]] = set()
        self._unreviewed: dict[str, list[LedgerRow]] = {}

    def take_in(self, info: CommitInfo, at: datetime, commit: str) -> Iterator[LedgerRow]:
        """Main as far as this commit of audit takes it in, and what of it was not taken over."""
        self._seen.now = at
        for parent in [each for each in info.parents[1:] if self._is_step(each, info)]:
            position = self._positions.get(bytes.fromhex(parent), 0)
            if position > self._at:
                self._at = position
                self._seen.take_in(position)
            state = advance(self._reader, self.state, parent)
            before, self.state = self.state, state
            yield from self.still_unreviewed()
            yield from self._let_in(before, at, commit)
            for change in state.pending:
                rows = self._pending(change, at, commit)
                if change.takes_reviews:
                    self._unreviewed.setdefault(change.path, []).extend(rows)
                else:
                    yield from rows
            if state.suspended:
                yield from self._suspended(state.suspended, at, commit)

    def _is_step(self, parent: str, info: CommitInfo) -> bool:
        """Whether a parent is a point of main: one of its steps, or of a main that is gone, as the commit
        itself says. The others are requests' branches, often cut from main's tip."""
        return bytes.fromhex(parent) in self._positions or info.trailers.get(OBSERVED, ())[-1:] == (parent,)

    def branches(self, info: CommitInfo) -> list[str]:
        """The requests' branches that this commit of audit takes in."""
        return [parent for parent in info.parents[1:] if not self._is_step(parent, info)]

    def _pending(self, change: PendingChange, at: datetime, commit: str) -> Iterator[LedgerRow]:
        if self._is_new("ChangeNotAuthorised", change.path, f"{change.new} {change.reason}"):
            name = service_name(change.path) or ""
            yield LedgerRow(
                at,
                "exception",
                name,
                f"change {change.kind}",
                "not taken over",
                "ChangeNotAuthorised",
                f"{change.path}: {change.message or change.reason}",
                requested_by=", ".join(change.authors),
                approved_by=change.approved_by,
                evidence=weakest(change.evidence) or "",
                labels=self.labels(name),
                revision=change.since,
                commit=commit,
            )

    def still_unreviewed(self) -> Iterator[LedgerRow]:
        """Of the changes that waited for reviews, those that still wait: main has gone on without them."""
        waiting = {change.path for change in self.state.pending}
        for path in [path for path in self._unreviewed if path in waiting]:
            yield from self._unreviewed[path]
        self._unreviewed.clear()

    def _let_in(self, before: MainState, at: datetime, commit: str) -> Iterator[LedgerRow]:
        """What came into force on a forge's word, or by a merge."""
        new: list[tuple[str, InForce[Capsule] | InForce[Service]]] = []
        if self.state.settings is not before.settings:
            new.append(("", self.state.settings))
        if self.state.services is not before.services:
            services = self.state.services.items()
            new += [(name, each) for name, each in services if each is not before.services.get(name)]
        for name, document in new:
            evidence = weakest(document.evidence)
            if evidence in ("forge", "merge"):
                yield LedgerRow(
                    at,
                    "exception",
                    name,
                    "change service" if name else "change settings",
                    "taken over",
                    "WeakEvidence",
                    f"{document.path}: {EXCEPTIONS['WeakEvidence']}",
                    requested_by=", ".join(document.authors),
                    approved_by=document.approved_by,
                    evidence=evidence,
                    labels=self.labels(name),
                    revision=document.since,
                    commit=commit,
                )

    def reviewed(self, told: ChangeAttestation, at: datetime, commit: str) -> Iterator[LedgerRow]:
        """What a forge's word that is recorded there lets in."""
        before, self.state = self.state, hear(self._reader, self.state, told)
        yield from self._let_in(before, at, commit)

    def _suspended(self, finding: Finding, at: datetime, commit: str) -> Iterator[LedgerRow]:
        if self._is_new("MainSuspended", finding.commit, finding.reason):
            message = f"{finding.reason}: {finding.message}"
            yield LedgerRow(
                at,
                "exception",
                "",
                "",
                "suspended",
                "MainSuspended",
                message,
                revision=finding.commit,
                commit=commit,
            )

    def _is_new(self, *what: str) -> bool:
        key = (what[0], what[1], what[2])
        known = key in self._told
        self._told.add(key)
        return not known

    def labels(self, service: str) -> Mapping[str, str] | None:
        """The labels of a service in force; None where they are not known."""
        found = self.state.services.get(service)
        if found is None:
            return None if service else {}
        return dict(found.document.metadata.labels)
