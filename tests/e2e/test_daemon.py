"""`capsule reconcile` as the process that a service manager runs: signals, sd_notify, monitoring, logs."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import urllib3

from capsule.commands.init import init
from tests.e2e.installation import CAPSULE, House, make_house, make_person, wait_for

LISTENING = re.compile(r"Monitoring: (http://\S+/)metrics")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """As everywhere, but that the policy lists a second key for the reconciler."""

    def make(state: Path, files: dict[str, bytes]) -> str:
        second = make_person(tmp_path, "second")
        policy = files["policy.yaml"].replace(
            b'"{{reconciler_key}}"', f'"{{{{reconciler_key}}}}", "{second}"'.encode()
        )
        created = init(
            state,
            datetime.now(UTC).replace(microsecond=0),
            principal="alice",
            email="alice@example.com",
            key=tmp_path / "keys" / "alice",
            files={**files, "policy.yaml": policy},
        )
        for name in ("user.signingkey", "user.name", "user.email"):
            subprocess.run(["git", "-C", str(state), "config", "--unset", name], check=True)
        return created.root

    made = make_house(tmp_path, make)
    yield made
    made.adapter.close()


class Daemon:
    """A reconciler under a service manager that is this test."""

    def __init__(self, house: House, *options: str) -> None:
        self.house = house
        self.key = house.folder / "reconciler.key"
        self.install(house.state / ".git" / "capsule" / "reconciler_ed25519")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(house.folder / "notify"))
        self._notify.settimeout(20)
        self._log = house.folder / "daemon.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*CAPSULE, "-C", str(house.state), "reconcile", "--key", str(self.key), "--metrics", "0",
                 "--log-format", "json", *options],
                env={**house.environment(), "NOTIFY_SOCKET": str(house.folder / "notify")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip

    def install(self, key: Path) -> None:
        """Put a copy of `key` where the daemon's key is, in one step."""
        new = self.key.with_suffix(".new")
        shutil.copy(key, new)
        new.chmod(0o600)
        new.replace(self.key)

    def heard(self, word: str) -> str:
        """The next notification that holds `word`."""
        while True:
            told = self._notify.recv(4096).decode()
            if word in told:
                return told

    def get(self, path: str) -> urllib3.BaseHTTPResponse:
        found = LISTENING.search(self._log.read_text())
        assert found
        return urllib3.request("GET", found[1] + path, retries=False, timeout=5)

    def metric(self, series: str) -> float:
        lines = self.get("metrics").data.decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series + " "))

    @property
    def log(self) -> list[dict[str, str]]:
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def close(self) -> None:
        self._notify.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def ask(house: House) -> str:
    before = set(house.requests())
    assert house.capsule("request", "reload", "openai-chat", "--reason", "OPS-1").code == 0
    (name,) = set(house.requests()) - before
    assert house.capsule("approve", name, "--yes", person="bob").code == 0
    return name


def test_a_day_under_a_service_manager(house: House) -> None:
    house.adapter.gate = house.folder / "gate"
    daemon = Daemon(house)
    try:
        assert "WATCHDOG=1" in daemon.heard("READY=1")
        assert daemon.get("healthz").json() == {"alive": True, "reasons": []}
        assert daemon.get("readyz").json() == {"ready": True, "reasons": []}
        wait_for(lambda: daemon.metric('capsule_services{status="HEALTHY"}') == 1)
        daemon.heard("WATCHDOG=1")

        name = ask(house)
        wait_for(lambda: house.adapter.effects == ["reload 1"])
        # A key that nobody listed is not taken over; the order under way goes on.
        daemon.install(house.key("mallory"))
        daemon.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in daemon.heard("RELOADING=1")
        assert "UnknownMachine" in daemon.heard("READY=1")
        # A key that the policy lists for this machine is, though it is not the one the order was signed with.
        daemon.install(house.key("second"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.heard("RELOADING=1")
        assert "the key is another one" in daemon.heard("READY=1")
        assert daemon.metric('capsule_rereads_total{result="taken"}') == 1
        assert daemon.metric('capsule_rereads_total{result="refused"}') == 1
        # What is under way at the end is finished, and on record when the process is gone.
        daemon.process.send_signal(signal.SIGTERM)
        daemon.heard("STOPPING=1")
        house.adapter.gate.touch()
        assert daemon.process.wait(30) == 0
        told = [entry for entry in daemon.log if entry["message"].endswith("reload openai-chat: succeeded")]
        assert [(entry["request"], entry["service"]) for entry in told] == [(name, "openai-chat")]
        assert all(re.fullmatch("[0-9a-f]{40}", entry["revision"]) for entry in told)
    finally:
        daemon.close()
    assert house.adapter.effects == ["reload 1"]
    assert house.capsule("audit", "verify", "--root", house.root).code == 0


def test_monitoring_is_on_loopback_alone_unless_a_person_says_otherwise(house: House) -> None:
    refused = house.capsule("reconcile", "--metrics", "0.0.0.0:0")
    assert refused.code == 2
    assert "--metrics-beyond-loopback" in refused.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = house.capsule("reconcile", "--metrics", str(taken.getsockname()[1]))
    assert busy.code == 3
    assert "choose another with --metrics" in busy.err
