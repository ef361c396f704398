"""`capsule init`: a new state repository, with its first policy, its reconciler's key, and its root.

Rules kept: everything is made in a folder beside the destination, which then takes its place in one step:
whoever interrupts it finds either nothing or a whole repository; the reconciler's private key lies in the
git directory, which no commit can reach; the first commit, which is the repository's identity for good,
is signed by the person who makes it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from capsule.commands.errors import SetUpProblem, WrongUsage
from capsule.commands.git_program import run_git, setting, write_setting
from capsule.commands.keys import make_key_pair
from capsule.commands.signing import Identity, KeygenSigner, find_signer
from capsule.documents.paths import MAIN, POLICY, SIGNERS, SIGNERS_FOLDER
from capsule.documents.scalars import NAME
from capsule.documents.schemas import schemas
from capsule.documents.types import Policy
from capsule.store.api import Draft, Person, RefUpdate, Store
from capsule.store.git_settings import FOLLOWS_ORIGIN
from capsule.trust.policy_checks import load_policy
from capsule.trust.published import allowed_signers, signers_document
from capsule_agent.protocol.sshsig import SIGNERS as SIGNERS_NAMESPACE

RECONCILER = "reconciler-1"
RECONCILER_KEY = Path("capsule") / "reconciler_ed25519"
ALLOWED_SIGNERS = Path("capsule") / "allowed_signers"
_SCHEMAS = ("Capsule", "Policy", "Service", "ActionRequest", "Approval", "ChangeApproval")
_NOT_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Created:
    """A new state repository. `root` is its identity: write it down outside of the repository."""

    directory: Path
    root: str
    principal: str
    reconciler: str
    reconciler_key: Path


def init(
    directory: Path,
    now: datetime,
    *,
    bare: bool = False,
    principal: str | None = None,
    email: str | None = None,
    key: Path | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Created:
    """Make a state repository in `directory`, which must be empty or not exist.

    The caller becomes owner and operator: `principal`, `email` and `key` are taken from git's settings
    where they are None. `files` replace or add files of the template, with the same
    `{{words}}`. Raises WrongUsage, SetUpProblem.
    """
    directory = directory.absolute()
    _require_empty(directory)
    signer = find_signer(Path.cwd(), key)
    identity = _caller(signer, principal, email)
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        root = _build(building, directory, identity, now, bare, files or {})
        _settings(building, directory, identity, root, bare)
        if not bare:
            run_git(building, "reset", "--quiet", "--hard", "main")
        building.chmod(0o755)
        building.rename(directory)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Created(
        directory, root, identity.principal, RECONCILER, git_dir_of(directory, bare) / RECONCILER_KEY
    )


def git_dir_of(directory: Path, bare: bool) -> Path:
    """Where git keeps its own files for the repository at `directory`."""
    return directory if bare else directory / ".git"


def template_folder() -> Path:
    """The template of a state repository: in the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_template", package.parent / "state_repo_template"):
        if folder.is_dir():
            return folder
    raise SetUpProblem(
        "TemplateMissing", "the template of a state repository is not installed", "Reinstall capsule-ops."
    )


def _require_empty(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise WrongUsage("NotADirectory", f"{directory} is a file")
    if (directory / "capsule.yaml").exists() or (directory / "capsule" / "reconciler_ed25519").exists():
        raise WrongUsage(
            "AlreadyThere",
            f"{directory} is a state repository already; nothing was changed",
            "capsule doctor",
        )
    if any(directory.iterdir()):
        raise WrongUsage("NotEmpty", f"{directory} is not empty; nothing was changed", "Name a new folder.")


def _caller(signer: KeygenSigner, principal: str | None, email: str | None) -> Identity:
    here = Path.cwd()
    address = email or setting(here, "user.email")
    if not address:
        raise SetUpProblem(
            "NoEmail",
            "git does not know your e-mail address",
            "git config --global user.email you@example.com",
        )
    name = principal or _NOT_NAME.sub("-", address.split("@")[0].lower()).strip("-")[:63]
    if not re.match(NAME, name):
        raise WrongUsage(
            "BadName", f"{name!r} cannot be a principal's name", "Give one such as alice: --principal NAME"
        )
    if name == RECONCILER:
        raise WrongUsage("BadName", f"{RECONCILER} is the reconciler's name", "--principal NAME")
    known = setting(here, "user.name") if address == setting(here, "user.email") else None
    return Identity(name, Person(known or name, address), signer)


def _build(
    building: Path, final: Path, identity: Identity, now: datetime, bare: bool, files: Mapping[str, bytes]
) -> str:
    from capsule.store.git import init as init_store

    store = init_store(building, bare=bare)
    try:
        machine = make_key_pair(git_dir_of(building, bare) / RECONCILER_KEY, RECONCILER)
        values = {
            "name": final.name if re.match(NAME, final.name) else "capsule",
            "principal": identity.principal,
            "email": identity.person.email,
            "key": identity.signer.public.text,
            "reconciler_key": machine.text,
        }
        tree = {**_schema_files(), **_rendered({**_template(), **files}, values)}
        policy = load_policy(tree[POLICY], POLICY)
        root = _commit(store, identity, now, None, tree, "Begin the state repository")
        signers = signers_document(policy, root, 1).to_json()
        signed = {
            SIGNERS: signers,
            f"{SIGNERS_FOLDER}/{identity.principal}.sig": identity.signer.sign(
                signers, SIGNERS_NAMESPACE
            ).encode(),
        }
        tip = _commit(store, identity, now, root, signed, "Sign the list of signers")
        store.publish([RefUpdate(MAIN, None, tip)])
        write_allowed_signers(git_dir_of(building, bare), policy)
        return root
    finally:
        store.close()


def _commit(
    store: Store,
    identity: Identity,
    now: datetime,
    parent: str | None,
    files: Mapping[str, bytes],
    subject: str,
) -> str:
    return store.write(
        Draft(
            base=parent,
            edits=files,
            parents=(parent,) if parent else (),
            message=f"{subject}\n",
            author=identity.person,
            at=now,
            sign=identity.signer.sign_commit,
        )
    )


def _template() -> dict[str, bytes]:
    folder = template_folder()
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


def _rendered(files: Mapping[str, bytes], values: Mapping[str, str]) -> dict[str, bytes]:
    """`files` with `{{name}}` replaced by each of `values`; other braces (a CI system's) are left alone."""
    found = {}
    for path, data in files.items():
        text = data.decode("utf-8")
        for name, value in values.items():
            text = text.replace("{{" + name + "}}", value)
        found[path] = text.encode()
    return found


def _schema_files() -> dict[str, bytes]:
    known = schemas()
    return {f".capsule/schemas/{kind}.schema.json": known[f"{kind}.schema.json"] for kind in _SCHEMAS}


def _settings(building: Path, final: Path, identity: Identity, root: str, bare: bool) -> None:
    """What git needs here to sign as the caller, and to show signatures; `capsule.root` pins the identity."""
    signer = identity.signer
    key = f"key::{signer.public.text}" if signer.key_file is None else str(signer.key_file.absolute())
    for name, value in {
        "capsule.root": root,
        "gpg.format": "ssh",
        "gpg.ssh.allowedSignersFile": str(git_dir_of(final, bare) / ALLOWED_SIGNERS),
        "user.signingkey": key,
        "user.name": identity.person.name,
        "user.email": identity.person.email,
        "commit.gpgsign": "true",
    }.items():
        write_setting(building, name, value)
    if not bare:
        for name, value in FOLLOWS_ORIGIN:  # for the day when the repository gets a server
            write_setting(building, name, value)


def write_allowed_signers(git_dir: Path, policy: Policy) -> Path:
    """Write what stock git needs to name signers, from `policy`; the file it is in."""
    file = git_dir / ALLOWED_SIGNERS
    file.parent.mkdir(exist_ok=True)
    file.write_text(allowed_signers(policy), encoding="utf-8")
    return file
