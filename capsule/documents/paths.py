"""Where each document lives in a state repository: one layout, written down once.

Rules kept: paths are relative, with `/`; a request's records lie under the year and month of its own
folder. Called by trust, decide, view, the reconciler and commands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SETTINGS = "capsule.yaml"
POLICY = "policy.yaml"
SERVICES = "services"
REQUESTS = "requests"
CHANGE_APPROVALS = "approvals"
SIGNERS = "signers/signers.json"
SIGNERS_FOLDER = "signers"
STATUS = "status"
RECORDS = "records"
DESIRED = "records/desired"
CHANGES = "records/changes"
MACHINE_FOLDERS = (STATUS, RECORDS)
MAIN = "refs/heads/main"
AUDIT = "refs/heads/audit"
REQUEST_BRANCHES = "refs/heads/request/"
HEARTBEATS = "refs/capsule/heartbeat/"
LOCAL_HEARTBEATS = "refs/capsule/local/heartbeat/"
"""The freshest heartbeats of a reconciler beside us, where the ones above are pushed more rarely."""

_NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_REQUEST_FILE = re.compile(rf"requests/([0-9]{{4}}/[0-9]{{2}})/({_NAME})/request\.yaml")
_SERVICE_FILE = re.compile(rf"services/((?:{_NAME}/){{0,8}})({_NAME})\.yaml")
_APPROVAL_FILE = re.compile(rf"requests/([0-9]{{4}}/[0-9]{{2}})/({_NAME})/approvals/({_NAME})\.json")
_CHANGE_APPROVAL_FILE = re.compile(rf"approvals/([0-9a-f]{{64}})/({_NAME})\.json")
_STATE_FILE = re.compile(
    rf"records/desired/({_NAME})/([1-9][0-9]{{0,15}})/(?:order\.yaml|result\.yaml|receipt\.json(?:\.sig)?)"
)
_CHANGE_FILE = re.compile(r"records/changes/([0-9a-f]{2})/([0-9a-f]{38})/attestation-([1-9][0-9]{0,8})\.yaml")
_SIGNERS_SIGNATURE = re.compile(rf"signers/({_NAME})\.sig")


@dataclass(frozen=True, slots=True)
class RequestFolder:
    """The folders of one request on main and on audit; `month` is `yyyy/mm`."""

    month: str
    name: str

    @classmethod
    def of(cls, path: str) -> RequestFolder | None:
        """The folder a `request.yaml` lies in; None for any other path."""
        match = _REQUEST_FILE.fullmatch(path)
        return cls(match[1], match[2]) if match else None

    @property
    def folder(self) -> str:
        return f"{REQUESTS}/{self.month}/{self.name}"

    @property
    def request(self) -> str:
        return f"{self.folder}/request.yaml"

    @property
    def signature(self) -> str:
        return f"{self.folder}/request.yaml.sig"

    def approval(self, principal: str) -> str:
        return f"{self.folder}/approvals/{principal}.json"

    def approval_signature(self, principal: str) -> str:
        return f"{self.approval(principal)}.sig"

    @property
    def records(self) -> str:
        return f"{RECORDS}/{self.month}/{self.name}"

    @property
    def refusal(self) -> str:
        return f"{self.records}/refusal.yaml"

    def attestation(self, number: int) -> str:
        return f"{self.records}/attestation-{number}.yaml"

    def claim(self, service: str, attempt: int) -> str:
        return f"{self.records}/{service}/claim-{attempt}.yaml"

    def result(self, service: str) -> str:
        return f"{self.records}/{service}/result.yaml"

    def receipt(self, service: str) -> str:
        return f"{self.records}/{service}/receipt.json"

    def receipt_signature(self, service: str) -> str:
        return f"{self.receipt(service)}.sig"


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The records of one desired-state order of a service: no request asked for it, its document does."""

    service: str
    generation: int

    @classmethod
    def of(cls, path: str) -> StateFolder | None:
        """The folder a record below records/desired/ lies in; None for any other path."""
        match = _STATE_FILE.fullmatch(path)
        return cls(match[1], int(match[2])) if match else None

    @property
    def records(self) -> str:
        return f"{DESIRED}/{self.service}/{self.generation}"

    @property
    def order(self) -> str:
        return f"{self.records}/order.yaml"

    @property
    def result(self) -> str:
        return f"{self.records}/result.yaml"

    @property
    def receipt(self) -> str:
        return f"{self.records}/receipt.json"

    @property
    def receipt_signature(self) -> str:
        return f"{self.receipt}.sig"


@dataclass(frozen=True, slots=True)
class ChangeFolder:
    """The attestations of changes that were recorded while audit had main taken in up to `revision`."""

    revision: str

    @classmethod
    def of(cls, path: str) -> tuple[ChangeFolder, int] | None:
        """The folder and the number of an attestation of a change; None for any other path."""
        match = _CHANGE_FILE.fullmatch(path)
        return (cls(match[1] + match[2]), int(match[3])) if match else None

    @property
    def records(self) -> str:
        return f"{CHANGES}/{self.revision[:2]}/{self.revision[2:]}"

    def attestation(self, number: int) -> str:
        return f"{self.records}/attestation-{number}.yaml"


def service_name(path: str) -> str | None:
    """The name a service document must carry at `path`; None where no service document may be."""
    match = _SERVICE_FILE.fullmatch(path)
    return match[2] if match else None


def status_path(service_path: str) -> str:
    """Where the status of the service at `service_path` lies: the same folders under status/."""
    return STATUS + service_path.removeprefix(SERVICES)


def change_approval(digest: str, principal: str) -> str:
    """Where a person's word on a change lies; `digest` is `sha256:…`."""
    return f"{CHANGE_APPROVALS}/{digest.removeprefix('sha256:')}/{principal}.json"


def approval_place(path: str) -> tuple[RequestFolder, str] | None:
    """The request folder and the principal of an approval at `path`; None for any other path."""
    match = _APPROVAL_FILE.fullmatch(path)
    return (RequestFolder(match[1], match[2]), match[3]) if match else None


def change_approval_place(path: str) -> tuple[str, str] | None:
    """The digest (`sha256:…`) and the principal of a change's approval at `path`; None for any other path."""
    match = _CHANGE_APPROVAL_FILE.fullmatch(path)
    return (f"sha256:{match[1]}", match[2]) if match else None


def signers_owner(path: str) -> str | None:
    """Whose signature of the signers lies at `path`; None for any other path."""
    match = _SIGNERS_SIGNATURE.fullmatch(path)
    return match[1] if match else None
