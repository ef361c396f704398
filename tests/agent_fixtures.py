"""Keys from seeds, and everything a reconciler sends an agent, signed: for tests of agents and of callers.

Rules kept: the same seed gives the same key, so no key lies in the tree. Called by tests only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from capsule_agent import Agent, FoundKey, Health, NewKey, Rotation
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.ids import desired_state_id, operation_id, request_digest
from capsule_agent.protocol.messages import (
    Approval,
    ApprovedRequest,
    Envelope,
    Evidence,
    Order,
    Query,
    Receipt,
    Report,
    SignedText,
    SignerEntry,
    Signers,
    SignersList,
    decode,
    encode,
    instant_text,
)
from capsule_agent.protocol.sshsig import PrivateKey

REPOSITORY = "6f1c" * 10
SERVICE = "openai-chat"
REQUEST = "20261123-rotate-openai-chat-k3f9"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def seed(name: str) -> bytes:
    """32 bytes that belong to `name`."""
    return hashlib.sha256(f"capsule test key {name}".encode()).digest()


def key(name: str) -> PrivateKey:
    """The key of `name`."""
    return PrivateKey.from_seed(seed(name))


def write_key(path: Path, name: str) -> Path:
    """The private key of `name` as an OpenSSH file with mode 0600, and `<path>.pub` beside it."""
    private = Ed25519PrivateKey.from_private_bytes(seed(name))
    path.touch(0o600)
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    Path(f"{path}.pub").write_text(key(name).public.text + f" {name}\n")
    return path


def write_owners(folder: Path, *names: str) -> Path:
    """A folder of owners' public keys."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("owner",):
        (folder / f"{name}.pub").write_text(key(name).public.text + f" {name}\n")
    return folder


def sign_text(document: bytes, name: str, namespace: str) -> SignedText:
    """A document signed by `name`."""
    return SignedText(document.decode(), key(name).sign(document, namespace))


PRINCIPALS: Mapping[str, Sequence[Any]] = {
    "alice": ["request"],
    "bob": ["approve", "request"],
    "carol": ["approve"],
    "reconciler-1": ["order"],
}


def signers_list(
    serial: int = 1,
    principals: Mapping[str, Sequence[Any]] = PRINCIPALS,
    owners: Sequence[str] = ("owner",),
    repository: str = REPOSITORY,
) -> SignersList:
    """Who may sign, signed by owners; each principal's key is the key of its name."""
    entries = {name: SignerEntry((key(name).public.text,), tuple(may)) for name, may in principals.items()}
    document = Signers(repository, serial, entries).to_json()
    return SignersList(document.decode(), tuple(key(o).sign(document, sshsig.SIGNERS) for o in owners))


@dataclass(frozen=True)
class Ask:
    """One request with its approvals and its order; change a field to make one of them wrong."""

    action: str = "rotateKey"
    params: Mapping[str, Any] = field(default_factory=lambda: {"grace": "24h"})
    request: str = REQUEST
    service: str = SERVICE
    repository: str = REPOSITORY
    requester: str = "alice"
    approvers: tuple[str, ...] = ("bob",)
    reconciler: str = "reconciler-1"
    attempt: int = 1
    text: str = "apiVersion: capsule/v1\nkind: ActionRequest\n"
    expires: datetime = NOW + timedelta(days=7)
    not_after: datetime = NOW + timedelta(minutes=5)
    signers: SignersList | None = field(default_factory=signers_list)

    @property
    def request_bytes(self) -> bytes:
        return f"{self.text}# {self.request} {self.action} {dict(self.params)}\n".encode()

    @property
    def digest(self) -> str:
        return request_digest(self.request_bytes)

    @property
    def op_id(self) -> str:
        return operation_id(self.repository, self.request, self.digest, self.service)

    def approval(self, principal: str, **changes: Any) -> Approval:
        """The approval that `principal` gives, with fields of it or of its request changed."""
        shown = ApprovedRequest(self.request, self.digest, self.requester, self.action, self.params)
        of_request = {name: changes.pop(name) for name in list(changes) if hasattr(shown, name)}
        approval = Approval(
            repository=self.repository,
            principal=principal,
            decision="approve",
            request=replace(shown, **of_request),
            targets={self.service: "sha256:" + "41ab" * 16},
            expires=instant_text(self.expires),
        )
        return replace(approval, **changes)

    def signed_approval(self, principal: str, by: str = "", **changes: Any) -> SignedText:
        """That approval, signed by `principal` or another."""
        return sign_text(self.approval(principal, **changes).to_json(), by or principal, sshsig.APPROVAL)

    def evidence(self, *approvals: SignedText) -> Evidence:
        """The signed request with the approvals given, or else those of `approvers`."""
        return Evidence(
            sign_text(self.request_bytes, self.requester, sshsig.REQUEST),
            approvals or tuple(self.signed_approval(name) for name in self.approvers),
        )

    def order(self) -> Order:
        return Order(
            repository=self.repository,
            op_id=self.op_id,
            service=self.service,
            action=self.action,
            params=self.params,
            request=self.request,
            request_digest=self.digest,
            attempt=self.attempt,
            not_after=instant_text(self.not_after),
            reconciler=self.reconciler,
        )

    def envelope(
        self, order: Order | None = None, evidence: Evidence | None = None, by: str = ""
    ) -> Envelope:
        """The order as it is sent; without `evidence` the right one."""
        return seal(order or self.order(), by or self.reconciler, evidence or self.evidence(), self.signers)

    def query(self, *, tombstone: bool = False) -> Envelope:
        asked = Query(
            repository=self.repository,
            op_id=self.op_id,
            service=self.service,
            attempt=self.attempt,
            not_after=instant_text(self.not_after),
            reconciler=self.reconciler,
            tombstone=tombstone,
        )
        return seal(asked, self.reconciler, None, self.signers)


def desired(action: str, generation: int, **params: Any) -> Envelope:
    """A desired-state order: no request, a generation."""
    digest = "sha256:" + hashlib.sha256(f"{action} {params}".encode()).hexdigest()
    order = Order(
        repository=REPOSITORY,
        op_id=desired_state_id(REPOSITORY, SERVICE, digest, generation),
        service=SERVICE,
        action=action,
        params={"generation": generation, **params},
        request="",
        request_digest=digest,
        attempt=1,
        not_after=instant_text(NOW + timedelta(minutes=5)),
        reconciler="reconciler-1",
    )
    return seal(order, "reconciler-1", None, signers_list())


def seal(
    call: Order | Query, by: str, evidence: Evidence | None = None, signers: SignersList | None = None
) -> Envelope:
    """The envelope of an order or query, signed by `by`."""
    payload = call.to_json()
    return Envelope(payload.decode(), key(by).sign(payload, sshsig.ORDER), evidence, signers)


def body(envelope: Envelope) -> bytes:
    """The envelope as it is sent."""
    return json.dumps(encode(envelope)).encode()


def read_receipt(answer: bytes | str, agent_key: str = "agent") -> Receipt:
    """The receipt in an answer, its signature checked."""
    envelope = decode(Envelope, answer.encode() if isinstance(answer, str) else answer, max_bytes=2**20)
    sshsig.verify(envelope.payload.encode(), envelope.signature, sshsig.RECEIPT, [key(agent_key).public])
    return decode(Receipt, envelope.payload.encode())


def read_report(answer: bytes | str, agent_key: str = "agent") -> Report:
    """The report in an answer, its signature checked."""
    envelope = decode(Envelope, answer.encode() if isinstance(answer, str) else answer, max_bytes=2**20)
    sshsig.verify(envelope.payload.encode(), envelope.signature, sshsig.REPORT, [key(agent_key).public])
    return decode(Report, envelope.payload.encode())


class KeyStore:
    """A key store in memory, and the upstream and the service's own key slot beside it.

    `tags`: whether it has tags. `history` lists the ids of keys that were switched to. `before` is called
    with the name of each step before it, and may raise.
    """

    def __init__(self, *, tags: bool = True, before: Callable[[str], None] = lambda _: None) -> None:
        self.tags = tags
        self.before = before
        self.after: Callable[[str], None] = lambda _: None
        self.keys: dict[str, str] = {"key-0": ""}
        self.in_use = "key-0"
        self.created = 0
        self.history: list[str] = []

    def create(self, tag: str) -> NewKey:
        self.before("create")
        self.created += 1
        made = f"key-{self.created}"
        self.keys[made] = tag
        self.after("create")
        return NewKey(made, f"secret-of-{made}-{self.created:020}")

    def verify(self, new: NewKey) -> None:
        self.before("verify")
        if new.id not in self.keys:
            raise ValueError(f"{new.secret} does not work")
        self.after("verify")

    def switch(self, new: NewKey) -> None:
        self.before("switch")
        self.in_use = new.id
        self.history.append(new.id)
        self.after("switch")

    def revoke(self, key_id: str) -> None:
        self.before("revoke")
        self.keys.pop(key_id, None)
        self.after("revoke")

    def find(self) -> list[FoundKey]:
        self.before("find")
        return [
            FoundKey(name, name == self.in_use, tag if self.tags else None) for name, tag in self.keys.items()
        ]

    def rotation(self, grace: str = "24h") -> Rotation:
        return Rotation(
            self.create, self.verify, self.switch, self.revoke, self.find, grace, patience=(0.0, 0.0)
        )


def make_agent(folder: Path, *, clock: Callable[[], datetime] = lambda: NOW, **options: Any) -> Agent:
    """An agent of SERVICE with its own journal, owners and key under `folder`, not yet declared further."""
    owners = folder / "owners"
    if not owners.exists():
        write_owners(owners, "owner")
    chosen: dict[str, Any] = {"journal": folder / "agent.db", "owners": owners, "key": key("agent")}
    return Agent(SERVICE, version="1.8.2", clock=clock, **(chosen | options))


def healthy() -> Health:
    """The health of a service that has none of its own."""
    return Health("UP", "all is well")
