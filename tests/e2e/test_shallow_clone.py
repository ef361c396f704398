"""A small clone for dashboards and CI: it shows what is, and says what it cannot prove."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from capsule.store.git import open_store
from capsule.web.app import create_app
from tests.e2e.installation import House, Ran
from tests.git_servers import assert_sound, bare_repository, git, http_git


@pytest.fixture
def served(house: House, tmp_path: Path) -> Iterator[str]:
    """The house's repository on a server, after one executed request; alice's clone reconciles."""
    bare = bare_repository(tmp_path / "served" / "state.git")
    git(bare, "config", "uploadpack.allowFilter", "true")
    house.git("push", "--quiet", str(bare), "main")
    with http_git(tmp_path / "served") as web:
        house.git("remote", "add", "origin", web.url("state.git"))
        _work(house, "OPS-1")
        yield web.url("state.git")


def _work(house: House, why: str) -> None:
    """Alice asks for a health check, the reconciler executes it."""
    ran = house.told("request", "runHealthCheck", "openai-chat", "--reason", why)
    assert ran.code == 0, ran.err
    done = house.told("reconcile", "--once")
    assert done.code == 0, done.err


def _clone(house: House, url: str, *options: str) -> Path:
    place = house.folder / "small"
    ran = house.told("clone", url, str(place), "--shallow", *options, person="carol", at=house.folder)
    assert ran.code == 0, ran.err
    return place


def _told(ran: Ran, reason: str) -> None:
    assert (ran.code, f"[{reason}]" in ran.err) == (3, True), ran.out + ran.err


def test_a_shallow_clone_shows_what_is_and_says_what_it_cannot_prove(house: House, served: str) -> None:
    place = _clone(house, served, "--root", house.root)
    whole = git(house.state, "rev-list", "--count", "origin/audit", "origin/main").strip()
    assert int(whole) > 4
    assert git(place, "rev-list", "--count", "origin/audit").strip() == "1"
    assert git(place, "rev-parse", "main") == git(house.state, "rev-parse", "origin/main")
    assert_sound(place)

    def rows(verb: str, at: Path) -> object:
        keys = ("name", "status", "phase", "model", "version")
        listed = json.loads(house.told(verb, "--json", at=at, person="carol").out)
        return [{key: row.get(key) for key in keys} for row in listed]

    for verb in ("services", "requests"):
        assert rows(verb, place) == rows(verb, house.state)
    assert "HistoryMissing" in house.told("services", at=place).err
    assert house.told("check", at=place).code == 0
    assert house.told("check", "main", at=place).code == 0
    log = house.told("log", at=place)
    assert (log.code, log.out.count("\n"), "not in this clone" in log.out) == (0, 3, True), log.out

    told = house.told("audit", "verify", "--root", house.root, at=place)
    _told(told, "HistoryMissing")
    assert f"git -C {place} fetch --unshallow" in told.err
    key = house.state / ".git" / "capsule" / "reconciler_ed25519"
    _told(house.told("reconcile", "--once", "--key", str(key), at=place), "HistoryMissing")

    house.git("fetch", "--quiet", "--unshallow", at=place)
    proved = house.told("audit", "verify", "--root", house.root, at=place)
    assert (proved.code, "1 operation proved" in proved.out) == (0, True), proved.out
    assert "HistoryMissing" not in house.told("services", at=place).err


def test_the_dashboard_of_a_shallow_clone_follows_the_server(house: House, served: str) -> None:
    place = _clone(house, served, "--root", house.root, "--bare")
    app = create_app(lambda: open_store(place), house.root, lambda: datetime.now(UTC))
    pages = app.test_client()
    before = pages.get("/api/v1/requests").json
    assert [each["reason"] for each in before["repository"]["conditions"]][-1] == "HistoryMissing"
    _work(house, "OPS-2")
    store = open_store(place)
    store.refresh()
    assert store.refs()["refs/heads/audit"] == git(house.state, "rev-parse", "origin/audit").strip()
    store.close()
    assert pages.get("/api/v1/requests").json["total"] == before["total"] + 1
    for page in ("/", "/requests", "/audit"):
        shown = pages.get(page)
        assert shown.status_code == 200, page
    assert "not in this clone" in shown.text
    app.extensions["capsule.picture"].close()


def test_clones_without_a_root_and_clones_that_cut_main(house: House, served: str) -> None:
    place = _clone(house, served)
    assert house.told("services", at=place).code == 0
    assert f"git -C {place} config capsule.root {house.root}" in house.told("doctor", at=place).out

    cut = house.folder / "cut"
    house.git("clone", "--quiet", "--depth=1", "--no-single-branch", served, str(cut), at=house.folder)
    for options in (("--root", house.root), ()):  # neither "another repository" nor a wrong first commit
        _told(house.told(*options, "services", at=cut), "HistoryMissing")
        _told(house.told(*options, "audit", "verify", at=cut), "HistoryMissing")
    house.git("fetch", "--quiet", "--unshallow", at=cut)
    assert house.told("--root", house.root, "audit", "verify", at=cut).code == 0


def test_a_partial_clone_is_named_and_mended_by_the_commands_it_prints(house: House, served: str) -> None:
    place = house.folder / "partial"
    house.git("clone", "--quiet", "--filter=blob:none", served, str(place), at=house.folder)
    told = house.told("--root", house.root, "audit", "verify", at=place)
    _told(told, "IncompleteClone")
    commands = [line.strip() for line in told.err.splitlines() if line.startswith("  git ")]
    assert len(commands) == 2
    for command in commands:
        subprocess.run(command.split(), env=house.environment(), check=True, capture_output=True)
    assert house.told("--root", house.root, "audit", "verify", at=place).code == 0
