"""What a step of main is, and what holds it back: each test stands for one check of mainline, alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capsule.trust.audit_walk import SeenOnWay
from capsule.trust.hearing import hear
from capsule.trust.key_validity import SeenOnAudit
from capsule.trust.mainline import advance, judge
from capsule.trust.state import MainState
from tests.evidence_history import REVIEWED_CHANGES, ChangeDesk, review
from tests.trust_history import (
    DEFAULT_RULES,
    SETTINGS,
    Audit,
    Files,
    History,
    first_files,
    key,
    policy_text,
    service_text,
)

CHAT, MAILER = "services/openai-chat.yaml", "services/test/mailer.yaml"
NEW = service_text(model="gpt-6")


def _reasons(state: MainState) -> dict[str, str]:
    return {change.path: change.reason for change in state.pending}


# ---- from where ---------------------------------------------------------------------------------


def test_a_rewound_main_is_noticed_by_what_was_judged_before() -> None:
    history = History.begun()
    rewound = history.step({"README.md": b"one\n"})
    history.step({"README.md": b"two\n"})
    known = history.judged()
    found = judge(history, history.root, rewound, known)
    assert found.suspended is not None
    assert (found.suspended.reason, found.tip) == ("HistoryRewritten", known.tip)
    mended = judge(history, history.root, history.tip, found)
    assert (mended.suspended, mended.findings) == (None, ())


def test_what_was_judged_of_another_root_is_not_gone_on_from() -> None:
    history = History.begun()
    other = History.begun(first_files() | {"README.md": b"Another.\n"})
    history.step({"README.md": b"one\n"})
    assert judge(history, history.root, history.tip, other.judged()) == history.judged()


# ---- what a step holds --------------------------------------------------------------------------


def test_a_folder_in_the_place_of_a_document_is_no_document() -> None:
    history = History.begun()
    history.step({"policy.yaml": None, "policy.yaml/x": b"x"}, by="bob")
    state = history.judged()
    assert state.suspended is not None
    assert (state.suspended.reason, state.tip) == ("PolicyMissing", history.tip)


def test_a_file_in_the_place_of_a_folder_holds_no_services() -> None:
    history = History.begun()
    history.step({CHAT: None, MAILER: None, "services": b"x"}, by="alice")
    state = history.judged()
    assert state.suspended is not None
    assert (state.suspended.reason, state.tip) == ("ServicesEmptied", history.tip)


def test_where_there_never_was_a_service_none_is_missed() -> None:
    files = {path: data for path, data in first_files().items() if not path.startswith("services/")}
    history = History.begun(files)
    history.step({"capsule.yaml": SETTINGS.replace(b"100", b"90")}, by="alice")
    state = history.judged()
    assert (state.suspended, state.services, state.pending) == (None, {}, ())


def _four(max_share: int = 25) -> Files:
    names = ("a", "b", "c", "d")
    services = {f"services/{name}.yaml": service_text(name, env="test") for name in names}
    kept = {path: data for path, data in first_files().items() if not path.startswith("services/")}
    return kept | services | {"capsule.yaml": SETTINGS.replace(b"100", b"%d" % max_share)}


def test_only_services_are_counted_among_services_that_are_gone() -> None:
    history = History.begun(_four())
    history.step({"services/a.yaml": None, "capsule.yaml": None}, by="alice")
    state = history.judged()
    assert (state.suspended, sorted(state.services)) == (None, ["b", "c", "d"])
    assert _reasons(state) == {"capsule.yaml": "SettingsMissing"}


@pytest.mark.parametrize(("share", "held"), [(50, False), (49, True)])
def test_so_large_a_share_of_the_services_goes_at_once_and_no_larger(share: int, held: bool) -> None:
    history = History.begun(_four(share))
    history.step({"services/a.yaml": None, "services/b.yaml": None}, by="alice")
    assert (history.judged().suspended is not None) == held


def test_one_service_may_always_go() -> None:
    history = History.begun(_four(1))
    history.step({"services/a.yaml": None}, by="alice")
    assert (history.judged().suspended, len(history.judged().services)) == (None, 3)


# ---- who speaks for a step ----------------------------------------------------------------------


def _suspended() -> History:
    history = History.begun()
    history.step({"policy.yaml": policy_text(2)}, by="mallory")
    return history


def test_a_commit_made_while_main_is_suspended_does_not_say_who_changes_the_policy() -> None:
    history = _suspended()
    text = policy_text(3)
    change = {"policy.yaml": (policy_text(), text)}
    history.step({"policy.yaml": text, **history.change_word("carol", change)}, by="bob")
    state = history.judged()
    (waiting,) = state.pending
    assert (waiting.signed, waiting.merged, waiting.authors) == (False, False, ())
    assert state.suspended is not None
    assert state.suspended.message.startswith("ChangeUnsigned")
    history.step(history.change_word("bob", change, "propose"))
    assert history.judged().policy.document.spec.serial == 3


def test_a_merge_made_while_main_is_suspended_does_not_say_who_let_the_policy_in() -> None:
    history = _suspended()
    history.step({"policy.yaml": policy_text(3)}, merge=True)
    (waiting,) = history.judged().pending
    assert (waiting.signed, waiting.merged) == (False, False)


def test_a_commit_is_signed_or_merged_and_never_both() -> None:
    for merge in (False, True):
        history = History.begun()
        history.step({CHAT: NEW}, by="alice", merge=merge)
        (waiting,) = history.judged().pending
        assert (waiting.signed, waiting.merged) == (not merge, merge)


# ---- what is told -------------------------------------------------------------------------------


def test_what_suspends_is_told_first_and_once_beside_what_waits() -> None:
    history = History.begun()
    history.step({CHAT: NEW}, by="alice")
    history.step({"policy.yaml": policy_text(2)}, by="mallory")
    state = history.judged()
    assert [(each.reason, each.path) for each in state.findings] == [
        ("PolicyNotAuthorised", "policy.yaml"),
        ("ApprovalsMissing", CHAT),
    ]


def test_what_suspends_goes_on_being_told_while_main_cannot_be_followed() -> None:
    history = _suspended()
    history.step({"status/x.yaml": b""})
    state = history.judged()
    assert [each.reason for each in state.findings] == ["MachinePathOnMain", "PolicyNotAuthorised"]
    history.step({"status/x.yaml": None})
    assert [each.reason for each in advance(history, state, history.tip).findings] == ["PolicyNotAuthorised"]


# ---- reviews at a forge -------------------------------------------------------------------------


def test_what_was_reviewed_while_main_was_suspended_comes_in_beside_what_waits() -> None:
    desk = ChangeDesk.of()
    good = desk.history.files["policy.yaml"]
    step = desk.history.step({CHAT: NEW, MAILER: service_text("mailer", env="test", model="m2")})
    desk.history.step({"policy.yaml": policy_text(serial=2)})
    desk.review(review("bob"), steps=(step,))
    desk.history.step({"policy.yaml": good})
    assert _reasons(desk.state()).keys() == {CHAT, MAILER}
    desk.history.step({"README.md": b"more\n"})
    assert _reasons(desk.state()) == {MAILER: "ChangeUnsigned"}


def test_reviews_of_other_steps_take_nothing_from_those_of_the_step_that_brought_a_change() -> None:
    rules = (REVIEWED_CHANGES[0].replace("count: 1", "count: 2"), *REVIEWED_CHANGES[1:])
    desk = ChangeDesk.of(rules=rules)
    step = desk.history.step({CHAT: NEW})
    desk.review(review("bob"))
    first = desk.state().pending[0].told
    other = desk.told(review("dave"), steps=(desk.history.root,))
    heard = hear(desk.history, desk.state(), other)
    assert heard == desk.state()
    assert (heard.pending[0].since, heard.pending[0].told) == (step, first)
    assert heard.pending[0].told is not None


def test_where_nothing_of_reviews_is_believed_main_is_judged_without_them() -> None:
    history = History.begun()
    history.step({CHAT: NEW}, by="alice")
    known = history.judged()
    assert judge(history, history.root, history.tip, known, SeenOnWay({})) == known


def _dated() -> History:
    line = f'"{key("mallory").public.text}"'
    window = f'{{key: {line}, validBefore: "2030-01-01T00:00:00Z"}}'
    desk = ChangeDesk.of()
    policy = desk.history.files["policy.yaml"].decode().replace(line, window)
    return History.begun(desk.history.files | {"policy.yaml": policy.encode()})


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("timed", [True, False])
def test_what_is_heard_is_judged_for_now_where_nobody_knows_when_the_step_was_seen(
    before: bool, timed: bool
) -> None:
    history = _dated() if timed else ChangeDesk.of().history
    desk = ChangeDesk(history, Audit(history))
    history.step({CHAT: NEW})
    unseen = SeenOnAudit(history, history.root, history.tip, None, None)
    waiting = replace(judge(history, history.root, history.tip), fleeting=before, seen=unseen)
    heard = hear(history, waiting, desk.told(review("bob")))
    assert heard.pending == ()
    assert heard.fleeting == (before or timed)


# ---- what it costs ------------------------------------------------------------------------------


def test_a_step_without_documents_judges_nothing_anew() -> None:
    history = History.begun(
        first_files()
        | {
            "policy.yaml": policy_text(
                rules=(
                    "{match: {change: service}, mayRequest: [operators], "
                    "approvals: [{team: reviewers, count: 2}]}",
                    DEFAULT_RULES[-1],
                )
            )
        }
    )
    history.step({CHAT: NEW, **history.change_word("bob", {CHAT: (service_text(), NEW)})}, by="alice")
    waiting = history.judged()
    history.step({"README.md": b"more\n"})
    before = history.reads
    state = advance(history, waiting, history.tip)
    assert state.pending == waiting.pending
    assert history.reads - before <= 6
