"""dulwich's clients for every kind of remote, over our own streams: bounded, and with nothing left open.

Rules kept: paths are served by a `git` process, whose hooks and denials run (LocalGitClient has none of
them); SSH and HTTP connections are kept for the next call. Called by store.git_remote.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from dulwich.client import TraditionalGitClient
from dulwich.config import Config
from dulwich.errors import NotGitRepository
from dulwich.objects import ObjectID
from dulwich.protocol import Protocol, pkt_line

from capsule.store.git_duplex import Duplex, Patience, ProcessDuplex, SocketDuplex
from capsule.store.git_process import clean_environment
from capsule.store.git_settings import RemoteSettings
from capsule.store.git_url import RemoteUrl

if TYPE_CHECKING:
    import urllib3

    from capsule.store.git_http import HttpClient, HttpLogin
    from capsule.store.git_ssh import SshConnector

_GIT_PORT = 9418
_MAX_HAVES = 200


class StreamClient(TraditionalGitClient):
    """dulwich's client over our own streams; remembers what it opened, for dulwich leaks on errors."""

    def __init__(self, dial: Callable[[str, str, int], Duplex]) -> None:
        super().__init__(thin_packs=True, quiet=True)
        self._dial = dial
        self._opened: list[tuple[Protocol, Duplex]] = []

    def _connect(
        self, cmd: bytes, path: str | bytes, protocol_version: int | None = None
    ) -> tuple[Protocol, Callable[[], bool], None]:
        default = 2 if cmd == b"upload-pack" else 0
        self.protocol_version = default if protocol_version is None else protocol_version
        where = path.decode() if isinstance(path, bytes) else path
        duplex = self._dial(f"git-{cmd.decode()}", where, self.protocol_version)
        protocol = Protocol(duplex.read, duplex.write, duplex.close, shutdown_write=duplex.shutdown_write)
        self._opened.append((protocol, duplex))
        return protocol, duplex.can_read, None

    def close(self) -> None:
        for protocol, _ in self._opened:
            protocol.close()

    def diagnosis(self) -> str:
        return " ".join(filter(None, (duplex.diagnosis() for _, duplex in self._opened)))


Client: TypeAlias = "StreamClient | HttpClient"


class Tips:
    """The graph walker that offers tips alone: the server knows their history, we need not walk it."""

    def __init__(self, tips: Sequence[str], shallow: Iterable[str]) -> None:
        self._tips = iter([ObjectID(tip.encode()) for tip in tips[:_MAX_HAVES]])
        self.shallow = {ObjectID(each.encode()) for each in shallow}

    def __next__(self) -> ObjectID | None:
        return next(self._tips, None)

    def ack(self, sha: ObjectID, /) -> None:
        """What the server knows besides changes nothing: all tips are offered anyway."""

    def nak(self) -> None:
        """Nothing in common; the server sends everything."""


class Clients:
    """Makes a client for each call, over connections it keeps. Safe for threads."""

    def __init__(self, config: Config, settings: RemoteSettings) -> None:
        self._config = config
        self._settings = settings
        self._lock = threading.Lock()
        self._ssh: dict[str, SshConnector] = {}
        self._pools: dict[str, urllib3.PoolManager] = {}

    def make(self, url: RemoteUrl, login: HttpLogin | None) -> Client:
        """A client for one call; the caller closes it. Raises OSError, StoreError."""
        patience = Patience.of(self._settings.timeout, self._settings.whole)
        if url.scheme in ("http", "https"):
            # urllib3 costs a tenth of a second to import, paramiko as much: only who needs one pays.
            from capsule.store.git_http import HttpClient

            return HttpClient(url, login, self._pool(url), self._config, self._settings.timeout)
        if url.scheme == "ssh":
            connector = self._connector(url)
            return StreamClient(
                lambda service, path, version: connector.run(
                    f"{service} {_quoted(path)}", _protocol_variable(version), patience
                )
            )
        if url.scheme == "git":
            return StreamClient(
                lambda service, path, version: _dial_daemon(url, service, path, version, patience)
            )
        return StreamClient(lambda service, path, version: _dial_path(service, path, version, patience))

    def _pool(self, url: RemoteUrl) -> urllib3.PoolManager:
        from capsule.store.git_http import http_pool

        with self._lock:
            if url.text not in self._pools:
                self._pools[url.text] = http_pool(url, self._config, self._settings.timeout)
            return self._pools[url.text]

    def _connector(self, url: RemoteUrl) -> SshConnector:
        with self._lock:
            if url.text not in self._ssh:
                from capsule.store.git_ssh import SshConnector

                self._ssh[url.text] = SshConnector(url.host, url.port, url.user, self._settings.ssh)
            return self._ssh[url.text]

    def close(self) -> None:
        """Close kept connections."""
        with self._lock:
            for connector in self._ssh.values():
                connector.close()
            for pool in self._pools.values():
                pool.clear()


def _dial_path(service: str, path: str, version: int, patience: Patience) -> Duplex:
    if not Path(path).exists():
        raise NotGitRepository(path)
    environment = {**clean_environment(), **_protocol_variable(version)}
    return ProcessDuplex(["git", service.removeprefix("git-"), path], environment, patience)


def _dial_daemon(url: RemoteUrl, service: str, path: str, version: int, patience: Patience) -> Duplex:
    duplex = SocketDuplex(url.host, url.port or _GIT_PORT, patience)
    extra = f"\0version={version}\0" if version else ""
    duplex.write(pkt_line(f"{service} {path}\0host={url.host}\0{extra}".encode()))
    return duplex


def _protocol_variable(version: int) -> dict[str, str]:
    return {"GIT_PROTOCOL": f"version={version}"} if version else {}


def _quoted(path: str) -> str:
    # As git quotes for the shell or the forge at the other end: always, and in single quotes.
    return "'" + path.replace("'", "'\\''").replace("!", "'\\!'") + "'"
