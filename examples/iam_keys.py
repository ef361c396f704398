"""Access keys of one AWS IAM user: kept in a file, used by the adapter, rotated on approved order.

The file has the format of AWS's own shared credentials file (section `default`), so every AWS tool reads
it; it is replaced in one step and never edited, so a reader sees the old key or the new one.

Least privilege: the key that the adapter works with cannot make keys. Rotation uses a second credential
(`key_admin`), whose policy allows CreateAccessKey, ListAccessKeys and DeleteAccessKey on this one user and
nothing else; a thief of the working key gains no key that outlives its rotation. On a machine inside of
AWS, give that policy to the instance role, and there is no second file at all.
"""

from __future__ import annotations

import configparser
import io
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from capsule_agent import FoundKey, NewKey, Rotation

from .files import replace_file

_SECTION = "default"
_NOT_YET_KNOWN = {"InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException", "403"}


@dataclass(frozen=True)
class AccessKey:
    """An access key; the secret never shows in a repr, hence in no log and no traceback."""

    id: str
    secret: str = field(repr=False)


def read_credentials(path: Path) -> AccessKey:
    """The access key in the credentials file at `path`. Raises OSError, or ValueError without its content."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        section = parser[_SECTION]
        return AccessKey(section["aws_access_key_id"], section["aws_secret_access_key"])
    except (configparser.Error, KeyError):
        raise ValueError(f"{path}: expected an AWS credentials file with a [{_SECTION}] section") from None


def write_credentials(path: Path, key: AccessKey) -> None:
    """Put `key` into the file at `path`, in one step."""
    parser = configparser.ConfigParser(interpolation=None)
    parser[_SECTION] = {"aws_access_key_id": key.id, "aws_secret_access_key": key.secret}
    text = io.StringIO()
    parser.write(text)
    replace_file(path, text.getvalue())


class AwsClients:
    """Clients of one AWS service, made for the key in the credentials file and made anew when it changes.

    Several worker processes may share the file: whichever of them rotates the key, the others see it at
    their next call. Safe for many threads.
    """

    def __init__(self, service: str, credentials: Path, *, upstream: str, region: str) -> None:
        self._service = service
        self.credentials = credentials
        self._upstream = upstream
        self._region = region
        self._lock = threading.Lock()
        self._key: AccessKey | None = None
        self._client: Any = None

    def client(self) -> Any:
        """A boto3 client that signs with the present key. Raises OSError or ValueError without one."""
        key = read_credentials(self.credentials)
        with self._lock:
            if key != self._key:
                self._client, self._key = self.client_with(key), key
            return self._client

    def client_with(self, key: AccessKey) -> Any:
        """A boto3 client that signs with `key` and never waits long.

        It repeats nothing by itself: a creation repeated behind our back would be a second key.
        """
        return boto3.client(
            self._service,
            endpoint_url=self._upstream,
            region_name=self._region,
            aws_access_key_id=key.id,
            aws_secret_access_key=key.secret,
            config=Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1}),
        )


@dataclass(frozen=True)
class IamKeys:
    """The access keys of the IAM user `user`.

    `admin` are IAM clients with the key-admin credential. `working` are the adapter's own clients, and
    `probe` a harmless call with one of them that fails unless its key is accepted.
    """

    user: str
    admin: AwsClients
    working: AwsClients
    probe: Callable[[Any], object]
    propagation_seconds: float = 60.0

    def rotation(self) -> Rotation:
        """What to give to `agent.rotation`."""
        return Rotation(
            create=self.create, verify=self.verify, switch=self.switch, revoke=self.revoke, find=self.find
        )

    def secret(self) -> str:
        """The secret in use, for `agent.config(..., sensitive=True)`: only its fingerprint is reported."""
        return read_credentials(self.working.credentials).secret

    def create(self, _tag: str) -> NewKey:
        """Have IAM make a second key. IAM cannot tag keys, so after a crash it is found by difference."""
        made = self.admin.client().create_access_key(UserName=self.user)["AccessKey"]
        return NewKey(made["AccessKeyId"], made["SecretAccessKey"])

    def verify(self, key: NewKey) -> None:
        """Use the new key until it is accepted: AWS takes some seconds to make a key known everywhere."""
        client = self.working.client_with(AccessKey(key.id, key.secret))
        deadline = time.monotonic() + self.propagation_seconds
        while True:
            try:
                self.probe(client)
            except ClientError as error:
                if error.response["Error"]["Code"] not in _NOT_YET_KNOWN or time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                return

    def switch(self, key: NewKey) -> None:
        """From the next call on, this process and its siblings use the new key."""
        write_credentials(self.working.credentials, AccessKey(key.id, key.secret))

    def revoke(self, key_id: str) -> None:
        """Delete a key; one that is gone already is as good as deleted."""
        iam = self.admin.client()
        with suppress(iam.exceptions.NoSuchEntityException):
            iam.delete_access_key(UserName=self.user, AccessKeyId=key_id)

    def find(self) -> Iterable[FoundKey]:
        """All keys that IAM lists for the user; the one in the credentials file is in use."""
        in_use = read_credentials(self.working.credentials).id
        listed = self.admin.client().list_access_keys(UserName=self.user)["AccessKeyMetadata"]
        return [
            FoundKey(key["AccessKeyId"], key["AccessKeyId"] == in_use, created_at=key["CreateDate"])
            for key in listed
        ]
