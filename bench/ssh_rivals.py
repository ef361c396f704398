"""The tools beside which Capsule is measured over SSH, in a virtual environment of their own: `.venv-bench`.

Rules kept: that environment is made when it is missing, as pyinfra needs a paramiko that Capsule does not
take; every tool logs in with the same key and checks the same host keys; connections that Ansible keeps are
ended here. Called by bench.ssh.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from bench.ssh_fleet import Fleet

ENVIRONMENT = Path(__file__).parent.parent / ".venv-bench"
_PYTHON = ENVIRONMENT / "bin" / "python"
_PACKAGES = ("ansible-core>=2.16", "asyncssh>=2.18", "gevent", "paramiko<5", "pyinfra>=3")


def make_environment() -> None:
    """Install the other tools, once."""
    mark = ENVIRONMENT / ".installed"
    if mark.exists() and mark.read_text() == repr(_PACKAGES):
        return
    print(f"installing {', '.join(_PACKAGES)} into {ENVIRONMENT.name} (once)", file=sys.stderr)
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    _output([_PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *_PACKAGES])
    mark.write_text(repr(_PACKAGES))


def versions() -> str:
    """What was installed, such as "ansible-core 2.19.1, asyncssh 2.21.0, pyinfra 3.3"."""
    names = ("ansible-core", "asyncssh", "pyinfra", "paramiko")
    code = f"from importlib.metadata import version as v; print(', '.join(n + ' ' + v(n) for n in {names!r}))"
    return _output([_PYTHON, "-c", code]).strip()


def run_script(name: str, fleet: Fleet, operations: int) -> dict[str, float]:
    """Seconds that `bench/<name>.py` measured: of asyncssh (`ssh_floor`) or pyinfra (`ssh_pyinfra`)."""
    script = Path(__file__).with_name(f"{name}.py")
    found: dict[str, float] = json.loads(_output([_PYTHON, script, fleet.file, str(operations)]))
    return found


class Ansible:
    """`ansible` ad hoc: raw, 50 forks, kept connections (ControlPersist).

    One run takes all operations, over an inventory that names each host as often as it has operations: so its
    start counts once, not once for every hundred, and connections are made before they are used twice.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._folder = Path(fleet.folder) / "ansible"
        self._controls = self._folder / "cp"
        self._controls.mkdir(parents=True)
        settings = self._folder / "ansible.cfg"
        settings.touch()
        self._environment = {
            **os.environ,
            "ANSIBLE_HOME": str(self._folder),
            "ANSIBLE_CONFIG": str(settings),
            "ANSIBLE_FORKS": "50",
            "ANSIBLE_HOST_KEY_CHECKING": "True",
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._controls),
            "ANSIBLE_SSH_ARGS": f"-F {os.devnull} -o ControlMaster=auto -o ControlPersist=600s",
        }

    def measure(self, operations: int) -> dict[str, float]:
        """Wall seconds of a whole run, cold and then warm."""
        inventory = self._inventory(operations)
        self.end_connections()
        return {state: self._run(inventory) for state in ("cold", "warm")}

    def start_seconds(self) -> float:
        """How long it takes to start and end with nothing to reach: contained in every run."""
        file = self._folder / "local.ini"
        file.write_text("here ansible_connection=local\n")
        return self._run(file)

    def end_connections(self) -> None:
        """End every kept connection."""
        for control in self._controls.iterdir():
            subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={control}", "any"], capture_output=True)

    def _inventory(self, operations: int) -> Path:
        file = self._folder / f"{operations}.ini"
        each = operations // len(self._fleet.hosts)
        lines = [
            f"{host.service}-{time_} ansible_host={host.address} ansible_port={host.port}"
            for time_ in range(each)
            for host in self._fleet.hosts
        ]
        checked = f"-o UserKnownHostsFile={self._fleet.known_hosts} -o IdentitiesOnly=yes"
        common = (
            f"ansible_user={self._fleet.user}",
            f"ansible_ssh_private_key_file={self._fleet.key}",
            f"ansible_ssh_common_args='{checked}'",
        )
        file.write_text("\n".join((*lines, "[all:vars]", *common, "")))
        return file

    def _run(self, inventory: Path) -> float:
        command = [ENVIRONMENT / "bin" / "ansible", "all", "-i", inventory, "-m", "raw", "-a", "true", "-o"]
        began = time.perf_counter()
        found = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if found.returncode != 0:
            raise SystemExit(f"ansible failed:\n{found.stdout[-2000:]}\n{found.stderr[-2000:]}")
        return seconds


def _output(command: Sequence[Path | str]) -> str:
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode != 0:
        raise SystemExit(f"{shlex.join(map(str, command))} failed:\n{found.stderr[-3000:]}")
    return found.stdout
