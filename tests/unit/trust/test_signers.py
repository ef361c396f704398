"""The list of who may sign: which one is in force after each step."""

from __future__ import annotations

from dataclasses import replace

from capsule.trust.policy_checks import load_policy
from capsule.trust.published import signers_document
from capsule.trust.state import MainState
from capsule_agent.protocol import sshsig
from tests.trust_history import Files, History, key, policy_text

POLICY = load_policy(policy_text(), "policy.yaml")
TEXT, SIGNATURE = "signers/signers.json", "signers/bob.sig"


def signed(history: History, serial: int, *, without: str = "") -> Files:
    """A list with that serial, signed by the owner bob; `without` leaves a principal out."""
    document = signers_document(POLICY, history.root, serial)
    kept = {name: entry for name, entry in document.principals.items() if name != without}
    data = replace(document, principals=kept).to_json()
    return {TEXT: data, SIGNATURE: key("bob").sign(data, sshsig.SIGNERS).encode()}


def reasons(state: MainState) -> set[str]:
    return {finding.reason for finding in state.findings}


def serial(state: MainState) -> int | None:
    return state.signers and state.signers.serial


def test_list_of_a_higher_serial_takes_the_place_of_the_one_before() -> None:
    history = History.begun()
    history.step(signed(history, 1))
    history.step(signed(history, 2, without="alice"))
    state = history.judged()
    assert serial(state) == 2
    assert "SignersSerialNotRising" not in reasons(state)


def test_other_list_of_the_same_serial_does_not() -> None:
    history = History.begun()
    first = signed(history, 1)
    history.step(first)
    history.step(signed(history, 1, without="alice"))
    state = history.judged()
    assert state.signers is not None
    assert state.signers.document == first[TEXT]
    assert "SignersSerialNotRising" in reasons(state)


def test_list_that_is_gone_from_its_folder_stays_in_force_and_is_told() -> None:
    history = History.begun()
    history.step(signed(history, 1))
    history.step({TEXT: None})
    state = history.judged()
    assert serial(state) == 1
    assert "SignersMissing" in reasons(state)


def test_folder_in_place_of_the_list_is_no_list() -> None:
    history = History.begun()
    history.step(signed(history, 1))
    history.step({TEXT: None, f"{TEXT}/x": b"x"})
    state = history.judged()
    assert serial(state) == 1
    assert "SignersMissing" in reasons(state)
