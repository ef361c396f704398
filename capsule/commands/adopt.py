"""`capsule import`: service documents from agents that run already.

Rules kept: an agent is only asked for its report, and believed as far as a stranger: whatever is not a plain,
harmless value keeps its document from being written; the key that signed the report is shown for a person to
compare, and written only with their word (trust on first use); no file is ever overwritten; nothing is
committed. Called by the command line.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from capsule.commands.errors import CommandError, SetUpProblem, WrongUsage
from capsule.commands.git_program import Location
from capsule.documents.codec import InvalidDocument, emit, load, load_as
from capsule.documents.paths import SERVICES, service_name
from capsule.documents.types import AgentAddress, Service
from capsule.documents.types.base import Labels, Scalar
from capsule.transport.api import Transport, TransportError
from capsule.trust.receipts import Untrusted, open_first_report
from capsule_agent.protocol.messages import Report, ReportCall
from capsule_agent.protocol.sshsig import PublicKey

AT_ONCE = 32
MAX_ENDPOINTS = 10_000
_MAX_LIST = 4 * 1024 * 1024
_MAX_PINS = 32
_MAX_DOCUMENT = 1024 * 1024
_FINGERPRINT = "hmac-sha256:"


@dataclass(frozen=True, slots=True)
class Found:
    """What one endpoint answered: a service that can be written, or the `reason` why not.

    `left_out` are reported values that are not pinned.
    """

    address: AgentAddress
    name: str = ""
    version: str = ""
    pins: Mapping[str, Scalar] | None = None
    key: PublicKey | None = None
    health: str = ""
    left_out: tuple[str, ...] = ()
    reason: str = ""
    message: str = ""

    @property
    def usable(self) -> bool:
        """Whether a document can be written."""
        return not self.reason


def addresses(
    urls: Sequence[str], lists: Sequence[Path], *, insecure: bool, ca: str | None
) -> list[AgentAddress]:
    """The endpoints named on the command line and in files (one a line, # begins a comment), each once.

    Raises WrongUsage for one that is none, CommandError for a file that cannot be read.
    """
    texts = [*urls, *(text for file in lists for text in _lines(file))]
    found = []
    for text in dict.fromkeys(texts):
        plain = insecure and text.startswith("http://")
        tls = ca if text.startswith("https://") else None
        try:
            found.append(AgentAddress(endpoint=text, insecure=plain, ca=tls))
        except ValidationError:
            raise WrongUsage(
                "EndpointInvalid",
                f"{_without_password(text)[:200]!r} is not an endpoint of an agent",
                "Such as https://10.0.3.4:7070, http://127.0.0.1:7070, unix:/run/adapter.sock, ssh://user@host.",
            ) from None
    if not found:
        raise WrongUsage("NoEndpoint", "no endpoint was named", "capsule import --from URL, or --list FILE")
    if len(found) > MAX_ENDPOINTS:
        raise WrongUsage("TooManyEndpoints", f"{len(found)} endpoints; at most {MAX_ENDPOINTS} at a time")
    return found


def _without_password(text: str) -> str:
    scheme, sign, rest = text.partition("://")
    return f"{scheme}://…@{rest.rpartition('@')[2]}" if sign and "@" in rest else text


def labels_of(pairs: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """The labels for every document. Raises WrongUsage for what cannot be one."""
    try:
        found: Mapping[str, str] = TypeAdapter(Labels).validate_python(dict(pairs))
    except ValidationError as error:
        where = "=".join(str(part) for part in error.errors()[0]["loc"][:1])
        raise WrongUsage("BadLabel", f"the label {where!r} is not one", "Such as --label env=prod") from None
    return found


def ask(
    agents: Sequence[AgentAddress],
    transport: Transport,
    timeout: float,
    done: Callable[[], None] = lambda: None,
) -> list[Found]:
    """What each agent answers, in the order named; `done` is called once for each. `timeout`: seconds."""
    found: dict[int, Found] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = {pool.submit(_ask_one, agent, transport, timeout): at for at, agent in enumerate(agents)}
        for each in as_completed(asked):
            found[asked[each]] = each.result()
            done()
    return [found[at] for at in sorted(found)]


def _ask_one(agent: AgentAddress, transport: Transport, timeout: float) -> Found:
    nonce = secrets.token_hex(16)
    try:
        answer = transport.call(agent, "report", ReportCall(nonce).to_json(), timeout=timeout)
        report, key = open_first_report(answer, nonce=nonce)
    except (TransportError, Untrusted) as error:
        return Found(agent, reason=error.reason, message=str(error))
    pins, left_out = _pins(report)
    return Found(agent, report.service, report.version, pins, key, report.health.status, left_out)


def _pins(report: Report) -> tuple[Mapping[str, Scalar], tuple[str, ...]]:
    """What is pinned of a report; the names of what is not: fingerprints, and more than a document holds."""
    offered: dict[str, Scalar] = {"version": report.version} if report.version else {}
    offered.update(report.config)
    plain = {
        name: value
        for name, value in offered.items()
        if not (isinstance(value, str) and value.startswith(_FINGERPRINT))
    }
    kept = dict(list(plain.items())[:_MAX_PINS])
    return kept, tuple(name for name in offered if name not in kept)


def without_those_taken(
    found: Sequence[Found], location: Location, in_force: Mapping[str, str]
) -> list[Found]:
    """The same, with a reason for each whose name or endpoint is taken: here, on main, by another answer.

    `in_force` are the endpoints of the services on main, by name.
    """
    work_tree = require_work_tree(location)
    known = dict(in_force) | dict(_present(work_tree))
    endpoints = {endpoint: name for name, endpoint in known.items() if endpoint}
    counted = Counter(each.name for each in found if each.usable)
    return [_judged(each, known, endpoints, counted) for each in found]


def _judged(
    each: Found, known: Mapping[str, str], endpoints: Mapping[str, str], counted: Mapping[str, int]
) -> Found:
    if not each.usable:
        return each
    if each.name in known:
        return replace(each, reason="NameTaken", message=f"there is a service {each.name} already")
    if each.address.endpoint in endpoints:
        other = endpoints[each.address.endpoint]
        return replace(each, reason="EndpointTaken", message=f"it is the endpoint of {other} already")
    if counted[each.name] > 1:
        text = f"{counted[each.name]} agents say that they are {each.name}: import one of them alone"
        return replace(each, reason="NameTwice", message=text)
    return each


def _present(work_tree: Path) -> Iterator[tuple[str, str]]:
    """Names and endpoints of the documents in the work tree; a name counts even if its file is damaged."""
    for file in (work_tree / SERVICES).rglob("*.yaml"):
        path = file.relative_to(work_tree).as_posix()
        name = service_name(path)
        if name is None:
            continue
        document = None
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= _MAX_DOCUMENT:
            document, _ = load(file.read_bytes(), path)
        yield name, document.spec.agent.endpoint if isinstance(document, Service) else ""


def require_work_tree(location: Location) -> Path:
    """The folder with the files. Raises SetUpProblem for a bare repository."""
    if location.work_tree is None:
        raise SetUpProblem(
            "NoWorkTree",
            f"{location.git_dir} has no files to edit",
            "Import in a clone: capsule clone URL DIR",
        )
    return location.work_tree


def folder_for(location: Location, directory: str) -> Path:
    """Where the documents go. Raises WrongUsage unless it is `services/` or a folder below it."""
    work_tree = require_work_tree(location)
    inside = directory.strip("/")
    wanted = work_tree / inside
    if service_name(f"{inside}/a.yaml") is None or not wanted.resolve().is_relative_to(
        work_tree.resolve() / SERVICES
    ):
        raise WrongUsage(
            "BadFolder",
            f"{directory!r} is not {SERVICES}/ or a folder below it",
            "Such as --dir services/search; names of folders are made as those of services are.",
        )
    return wanted


def write(each: Found, folder: Path, labels: Mapping[str, str], *, with_key: bool, now: datetime) -> Path:
    """Write the document of one service, with its key only if a person said so; its path.

    Raises CommandError when there is such a file, or what the agent says cannot be in a document.
    """
    key = each.key if with_key else None
    data = _document(each, labels, key, now)
    file = folder / f"{each.name}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Exclusively, and never through a link that waits there.
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as stream:
            stream.write(data)
    except FileExistsError:
        raise CommandError("NameTaken", f"{file} exists and was not changed") from None
    return file


def _document(each: Found, labels: Mapping[str, str], key: PublicKey | None, now: datetime) -> bytes:
    address = each.address if key is None else each.address.model_copy(update={"key": key.text})
    value = {
        "apiVersion": "capsule/v1",
        "kind": "Service",
        "metadata": {"name": each.name, "labels": dict(labels)},
        "spec": {
            "agent": address.model_dump(mode="json", by_alias=True, exclude_defaults=True),
            "pins": dict(each.pins or {}),
        },
    }
    try:
        data = _head(each, key, now) + emit(Service.model_validate(value))
        load_as(Service, data, f"{SERVICES}/{each.name}.yaml")
    except (ValidationError, InvalidDocument) as error:
        raise CommandError(
            "BadDocument",
            f"what {each.name} reports cannot be in a document: {str(error).splitlines()[0][:200]}",
        ) from None
    return data


def _head(each: Found, key: PublicKey | None, now: datetime) -> bytes:
    lines = [f"# Imported {now:%Y-%m-%d}: the pins are what the agent reported then."]
    if key is not None:
        lines.append(f"# Its key {key.fingerprint} was compared by a person when it was first used.")
    elif each.key is not None:
        lines.append("# Its key was not taken over: observed only, until spec.agent.key is written.")
    return "".join(f"{line}\n" for line in lines).encode()


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_LIST + 1)
    except OSError as error:
        raise CommandError("Unreadable", f"cannot read {file}: {error.strerror}") from None
    if len(data) > _MAX_LIST:
        raise WrongUsage("TooManyEndpoints", f"{file} is larger than {_MAX_LIST} bytes")
    lines = (line.partition("#")[0].strip() for line in data.decode(errors="replace").splitlines())
    return [line for line in lines if line]
