"""Several worker processes on one journal, killed at any moment: one effect, and no doubt hidden."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from capsule_agent import Agent
from tests.agent_fixtures import Ask, body, make_agent, read_receipt, write_owners

ROOT = Path(__file__).parents[2]
SPAWN = multiprocessing.get_context("spawn")


def counting_agent(folder: Path, *, idempotent: bool = False, wait_for: Path | None = None) -> Agent:
    """An agent whose one action leaves a line in `effects`, and then waits until `wait_for` exists."""
    agent = make_agent(folder)

    @agent.action("count", approvals=1, idempotent=idempotent)
    def count() -> None:
        with (folder / "effects").open("a") as file:
            file.write(f"{os.getpid()}\n")
        while wait_for is not None and not wait_for.exists():
            time.sleep(0.01)

    return agent


def effects(folder: Path) -> int:
    path = folder / "effects"
    return len(path.read_text().splitlines()) if path.exists() else 0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


ASK = Ask(action="count", params={})


def work(folder: str, answers: Queue[bytes]) -> None:
    """One worker process: sends itself the same order."""
    calls = counting_agent(Path(folder))._calls()
    answers.put(calls.answer("/capsule/v1/order", body(ASK.envelope())).body)


def test_worker_processes_share_one_effect(tmp_path: Path) -> None:
    write_owners(tmp_path / "owners")
    answers: Queue[bytes] = SPAWN.Queue()
    workers = [SPAWN.Process(target=work, args=(str(tmp_path), answers)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = {answers.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(20)
    answers.close()
    assert effects(tmp_path) == 1
    assert len(found) == 1
    assert read_receipt(found.pop()).outcome == "succeeded"


VICTIM = """
import sys
from pathlib import Path
from tests.agent_fixtures import body
from tests.integration.test_agent_processes import ASK, counting_agent
folder = Path(sys.argv[1])
agent = counting_agent(folder, wait_for=folder / "never")
agent._calls().answer("/capsule/v1/order", body(ASK.envelope()))
"""


def killed_in_effect(folder: Path) -> None:
    """A process that dies by SIGKILL in the middle of the action."""
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(folder)], cwd=ROOT)
    try:
        until(lambda: effects(folder))
        assert read_receipt(answer(counting_agent(folder), "query")).outcome == "running"
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait(20)


def answer(agent: Agent, name: str, ask: Ask = ASK) -> bytes:
    envelope = ask.query() if name == "query" else ask.envelope()
    return agent._calls().answer(f"/capsule/v1/{name}", body(envelope)).body


@pytest.mark.parametrize("first", ["query", "order"])
def test_an_effect_cut_off_by_kill_9_is_unknown_and_not_repeated(tmp_path: Path, first: str) -> None:
    write_owners(tmp_path / "owners")
    killed_in_effect(tmp_path)
    agent = counting_agent(tmp_path)
    receipt = read_receipt(answer(agent, first))
    assert (receipt.outcome, receipt.reason) == ("unknown", "InterruptedInEffect")
    assert read_receipt(answer(agent, "order")) == receipt
    assert effects(tmp_path) == 1
    assert agent._journal.state().busy is None


def test_another_order_after_kill_9_is_not_held_up(tmp_path: Path) -> None:
    write_owners(tmp_path / "owners")
    killed_in_effect(tmp_path)
    agent = counting_agent(tmp_path)
    assert (
        read_receipt(answer(agent, "order", Ask(action="count", params={}, request="b"))).outcome
        == "succeeded"
    )
    assert read_receipt(answer(agent, "query")).reason == "InterruptedInEffect"
    assert effects(tmp_path) == 2


def test_an_idempotent_action_cut_off_by_kill_9_is_done_again(tmp_path: Path) -> None:
    write_owners(tmp_path / "owners")
    killed_in_effect(tmp_path)
    agent = counting_agent(tmp_path, idempotent=True)
    agent.start()
    until(lambda: agent._journal.state().busy is None)
    assert read_receipt(answer(agent, "query")).outcome == "succeeded"
    assert effects(tmp_path) == 2
    agent.close()


def test_a_long_order_answers_running_and_refuses_others_meanwhile(tmp_path: Path) -> None:
    go = tmp_path / "go"
    agent = counting_agent(tmp_path, wait_for=go)
    assert agent._executor is not None
    agent._executor.answer_within = 0.2
    assert read_receipt(answer(agent, "order")).outcome == "running"
    assert read_receipt(answer(agent, "order")).outcome == "running"
    other = Ask(action="count", params={}, request="another")
    receipt = read_receipt(answer(agent, "order", other))
    assert (receipt.outcome, receipt.reason) == ("refused", "Busy")
    assert agent._journal.state().busy == ASK.op_id
    go.touch()
    until(lambda: read_receipt(answer(agent, "query")).outcome == "succeeded")
    assert effects(tmp_path) == 1
