"""Every verb outside of a state repository: what is wrong, and what to do, instead of a riddle."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from capsule.cli.app import VERBS
from tests.e2e.installation import environment
from tests.unit.commands.conftest import Office

NEED_ONE: dict[str, tuple[tuple[str, ...], ...]] = {
    "services": (("services",),),
    "show": (("show", "openai-chat"),),
    "requests": (("requests",),),
    "plan": (("plan",),),
    "log": (("log",),),
    "history": (("history",),),
    "watch": (("watch",),),
    "request": (("request", "rotateKey", "openai-chat", "--reason", "Why"),),
    "disable": (("disable", "openai-chat", "--reason", "Why"),),
    "enable": (("enable", "openai-chat", "--reason", "Why"),),
    "approve": (("approve", "20261123-rotate-openai-chat-k3f9", "--yes"),),
    "reject": (("reject", "20261123-rotate-openai-chat-k3f9", "--reason", "Why", "--yes"),),
    "cancel": (("cancel", "20261123-rotate-openai-chat-k3f9", "--reason", "Why"),),
    "abort": (("abort", "20261123-rotate-openai-chat-k3f9", "--reason", "Why"),),
    "acknowledge": (("acknowledge", "openai-chat", "--condition", "CorrectionStopped", "--reason", "Why"),),
    "propose": (("propose",),),
    "check": (("check",),),
    "approval": (("approval",),),
    "audit": (("audit", "verify"), ("audit", "checkpoint"), ("audit", "export"), ("audit", "report")),
    "policy": (
        ("policy", "allowed-signers"),
        ("policy", "diff", "main"),
        ("policy", "explain", "20261123-rotate-openai-chat-k3f9"),
        ("policy", "show"),
        ("policy", "signers"),
    ),
    "notify": (("notify", "list"),),
    "doctor": (("doctor",),),
    "import": (("import", "--from", "http://127.0.0.1:9", "--yes"),),
    "reconcile": (("reconcile", "--once"),),
    "dashboard": (("dashboard",),),
    "up": (("up",),),
}
NEED_NONE = {"init", "clone", "demo", "completion", "protect", "hook"}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plain folder, a git repository without a commit, and one of something else."""
    folder = tmp_path_factory.mktemp("places")
    found = {name: folder / name for name in ("plain", "empty", "other")}
    for name, place in found.items():
        place.mkdir()
        if name != "plain":
            subprocess.run(["git", "init", "-q", "-b", "main"], cwd=place, check=True)
    who = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")
    begin = ["git", *who, "commit", "-q", "--allow-empty", "-m", "Begin"]
    subprocess.run(begin, cwd=found["other"], check=True, env=environment(folder, "alice"))
    return found


def test_no_verb_is_left_out() -> None:
    assert NEED_ONE.keys() | NEED_NONE == VERBS.keys()


@pytest.mark.parametrize(
    ("place", "reasons"),
    [
        ("plain", {"NoRepository", "NoStateRepository"}),
        ("empty", {"NoMain", "NoStateRepository"}),
        ("other", {"NoStateRepository"}),
    ],
)
@pytest.mark.parametrize("arguments", [each for calls in NEED_ONE.values() for each in calls], ids=" ".join)
def test_it_is_said_what_is_wrong_and_what_to_do(
    office: Office, places: dict[str, Path], place: str, reasons: set[str], arguments: tuple[str, ...]
) -> None:
    done = office.run(*arguments, at=places[place])
    assert done.exit_code == (1 if arguments[0] == "doctor" else 3), done.output
    assert any(f"[{reason}]" in done.output for reason in reasons), done.output
    assert all(way in done.output for way in ("capsule init", "capsule clone", "-C DIR")), done.output
    assert "Traceback" not in done.output
