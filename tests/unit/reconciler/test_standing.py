"""How many requests stand in which phase: counted once a month, and anew where something changed."""

from __future__ import annotations

from capsule.lifecycle import Month, PhaseNow, Records
from capsule.reconciler.standing import Standings
from capsule.trust.requests import RequestSet
from tests.unit.worlds import operation, records_of, refusal, request, status

DONE, REFUSED, OPEN, ASKED = (request(name) for name in ("done", "refused", "open", "asked"))
GONE = request("gone")
MONTH = {each.name: each for each in (DONE, REFUSED, OPEN)}
REQUESTS = RequestSet({**MONTH, "asked": ASKED}, months={"2026/11": MONTH}, on_branches=frozenset({"asked"}))
RECORDS = Records(
    "f" * 40,
    {
        "2026/11": Month(
            "f" * 40,
            {
                "done": records_of(DONE, operation(DONE)),
                "refused": records_of(REFUSED, refused=refusal(REFUSED)),
                "asked": records_of(ASKED, operation(ASKED, outcome="failed")),
            },
        ),
        "2026/10": Month("d" * 40, {"gone": records_of(GONE, operation(GONE))}),
    },
)


def test_every_request_counts_once_wherever_it_lies() -> None:
    standings = Standings()
    for _ in range(2):
        found = standings.count([status(), None], REQUESTS, RECORDS, {})
        assert dict(found.requests) == {"Succeeded": 2, "Rejected": 1, "Failed": 1, "Approved": 1}
        assert dict(found.services) == {"HEALTHY": 1, "UNKNOWN": 1}


def test_a_hold_is_counted_while_it_lasts() -> None:
    standings = Standings()
    held = {"open": PhaseNow("Held", "Frozen", "frozen")}
    assert standings.count([], REQUESTS, RECORDS, held).requests["Held"] == 1
    assert "Held" not in standings.count([], REQUESTS, RECORDS, {}).requests


def test_what_was_recorded_since_is_counted() -> None:
    standings = Standings()
    standings.count([], REQUESTS, RECORDS, {})
    month = RECORDS.months["2026/11"]
    more = {**month.requests, "open": records_of(OPEN, operation(OPEN, outcome="unknown"))}
    later = Records("e" * 40, {**RECORDS.months, "2026/11": Month("e" * 40, more)})
    found = standings.count([], REQUESTS, later, {}).requests
    assert (found.get("Unknown"), found.get("Approved", 0)) == (1, 0)
