"""The demo's oracle: the upstream, which is not ours, counts one key creation for each request, whatever
happens to the reconciler between its claim and its result."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from capsule.cli import app
from capsule.commands.init import init
from capsule.commands.keys import make_key_pair
from examples.iam_keys import AccessKey, read_credentials
from examples.launch import Upstream, start_service, start_upstream
from tests.e2e.installation import wait_for
from tests.transport_peers import HttpAgent

SERVICE = "mail-sender"
POLICY = """\
apiVersion: capsule/v1
kind: Policy
metadata: {name: policy}
spec:
  serial: 1
  principals:
    alice: {email: alice@example.com, keys: ["{{key}}"]}
    bob: {email: bob@example.com, keys: ["BOB"]}
    reconciler-1: {machine: true, keys: ["{{reconciler_key}}"]}
  teams: {owners: [alice, bob], operators: [alice], reviewers: [bob]}
  rules:
    - match: {action: "*"}
      mayRequest: [operators]
      approvals: [{team: reviewers, count: 1}]
"""
DOCUMENT = """\
apiVersion: capsule/v1
kind: Service
metadata: {name: mail-sender, labels: {env: prod}}
spec:
  agent: {endpoint: "ENDPOINT", key: "KEY"}
  health: {interval: 1s, timeout: 5s}
"""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Gate:
    """Stands between the reconciler and the agent: passes calls on, and tells when an order comes through.

    With `kill` an order is passed on before or after the reconciler is killed, or never.
    """

    agent: str
    kill: Callable[[], None] | None = None
    moment: str = ""
    ordered: threading.Event = field(default_factory=threading.Event)

    def handle(self, call: str, body: bytes) -> bytes:
        kill, self.kill = (self.kill, None) if call == "order" else (None, self.kill)
        if kill is None:
            return self._ask(call, body)
        if self.moment == "before the order reaches the agent":
            self._die(kill)
            raise ConnectionError("the order is lost")
        if self.moment == "while the agent works":
            working = threading.Thread(target=self._ask, args=(call, body))
            working.start()
            self._die(kill)
            working.join()
            raise ConnectionError("nobody is there to hear the answer")
        answer = self._ask(call, body)
        self._die(kill)
        return answer

    def _die(self, kill: Callable[[], None]) -> None:
        kill()
        self.ordered.set()

    def _ask(self, call: str, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.agent}/capsule/v1/{call}", body, headers)
        with _DIRECT.open(request, timeout=30) as answer:
            data: bytes = answer.read()
            return data


MOMENTS = ("before the order reaches the agent", "while the agent works", "after the agent answered")


@dataclass(frozen=True)
class Stage:
    """One service in front of the real upstream, a state repository, alice and bob."""

    folder: Path
    root: str
    upstream: Upstream
    gate: Gate

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def capsule(self, *arguments: str, person: str = "") -> str:
        """The command line, in this process."""
        key = str(self.folder / "keys" / person) if person else None
        done = CliRunner().invoke(app, ["-C", str(self.state), *arguments], env={"CAPSULE_SIGNING_KEY": key})
        assert done.exit_code == 0, done.output
        return done.output

    def reconcile(self, *options: str) -> subprocess.Popen[bytes]:
        """The reconciler as a process of its own."""
        with (self.folder / "reconcile.log").open("ab") as log:
            command = [sys.executable, "-m", "capsule", "-C", str(self.state), "reconcile", *options]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def once(self) -> None:
        process = self.reconcile("--once")
        assert process.wait(60) == 0, (self.folder / "reconcile.log").read_text()

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(self.state), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self) -> str:
        """A rotation that alice asks for and bob approves; its name."""
        asked = ("request", "rotateKey", SERVICE, "-p", "grace=0s", "--reason", "OPS-1")
        before = set(self._branches())
        self.capsule(*asked, person="alice")
        (name,) = set(self._branches()) - before
        self.capsule("approve", name, "--yes", person="bob")
        return name

    def _branches(self) -> list[str]:
        return self.git("for-each-ref", "--format=%(refname:lstrip=3)", "refs/heads/request/").split()

    def records(self, request: str) -> set[str]:
        """Names of the records of a request, as they are on audit."""
        listed = self.git("ls-tree", "-r", "--name-only", "refs/heads/audit", "records").splitlines()
        return {path.rpartition("/")[2] for path in listed if f"/{request}/" in path}

    def key(self) -> AccessKey:
        """The key that the service uses now."""
        return read_credentials(self.upstream.credentials(SERVICE))

    def created(self) -> int:
        """How many keys the upstream was asked to create for the service, all in all."""
        return self.upstream.count_key_creations(SERVICE)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("CAPSULE_REPO", "CAPSULE_ROOT", "CAPSULE_SIGNING_KEY", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    with ExitStack() as running:
        owners = tmp_path / "owners"
        owners.mkdir()
        keys = {person: make_key_pair(tmp_path / "keys" / person, person) for person in ("alice", "bob")}
        for person, public in keys.items():
            (owners / f"{person}.pub").write_text(f"{public.text} {person}\n")
        upstream = running.enter_context(start_upstream(tmp_path / "services"))
        service = running.enter_context(start_service(SERVICE, tmp_path / "services", upstream, owners))
        gate = Gate(service.endpoint)
        server = HttpAgent(gate.handle)
        running.callback(server.close)
        endpoint = f"http://127.0.0.1:{server.port}"
        document = DOCUMENT.replace("ENDPOINT", endpoint).replace("KEY", service.public_key)
        created = init(
            tmp_path / "state",
            datetime.now(UTC).replace(microsecond=0),
            principal="alice",
            email="alice@example.com",
            key=tmp_path / "keys" / "alice",
            files={
                "policy.yaml": POLICY.replace("BOB", keys["bob"].text).encode(),
                f"services/{SERVICE}.yaml": document.encode(),
            },
        )
        yield Stage(tmp_path, created.root, upstream, gate)


def rotated_once(stage: Stage, old: AccessKey, created: int) -> None:
    """One key more than `created` was made; it is in use and works; the old one does not."""
    assert stage.created() == created + 1
    new = stage.key()
    assert new.id != old.id
    assert stage.upstream.key_works(new.id, new.secret)
    assert not stage.upstream.key_works(old.id, old.secret)


def test_one_key_is_created_for_a_request_whatever_happens_to_the_reconciler(stage: Stage) -> None:
    used = [stage.key()]
    name = stage.ask()
    stage.once()
    assert {"claim-1.yaml", "result.yaml", "receipt.json"} <= stage.records(name)
    rotated_once(stage, used[-1], 0)
    stage.once()
    stage.once()
    rotated_once(stage, used[-1], 0)

    for at, moment in enumerate(MOMENTS, start=1):
        used.append(stage.key())
        name = stage.ask()
        process = stage.reconcile()
        stage.gate.moment = moment
        stage.gate.ordered.clear()

        def kill(process: subprocess.Popen[bytes] = process) -> None:
            process.send_signal(signal.SIGKILL)
            process.wait()

        stage.gate.kill = kill
        try:
            wait_for(stage.gate.ordered.is_set, 30)
        finally:
            with suppress(ProcessLookupError):
                kill()
        assert stage.git("log", "-1", "--format=%s", "audit").strip() == f"rotateKey {SERVICE}: claimed"
        assert stage.records(name) == {"claim-1.yaml"}, moment
        stage.once()
        assert {"claim-1.yaml", "result.yaml", "receipt.json"} <= stage.records(name), moment
        rotated_once(stage, used[-1], at)
        stage.once()
        rotated_once(stage, used[-1], at)

    used.append(stage.key())
    proved = stage.capsule("audit", "verify", "--root", stage.root)
    assert f"{1 + len(MOMENTS)} operations proved" in proved
    command = ["git", "-C", str(stage.state), "cat-file", "--batch", "--batch-all-objects"]
    objects = subprocess.run(command, capture_output=True, check=True).stdout
    assert [key.id for key in used if key.secret.encode() in objects] == []
