"""`capsule audit export` and `capsule audit report`: what is on record, as rows and as a report.

Rules kept: rows are made and written one after another, so that a history of any length needs the same memory
(the report holds the rows of its window); nothing here proves: the report says whether it was proved;
rows that rest on another main than the one judged by the proof, or anew, are told to be wrong, in an error.
Called by capsule.cli.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime

from capsule.commands.audit import audit_tip, in_words, verify
from capsule.commands.audit_ahead import Ahead
from capsule.commands.errors import CommandError
from capsule.commands.repository import Repository
from capsule.trust.audit import AuditVerdict
from capsule.trust.key_validity import SeenOnAudit
from capsule.trust.listings import Listings
from capsule.trust.mainline import BadRoot, judge
from capsule.trust.objects import (
    BadObject,
    MissingObject,
    NotDescended,
    first_parents,
    read_commit,
)
from capsule.trust.state import MainState
from capsule.view.ledger import Ledger
from capsule.view.ledger_main import OBSERVED
from capsule.view.ledger_rows import KeyAge, LedgerRow, Selection, chosen
from capsule.view.report import Proof, Report

Progress = Callable[[int, int], None]


class LedgerReading:
    """The rows of a repository, read once from the beginning; `ages` is known when all were taken."""

    def __init__(
        self, repository: Repository, selection: Selection, end: datetime, proved: MainState | None = None
    ) -> None:
        """`proved` is main as a proof that holds judged it at the end of audit."""
        self._proved = proved
        self._repository = repository
        self._selection = selection
        self._end = end
        self.ages: tuple[KeyAge, ...] = ()

    def rows(self) -> Iterator[LedgerRow]:
        """The rows that are wanted, in the order of the history. Raises CommandError, SetUpProblem."""
        repository, root = self._repository, self._repository.root
        tip = audit_tip(repository)
        with closing(Ahead(repository.store.git_folder, repository.store, processes=0)) as ahead:
            reader = Listings(ahead)
            try:
                ahead.line(tip, root)
                packed = [bytes.fromhex(oid) for oid in first_parents(reader, tip, root)]
                packed.reverse()
                ahead.steps(bytes.fromhex(root) + b"".join(packed))
                ledger = Ledger(reader, root, repository.main, self._selection.until)
                for oid in packed:
                    yield from chosen(ledger.step(oid.hex()), self._selection)
                yield from chosen(ledger.unfinished(), self._selection)
                observed = read_commit(reader, tip).trailers.get(OBSERVED, ())[-1:]
                if self._proved:
                    _require_same(ledger.state, self._proved)
                elif observed and not _was_rewound(ledger.state, observed[0]):
                    seen = SeenOnAudit(reader, root, observed[0], tip, repository.now)
                    _require_same(ledger.state, judge(reader, root, observed[0], seen=seen))
            except MissingObject as error:
                raise repository.missing(error) from None
            except (BadObject, BadRoot, NotDescended) as error:
                reason = error.reason if isinstance(error, BadObject) else "AuditRewritten"
                raise CommandError(
                    reason,
                    f"this history cannot be read: {error}",
                    "capsule audit verify names the first bad commit",
                ) from None
        self.ages = tuple(key for key in ledger.keys(self._end) if self._selection.selects(key.labels))


def _was_rewound(state: MainState, observed: str) -> bool:
    """Whether main was replaced: a row says so, and what came later cannot be told by any main there is."""
    suspended = state.suspended
    return observed != state.tip and suspended is not None and suspended.reason == "HistoryRewritten"


def _require_same(told: MainState, judged: MainState) -> None:
    """What labels and exceptions were told by (`told`) is main as it was `judged`, document by document.

    Raises CommandError.
    """
    wrong = next(_differences(told, judged), None)
    if wrong:
        raise CommandError(
            "LedgerBehind",
            f"the rows told here rest on another main than the one that audit observed: {wrong}",
            "capsule audit verify names the first bad commit. If it finds none, this is a defect of Capsule.",
        )


def _differences(told: MainState, judged: MainState) -> Iterator[str]:
    if told.tip != judged.tip:
        yield f"they end at {told.tip}, and audit observed {judged.tip}"
    if told.suspended != judged.suspended:
        found = told.suspended or judged.suspended
        yield f"one of them is suspended, the other is not, or not for this: {found.message if found else ''}"
    mine, theirs = _documents(told), _documents(judged)
    for path in sorted(mine.keys() | theirs.keys()):
        if mine.get(path) != theirs.get(path):
            yield f"{path} is in force as {mine.get(path)} and as {theirs.get(path)}"


def _documents(state: MainState) -> dict[str, str]:
    """The digest of every document in force, by its path."""
    found = {each.path: each.digest for each in (state.policy, state.settings)}
    return found | {each.path: each.digest for each in state.services.values()}


def report(
    repository: Repository,
    selection: Selection,
    now: datetime,
    *,
    prove: bool = True,
    progress: Progress | None = None,
) -> Report:
    """The report on a window, with the proof of the whole history unless told otherwise."""
    end = selection.until or now
    verdict = verify(repository, progress=progress) if prove else None
    proof = _proof(verdict) if verdict else Proof(None, "It was made with --no-verify.")
    proved = verdict.state if verdict and verdict.holds else None
    reading = LedgerReading(repository, selection, end, proved)
    rows = tuple(reading.rows())
    return Report(
        title=": ".join(filter(None, ("Audit report", repository.state.settings.document.spec.title))),
        root=repository.root,
        main=repository.main,
        audit=audit_tip(repository),
        selection=selection,
        end=end,
        proof=proof,
        rows=rows,
        keys=reading.ages,
    )


def _proof(verdict: AuditVerdict) -> Proof:
    bad = verdict.first_bad
    first = f"{bad.commit}: {bad.message} [{bad.reason}]" if bad else ""
    return Proof(verdict.holds and verdict.origin_proved, in_words(verdict), first)
