"""What everybody should know of the branches: here, why reviews of a change did not come yet."""

from __future__ import annotations

from capsule.view.conditions import waiting_for_reviews
from tests.evidence_history import CHAT, ChangeDesk
from tests.trust_history import service_text


def test_a_change_that_waits_for_reviews_says_what_reconcilers_told_last() -> None:
    desk = ChangeDesk.of()
    desk.history.step({CHAT: service_text(model="gpt-6")})
    desk.audit.step({})
    state = desk.state()
    (row,) = waiting_for_reviews(state, {CHAT: "the forge does not answer"})
    assert (row.type, row.message) == ("ReviewsAwaited", f"{CHAT}: the forge does not answer")
    assert list(waiting_for_reviews(state, {"services/else.yaml": "x"})) == []
