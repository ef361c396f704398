"""Each exit code, from the installed command."""

from __future__ import annotations

import pytest

from tests.e2e.installation import CAPSULE, House, run


@pytest.mark.parametrize("verb", [("check",), ("services",), ("--help",)])
def test_0_fine(house: House, verb: tuple[str, ...]) -> None:
    assert house.capsule(*verb).code == 0


def test_1_findings_2_usage_3_environment_4_refused(house: House) -> None:
    assert house.capsule("doctor").code == 1
    assert house.capsule("request").code == 2
    assert run([*CAPSULE, "-C", str(house.folder / "keys"), "services"], house.environment()).code == 3
    refused = house.capsule("request", "reload", "openai-chat", "--reason", "x", person="bob")
    assert (refused.code, refused.out) == (4, "")
    assert "Traceback" not in refused.err
    assert house.requests() == []


def test_what_an_agent_says_never_paints_the_terminal(house: House) -> None:
    assert house.capsule("reconcile", "--once").code == 0
    shown = house.capsule("show", "openai-chat")
    assert "all good" in shown.out
    assert "\x1b" not in shown.out
    assert "\x1b" not in house.capsule("services").out
    assert "\x1b" not in house.capsule("services", "--json").out
