"""Key rotation survives a crash at every line: a working key always, one switch at most, no orphan left."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from capsule_agent.builtin import rotation_action
from capsule_agent.execute import Executor
from capsule_agent.journal import Journal
from capsule_agent.protocol.messages import Receipt
from capsule_agent.rotation import DURATION, FoundKey, Rotation, Rotator, seconds
from capsule_agent.sensitive import Redactor
from capsule_agent.values import DeclarationError
from tests.agent_fixtures import NOW, SERVICE, Ask, KeyStore, key, read_receipt


class Crash(BaseException):
    """The process dies here."""


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class Countdown:
    """Crashes at the n-th time it is reached."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, _: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


def executor(path: Path, store: KeyStore, clock: Callable[[], datetime], **options: object) -> Executor:
    """What a process that has just begun holds; `options` go to the journal's write hook."""
    journal = Journal(path, SERVICE)
    redactor = Redactor(journal.fingerprint_secret)
    rotation = store.rotation()
    rotator = Rotator(rotation, journal, redactor, clock)
    return Executor(
        service=SERVICE,
        version="1",
        journal=journal,
        key=key("agent"),
        owners=lambda: (key("owner").public,),
        redactor=redactor,
        clock=clock,
        answer_within=20,
        actions={"rotateKey": rotation_action(rotation, rotator, 1, "signature")},
        rotator=rotator,
    )


def perform(run: Executor, ask: Ask) -> Receipt:
    receipt = run.perform(ask.order(), run.actions["rotateKey"], {"grace": ask.params["grace"]})
    assert receipt is not None
    return read_receipt(receipt)


def crash_after_writes(journal: Journal, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die right after the `at`-th transaction of this journal is on disk."""
    reached = Countdown(at)
    for name in ("advance", "finish", "admit"):
        whole = getattr(journal, name)

        def then_crash(*arguments: object, whole: Callable[..., object] = whole, **named: object) -> object:
            found = whole(*arguments, **named)
            reached()
            return found

        monkeypatch.setattr(journal, name, then_crash)
    change = journal.change

    class Change:
        def __init__(self, *arguments: object) -> None:
            self.inner = change(*arguments)  # type: ignore[arg-type]  # passed on as they came

        def __enter__(self) -> object:
            return self.inner.__enter__()

        def __exit__(self, *error: object) -> None:
            self.inner.__exit__(*error)  # type: ignore[arg-type]  # passed on as they came
            reached()

    monkeypatch.setattr(journal, "change", Change)


def assert_sound(store: KeyStore, grace: str) -> None:
    assert store.in_use in store.keys, "the service has no working key"
    assert len(store.history) <= 1, "switched twice for one operation"
    allowed = {store.in_use} | ({"key-0"} if grace != "0s" else set())
    assert set(store.keys) <= allowed, "an orphan was left"
    assert store.created <= 1


def restart_and_check(path: Path, store: KeyStore, clock: Clock, ask: Ask) -> Receipt:
    """A new process takes over: the operation ends, and the order sent again changes nothing."""
    run = executor(path, store, clock)
    run.settle_interrupted()
    run.rotator.revoke_due() if run.rotator else None
    assert run.journal.state().busy is None
    known = run.journal.find(ask.op_id)
    if known is None:
        return perform(run, ask)
    assert known.receipt is not None
    first = read_receipt(known.receipt)
    assert run.perform(ask.order(), run.actions["rotateKey"], {"grace": ask.params["grace"]}) == known.receipt
    return first


STEPS = [
    f"{when} {step}"
    for step in ("find", "create", "verify", "switch", "revoke")
    for when in ("before", "after")
]


@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
@pytest.mark.parametrize("grace", ["24h", "0s"])
@pytest.mark.parametrize("at", range(1, 12))
def test_a_crash_after_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, grace: str, tags: bool
) -> None:
    store, clock, ask = KeyStore(tags=tags), Clock(), Ask(params={"grace": grace})
    run = executor(tmp_path / "agent.db", store, clock)
    crash_after_writes(run.journal, at, monkeypatch)
    try:
        perform(run, ask)
        crashed = False
    except Crash:
        crashed = True
    receipt = restart_and_check(tmp_path / "agent.db", store, clock, ask)
    assert_sound(store, grace)
    assert (receipt.outcome == "succeeded") == (store.in_use != "key-0")
    assert crashed or at > 7, "the countdown was never reached"
    clock.now += timedelta(hours=25)
    executor(tmp_path / "agent.db", store, clock).rotator.revoke_due()  # type: ignore[union-attr]  # it has one
    assert set(store.keys) == {store.in_use}


@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
@pytest.mark.parametrize("grace", ["24h", "0s"])
@pytest.mark.parametrize("moment", STEPS)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_crash_around_every_step_of_the_adapter(
    tmp_path: Path, moment: str, nth: int, grace: str, tags: bool
) -> None:
    store, clock, ask = KeyStore(tags=tags), Clock(), Ask(params={"grace": grace})
    when, step = moment.split()
    reached = Countdown(nth)
    hook: Callable[[str], None] = lambda name: reached() if name == step else None  # noqa: E731 (typed)
    setattr(store, when, hook)
    run = executor(tmp_path / "agent.db", store, clock)
    with suppress(Crash):
        perform(run, ask)
    store.before = store.after = lambda _: None
    receipt = restart_and_check(tmp_path / "agent.db", store, clock, ask)
    assert_sound(store, grace)
    assert (receipt.outcome == "succeeded") == (store.in_use != "key-0")


@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
@pytest.mark.parametrize("moment", [m for m in STEPS if "find" not in m and "revoke" not in m])
def test_a_failure_around_every_step_is_rolled_back_or_finished(
    tmp_path: Path, moment: str, tags: bool
) -> None:
    store, clock, ask = KeyStore(tags=tags), Clock(), Ask()
    when, step = moment.split()

    def fail(name: str) -> None:
        if name == step:
            raise RuntimeError(f"refused with secret-of-key-1-{1:020}")

    setattr(store, when, fail)
    receipt = perform(executor(tmp_path / "agent.db", store, clock), ask)
    assert_sound(store, "24h")
    if moment == "after switch":
        assert (receipt.outcome, store.in_use) == ("succeeded", "key-1")
    else:
        assert (receipt.outcome, receipt.reason, set(store.keys)) == ("failed", "RolledBack", {"key-0"})
        assert "secret-of" not in receipt.message


def test_a_crash_while_rolling_back_is_finished(tmp_path: Path) -> None:
    for at in itertools.count(1):
        store, clock, ask = KeyStore(), Clock(), Ask()
        path = tmp_path / f"{at}.db"
        store.after = Countdown(2)  # dies right after create (find is the first)
        with pytest.raises(Crash):
            perform(executor(path, store, clock), ask)
        store.after = lambda _: None
        with pytest.MonkeyPatch.context() as patch:
            run = executor(path, store, clock)
            crash_after_writes(run.journal, at, patch)
            try:
                run.settle_interrupted()
                done = True
            except Crash:
                done = False
        receipt = restart_and_check(path, store, clock, ask)
        assert (receipt.outcome, set(store.keys)) == ("failed", {"key-0"})
        if done:
            break
    assert at > 2


def test_the_old_key_lives_through_its_grace(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)
    receipt = perform(run, Ask())
    assert receipt.outputs == {
        "keyId": "key-1",
        "previousKeyId": "key-0",
        "previousRevoked": False,
        "revokeAt": "2026-11-24T12:00:00Z",
    }
    assert run.rotator is not None
    clock.now += timedelta(hours=23, minutes=59)
    assert run.rotator.revoke_due() == pytest.approx(60)
    assert set(store.keys) == {"key-0", "key-1"}
    clock.now += timedelta(minutes=1)
    assert run.rotator.revoke_due() is None
    assert set(store.keys) == {"key-1"}
    assert run.journal.state().key_created_at == "2026-11-23T12:00:00Z"


def test_a_leak_also_ends_keys_still_in_their_grace(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)
    perform(run, Ask())
    receipt = perform(run, Ask(request="second", params={"grace": "0s"}))
    assert (receipt.outcome, receipt.outputs["previousRevoked"]) == ("succeeded", True)
    assert set(store.keys) == {"key-2"}


def test_a_key_that_came_back_into_use_is_not_revoked(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)
    perform(run, Ask())
    store.in_use = "key-0"
    clock.now += timedelta(days=2)
    assert run.rotator is not None
    assert run.rotator.revoke_due() is None
    assert "key-0" in store.keys


def test_nothing_is_revoked_while_no_key_is_shown_in_use(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)
    perform(run, Ask())
    store.in_use = "unknown"
    clock.now += timedelta(days=2)
    assert run.rotator is not None
    assert run.rotator.revoke_due() == pytest.approx(1)
    assert set(store.keys) == {"key-0", "key-1"}


def test_a_revocation_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)

    def fail(name: str) -> None:
        if name == "revoke":
            raise ConnectionError

    store.before = fail
    receipt = perform(run, Ask(params={"grace": "0s"}))
    assert (receipt.outcome, receipt.reason, store.in_use) == ("failed", "RevokeFailed", "key-1")
    store.before = lambda _: None
    clock.now += timedelta(seconds=2)
    assert run.rotator is not None
    assert run.rotator.revoke_due() is None
    assert set(store.keys) == {"key-1"}


def test_a_key_store_that_never_answers_leaves_a_doubt(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)

    def fail(name: str) -> None:
        if name == "verify" or (name == "find" and store.created):
            raise ConnectionError

    store.before = fail
    receipt = perform(run, Ask())
    assert (receipt.outcome, receipt.reason, store.in_use) == ("unknown", "KeyStoreUnreachable", "key-0")


def test_orphans_that_cannot_be_told_apart_are_left_to_a_person(tmp_path: Path) -> None:
    store, clock = KeyStore(tags=False), Clock()
    run = executor(tmp_path / "agent.db", store, clock)

    def another_appears(name: str) -> None:
        if name == "create":
            store.keys["by-hand"] = ""
            raise ConnectionError

    store.after = another_appears
    receipt = perform(run, Ask())
    assert (receipt.outcome, receipt.reason) == ("unknown", "OrphanAmbiguous")
    assert "by-hand" in store.keys


def test_a_switch_whose_end_nobody_knows_is_a_doubt(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)

    def lost(name: str) -> None:
        if name == "switch":
            store.in_use = "unreadable"
            raise OSError

    store.before = lost
    receipt = perform(run, Ask())
    assert (receipt.outcome, receipt.reason) == ("unknown", "InterruptedInSwitch")
    assert set(store.keys) == {"key-0", "key-1"}


@pytest.mark.parametrize("in_use", ["nobody", "both"])
def test_nothing_is_created_while_the_key_in_use_is_unclear(tmp_path: Path, in_use: str) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)
    found = [FoundKey("a", in_use == "both"), FoundKey("b", in_use == "both")]
    store.find = lambda: found  # type: ignore[method-assign]  # what this key store shows
    run = executor(tmp_path / "agent.db", store, clock)
    receipt = perform(run, Ask())
    assert (receipt.outcome, receipt.reason, store.created) == ("failed", "KeyInUseUnclear", 0)


def test_the_first_key_of_a_service_has_no_predecessor(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    store.keys.clear()
    receipt = perform(executor(tmp_path / "agent.db", store, clock), Ask())
    assert (receipt.outcome, receipt.outputs) == ("succeeded", {"keyId": "key-1"})


def test_an_id_that_holds_the_secret_is_refused(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)
    whole = store.create
    store_new = lambda tag: type(whole(tag))("key-1", "key-1")  # noqa: E731 (short)
    assert run.rotator is not None
    run.rotator._do = Rotation(store_new, store.verify, store.switch, store.revoke, store.find)
    receipt = perform(run, Ask())
    assert (receipt.outcome, set(store.keys)) == ("failed", {"key-0"})


@pytest.mark.parametrize("grace", ["3651d", "9999999d", "999999999h", "315360001s"])
def test_a_grace_beyond_all_measure_is_refused_before_anything_is_created(tmp_path: Path, grace: str) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)
    refused = read_receipt(run.order(Ask(params={"grace": grace}).envelope()))
    assert (refused.outcome, refused.reason) == ("refused", "ParamsInvalid")
    assert "at most 3650d" in refused.message
    assert (store.created, set(store.keys)) == (0, {"key-0"})
    with pytest.raises(DeclarationError, match="3650d"):
        store.rotation(grace)


def test_the_longest_grace_is_kept(tmp_path: Path) -> None:
    store, clock = KeyStore(), Clock()
    receipt = read_receipt(
        executor(tmp_path / "agent.db", store, clock).order(Ask(params={"grace": "3650d"}).envelope())
    )
    assert (receipt.outcome, receipt.outputs["revokeAt"]) == ("succeeded", "2036-11-20T12:00:00Z")


@pytest.mark.parametrize("moment", ["_record_switch", "_conclude"])
@pytest.mark.parametrize("lasting", [False, True])
def test_what_fails_after_the_switch_is_never_told_as_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, lasting: bool
) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)
    whole, failures = getattr(Rotator, moment), itertools.count()

    def fails(self: Rotator, *arguments: str) -> object:
        if lasting or next(failures) == 0:
            raise OverflowError
        return whole(self, *arguments)

    monkeypatch.setattr(Rotator, moment, fails)
    receipt = perform(run, Ask())
    assert store.in_use == "key-1"
    if lasting:
        assert (receipt.outcome, receipt.reason) == ("unknown", "InterruptedInEffect")
        assert "look which key is in use" in receipt.message
    else:
        assert (receipt.outcome, receipt.outputs["keyId"]) == ("succeeded", "key-1")


@pytest.mark.parametrize("step", ["find", "create", "verify", "switch", "revoke"])
def test_what_a_callback_raises_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    store, clock = KeyStore(), Clock()
    run = executor(tmp_path / "agent.db", store, clock)
    secret = "fresh-secret-nobody-was-handed"

    def fail(name: str) -> None:
        if name == step:
            try:
                raise ValueError(secret)
            except ValueError as error:
                raise RuntimeError(f"upstream said {secret}") from error

    store.before = fail
    with caplog.at_level(logging.DEBUG):
        perform(run, Ask(params={"grace": "0s"}))
    assert secret not in caplog.text
    assert "builtins.RuntimeError" in caplog.text
    assert "builtins.ValueError" in caplog.text
    assert f", in {step}" in caplog.text


def test_durations() -> None:
    assert [seconds(text) for text in ("0s", "90s", "5m", "24h", "2d")] == [0, 90, 300, 86400, 172800]
    assert not DURATION.fullmatch("1w")
    with pytest.raises(DeclarationError, match="duration"):
        KeyStore().rotation("soon")
