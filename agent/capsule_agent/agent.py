"""The agent an adapter declares: its config, health, actions and rotation, and where it listens.

Rules kept: a mistake in a declaration is an error at start, in plain words; nothing is done in a process
before it is served or started. Called by the authors of adapters; this is the public face of the package.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import ssl
import stat
import tempfile
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from capsule_agent import asgi, server, wsgi
from capsule_agent.builtin import configure_action, health_action, rotation_action, switch_actions
from capsule_agent.calls import Answer, Calls
from capsule_agent.declare import Action, ConfigItem, Health, HealthProbe
from capsule_agent.execute import Executor
from capsule_agent.journal import Journal
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Danger, Envelope, EvidenceKind, encode
from capsule_agent.protocol.sshsig import BadKey, PrivateKey, PublicKey, Signer
from capsule_agent.report import build_report
from capsule_agent.resume import Resumer
from capsule_agent.rotation import Rotation, Rotator
from capsule_agent.sensitive import Redactor
from capsule_agent.values import (
    MAX_ITEMS,
    WORD,
    DeclarationError,
    field_of,
    fields_of,
    is_plain,
    outputs_of,
    params_of,
)

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Agent:
    """The agent of one integration service.

    `service`: its name in the state repository. `version`: the adapter's own. `journal`: file of the
    journal (a folder of its own, writable, kept across restarts). `owners`: folder of `*.pub` files whose
    keys may sign the list of signers. `key`: OpenSSH private key file (or a key) that signs receipts and
    reports. `observe`: only report; then neither owners, key nor journal are needed. `repository`: pins the
    state repository's id; without it the first owner-signed list does. `answer_within`: seconds after which
    an order that still runs is answered `running`. `health_within`: seconds a health check may take.

    Raises DeclarationError, JournalError.
    """

    def __init__(
        self,
        service: str,
        *,
        version: str,
        journal: str | os.PathLike[str] | None = None,
        owners: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | Signer | None = None,
        observe: bool = False,
        repository: str | None = None,
        answer_within: float = 25.0,
        health_within: float = 4.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not _NAME.fullmatch(service):
            raise DeclarationError(f"service {service!r}: expected a name such as openai-chat")
        if not is_plain(version) or not 0 < len(version) <= 100:
            raise DeclarationError(f"version {version!r}: expected one line of 1 to 100 characters")
        if not observe and (journal is None or owners is None or key is None):
            raise DeclarationError("expected journal, owners and key, or observe=True")
        self.service = service
        self.version = version
        self.observe = observe
        self._clock = clock
        self._keeps_fingerprints = journal is not None
        self._journal = Journal(_throwaway_journal(self) if journal is None else journal, service)
        self._key = _load_key(key)
        self._redactor = Redactor(self._journal.fingerprint_secret)
        self._items: dict[str, ConfigItem] = {}
        self._probe = HealthProbe(self._redactor, health_within)
        self._actions: dict[str, Action] = {}
        self._executor: Executor | None = None
        if not observe:
            assert self._key is not None
            assert owners is not None
            folder = Path(owners)
            _load_owners(folder)
            self._executor = Executor(
                service=service,
                version=version,
                journal=self._journal,
                key=self._key,
                owners=lambda: _load_owners(folder),
                redactor=self._redactor,
                clock=clock,
                answer_within=answer_within,
                repository=repository,
                actions=self._actions,
            )
        self._resumer = Resumer(self._executor)
        self._add_builtin(health_action(self._probe))
        for action in switch_actions(self._journal, clock):
            self._add_builtin(action)

    # ---- declarations ---------------------------------------------------------------------------

    def config(
        self,
        name: str,
        read: Callable[[], Any],
        *,
        set: Callable[[Any], object] | None = None,
        sensitive: bool = False,
        approvals: int = 0,
        kind: Any = str,
    ) -> None:
        """Declare a configuration value that reports show.

        `read` gives the value now. `set` lets orders change it; `approvals` of them are then needed, for a
        value that could leak a credential. `sensitive`: only a keyed fingerprint leaves. `kind`: str, int,
        bool, a Literal of these, or a Field, whose default is shown and never set by itself. Raises
        DeclarationError.
        """
        if not WORD.fullmatch(name) or name == "generation":
            raise DeclarationError(f"config {name!r}: expected a word of ASCII letters and digits")
        if name in self._items:
            raise DeclarationError(f"config {name!r} is declared twice")
        if len(self._items) >= MAX_ITEMS:
            raise DeclarationError(f"config {name!r}: expected at most {MAX_ITEMS} items")
        if sensitive and set is not None:
            raise DeclarationError(f"config {name!r}: a sensitive value cannot be set, it would be in git")
        found = field_of(kind, where=f"config {name!r}")
        value = dataclasses.replace(found, approvals=max(approvals, found.approvals))
        self._items[name] = ConfigItem(name, read, set, sensitive, value)
        if sensitive:
            self._redactor.watch(read)
        configure = configure_action(self._items)
        if configure is not None:
            self._add_builtin(configure)

    def health(self, function: Callable[[], Health]) -> Callable[[], Health]:
        """Decorator: the function that says how the service is."""
        self._probe.ask = function
        return function

    def action(
        self,
        name: str,
        *,
        params: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        danger: Danger = "low",
        approvals: int = 0,
        evidence: EvidenceKind = "signature",
        idempotent: bool = False,
        break_glass: bool = False,
    ) -> Callable[[_Function], _Function]:
        """Decorator: an action that orders may name.

        The function's annotated parameters are the action's (str, int, bool, Literal, or a Field given in
        `params`); a first parameter called `order` is given the order. Its outputs are the fields of the
        dataclass or TypedDict it returns, or those of `outputs`; nothing else leaves. `approvals`: how many
        people's signed approvals an order must carry. `evidence`: weaker than "signature" trusts the
        reconciler. `idempotent`: run again when it was interrupted. `break_glass`: done without approvals,
        too, for whoever the list of signers lets break the glass. Raises DeclarationError.
        """
        if not WORD.fullmatch(name):
            raise DeclarationError(f"action {name!r}: expected a word of ASCII letters and digits")
        if name in self._actions and name != "runHealthCheck":
            raise DeclarationError(f"action {name!r} exists already")
        if len(self._actions) >= MAX_ITEMS:
            raise DeclarationError(f"action {name!r}: expected at most {MAX_ITEMS} actions")

        def declare(function: _Function) -> _Function:
            declared = fields_of(params, "parameter") if params is not None else {}
            takes_order, found = params_of(function, declared)
            default = self._actions[name].outputs if name in self._actions else {}
            of_return = outputs_of(function) or default
            self._actions[name] = Action(
                name=name,
                run=function,
                takes_order=takes_order,
                params=found,
                outputs=of_return if outputs is None else fields_of(outputs, "output"),
                danger=danger,
                approvals=approvals,
                evidence=evidence,
                idempotent=idempotent,
                break_glass=break_glass,
            )
            return function

        return declare

    def rotation(
        self,
        rotation: Rotation,
        *,
        approvals: int = 1,
        evidence: EvidenceKind = "signature",
        break_glass: bool = False,
    ) -> None:
        """Declare how the service's key is rotated: registers rotateKey."""
        rotator = Rotator(rotation, self._journal, self._redactor, self._clock)
        action = rotation_action(rotation, rotator, approvals, evidence)
        self._add_builtin(dataclasses.replace(action, break_glass=break_glass))
        if self._executor is not None:
            self._executor.rotator = rotator

    def _add_builtin(self, action: Action) -> None:
        self._actions[action.name] = action

    # ---- the enabled guard ----------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Whether the service may take traffic."""
        return self._journal.state().enabled

    def _why_disabled(self) -> str | None:
        state = self._journal.state()
        return None if state.enabled else self._redactor.line(state.disabled_reason)

    def guard_wsgi(self, app: wsgi.WsgiApp) -> wsgi.WsgiApp:
        """`app`, answering 503 while disabled; /capsule/v1/… always reaches it."""
        return wsgi.guard(app, self._why_disabled)

    def guard_asgi(self, app: asgi.AsgiApp) -> asgi.AsgiApp:
        """`app`, answering 503 while disabled; /capsule/v1/… always reaches it."""
        return asgi.guard(app, self._why_disabled)

    # ---- serving --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin this process's background work: ending what was interrupted, revoking what is due.

        Serving does it by itself; call it where the agent is declared but served by another process.
        """
        self._resumer.start()

    def close(self) -> None:
        """End this process's background work."""
        self._resumer.close()

    def wsgi(self, app: wsgi.WsgiApp | None = None) -> wsgi.WsgiApp:
        """A WSGI application: the agent in front of `app`, which gets 503 while disabled.

        Without `app` it is the agent alone, to be mounted at /capsule or at the root of a prefix.
        """
        self.start()
        agent = wsgi.wsgi_app(self._calls(), self.start)
        return agent if app is None else wsgi.in_front(agent, self.guard_wsgi(app))

    def asgi(self, app: asgi.AsgiApp | None = None) -> asgi.AsgiApp:
        """An ASGI application: the agent in front of `app`, which gets 503 while disabled.

        Without `app` it is the agent alone, to be mounted at /capsule or at the root of a prefix.
        """
        self.start()
        agent = asgi.asgi_app(self._calls(), self.start)
        return agent if app is None else asgi.in_front(agent, self.guard_asgi(app))

    def serve(
        self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None
    ) -> server.ServerHandle:
        """Serve in threads of its own; the handle has `address` and `close()`."""
        self.start()
        return server.serve(self._calls(), host, port, tls)

    def serve_unix(self, path: str | os.PathLike[str], *, mode: int = 0o600) -> server.ServerHandle:
        """Serve on a Unix socket in threads of its own; the handle has `address` and `close()`."""
        self.start()
        return server.serve_unix(self._calls(), path, mode)

    def answer(self, path: str, body: bytes) -> Answer:
        """Answer one call without a server: for tests, and for transports of the adapter's own."""
        return self._calls().answer(path, body)

    def _calls(self) -> Calls:
        run = self._executor
        return Calls(self._report, run.order if run else None, run.query if run else None)

    def _report(self, nonce: str) -> str:
        items = [item for item in self._items.values() if self._keeps_fingerprints or not item.sensitive]
        report = build_report(
            service=self.service,
            version=self.version,
            nonce=nonce,
            observe=self.observe,
            items=items,
            actions=self._actions,
            probe=self._probe,
            journal=self._journal,
            redactor=self._redactor,
            now=self._clock(),
        )
        payload = report.to_json().decode()
        signature = self._key.sign(payload.encode(), sshsig.REPORT) if self._key else ""
        return json.dumps(encode(Envelope(payload=payload, signature=signature)), ensure_ascii=False)


def _load_key(key: str | os.PathLike[str] | Signer | None) -> Signer | None:
    if key is None or not isinstance(key, str | os.PathLike):
        return key
    path = Path(key)
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise DeclarationError(f"key {path}: others may read it; chmod 600 it")
        return PrivateKey.from_openssh(path.read_bytes())
    except OSError as error:
        raise DeclarationError(
            f"key {path}: {error.strerror}; make one: capsule-agent keygen --out {shlex.quote(str(path))}"
        ) from None
    except BadKey as error:
        raise DeclarationError(f"key {path}: {error}") from None


def _load_owners(folder: Path) -> tuple[PublicKey, ...]:
    """Read anew for every call, so that a changed owner needs no restart."""
    found = []
    for path in sorted(folder.glob("*.pub")):
        for line in path.read_text("utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                try:
                    found.append(PublicKey.parse(line))
                except BadKey as error:
                    raise DeclarationError(f"owners {path}: {error}") from None
    if not found:
        raise DeclarationError(f"owners {folder}: expected a folder with at least one *.pub file")
    return tuple(found)


def _throwaway_journal(agent: Agent) -> Path:
    """An observing agent without a journal still needs somewhere to keep its state while it runs."""
    folder = tempfile.TemporaryDirectory(prefix="capsule-agent-")
    weakref.finalize(agent, folder.cleanup)
    return Path(folder.name) / "agent.db"
