"""A forge that lies, storms, dribbles or never ends: clients raise a documented error, in bounded time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capsule.documents.types import ForgeSettings
from capsule.forge import rest
from capsule.forge.api import MAX_ANSWER, EvidenceUnavailable, Forge, ForgeError, ForgeRefused
from capsule.forge.choose import forge_of, web_address
from capsule.forge.credential import secret_in, token_in
from tests.forge_servers import REPOSITORY, TOKEN, Answer, Pull, Review, Site, serve

KINDS = ("github", "gitlab", "gitea")
MERGED, HEAD, OTHER = "a" * 40, "b" * 40, "c" * 40
AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def furnished() -> Site:
    site = Site()
    alice, bob = site.account(11, "alice"), site.account(583231, "bob")
    pull = Pull(7, alice, HEAD, merged=MERGED, pushes=[(HEAD, AT - timedelta(hours=1))])
    pull.reviews.append(Review(900, bob, "approved", HEAD, AT))
    site.add(pull, MERGED)
    return site


@contextmanager
def client(kind: str, site: Site, token: Callable[[], str] = lambda: TOKEN) -> Iterator[Forge]:
    with serve(kind, site) as server:
        forge = forge_of(ForgeSettings(kind=kind, server=server, repository=REPOSITORY), token)
        try:
            yield forge
        finally:
            forge.close()


def failing(kind: str, answer: Answer, *, only: str = "") -> ForgeError:
    """The error of a find where each call (with `only` in its path) is answered so."""
    site = furnished()
    site.fault = lambda _method, path: answer if only in path else None
    with client(kind, site) as forge, pytest.raises(ForgeError) as caught:
        forge.find(MERGED)
    assert TOKEN not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body",
    [
        b"<html>not json</html>",
        b"",
        b"[" * 100_000,
        b'{"number": "7"}',
        b"[1, 2]",
        b'[{"number": true, "iid": true, "id": 1e400}]',
        b"\xff\xfe",
        b"null",
    ],
)
def test_an_answer_that_is_not_as_described_is_unavailable(kind: str, body: bytes) -> None:
    error = failing(kind, Answer(200, body))
    assert isinstance(error, EvidenceUnavailable)
    assert error.reason == "ForgeAnswerMalformed"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_without_end_is_cut_off(kind: str) -> None:
    error = failing(kind, Answer(200, b" " * (MAX_ANSWER + 1) + b"[]"))
    assert isinstance(error, EvidenceUnavailable)
    assert error.reason == "ForgeAnswerTooLarge"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_dribbles_is_cut_off(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "CALL_SECONDS", 0.3)
    began = time.monotonic()
    error = failing(kind, Answer(200, b" " * 200, dribble=0.05))
    assert error.reason == "ForgeUnreachable"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_storm_of_errors_means_later(kind: str, status: int) -> None:
    error = failing(kind, Answer(status, b"<html>"))
    assert isinstance(error, EvidenceUnavailable)
    assert error.reason == "ForgeFailed"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "least", "most"),
    [
        (Answer(429, headers={"Retry-After": "30"}), 30, 30),
        (Answer(403, headers={"Retry-After": "99999999"}), 3600, 3600),
        (Answer(403, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}), 1, 1),
        (Answer(429, headers={"RateLimit-Reset": "99999999999"}), 3600, 3600),
        (Answer(429, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 60, 60),
    ],
)
def test_a_limit_says_when_to_ask_again_within_reason(
    kind: str, answer: Answer, least: float, most: float
) -> None:
    error = failing(kind, answer)
    assert isinstance(error, EvidenceUnavailable)
    assert error.reason == "ForgeRateLimited"
    assert error.retry_after is not None
    assert least <= error.retry_after <= most


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "ForgeTokenRefused"),
        (403, "ForgeNotAllowed"),
        (404, "ForgeNotAllowed"),
        (400, "ForgeRefusedCall"),
    ],
)
def test_a_refusal_waits_for_a_person(kind: str, status: int, reason: str) -> None:
    error = failing(kind, Answer(status))
    assert isinstance(error, ForgeRefused)
    assert error.reason == reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ["http://169.254.169.254/latest", "/elsewhere", "https://evil.example/"])
def test_no_redirect_is_followed(kind: str, to: str) -> None:
    error = failing(kind, Answer(302, headers={"Location": to}))
    assert isinstance(error, ForgeRefused)
    assert error.reason == "ForgeRedirects"


@pytest.mark.parametrize("kind", KINDS)
def test_pages_that_repeat_themselves_are_no_answer(kind: str) -> None:
    site = furnished()
    part = "/notes" if kind == "gitlab" else "/reviews"
    with client(kind, site) as forge:
        forge.find(MERGED)
        path = next(path for _, path in site.calls if part in path)
    real = json.dumps(_entry(kind)).encode()
    error = failing(kind, Answer(200, real), only=part)
    assert error.reason == "ForgeAnswerMalformed"
    assert path


def _entry(kind: str) -> list[object]:
    user = {"id": 5, "login": "eve", "username": "eve", "type": "User"}
    common = {"id": 3, "user": user, "author": user, "state": "APPROVED", "commit_id": HEAD}
    more = {"submitted_at": "2026-11-23T12:00:00Z", "stale": False, "dismissed": False}
    note = {"system": True, "body": "approved this merge request", "created_at": "2026-11-23T12:00:00Z"}
    return [{**common, **more, **note}]


@pytest.mark.parametrize("kind", ["github", "gitea"])
def test_pages_without_end_are_cut_off(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "MOST_PAGES", 3)
    site = furnished()
    bob = site.accounts[583231]
    site.pulls[7].reviews = [Review(n, bob, "commented", HEAD, AT) for n in range(1, 400)]
    with client(kind, site) as forge, pytest.raises(EvidenceUnavailable) as caught:
        forge.find(MERGED)
    assert caught.value.reason == "ForgeAnswerTooLarge"


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_for_changes_on_a_later_page_is_not_missed(kind: str) -> None:
    site = furnished()
    bob = site.accounts[583231]
    many = [Review(n, site.account(1000 + n, f"u{n}"), "commented", HEAD, AT) for n in range(1, 120)]
    site.pulls[7].reviews = [*many, Review(950, bob, "changes", HEAD, AT + timedelta(minutes=1))]
    with client(kind, site) as forge:
        found = forge.find(MERGED)
    assert found is not None
    assert (found.reviews[-1].user, found.reviews[-1].state) == (583231, "changes_requested")


@pytest.mark.parametrize("kind", ["github", "gitea"])
@pytest.mark.parametrize("state", ["dismissed", "stale"])
def test_dismissed_and_stale_reviews_are_told_as_void(kind: str, state: str) -> None:
    site = furnished()
    site.pulls[7].reviews[0].state = state
    with client(kind, site) as forge:
        found = forge.find(MERGED)
    assert found is not None
    assert [each.state for each in found.reviews] == ["dismissed"]


@pytest.mark.parametrize("kind", ["github", "gitea"])
def test_reviews_that_were_never_submitted_or_whose_account_is_gone_are_left_out(kind: str) -> None:
    site = furnished()
    review = site.pulls[7].reviews[0]
    site.pulls[7].reviews = [
        Review(1, review.user, "pending", HEAD, AT),
        Review(2, None, "approved", HEAD, AT),
    ]
    with client(kind, site) as forge:
        found = forge.find(MERGED)
    assert found is not None
    assert found.reviews == ()


def test_a_bot_typed_as_a_user_is_known_by_its_login() -> None:
    site = furnished()
    site.accounts[583231].login = "merge-helper[bot]"
    with client("github", site) as forge:
        found = forge.find(MERGED)
    assert found is not None
    assert found.reviews[0].bot


def test_a_token_of_a_gitlab_project_is_known_by_its_name() -> None:
    site = furnished()
    site.accounts[583231].login = "project_42_bot_0a1b"
    with client("gitlab", site) as forge:
        found = forge.find(MERGED)
    assert found is not None
    assert found.reviews[0].bot


def test_an_approval_at_gitlab_without_a_time_is_bound_by_its_note() -> None:
    site = furnished()
    site.pulls[7].reviews[0].untimed = True
    with client("gitlab", site) as forge:
        found = forge.find(MERGED)
    assert found is not None
    assert found.reviews[0].commit == HEAD


def test_an_approval_at_gitlab_in_the_second_of_a_push_is_not_bound_to_it() -> None:
    site = furnished()
    site.pulls[7].pushes = [(OTHER, AT - timedelta(hours=2)), (HEAD, AT)]
    with client("gitlab", site) as forge:
        found = forge.find(MERGED)
    assert found is not None
    assert found.reviews[0].commit == OTHER


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["open", "other branch", "other repository"])
def test_a_pull_request_that_did_not_bring_it_to_this_main_is_none(kind: str, what: str) -> None:
    site = furnished()
    pull = site.pulls[7]
    if what == "open":
        pull.merged = None
    elif what == "other branch":
        pull.base = "develop"
    elif kind == "gitea":
        pull.merged = None
    else:
        pull.repository = "mallory/state"
    with client(kind, site) as forge:
        assert forge.find(MERGED) is None


def test_people_who_cannot_be_asked_stop_nobody() -> None:
    for kind in ("github", "gitea"):
        site = furnished()
        site.account(1, "robot")
        site.unaskable.add("bob")
        with client(kind, site) as forge:
            opened = forge.open_pull("request/one", "Ask", "text", [583231, 11, 99])
        assert opened.unasked == (583231, 99)
        assert site.pulls[opened.number].reviewers == [11]


def test_a_token_goes_to_no_plain_http_beyond_this_machine() -> None:
    for kind in KINDS:
        settings = ForgeSettings(kind=kind, server="http://forge.example", repository=REPOSITORY)
        with pytest.raises(ForgeRefused) as caught:
            forge_of(settings, lambda: TOKEN)
        assert caught.value.reason == "ForgeInsecure"


def test_nobody_listening_means_later() -> None:
    settings = ForgeSettings(kind="github", server="http://127.0.0.1:9", repository=REPOSITORY)
    forge = forge_of(settings, lambda: TOKEN)
    with pytest.raises(EvidenceUnavailable) as caught:
        forge.find(MERGED)
    assert caught.value.reason == "ForgeUnreachable"
    assert MERGED not in str(caught.value)
    forge.close()


def test_a_token_is_read_anew_at_each_call_from_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    site = furnished()
    with serve("github", site) as server:
        file.write_text(f"wrong {server}\n")
        settings = ForgeSettings(kind="github", server=server, repository=REPOSITORY)
        with closing(forge_of(settings, token_in(file, settings))) as forge:
            with pytest.raises(ForgeRefused):
                forge.find(MERGED)
            file.write_text(f"{TOKEN} {server}\n")
            assert forge.find(MERGED) is not None


SETTINGS = ForgeSettings(kind="github", server="https://forge.example", repository=REPOSITORY)


@pytest.mark.parametrize("text", ["", "alone", "a b c", "a\nb", "x" * 5000, "\x00", "é"])
def test_a_file_without_a_token_is_refused_without_its_text(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ForgeRefused) as caught:
        token_in(file, SETTINGS)()
    assert caught.value.reason == "ForgeTokenUnreadable"
    assert len(text) < 2 or text not in str(caught.value).replace(str(file), "")
    if text not in ("alone",):
        with pytest.raises(ForgeRefused):
            secret_in(file)()


def test_a_token_that_others_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    with pytest.raises(ForgeRefused, match="chmod 600"):
        token_in(file, SETTINGS)()
    with pytest.raises(ForgeRefused):
        token_in(tmp_path / "none", SETTINGS)()


def kept_for(address: str, folder: Path) -> Path:
    file = folder / "token"
    file.write_text(f"{TOKEN} {address}\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_settings_sends_the_token_to_no_other_forge(kind: str, tmp_path: Path) -> None:
    honest, hostile = furnished(), furnished()
    with serve(kind, honest) as own, serve(kind, hostile) as other:
        file = kept_for(f"{own}/{REPOSITORY}", tmp_path)
        for server in (own, other):
            settings = ForgeSettings(kind=kind, server=server, repository=REPOSITORY)
            with closing(forge_of(settings, token_in(file, settings))) as forge:
                if server == own:
                    assert forge.find(MERGED) is not None
                    continue
                with pytest.raises(ForgeRefused) as caught:
                    forge.find(MERGED)
        assert caught.value.reason == "ForgeServerChanged"
        assert TOKEN not in str(caught.value)
    assert honest.calls
    assert hostile.calls == []


@pytest.mark.parametrize(
    ("server", "repository", "address", "sent"),
    [
        ("https://forge.example", "acme/state", "https://forge.example", True),
        ("https://forge.example/", "acme/state", "https://FORGE.example:443/", True),
        ("https://forge.example", "acme/state", "https://forge.example/acme", True),
        ("https://forge.example/git", "acme/state", "https://forge.example/git/acme/state", True),
        ("https://forge.example", "acme/state-2", "https://forge.example/acme/state", False),
        ("https://forge.example", "mallory/state", "https://forge.example/acme/state", False),
        (
            "https://forge.example",
            "acme/state/../../mallory/state",
            "https://forge.example/acme/state",
            False,
        ),
        ("https://forge.example/acme/state/%2e%2e", "x/y", "https://forge.example/acme/state", False),
        ("https://forge.example.evil.example", "acme/state", "https://forge.example", False),
        ("https://forge.example\\evil.example", "acme/state", "https://forge.example/acme/state", False),
        ("https://forge.example:8443", "acme/state", "https://forge.example", False),
        ("http://forge.example", "acme/state", "https://forge.example", False),
        ("https://forge.example", "acme/state", "forge.example", False),
        ("https://forge.example", "acme/state", "https://u:p@forge.example", False),
        ("https://forge.example", "acme/state", "https://forge.example?x", False),
        ("https://forge.example", "acme/state", "https://[x", False),
    ],
)
def test_a_token_is_for_its_address_and_what_lies_below_it(
    server: str, repository: str, address: str, sent: bool, tmp_path: Path
) -> None:
    settings = ForgeSettings(kind="gitlab", server=server, repository=repository)
    read = token_in(kept_for(address, tmp_path), settings)
    if sent:
        assert read() == TOKEN
        return
    with pytest.raises(ForgeRefused) as caught:
        read()
    assert caught.value.reason == "ForgeServerChanged"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_carries_the_token_to_no_other_host(kind: str, status: int) -> None:
    site, elsewhere = furnished(), furnished()
    with serve(kind, elsewhere) as other, serve(kind, site) as server:
        to = other.replace("127.0.0.1", "localhost")
        site.fault = lambda _method, path: Answer(status, headers={"Location": f"{to}{path}"})
        settings = ForgeSettings(kind=kind, server=server, repository=REPOSITORY)
        with closing(forge_of(settings, lambda: TOKEN)) as forge:
            calls = (
                lambda: forge.find(MERGED),
                lambda: forge.open_pull("request/one", "Ask", "text", []),
                lambda: forge.comment(7, "text"),
            )
            for call in calls:
                with pytest.raises(ForgeRefused) as caught:
                    call()
                assert caught.value.reason == "ForgeRedirects"
    assert elsewhere.calls == []


def test_the_page_to_open_a_pull_by_hand_is_made_from_the_settings() -> None:
    def page(kind: str) -> str:
        settings = ForgeSettings(kind=kind, server="https://forge.example/", repository="acme/state")
        return web_address(settings, "request/one")

    base = "https://forge.example/acme/state"
    assert page("github") == f"{base}/compare/main...request/one?expand=1"
    assert page("gitea") == f"{base}/compare/main...request/one"
    assert page("gitlab").startswith(
        f"{base}/-/merge_requests/new?merge_request%5Bsource_branch%5D=request%2Fone"
    )
