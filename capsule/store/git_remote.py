"""The authority behind a remote: listing, fetching and compare-and-swap pushing, over dulwich's protocol.

Rules kept, each against a trap of dulwich or of the network:

* a push checks the advertised value itself (`send_pack` checks no ancestry), reads `ref_status` (a lost
  push does not raise), then reads the remote (some servers say ok to both racers);
* a connection that breaks once the push was sent is PushUnclear unless the remote shows our value;
* only what is new is sent and asked for, never all of history walked;
* paths are served by a `git` process, never by LocalGitClient, which runs no hooks;
* every wait is bounded; nothing the other side says reaches a terminal unfiltered; no secret is shown.

Called by store.git.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from dulwich.client import HTTPUnauthorized, SendPackResult
from dulwich.config import Config
from dulwich.errors import NotGitRepository, SendPackError
from dulwich.objects import ZERO_SHA, ObjectID
from dulwich.pack import UnpackedObject
from dulwich.refs import Ref

from capsule.store.api import PushRefused, PushUnclear, RefUpdate, RemoteUnreachable, StoreError
from capsule.store.git_clients import Client, Clients, StreamClient, Tips
from capsule.store.git_process import clean_environment
from capsule.store.git_refs import moved
from capsule.store.git_settings import RemoteSettings
from capsule.store.git_url import RemoteUrl
from capsule.store.objects import check_room, is_object_id
from capsule.trust.objects import MissingObject

if TYPE_CHECKING:
    from capsule.store.git_http import HttpLogin

_SHOWN_CHARACTERS = 600

PackData = tuple[int, Iterator[UnpackedObject]]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought: refs, and commits whose parents are left out from now on, or no longer."""

    refs: dict[str, str]
    cut: frozenset[str]
    mended: frozenset[str]


class Overtaken(Exception):
    """The remote said our push went through, and its ref is somewhere else already."""

    def __init__(self, current: str | None) -> None:
        super().__init__(current)
        self.current = current


class _Lost(Exception):
    def __init__(self, current: str | None) -> None:
        super().__init__(current)
        self.current = current


class GitRemote:
    """One remote repository. Safe for threads: every call has a connection of its own."""

    def __init__(self, url: RemoteUrl, push_url: RemoteUrl, config: Config, settings: RemoteSettings) -> None:
        self._url = url
        self._push_url = push_url
        self._settings = settings
        self._clients = Clients(config, settings)
        self._helper_login: HttpLogin | None = None

    @property
    def shown(self) -> str:
        """The remote's address without secrets."""
        return self._url.shown

    def listing(self, prefixes: Sequence[str]) -> dict[str, str]:
        """Refs of the remote below `prefixes`. Raises RemoteUnreachable."""
        return self._listing(self._url, prefixes)

    def _listing(self, url: RemoteUrl, prefixes: Sequence[str]) -> dict[str, str]:
        def ask(client: Client) -> dict[str, str]:
            asked = [prefix.encode() for prefix in prefixes]
            return _plain(client.get_refs(url.path.encode(), ref_prefix=asked).refs, prefixes)

        return self._call(url, "read", ask)

    def fetch(
        self,
        prefixes: Sequence[str],
        tips: Sequence[str],
        shallow: Iterable[str],
        wants: Callable[[dict[str, str]], list[str]],
        into: BinaryIO,
        depth: int | None = None,
    ) -> Fetched:
        """Refs below `prefixes`, and into the file the pack of what `wants` picks of them.

        `tips` are commits that are here with all their history; with `depth` only so many commits come.
        Raises RemoteUnreachable.
        """
        deadline = time.monotonic() + self._settings.whole

        def take(data: bytes) -> int:
            if time.monotonic() > deadline:
                raise TimeoutError("the call took too long in all")
            return into.write(data)

        def ask(client: Client) -> Fetched:
            def pick(refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:  # noqa: ARG001 (dulwich's signature)
                if getattr(client, "dumb", False):
                    raise RemoteUnreachable(f"{self.shown} answers, but not as a git server (smart HTTP)")
                return [ObjectID(oid.encode()) for oid in wants(_plain(refs, prefixes))]

            asked = [prefix.encode() for prefix in prefixes]
            walker = Tips(tips, shallow)
            result = client.fetch_pack(
                self._url.path.encode(), pick, walker, take, ref_prefix=asked, depth=depth
            )
            return Fetched(
                _plain(result.refs, prefixes), _ids(result.new_shallow), _ids(result.new_unshallow)
            )

        return self._call(self._url, "fetch from", ask)

    def push(self, update: RefUpdate, pack: Callable[[set[str], bool], PackData]) -> None:
        """Move one ref there, if it is where `update` expects it.

        `pack(advertised, careful)` gives the objects to send, above what the remote advertised (and,
        unless `careful`, above what it once had). Raises RefMoved, RemoteUnreachable, PushUnclear,
        PushRefused, Overtaken.
        """
        deadline = time.monotonic() + self._settings.contention
        careful = False
        while True:
            attempt = _Attempt(self._push_url.path, update, pack, careful)
            try:
                result = self._call(self._push_url, "push to", attempt.send)
            except _Lost as lost:
                raise moved(update, lost.current) from None
            except SendPackError as error:
                if careful or update.new is None:
                    raise self._refused(update, f"{error} {attempt.said}") from None
                careful = True  # perhaps it dropped what it once had: send all above its present refs
                continue
            except RemoteUnreachable as error:
                if attempt.sent:
                    self._settle_broken(update, error)
                    return
                raise
            if self._settle_answered(update, result, attempt.said, time.monotonic() < deadline):
                return
            # The server's own lock was held by another push: see who wins, nothing secret in the jitter.
            time.sleep(random.uniform(0.02, 0.1))  # noqa: S311 (jitter, no secret)

    def _settle_broken(self, update: RefUpdate, error: RemoteUnreachable) -> None:
        said = str(error)
        if " http resp 4" in said:  # an answer, and a no: the server did not try
            raise self._refused(update, said) from None
        try:
            current = self._current(update.name)
        except RemoteUnreachable:
            current = "unknown, for it cannot be reached"
        if current != update.new:
            raise PushUnclear(
                f"the connection broke while {update.name} was pushed to {self._push_url.shown}; "
                f"it may have moved or may still move, and was last seen at {current or 'nothing'}",
                "read the remote again before anything else is done",
            ) from None

    def _settle_answered(self, update: RefUpdate, result: SendPackResult, said: str, patient: bool) -> bool:
        """Whether the push is through; False asks for another try."""
        status = result.ref_status or {}
        name = update.name.encode()
        reason = status.get(name)
        current = self._current(update.name)
        if reason is None:
            if current == update.new:
                return True
            if name in status or result.ref_status is None:
                raise Overtaken(current)
        if current != update.old:
            raise moved(update, current)
        if reason is not None and _is_contention(reason) and patient:
            return False
        raise self._refused(update, f"{reason or 'it did not say why'} {said}")

    def _current(self, name: str) -> str | None:
        # From where it was pushed to: a mirror that is read from may lag behind.
        return self._listing(self._push_url, [name]).get(name)

    def _refused(self, update: RefUpdate, why: str) -> PushRefused:
        return PushRefused(
            f"{self._push_url.shown} refused to move {update.name}: {_printable(why)}",
            "look at the branch protection, the hooks and the permissions there",
        )

    def _call(
        self,
        url: RemoteUrl,
        verb: str,
        ask: Callable[[Client], Answer],
    ) -> Answer:
        try:
            return self._attempt(url, verb, ask)
        except HTTPUnauthorized:
            login = self._ask_helper(url)
        try:
            return self._attempt(url, verb, ask)
        except HTTPUnauthorized:
            self._helper_login = None
            if login is not None:
                from capsule.store.git_http import forget_login

                forget_login(url, login, clean_environment())
            raise RemoteUnreachable(f"cannot {verb} {url.shown}: the login was refused") from None

    def _ask_helper(self, url: RemoteUrl) -> HttpLogin | None:
        from capsule.store.git_http import given_login, helper_login

        settings = self._settings.http
        if settings.helper and given_login(url, settings) is None:
            self._helper_login = helper_login(url, clean_environment())
            if self._helper_login is not None:
                return self._helper_login
        raise RemoteUnreachable(
            f"{url.shown} asks for a login, and none that it accepts is known",
            "set up a git credential helper, or give a token",
        )

    def _attempt(self, url: RemoteUrl, verb: str, ask: Callable[[Client], Answer]) -> Answer:
        client: Client | None = None
        try:
            client = self._clients.make(url, self._login(url))
            return ask(client)
        except (StoreError, MissingObject, _Lost, SendPackError, HTTPUnauthorized):
            raise
        except NotGitRepository:
            raise RemoteUnreachable(f"cannot {verb} {url.shown}: there is no git repository") from None
        except Exception as error:  # dulwich, urllib3 and paramiko raise dozens of unrelated kinds here
            said = client.diagnosis() if isinstance(client, StreamClient) else ""
            why = _printable(f"{error or type(error).__name__} {said}")
            hint = "" if "ssh-keyscan" in why else "is the address right, is it up, may we in?"
            raise RemoteUnreachable(f"cannot {verb} {url.shown}: {why}", hint) from None
        finally:
            if client is not None:
                client.close()

    def _login(self, url: RemoteUrl) -> HttpLogin | None:
        if url.scheme not in ("http", "https"):
            return None
        from capsule.store.git_http import given_login

        return given_login(url, self._settings.http) or self._helper_login

    def close(self) -> None:
        """Close kept connections."""
        self._clients.close()


class _Attempt:
    """One push. `sent` is true from when the remote may have seen the command."""

    def __init__(
        self, path: str, update: RefUpdate, pack: Callable[[set[str], bool], PackData], careful: bool
    ) -> None:
        self._path = path
        self._update = update
        self._pack = pack
        self._careful = careful
        self._data: PackData = (0, iter(()))
        self._said: list[bytes] = []
        self.sent = False

    @property
    def said(self) -> str:
        """What hooks and the server wrote for people."""
        return b"".join(self._said).decode("utf-8", "replace").strip()

    def send(self, client: Client) -> SendPackResult:
        return client.send_pack(self._path.encode(), self._choose, self._generate, self._hear)

    def _choose(self, refs: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
        name = Ref(self._update.name.encode())
        found = refs.get(name)
        current = found.decode("ascii") if found and found != ZERO_SHA else None
        if current != self._update.old:
            raise _Lost(current)
        if self._update.new is None:
            self.sent = True
            return {name: ZERO_SHA}
        if current is None:  # git calls this "failed to update ref", just as a lock that is held for a moment
            check_room(self._update.name, (each.decode("utf-8", "replace") for each in refs))
        # Found before anything is sent: a missing object must not look like a broken connection.
        self._data = self._pack({oid.decode("ascii") for oid in refs.values() if oid}, self._careful)
        self.sent = True
        return {name: ObjectID(self._update.new.encode())}

    def _generate(
        self,
        have: Set[ObjectID],  # noqa: ARG002 (dulwich's signature, here and below)
        want: Set[ObjectID],  # noqa: ARG002 (dulwich's signature)
        *,
        ofs_delta: bool = False,  # noqa: ARG002 (dulwich's signature)
        progress: Callable[..., None] | None = None,  # noqa: ARG002 (dulwich's signature)
    ) -> PackData:
        return self._data

    def _hear(self, data: bytes) -> None:
        if sum(map(len, self._said)) < _SHOWN_CHARACTERS:
            self._said.append(data)


def _ids(found: Iterable[bytes] | None) -> frozenset[str]:
    return frozenset(each.decode("ascii") for each in found or ())


def _plain(refs: Mapping[Ref, ObjectID | None], prefixes: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw, value in refs.items():
        name = raw.decode("utf-8", "surrogateescape")
        oid = value.decode("ascii", "replace") if value else ""
        if name.startswith(tuple(prefixes)) and not name.endswith("^{}") and is_object_id(oid):
            found[name] = oid
    return found


def _is_contention(reason: str) -> bool:
    text = reason.lower()
    return any(
        word in text for word in ("cannot lock ref", "failed to update ref", "unable to create", ".lock")
    )


def _printable(text: str) -> str:
    """One short line without control characters: it is the other side's, and may reach a terminal."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    line = re.sub(r"//[^/\s]*@", "//", line)
    return line[:_SHOWN_CHARACTERS]
