"""The state repository in git: how one is opened, made and cloned. Gives a GitStore.

Rules kept: a repository that has the remote `origin` has its authority there; one that dulwich or git
could misread (reftable, SHA-256 ids) is refused with words; no secret is written into a configuration.
Called by commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dulwich.config import apply_instead_of
from dulwich.errors import NotGitRepository
from dulwich.object_format import DEFAULT_OBJECT_FORMAT
from dulwich.object_store import DiskObjectStore
from dulwich.refs import DiskRefsContainer
from dulwich.repo import Repo, UnsupportedExtension, UnsupportedVersion

from capsule.store.api import NotARepository, StoreError
from capsule.store.git_process import run_git
from capsule.store.git_remote import GitRemote
from capsule.store.git_settings import (
    FOLLOWS_ORIGIN,
    HEARTBEATS_REFSPEC,
    HttpSettings,
    RemoteSettings,
    SshSettings,
)
from capsule.store.git_store import GitStore
from capsule.store.git_url import RemoteUrl

__all__ = [
    "GitStore",
    "HttpSettings",
    "RemoteSettings",
    "SshSettings",
    "clone",
    "init",
    "open_store",
]

_FRESH_CONFIG = (
    ("gc.auto", "0"),  # maintenance is asked for, never a surprise amid a pass
    ("gc.writeCommitGraph", "false"),
    ("core.commitGraph", "false"),  # dulwich loads it whole: 8 s and 837 MB at a million commits
    ("core.fsync", "all"),  # for people's own git: by default it syncs neither loose objects nor refs
)


def open_store(
    path: Path | str,
    *,
    remote: str | None = "auto",
    settings: RemoteSettings | None = None,
    borrowed: Sequence[Path] = (),
) -> GitStore:
    """Open the repository at or above `path` (a working directory, a folder in it, or a bare one).

    `remote`: "auto" makes the remote `origin` the authority if the repository has one; None works on the
    local repository alone; else the name of a remote, or a URL. `borrowed` are folders of objects that are
    read besides, such as the quarantine in which git keeps what a push brings while its hook decides
    (git-receive-pack(1), QUARANTINE ENVIRONMENT). Raises NotARepository, StoreError.
    """
    repo = _discover(Path(path))
    try:
        if borrowed:
            repo.object_store.close()
            repo.object_store = DiskObjectStore(Path(repo.commondir()) / "objects", alternates=borrowed)
        return GitStore(repo, *_authority(repo, remote, settings or RemoteSettings()))
    except BaseException:
        repo.close()
        raise


def _discover(path: Path) -> Repo:
    try:
        repo = Repo.discover(str(path))
    except NotGitRepository:
        raise NotARepository(
            f"no git repository at {path} or above it", "run `capsule init DIR`, or give the path with -C"
        ) from None
    except (UnsupportedExtension, UnsupportedVersion, OSError, ValueError) as error:
        raise NotARepository(f"the repository at {path} cannot be opened: {error}") from None
    if not isinstance(repo.refs, DiskRefsContainer) or repo.object_format is not DEFAULT_OBJECT_FORMAT:
        repo.close()
        raise NotARepository(
            f"the repository at {path} keeps its refs as reftable or its ids as SHA-256",
            "make it anew with the `files` ref format and SHA-1",
        )
    return repo


def _authority(repo: Repo, remote: str | None, settings: RemoteSettings) -> tuple[GitRemote | None, str]:
    if remote is None:
        return None, "origin"
    name = "origin" if remote == "auto" else remote
    config = repo.get_config_stack()
    beside = Path(repo.path).resolve()
    try:
        url = config.get((b"remote", name.encode()), b"url").decode()
    except KeyError:
        if remote == "auto":
            return None, "origin"
        name, url = "origin", remote
    try:
        push_url = config.get((b"remote", name.encode()), b"pushurl").decode()
    except KeyError:
        push_url = apply_instead_of(config, url, push=True)
    fetched = RemoteUrl.parse(apply_instead_of(config, url), beside)
    return GitRemote(fetched, RemoteUrl.parse(push_url, beside), config, settings), name


def init(path: Path | str, *, bare: bool = False) -> GitStore:
    """Make an empty repository with the branch `main` to come, set up for safe work. Raises StoreError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        make = Repo.init_bare if bare else Repo.init
        repo = make(str(folder), default_branch=b"main")
    except FileExistsError:
        raise StoreError(f"{folder} already has a repository") from None
    except OSError as error:
        raise StoreError(f"cannot make a repository at {folder}: {error.strerror or error}") from None
    repo.close()
    git_folder = Path(repo.controldir()).resolve()
    for name, value in _FRESH_CONFIG:
        run_git(git_folder, "config", "--local", name, value)
    return open_store(folder, remote=None)


def clone(
    url: str,
    path: Path | str,
    *,
    bare: bool = False,
    settings: RemoteSettings | None = None,
    shallow: str | None = None,
) -> GitStore:
    """Make a repository at `path` whose authority is `url`, and fetch what is there.

    A repository that is not bare gets the branch `main` and its files. `shallow` is the ref
    of which the newest commit alone is taken; all others come whole. Raises StoreError, RemoteUnreachable.
    """
    folder = Path(path)
    parsed = RemoteUrl.parse(url, Path.cwd())
    if parsed.password is not None:
        raise StoreError(
            "the address has a password in it, which would be kept in the repository's configuration",
            "leave it out and use a credential helper or a token file",
        )
    init(folder, bare=bare).close()
    git_folder = folder if bare else folder / ".git"
    address = parsed.path if parsed.scheme == "path" else url
    for name, value in (
        ("remote.origin.url", address),
        ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
        ("remote.origin.fetch", HEARTBEATS_REFSPEC),
        *FOLLOWS_ORIGIN,
    ):
        run_git(git_folder.resolve(), "config", "--local", "--add", name, value)
    store = open_store(folder, settings=settings)
    try:
        if shallow is not None:
            store.begin_shallow(shallow)
        store.refresh()
        store.start_branch("main")
    except BaseException:
        store.close()
        raise
    return store
