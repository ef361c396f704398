"""What somebody tries to have a reconciler act on that it remembers, and that is not so (any more)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capsule.documents.paths import AUDIT, MAIN
from capsule.reconciler import Reconciler, Remembered
from capsule.reconciler.recording import Tips
from capsule.reconciler.verifying import Verifying
from capsule.trust.audit import verify_audit
from capsule.trust.requests import RequestSet
from capsule.trust.state import JudgedRequest
from tests.agent_fixtures import key
from tests.town import POLICY, Town

CLAIMED = "runHealthCheck openai-chat: claimed"
BY_MERGE = {
    "match": {"action": "*"},
    "mayRequest": ("operators",),
    "approvals": ({"team": "reviewers", "count": 1},),
    "evidence": "merge",
}


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path, policy={**POLICY, "rules": (*POLICY["rules"][:2], BY_MERGE, POLICY["rules"][3])})
    yield made
    prove(made)
    made.close()


def prove(town: Town) -> None:
    main, audit = town.tip(MAIN), town.tip(AUDIT)
    assert main
    assert audit
    assert verify_audit(town.store, town.root, main, audit).first_bad is None


def test_a_document_moves_between_the_merge_and_the_claim(town: Town) -> None:
    reconciler = town.reconciler()
    town.request("off", action="disable", approved_by=(), merged_by="bob", notBefore="2026-11-23T12:10:00Z")
    town.settle(reconciler)
    data = town.file("services/openai-chat.yaml")
    town.commit({"services/openai-chat.yaml": None, "services/prod/openai-chat.yaml": data}, "Move")
    town.settle(reconciler)
    prove(town)
    town.clock.advance(minutes=15)
    town.settle(reconciler)
    reconciler.close()
    assert "disable openai-chat: succeeded" in town.audit_subjects()


def remembered(town: Town, name: str, **lie: Any) -> Remembered:
    """What a reconciler without orders to give would remember, but for a lie about one request."""
    verifying = Verifying(town.store, town.root, town.clock)
    audit = town.tip(AUDIT)
    state = verifying.main()
    assert verifying.audit(Tips(audit, state.tip), state) == ""
    memory = verifying.requests.memory
    (label,) = memory.months
    month = memory.months[label]

    def lied(judged: JudgedRequest) -> JudgedRequest:
        return replace(judged, **lie) if judged.name == name else judged

    memory.months[label] = replace(
        month,
        judged={each: lied(judged) for each, judged in month.judged.items()},
        memos={place: replace(memo, judged=lied(memo.judged)) for place, memo in month.memos.items()},
    )
    return Remembered(RequestSet({}, memory=memory), verifying.records)


def after(town: Town, before: Remembered) -> Reconciler:
    """A reconciler that went on from there until nothing was left to do."""
    found = Reconciler(
        town.store,
        town.transport,
        key("reconciler-1"),
        name="reconciler-1",
        root=town.root,
        clock=town.clock,
        before=before,
    )
    assert next(iter(before.requests.memory.months.values())).judged, "there is something to remember"
    town.settle(found)
    found.close()
    return found


def test_control_a_true_memory_is_acted_on(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    town.request("look", action="runHealthCheck", approved_by=())
    after(town, remembered(town, "look"))
    assert CLAIMED in town.audit_subjects()
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_nothing_is_claimed_that_is_approved_in_memory_alone(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    town.request("rotate-1", approved_by=())
    found = after(town, remembered(town, "rotate-1", verdict="approved", reason="", missing=()))
    assert found.remembered.requests["rotate-1"].verdict == "proposed"
    assert not [each for each in town.audit_subjects() if "rotateKey" in each]
    assert "rotate-1 was remembered as approved" in caplog.text


@pytest.mark.parametrize("verdict", ["refused", "rejected"])
def test_nothing_is_refused_that_is_void_in_memory_alone(town: Town, verdict: str) -> None:
    town.request("look", action="runHealthCheck", approved_by=())
    after(town, remembered(town, "look", verdict=verdict, reason="NoRule"))
    assert CLAIMED in town.audit_subjects(), "the fresh verdict is what counts"
