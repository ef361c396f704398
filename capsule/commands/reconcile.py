"""`capsule reconcile`, and the reconciling half of `up` and `demo`: a reconciler made ready to run.

Rules kept: one reconciler owns a repository on this machine; its key is read by nobody else; it acts only
under a root that a person pinned, and as the machine that the policy in force lists the key for. Files
that are read again are taken over together, or not at all, and only by calls that begin later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from capsule.commands.errors import CommandError, RefusedByPolicy, SetUpProblem
from capsule.commands.forge_access import connector
from capsule.commands.init import RECONCILER_KEY
from capsule.commands.reconciler_memory import Memory
from capsule.commands.repository import Repository
from capsule.commands.ssh_access import SshAccess, check_ssh_config, ssh_transport
from capsule.daemon import POLL_LOCAL, POLL_REMOTE, Manager, NotTakenOver, Turn, Wishes, run, run_once
from capsule.documents.types import Policy
from capsule.reconciler import PassReport, Reconciler
from capsule.reconciler.watcher import Watcher
from capsule.transport.api import Transport, TransportError
from capsule.transport.http import HttpTransport
from capsule.transport.http_connection import tls_context
from capsule.transport.replaceable import Replaceable
from capsule.transport.routing import MadeWhenNeeded, Transports
from capsule.trust.key_validity import key_text
from capsule_agent.protocol.sshsig import BadKey, PrivateKey, PublicKey


@dataclass(frozen=True, slots=True)
class Files:
    """What a reconciler is given in files: its key (None: the one `capsule init` made), private CAs by the
    name that `spec.agent.ca` uses, how agents behind sshd are reached (without keys, with its own), the token
    for the API of the forge that the settings name (None: reviews there are not asked for)."""

    key: Path | None = None
    cas: Mapping[str, Path] = field(default_factory=dict)
    ssh: SshAccess = field(default_factory=SshAccess)
    forge_token: Path | None = None


class ExchangeableKey:
    """A Signer in front of a private key, until `exchange` puts another there."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    @property
    def public(self) -> PublicKey:
        """The public half of the present key."""
        return self._key.public

    def sign(self, message: bytes, namespace: str) -> str:
        """The armored SSHSIG of `message` in `namespace`, by the present key."""
        return self._key.sign(message, namespace)

    def exchange(self, key: PrivateKey) -> None:
        """Sign with `key` from now on."""
        self._key = key


@dataclass(frozen=True, slots=True)
class Ready:
    """A reconciler that may run, what reads its files again (it says what it took over, or raises
    NotTakenOver, and then everything is as before), and where it keeps what it verified."""

    reconciler: Reconciler
    reread: Callable[[], str]
    memory: Memory


def make_transport(ca_files: Mapping[str, Path] | None = None, ssh: SshAccess | None = None) -> Transport:
    """What carries calls to agents. `ca_files` are private CAs by the name that `spec.agent.ca` uses."""
    http = HttpTransport(ca_files=ca_files)
    behind_sshd = MadeWhenNeeded(lambda: ssh_transport(ssh or SshAccess()))
    return Transports({"http": http, "https": http, "unix": http, "ssh": behind_sshd})


@contextmanager
def ready(
    repository: Repository,
    files: Files | None = None,
    *,
    name: str | None = None,
    watcher: Watcher | None = None,
) -> Iterator[Ready]:
    """The reconciler of this repository, which it owns until left.

    `name` is its principal (whoever the policy lists the key for, when None). `watcher` is told what passes
    do. Raises SetUpProblem, RefusedByPolicy, RepositoryBusy.
    """
    repository.require_pinned()
    repository.require_history("a reconciler proves what it builds on")
    files = files or Files()
    files = replace(files, key=files.key or repository.location.git_dir / RECONCILER_KEY)
    key, carrier = _read(files)
    principal = machine_of(repository.policy, key.public, name)
    signer, transport = ExchangeableKey(key), Replaceable(carrier)

    def reread() -> str:
        try:
            new_key, new_carrier = _check(files, reconciler)
            policy = reconciler.in_force or repository.state
            machine_of(policy.policy.document, new_key.public, principal)
        except CommandError as error:
            raise NotTakenOver(f"{error.reason}: {error}") from None
        changed = new_key.public != signer.public
        signer.exchange(new_key)
        transport.replace(new_carrier)
        return "Key, CAs and SSH access were read again" + (
            f"; the key is another one: {new_key.public.fingerprint}" if changed else ""
        )

    try:
        with repository.store.owner_lock():
            memory = Memory(repository.location.git_dir, repository.root, repository.store)
            reconciler = Reconciler(
                repository.store,
                transport,
                signer,
                name=principal,
                root=repository.root,
                watcher=watcher,
                connect=connector(files.forge_token),
                before=memory.recall(),
            )
            yield Ready(reconciler, reread, memory)
            memory.keep(reconciler.remembered)
    finally:
        transport.close()


def once(reconciler: Reconciler) -> PassReport:
    """Passes until nothing changes and nothing is under way."""
    return run_once(reconciler)


def keep_reconciling(
    made: Ready,
    repository: Repository,
    wishes: Wishes,
    *,
    manager: Manager | None = None,
    turned: Sequence[Callable[[Turn], None]] = (),
) -> None:
    """Passes until there is a wish to stop; `turned` are told of each."""

    def kept(turn: Turn) -> None:
        if turn.read:
            made.memory.keep_when_due(made.reconciler.remembered)

    run(
        made.reconciler,
        wishes,
        poll=rhythm(repository),
        manager=manager,
        turned=(*turned, kept),
        reread=made.reread,
    )


def rhythm(repository: Repository) -> float:
    """Seconds between two passes."""
    return POLL_REMOTE if repository.store.has_remote() else POLL_LOCAL


def runs_here(repository: Repository) -> bool:
    """Whether a reconciler's key lies where `capsule reconcile` looks for it."""
    return (repository.location.git_dir / RECONCILER_KEY).exists()


def reconcilers(repository: Repository) -> str:
    """The machines of the policy in force by name, for people who have to find whoever runs them."""
    principals = repository.state.policy.document.spec.principals
    return ", ".join(name for name, entry in principals.items() if entry.machine) or "the reconciler"


def _read(files: Files) -> tuple[PrivateKey, Transport]:
    if files.key is None:
        raise ValueError("no key file")
    access = files.ssh if files.ssh.keys else replace(files.ssh, keys=(files.key,))
    return read_key(files.key), make_transport(files.cas, access)


def _check(files: Files, reconciler: Reconciler) -> tuple[PrivateKey, Transport]:
    """As `_read`, and everything is opened that would otherwise be opened at the first call."""
    for name, file in files.cas.items():
        try:
            tls_context(os.fspath(file), pinned=False)
        except OSError as error:
            why = error.strerror or error
            raise SetUpProblem(
                "CaUnknown", f"the file of the CA {name!r} cannot be read as PEM certificates: {why}"
            ) from None
    state = reconciler.in_force
    try:
        services = state.services.values() if state else ()
        check_ssh_config(files.ssh, (each.document.spec.agent for each in services))
    except TransportError as error:
        raise SetUpProblem(error.reason, str(error)) from None
    return _read(files)


def read_key(file: Path) -> PrivateKey:
    """A reconciler's private key, which nobody else may read. Raises SetUpProblem."""
    try:
        status = file.stat()
        data = file.read_bytes()
    except OSError as error:
        raise SetUpProblem(
            "ReconcilerKeyMissing",
            f"cannot read the reconciler's key {file}: {error.strerror}",
            "It lies where `capsule init` was run; name it with --key FILE. For a new one:\n"
            f"  ssh-keygen -t ed25519 -N '' -C reconciler -f {file}\n"
            "and have an owner list its public half as a machine in policy.yaml.",
        ) from None
    if others_read(status, os.geteuid()):
        raise SetUpProblem(
            "ReconcilerKeyOpen", f"others can read the reconciler's key {file}", f"chmod 600 {file}"
        )
    try:
        return PrivateKey.from_openssh(data)
    except BadKey as error:
        raise SetUpProblem("ReconcilerKeyUnusable", f"{file}: {error}") from None


def others_read(status: os.stat_result, user: int) -> bool:
    """Whether others than `user`, who reads a key, may read or write it. A service manager hands out files of
    root's own, whose group bits are the mask of an access list and say nothing of a group."""
    handed_out = status.st_uid == 0 and user != 0
    return bool(status.st_mode & (0o007 if handed_out else 0o077))


def machine_of(policy: Policy, public: PublicKey, name: str | None) -> str:
    """The machine that `policy` lists `public` for. Raises RefusedByPolicy."""
    for principal, entry in policy.spec.principals.items():
        if not any(PublicKey.parse(key_text(text)) == public for text in entry.keys):
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
