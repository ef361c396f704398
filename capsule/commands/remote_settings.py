"""How the state repository's remote is reached: what git's settings `capsule.remote.*` say.

Rules kept: a token stands in a file of its own, never in a setting, an option or an address; where nothing is
set, git's and ssh's own files are used. Called when a repository is opened or cloned.

| setting | what |
|---|---|
| `capsule.remote.tokenFile` | file with the token or password for https, and nothing else |
| `capsule.remote.tokenUser` | user name that goes with it, where the address has none |
| `capsule.remote.sshKey` | private key file for ssh; may be set several times |
| `capsule.remote.sshConfig` | instead of ~/.ssh/config |
| `capsule.remote.knownHosts` | instead of ~/.ssh/known_hosts; may be set several times |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from capsule.commands.git_program import settings_below
from capsule.store.git_settings import HttpSettings, RemoteSettings, SshSettings

SECTION = "capsule.remote"
TOKEN_FILE = f"{SECTION}.tokenFile"


def remote_settings(directory: Path, token_file: Path | None = None) -> RemoteSettings:
    """The settings as seen from `directory`; `token_file` wins over what they say."""
    said = settings_below(directory, SECTION)
    file = token_file.absolute() if token_file else _path(said, "tokenFile")
    user = _last(said, "tokenUser")
    http = HttpSettings(token_file=file, user=user) if user else HttpSettings(token_file=file)
    ssh = SshSettings(
        keys=_paths(said, "sshKey"),
        known_hosts=_paths(said, "knownHosts"),
        config=_path(said, "sshConfig"),
    )
    return RemoteSettings(http=http, ssh=ssh)


def _last(said: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = said.get(f"{SECTION}.{name}".lower())
    return values[-1] if values else None


def _path(said: Mapping[str, Sequence[str]], name: str) -> Path | None:
    value = _last(said, name)
    return Path(value) if value else None


def _paths(said: Mapping[str, Sequence[str]], name: str) -> tuple[Path, ...]:
    return tuple(Path(value) for value in said.get(f"{SECTION}.{name}".lower(), ()))
