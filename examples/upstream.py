"""An AWS that runs on this machine: moto's server, a program not written here, with authentication on.

It holds a mail identity (SES), a queue (SQS), a bucket (S3), and for each service two IAM users: the
service itself, allowed to use its upstream and nothing else, and `<service>-keys`, allowed to create, list
and delete access keys. Once `start` returns, every call is checked: signature, policy, and whether the key
still exists. moto records every request it receives, so it can say how many keys were asked for.

Called by `launch` and by tests. One thing differs from AWS: moto checks the actions of a policy, but for
most services not its resources, so the policies here name actions alone. The READMEs beside the adapters
show the ones to use at AWS, narrowed to one user, queue or bucket.
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from .iam_keys import AccessKey, write_credentials
from .processes import RunningProcess, start_on_free_port

REGION = "eu-central-1"
SENDER = "no-reply@example.com"
QUEUE = "order-events"
BUCKET = "archive"
USES = {
    "mail-sender": ["ses:SendEmail", "ses:GetSendQuota"],
    "order-events": ["sqs:SendMessage", "sqs:GetQueueUrl", "sqs:GetQueueAttributes"],
    "archive-worker": ["s3:PutObject", "s3:ListBucket"],
}
ROTATES = ["iam:CreateAccessKey", "iam:ListAccessKeys", "iam:DeleteAccessKey"]
_UNKNOWN_KEY = {"InvalidClientTokenId", "SignatureDoesNotMatch"}
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Upstream:
    """The running upstream, and what an observer may ask it."""

    endpoint: str
    directory: Path
    process: RunningProcess

    def credentials(self, service: str) -> Path:
        """The file with the access key that `service` uses."""
        return self.directory / service / "credentials"

    def key_admin(self, service: str) -> Path:
        """The file with the access key that may rotate the keys of `service`."""
        return self.directory / service / "key-admin"

    def key_works(self, access_key: str, secret: str) -> bool:
        """Whether the upstream still accepts this key."""
        sts = _client("sts", self.endpoint, AccessKey(access_key, secret))
        try:
            sts.get_caller_identity()
        except ClientError as error:
            if error.response["Error"]["Code"] in _UNKNOWN_KEY:
                return False
            raise
        return True

    def count_key_creations(self, user: str) -> int:
        """How many times the creation of an access key for `user` was asked for since `start` returned.

        Counted by the upstream from the requests it received, refused ones included.
        """
        return sum(
            form.get("Action") == ["CreateAccessKey"] and form.get("UserName") == [user]
            for form in map(_form_of, self._recording())
        )

    def stop(self) -> None:
        """End the upstream's process."""
        self.process.stop()

    def _recording(self) -> list[dict[str, Any]]:
        text = _call(f"{self.endpoint}/moto-api/recorder/download-recording")
        return [json.loads(line) for line in text.splitlines()]

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def start(directory: Path) -> Upstream:
    """Start the upstream with fresh users and keys; files go below `directory` (made if missing).

    Raises DidNotStart.
    """
    directory.mkdir(parents=True, exist_ok=True)
    recording = directory / "upstream" / "requests.jsonl"
    recording.parent.mkdir(exist_ok=True)
    recording.touch(mode=0o600)
    process, port = start_on_free_port(
        _command, directory / "upstream" / "log", _answers, {"MOTO_RECORDER_FILEPATH": str(recording)}
    )
    upstream = Upstream(f"http://127.0.0.1:{port}", directory, process)
    try:
        _furnish(upstream)
    except BaseException:
        process.stop()
        raise
    return upstream


def _command(port: int) -> list[str]:
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


def _answers(port: int) -> bool:
    try:
        _call(f"http://127.0.0.1:{port}/moto-api/data.json")
    except OSError:
        return False
    return True


def _furnish(upstream: Upstream) -> None:
    """Make everything while calls are not yet checked, then have them checked and recorded."""
    setup = AccessKey("setup", "setup")
    _client("ses", upstream.endpoint, setup).verify_email_identity(EmailAddress=SENDER)
    _client("sqs", upstream.endpoint, setup).create_queue(QueueName=QUEUE)
    _client("s3", upstream.endpoint, setup).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    iam = _client("iam", upstream.endpoint, setup)
    for service, actions in USES.items():
        write_credentials(upstream.credentials(service), _user(iam, service, actions))
        write_credentials(upstream.key_admin(service), _user(iam, f"{service}-keys", ROTATES))
    _call(f"{upstream.endpoint}/moto-api/reset-auth", b"0")
    _call(f"{upstream.endpoint}/moto-api/recorder/start-recording", b"")


def _user(iam: Any, name: str, actions: list[str]) -> AccessKey:
    iam.create_user(UserName=name)
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    iam.put_user_policy(
        UserName=name,
        PolicyName="least-privilege",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    created = iam.create_access_key(UserName=name)["AccessKey"]
    return AccessKey(created["AccessKeyId"], created["SecretAccessKey"])


def _client(service: str, endpoint: str, key: AccessKey) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=key.id,
        aws_secret_access_key=key.secret,
        config=Config(proxies={}, retries={"total_max_attempts": 1}),
    )


def _call(url: str, body: bytes | None = None) -> str:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "text/plain"})
    with _DIRECT.open(request, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def _form_of(entry: dict[str, Any]) -> dict[str, list[str]]:
    body = entry["body"] or ""
    raw = base64.b64decode(body) if entry["body_encoded"] else body.encode()
    return parse_qs(raw.decode("utf-8", errors="replace"))
