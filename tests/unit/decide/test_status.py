"""Only what is material is recorded, with a subject a person can read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from capsule.decide import LastChange, LastWord, SetStatus, status_change
from capsule.documents.types import ServiceStatus
from capsule_agent.protocol.messages import HealthReport
from tests.unit.worlds import NOW, later, report, seen, service, signers, state

PINNED = service(pins={"model": "gpt-5.1", "version": "1.8.2"})
OP = "a" * 64
DONE = LastChange(OP, later(minutes=-1))


def change(observation: Any, before: ServiceStatus | None = None, **options: Any) -> SetStatus | None:
    main = options.pop("main", state(PINNED))
    target = options.pop("target", PINNED)
    return status_change(
        main, target, observation, before, options.pop("now", NOW), options.pop("last", None)
    )


def recorded(observation: Any, **options: Any) -> ServiceStatus:
    found = change(observation, **options)
    assert found is not None
    return found.status


def subject(observation: Any, before: ServiceStatus | None, **options: Any) -> str:
    found = change(observation, before, **options)
    assert found is not None
    return found.subject


def test_the_first_answer_is_recorded_and_the_same_again_is_not() -> None:
    found = change(seen())
    assert found is not None
    assert found.subject == "status openai-chat: HEALTHY (HealthUp)"
    again = seen(report=report(nonce="other", at="2026-11-23T12:05:00Z"), latency_ms=9)
    assert change(again, found.status, now=later(minutes=5)) is None


def test_an_answer_without_a_report_says_nothing_yet() -> None:
    assert change(seen(report=None)) is None


def test_nothing_is_recorded_before_the_first_probe() -> None:
    assert change(None) is None


def test_never_seen_is_recorded_once() -> None:
    silent = seen(ok=False, report=None, failing_since=NOW, message="no answer")
    before = recorded(silent)
    assert before.spec.effective_status == "UNKNOWN"
    assert change(silent, before) is None
    assert before.spec.health is None


def test_a_failure_within_its_grace_keeps_what_was_known() -> None:
    before = recorded(seen())
    failing = seen(ok=False, failing_since=NOW, reason="AgentTimeout")
    assert change(failing, before) is None


def test_offline_keeps_values_and_says_since() -> None:
    before = recorded(seen())
    gone = seen(ok=False, at=later(minutes=2), failing_since=NOW, reason="AgentTimeout", message="no answer")
    found = change(gone, before, now=later(minutes=2))
    assert found is not None
    assert found.subject == "status openai-chat: HEALTHY → OFFLINE (AgentTimeout)"
    assert found.status.spec.values == {"model": "gpt-5.1"}
    assert found.status.spec.since == later(minutes=2)
    assert found.status.spec.version == "1.8.2"


def drifted(model: Any = "gpt-5.2") -> Any:
    return seen(report=report(config={"model": model} if model else {}))


def test_drift_says_previous_value_and_desired() -> None:
    before = recorded(seen())
    assert subject(drifted(), before) == "drift openai-chat: model gpt-5.1 → gpt-5.2, desired gpt-5.1"


def test_drift_keeps_its_since_until_it_is_gone() -> None:
    first = recorded(drifted())
    (item,) = first.spec.drift
    assert (item.desired, item.observed, item.since) == ("gpt-5.1", "gpt-5.2", NOW)
    assert change(drifted(), first, now=later(hours=1)) is None
    assert subject(seen(), first, now=later(hours=1)) == "drift openai-chat: gone"


def test_a_pin_that_is_not_reported_or_not_plain_is_drift() -> None:
    assert recorded(drifted(None)).spec.drift[0].observed is None
    assert recorded(drifted(["gpt-5.1"])).spec.drift[0].observed is None
    assert recorded(drifted(["gpt-5.1"])).spec.values == {}


def test_an_ignored_pin_drifts_in_silence() -> None:
    target = service(pins={"model": "gpt-5.1"}, ignoreDrift=("model",))
    assert recorded(drifted(), target=target).spec.drift == ()


def test_a_key_that_changed_by_itself_is_a_condition_until_an_operation_explains_it() -> None:
    before = recorded(seen())
    changed = seen(report=report(fingerprints={"apiKey": "hmac:2"}))
    found = change(changed, before)
    assert found is not None
    assert found.subject == "status openai-chat: KeyChangedOutsideCapsule"
    (condition,) = found.status.spec.conditions
    assert condition.message == "apiKey changed with no operation behind it"
    assert change(changed, found.status, now=later(hours=1)) is None
    healed = recorded_after(changed, found.status, DONE)
    assert healed.spec.conditions == ()


def recorded_after(observation: Any, before: ServiceStatus, last: LastChange) -> ServiceStatus:
    found = change(observation, before, last=last)
    assert found is not None
    return found.status


@pytest.mark.parametrize("running", [True, False])
def test_an_operation_explains_a_new_fingerprint(running: bool) -> None:
    before = recorded(seen())
    changed = seen(report=report(fingerprints={"apiKey": "hmac:2"}))
    after = recorded_after(changed, before, LastChange(OP, None) if running else DONE)
    assert after.spec.conditions == ()
    assert after.spec.last_operation == (None if running else OP)
    later_change = seen(report=report(fingerprints={"apiKey": "hmac:3"}))
    third = recorded_after(later_change, after, DONE)
    assert bool(third.spec.conditions) is not running


def test_the_first_observation_after_an_operation_is_no_surprise() -> None:
    found = change(seen(), None, last=DONE)
    assert found is not None
    assert found.status.spec.last_operation == OP


def test_a_probe_from_before_the_result_notes_nothing_yet() -> None:
    before = recorded(seen())
    just_now = LastChange(OP, NOW)
    assert change(seen(), before, last=just_now) is None
    assert change(seen(at=later(seconds=1)), before, last=just_now) is not None


def test_an_operation_is_noted_once() -> None:
    before = recorded(seen())
    found = change(seen(), before, last=DONE)
    assert found is not None
    assert found.subject == "status openai-chat: seen after an operation"
    assert change(seen(), found.status, last=DONE) is None


def test_an_old_list_of_signers_is_a_condition() -> None:
    main = state(PINNED, signers=signers(2))
    found = recorded(seen(), main=main)
    assert [item.type for item in found.spec.conditions] == ["TrustOutdated"]
    assert recorded(seen(report=report(signers_serial=2)), main=main).spec.conditions == ()
    assert recorded(seen(report=report(signers_serial=0)), main=main).spec.conditions == ()


def test_a_secret_in_a_report_is_a_condition_until_a_report_has_none() -> None:
    mark = "[secret sha256:0123456789ab]"
    bad = report(config={"model": "gpt-5.1", "limit": 5, "token": mark}, disabled_reason=f"see {mark}")
    found = recorded(seen(report=bad))
    (condition,) = found.spec.conditions
    assert condition.type == "SecretInReport"
    assert (
        condition.message == "a secret in config.token, disabledReason: declare it sensitive, and rotate it"
    )
    quiet = seen(ok=False, report=bad, reason="AgentTimeout", at=later(seconds=1))
    assert change(quiet, found, now=later(seconds=1)) is None, "silence settles nothing"
    mended = recorded(seen(at=later(minutes=1)), before=found, now=later(minutes=1))
    assert mended.spec.conditions == ()


def test_an_overdue_key_is_a_condition_from_its_due_date_on() -> None:
    target = service(rotation={"every": "90d"})
    aged = seen(report=report(key_created_at="2026-08-25T12:00:00Z"))
    assert recorded(aged, target=target, now=NOW - timedelta(seconds=1)).spec.conditions == ()
    found = recorded(aged, target=target)
    assert found.spec.conditions[0].message == "the key was due on 2026-11-23"


def test_conditions_stay_while_the_agent_is_silent() -> None:
    before = recorded(seen(), main=state(PINNED, signers=signers(2)))
    gone = seen(ok=False, failing_since=later(hours=-1), reason="AgentTimeout")
    assert recorded_with(gone, before).spec.conditions == before.spec.conditions


def recorded_with(observation: Any, before: ServiceStatus) -> ServiceStatus:
    found = change(observation, before)
    assert found is not None
    return found.status


def test_a_value_nobody_pinned_is_recorded_with_both_values() -> None:
    target = service()
    before = recorded(seen(), target=target)
    assert subject(drifted(), before, target=target) == "status openai-chat: model gpt-5.1 → gpt-5.2"


def test_health_below_the_same_word_is_recorded() -> None:
    degraded = seen(report=report(health=HealthReport("DEGRADED", "slow", "2026-11-23T12:00:00Z")))
    down = seen(report=report(health=HealthReport("DOWN", "gone", "2026-11-23T12:00:00Z")))
    before = recorded(degraded)
    assert subject(down, before) == "health openai-chat: DEGRADED → DOWN"


def test_a_new_fingerprint_is_named() -> None:
    before = recorded(seen())
    changed = seen(report=report(fingerprints={"apiKey": "hmac:2"}))
    assert subject(changed, before, last=LastChange(OP, None)) == "status openai-chat: apiKey changed"


def test_any_other_change_has_a_subject_too() -> None:
    before = recorded(seen())
    assert subject(seen(report=report(version="1.8.2", key_created_at="2026-11-01T00:00:00Z")), before) == (
        "status openai-chat: changed"
    )


# ---- what the records say -----------------------------------------------------------------------


def with_records(observation: Any, before: ServiceStatus | None, **known: Any) -> SetStatus | None:
    return status_change(
        state(PINNED), PINNED, observation, before, known.pop("now", NOW), known.pop("last", None), **known
    )


def types(found: SetStatus | None) -> list[str]:
    assert found is not None
    return [condition.type for condition in found.status.spec.conditions]


OFF = LastWord("request", "disable", NOW, "off-1")


def test_a_disable_by_request_is_said_with_its_reason() -> None:
    before = recorded(seen())
    off = seen(report=report(enabled=False))
    found = with_records(off, before, word=OFF, why="alice in off-1: leaked")
    assert found is not None
    assert found.subject == "status openai-chat: HEALTHY → DISABLED (DisabledByRequest)"
    assert found.status.spec.message == "alice in off-1: leaked"
    assert types(found) == ["DisabledByRequest"]
    assert found.status.spec.conditions[0].message == "alice in off-1: leaked"
    assert with_records(off, found.status, word=OFF, why="alice in off-1: leaked") is None
    bare = with_records(off, before, word=OFF)
    assert bare is not None
    assert bare.status.spec.message == "off-1"
    settled = with_records(off, found.status, word=LastWord("state", "disable", NOW))
    assert settled is not None
    assert settled.subject == "status openai-chat: DisabledByRequest gone"


def test_a_reason_that_changes_below_one_word_is_said() -> None:
    off = seen(report=report(enabled=False))
    before = recorded(off)
    host = seen(report=report(enabled=False, disabled_by_host=True))
    assert subject(host, before) == "status openai-chat: DISABLED (DisabledOnHost)"


def test_why_an_agent_is_away_may_change_without_a_commit() -> None:
    gone = seen(ok=False, failing_since=later(hours=-1), reason="AgentTimeout")
    before = recorded_with(gone, recorded(seen()))
    other = seen(ok=False, failing_since=later(hours=-1), reason="ConnectionRefused")
    assert change(other, before) is None


def test_a_stopped_correction_is_a_condition_until_it_is_acknowledged() -> None:
    before = recorded(seen())
    stopped = with_records(seen(), before, stopped=later(minutes=-1))
    assert stopped is not None
    assert stopped.subject == "status openai-chat: CorrectionStopped"
    assert stopped.status.spec.conditions[0].message == (
        "drifted back after 3 corrections until 2026-11-23 11:59 UTC"
    )
    silent = seen(ok=False, failing_since=NOW)
    assert with_records(silent, stopped.status, stopped=later(minutes=-1)) is None
    again = with_records(seen(), stopped.status)
    assert again is not None
    assert again.subject == "status openai-chat: CorrectionStopped gone"


def test_people_who_know_of_a_changed_key_clear_it() -> None:
    before = recorded(seen())
    changed = seen(report=report(fingerprints={"apiKey": "hmac:2"}))
    found = with_records(changed, before)
    assert types(found) == ["KeyChangedOutsideCapsule"]
    assert found is not None
    for other in (later(seconds=-1), later(seconds=1)):
        another = {"KeyChangedOutsideCapsule": frozenset([other])}
        assert with_records(changed, found.status, acknowledged=another, now=later(minutes=1)) is None
    known = {"KeyChangedOutsideCapsule": frozenset([NOW])}
    for observation in (changed, None):
        cleared = with_records(observation, found.status, acknowledged=known, now=later(minutes=1))
        assert cleared is not None
        assert cleared.subject == "status openai-chat: KeyChangedOutsideCapsule gone"
    third = seen(report=report(fingerprints={"apiKey": "hmac:3"}))
    anew = with_records(third, found.status, acknowledged=known, now=later(minutes=2))
    assert anew is not None
    assert anew.status.spec.conditions[0].since == later(minutes=2)


def test_a_second_change_of_a_key_is_not_the_one_that_people_saw() -> None:
    first = with_records(seen(report=report(fingerprints={"apiKey": "hmac:2"})), recorded(seen()))
    assert first is not None
    third = seen(report=report(fingerprints={"apiKey": "hmac:3"}))
    second = with_records(third, first.status, now=later(minutes=2))
    assert second is not None
    assert [each.since for each in second.status.spec.conditions] == [later(minutes=2)]
    known = {"KeyChangedOutsideCapsule": frozenset([NOW])}
    assert with_records(third, second.status, acknowledged=known, now=later(minutes=3)) is None
    away = with_records(None, second.status, acknowledged=known, now=later(minutes=3))
    assert away is None or types(away) == ["KeyChangedOutsideCapsule"]


def test_corrections_that_stopped_again_are_not_those_that_people_saw() -> None:
    first = with_records(seen(), recorded(seen()), stopped=later(minutes=-1))
    assert first is not None
    assert types(first) == ["CorrectionStopped"]
    assert with_records(seen(), first.status, stopped=NOW, now=later(minutes=9)) is not None
    again = with_records(seen(), first.status, stopped=later(minutes=8), now=later(minutes=9))
    assert again is not None
    assert [each.since for each in again.status.spec.conditions] == [later(minutes=9)]
    same = with_records(seen(), first.status, stopped=NOW, now=later(minutes=9))
    assert same is not None
    assert [each.since for each in same.status.spec.conditions] == [NOW]


@pytest.mark.parametrize(
    ("pin", "value", "drifts"), [("cache", 1, True), ("cache", True, False), ("size", True, True)]
)
def test_a_value_of_another_type_is_drift(pin: str, value: Any, drifts: bool) -> None:
    target = service(pins={"cache": True, "size": 1})
    values = {"cache": True, "size": 1, pin: value}
    assert bool(recorded(seen(report=report(config=values)), target=target).spec.drift) is drifts


def test_every_subject_tells_what_it_is_about() -> None:
    before = recorded(seen())
    for observation in (drifted(), seen(report=report(version="2.0.0")), seen(report=report(enabled=False))):
        found = change(observation, before)
        assert found is not None
        assert found.subject.split(" ")[0] in ("status", "drift", "health")
        assert found.subject.split(" ")[1] == "openai-chat:"
