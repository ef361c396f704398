"""A small world for tests of whole passes: people, a policy, a state repository, agents that really run.

Rules kept: everything is the real thing (documents, signatures, trust, agents with their journals) but for
the network and the clock. Called by tests of the reconciler.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from capsule.documents.codec import emit, load_as
from capsule.documents.digests import bytes_digest, target_digest
from capsule.documents.paths import AUDIT, MAIN, REQUEST_BRANCHES, RequestFolder
from capsule.documents.types import ActionRequest, Capsule, Policy, Service
from capsule.reconciler import PassReport, Reconciler
from capsule.store.api import Draft, Person, RefUpdate, Store
from capsule.testing.memory_store import MemoryStore
from capsule.testing.memory_transport import MemoryTransport
from capsule.transport.api import CallName, TransportError
from capsule.trust.objects import file_bytes, parse_commit
from capsule.trust.objects import files as all_files
from capsule.trust.published import signers_document
from capsule_agent import Agent
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Approval, ApprovedRequest
from tests.agent_fixtures import KeyStore, healthy, key, write_owners

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass
class TestClock:
    """A clock that moves when told, in wall and monotonic time alike."""

    __test__ = False
    at: datetime = START
    ticks: float = 0.0
    _nonces: Any = field(default_factory=lambda: itertools.count(1))

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.ticks

    def nonce(self) -> str:
        return f"{next(self._nonces):032x}"

    def advance(self, **amount: float) -> None:
        step = timedelta(**amount)
        self.at += step
        self.ticks += step.total_seconds()


def plain(
    kind: type[Any], name: str, spec: Mapping[str, Any], labels: Mapping[str, str] | None = None
) -> Any:
    """A document from plain values, spelled as in files."""
    metadata = {"name": name, **({"labels": dict(labels)} if labels else {})}
    value = {"apiVersion": "capsule/v1", "kind": kind.__name__, "metadata": metadata, "spec": dict(spec)}
    return kind.model_validate(value, by_alias=True, by_name=False)


def principal(name: str, **more: Any) -> dict[str, Any]:
    return {"email": f"{name}@example.com", "keys": (key(name).public.text,), **more}


POLICY: dict[str, Any] = {
    "serial": 1,
    "principals": {
        "alice": principal("alice"),
        "bob": principal("bob"),
        "carol": principal("carol"),
        "reconciler-1": principal("reconciler-1", machine=True),
        "reconciler-2": principal("reconciler-2", machine=True),
    },
    "teams": {"operators": ("alice",), "reviewers": ("bob", "carol"), "owners": ("carol",)},
    "rules": (
        {"match": {"action": "runHealthCheck"}, "mayRequest": ("operators",), "approvals": ()},
        {"match": {"action": "cancel"}, "mayRequest": ("operators",), "approvals": ()},
        {
            "match": {"action": "*"},
            "mayRequest": ("operators",),
            "approvals": ({"team": "reviewers", "count": 1},),
        },
        {
            "match": {"change": "service"},
            "mayRequest": ("operators",),
            "approvals": (),
        },
    ),
}


class Town:
    """A state repository with its people and agents; `store` is any Store."""

    def __init__(
        self,
        folder: Path,
        store: Store | None = None,
        services: Sequence[str] = ("openai-chat",),
        policy: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.policy = policy or POLICY
        self.settings = settings or {}
        self.store: Store = store or MemoryStore()
        self.clock = TestClock()
        self.transport = MemoryTransport()
        self.agents: dict[str, Agent] = {}
        self.keys: dict[str, KeyStore] = {}
        self.models: dict[str, str] = {}
        self.places: dict[str, str] = {}
        """Where documents of services lie that were moved."""
        self.root = self._found(services)
        for name in services:
            self.start_agent(name)

    # ---- the repository -------------------------------------------------------------------------

    def _found(self, services: Sequence[str]) -> str:
        files: dict[str, bytes | None] = {
            "capsule.yaml": emit(
                plain(Capsule, "capsule", {"title": "Town", "limits": {"maxShare": 100}, **self.settings})
            ),
            "policy.yaml": emit(plain(Policy, "policy", self.policy)),
            **{f"services/{name}.yaml": self.service_text(name) for name in services},
        }
        root = self._commit([], files, "Begin", "carol")
        self.store.publish([RefUpdate(MAIN, None, root)])
        policy = plain(Policy, "policy", self.policy)
        document = signers_document(policy, root, 1, self.clock.now()).to_json()
        signature = key("carol").sign(document, sshsig.SIGNERS)
        self.root = root
        self.commit(
            {"signers/signers.json": document, "signers/carol.sig": signature.encode()},
            "Name the signers",
            "carol",
        )
        return root

    def service_text(self, name: str, **spec: Any) -> bytes:
        agent = {"endpoint": f"http://{name}.invalid", "key": key(f"agent {name}").public.text}
        values = {"agent": agent, "pins": {"model": "m1"}, **spec}
        return emit(plain(Service, name, values, {"env": "prod"}))

    def _commit(
        self, parents: Sequence[str], files: Mapping[str, bytes | None], subject: str, who: str
    ) -> str:
        draft = Draft(
            base=parents[0] if parents else None,
            edits=files,
            parents=parents,
            message=f"{subject}\n",
            author=Person(who, f"{who}@example.com"),
            at=self.clock.now(),
            sign=lambda data: key(who).sign(data, sshsig.COMMIT),
        )
        return self.store.write(draft)

    def tip(self, ref: str = MAIN) -> str | None:
        return self.store.refs(ref).get(ref)

    def commit(
        self, files: Mapping[str, bytes | None], subject: str, who: str = "alice", ref: str = MAIN
    ) -> str:
        old = self.tip(ref)
        made = self._commit([old or self.tip(MAIN) or self.root], files, subject, who)
        self.store.publish([RefUpdate(ref, old, made)])
        return made

    def file(self, path: str) -> bytes:
        """The bytes of a file at the tip of main."""
        tip = self.tip()
        data = file_bytes(self.store, parse_commit(self.store.read(tip)[1]).tree, path) if tip else None
        assert data is not None, path
        return data

    def document(self, raw: bytes) -> ActionRequest:
        """The request that `raw` holds."""
        return load_as(ActionRequest, raw, "request.yaml")

    def audit_subjects(self) -> list[str]:
        """The machine's story, oldest first."""
        found: list[str] = []
        at = self.tip(AUDIT)
        while at and at != self.root:
            commit = parse_commit(self.store.read(at)[1])
            found.append(commit.message.split("\n", 1)[0])
            at = commit.parents[0]
        return found[::-1]

    # ---- people ---------------------------------------------------------------------------------

    def request(
        self,
        name: str = "rotate-1",
        *,
        branch: bool = False,
        approved_by: Sequence[str] = ("bob",),
        by: str = "alice",
        merged_by: str | None = None,
        **spec: Any,
    ) -> bytes:
        """Alice (or `by`) signs a request; it is committed with its approvals to main, or to its branch, or
        merged."""
        values = {
            "requestedBy": by,
            "action": "rotateKey",
            "targets": ("openai-chat",),
            "params": {},
            "reason": "Quarterly",
            "expires": "2026-11-30T00:00:00Z",
            **spec,
        }
        document: ActionRequest = plain(ActionRequest, name, values)
        raw = emit(document)
        folder = RequestFolder("2026/11", name)
        files: dict[str, bytes | None] = {
            folder.request: raw,
            folder.signature: key(by).sign(raw, sshsig.REQUEST).encode(),
        }
        for who in approved_by:
            files.update(self.approval(document, raw, who))
        ref, subject = REQUEST_BRANCHES + name if branch else MAIN, f"Ask for {values['action']}"
        tip = self.tip()
        if merged_by and tip:
            side = self._commit([tip], files, subject, by)
            merge = self._commit([tip, side], files, f"Merge {name}", merged_by)
            self.store.publish([RefUpdate(MAIN, tip, merge)])
        else:
            self.commit(files, subject, ref=ref)
        return raw

    def asked_on(self, commit: str, name: str) -> tuple[RequestFolder, dict[str, bytes | None]]:
        """The folder and the files of the request `name` as they stand in `commit`."""
        tree = parse_commit(self.store.read(commit)[1]).tree
        paths = [path for path, _ in all_files(self.store, tree) if f"/{name}/" in path]
        found = RequestFolder.of(next(path for path in paths if path.endswith("/request.yaml")))
        assert found is not None
        return found, {path: file_bytes(self.store, tree, path) for path in paths}

    def approval(
        self,
        document: ActionRequest,
        raw: bytes,
        who: str,
        decision: Any = "approve",
        folder: RequestFolder | None = None,
    ) -> dict[str, bytes]:
        spec = document.spec
        folder = folder or RequestFolder("2026/11", document.metadata.name)
        approval = Approval(
            repository=self.root,
            principal=who,
            decision=decision,
            request=ApprovedRequest(
                document.metadata.name, bytes_digest(raw), spec.requested_by, spec.action, dict(spec.params)
            ),
            targets={name: target_digest(self._service(name)) for name in spec.targets},
            expires=document.model_dump(mode="json", by_alias=True)["spec"]["expires"],
        )
        data = approval.to_json()
        return {
            folder.approval(who): data,
            folder.approval_signature(who): key(who).sign(data, sshsig.APPROVAL).encode(),
        }

    def _service(self, name: str) -> Service:
        path = self.places.get(name, f"services/{name}.yaml")
        return load_as(Service, self.file(path), path)

    # ---- agents ---------------------------------------------------------------------------------

    def start_agent(self, name: str, **options: Any) -> Agent:
        """A real agent with a journal in the town's folder; starting it again keeps the journal."""
        owners = self.folder / "owners"
        if not owners.exists():
            write_owners(owners, "carol")
        agent = Agent(
            name,
            version="1.8.2",
            journal=self.folder / f"{name}.db",
            owners=owners,
            key=key(f"agent {name}"),
            clock=self.clock.now,
            **options,
        )
        store = self.keys.setdefault(name, KeyStore())
        self.models.setdefault(name, "m1")
        agent.config("model", lambda: self.models[name])
        agent.config("apiKey", lambda: f"secret-of-{store.in_use}-{0:020}", sensitive=True)
        agent.health(healthy)
        agent.rotation(store.rotation())
        self.agents[name] = agent
        self.transport.connect(f"http://{name}.invalid", lambda call, body: self._answer(name, call, body))
        return agent

    def _answer(self, name: str, call: CallName, body: bytes) -> bytes:
        answer = self.agents[name].answer(f"/capsule/v1/{call}", body)
        if answer.status != 200:
            raise TransportError("AgentRejectedCall", answer.body.decode(), kind="stalled")
        return answer.body

    # ---- reconcilers ----------------------------------------------------------------------------

    def reconciler(
        self, name: str = "reconciler-1", transport: Any = None, store: Store | None = None
    ) -> Reconciler:
        return Reconciler(
            store or self.store,
            transport or self.transport,
            key(name),
            name=name,
            root=self.root,
            clock=self.clock,
        )

    def settle(self, reconciler: Reconciler, *, most: int = 12) -> PassReport:
        """Pass after pass until one is quiet."""
        report = reconciler.one_pass(patience=5.0)
        for _ in range(most):
            if report.quiet:
                return report
            if report.under_way:
                reconciler.landed.wait(5.0)
            self.clock.advance(seconds=1)
            report = reconciler.one_pass(patience=5.0)
        return report

    def close(self) -> None:
        for agent in self.agents.values():
            agent.close()
