"""Any one byte of any record is changed and committed over, by a person or with a reconciler's own key: the
verdict names that commit."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from capsule.cli import app
from capsule.documents.paths import AUDIT, MAIN, RECORDS
from capsule.store.api import Draft, Person, RefUpdate
from capsule.store.git import open_store
from capsule.trust.audit import AuditVerdict, verify_audit
from capsule.trust.objects import file_bytes, files, find, parse_commit
from capsule_agent.protocol import sshsig
from tests.agent_fixtures import key
from tests.town import Town

# Where in a record a byte is changed, and which bit: a low one gives another letter, a high one no text.
SPOILED = ((0.0, 1), (0.2, 0x80), (0.4, 1), (0.6, 0x80), (0.8, 1), (1.0, 0x80))
KINDS = (
    "claim-1.yaml",
    "claim-2.yaml",
    "result.yaml",
    "receipt.json",
    "receipt.json.sig",
    "refusal.yaml",
)


def eventful(town: Town) -> None:
    """A rotation, one that was taken over, one that the agent refused, one expired, one cancelled."""
    first = town.reconciler()
    town.settle(first)
    town.request("expired", expires="2026-11-23T11:00:00Z")
    town.request("refused", params={"grace": "soon"})
    town.settle(first)
    town.request("plain")
    town.settle(first)
    town.request("dropped", approved_by=())
    town.request("cancel-1", branch=True, approved_by=(), action="cancel", params={"request": "dropped"})
    town.settle(first)
    town.request("taken-over")
    town.transport.fail("http://openai-chat.invalid", "timeout before effect")
    while town.audit_subjects()[-1] != "rotateKey openai-chat: claimed":
        town.clock.advance(seconds=1)
        first.one_pass(patience=5.0)
    first.close()
    second = town.reconciler("reconciler-2")
    town.settle(second)
    town.clock.advance(minutes=6)
    town.settle(second)
    second.close()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = Town(tmp_path_factory.mktemp("town"))
    eventful(made)
    yield made
    made.close()


def records(town: Town) -> list[str]:
    """Paths of every record."""
    tip = town.tip(AUDIT)
    assert tip
    entry = find(town.store, parse_commit(town.store.read(tip)[1]).tree, RECORDS)
    assert entry
    return [f"{RECORDS}/{path}" for path, _ in files(town.store, entry.oid)]


def content(town: Town, path: str) -> bytes:
    tip = town.tip(AUDIT)
    assert tip
    data = file_bytes(town.store, parse_commit(town.store.read(tip)[1]).tree, path)
    assert data is not None
    return data


def commit_over(town: Town, path: str, data: bytes | None, who: str, base: str | None = None) -> str:
    """A commit on audit as an honest reconciler makes it but for its one edit; no ref is moved."""
    base = base or town.tip(AUDIT)
    assert base
    observed = parse_commit(town.store.read(base)[1]).trailers["Capsule-Revision"][-1]
    draft = Draft(
        base=base,
        edits={path: data},
        parents=[base],
        message=f"Nothing to see here\n\nCapsule-Revision: {observed}\n",
        author=Person(who, f"{who}@example.com"),
        at=town.clock.now(),
        sign=lambda text: key(who).sign(text, sshsig.COMMIT),
    )
    return town.store.write(draft)


def verdict(town: Town, audit: str | None) -> AuditVerdict:
    main = town.tip(MAIN)
    assert main
    return verify_audit(town.store, town.root, main, audit)


def changed(data: bytes, place: float, bits: int) -> bytes:
    at = min(int(len(data) * place), len(data) - 1)
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def test_the_honest_story_proves_and_has_records_of_every_kind(town: Town) -> None:
    found = verdict(town, town.tip(AUDIT))
    assert found.first_bad is None
    assert found.operations == 4
    assert {path.rpartition("/")[2] for path in records(town)} == set(KINDS)
    assert town.keys["openai-chat"].history == ["key-1", "key-2"]


@pytest.mark.parametrize(("who", "reason"), [("reconciler-1", "RecordChanged"), ("alice", "AuditByPerson")])
@pytest.mark.parametrize("kind", KINDS)
def test_one_changed_byte_of_any_record_is_named(town: Town, kind: str, who: str, reason: str) -> None:
    wanted = [path for path in records(town) if path.endswith(f"/{kind}")]
    assert wanted
    for path, (place, bits) in itertools.product(wanted, SPOILED):
        forged = commit_over(town, path, changed(content(town, path), place, bits), who)
        bad = verdict(town, forged).first_bad
        assert bad is not None, (path, place)
        assert (bad.commit, bad.reason) == (forged, reason), (path, place)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_is_deleted_shortened_or_lengthened_is_named(town: Town, kind: str) -> None:
    for path in (each for each in records(town) if each.endswith(f"/{kind}")):
        data = content(town, path)
        for edit in (None, b"", data[:-1], data + b"\n", data.replace(b"\n", b"\r\n") + b"\r\n"):
            forged = commit_over(town, path, edit, "reconciler-1")
            bad = verdict(town, forged).first_bad
            assert bad is not None, path
            assert bad.commit == forged
            assert bad.reason == ("RecordDeleted" if edit is None else "RecordChanged")


def test_a_change_that_is_taken_back_is_named_all_the_same(town: Town) -> None:
    path = next(each for each in records(town) if each.endswith("/result.yaml"))
    data = content(town, path)
    forged = commit_over(town, path, changed(data, 0.5, 1), "reconciler-1")
    healed = commit_over(town, path, data, "reconciler-1", forged)
    bad = verdict(town, healed).first_bad
    assert bad is not None
    assert bad.commit == forged


def test_the_command_ends_with_1_and_names_the_commit(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "state")], check=True)
    store = open_store(tmp_path / "state")
    town = Town(tmp_path, store)
    reconciler = town.reconciler()
    town.request()
    town.settle(reconciler)
    arguments = ["-C", str(tmp_path / "state"), "audit", "verify"]
    proved = CliRunner().invoke(app, [*arguments, "--root", town.root])
    assert (proved.exit_code, "1 operation proved" in proved.output) == (0, True), proved.output
    unproved = CliRunner().invoke(app, arguments)
    assert (unproved.exit_code, "consistent, origin unproved" in unproved.output) == (1, True)
    path = next(each for each in records(town) if each.endswith("/receipt.json"))
    tip = town.tip(AUDIT)
    forged = commit_over(town, path, changed(content(town, path), 0.5, 1), "reconciler-1")
    store.publish([RefUpdate(AUDIT, tip, forged)])
    told = CliRunner().invoke(app, [*arguments, "--root", town.root])
    assert told.exit_code == 1
    assert f"commit {forged}: " in told.output
    assert "[RecordChanged]" in told.output
    reconciler.close()
    town.close()
    store.close()
