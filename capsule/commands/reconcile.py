"""`capsule reconcile`, and the reconciling half of `up` and `demo`: a reconciler made ready to run.

Rules kept: one reconciler owns a repository on this machine; its key is read by nobody else; it acts only
under a root that a person pinned, and as the machine that the policy in force lists the key for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from capsule.commands.errors import RefusedByPolicy, SetUpProblem
from capsule.commands.init import RECONCILER_KEY
from capsule.commands.repository import Repository
from capsule.commands.ssh_access import SshAccess, ssh_transport
from capsule.daemon import POLL_LOCAL, POLL_REMOTE, run, run_once
from capsule.documents.types import Policy
from capsule.reconciler import PassReport, Reconciler
from capsule.transport.api import Transport
from capsule.transport.http import HttpTransport
from capsule.transport.routing import MadeWhenNeeded, Transports
from capsule_agent.protocol.sshsig import BadKey, PrivateKey, PublicKey


def make_transport(ca_files: Mapping[str, Path] | None = None, ssh: SshAccess | None = None) -> Transport:
    """What carries calls to agents. `ca_files` are private CAs by the name that `spec.agent.ca` uses."""
    http = HttpTransport(ca_files=ca_files)
    behind_sshd = MadeWhenNeeded(lambda: ssh_transport(ssh or SshAccess()))
    return Transports({"http": http, "https": http, "unix": http, "ssh": behind_sshd})


@contextmanager
def ready(
    repository: Repository,
    *,
    key: Path | None = None,
    name: str | None = None,
    ca_files: Mapping[str, Path] | None = None,
    ssh: SshAccess | None = None,
) -> Iterator[Reconciler]:
    """The reconciler of this repository, which it owns until left.

    `key` is its private key file (the one `capsule init` made, when None); `name` its principal (whoever
    the policy lists the key for, when None). `ssh` is how agents behind sshd are reached; without keys in
    it, the reconciler logs in with its own. Raises SetUpProblem, RefusedByPolicy, RepositoryBusy.
    """
    repository.require_pinned()
    repository.require_history("a reconciler proves what it builds on")
    file = key or repository.location.git_dir / RECONCILER_KEY
    private = read_key(file)
    principal = machine_of(repository.state.policy.document, private.public, name)
    access = ssh or SshAccess()
    transport = make_transport(ca_files, access if access.keys else replace(access, keys=(file,)))
    try:
        with repository.store.owner_lock():
            yield Reconciler(repository.store, transport, private, name=principal, root=repository.root)
    finally:
        transport.close()


def once(reconciler: Reconciler) -> PassReport:
    """Passes until nothing changes and nothing is under way."""
    return run_once(reconciler)


def keep_reconciling(reconciler: Reconciler, repository: Repository, stop: threading.Event) -> None:
    """Passes until `stop` is set."""
    run(reconciler, stop, poll=POLL_REMOTE if repository.store.has_remote() else POLL_LOCAL)


def read_key(file: Path) -> PrivateKey:
    """A reconciler's private key, which nobody else may read. Raises SetUpProblem."""
    try:
        mode = file.stat().st_mode
        data = file.read_bytes()
    except OSError as error:
        raise SetUpProblem(
            "ReconcilerKeyMissing",
            f"cannot read the reconciler's key {file}: {error.strerror}",
            "It lies where `capsule init` was run; name it with --key FILE. For a new one:\n"
            f"  ssh-keygen -t ed25519 -N '' -C reconciler -f {file}\n"
            "and have an owner list its public half as a machine in policy.yaml.",
        ) from None
    if mode & 0o077:
        raise SetUpProblem(
            "ReconcilerKeyOpen", f"others can read the reconciler's key {file}", f"chmod 600 {file}"
        )
    try:
        return PrivateKey.from_openssh(data)
    except BadKey as error:
        raise SetUpProblem("ReconcilerKeyUnusable", f"{file}: {error}") from None


def machine_of(policy: Policy, public: PublicKey, name: str | None) -> str:
    """The machine that `policy` lists `public` for. Raises RefusedByPolicy."""
    for principal, entry in policy.spec.principals.items():
        if not any(PublicKey.parse(text) == public for text in entry.keys):
            continue
        if not entry.machine:
            raise RefusedByPolicy(
                "NotAMachine", f"the key belongs to {principal}, a person: people do not reconcile"
            )
        if name not in (None, principal):
            raise RefusedByPolicy("OtherName", f"the key belongs to {principal}, not to {name}")
        return principal
    raise RefusedByPolicy(
        "UnknownMachine",
        f"the policy in force lists the key {public.fingerprint} for no machine",
        "Ask an owner to list it in policy.yaml:\n"
        f'  reconciler-2: {{machine: true, keys: ["{public.text}"]}}',
    )
