"""What an adapter declares is what reports show and orders reach; a mistake is told at start."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest

from capsule.documents.problems import FORBIDDEN
from capsule.trust.receipts import open_receipt, open_report
from capsule_agent import ActionError, Agent, DeclarationError, Field, Health, cli
from capsule_agent.journal import Journal
from capsule_agent.protocol.messages import Receipt, Report
from capsule_agent.protocol.sshsig import PrivateKey
from capsule_agent.resume import Resumer
from capsule_agent.values import BadValue, check_params
from tests.agent_fixtures import (
    NOW,
    SERVICE,
    Ask,
    KeyStore,
    body,
    desired,
    key,
    make_agent,
    read_receipt,
    read_report,
    write_key,
    write_owners,
)

SECRET = "sk-live-1234567890"


def report(agent: Agent) -> Report:
    return read_report(agent._calls().answer("/capsule/v1/report", b'{"nonce": "n"}').body)


def order(agent: Agent, action: str, request: str = "r", **params: Any) -> Receipt:
    ask = Ask(action=action, params=params, request=request)
    return read_receipt(agent._calls().answer("/capsule/v1/order", body(ask.envelope())).body)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return make_agent(tmp_path)


# ---- actions -------------------------------------------------------------------------------------


@dataclass
class Sent:
    count: int
    to: str
    more: bool = False


class Found(TypedDict):
    count: int


def test_parameters_and_outputs_follow_the_annotations(agent: Agent) -> None:
    seen: list[object] = []

    @agent.action("send", danger="high", approvals=1)
    def send(
        order: Any, to: str, count: int = 1, mode: Literal["fast", "safe"] = "safe", dry: bool = False
    ) -> Sent:
        seen.extend([order.request, to, count, mode, dry])
        return Sent(count, to)

    info = next(found for found in report(agent).actions if found.name == "send")
    assert (info.danger, info.approvals) == ("high", 1)
    assert info.params == {
        "type": "object",
        "properties": {
            "to": {"type": "string", "maxLength": 2000},
            "count": {"type": "integer", "default": 1},
            "mode": {"type": "string", "enum": ["fast", "safe"], "default": "safe"},
            "dry": {"type": "boolean", "default": False},
        },
        "required": ["to"],
        "additionalProperties": False,
    }
    receipt = order(agent, "send", to="x", mode="fast")
    assert (receipt.outcome, receipt.outputs) == ("succeeded", {"count": 1, "to": "x", "more": False})
    assert seen == ["r", "x", 1, "fast", False]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({}, "parameter 'to' is missing"),
        ({"to": 1}, "parameter 'to': expected string"),
        ({"to": "x", "count": True}, "parameter 'count': expected integer"),
        ({"to": "x", "count": 0}, "parameter 'count': expected at least 1"),
        ({"to": "x", "count": 10}, "parameter 'count': expected at most 9"),
        ({"to": "x", "mode": "other"}, "parameter 'mode': expected one of a, b"),
        ({"to": "x" * 4}, "parameter 'to': expected at most 3 characters"),
        ({"to": "X"}, "parameter 'to': expected text that matches [a-z]+"),
        ({"to": "x\n"}, "parameter 'to': expected text that matches [a-z]+"),
        ({"to": "x", "cuont": 1}, "unknown parameter 'cuont'; known: count, mode, to"),
    ],
)
def test_parameters_are_checked(agent: Agent, params: dict[str, Any], told: str) -> None:
    ran: list[bool] = []
    declared = {
        "to": Field(str, pattern="[a-z]+", max_length=3),
        "count": Field(int, minimum=1, maximum=9, default=1),
        "mode": Literal["a", "b"],
    }
    assert order_with(agent, declared, params, ran) == told
    assert ran == []


def order_with(agent: Agent, declared: dict[str, Any], params: dict[str, Any], ran: list[bool]) -> str:
    @agent.action("send", params=declared | {"mode": Field(str, choices=("a", "b"), default="a")})
    def send(**_: str) -> None:
        ran.append(True)

    receipt = order(agent, "send", **params)
    assert (receipt.outcome, receipt.reason) == ("refused", "ParamsInvalid")
    return receipt.message


def test_only_declared_outputs_of_the_right_type_leave(agent: Agent) -> None:
    agent.config("apiKey", lambda: SECRET, sensitive=True)
    pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"

    @agent.action("look", outputs={"a": str, "b": int, "c": str, "d": str, "e": str})
    def look() -> dict[str, Any]:
        return {"a": "fine", "b": "7", "c": f"key={SECRET}", "d": "\x1b[31mred", "e": pem, "f": "undeclared"}

    receipt = order(agent, "look")
    assert receipt.outputs["a"] == "fine"
    assert set(receipt.outputs) == {"a", "c", "d", "e"}
    assert all(str(receipt.outputs[name]).startswith("hmac-sha256:") for name in "cde")
    assert receipt.message == "output 'b' was dropped: expected integer; output 'f' was dropped: not declared"


def test_a_typed_dict_declares_outputs(agent: Agent) -> None:
    @agent.action("count")
    def count() -> Found:
        return {"count": 3}

    assert order(agent, "count").outputs == {"count": 3}


def test_what_an_action_raises_never_leaves(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    agent.config("apiKey", lambda: SECRET, sensitive=True)

    @agent.action("boom")
    def boom() -> None:
        raise ConnectionError(f"401 for {SECRET}")

    @agent.action("told")
    def told() -> None:
        raise ActionError(f"quota\nexceeded for {SECRET}")

    @agent.action("wrong")
    def wrong() -> Any:
        return 5

    with caplog.at_level(logging.ERROR):
        first = order(agent, "boom", "r1")
    assert (first.outcome, first.reason, first.message) == ("failed", "ActionFailed", "ConnectionError")
    assert SECRET not in caplog.text
    assert "builtins.ConnectionError" in caplog.text
    assert "401 for" not in caplog.text, "what an exception says may hold anything"
    assert ", in boom" in caplog.text
    assert order(agent, "told", "r2").message.startswith("quota exceeded for hmac-sha256:")
    assert order(agent, "wrong", "r3").message == "TypeError"


def bad(change: Callable[[Agent], object], agent: Agent) -> str:
    with pytest.raises(DeclarationError) as caught:
        change(agent)
    return str(caught.value)


def untyped(order: Any, to) -> None:  # type: ignore[no-untyped-def]  # what is tested
    """An action without annotations."""


def listing(to: list[str]) -> None:
    """An action with a type that does not cross the wire."""


def positional(to: str, /) -> None:
    """An action whose parameter cannot be passed by name."""


def test_wrong_declarations_are_told_at_start(agent: Agent) -> None:
    agent.config("model", str)
    assert "annotation is missing" in bad(lambda a: a.action("x")(untyped), agent)
    assert "expected str, int, bool" in bad(lambda a: a.action("x")(listing), agent)
    assert "does not take it" in bad(lambda a: a.action("x", params={"tx": str})(lambda to: None), agent)
    assert "passed by name" in bad(lambda a: a.action("x")(positional), agent)
    assert "ASCII letters" in bad(lambda a: a.action("rotate-key"), agent)
    assert "exists already" in bad(lambda a: a.action("enable"), agent)
    assert "ASCII letters" in bad(lambda a: a.action("x", outputs={"a-b": str})(lambda: None), agent)
    assert "twice" in bad(lambda a: a.config("model", str), agent)
    assert "word of ASCII" in bad(lambda a: a.config("generation", str), agent)
    assert "would be in git" in bad(lambda a: a.config("k", str, set=print, sensitive=True), agent)


def test_an_agent_needs_its_keys(tmp_path: Path) -> None:
    owners = write_owners(tmp_path / "owners")
    where: dict[str, Any] = {"version": "1", "journal": tmp_path / "a.db", "owners": owners}
    secret = write_key(tmp_path / "agent", "agent")
    (tmp_path / "empty").mkdir()
    Agent(SERVICE, key=secret, **where)
    secret.chmod(0o644)
    wrong: dict[str, dict[str, Any]] = {
        "expected a name such as": {"service": "Open AI", "key": key("agent")},
        "expected journal, owners and key": {},
        "others may read it": {"key": secret},
        f"capsule-agent keygen --out {tmp_path}/absent": {"key": tmp_path / "absent"},
        "at least one": {"key": key("agent"), "owners": tmp_path / "empty"},
    }
    for told, options in wrong.items():
        chosen: dict[str, Any] = where | options
        with pytest.raises(DeclarationError, match=told):
            Agent(chosen.pop("service", SERVICE), **chosen)
    (owners / "bad.pub").write_text("ssh-rsa AAAA")
    with pytest.raises(DeclarationError, match=r"bad.pub: expected one key in the form"):
        Agent(SERVICE, key=key("agent"), **where)


# ---- reports -------------------------------------------------------------------------------------


def test_a_report_shows_values_and_hides_secrets(agent: Agent) -> None:
    agent.config("apiKey", lambda: SECRET, sensitive=True)
    agent.config("model", lambda: "gpt-5.1")
    agent.config("debug", lambda: True, kind=bool)
    agent.config("leaky", lambda: f"https://user:{SECRET}@host")
    agent.config("unset", lambda: None)
    agent.config("broken", lambda: 1 / 0)
    found = report(agent)
    assert {name: found.config[name] for name in ("model", "debug")} == {"model": "gpt-5.1", "debug": True}
    assert set(found.config) == {"model", "debug", "leaky"}
    assert str(found.config["leaky"]).startswith("hmac-sha256:")
    assert SECRET not in json.dumps([found.config, found.fingerprints])
    assert found.fingerprints == report(agent).fingerprints


def test_fingerprints_are_keyed_and_outlast_a_restart(tmp_path: Path) -> None:
    def fingerprint(folder: Path) -> str:
        folder.mkdir(exist_ok=True)
        agent = make_agent(folder)
        agent.config("apiKey", lambda: SECRET, sensitive=True)
        return report(agent).fingerprints["apiKey"]

    first = fingerprint(tmp_path / "a")
    assert first == fingerprint(tmp_path / "a")
    assert first != fingerprint(tmp_path / "b")


def test_health_is_bounded_and_never_raises(tmp_path: Path) -> None:
    agent = make_agent(tmp_path, health_within=0.05)
    assert report(agent).health.status == "UP"
    agent.health(lambda: Health("DEGRADED", "slow\x1b[2J"))
    assert (report(agent).health.status, report(agent).health.detail) == ("DEGRADED", "slow [2J")

    def broken() -> Health:
        raise ConnectionError(SECRET)

    agent.health(broken)
    assert (report(agent).health.status, report(agent).health.detail) == (
        "DOWN",
        "the health check failed: ConnectionError",
    )
    agent.health(lambda: None)  # type: ignore[arg-type, return-value]  # what is tested
    assert report(agent).health.status == "DOWN"
    go, asked = threading.Event(), []

    def hangs() -> Health:
        asked.append(1)
        go.wait(20)
        return Health("UP")

    agent.health(hangs)
    for _ in range(3):
        assert report(agent).health.detail == "the health check did not answer within 0.05 s"
    assert len(asked) == 1
    go.set()


def test_no_text_of_an_adapter_makes_its_whole_report_unbelievable(agent: Agent) -> None:
    """A caller throws away a report with one unsafe text in it; the service would look unreachable."""
    awkward = "".join(chr(code) for code in range(0x10FFFF, -1, -1) if FORBIDDEN.search(chr(code)))
    agent.health(lambda: Health("DEGRADED", f"disk\nfull {awkward}"))
    agent.config("banner", lambda: awkward)
    agent.config("long", lambda: "y" * 9000)
    agent.config("number", lambda: 10**40)
    agent.config("endless", lambda: 10**5000)
    agent.config("half", lambda: "\ud800")

    @agent.action("load", params={"how": Field(str, f"In what way:\n  slow{awkward}", required=False)})
    def load(how: str = "") -> Sent:
        raise ActionError(f"no\n{awkward}")

    answer = agent.answer("/capsule/v1/report", b'{"nonce": "n"}')
    found = open_report(answer.body, key("agent").public, service=SERVICE, nonce="n")
    assert found.health.detail.startswith("disk full ")
    assert str(found.config["banner"]).startswith("hmac-sha256:")
    assert str(found.config["long"]).startswith("hmac-sha256:")
    assert str(found.config["half"]).startswith("hmac-sha256:")
    assert found.config["number"] == str(10**40)
    assert "endless" not in found.config
    ask = Ask(action="load", params={"how": "x"})
    told = agent.answer("/capsule/v1/order", body(ask.envelope())).body
    opened = open_receipt(
        told, key("agent").public, repository=ask.repository, service=SERVICE, op_id=ask.op_id
    )
    assert (opened.receipt.outcome, opened.receipt.message[:3]) == ("failed", "no ")


@pytest.mark.parametrize("version", ["", "1.8\n", "1\x1b[2J", "x" * 101, "1\u3164"])
def test_a_version_is_one_short_line(tmp_path: Path, version: str) -> None:
    with pytest.raises(DeclarationError, match="expected one line of 1 to 100 characters"):
        Agent(SERVICE, version=version, observe=True)


def test_more_than_a_caller_believes_is_told_at_start(agent: Agent) -> None:
    for at in range(64):
        agent.config(f"item{at}", lambda: "x")
    with pytest.raises(DeclarationError, match="at most 64 items"):
        agent.config("oneMore", lambda: "x")
    for at in range(64 - len(report(agent).actions)):
        agent.action(f"action{at}")(lambda order: None)
    with pytest.raises(DeclarationError, match="at most 64 actions"):
        agent.action("oneMore")
    for field in ({"pattern": "a\nb"}, {"choices": ("a\u200b",)}, {"default": "x" * 2001}):
        with pytest.raises(DeclarationError, match="expected one line"):
            Field(str, **field)  # type: ignore[arg-type]  # each is right for its field


def test_a_number_beyond_53_bits_is_no_value(agent: Agent) -> None:
    with pytest.raises(BadValue, match="within 53 bits"):
        check_params({"n": Field(int)}, {"n": 2**53})


def test_run_health_check_is_an_action_and_can_be_replaced(agent: Agent) -> None:
    agent.health(lambda: Health("UP", "fine"))
    assert order(agent, "runHealthCheck").outputs == {"status": "UP", "detail": "fine"}

    @agent.action("runHealthCheck")
    def deeper(order: Any) -> Health:
        return Health("DEGRADED", order.action)

    assert order(agent, "runHealthCheck", "r2").outputs == {"status": "DEGRADED", "detail": "runHealthCheck"}


def test_an_observing_agent_only_reports(tmp_path: Path) -> None:
    agent = Agent(SERVICE, version="1", observe=True)
    agent.config("apiKey", lambda: SECRET, sensitive=True)
    agent.config("model", lambda: "m", set=print)
    answer = json.loads(agent._calls().answer("/capsule/v1/report", b'{"nonce": "n"}').body)
    found = json.loads(answer["payload"])
    assert (answer["signature"], found["observe"], found["actions"], found["fingerprints"]) == (
        "",
        True,
        [],
        {},
    )
    assert found["config"] == {"model": "m"}
    kept = Agent(SERVICE, version="1", observe=True, journal=tmp_path / "agent.db", key=key("agent"))
    kept.config("apiKey", lambda: SECRET, sensitive=True)
    assert report(kept).fingerprints["apiKey"].startswith("hmac-sha256:")


# ---- configure, enable, disable --------------------------------------------------------------------


def test_configure_reaches_what_can_be_set_and_nothing_else(agent: Agent) -> None:
    values: dict[str, Any] = {"model": "a", "limit": 1}
    agent.config("model", lambda: values["model"], set=lambda new: values.update(model=new))
    agent.config("limit", lambda: values["limit"], set=lambda new: values.update(limit=new), kind=int)
    agent.config("upstream", lambda: "u")
    assert order(agent, "configure", model="b", limit=2).outputs == {"model": "b", "limit": 2}
    assert order(agent, "configure", "r2", upstream="x").reason == "ParamsInvalid"
    assert order(agent, "configure", "r3").message.startswith("no parameter was given")
    assert values == {"model": "b", "limit": 2}


def test_the_host_wins_over_the_spec_and_survives_a_restart(agent: Agent, tmp_path: Path) -> None:
    journal = ["--journal", str(tmp_path / "agent.db")]
    assert cli.main(["disable", *journal, "--reason", "disk swap"]) == 0
    assert not agent.enabled
    receipt = read_receipt(agent._calls().answer("/capsule/v1/order", body(desired("enable", 1))).body)
    assert (receipt.outcome, receipt.message) == ("succeeded", "still disabled on the host")
    again = make_agent(tmp_path)
    assert (again.enabled, report(again).disabled_reason) == (False, "host: disk swap")
    assert cli.main(["enable", *journal]) == 0
    assert again.enabled


def test_the_command_line_shows_and_makes(
    agent: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = str(tmp_path / "agent.db")
    assert cli.main(["status", "--journal", journal, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["service"] == SERVICE
    assert cli.main(["status", "--journal", journal]) == 0
    assert "enabled         yes" in capsys.readouterr().out
    out = tmp_path / "made"
    assert cli.main(["keygen", "--out", str(out)]) == 0
    public = capsys.readouterr().out.strip()
    assert PrivateKey.from_openssh(out.read_bytes()).public.text == public
    assert (tmp_path / "made.pub").read_text() == public + "\n"
    assert out.stat().st_mode & 0o777 == 0o600
    assert cli.main(["keygen", "--out", str(out)]) == 3
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["status", "--journal", str(tmp_path / "absent")]) == 3
    assert cli.main(["keygen", "--out", str(tmp_path / "absent" / "key")]) == 3
    assert "Traceback" not in capsys.readouterr().err
    for wrong in (["disable", "--journal", journal, "--reason", " "], []):
        with pytest.raises(SystemExit) as caught:
            cli.main(wrong)
        assert caught.value.code == 2


# ---- background work -------------------------------------------------------------------------------


def test_an_old_key_is_revoked_by_the_agent_itself(tmp_path: Path) -> None:
    store, now = KeyStore(), [NOW]
    agent = make_agent(tmp_path, clock=lambda: now[0])
    agent.rotation(store.rotation())
    order(agent, "rotateKey", grace="1h")
    resumer = Resumer(agent._executor)
    assert resumer.step() == 30
    now[0] += timedelta(hours=1)
    with Journal(tmp_path / "agent.db", SERVICE).running():
        assert resumer.step() < 1
    assert set(store.keys) == {"key-0", "key-1"}
    resumer.step()
    assert set(store.keys) == {"key-1"}


def test_background_work_begins_once_and_ends(tmp_path: Path) -> None:
    agent = make_agent(tmp_path)
    for _ in range(3):
        agent.start()
    assert [thread.name for thread in threading.enumerate()].count("capsule-resume") == 1
    agent.close()
    for thread in threading.enumerate():
        if thread.name == "capsule-resume":
            thread.join(10)
    assert "capsule-resume" not in [thread.name for thread in threading.enumerate()]


def test_a_default_is_filled_in_and_an_optional_value_left_out() -> None:
    declared = {"a": Field(int, default=0), "b": Field(str, required=False)}
    assert check_params(declared, {}) == {"a": 0}
    with pytest.raises(BadValue):
        check_params(declared, {"b": 1})
