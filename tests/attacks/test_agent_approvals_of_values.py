"""What somebody tries to have set or done, without the approvals it asks for, by not naming it."""

from __future__ import annotations

from pathlib import Path

import pytest

from capsule_agent import Agent
from capsule_agent.protocol.generations import generation_at
from capsule_agent.protocol.messages import Envelope, Receipt
from capsule_agent.values import Field
from tests.agent_fixtures import (
    NOW,
    REPOSITORY,
    SERVICE,
    Ask,
    body,
    desired,
    key,
    read_receipt,
    read_report,
    seal,
    signers_list,
    write_owners,
)

VENDOR = "https://api.vendor.invalid"
OURS = "https://gateway.invalid"


class Gateway:
    """An agent of a service whose upstream is ours, and whose vendor's is the default that is declared."""

    def __init__(self, folder: Path) -> None:
        self.values: dict[str, object] = {"model": "m1", "upstream": OURS, "trial": "on"}
        self.purged: list[str] = []
        owners = write_owners(folder / "owners")
        self.agent = Agent(
            SERVICE,
            version="1",
            journal=folder / "journal.db",
            owners=owners,
            key=key("agent"),
            clock=lambda: NOW,
            repository=REPOSITORY,
        )
        self._config("model", str)
        self._config("upstream", Field(str, default=VENDOR), approvals=2)
        self._config("trial", Field(str, default="off", approvals=1))
        mode = Field(str, choices=("soft", "hard"), default="hard", approvals=1)

        @self.agent.action("purge", params={"mode": mode})
        def purge(mode: str) -> None:
            self.purged.append(mode)

    def _config(self, name: str, kind: object, approvals: int = 0) -> None:
        def set_value(value: object) -> None:
            self.values[name] = value

        self.agent.config(name, lambda: self.values[name], set=set_value, kind=kind, approvals=approvals)

    def receipt(self, envelope: Envelope) -> Receipt:
        answer = self.agent.answer("/capsule/v1/order", body(envelope))
        assert answer.status == 200, answer.body
        return read_receipt(answer.body)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def unapproved(action: str, **params: str) -> Envelope:
    return seal(Ask(action=action, params=params).order(), "reconciler-1", None, signers_list())


def test_value_with_a_default_is_set_by_nobody_who_does_not_name_it(gateway: Gateway) -> None:
    found = gateway.receipt(unapproved("configure", model="m2"))
    assert (found.outcome, dict(found.outputs)) == ("succeeded", {"model": "m2"})
    assert gateway.values == {"model": "m2", "upstream": OURS, "trial": "on"}


def test_a_correction_of_one_value_resets_no_other(gateway: Gateway) -> None:
    found = gateway.receipt(desired("configure", generation_at(NOW), model="m3"))
    assert found.outcome == "succeeded"
    assert gateway.values == {"model": "m3", "upstream": OURS, "trial": "on"}


def test_a_correction_of_nothing_sets_nothing(gateway: Gateway) -> None:
    found = gateway.receipt(desired("configure", generation_at(NOW)))
    assert (found.outcome, found.reason) == ("failed", "ActionFailed")
    assert gateway.values["upstream"] == OURS


@pytest.mark.parametrize(("name", "value"), [("upstream", VENDOR), ("trial", "off")])
def test_value_that_wants_approvals_is_not_set_without_them(gateway: Gateway, name: str, value: str) -> None:
    before = dict(gateway.values)
    found = gateway.receipt(unapproved("configure", model="m2", **{name: value}))
    assert (found.outcome, found.reason) == ("refused", "ApprovalsMissing")
    assert gateway.values == before


@pytest.mark.parametrize("params", [{}, {"mode": "hard"}, {"mode": "soft"}])
def test_parameter_left_to_its_default_wants_its_approvals_all_the_same(
    gateway: Gateway, params: dict[str, str]
) -> None:
    found = gateway.receipt(unapproved("purge", **params))
    assert (found.outcome, found.reason, gateway.purged) == ("refused", "ApprovalsMissing", [])


def test_parameter_left_to_its_default_is_done_with_its_approvals(gateway: Gateway) -> None:
    ask = Ask(action="purge", params={})
    assert gateway.receipt(ask.envelope()).outcome == "succeeded"
    assert gateway.purged == ["hard"]


def test_a_report_offers_no_default_for_what_configure_sets(gateway: Gateway) -> None:
    answer = gateway.agent.answer("/capsule/v1/report", b'{"nonce": "n"}')
    (offered,) = (each for each in read_report(answer.body).actions if each.name == "configure")
    upstream = offered.params["properties"]["upstream"]
    assert (upstream["x-approvals"], "default" in upstream) == (2, False)
    assert not offered.params["required"]
