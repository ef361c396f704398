"""The stage of the demo: people with keys, an upstream, three services, a state repository, `capsule up`.

Rules kept: everything lies below one folder; secrets are files that only their owner reads; what is
started here is ended here.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from capsule.commands.errors import CommandError, SetUpProblem, WrongUsage
from capsule.commands.init import init
from capsule.commands.keys import make_key_pair

ROTATED = "mail-sender"
BEHIND_SSH = "archive-worker"
SshServer = Literal["auto", "openssh", "built-in"]
_READY_SECONDS = 60.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_SERVICES: Mapping[str, str] = {
    "mail-sender": """\
  labels: {team: messaging, env: prod, vendor: aws}
spec:
  agent:
    endpoint: "ENDPOINT"
    key: "KEY"
  pins: {version: "1.4.2", apiVersion: "2010-12-01", sender: "no-reply@example.com"}
  health: {interval: 2s, timeout: 5s}
  rotation: {every: 90d}
  owner: team-messaging@example.com
""",
    "order-events": """\
  labels: {team: orders, env: prod, vendor: aws}
spec:
  agent:
    endpoint: "ENDPOINT"
    key: "KEY"
  pins: {version: "2.0.1", model: order-event-2}
  health: {interval: 2s, timeout: 5s}
  rotation: {every: 90d}
  owner: team-orders@example.com
""",
    "archive-worker": """\
  labels: {team: orders, env: test, vendor: aws}
spec:
  agent:
    endpoint: "ENDPOINT"
    hostKey: "HOST"
    key: "KEY"
  pins: {version: "0.9.0", storageClass: STANDARD}
  health: {interval: 2s, timeout: 5s}
  owner: team-orders@example.com
""",
}
_POLICY = """\
# Who may ask for what, and who must agree.
apiVersion: capsule/v1
kind: Policy
metadata:
  name: policy
spec:
  serial: 1
  principals:
    alice: {email: alice@example.com, keys: ["{{key}}"]}
    bob: {email: bob@example.com, keys: ["BOB"]}
    reconciler-1: {machine: true, keys: ["{{reconciler_key}}"]}
  teams:
    owners: [alice, bob]
    operators: [alice]
    reviewers: [bob]
  rules:
    # Harmless: needs nobody's approval, and no merge either.
    - match: {action: runHealthCheck}
      mayRequest: [operators]
      approvals: []
    # Everything that changes a running service needs a reviewer's signature.
    - match: {action: "*"}
      mayRequest: [operators]
      approvals: [{team: reviewers, count: 1}]
      evidence: signature
    - match: {change: service}
      mayRequest: [operators]
      approvals: [{team: reviewers, count: 1}]
    - match: {change: settings}
      mayRequest: [operators]
      approvals: [{team: reviewers, count: 1}]
    - match: {change: policy}
      mayRequest: [owners]
      approvals: [{team: owners, count: 1}]
"""


class Narrator(Protocol):
    """Tells the story to whoever watches."""

    def chapter(self, title: str) -> None:
        """A new part begins."""

    def say(self, text: str) -> None:
        """A sentence or two."""

    def command(self, text: str, output: str) -> None:
        """A command that was run, and what it printed."""

    def check(self, text: str, held: bool) -> None:
        """Something that was checked, and whether it held."""

    def summary(self, facts: Mapping[str, str], passed: int, failed: int) -> None:
        """How it ended."""


@dataclass(frozen=True)
class Ran:
    """A command that was run."""

    code: int
    output: str
    answer: str
    """Standard output alone."""


@dataclass(frozen=True)
class Stage:
    """Everything the story plays on. `services` and `upstream` are those of the examples."""

    folder: Path
    state: Path
    root: str
    upstream: Any
    services: Mapping[str, Any]
    examples: ModuleType

    def key(self, person: str) -> Path:
        """The private key file of alice or bob."""
        return self.folder / "keys" / person

    def capsule(self, *arguments: str, person: str | None = None, at: Path | None = None) -> Ran:
        """Run the capsule command on the state repository, as `person` where somebody signs."""
        environment = _environment()
        if person:
            environment["CAPSULE_SIGNING_KEY"] = str(self.key(person))
        command = [sys.executable, "-m", "capsule", "-C", str(at or self.state), *arguments]
        return _run(command, environment)

    def git(self, *arguments: str, at: Path | None = None, stdin: bytes | None = None) -> Ran:
        """Run stock git on the state repository."""
        return _run(["git", "-C", str(at or self.state), *arguments], _environment(), stdin)

    @property
    def login(self) -> Path:
        """The private key that the reconciler logs in with where only SSH is open."""
        return self.key("login")

    @property
    def door(self) -> Any:
        """The SSH server that alone leads to the service behind it."""
        return self.services[BEHIND_SSH].door

    def login_runs_anything_else(self) -> bool:
        """Whether stock ssh, with the reconciler's login, gets another command run there."""
        doors = importlib.import_module(f"{self.examples.__package__}.ssh_door")
        return bool(doors.runs_what_is_asked_for(self.door, self.login))

    def credentials(self) -> Any:
        """The access key that the rotated service uses now."""
        reader = importlib.import_module(f"{self.examples.__package__}.iam_keys")
        return reader.read_credentials(self.upstream.credentials(ROTATED))


@contextmanager
def set_stage(folder: Path, now: datetime, ssh_server: SshServer = "auto") -> Iterator[Stage]:
    """Start the upstream and the services in `folder`, and make the state repository; end all at the end."""
    _require_empty(folder)
    examples = load_examples()
    with ExitStack() as running:
        public = {person: make_key_pair(folder / "keys" / person, person) for person in ("alice", "bob")}
        owners = folder / "keys" / "owners"
        owners.mkdir()
        for person, key in public.items():
            (owners / f"{person}.pub").write_text(f"{key.text} {person}\n", encoding="utf-8")
        try:
            upstream = running.enter_context(examples.start_upstream(folder / "services"))
            make_key_pair(folder / "keys" / "login", "reconciler's login")
            services = {
                name: running.enter_context(
                    examples.start_service_behind_ssh(
                        name,
                        folder / "services",
                        upstream,
                        owners,
                        folder / "keys" / "login",
                        server=ssh_server,
                    )
                    if name == BEHIND_SSH
                    else examples.start_service(name, folder / "services", upstream, owners)
                )
                for name in _SERVICES
            }
        except examples.DidNotStart as error:
            raise CommandError("DemoDidNotStart", str(error)) from None
        documents = {
            f"services/{name}.yaml": _service_document(name, services[name]).encode() for name in _SERVICES
        }
        created = init(
            folder / "state",
            now,
            principal="alice",
            email="alice@example.com",
            key=folder / "keys" / "alice",
            files={"policy.yaml": _POLICY.replace("BOB", public["bob"].text).encode(), **documents},
        )
        yield Stage(folder, folder / "state", created.root, upstream, services, examples)


@contextmanager
def capsule_up(stage: Stage, bind: tuple[str, int]) -> Iterator[str]:
    """`capsule up` as a process of its own; gives the dashboard's address."""
    processes = importlib.import_module(f"{stage.examples.__package__}.processes")
    host, port = bind

    def command(chosen: int) -> list[str]:
        return [
            *(sys.executable, "-m", "capsule", "-C", str(stage.state)),
            *("up", "--bind", f"{host}:{chosen}"),
            # What the visitor's own ~/.ssh says is none of the demo's business.
            *("--ssh-key", str(stage.login), "--ssh-config", os.devnull, "--known-hosts", os.devnull),
        ]

    def answers(chosen: int) -> bool:
        try:
            with _DIRECT.open(f"http://{host}:{chosen}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    log = stage.folder / "capsule-up.log"
    environment = {"PYTHONPATH": _environment().get("PYTHONPATH", "")}
    try:
        process, chosen = processes.start_on_free_port(command, log, answers, environment, port=port or None)
    except stage.examples.DidNotStart as error:
        raise CommandError(
            "DemoDidNotStart", str(error), "Is the port taken? Choose another with --bind."
        ) from None
    try:
        yield f"http://{host}:{chosen}/"
    finally:
        process.stop()


def wait_until(condition: Callable[[], bool], seconds: float = _READY_SECONDS) -> bool:
    """Whether `condition` came true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def load_examples() -> ModuleType:
    """The module that starts the example services: in the package, or beside it in a checkout."""
    import capsule

    package = Path(str(capsule.__file__)).resolve().parent
    name = "capsule._examples.launch"
    if not (package / "_examples").is_dir():
        name = "examples.launch"
        if str(package.parent) not in sys.path:
            sys.path.append(str(package.parent))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SetUpProblem(
            "DemoNotInstalled",
            f"the demo needs more packages ({error.name} is missing)",
            "In a clone of Capsule's repository: pip install ./agent '.[demo]'   (or: make run)",
        ) from None


def _service_document(name: str, service: Any) -> str:
    head = f"apiVersion: capsule/v1\nkind: Service\nmetadata:\n  name: {name}\n"
    host_key = service.door.host_key if service.door else ""
    text = _SERVICES[name].replace("ENDPOINT", service.endpoint).replace("HOST", host_key)
    return head + text.replace("KEY", service.public_key)


def _require_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise WrongUsage(
            "NotEmpty", f"{folder} is not empty; nothing was changed", "Name a new folder with --dir."
        )
    folder.mkdir(parents=True, exist_ok=True)


def _environment() -> dict[str, str]:
    """This process's environment, without what would make git or capsule look elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "CAPSULE_"))}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "110"}


def _run(command: list[str], environment: Mapping[str, str], stdin: bytes | None = None) -> Ran:
    done = subprocess.run(command, env=dict(environment), input=stdin or b"", capture_output=True)
    answer = done.stdout.decode(errors="replace")
    return Ran(done.returncode, answer + done.stderr.decode(errors="replace"), answer)
