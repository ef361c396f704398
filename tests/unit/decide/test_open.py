"""Which requests are worth a look, and that months of which nothing changed are not walked for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from capsule.decide import OpenRequests, decide, open_requests
from capsule.lifecycle import Month, Records
from capsule.trust.requests import RequestSet
from capsule.trust.state import JudgedRequest
from tests.unit.worlds import operation, records_of, refusal, request, seen, world

DONE, REFUSED, OPEN = request("done"), request("refused"), request("open")
ENDED = {
    "done": records_of(DONE, operation(DONE)),
    "refused": records_of(REFUSED, refused=refusal(REFUSED)),
}
RECORDS = Records("f" * 40, {"2026/11": Month("f" * 40, ENDED)})


def requests(*of_month: JudgedRequest, branches: tuple[JudgedRequest, ...] = ()) -> RequestSet:
    month = {each.name: each for each in of_month}
    on_branches = {each.name: each for each in branches}
    return RequestSet({**month, **on_branches}, months={"2026/11": month}, on_branches=frozenset(on_branches))


class Counted(dict[str, Any]):
    """A month that tells how often it was walked."""

    walks = 0

    def items(self) -> Any:
        self.walks += 1
        return super().items()


def test_what_is_finished_is_left_out() -> None:
    asked = replace(request("asked"), source="branch")
    found = open_requests(requests(DONE, REFUSED, OPEN, branches=(asked,)), RECORDS)
    assert found.names == ("asked", "open")


def test_what_is_recorded_in_another_month_is_looked_at() -> None:
    elsewhere = Records("f" * 40, {"2026/10": Month("f" * 40, ENDED)})
    assert open_requests(requests(DONE, OPEN), elsewhere).names == ("done", "open")


def test_a_month_is_walked_again_only_if_it_changed() -> None:
    month: Mapping[str, JudgedRequest] = Counted({each.name: each for each in (DONE, REFUSED, OPEN)})
    judged = RequestSet(month, months={"2026/11": month})
    known = OpenRequests()
    for _ in range(3):
        known = open_requests(judged, RECORDS, known)
    assert isinstance(month, Counted)
    assert (known.names, month.walks) == (("open",), 1)
    more = Records(
        "e" * 40, {"2026/11": Month("e" * 40, {**ENDED, "open": records_of(OPEN, operation(OPEN))})}
    )
    assert (open_requests(judged, more, known).names, month.walks) == ((), 2)


def test_a_decision_is_the_same_with_and_without_memory() -> None:
    judged = requests(DONE, REFUSED, OPEN)
    plain = world(records=RECORDS, requests=dict(judged), observations={"openai-chat": seen()})
    kept = world(records=RECORDS, requests=judged, observations={"openai-chat": seen()})
    again = replace(kept, open_before=kept.open)
    assert decide(plain) == decide(kept) == decide(again)
    assert [begin.request.name for begin in decide(again).begin] == ["open"]
