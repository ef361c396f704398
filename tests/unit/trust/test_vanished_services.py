"""Services that go at once: more than `limits.maxShare` of them is taken for an accident."""

from __future__ import annotations

from capsule.trust.mainline import advance
from tests.trust_history import SETTINGS, History, first_files, service_text

TEST = {f"services/test/s{number}.yaml": service_text(f"s{number}", env="test") for number in range(4)}
CAREFUL = SETTINGS.replace(b"maxShare: 100", b"maxShare: 50")


def begun() -> History:
    """Six services, half of which may go at once; whoever alice removes in env=test needs no approval."""
    return History.begun({**first_files(), **TEST, "capsule.yaml": CAREFUL})


def gone(*numbers: int) -> dict[str, bytes | None]:
    return {f"services/test/s{number}.yaml": None for number in numbers}


def test_up_to_the_share_services_may_go() -> None:
    history = begun()
    history.step(gone(0, 1, 2), by="alice")
    state = history.judged()
    assert (state.suspended, len(state.services)) == (None, 3)


def test_more_than_the_share_suspends_and_takes_nothing_away() -> None:
    history = begun()
    history.step(gone(0, 1, 2, 3), by="alice")
    state = history.judged()
    assert state.suspended is not None
    assert state.suspended.reason == "ServicesEmptied"
    assert "4 of 6 services are gone" in state.suspended.message
    assert len(state.services) == 6
    history.step({path: TEST[path] for path in gone(2, 3)}, by="alice")
    mended = advance(history, state, history.tip)
    assert mended.suspended is None


def test_a_document_that_moves_is_not_gone() -> None:
    history = begun()
    moved = {path.replace("test/", "moved/"): text for path, text in TEST.items()}
    history.step({**dict.fromkeys(TEST), **moved}, by="alice")
    state = history.judged()
    assert (state.suspended, len(state.services)) == (None, 6)


def test_one_service_may_always_go() -> None:
    history = History.begun({**first_files(), "capsule.yaml": SETTINGS.replace(b"100", b"1")})
    history.step({"services/test/mailer.yaml": None}, by="alice")
    state = history.judged()
    assert (state.suspended, set(state.services)) == (None, {"openai-chat"})
