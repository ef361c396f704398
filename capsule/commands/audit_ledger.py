"""`capsule audit export` and `capsule audit report`: what is on record, as rows and as a report.

Rules kept: rows are made and written one after another, so that a history of any length needs the same memory
(the report holds the rows of its window); nothing here proves: the report says whether it was proved.
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
from capsule.trust.listings import Listings
from capsule.trust.mainline import BadRoot
from capsule.trust.objects import BadObject, MissingObject, NotDescended, first_parents
from capsule.view.ledger import Ledger
from capsule.view.ledger_rows import KeyAge, LedgerRow, Selection, chosen
from capsule.view.report import Proof, Report

Progress = Callable[[int, int], None]


class LedgerReading:
    """The rows of a repository, read once from the beginning; `ages` is known when all were taken."""

    def __init__(self, repository: Repository, selection: Selection, end: datetime) -> None:
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
                ledger = Ledger(reader, root)
                for oid in packed:
                    yield from chosen(ledger.step(oid.hex()), self._selection)
                yield from chosen(ledger.unfinished(), self._selection)
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
    proof = _proof(repository, progress) if prove else Proof(None, "It was made with --no-verify.")
    reading = LedgerReading(repository, selection, end)
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


def _proof(repository: Repository, progress: Progress | None) -> Proof:
    verdict = verify(repository, progress=progress)
    bad = verdict.first_bad
    first = f"{bad.commit}: {bad.message} [{bad.reason}]" if bad else ""
    return Proof(verdict.holds and verdict.origin_proved, in_words(verdict), first)
