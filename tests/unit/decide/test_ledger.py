"""Last words, acknowledgements and last changes follow from the records, all at once or piece by piece."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.decide import LastChange, LastWord, Ledger, read_ledger, why
from capsule.documents.scalars import instant_text
from capsule.lifecycle import Records, RequestRecords, StateRecords
from capsule.lifecycle.records import Month
from capsule.trust.last_words import last_word, unsettled
from tests.unit.decide.made import done, ordered, recorded, told
from tests.unit.worlds import claim, later, records, records_of, request, result

CHAT = "openai-chat"


def asked(action: str, name: str = "r", **spec: Any) -> Any:
    return request(name, spec={"action": action, **spec})


def word_of(made: Records) -> LastWord | None:
    return read_ledger(made).words.get(CHAT)


def test_a_request_that_succeeded_has_the_word() -> None:
    judged = asked("disable", "off-1")
    made = recorded(judged, done(judged, at=later(), outputs={"disabledReason": "request off-1: leaked"}))
    assert word_of(made) == LastWord("request", "disable", later(), "off-1", "leaked")


@pytest.mark.parametrize(
    ("action", "outcome", "counts"),
    [
        ("enable", "succeeded", True),
        ("enable", "unknown", False),
        ("disable", "unknown", True),
        ("disable", "failed", False),
        ("rotateKey", "succeeded", False),
    ],
)
def test_only_what_happened_or_may_have_disabled_counts(action: str, outcome: str, counts: bool) -> None:
    judged = asked(action)
    assert (word_of(recorded(judged, done(judged, outcome=outcome))) is not None) is counts


def test_state_orders_have_the_word_when_they_succeeded() -> None:
    assert word_of(told(ordered("disable", outcome="refused"))) is None
    assert word_of(told(ordered("disable", outcome=None))) is None
    found = word_of(told(ordered("disable", 1), ordered("enable", 2, at=later())))
    assert found == LastWord("state", "enable", later(seconds=5))
    assert not found.holds


@pytest.mark.parametrize(
    ("recorded", "done", "settles"),
    [(5, 5, True), (5, -5, False), (-5, 5, False), (5, 0, False), (0, 5, False), (-5, -5, False)],
)
def test_what_people_disabled_is_settled_by_what_came_later_by_both_clocks(
    recorded: int, done: int, settles: bool
) -> None:
    people = LastWord("request", "disable", later(), "off-1", finished=later())
    settling = LastWord("state", "disable", later(minutes=recorded), finished=later(minutes=done))
    assert last_word([settling, people]) == last_word([people, settling]) == (settling if settles else people)


@given(
    st.lists(
        st.builds(
            lambda by, action, at, done: LastWord(
                by, action, later(minutes=at), finished=later(minutes=done)
            ),
            st.sampled_from(["request", "state"]),
            st.sampled_from(["enable", "disable"]),
            st.integers(0, 6),
            st.integers(0, 6),
        ),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_what_is_settled_may_be_forgotten_in_any_order(words: list[LastWord], random: Any) -> None:
    kept: tuple[LastWord, ...] = ()
    for each in random.sample(words, len(words)):
        kept = unsettled((*kept, each))
    assert set(kept) == set(unsettled(words))
    found = last_word(words)
    again = last_word(kept)
    assert (again and again.rank) == (found and found.rank)
    assert found is None or found.holds or not any(each.holds for each in kept)


def test_when_the_agent_did_it_is_part_of_a_word() -> None:
    judged = asked("disable", "off-1")
    finished = instant_text(later(minutes=-1))
    made = word_of(recorded(judged, done(judged, at=later(), finishedAt=finished)))
    assert made is not None
    assert (made.at, made.done) == (later(), later(minutes=-1))
    assert LastWord("state", "enable", later()).done == later()


def test_the_newest_word_counts_and_a_tie_goes_to_the_request() -> None:
    judged = asked("disable", "off-1")
    at = later(minutes=-10)
    known = recorded(judged, done(judged, at=at))
    tie = word_of(told(ordered("enable", at=later(minutes=-10, seconds=-5)), known=known))
    assert tie is not None
    assert tie.holds
    after = word_of(told(ordered("enable", at=later(minutes=-9)), known=known))
    assert after is not None
    assert not after.holds


def test_why_is_the_reason_of_the_request_or_what_the_agent_repeated() -> None:
    judged = asked("disable", "off-1", reason="Leaked at 3 am")
    word = LastWord("request", "disable", later(), "off-1", "leaked")
    assert why(word, {"off-1": judged}) == "alice in off-1: Leaked at 3 am"
    assert why(word, {}) == "off-1: leaked"
    assert why(replace(word, why=""), {"off-1": replace(judged, document=None)}) == "off-1"


def test_acknowledgements_are_told_by_their_results() -> None:
    judged = asked("acknowledge")
    output = {"condition": "CorrectionStopped", "since": instant_text(later(minutes=-7))}
    ledger = read_ledger(recorded(judged, done(judged, at=later(), outputs=output)))
    assert ledger.acknowledged == {CHAT: {"CorrectionStopped": frozenset([later(minutes=-7)])}}
    assert ledger.acknowledged_at(CHAT, "CorrectionStopped") == later(minutes=-7)
    assert ledger.acknowledged_at(CHAT, "KeyChangedOutsideCapsule") is None
    assert ledger.acknowledged_at("other", "CorrectionStopped") is None
    assert ledger.last_change(CHAT) is None
    assert not read_ledger(recorded(judged, done(judged, outputs={**output, "condition": 7}))).acknowledged
    for since in ("soon", 7, True):
        lying = recorded(judged, done(judged, outputs={**output, "since": since}))
        assert read_ledger(lying).acknowledged_at(CHAT, "CorrectionStopped") is None
    before = recorded(judged, done(judged, outputs={"condition": "CorrectionStopped"}))
    assert read_ledger(before).acknowledged_at(CHAT, "CorrectionStopped") is None
    assert not read_ledger(recorded(judged, done(judged, outcome="failed", outputs=output))).acknowledged


def test_of_several_acknowledgements_each_counts_for_what_it_saw() -> None:
    first, second = asked("acknowledge", "a-1"), asked("acknowledge", "a-2")

    def output(minutes: int) -> dict[str, str]:
        return {"condition": "CorrectionStopped", "since": instant_text(later(minutes=minutes))}

    late = records_of(first, done(first, at=later(), outputs=output(-3)))
    early = records_of(second, done(second, at=later(hours=-2), outputs=output(-150)))
    ledger = read_ledger(records(late, early))
    assert ledger.acknowledged_at(CHAT, "CorrectionStopped") == later(minutes=-3)
    assert ledger.acknowledged[CHAT]["CorrectionStopped"] == {later(minutes=-3), later(minutes=-150)}


def test_the_last_change_is_what_may_have_changed_a_value() -> None:
    judged = asked("rotateKey")
    running = recorded(judged, replace(done(judged), result=None))
    known = read_ledger(running)
    op_id = claim(judged).spec.op_id
    assert known.last_change(CHAT) == LastChange(op_id, None)
    ended = read_ledger(recorded(judged, done(judged, at=later())), known)
    assert ended.last_change(CHAT) == LastChange(op_id, later())
    check = asked("runHealthCheck")
    assert read_ledger(recorded(check, done(check))).last_change(CHAT) is None
    order = ordered("configure", at=later())
    assert read_ledger(told(order)).last_change(CHAT) == LastChange(order.order.spec.op_id, later(seconds=5))
    assert read_ledger(told(ordered("configure", outcome=None))).last_change(CHAT) is not None
    assert read_ledger(told(ordered("disable"))).last_change(CHAT) is None


def test_a_result_without_claim_changes_nothing() -> None:
    judged = asked("rotateKey")
    bare = replace(done(judged), claims=())
    assert read_ledger(recorded(judged, bare)).last_change(CHAT) is None


def test_what_is_known_is_not_read_again() -> None:
    judged = asked("disable")
    made = recorded(judged, done(judged))
    known = read_ledger(made)
    assert read_ledger(made, known) is known


def month(*requests: RequestRecords, tree: str = "f" * 40) -> dict[str, Month]:
    return {"2026/11": Month(tree, {item.name: item for item in requests})}


def test_what_did_not_change_beside_something_new_is_kept() -> None:
    first, second = asked("disable", "a"), asked("enable", "b")
    one, two = records_of(first, done(first, at=later())), records_of(second, done(second, at=later(hours=1)))
    desired = told(ordered("configure")).desired
    known = read_ledger(Records("1" * 40, month(one), desired))
    more = {**known.records.months, "2026/12": Month("2" * 40, {"b": two})}
    found = read_ledger(Records("2" * 40, more, desired), known)
    assert found.words[CHAT].request == "b"
    assert found.last_change(CHAT) == read_ledger(found.records).last_change(CHAT)
    wider = {**desired, **told(ordered("disable", service="other")).desired}
    again = read_ledger(Records("3" * 40, more, wider), found)
    assert again.words["other"].by == "state"
    assert again.words[CHAT].request == "b"


def test_records_that_lost_something_are_read_anew() -> None:
    judged, other = asked("disable", "a"), asked("disable", "b")
    one, two = (
        records_of(judged, done(judged, at=later())),
        records_of(other, done(other, at=later(hours=-2))),
    )
    both = read_ledger(Records("1" * 40, month(one, two), told(ordered("disable")).desired))
    assert both.words[CHAT].request == "a"
    less = (
        Records("2" * 40, month(two, tree="2" * 40)),
        Records("3" * 40, month(two, records_of(judged, replace(done(judged), result=None)), tree="3" * 40)),
        Records("4" * 40, month(two, records_of(judged), tree="4" * 40)),
        Records("5" * 40, {"2026/12": Month("5" * 40, {"b": two})}),
        Records("6" * 40, month(one, two), {"openai-chat": StateRecords("6" * 40)}),
    )
    for rewound in less:
        assert read_ledger(rewound, both) == read_ledger(rewound)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("disable", "enable", "rotateKey", "acknowledge", "state")),
        st.sampled_from(("succeeded", "failed", "unknown")),
        st.integers(0, 5),
    ),
    max_size=8,
)


@given(EVENTS)
@settings(deadline=None)
def test_piece_by_piece_gives_what_all_at_once_gives(events: list[tuple[str, str, int]]) -> None:
    found: list[RequestRecords] = []
    orders = []
    known: Ledger | None = None
    whole = Records()
    for at, (action, outcome, minute) in enumerate(events):
        if action == "state":
            switch = "disable" if minute % 2 else "enable"
            orders.append(ordered(switch, at + 1, outcome, at=later(minutes=minute)))
        else:
            judged = asked(action, f"r{at}")
            outputs = {"condition": "CorrectionStopped"} if action == "acknowledge" else {}
            ended = done(judged, outcome=outcome, at=later(minutes=minute), outputs=outputs)
            found.append(records_of(judged, ended))
        whole = told(*orders, known=Records(f"{at:040d}", month(*found, tree=f"{at:040d}")))
        known = read_ledger(whole, known)
    again = read_ledger(whole)
    if known:
        assert known.words == again.words
        assert known.acknowledged == again.acknowledged
        assert known.changed == again.changed


def test_results_carry_what_the_tests_of_this_file_say() -> None:
    """A control: the builders make valid records."""
    assert result(request()).spec.outcome == "succeeded"
