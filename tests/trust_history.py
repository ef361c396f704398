"""A state repository as raw git objects, written by hand: honest histories and hostile ones.

`History` holds objects and the main branch; `step` adds one commit along first parents, signed or not.
`Audit` writes the machine's branch the way a reconciler does. Nothing here is used outside of tests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from capsule.documents.codec import emit, load_as
from capsule.documents.digests import bytes_digest, change_digest, target_digest
from capsule.documents.paths import RequestFolder, StateFolder, change_approval
from capsule.documents.types import (
    ChangedPath,
    Claim,
    ClaimSpec,
    Metadata,
    Refusal,
    RefusalSpec,
    Result,
    ResultSpec,
    Service,
    StateOrder,
    StateOrderSpec,
    StateResult,
    StateResultSpec,
)
from capsule.trust.audit import AuditVerdict, verify_audit
from capsule.trust.mainline import advance, begin
from capsule.trust.objects import MissingObject, ObjectKind
from capsule.trust.state import MainState
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.ids import desired_state_id, operation_id
from capsule_agent.protocol.messages import JournalMark, Receipt
from capsule_agent.protocol.sshsig import PrivateKey

Files = dict[str, bytes]
T0 = 1_764_547_200  # 2025-12-01T00:00:00Z
NOON = 1_795_435_200  # 2026-11-23T12:00:00Z
GENERATION = NOON * 1000
EXPIRES = "2026-11-30T00:00:00Z"
AGENT_KEY = PrivateKey.from_seed(b"agent".ljust(32, b"."))


def key(name: str) -> PrivateKey:
    """The fixed key of the person or machine `name`."""
    return PrivateKey.from_seed(name.encode().ljust(32, b"!"))


def policy_text(
    serial: int = 1,
    *,
    principals: Mapping[str, Sequence[str]] | None = None,
    teams: Mapping[str, Sequence[str]] | None = None,
    rules: Sequence[str] | None = None,
    freezes: str = "",
) -> bytes:
    """A policy: people alice, bob, carol, dave, mallory and the machine reconciler-1, with fixed keys."""
    holders = principals or {who: [who] for who in ("alice", "bob", "carol", "dave", "mallory")}
    lines = [
        "apiVersion: capsule/v1",
        "kind: Policy",
        "metadata: {name: policy}",
        "spec:",
        f"  serial: {serial}",
    ]
    lines.append("  principals:")
    for who, seeds in holders.items():
        keys = ", ".join(f'"{key(seed).public.text}"' for seed in seeds)
        lines.append(f"    {who}: {{email: {who}@example.com, keys: [{keys}]}}")
    machine = key("reconciler-1").public.text
    lines.append(f'    reconciler-1: {{machine: true, keys: ["{machine}"]}}')
    members = teams or {"operators": ["alice"], "reviewers": ["bob", "dave"], "owners": ["bob", "carol"]}
    lines.append("  teams:")
    lines += [f"    {team}: [{', '.join(people)}]" for team, people in members.items()]
    lines.append("  rules:")
    lines += [f"    - {rule}" for rule in rules or DEFAULT_RULES]
    return ("\n".join(lines) + "\n" + freezes).encode()


DEFAULT_RULES = (
    "{match: {action: runHealthCheck}, mayRequest: [operators], approvals: []}",
    "{match: {action: rotateKey, selector: {env: prod}}, mayRequest: [operators], "
    "approvals: [{team: reviewers, count: 1}]}",
    "{match: {action: rotateKey, selector: {env: test}}, mayRequest: [operators], approvals: []}",
    "{match: {action: cancel}, mayRequest: [operators], approvals: []}",
    "{match: {change: service, selector: {env: prod}}, mayRequest: [operators], "
    "approvals: [{team: reviewers, count: 1}]}",
    "{match: {change: service, selector: {env: test}}, mayRequest: [operators], approvals: []}",
    "{match: {change: settings}, mayRequest: [operators], approvals: []}",
    "{match: {change: policy}, mayRequest: [owners], approvals: [{team: owners, count: 1}]}",
)
SETTINGS = b"apiVersion: capsule/v1\nkind: Capsule\nmetadata: {name: team}\nspec: {limits: {maxShare: 100}}\n"


def service_text(
    name: str = "openai-chat",
    *,
    env: str = "prod",
    model: str = "gpt-5.1",
    agent_key: PrivateKey | None = AGENT_KEY,
    endpoint: str = "https://10.0.3.4:7070",
    extra: str = "",
) -> bytes:
    agent = f'    endpoint: "{endpoint}"\n' + (f'    key: "{agent_key.public.text}"\n' if agent_key else "")
    return (
        f"apiVersion: capsule/v1\nkind: Service\nmetadata:\n  name: {name}\n  labels: {{env: {env}}}\n"
        f'spec:\n  agent:\n{agent}  pins: {{model: "{model}"}}\n{extra}'
    ).encode()


def first_files() -> Files:
    return {
        "capsule.yaml": SETTINGS,
        "policy.yaml": policy_text(),
        "services/openai-chat.yaml": service_text(),
        "services/test/mailer.yaml": service_text("mailer", env="test"),
        "README.md": b"A state repository.\n",
    }


def request_text(
    name: str = "r1",
    *,
    by: str = "alice",
    action: str = "rotateKey",
    targets: Sequence[str] = ("openai-chat",),
    params: str = '{grace: "24h"}',
    expires: str = EXPIRES,
    extra: str = "",
) -> bytes:
    return (
        f"apiVersion: capsule/v1\nkind: ActionRequest\nmetadata: {{name: {name}}}\nspec:\n"
        f"  requestedBy: {by}\n  action: {action}\n  targets: [{', '.join(targets)}]\n  params: {params}\n"
        f'  reason: "OPS-1"\n  expires: "{expires}"\n{extra}'
    ).encode()


@dataclass
class History:
    """Objects and one branch; `files` is the content of its tip."""

    objects: dict[str, tuple[ObjectKind, bytes]] = field(default_factory=dict)
    files: Files = field(default_factory=dict)
    tip: str = ""
    root: str = ""
    reads: int = 0

    @classmethod
    def begun(cls, files: Files | None = None) -> History:
        """A history of one commit, the root."""
        history = cls()
        history.root = history.commit(first_files() if files is None else files, parents=[])
        return history

    # ---- objects ----

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        self.reads += 1
        try:
            return self.objects[oid]
        except KeyError:
            raise MissingObject(oid) from None

    def put(self, kind: ObjectKind, data: bytes) -> str:
        oid = hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()  # git's object id
        self.objects[oid] = (kind, data)
        return oid

    def tree(self, files: Mapping[str, bytes], special: Mapping[str, tuple[bytes, str]] | None = None) -> str:
        """Write trees for `files`; `special` adds entries (raw mode, id) by path, of any kind."""
        here: dict[str, tuple[bytes, str]] = {}
        below: dict[str, dict[str, Any]] = {}
        for source, at in ((files, 0), (special or {}, 1)):
            for path, value in source.items():
                name, slash, rest = path.partition("/")
                if slash:
                    below.setdefault(name, {0: {}, 1: {}})[at][rest] = value
                elif at:
                    here[name] = value
                else:
                    here[name] = (b"100644", self.put("blob", value))
        for name, parts in below.items():
            here[name] = (b"40000", self.tree(parts[0], parts[1]))
        return self.raw_tree([(mode, name.encode(), oid) for name, (mode, oid) in here.items()])

    def raw_tree(self, entries: Sequence[tuple[bytes, bytes, str]], *, sort: bool = True) -> str:
        ordered = (
            sorted(entries, key=lambda e: e[1] + (b"/" if e[0] == b"40000" else b"")) if sort else entries
        )
        return self.put("tree", b"".join(m + b" " + n + b"\0" + bytes.fromhex(o) for m, n, o in ordered))

    def raw_commit(
        self,
        tree: str,
        parents: Sequence[str],
        *,
        by: PrivateKey | None = None,
        message: str = "step",
        headers: bytes = b"",
        at: int = T0,
        name: str = "Someone",
        email: str = "someone@example.com",
        namespace: str = sshsig.COMMIT,
        signature: str | None = None,
    ) -> str:
        head = f"tree {tree}\n" + "".join(f"parent {each}\n" for each in parents)
        stamp = f"{name} <{email}> {at} +0000"
        before = f"{head}author {stamp}\ncommitter {stamp}\n".encode() + headers
        after = f"\n{message}\n".encode()
        armored = signature if signature is not None or by is None else by.sign(before + after, namespace)
        if armored is None:
            return self.put("commit", before + after)
        sealed = b"gpgsig " + armored.rstrip("\n").replace("\n", "\n ").encode() + b"\n"
        return self.put("commit", before + sealed + after)

    # ---- the branch ----

    def commit(self, files: Files, parents: Sequence[str], **options: Any) -> str:
        """Write `files` as a commit and make it the tip."""
        special = options.pop("special", None)
        self.files = files
        self.tip = self.raw_commit(self.tree(files, special), parents, **options)
        return self.tip

    def edited(self, edits: Mapping[str, bytes | None]) -> Files:
        files = dict(self.files)
        for path, data in edits.items():
            if data is None:
                files.pop(path, None)
            else:
                files[path] = data
        return files

    def step(
        self,
        edits: Mapping[str, bytes | None] | None = None,
        *,
        by: str | None = None,
        merge: bool = False,
        **options: Any,
    ) -> str:
        """One more commit along first parents: signed by `by`; with `merge`, a merge of a side branch."""
        files = self.edited(edits or {})
        parents = [self.tip]
        if merge:
            parents.append(self.raw_commit(self.tree(files), [self.tip], message="side"))
        return self.commit(files, parents, by=key(by) if by else None, **options)

    # ---- words of people ----

    def change_word(
        self,
        who: str,
        changes: Mapping[str, tuple[bytes | None, bytes | None]],
        decision: str = "approve",
        *,
        signer: PrivateKey | None = None,
        namespace: str = sshsig.APPROVAL,
        **overrides: Any,
    ) -> dict[str, bytes | None]:
        """The files of a ChangeApproval: each path with its bytes in force and its bytes proposed."""
        pairs = {
            path: ChangedPath(old=_digest(old), new=_digest(new)) for path, (old, new) in changes.items()
        }
        document = {
            "apiVersion": "capsule/v1",
            "kind": "ChangeApproval",
            "repository": self.root,
            "principal": who,
            "decision": decision,
            "changes": {path: {"old": pair.old, "new": pair.new} for path, pair in pairs.items()},
            **overrides,
        }
        data = json.dumps(document, indent=2).encode()
        path = change_approval(change_digest(pairs), who)
        sealed = (signer or key(who)).sign(data, namespace)
        return {path: data, f"{path}.sig": sealed.encode()}

    def request(
        self, raw: bytes, name: str = "r1", *, by: str = "alice", month: str = "2026/11", **seal: Any
    ) -> dict[str, bytes | None]:
        """The files of a signed request."""
        folder = RequestFolder(month, name)
        armored = seal.get("signer", key(by)).sign(raw, seal.get("namespace", sshsig.REQUEST))
        return {folder.request: raw, folder.signature: armored.encode()}

    def approval(
        self,
        who: str,
        raw: bytes,
        name: str = "r1",
        *,
        month: str = "2026/11",
        decision: str = "approve",
        targets: Mapping[str, str] | None = None,
        signer: PrivateKey | None = None,
        namespace: str = sshsig.APPROVAL,
        request: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> dict[str, bytes | None]:
        """The files of an approval of the request `raw`, with every part open to forgery."""
        if targets is None:
            targets = self.target_digests()
            named = raw.decode().partition("targets: [")[2].partition("]")[0].split(", ")
            targets = {target: targets[target] for target in named if target in targets}
        document = {
            "apiVersion": "capsule/v1",
            "kind": "Approval",
            "repository": self.root,
            "principal": who,
            "decision": decision,
            "request": {
                "name": name,
                "digest": bytes_digest(raw),
                "requestedBy": "alice",
                "action": "rotateKey",
                "params": {"grace": "24h"},
                **(request or {}),
            },
            "targets": targets,
            "expires": EXPIRES,
            **overrides,
        }
        data = (json.dumps(document, indent=2) + "\n").encode()
        folder = RequestFolder(month, name)
        sealed = (signer or key(who)).sign(data, namespace)
        return {folder.approval(who): data, folder.approval_signature(who): sealed.encode()}

    def target_digests(self) -> dict[str, str]:
        """The digests of all services of the tip's tree."""
        return {
            service.metadata.name: target_digest(service)
            for path, data in self.files.items()
            if path.startswith("services/") and path.endswith(".yaml")
            for service in [load_as(Service, data, path)]
        }

    def judged(self) -> MainState:
        """Main judged from the root to the tip."""
        return advance(self, begin(self, self.root), self.tip)


def _digest(data: bytes | None) -> str | None:
    return None if data is None else bytes_digest(data)


@dataclass
class Audit:
    """The machine's branch on top of a History, as an honest reconciler writes it unless told otherwise."""

    history: History
    machine: Files = field(default_factory=dict)
    tip: str = ""
    observed: str = ""
    people: Files = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tip = self.observed = self.history.root
        self.people = dict(self.history.objects and self.history.files)

    def step(
        self,
        edits: Mapping[str, bytes | None],
        *,
        by: PrivateKey | None = None,
        signed: bool = True,
        branches: Sequence[str] = (),
        trailers: Sequence[tuple[str, str]] = (),
        foreign: Mapping[str, bytes] | None = None,
        parents: Sequence[str] | None = None,
        subject: str | None = None,
        **options: Any,
    ) -> str:
        """One commit of audit; it takes in the tip of main where that is new, and tells what it holds."""
        for path, data in edits.items():
            if data is None:
                self.machine.pop(path, None)
            else:
                self.machine[path] = data
        lineage = [self.tip]
        if self.history.tip != self.observed:
            lineage.append(self.history.tip)
            self.observed = self.history.tip
            self.people = dict(self.history.files)
        tree = self.history.tree({**self.people, **self.machine, **(foreign or {})})
        lines = [*trailers, ("Capsule-Revision", self.observed)]
        who = next((each for each in MACHINES if by and by.public == key(each).public), "reconciler-1")
        honest: dict[str, Any] = {
            "name": who,
            "email": f"{who}@reconciler.invalid",
            "at": _moment(edits),
        }
        told = _told(edits, self.observed) if subject is None else subject
        message = f"{told}\n\n" + "\n".join(f"{name}: {value}" for name, value in lines)
        self.tip = self.history.raw_commit(
            tree,
            parents or [*lineage, *branches],
            by=(by or key("reconciler-1")) if signed else None,
            message=message,
            **(honest | options),
        )
        return self.tip

    def claim(
        self, raw: bytes, service: str = "openai-chat", *, name: str = "r1", attempt: int = 1, **said: Any
    ) -> dict[str, bytes | None]:
        """The file of a claim that says the truth, unless overridden field by field."""
        digest = said.pop("request_digest", bytes_digest(raw))
        spec: dict[str, Any] = {
            "request": name,
            "request_digest": digest,
            "op_id": operation_id(self.history.root, name, digest, service),
            "service": service,
            "service_digest": self.history.target_digests().get(service, "sha256:" + "0" * 64),
            "action": "rotateKey",
            "requested_by": "alice",
            "approved_by": ("bob",),
            "evidence": "signature",
            "observed_revision": self.history.tip,
            "reconciler": "reconciler-1",
            "attempt": attempt,
            "nonce": f"{attempt:032x}",
            "claimed_at": datetime(2026, 11, 23, 12, tzinfo=UTC),
            **said,
        }
        claim = Claim(
            api_version="capsule/v1", kind="Claim", metadata=Metadata(name=name), spec=ClaimSpec(**spec)
        )
        return {RequestFolder("2026/11", name).claim(service, attempt): emit(claim)}

    def receipt(self, raw: bytes, service: str = "openai-chat", *, name: str = "r1", **said: Any) -> bytes:
        """The bytes of a receipt."""
        values: dict[str, Any] = {
            "repository": self.history.root,
            "op_id": operation_id(self.history.root, name, bytes_digest(raw), service),
            "service": service,
            "action": "rotateKey",
            "attempt": 1,
            "outcome": "succeeded",
            "reason": "Succeeded",
            "message": "",
            "outputs": {"keyId": "k2"},
            "journal": JournalMark("j" * 8, 4),
            "agent_version": "1.8.2",
            **said,
        }
        return Receipt(**values).to_json()

    def result(
        self,
        raw: bytes,
        service: str = "openai-chat",
        *,
        name: str = "r1",
        receipt: bytes | None = None,
        bare: bool = False,
        signer: PrivateKey = AGENT_KEY,
        namespace: str = sshsig.RECEIPT,
        **said: Any,
    ) -> dict[str, bytes | None]:
        """The files of a result with its receipt (without one when `bare`)."""
        folder = RequestFolder("2026/11", name)
        payload = receipt or self.receipt(raw, service, name=name)
        spec: dict[str, Any] = {
            "request": name,
            "op_id": operation_id(self.history.root, name, bytes_digest(raw), service),
            "service": service,
            "action": "rotateKey",
            "attempt": 1,
            "outcome": "succeeded",
            "reason": "Succeeded",
            "outputs": {} if bare else {"keyId": "k2"},
            "recorded_at": datetime(2026, 11, 23, 12, 1, tzinfo=UTC),
            "receipt_digest": None if bare else bytes_digest(payload),
            **said,
        }
        result = Result(
            api_version="capsule/v1", kind="Result", metadata=Metadata(name=name), spec=ResultSpec(**spec)
        )
        files: dict[str, bytes | None] = {folder.result(service): emit(result)}
        if not bare:
            files[folder.receipt(service)] = payload
            files[folder.receipt_signature(service)] = signer.sign(payload, namespace).encode()
        return files

    def refusal(self, raw: bytes, name: str = "r1", **said: Any) -> dict[str, bytes | None]:
        """The file of a refusal."""
        spec: dict[str, Any] = {
            "request": name,
            "request_digest": bytes_digest(raw),
            "phase": "Expired",
            "reason": "Expired",
            "message": "too late",
            "observed_revision": self.history.tip,
            "recorded_at": datetime(2026, 12, 1, tzinfo=UTC),
            **said,
        }
        refusal = Refusal(
            api_version="capsule/v1", kind="Refusal", metadata=Metadata(name=name), spec=RefusalSpec(**spec)
        )
        return {RequestFolder("2026/11", name).refusal: emit(refusal)}

    # ---- desired-state orders ----

    def document_digest(self, service: str = "openai-chat") -> str:
        """The digest of the service's document on main."""
        path = next(path for path in self.history.files if path.endswith(f"/{service}.yaml"))
        return bytes_digest(self.history.files[path])

    def state_order(
        self,
        service: str = "openai-chat",
        action: str = "disable",
        *,
        generation: int = GENERATION,
        **said: Any,
    ) -> dict[str, bytes | None]:
        """The file of a desired-state order that says the truth, unless overridden field by field."""
        digest = said.pop("document_digest", None) or self.document_digest(service)
        spec: dict[str, Any] = {
            "service": service,
            "generation": generation,
            "document_digest": digest,
            "op_id": desired_state_id(self.history.root, service, digest, generation),
            "action": action,
            "observed_revision": self.history.tip,
            "reconciler": "reconciler-1",
            "nonce": f"{generation:032x}",
            "ordered_at": datetime(2026, 11, 23, 12, tzinfo=UTC),
            **said,
        }
        name = spec.pop("name", service)
        order = StateOrder(
            api_version="capsule/v1",
            kind="StateOrder",
            metadata=Metadata(name=name),
            spec=StateOrderSpec(**spec),
        )
        return {StateFolder(service, generation).order: emit(order)}

    def state_result(
        self,
        service: str = "openai-chat",
        action: str = "disable",
        *,
        generation: int = GENERATION,
        answer: Mapping[str, Any] | None = None,
        signer: PrivateKey = AGENT_KEY,
        namespace: str = sshsig.RECEIPT,
        **said: Any,
    ) -> dict[str, bytes | None]:
        """The files of the result of a desired-state order; `answer` overrides what the agent says."""
        folder = StateFolder(service, generation)
        digest = said.pop("document_digest", None) or self.document_digest(service)
        op_id = desired_state_id(self.history.root, service, digest, generation)
        values: dict[str, Any] = {
            "repository": self.history.root,
            "op_id": op_id,
            "service": service,
            "action": action,
            "attempt": 1,
            "outcome": "succeeded",
            "reason": "Done",
            "message": "",
            "outputs": {"enabled": False},
            "journal": JournalMark("j" * 8, 4),
            "agent_version": "1.8.2",
            **(answer or {}),
        }
        payload = Receipt(**values).to_json()
        spec: dict[str, Any] = {
            "service": service,
            "generation": generation,
            "op_id": op_id,
            "action": action,
            "outcome": values["outcome"],
            "reason": values["reason"],
            "outputs": values["outputs"],
            "recorded_at": datetime(2026, 11, 23, 12, 1, tzinfo=UTC),
            "receipt_digest": bytes_digest(payload),
            **said,
        }
        name = spec.pop("name", service)
        result = StateResult(
            api_version="capsule/v1",
            kind="StateResult",
            metadata=Metadata(name=name),
            spec=StateResultSpec(**spec),
        )
        return {
            folder.result: emit(result),
            folder.receipt: payload,
            folder.receipt_signature: signer.sign(payload, namespace).encode(),
        }

    def verdict(self, **options: Any) -> AuditVerdict:
        """What `capsule audit verify` finds."""
        return verify_audit(self.history, self.history.root, self.history.tip, self.tip, **options)

    def reason(self) -> str | None:
        """Why the first bad commit is bad; None when all hold."""
        bad = self.verdict().first_bad
        return bad.reason if bad else None


MACHINES = ("reconciler-1", "reconciler-2")


def _field(data: bytes | None, name: str) -> str:
    """The first value of that name in a record, as its text says it."""
    found = re.search(rf"^ *{name}: \"?([^\n\"]*)", (data or b"").decode(errors="replace"), re.MULTILINE)
    return found[1] if found else ""


def _moment(edits: Mapping[str, bytes | None]) -> int:
    """When a commit with these records was made: at the time of its refusal, else at noon."""
    times = [_field(data, "recordedAt") for path, data in edits.items() if path.endswith("/refusal.yaml")]
    return int(datetime.fromisoformat(times[0].replace("Z", "+00:00")).timestamp()) if times else NOON


def _told(edits: Mapping[str, bytes | None], observed: str) -> str:
    """The subject of an honest commit that makes these edits."""
    claims = [data for path, data in edits.items() if "/claim-" in path]
    orders = [data for path, data in edits.items() if path.endswith("/order.yaml")]
    results = [data for path, data in edits.items() if path.endswith("/result.yaml")]
    refusals = [data for path, data in edits.items() if path.endswith("/refusal.yaml")]
    statuses = sorted(path[7:-5].rpartition("/")[2] for path in edits if path.startswith("status/"))
    if refusals:
        request, phase, reason = (_field(refusals[0], name) for name in ("request", "phase", "reason"))
        more = len(refusals) + bool(claims) + bool(results) - 1
        return f"{request}: {phase} ({reason})" + (f" (+{more} more)" if more else "")
    facts = claims or results or orders
    if facts:
        word = "claimed" if claims else "ordered"
        outcomes = [_field(data, "outcome") or word for data in facts]
        action = _field(facts[0], "action")
        if len(facts) > 1:
            return f"{action}: {len(facts)} {outcomes[0]}"
        both = " (+1 more)" if claims and results else ""
        return f"{action} {_field(facts[0], 'service')}: {outcomes[0]}{both}"
    if statuses:
        return (
            f"status {statuses[0]}: changed"
            if len(statuses) == 1
            else f"status of {len(statuses)} services: x"
        )
    return f"take in main {observed[:12]}"


CLAIMED = (
    ("Capsule-Request", "r1"),
    ("Capsule-Service", "openai-chat"),
    ("Capsule-Action", "rotateKey"),
    ("Capsule-Evidence", "signature"),
    ("Requested-by", "alice"),
    ("Approved-by", "bob"),
)
ENDED = (*CLAIMED, ("Capsule-Outcome", "succeeded"), ("Capsule-Reason", "Succeeded"))


def approved(files: Files | None = None, raw: bytes | None = None, **approval: Any) -> tuple[History, bytes]:
    """A history whose main holds the request r1 with bob's approval (or a forged one), and its bytes."""
    history = History.begun(files)
    raw = request_text() if raw is None else raw
    history.step(
        history.request(raw) | history.approval(approval.pop("who", "bob"), raw, **approval), merge=True
    )
    return history, raw
