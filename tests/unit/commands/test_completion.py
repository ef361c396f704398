"""What a shell offers: names that exist, without the remote; open requests where only these make sense."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from capsule.cli import app
from tests.unit.commands.conftest import Office


def offered(at: Path, *words: str) -> set[str]:
    """What is completed after the words; the last one is unfinished."""
    line = " ".join(["capsule", "-C", str(at), *words])
    environment = {
        "_CAPSULE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) + 2),
    }
    done = CliRunner().invoke(app, [], prog_name="capsule", env=environment)
    return {each.partition(",")[2] for each in done.stdout.splitlines()}


def test_requests_of_a_remote_are_offered_by_their_names(office: Office, tmp_path: Path) -> None:
    name = office.ask()
    clone = tmp_path / "clone"
    assert CliRunner().invoke(app, ["clone", str(office.state), str(clone)]).exit_code == 0
    for at in (office.state, clone):
        assert offered(at, "approve", "") == {name}
        assert offered(at, "show", "2") == {name}
        assert offered(at, "show", "mail") == {"mail-sender"}
        assert offered(at, "history", "open") == {"openai-chat"}


def test_what_has_ended_is_not_offered_for_a_decision(office: Office) -> None:
    finished, refused, running, waiting = (office.ask() for _ in range(4))
    folder = "records/" + finished[:4] + "/" + finished[4:6]
    office.git("switch", "-q", "-c", "audit")
    for path in (
        f"{folder}/{finished}/openai-chat/claim-1.yaml",
        f"{folder}/{finished}/openai-chat/result.yaml",
        f"{folder}/{refused}/refusal.yaml",
        f"{folder}/{running}/openai-chat/claim-1.yaml",
        f"{folder}/{running}/openai-chat/result.yaml",
        f"{folder}/{running}/mail-sender/claim-1.yaml",
    ):
        file = office.state / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    office.git("add", "records")
    office.git("commit", "-q", "-m", "records")
    office.git("switch", "-q", "main")
    for verb in ("approve", "reject", "cancel"):
        assert offered(office.state, verb, "") == {running, waiting}
    assert offered(office.state, "show", "2") == {finished, refused, running, waiting}
