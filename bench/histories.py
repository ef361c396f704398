"""Long, realistic histories written fast: tens of thousands of signed audit commits in one pack.

Made of the same documents, messages and signatures as a reconciler's, and packed as `git gc` leaves a
repository: folders as deltas of what they were before. A cycle is a pull request with a signed request and
an approval, its claim, its result with the agent's signed receipt, and six changes of status; six are a day.
Called by bench.audit, bench.passes and tests.
"""

from __future__ import annotations

import hashlib
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from capsule.documents.digests import bytes_digest
from capsule.documents.paths import AUDIT, MAIN, RequestFolder
from capsule.store import git
from capsule.store.api import RefUpdate
from capsule.store.objects import object_id
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.ids import operation_id
from capsule_agent.protocol.messages import JournalMark, Receipt
from tests.trust_history import AGENT_KEY, SETTINGS, History, key, policy_text, service_text

START = 1_577_836_800  # 2020-01-01T00:00:00Z
RECONCILER = "reconciler-1"
PER_CYCLE = 8
"""Claim, result, and six changes of status: a day of 40 services has about 90 of these (bench.growth)."""
CHAIN = 40
"""Deltas on top of one another at most, as in git's own packs (pack.depth is 50)."""
STATUS = """\
apiVersion: capsule/v1
kind: ServiceStatus
metadata:
  name: {name}
spec:
  observedRevision: {revision}
  effectiveStatus: {word}
  reason: {reason}
  since: "{since}"
  version: 1.8.2
  values:
    model: gpt-5.1
  fingerprints:
    apiKey: "hmac:{mark:032x}"
  health:
    status: UP
    since: "{since}"
"""
_TYPES = {"commit": 1, "tree": 2, "blob": 3}
_OFFSET_DELTA = 6


class PackWriter:
    """A pack written one object after another; trees become deltas of the version before."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 12
        self._known: dict[str, int] = {}
        self._count = 0
        file.write(b"\0" * 12)

    def put(self, kind: str, data: bytes, oid: str) -> int:
        """Write an object whole. Returns its offset."""
        if oid not in self._known:
            self._begin(oid)
            self._write(_size(_TYPES[kind], len(data)) + zlib.compress(data, 1))
        return self._known[oid]

    def put_delta(self, data: bytes, oid: str, base: bytes, base_at: int) -> int:
        """Write an object as what changed in the middle of `base`, an object of the same kind."""
        if oid not in self._known:
            delta = _delta(base, data)
            offset = _offset(self._at - base_at)
            self._begin(oid)
            self._write(_size(_OFFSET_DELTA, len(delta)) + offset + zlib.compress(delta, 1))
        return self._known[oid]

    def _begin(self, oid: str) -> None:
        self._known[oid] = self._at
        self._count += 1

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)

    def finish(self) -> None:
        """Write the header with the count, and the checksum behind the last object."""
        self._file.seek(0)
        self._file.write(b"PACK" + (2).to_bytes(4, "big") + self._count.to_bytes(4, "big"))
        self._file.seek(0)
        digest = hashlib.file_digest(self._file, "sha1").digest()
        self._file.seek(0, 2)
        self._file.write(digest)
        self._file.flush()


def _size(kind: int, size: int) -> bytes:
    """Type and size before an object (gitformat-pack)."""
    out = bytearray()
    byte, size = (kind << 4) | (size & 15), size >> 4
    while size:
        out.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    out.append(byte)
    return bytes(out)


def _offset(distance: int) -> bytes:
    out = [distance & 0x7F]
    while distance := distance >> 7:
        distance -= 1
        out.append(0x80 | (distance & 0x7F))
    return bytes(reversed(out))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append((number & 0x7F) | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _common(a: bytes, b: bytes) -> int:
    """The length of the common beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _delta(base: bytes, data: bytes) -> bytes:
    start = _common(base, data)
    end = _common(base[start:][::-1], data[start:][::-1])
    middle = data[start : len(data) - end]
    out = [_varint(len(base)), _varint(len(data)), _copy(0, start)]
    out += [bytes([len(middle[at : at + 127])]) + middle[at : at + 127] for at in range(0, len(middle), 127)]
    out.append(_copy(len(base) - end, end))
    return b"".join(out)


def _copy(offset: int, size: int) -> bytes:
    out = b""
    while size:
        part = min(size, 0xFFFF)
        out += b"\xbf" + offset.to_bytes(4, "little") + part.to_bytes(2, "little")
        offset, size = offset + part, size - part
    return out


@dataclass
class Folder:
    """A folder that changes, written again only where it did."""

    entries: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    folders: dict[str, Folder] = field(default_factory=dict)
    _changed: bool = True
    _oid: str = ""
    _last: bytes = b""
    _at: int = 0
    _depth: int = 0

    def set(self, path: str, blob: str) -> None:
        """Place a file."""
        name, slash, rest = path.partition("/")
        self._changed = True
        if slash:
            self.folders.setdefault(name, Folder()).set(rest, blob)
        else:
            self.entries[name] = (b"100644", blob)

    def write(self, pack: PackWriter) -> str:
        """The id of the tree, written with all that changed below it."""
        if not self._changed:
            return self._oid
        for name, below in self.folders.items():
            if below._changed:
                self.entries[name] = (b"40000", below.write(pack))
        ordered = sorted((name + "/" if name in self.folders else name, name) for name in self.entries)
        data = b"".join(
            self.entries[name][0] + b" " + name.encode() + b"\0" + bytes.fromhex(self.entries[name][1])
            for _, name in ordered
        )
        self._oid, self._changed = object_id("tree", data), False
        if self._last and len(data) > 200 and self._depth < CHAIN:
            self._at = pack.put_delta(data, self._oid, self._last, self._at)
            self._depth += 1
        else:
            self._at, self._depth = pack.put("tree", data, self._oid), 0
        self._last = data
        return self._oid


@dataclass(frozen=True)
class _Asked:
    """One request: where it lies, its bytes, what it asks for, and who approves it."""

    folder: RequestFolder
    raw: bytes
    action: str
    targets: tuple[str, ...]
    by: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    def operation(self, root: str, service: str) -> str:
        """The id of its operation on `service`."""
        return operation_id(root, self.name, bytes_digest(self.raw), service)

    def subject(self, word: str) -> str:
        """The first line of the commit that says `word` of it."""
        one = len(self.targets) == 1
        return (
            f"{self.action} {self.targets[0]}: {word}"
            if one
            else f"{self.action}: {len(self.targets)} {word}"
        )

    @property
    def trailers(self) -> list[str]:
        return [
            f"Capsule-Request: {self.name}",
            *(f"Capsule-Service: {each}" for each in self.targets),
            f"Capsule-Action: {self.action}",
            "Capsule-Evidence: signature",
            "Requested-by: alice",
            *(f"Approved-by: {each}" for each in self.by),
        ]


class Writer:
    """Main and audit on their way."""

    def __init__(self, pack: PackWriter, services: int) -> None:
        self._pack = pack
        self._history = History()
        self.people, self.machine = Folder(), Folder()
        self.names = [f"service-{at:03}" for at in range(services)]
        self._history.files = {
            "capsule.yaml": SETTINGS,
            "policy.yaml": policy_text(),
            **{
                f"services/team-{at % 5}/{name}.yaml": service_text(name)
                for at, name in enumerate(self.names)
            },
        }
        for path, data in self._history.files.items():
            self.people.set(path, self._blob(data))
        self.root = self.main = self._commit(self.people.write(pack), [], START, "Begin\n")
        self._history.root = self.root
        self._targets = self._history.target_digests()
        self.audit = self.observed = self.root
        self.at = START
        self.commits = self.operations = 0

    def _blob(self, data: bytes) -> str:
        oid = object_id("blob", data)
        self._pack.put("blob", data, oid)
        return oid

    def _commit(self, tree: str, parents: list[str], at: int, message: str, who: str = "") -> str:
        stamp = f"{who or 'alice'} <{who + '@reconciler.invalid' if who else 'alice@example.com'}> {at} +0000"
        lineage = f"tree {tree}\n" + "".join(f"parent {each}\n" for each in parents)
        head, body = f"{lineage}author {stamp}\ncommitter {stamp}\n".encode(), f"\n{message}".encode()
        if who:
            seal = key(who).sign(head + body, sshsig.COMMIT).rstrip("\n").replace("\n", "\n ")
            head += f"gpgsig {seal}\n".encode()
        oid = object_id("commit", head + body)
        self._pack.put("commit", head + body, oid)
        return oid

    def cycle(self, number: int) -> None:
        """One request with all that follows from it."""
        asked = self._next_request(number)
        self._ask(asked)
        self._merge(f"Ask: {asked.name}", f"Merge {asked.name}")
        self._claim(asked)
        self._record(asked.subject("claimed"), asked.trailers, self.at + 60)
        self._end(asked)
        more = ["Capsule-Outcome: succeeded", "Capsule-Reason: Succeeded"]
        self._record(asked.subject("succeeded"), [*asked.trailers, *more], self.at + 120)
        for step in range(PER_CYCLE - 2):
            self._change(((number % len(self.names)) * 7 + step * 11) % len(self.names), number)

    def at_once(self, requests: int) -> None:
        """So many requests that have come to their end, in two commits: what a pass finds."""
        for number in range(requests):
            asked = self._next_request(number)
            self._ask(asked)
            self._claim(asked)
            self._end(asked)
        self._merge("Ask for all", "Merge all")
        self._record(f"{requests} requests: succeeded", [], self.at + 120)

    def _next_request(self, number: int) -> _Asked:
        self.at += 2400
        moment = datetime.fromtimestamp(self.at, UTC)
        checks = number % 3 == 0
        first = number % len(self.names)
        targets = tuple(
            self.names[(first + step) % len(self.names)] for step in range(3 if number % 5 == 0 else 1)
        )
        name = f"{moment:%Y%m%d}-{'check' if checks else 'rotate'}-{targets[0]}-{number % 65536:04x}"
        action = "runHealthCheck" if checks else "rotateKey"
        raw = _request(name, action, targets, self.at + 7 * 86400)
        return _Asked(
            RequestFolder(f"{moment:%Y/%m}", name), raw, action, targets, () if checks else ("bob",)
        )

    def _ask(self, asked: _Asked) -> None:
        folder, raw = asked.folder, asked.raw
        files: dict[str, bytes | None] = self._history.request(raw, folder.name, month=folder.month)
        for person in asked.by:
            digests = {target: self._targets[target] for target in asked.targets}
            expires = raw.decode().partition('expires: "')[2][:20]
            files |= self._history.approval(
                person, raw, folder.name, month=folder.month, targets=digests, expires=expires
            )
        for path, data in files.items():
            assert data is not None
            self.people.set(path, self._blob(data))

    def _merge(self, ask: str, merge: str) -> None:
        tree = self.people.write(self._pack)
        side = self._commit(tree, [self.main], self.at, f"{ask}\n")
        self.main = self._commit(tree, [self.main, side], self.at, f"{merge}\n")

    def _claim(self, asked: _Asked) -> None:
        for service in asked.targets:
            text = _claim(
                request=asked.name,
                digest=bytes_digest(asked.raw),
                operation=asked.operation(self.root, service),
                service=service,
                service_digest=self._targets[service],
                action=asked.action,
                by="".join(f"\n    - {each}" for each in asked.by) or " []",
                revision=self.main,
                nonce=self.commits,
                at=self.at + 60,
            )
            self.machine.set(asked.folder.claim(service, 1), self._blob(text))

    def _end(self, asked: _Asked) -> None:
        folder = asked.folder
        for service in asked.targets:
            operation = asked.operation(self.root, service)
            receipt = Receipt(
                repository=self.root,
                op_id=operation,
                service=service,
                action=asked.action,
                attempt=1,
                outcome="succeeded",
                reason="Succeeded",
                message="",
                outputs={"keyId": f"k-{self.operations}"},
                journal=JournalMark("j" * 8, self.operations),
                agent_version="1.8.2",
            ).to_json()
            text = _result(
                request=asked.name,
                operation=operation,
                service=service,
                action=asked.action,
                key=f"k-{self.operations}",
                at=self.at + 120,
                receipt=bytes_digest(receipt),
            )
            sealed = AGENT_KEY.sign(receipt, sshsig.RECEIPT).encode()
            self.machine.set(folder.result(service), self._blob(text))
            self.machine.set(folder.receipt(service), self._blob(receipt))
            self.machine.set(folder.receipt_signature(service), self._blob(sealed))
            self.operations += 1

    def _change(self, index: int, number: int) -> None:
        name = self.names[index]
        word, reason = [("HEALTHY", "Up"), ("OFFLINE", "AgentTimeout")][number % 2]
        self.at += 2000
        text = STATUS.format(
            name=name, revision=self.main, word=word, reason=reason, since=_time(self.at), mark=self.commits
        )
        self.machine.set(f"status/team-{index % 5}/{name}.yaml", self._blob(text.encode()))
        self._record(f"status {name}: {word} ({reason})", [f"Capsule-Service: {name}"], self.at)

    def _record(self, subject: str, trailers: list[str], at: int) -> None:
        self.machine.write(self._pack)
        top = Folder(
            entries={**self.people.entries, **self.machine.entries},
            folders={**self.people.folders, **self.machine.folders},
        )
        parents = [self.audit] if self.observed == self.main else [self.audit, self.main]
        self.observed = self.main
        message = "\n".join([subject, "", *trailers, f"Capsule-Revision: {self.main}", ""])
        self.audit = self._commit(top.write(self._pack), parents, at, message, RECONCILER)
        self.commits += 1


def _time(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _request(name: str, action: str, targets: Sequence[str], expires: int) -> bytes:
    """As `capsule request` writes it."""
    params = '  params:\n    grace: "24h"\n' if action == "rotateKey" else ""
    asked = "".join(f"    - {each}\n" for each in targets)
    return (
        f"apiVersion: capsule/v1\nkind: ActionRequest\nmetadata:\n  name: {name}\nspec:\n"
        f"  requestedBy: alice\n  action: {action}\n  targets:\n{asked}{params}"
        f'  reason: Quarterly rotation, OPS-1234\n  expires: "{_time(expires)}"\n'
    ).encode()


def _claim(**said: object) -> bytes:
    at = said.pop("at")
    assert isinstance(at, int)
    return _CLAIM.format(**said, at=_time(at)).encode()


def _result(**said: object) -> bytes:
    at = said.pop("at")
    assert isinstance(at, int)
    return _RESULT.format(**said, at=_time(at)).encode()


_CLAIM = """\
apiVersion: capsule/v1
kind: Claim
metadata:
  name: {request}
spec:
  request: {request}
  requestDigest: "{digest}"
  opId: "{operation}"
  service: {service}
  serviceDigest: "{service_digest}"
  action: {action}
  requestedBy: alice
  approvedBy:{by}
  evidence: signature
  observedRevision: "{revision}"
  reconciler: reconciler-1
  attempt: 1
  nonce: "{nonce:032x}"
  journal:
    id: jjjjjjjj
    sequence: 7
  claimedAt: "{at}"
"""
_RESULT = """\
apiVersion: capsule/v1
kind: Result
metadata:
  name: {request}
spec:
  request: {request}
  opId: "{operation}"
  service: {service}
  action: {action}
  attempt: 1
  outcome: succeeded
  reason: Succeeded
  outputs:
    keyId: {key}
  recordedAt: "{at}"
  receiptDigest: "{receipt}"
"""


@dataclass(frozen=True)
class Written:
    """A history on the disk."""

    root: str
    main: str
    audit: str
    commits: int
    operations: int


def write_history(folder: Path, commits: int, services: int = 40) -> Written:
    """A new bare repository at `folder` with so many audit commits (rounded up to whole cycles)."""

    def write(writer: Writer) -> None:
        for number in range(-(-commits // PER_CYCLE)):
            writer.cycle(number)

    return _written(folder, services, write)


def write_requests(folder: Path, requests: int, services: int = 40) -> Written:
    """A new bare repository at `folder` with so many requests that have come to their end."""
    return _written(folder, services, lambda writer: writer.at_once(requests))


def _written(folder: Path, services: int, write: Callable[[Writer], None]) -> Written:
    store = git.init(folder, bare=True)
    store.close()
    path = folder / "objects" / "pack" / "pack-history.pack"
    path.parent.mkdir(exist_ok=True)
    with path.open("w+b") as file:
        pack = PackWriter(file)
        writer = Writer(pack, services)
        write(writer)
        pack.finish()
    subprocess.run(["git", "index-pack", str(path)], check=True, capture_output=True, cwd=folder)
    store = git.open_store(folder)
    store.publish([RefUpdate(MAIN, None, writer.main)])
    store.publish([RefUpdate(AUDIT, None, writer.audit)])
    store.close()
    subprocess.run(["git", "config", "capsule.root", writer.root], check=True, cwd=folder)
    return Written(writer.root, writer.main, writer.audit, writer.commits, writer.operations)
