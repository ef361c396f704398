"""The journal of an agent: what it was told, how far it got, what it answered; one SQLite file.

Rules kept: every step is on disk before the next begins; a sequence number that only
rises; steps Received → Prepared → Effect → Done; one running operation per service; an operation's receipt
is stored in the transaction that ends it, and never changes. Worker processes share the file: every change
is one `BEGIN IMMEDIATE` transaction, and whoever executes holds `<journal>.lock`. Called by execute,
rotation, report and the command line.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from capsule_agent.journal_connections import Connections
from capsule_agent.journal_lock import lock_within
from capsule_agent.journal_tables import TABLES, VERSION
from capsule_agent.protocol.messages import JournalMark, Order, SignersList, decode, encode, instant_text

RUNNING = ("Received", "Prepared", "Effect")
_ENTRY = "INSERT INTO entries (at, op_id, step) VALUES (?, ?, ?)"
_OPERATION = "SELECT op_id, step, attempt, order_text, started_at, receipt FROM operations WHERE"


class JournalError(Exception):
    """A journal that cannot be used; the text says why and what to do."""


class Refused(Exception):
    """An order that the journal's history forbids: `reason` is a code, the text is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as the journal knows it. `order` is None for a fence or a tombstone."""

    op_id: str
    step: str
    attempt: int
    order: Order | None
    started_at: str
    receipt: str | None


class Accepted(NamedTuple):
    """The list of signers that was accepted last, its serial (0 without one), and its repository."""

    signers: SignersList | None
    serial: int
    repository: str | None


@dataclass(frozen=True, slots=True)
class State:
    """All that a report says of the journal, read at one instant."""

    mark: JournalMark
    enabled: bool
    disabled_reason: str
    disabled_by_host: bool
    signers_serial: int
    repository: str | None
    busy: str | None
    key_created_at: str | None


class Journal:
    """The journal in the file `path`, made when it is missing. Safe for many threads and processes.

    Raises JournalError when the file is not a journal, of a later version, or of another service.
    """

    def __init__(self, path: str | os.PathLike[str], service: str) -> None:
        self.path = Path(path)
        self.service = service
        self._connections = Connections(self.path)
        self._prepare()
        with self._read() as db:
            self.id = _fact(db, "id") or ""
            self.fingerprint_secret = bytes.fromhex(_fact(db, "fingerprint_secret") or "")

    # ---- opening ------------------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise JournalError(f"journal {self.path}: {error.strerror}; give a writable path") from None
        try:
            with self._write() as db:
                self._check_or_create(db)
            self._connections.log_ahead()
        except sqlite3.DatabaseError as error:
            raise JournalError(f"journal {self.path}: {error}; give the path of a Capsule journal") from None

    def _check_or_create(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            for statement in TABLES.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
            _set_fact(db, "id", secrets.token_hex(16))
            _set_fact(db, "fingerprint_secret", secrets.token_hex(32))
            _set_fact(db, "service", self.service)
        elif version != VERSION:
            raise JournalError(f"journal {self.path}: version {version}, this program knows {VERSION}")
        found = _fact(db, "service")
        if found != self.service:
            raise JournalError(f"journal {self.path} belongs to service {found!r}, not {self.service!r}")

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._connections.one() as db:
            db.execute("BEGIN")
            yield db
            db.execute("ROLLBACK")

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._connections.one() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    @contextmanager
    def running(self, wait: Callable[[], float] = lambda: 0.0) -> Iterator[bool]:
        """Hold the right to execute; yields False when somebody else holds it `wait()` seconds long.

        The operating system lets go of the lock when its holder dies, so whoever gets it knows that an
        operation still marked as running was interrupted.
        """
        handle = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            yield lock_within(handle, wait)
        finally:
            os.close(handle)

    # ---- reading ------------------------------------------------------------------------------

    def state(self) -> State:
        """Everything a report says of the journal."""
        with self._read() as db:
            host = _fact(db, "disabled_by_host")
            spec = _fact(db, "disabled_by_spec")
            busy = db.execute("SELECT op_id FROM operations WHERE step IN (?, ?, ?)", RUNNING).fetchone()
            reason = f"host: {host}" if host is not None else (spec or "")
            return State(
                mark=JournalMark(self.id, _sequence(db)),
                enabled=host is None and spec is None,
                disabled_reason=reason,
                disabled_by_host=host is not None,
                signers_serial=int(_fact(db, "signers_serial") or 0),
                repository=_fact(db, "repository"),
                busy=busy and busy[0],
                key_created_at=_fact(db, "key_created_at"),
            )

    def find(self, op_id: str) -> Operation | None:
        """The operation, tombstone or fence of that id."""
        with self._connections.one() as db:
            return _operation(db, op_id)

    def interrupted(self) -> list[Operation]:
        """Operations marked as running; only for who holds `running`."""
        return [_read_operation(row) for row in self.rows(f"{_OPERATION} step IN (?, ?, ?)", *RUNNING)]

    def signers(self) -> Accepted:
        """The signers list last accepted."""
        names = ("signers", "signers_serial", "repository")
        found = dict(self.rows("SELECT name, value FROM facts WHERE name IN (?, ?, ?)", *names))
        text = found.get("signers")
        serial = int(found.get("signers_serial", 0))
        return Accepted(_signers_list(text) if text else None, serial, found.get("repository"))

    # ---- writing ------------------------------------------------------------------------------

    def accept_signers(self, found: SignersList, serial: int, repository: str) -> None:
        """Store a verified list, unless a newer one came in between."""
        with self._write() as db:
            if int(_fact(db, "signers_serial") or 0) <= serial:
                _set_fact(db, "signers", json.dumps(encode(found)))
                _set_fact(db, "signers_serial", str(serial))
                _set_fact(db, "repository", repository)

    def admit(
        self, order: Order, subject: str | None, now: datetime, *, then: Sequence[str] = ()
    ) -> Operation:
        """Enter a verified order as Received, or raise Refused.

        `subject` is what a desired-state order is about (its `generation` parameter only rises), None for
        an order with a request. `then`: steps to take in the same transaction, for a caller who does
        nothing between them that a crash could leave half done.
        """
        with self._write() as db:
            known = _operation(db, order.op_id)
            check_attempt(known, order.attempt)
            if known and known.step != "Fenced":
                if known.step == "Tombstoned":
                    raise Refused("Tombstoned", "the operation was cancelled before it began")
                return known
            if subject is not None:
                _raise_generation(db, subject, order.params["generation"])
            else:
                _check_unspent(db, order)
            if db.execute("SELECT 1 FROM operations WHERE step IN (?, ?, ?)", RUNNING).fetchone():
                raise Refused("Busy", "another operation is running on this service")
            return _insert(db, order, now, "Received", *then)

    def refuse(self, order: Order, sign: Callable[[JournalMark], str], now: datetime) -> str | None:
        """Refuse an order for good: its receipt is stored, so that the same order never runs later.

        The stored receipt; None when the operation or its request has a history already.
        """
        with self._write() as db:
            known = _operation(db, order.op_id)
            if known is not None and known.step != "Fenced":
                return known.receipt
            try:
                check_attempt(known, order.attempt)
                _check_unspent(db, order)
            except Refused:
                return None
            _insert(db, order, now, "Refused")
            receipt = sign(JournalMark(self.id, _sequence(db)))
            db.execute("UPDATE operations SET receipt = ? WHERE op_id = ?", (receipt, order.op_id))
            return receipt

    def advance(self, op_id: str, step: str, now: datetime) -> None:
        """Move a running operation to `step`."""
        with self._write() as db:
            _step(db, op_id, step, now)

    def finish(self, op_id: str, sign: Callable[[JournalMark], str], now: datetime) -> str:
        """End an operation: `sign` makes its receipt, which is stored with the step Done and returned."""
        with self._write() as db:
            known = db.execute("SELECT receipt FROM operations WHERE op_id = ?", (op_id,)).fetchone()
            if known and known[0] is not None:
                return str(known[0])
            receipt = sign(JournalMark(self.id, _enter(db, op_id, ["Done"], now)))
            db.execute("UPDATE operations SET step = 'Done', receipt = ? WHERE op_id = ?", (receipt, op_id))
            return receipt

    def fence(self, op_id: str, attempt: int, tombstone: bool, now: datetime) -> Operation | None:
        """Note that `attempt` asked: older ones are refused from now on. Raises Refused.

        With `tombstone` an operation not yet begun never will be. The operation as it was found before,
        None when it was never seen.
        """
        with self._write() as db:
            known = _operation(db, op_id)
            check_attempt(known, attempt)
            if known is None or known.step == "Fenced":
                step = "Tombstoned" if tombstone else "Fenced"
                db.execute(
                    "INSERT OR REPLACE INTO operations (op_id, step, attempt) VALUES (?, ?, ?)",
                    (op_id, step, attempt),
                )
                _enter(db, op_id, [step], now)
                return _operation(db, op_id) if tombstone else None
            if attempt > known.attempt:
                db.execute("UPDATE operations SET attempt = ? WHERE op_id = ?", (attempt, op_id))
            return known

    def set_enabled(self, reason: str | None, *, by_host: bool, now: datetime) -> None:
        """Disable with a reason, or enable with None; the host's word and the spec's are kept apart."""
        name = "disabled_by_host" if by_host else "disabled_by_spec"
        with self._write() as db:
            if reason is None:
                db.execute("DELETE FROM facts WHERE name = ?", (name,))
            else:
                _set_fact(db, name, reason)
            _enter(db, "", [f"{'Enabled' if reason is None else 'Disabled'}:{name}"], now)

    @contextmanager
    def change(self, op_id: str, step: str, now: datetime) -> Iterator[sqlite3.Connection]:
        """One durable change that is entered under `step`; for the parts of a rotation."""
        with self._write() as db:
            yield db
            _enter(db, op_id, [step], now)

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What one SELECT finds; for the parts of a rotation too."""
        with self._connections.one() as db:
            return db.execute(query, values).fetchall()


def check_attempt(known: Operation | None, attempt: int) -> None:
    """Raises Refused when a later attempt has asked before."""
    if known and attempt < known.attempt:
        raise Refused("AttemptOutdated", f"attempt {known.attempt} has taken over from attempt {attempt}")


def _check_unspent(db: sqlite3.Connection, order: Order) -> None:
    spent = db.execute(
        "SELECT 1 FROM operations WHERE repository = ? AND request = ? AND service = ? AND op_id <> ?",
        (order.repository, order.request, order.service, order.op_id),
    ).fetchone()
    if spent:
        raise Refused("RequestSpent", f"request {order.request} has run here with other content; ask anew")


def _raise_generation(db: sqlite3.Connection, subject: str, generation: int) -> None:
    row = db.execute("SELECT generation FROM generations WHERE subject = ?", (subject,)).fetchone()
    if row and generation <= row[0]:
        raise Refused("GenerationOutdated", f"generation {row[0]} was seen, {generation} is not above it")
    db.execute("INSERT OR REPLACE INTO generations VALUES (?, ?)", (subject, generation))


def _insert(db: sqlite3.Connection, order: Order, now: datetime, *steps: str) -> Operation:
    """Enter an order that has taken `steps`, all at once."""
    step = steps[-1]
    text = json.dumps(encode(order))
    db.execute(
        "INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        (
            *(order.op_id, step, order.attempt, order.repository, order.request, order.service),
            *(text, instant_text(now)),
        ),
    )
    _enter(db, order.op_id, steps, now)
    return Operation(order.op_id, step, order.attempt, order, instant_text(now), None)


def _operation(db: sqlite3.Connection, op_id: str) -> Operation | None:
    row = db.execute(f"{_OPERATION} op_id = ?", (op_id,)).fetchone()
    return row and _read_operation(row)


def _read_operation(row: Sequence[Any]) -> Operation:
    order = decode(Order, row[3].encode()) if row[3] else None
    return Operation(row[0], row[1], row[2], order, row[4] or "", row[5])


def _step(db: sqlite3.Connection, op_id: str, step: str, now: datetime) -> None:
    db.execute("UPDATE operations SET step = ? WHERE op_id = ? AND step <> 'Done'", (step, op_id))
    _enter(db, op_id, [step], now)


def _enter(db: sqlite3.Connection, op_id: str, steps: Sequence[str], now: datetime) -> int:
    """The sequence number of the last of `steps`."""
    *earlier, last = [(instant_text(now), op_id, step) for step in steps]
    if earlier:
        db.executemany(_ENTRY, earlier)
    entered = db.execute(_ENTRY, last)
    assert entered.lastrowid is not None
    return entered.lastrowid


def _sequence(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(sequence), 0) FROM entries").fetchone()[0])


def _fact(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return row and str(row[0])


def _set_fact(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


@lru_cache(maxsize=8)
def _signers_list(text: str) -> SignersList:
    return decode(SignersList, text.encode(), max_bytes=2**22)


def service_of(path: str | os.PathLike[str]) -> str:
    """The service that the journal at `path` belongs to. Raises JournalError."""
    if not Path(path).is_file():
        raise JournalError(f"journal {path}: no such file; give the one the agent was declared with")
    try:
        with closing(sqlite3.connect(Path(path).absolute().as_uri() + "?mode=ro", uri=True)) as db:
            return _fact(db, "service") or ""
    except sqlite3.DatabaseError:
        raise JournalError(f"journal {path}: not a Capsule journal") from None
