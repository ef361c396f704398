"""The journal: one effect per operation whatever is asked in whatever order; and its own rules."""

from __future__ import annotations

import sqlite3
import stat
import tempfile
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from capsule_agent.journal import Journal, JournalError, Operation, Refused, service_of
from capsule_agent.protocol.messages import JournalMark
from tests.agent_fixtures import NOW, SERVICE, Ask, signers_list

REQUESTS = st.sampled_from(["one", "two", "three"])
TEXTS = st.sampled_from(["a\n", "b\n"])
ATTEMPTS = st.integers(1, 3)


def receipt(mark: JournalMark) -> str:
    return f"receipt at {mark.sequence}"


class JournalMachine(RuleBasedStateMachine):
    """Compares the journal with a model of plain sets, over restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "agent.db"
        self.journal = Journal(self.path, SERVICE)
        self.id = self.journal.id
        self.attempts: dict[str, int] = {}
        self.receipts: dict[str, str] = {}
        self.tombstones: set[str] = set()
        self.spent: dict[str, str] = {}
        self.running: str | None = None
        self.sequence = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    def expected(self, ask: Ask) -> str:
        """What the model says of an order: a reason, "receipt", "same" (still running) or "admitted"."""
        if ask.attempt < self.attempts.get(ask.op_id, 0):
            return "AttemptOutdated"
        if ask.op_id in self.tombstones:
            return "Tombstoned"
        if ask.op_id in self.receipts:
            return "receipt"
        if ask.op_id == self.running:
            return "same"
        if self.spent.get(ask.request, ask.op_id) != ask.op_id:
            return "RequestSpent"
        return "Busy" if self.running else "admitted"

    def outcome(self, ask: Ask) -> str:
        try:
            found = self.journal.admit(ask.order(), None, NOW)
        except Refused as refused:
            return refused.reason
        if found.receipt is not None:
            assert found.receipt == self.receipts[ask.op_id]
            return "receipt"
        return "same" if ask.op_id == self.running else "admitted"

    @rule(request=REQUESTS, text=TEXTS, attempt=ATTEMPTS)
    def admit(self, request: str, text: str, attempt: int) -> None:
        ask = Ask(request=request, text=text, attempt=attempt)
        expected = self.expected(ask)
        assert self.outcome(ask) == expected
        if expected == "admitted":
            self.running = ask.op_id
            self.spent[request] = ask.op_id
            self.attempts[ask.op_id] = attempt

    @rule(request=REQUESTS, text=TEXTS, attempt=ATTEMPTS)
    def refuse(self, request: str, text: str, attempt: int) -> None:
        ask = Ask(request=request, text=text, attempt=attempt)
        expected = self.expected(ask)
        stored = self.journal.refuse(ask.order(), receipt, NOW)
        if expected in ("admitted", "Busy"):
            assert stored is not None
            self.receipts[ask.op_id] = stored
            self.spent[request] = ask.op_id
            self.attempts[ask.op_id] = attempt
        else:
            assert stored == self.receipts.get(ask.op_id)

    @rule(request=REQUESTS, text=TEXTS, attempt=ATTEMPTS, tombstone=st.booleans())
    def fence(self, request: str, text: str, attempt: int, tombstone: bool) -> None:
        op_id = Ask(request=request, text=text).op_id
        if attempt < self.attempts.get(op_id, 0):
            with pytest.raises(Refused, match="has taken over"):
                self.journal.fence(op_id, attempt, tombstone, NOW)
            return
        found = self.journal.fence(op_id, attempt, tombstone, NOW)
        self.attempts[op_id] = attempt
        known = op_id in self.receipts or op_id == self.running or op_id in self.tombstones
        assert (found is not None) == (known or tombstone)
        if tombstone and not known:
            self.tombstones.add(op_id)

    @rule(step=st.sampled_from(["Prepared", "Effect"]))
    def advance(self, step: str) -> None:
        if self.running:
            self.journal.advance(self.running, step, NOW)

    @rule()
    def finish(self) -> None:
        if self.running:
            self.receipts[self.running] = self.journal.finish(self.running, receipt, NOW)
            assert self.journal.finish(self.running, lambda _: "another", NOW) == self.receipts[self.running]
            self.running = None

    @rule()
    def restart(self) -> None:
        self.journal = Journal(self.path, SERVICE)

    @invariant()
    def everything_is_remembered(self) -> None:
        state = self.journal.state()
        assert state.busy == self.running
        assert state.mark.id == self.id
        assert state.mark.sequence >= self.sequence
        self.sequence = state.mark.sequence
        for op_id, stored in self.receipts.items():
            found = self.journal.find(op_id)
            assert found is not None
            assert found.receipt == stored
        assert [found.op_id for found in self.journal.interrupted()] == (
            [self.running] if self.running else []
        )


JournalMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestJournal = JournalMachine.TestCase


def admit(journal: Journal, ask: Ask) -> Operation:
    return journal.admit(ask.order(), None, NOW)


def test_the_order_is_kept_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "agent.db", SERVICE)
    admit(journal, Ask())
    found = Journal(tmp_path / "agent.db", SERVICE).find(Ask().op_id)
    assert found is not None
    assert (found.order, found.step, found.started_at) == (Ask().order(), "Received", "2026-11-23T12:00:00Z")


def test_generations_only_rise_per_subject(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "agent.db", SERVICE)

    def tell(subject: str, generation: int) -> None:
        ask = Ask(request="", params={"generation": generation}, text=f"{subject}{generation}")
        journal.admit(ask.order(), subject, NOW)
        journal.finish(ask.op_id, receipt, NOW)

    tell("enabled", 5)
    tell("configure", 4)
    for late in (4, 5):
        ask = Ask(request="", params={"generation": late}, text="another")
        with pytest.raises(Refused) as caught:
            journal.admit(ask.order(), "enabled", NOW)
        assert caught.value.reason == "GenerationOutdated"
    tell("enabled", 6)


def test_a_newer_list_of_signers_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "agent.db", SERVICE)
    assert journal.signers() == (None, 0, None)
    journal.accept_signers(signers_list(5), 5, "r" * 40)
    journal.accept_signers(signers_list(4), 4, "r" * 40)
    assert journal.signers() == (signers_list(5), 5, "r" * 40)
    assert journal.state().repository == "r" * 40


def test_the_host_and_the_spec_disable_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "agent.db", SERVICE)
    journal.set_enabled("spec", by_host=False, now=NOW)
    journal.set_enabled("disk swap", by_host=True, now=NOW)
    assert journal.state().disabled_reason == "host: disk swap"
    journal.set_enabled(None, by_host=True, now=NOW)
    assert (journal.state().enabled, journal.state().disabled_reason) == (False, "spec")
    journal.set_enabled(None, by_host=False, now=NOW)
    assert (journal.state().enabled, journal.state().disabled_reason) == (True, "")


def test_every_change_is_synced_to_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "agent.db", SERVICE)
    with journal._connections.one() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA: the log at every commit
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_was_committed_is_in_the_files_at_once(tmp_path: Path) -> None:
    """A copy of the files, taken while the journal is open, is what a host that lost power finds."""
    journal = Journal(tmp_path / "agent.db", SERVICE)
    ask = Ask()
    journal.admit(ask.order(), None, NOW)
    found = tmp_path / "after"
    found.mkdir()
    for name in ("agent.db", "agent.db-wal"):
        (found / name).write_bytes((tmp_path / name).read_bytes())
    operation = Journal(found / "agent.db", SERVICE).find(ask.op_id)
    assert operation is not None
    assert operation.step == "Received"


def test_a_journal_written_the_older_way_is_taken_over(tmp_path: Path) -> None:
    older = Journal(tmp_path / "agent.db", SERVICE)
    ask = Ask()
    older.admit(ask.order(), None, NOW)
    with older._connections.one() as db:
        assert db.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    journal = Journal(tmp_path / "agent.db", SERVICE)
    assert journal.find(ask.op_id) == older.find(ask.op_id)
    with journal._connections.one() as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_only_its_owner_reads_the_journal(tmp_path: Path) -> None:
    Journal(tmp_path / "agent.db", SERVICE)
    assert stat.S_IMODE((tmp_path / "agent.db").stat().st_mode) == 0o600


def test_the_right_to_execute_has_one_holder(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "agent.db", SERVICE)
    with journal.running() as first:
        assert first
        with journal.running() as second:
            assert not second
    with journal.running() as third:
        assert third


def test_a_wait_for_the_right_to_execute_ends_when_it_is_free(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "agent.db", SERVICE)
    got: list[bool] = []

    def wait() -> None:
        with journal.running(lambda: 10.0) as held:
            got.append(held)

    with journal.running():
        waiting = threading.Thread(target=wait)
        waiting.start()
    waiting.join(10)
    assert got == [True]


def test_unusable_journals_are_named(tmp_path: Path) -> None:
    Journal(tmp_path / "agent.db", "other")
    with pytest.raises(JournalError, match="belongs to service 'other', not 'openai-chat'"):
        Journal(tmp_path / "agent.db", SERVICE)
    (tmp_path / "text").write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(JournalError, match="not a database; give the path of a Capsule journal"):
        Journal(tmp_path / "text", SERVICE)
    with pytest.raises(JournalError, match="give a writable path"):
        Journal(tmp_path / "missing" / "agent.db", SERVICE)
    with closing(sqlite3.connect(tmp_path / "later.db")) as db:
        db.executescript("CREATE TABLE t (x); PRAGMA user_version = 99;")
    with pytest.raises(JournalError, match="version 99, this program knows 1"):
        Journal(tmp_path / "later.db", SERVICE)
    with pytest.raises(JournalError, match="no such file"):
        service_of(tmp_path / "absent.db")
    with pytest.raises(JournalError, match="not a Capsule journal"):
        service_of(tmp_path / "text")


def test_a_taken_over_attempt_outlasts_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "agent.db", SERVICE)
    assert journal.fence(Ask().op_id, 2, False, NOW) is None
    with pytest.raises(Refused) as caught:
        admit(Journal(tmp_path / "agent.db", SERVICE), Ask())
    assert caught.value.reason == "AttemptOutdated"
    assert admit(journal, replace(Ask(), attempt=2)).attempt == 2
