"""`capsule history` and `capsule log` over a repository with a past."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from capsule.cli import app
from capsule.store.git import open_store
from tests.unit.commands.conftest import right_now
from tests.web.chronicle import Chronicle, service_text

PATH = "services/openai-chat.yaml"
OTHER = "services/mail-sender.yaml"


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["-C", str(folder), *arguments])


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two services; one was unreachable for an hour yesterday, and is disabled since an hour."""
    folder = tmp_path_factory.mktemp("past")
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    now = right_now()
    store = open_store(folder, remote=None)
    texts = {
        path: service_text(Path(path).stem, labels={"env": "prod"}, pins={"version": "1"})
        for path in (PATH, OTHER)
    }
    story = Chronicle(now - timedelta(days=20), texts, store)  # type: ignore[arg-type]  # any store will do
    subprocess.run(["git", "-C", str(folder), "config", "capsule.root", story.root], check=True)

    def at(when: datetime, path: str, status: str, reason: str) -> None:
        story.now = when
        name = Path(path).stem
        story.record(story.status(path, status, reason), f"{name} is {status}", {"Capsule-Service": name})

    at(now - timedelta(days=10), PATH, "HEALTHY", "HealthUp")
    at(now - timedelta(hours=30), PATH, "OFFLINE", "AgentTimeout")
    at(now - timedelta(hours=29), PATH, "HEALTHY", "HealthUp")
    at(now - timedelta(hours=1), PATH, "DISABLED", "DisabledBySpec")
    store.close()
    return folder


def test_all_services_in_one_table(past: Path) -> None:
    done = run(past, "history")
    assert done.exit_code == 0, done.output
    head, first, second = done.stdout.splitlines()
    assert head.split() == ["SERVICE", "24h", "7d", "30d", "90d", "INCIDENTS", "LONGEST"]
    assert first.split() == ["mail-sender", "–", "–", "–", "–", "0"]
    assert second.split()[:3] == ["openai-chat", "100", "%"]
    assert "100 % of 1h" not in second
    assert re.search(r"99\.\d\d % of 10d( \S+)?  99\.\d\d % of 10d", second)
    assert second.split()[-2:] == ["1", "1h"]


def test_one_service_with_its_incidents_and_a_bar_of_days(past: Path) -> None:
    done = run(past, "history", "openai-chat", "--window", "30d")
    lines = done.stdout.splitlines()
    assert lines[0] == "openai-chat"
    assert any("1 incident, longest 1h; disabled for 1h" in line for line in lines)
    bar = lines[6].strip()
    assert len(bar) == 30
    assert set(bar) <= set(".-12345678▁▂▃▄▅▆▇█")
    assert "OFFLINE" in lines[-1]
    assert "AgentTimeout" in lines[-1]


def test_the_window_says_which_incidents_are_told(past: Path) -> None:
    done = run(past, "history", "openai-chat", "--window", "24h")
    assert "No incident in the last 24h." in done.stdout
    value = json.loads(run(past, "history", "openai-chat", "--json").stdout)
    assert [each["window"] for each in value["windows"]] == ["24h", "7d", "30d", "90d"]
    assert value["windows"][0]["uptime"] == 1.0
    assert [(each["status"], each["duration"]) for each in value["incidents"]] == [("OFFLINE", "1h")]
    assert len(value["days"]) == 90
    assert [each["service"] for each in json.loads(run(past, "history", "--json").stdout)] == [
        "mail-sender",
        "openai-chat",
    ]


def test_a_service_that_does_not_exist_is_told_with_the_nearest_name(past: Path) -> None:
    for verb in ("history", "log"):
        done = run(past, verb, "openai-chta")
        assert done.exit_code == 2
        assert "there is no service 'openai-chta' [UnknownName]" in done.stderr
        assert "Did you mean openai-chat?" in done.stderr


def test_a_service_nothing_happened_to_is_no_mistake(past: Path) -> None:
    done = run(past, "log", "mail-sender")
    assert (done.exit_code, done.stdout) == (0, "Nothing is on record that fits.\n")


def test_a_picture_from_a_remote_says_how_old_it_is(past: Path, tmp_path: Path) -> None:
    assert "As fetched" not in run(past, "services").stderr
    clone = tmp_path / "clone"
    assert CliRunner().invoke(app, ["clone", str(past), str(clone)]).exit_code == 0
    assert "As fetched" not in run(clone, "services").stderr
    subprocess.run(["touch", "-d", "190 minutes ago", str(clone / ".git" / "FETCH_HEAD")], check=True)
    for verb in (["services"], ["requests"], ["show", "openai-chat"], ["log"], ["history"]):
        assert "As fetched 3h ago" in run(clone, *verb, "--offline").stderr, verb
    assert run(clone, "services", "--offline", "--json").stderr == ""
    (clone / ".git" / "FETCH_HEAD").unlink()
    assert "As fetched at an unknown time" in run(clone, "services", "--offline").stderr


def test_whoever_looks_gets_the_news_of_the_remote(past: Path, tmp_path: Path) -> None:
    """A plain clone, too: stock git leaves heartbeats at the remote, and whoever looks fetches them."""
    clone, away = tmp_path / "clone", tmp_path / "away"
    origin = tmp_path / "origin"
    subprocess.run(["cp", "-r", str(past), str(origin)], check=True)
    beat = ["update-ref", "refs/capsule/heartbeat/reconciler-1", "main"]
    subprocess.run(["git", "-C", str(origin), *beat], check=True)
    git = ["git", "-C", str(clone)]
    subprocess.run(["git", "clone", "-q", str(origin), str(clone)], check=True)
    root = subprocess.run(
        ["git", "-C", str(origin), "rev-list", "--max-parents=0", "main"], capture_output=True, text=True
    ).stdout.strip()
    subprocess.run([*git, "config", "capsule.root", root], check=True)
    subprocess.run(["touch", "-d", "1 hour ago", str(clone / ".git" / "FETCH_HEAD")], check=True)
    told = run(clone, "services", "--offline")
    assert ("UNKNOWN" in told.stdout, "HEALTHY" in told.stdout) == (True, False)
    assert "no heartbeat" in " ".join(CliRunner().invoke(app, ["-C", str(clone), "doctor"]).output.split())
    seen = run(clone, "services")
    assert "As fetched" not in seen.stderr
    listed = subprocess.run([*git, "for-each-ref", "refs/capsule"], capture_output=True, text=True).stdout
    assert "refs/capsule/local/seen/heartbeat/" in listed
    origin.rename(away)
    subprocess.run(["touch", "-d", "1 hour ago", str(clone / ".git" / "FETCH_HEAD")], check=True)
    gone = run(clone, "services")
    assert (gone.exit_code, "Shown as last fetched: cannot fetch from" in gone.stderr) == (0, True)
    front = run(clone)
    assert "This picture is last fetched at" in front.stdout, front.output
    made = tmp_path / "made"
    away.rename(origin)
    assert CliRunner().invoke(app, ["clone", str(origin), str(made)]).exit_code == 0
    for settings in (("--get-all", "remote.origin.fetch"), ("branch.main.merge",), ("branch.main.remote",)):
        said = subprocess.run(
            ["git", "-C", str(made), "config", *settings], capture_output=True, text=True
        ).stdout
        assert said.strip(), settings
    subprocess.run(["git", "-C", str(made), "fetch", "-q"], check=True)
    subprocess.run(["git", "-C", str(made), "pull", "-q"], check=True)


def test_a_shallow_clone_says_that_it_does_not_reach_back(past: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    made = CliRunner().invoke(app, ["clone", "--shallow", f"file://{past}", str(clone)])
    assert made.exit_code == 0, made.output
    done = run(clone, "history")
    assert done.exit_code == 0
    assert "[HistoryMissing]" in done.stderr
