"""Git over HTTP(S): dulwich's client on urllib3, with bounded waits, no redirects, and credentials.

Rules kept: a secret goes over TLS or to this machine alone, is asked for only when the server wants one
(as git does) unless it was given, and never stands in an error; certificates are always checked. Called
by store.git_remote.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import urllib3
from dulwich.client import Urllib3HttpGitClient, default_urllib3_manager
from dulwich.config import Config

from capsule.store.api import RemoteUnreachable
from capsule.store.git_settings import HttpSettings
from capsule.store.git_url import RemoteUrl

_HELPER_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class HttpLogin:
    """A user name and a secret; the secret is in no repr."""

    user: str
    secret: str = field(repr=False)


def given_login(url: RemoteUrl, settings: HttpSettings) -> HttpLogin | None:
    """The login to send unasked, or None. Raises RemoteUnreachable when the file cannot be read."""
    user = url.user or settings.user
    if settings.token is not None:
        return _guarded(url, HttpLogin(user, settings.token()))
    if settings.token_file is not None:
        try:
            secret = settings.token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise RemoteUnreachable(f"the token file {settings.token_file} cannot be read") from None
        return _guarded(url, HttpLogin(user, secret))
    if url.password is not None:
        return _guarded(url, HttpLogin(user, url.password))
    return None


def helper_login(url: RemoteUrl, environment: Mapping[str, str]) -> HttpLogin | None:
    """Ask git's credential helpers, never a terminal. None when they know nothing."""
    answer = _credential("fill", _description(url), environment)
    fields = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    if not fields.get("password"):
        return None
    return _guarded(url, HttpLogin(fields.get("username", url.user or ""), fields["password"]))


def forget_login(url: RemoteUrl, login: HttpLogin, environment: Mapping[str, str]) -> None:
    """Tell the helpers that the server refused this login."""
    text = _description(url) + f"username={login.user}\npassword={login.secret}\n"
    _credential("reject", text, environment)


def _description(url: RemoteUrl) -> str:
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    user = f"username={url.user}\n" if url.user else ""
    return f"protocol={url.scheme}\nhost={host}\npath={url.path.lstrip('/')}\n{user}"


def _credential(verb: str, text: str, environment: Mapping[str, str]) -> str:
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": ""}
    try:
        done = subprocess.run(
            ["git", "-c", "core.askPass=", "credential", verb],
            input=text + "\n",
            env={**environment, **quiet},
            capture_output=True,
            text=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _guarded(url: RemoteUrl, login: HttpLogin) -> HttpLogin:
    if url.scheme == "http" and not _is_loopback(url.host):
        raise RemoteUnreachable(
            f"refusing to send a secret to {url.shown} without TLS", "use https:// or ssh://"
        )
    return login


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def http_pool(url: RemoteUrl, config: Config, timeout: float) -> urllib3.PoolManager:
    """Kept connections to `url`, by git's own http.* settings (proxy, private CA), always verified."""
    manager = default_urllib3_manager(config, base_url=_base(url), timeout=timeout, cert_reqs="CERT_REQUIRED")
    assert isinstance(manager, urllib3.PoolManager)
    # A push must not be sent twice, and a redirect would take the login and the answer elsewhere.
    manager.connection_pool_kw["retries"] = urllib3.Retry(total=0, redirect=0)
    return manager


class _Requests:
    """What a client asks of a pool. dulwich leaves the connection of a refused request open: here each
    answer is remembered, so that closing the client closes it."""

    def __init__(self, pool: urllib3.PoolManager) -> None:
        self._pool = pool
        self._answers: list[urllib3.BaseHTTPResponse] = []
        self.headers = pool.headers

    def request(self, method: str, url: str, **options: object) -> urllib3.BaseHTTPResponse:
        answer = self._pool.request(method, url, **options)  # type: ignore[arg-type]  # dulwich's, unread here
        self._answers.append(answer)
        return answer

    def close(self) -> None:
        for answer in self._answers:
            answer.close()


class HttpClient(Urllib3HttpGitClient):
    """dulwich's client for one call. `timeout` is in seconds, for connecting and each wait for data."""

    def __init__(
        self,
        url: RemoteUrl,
        login: HttpLogin | None,
        pool: urllib3.PoolManager,
        config: Config,
        timeout: float,
    ) -> None:
        self._requests = _Requests(pool)
        super().__init__(
            _base(url),
            pool_manager=cast(urllib3.PoolManager, self._requests),
            config=config,
            timeout=timeout,
            quiet=True,
            username=login.user if login else None,
            password=login.secret if login else None,
        )

    def close(self) -> None:
        """Close what this call left open; what it read to the end stays for the next."""
        self._requests.close()


def _base(url: RemoteUrl) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}" if url.port is None else f"{url.scheme}://{host}:{url.port}"
