"""The SSH servers of the demo, OpenSSH's and the small one: both lead to the agent and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from capsule.documents.types import AgentAddress
from capsule.transport.api import TransportError
from capsule.transport.ssh import SshTransport
from capsule_agent import Agent
from examples.processes import DidNotStart
from examples.ssh_door import Door, Server, open_door, runs_what_is_asked_for
from tests.agent_fixtures import healthy, key, write_owners
from tests.sshd import keygen


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _open(folder: Path, running: ExitStack, server: Server) -> Door:
    write_owners(folder / "owners", "owner")
    agent = Agent(
        "worker", version="1", journal=folder / "a.db", owners=folder / "owners", key=key("agent worker")
    )
    running.enter_context(closing(agent))
    agent.health(healthy)
    running.enter_context(agent.serve_unix(folder / "a.sock"))
    keygen(folder / "login")
    door = open_door(folder / "ssh", folder / "a.sock", folder / "login", server)
    running.callback(door.stop)
    return door


def _report(door: Door, login: Path, nonce: str, running: ExitStack) -> object:
    way = running.enter_context(closing(SshTransport(keys=[login])))
    address = AgentAddress(endpoint=door.endpoint, host_key=door.host_key)
    answer = way.call(address, "report", json.dumps({"nonce": nonce}).encode(), timeout=15)
    return json.loads(json.loads(answer)["payload"])["nonce"]


@pytest.mark.parametrize("server", ["openssh", "built-in"])
def test_a_door_leads_to_the_agent_alone(tmp_path: Path, running: ExitStack, server: Server) -> None:
    door = _open(tmp_path, running, server)
    login = tmp_path / "login"
    assert (_report(door, login, "one", running), door.logins()) == ("one", 1)
    assert not runs_what_is_asked_for(door, login)
    keygen(tmp_path / "other")
    with pytest.raises(TransportError) as caught:
        _report(door, tmp_path / "other", "two", running)
    assert caught.value.reason == "LoginRefused"


def test_without_openssh_the_small_one_takes_its_place_and_says_why(
    tmp_path: Path, running: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.ssh_door._SSHD", tmp_path / "no-sshd")
    door = _open(tmp_path, running, "auto")
    assert door.server == (
        "a small SSH server in Python; OpenSSH's sshd cannot be used here: it is not installed"
    )
    assert _report(door, tmp_path / "login", "one", running) == "one"
    with pytest.raises(DidNotStart):
        open_door(tmp_path / "again", tmp_path / "a.sock", tmp_path / "login", "openssh")
