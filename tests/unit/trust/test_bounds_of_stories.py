"""What the message of a commit of audit may say: each test stands for one check of the story, alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from capsule.trust.objects import CommitInfo, read_commit
from capsule.trust.story import MAX_CLOCK_SECONDS, BadStory, Said, check_not_later, check_story, check_time
from tests.evidence_history import CHAT, ChangeDesk, review
from tests.trust_history import NOON, History, service_text
from tests.unit.worlds import claim, refusal, request, result

REVISION = "a" * 40
REQUEST = request()
COMMITTED = datetime.fromtimestamp(NOON, UTC)
DAY = timedelta(seconds=MAX_CLOCK_SECONDS)
SECOND = timedelta(seconds=1)


def _commit(message: str = "x") -> CommitInfo:
    history = History.begun()
    oid = history.raw_commit(history.tree({}), [], at=NOON)
    return replace(read_commit(history, oid), message=message)


def _holds(subject: str, said: Said, statuses: Sequence[str] = ()) -> bool:
    lines = [f"Capsule-Request: {each}" for each in sorted(said.requests)]
    message = "\n".join([subject, "", *lines, f"Capsule-Revision: {REVISION}", ""])
    try:
        check_story(_commit(message), said, statuses, REVISION)
    except BadStory as error:
        reason = error.reason
    else:
        return True
    assert reason == "SubjectMismatch"
    return False


# ---- times --------------------------------------------------------------------------------------


def test_a_record_is_at_most_a_day_from_its_commit() -> None:
    for at in (COMMITTED - DAY, COMMITTED + DAY):
        check_time("claimedAt", at, _commit())
    for at in (COMMITTED - DAY - SECOND, COMMITTED + DAY + SECOND):
        with pytest.raises(BadStory, match="more than a day from"):
            check_time("claimedAt", at, _commit())


def test_a_record_that_waited_is_at_most_a_day_after_its_commit() -> None:
    for at in (COMMITTED - 9 * DAY, COMMITTED + DAY):
        check_not_later("recordedAt", at, _commit())
    with pytest.raises(BadStory, match="more than a day after"):
        check_not_later("recordedAt", COMMITTED + DAY + SECOND, _commit())


# ---- messages -----------------------------------------------------------------------------------


def test_the_last_line_of_a_message_ends_like_the_others() -> None:
    good = f"take in main {REVISION[:12]}\n\nCapsule-Revision: {REVISION}"
    check_story(_commit(f"{good}\n"), Said(), (), REVISION)
    for bad in (good, f"{good}x", f"{good}\n\n"):
        with pytest.raises(BadStory) as caught:
            check_story(_commit(bad), Said(), (), REVISION)
        assert caught.value.reason == "TrailerMismatch"


def test_several_statuses_are_counted() -> None:
    assert _holds("status of 2 services: x", Said(), ("mailer", "openai-chat"))
    assert not _holds("status of 3 services: x", Said(), ("mailer", "openai-chat"))
    assert not _holds("status of 1 services: x", Said(), ("mailer",))
    assert _holds("status mailer: x", Said(), ("mailer",))
    assert not _holds("status mailer: x", Said(), ("mailer", "openai-chat"))


REVIEWS = "r1: reviews of github pull request 12 recorded"


def _reviewed() -> Said:
    return Said(requests={"r1"}, attested={REVIEWS})


def test_reviews_that_stand_alone_are_told_as_they_are() -> None:
    assert _holds(REVIEWS, _reviewed())
    assert not _holds(REVIEWS.replace("12", "13"), _reviewed())


@pytest.mark.parametrize("kind", ["claimed", "ended", "ordered"])
def test_reviews_beside_another_record_say_that_there_is_more(kind: str) -> None:
    said = _reviewed()
    getattr(said, kind).append(("rotateKey", "openai-chat", "x"))
    assert not _holds(REVIEWS, said)
    assert _holds(f"{REVIEWS} (+1 more)", said)


def test_reviews_of_two_requests_say_that_there_are_more() -> None:
    both = Said(requests={"r1", "r2"}, attested={REVIEWS, REVIEWS.replace("r1", "r2")})
    assert not _holds(REVIEWS, both)
    assert _holds(f"{REVIEWS} (+1 more)", both)


ONE, TWO = ("rotateKey", "mailer", "succeeded"), ("rotateKey", "openai-chat", "succeeded")


def test_a_subject_that_counts_counts_all_there_is() -> None:
    said = Said(requests={"r1"}, ended=[ONE, TWO])
    assert _holds("rotateKey: 2 succeeded", said)
    for wrong in ("rotateKey: 1 succeeded", "rotateKey: 3 succeeded", "rotateKey: 2 failed"):
        assert not _holds(wrong, said)


def test_a_subject_that_says_there_is_more_may_tell_of_some_or_of_all_of_a_kind() -> None:
    said = Said(requests={"r1"}, ended=[ONE, TWO], claimed=[("rotateKey", "third", "claimed")])
    assert _holds("rotateKey: 1 succeeded (+2 more)", said)
    assert _holds("rotateKey: 2 succeeded (+1 more)", said)
    assert not _holds("rotateKey: 3 succeeded (+1 more)", said)


# ---- trailers -----------------------------------------------------------------------------------


def _names(said: Said, subject: str, *trailers: str) -> None:
    """Raise BadStory unless a commit that holds `said` may carry each of these trailers."""
    requests = [f"Capsule-Request: {each}" for each in sorted(said.requests)]
    for trailer in trailers:
        lines = [*requests, trailer, f"Capsule-Revision: {REVISION}"]
        check_story(_commit("\n".join([subject, "", *lines, ""])), said, (), REVISION)


def test_a_refusal_may_be_named_with_its_reason() -> None:
    said = Said()
    said.refusal(refusal(REQUEST))
    _names(said, "rotate-1: Rejected (NoRule)", "Capsule-Outcome: Rejected", "Capsule-Reason: NoRule")
    with pytest.raises(BadStory, match="Capsule-Reason"):
        _names(said, "rotate-1: Rejected (NoRule)", "Capsule-Reason: NotEntitled")


def test_a_result_may_be_named_with_all_that_it_tells() -> None:
    said = Said()
    said.result(claim(REQUEST), result(REQUEST))
    subject = "rotateKey openai-chat: succeeded"
    honest = (
        "Capsule-Service: openai-chat",
        "Capsule-Action: rotateKey",
        "Capsule-Outcome: succeeded",
        "Capsule-Reason: Done",
        "Capsule-Evidence: signature",
        "Requested-by: alice",
        "Approved-by: bob",
    )
    _names(said, subject, *honest)
    for trailer in honest:
        with pytest.raises(BadStory) as caught:
            _names(said, subject, f"{trailer}x")
        assert caught.value.reason == "TrailerMismatch"


def test_reviews_of_a_change_may_be_named_with_the_services_it_is_about() -> None:
    desk = ChangeDesk.of()
    desk.history.step({CHAT: service_text(model="gpt-6")})
    said = Said()
    said.change_attestation(desk.told(review("bob"), paths=(CHAT, "capsule.yaml")))
    subject = "change by github pull request 12: reviews recorded"
    _names(said, subject, "Capsule-Service: openai-chat", "Capsule-Evidence: forge")
    for wrong in ("Capsule-Service: mailer", "Capsule-Evidence: signature"):
        with pytest.raises(BadStory, match=wrong.partition(":")[0]):
            _names(said, subject, wrong)
