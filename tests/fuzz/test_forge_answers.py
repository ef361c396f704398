"""Whatever a forge answers, and whatever lines a hook is given: a value, or the documented error."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3
from hypothesis import strategies as st

from capsule.commands.errors import CommandError
from capsule.commands.hook import MAX_REFS, read_pushes
from capsule.documents.types import ForgeSettings
from capsule.forge.api import LONGEST_WAIT, EvidenceUnavailable, Forge, ForgeError, PullHead, RawPull
from capsule.forge.choose import forge_of
from capsule.forge.reasons import REASONS
from tests.forge_servers import API, REPOSITORY, TOKEN, Conflict, Missing, Pull, Review, Site
from tests.fuzz.fuzzing import fuzz, spoiled, spoiled_json

SERVER = "http://127.0.0.1:9"  # nothing is connected to; https would load certificates each time
MERGED, HEAD = "a" * 40, "b" * 40
AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CALLS: dict[str, Callable[[Forge], object]] = {
    "find": lambda forge: forge.find(MERGED),
    "pull": lambda forge: forge.pull(7),
    "writers": lambda forge: forge.writers(7),
    "base": lambda forge: forge.base(7),
    "blob_ids": lambda forge: forge.blob_ids(HEAD, ["a.yaml"]),
    "open_pull": lambda forge: forge.open_pull("request/one", "Ask", "text", [583231]),
    "open_pulls": lambda forge: forge.open_pulls(),
    "account": lambda forge: forge.account(),
    "comment": lambda forge: forge.comment(7, "not yet"),
    "set_check": lambda forge: forge.set_check(PullHead(7, HEAD), True, "1 of 1 approved"),
}


def furnished() -> Site:
    site = Site()
    site.account(1, "robot")
    alice, bob = site.account(11, "alice"), site.account(583231, "bob")
    pull = Pull(7, alice, HEAD, merged=MERGED, pushes=[(HEAD, AT - timedelta(hours=1))])
    pull.reviews.append(Review(900, bob, "approved", HEAD, AT))
    site.add(pull, MERGED)
    site.add(Pull(8, alice, HEAD, branch="request/two"))
    site.files[HEAD, "a.yaml"] = "1" * 40
    site.say(7, site.accounts[11], "hello")
    return site


class Pool:
    """In the place of connections: the answers of an honest forge, but for one, which is `spoiled`."""

    def __init__(self, kind: str, spoiled_at: int, answer: tuple[int, dict[str, str], bytes]) -> None:
        self._kind = kind
        self._site = furnished()
        self._left = spoiled_at
        self._answer = answer
        self.honest: list[Any] = []

    def request(
        self, method: str, address: str, *, headers: Mapping[str, str], body: bytes | None, **_: object
    ) -> urllib3.HTTPResponse:
        assert address.startswith(SERVER), "the token leaves for no other place"
        assert any(TOKEN in value for value in headers.values())
        self._left -= 1
        status, told, data = self._answer if self._left == -1 else self._honest(method, address, body)
        return urllib3.HTTPResponse(
            body=io.BytesIO(data), status=status, headers=told, preload_content=False, request_method=method
        )

    def clear(self) -> None:
        """Nothing is open."""

    def _honest(self, method: str, address: str, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(address)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        text = json.loads(body) if body else None
        try:
            found = API[self._kind](self._site, method, parts.path, query, text, SERVER)
        except (Missing, Conflict) as error:
            return (404 if isinstance(error, Missing) else 422), {}, b"{}"
        if isinstance(found, list) and int(query.get("page", 1)) > 1:
            found = []
        self.honest.append(found)
        return 200, {}, json.dumps(found).encode()


def asked(kind: str, pool: Pool, call: str) -> object:
    """What the client says, with its connections exchanged for `pool`."""
    forge: Any = forge_of(ForgeSettings(kind=kind, server=SERVER, repository=REPOSITORY), lambda: TOKEN)
    forge._rest._pool = pool
    try:
        return CALLS[call](forge)
    finally:
        forge.close()


def collected() -> list[Any]:
    """Every answer that an honest forge gives, of every kind."""
    found: list[Any] = []
    for kind in API:
        for call in CALLS:
            pool = Pool(kind, 10**6, (200, {}, b""))
            asked(kind, pool, call)
            found += pool.honest
    return [each for each in found if each]


ANSWERS = collected()
BODIES = spoiled_json(ANSWERS).map(lambda value: json.dumps(value).encode())
BODIES |= spoiled([json.dumps(each).encode() for each in ANSWERS], [b"1e999", b"NaN", b"[[[["])
BODIES |= st.binary(max_size=100) | BODIES.map(gzip.compress)
NUMBERS = st.sampled_from(
    ["", "0", "-1", "30", "9" * 400, "nan", "1e9", "\u00b2", "Wed, 21 Oct 2026 07:28:00 GMT"]
)
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "X-RateLimit-Reset", "X-RateLimit-Remaining", "Content-Length"]), NUMBERS
)
HEADERS |= st.just({"Content-Encoding": "gzip"}) | st.just({"Location": "https://evil.example/"})


def documented(error: ForgeError) -> None:
    """The error tells its reason and no secret, and does not ask for an endless wait."""
    assert error.reason in REASONS
    assert TOKEN not in str(error)
    assert len(str(error)) < 500
    if isinstance(error, EvidenceUnavailable) and error.retry_after is not None:
        assert 0 <= error.retry_after <= LONGEST_WAIT


@fuzz(
    kind=st.sampled_from(sorted(API)),
    call=st.sampled_from(sorted(CALLS)),
    at=st.integers(0, 6),
    status=st.sampled_from([200, 200, 200, 201, 204, 301, 307, 400, 401, 403, 404, 409, 422, 429, 500, 503]),
    headers=HEADERS,
    data=BODIES,
)
def test_any_answer_of_a_forge_is_a_value_or_the_documented_error(
    kind: str, call: str, at: int, status: int, headers: dict[str, str], data: bytes
) -> None:
    try:
        found = asked(kind, Pool(kind, at, (status, headers, data)), call)
    except ForgeError as error:
        documented(error)
        return
    if isinstance(found, RawPull):
        assert len(found.head) == 40
        assert all(each.user > 0 and each.submitted_at.tzinfo == UTC for each in found.reviews)


LINES = [
    f"{'0' * 40} {'a' * 40} refs/heads/main\n".encode(),
    f"{'a' * 40} {'b' * 40} refs/heads/audit\n{'b' * 40} {'0' * 40} refs/heads/request/x\n".encode(),
    f"{'a' * 40} {'b' * 40} refs/capsule/heartbeat/reconciler-1\n".encode() * 3,
]


def refused(error: CommandError) -> None:
    """The error is one of those that a hook gives, and repeats little of its input."""
    assert error.reason in ("HookInput", "TooManyRefs")
    assert len(error.message) < 200


@fuzz(data=spoiled(LINES, [b" ", b"\n", b"refs/", b"0" * 40, b"A" * 40]) | st.binary(max_size=200))
def test_any_lines_to_a_hook_are_pushes_or_a_documented_error(data: bytes) -> None:
    lines = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    try:
        found = read_pushes(lines)
    except CommandError as error:
        refused(error)
        return
    assert len(found) == len(lines) <= MAX_REFS
    assert all(each.ref.startswith("refs/") and (each.new is None or len(each.new) == 40) for each in found)
