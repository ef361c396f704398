"""The example services, as real processes in front of a real upstream that checks every signature.

The orders are signed here as a reconciler, its owners and its people would sign them, so that the examples
are tested without any other part of Capsule.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import random
import secrets
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from capsule_agent.protocol import sshsig
from capsule_agent.protocol.ids import operation_id, request_digest
from capsule_agent.protocol.messages import (
    Approval,
    ApprovedRequest,
    Envelope,
    Evidence,
    Order,
    Receipt,
    ReportCall,
    SignedText,
    SignerEntry,
    Signers,
    SignersList,
    decode,
    encode,
    instant_text,
)
from capsule_agent.protocol.messages import Report as AgentReport
from capsule_agent.protocol.sshsig import PrivateKey, PublicKey
from examples import launch
from examples.iam_keys import AccessKey, read_credentials
from examples.launch import RunningService, Upstream
from examples.upstream import BUCKET, QUEUE, REGION

REPOSITORY = "6f1c" * 10
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def eventually(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)


def post(url: str, body: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with DIRECT.open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@dataclass(frozen=True)
class People:
    """Everyone who signs: an owner, an operator, a reviewer, and the machine."""

    owner: PrivateKey
    alice: PrivateKey
    bob: PrivateKey
    reconciler: PrivateKey

    @classmethod
    def new(cls) -> People:
        return cls(*(PrivateKey.from_seed(secrets.token_bytes(32)) for _ in range(4)))

    def signers(self) -> SignersList:
        text = Signers(
            repository=REPOSITORY,
            serial=1,
            principals={
                "alice": SignerEntry((self.alice.public.text,), ("request", "approve")),
                "bob": SignerEntry((self.bob.public.text,), ("request", "approve")),
                "reconciler-1": SignerEntry((self.reconciler.public.text,), ("order",)),
            },
        ).to_json()
        return SignersList(text.decode(), (self.owner.sign(text, sshsig.SIGNERS),))

    def order(self, service: str, action: str, params: dict[str, Any], *, approved: bool) -> Envelope:
        """A signed order for a request of alice, with the approval of bob or with none."""
        name = f"20261123-{secrets.token_hex(4)}"
        request = f"action: {action}\n".encode()
        digest = request_digest(request)
        later = instant_text(datetime.now(UTC) + timedelta(minutes=5))
        approval = Approval(
            repository=REPOSITORY,
            principal="bob",
            decision="approve",
            request=ApprovedRequest(name, digest, "alice", action, params),
            targets={service: "sha256:" + "0" * 64},
            expires=later,
        ).to_json()
        order = Order(
            repository=REPOSITORY,
            op_id=operation_id(REPOSITORY, name, digest, service),
            service=service,
            action=action,
            params=params,
            request=name,
            request_digest=digest,
            attempt=1,
            not_after=later,
            reconciler="reconciler-1",
        ).to_json()
        signed_approval = SignedText(approval.decode(), self.bob.sign(approval, sshsig.APPROVAL))
        return Envelope(
            payload=order.decode(),
            signature=self.reconciler.sign(order, sshsig.ORDER),
            evidence=Evidence(
                SignedText(request.decode(), self.alice.sign(request, sshsig.REQUEST)),
                (signed_approval,) if approved else (),
            ),
            signers=self.signers(),
        )


@dataclass(frozen=True)
class Fleet:
    """All example services, running."""

    directory: Path
    people: People
    owners: Path
    upstream: Upstream
    services: dict[str, RunningService]

    def send(self, service: str, order: Envelope) -> Receipt:
        """The verified receipt of an order."""
        running = self.services[service]
        body = json.dumps(encode(order)).encode()
        status, answer = post(f"{running.endpoint}/capsule/v1/order", body)
        assert status == 200, answer
        envelope = decode(Envelope, answer)
        key = PublicKey.parse(running.public_key)
        sshsig.verify(envelope.payload.encode(), envelope.signature, sshsig.RECEIPT, [key])
        return decode(Receipt, envelope.payload.encode())

    def report(self, service: str) -> AgentReport:
        running = self.services[service]
        status, answer = post(f"{running.endpoint}/capsule/v1/report", ReportCall("n").to_json())
        assert status == 200, answer
        envelope = decode(Envelope, answer)
        key = PublicKey.parse(running.public_key)
        sshsig.verify(envelope.payload.encode(), envelope.signature, sshsig.REPORT, [key])
        return decode(AgentReport, envelope.payload.encode())

    def stop(self) -> None:
        for service in self.services.values():
            service.stop()

    def key(self, service: str) -> AccessKey:
        return read_credentials(self.upstream.credentials(service))

    def works(self, key: AccessKey) -> bool:
        return self.upstream.key_works(key.id, key.secret)

    def aws(self, api: str, service: str) -> Any:
        key = self.key(service)
        return boto3.client(
            api,
            endpoint_url=self.upstream.endpoint,
            region_name=REGION,
            aws_access_key_id=key.id,
            aws_secret_access_key=key.secret,
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("fleet")
    people = People.new()
    owners = directory / "owners"
    owners.mkdir()
    (owners / "carol.pub").write_text(people.owner.public.text + "\n")
    with ExitStack() as running:
        upstream = running.enter_context(launch.start_upstream(directory))
        with ThreadPoolExecutor() as pool:
            services = list(
                pool.map(
                    lambda name: launch.start_service(name, directory, upstream, owners), launch.SERVICES
                )
            )
        found = Fleet(directory, people, owners, upstream, {each.name: each for each in services})
        running.callback(found.stop)
        yield found


each_service = pytest.mark.parametrize("service", launch.SERVICES)


@each_service
def test_a_report_shows_configuration_and_hides_the_key(fleet: Fleet, service: str) -> None:
    report = fleet.report(service)
    assert report.service == service
    assert report.health.status == "UP"
    assert report.config["upstream"] == fleet.upstream.endpoint
    assert set(report.fingerprints) == {"apiKey"}
    assert fleet.key(service).secret not in report.to_json().decode()
    rotate = next(action for action in report.actions if action.name == "rotateKey")
    assert rotate.approvals == 1


@each_service
def test_rotation_without_approval_is_refused_by_the_agent_itself(fleet: Fleet, service: str) -> None:
    before = fleet.key(service)
    asked_before = fleet.upstream.count_key_creations(service)
    receipt = fleet.send(service, fleet.people.order(service, "rotateKey", {}, approved=False))
    assert (receipt.outcome, receipt.reason) == ("refused", "ApprovalsMissing")
    assert fleet.key(service) == before
    assert fleet.upstream.count_key_creations(service) == asked_before


@each_service
def test_an_approved_rotation_replaces_the_key_exactly_once(fleet: Fleet, service: str) -> None:
    before = fleet.key(service)
    asked_before = fleet.upstream.count_key_creations(service)
    fingerprint = fleet.report(service).fingerprints["apiKey"]
    order = fleet.people.order(service, "rotateKey", {"grace": "0s"}, approved=True)

    receipt = fleet.send(service, order)
    after = fleet.key(service)

    assert (receipt.outcome, receipt.reason) == ("succeeded", "Rotated")
    assert receipt.outputs["keyId"] == after.id
    assert receipt.outputs["previousKeyId"] == before.id
    assert after != before
    assert not fleet.works(before)
    assert fleet.works(after)
    assert fleet.send(service, order) == receipt
    assert fleet.upstream.count_key_creations(service) == asked_before + 1
    report = fleet.report(service)
    assert report.health.status == "UP"
    assert report.fingerprints["apiKey"] != fingerprint


def test_a_rotation_with_grace_leaves_both_keys_working(fleet: Fleet) -> None:
    before = fleet.key("mail-sender")
    order = fleet.people.order("mail-sender", "rotateKey", {"grace": "1h"}, approved=True)
    receipt = fleet.send("mail-sender", order)
    assert receipt.outputs["previousRevoked"] is False
    assert fleet.works(before)
    assert fleet.works(fleet.key("mail-sender"))
    # A leak in the meantime: the key still in its grace goes first, for AWS allows two keys.
    leak = fleet.people.order("mail-sender", "rotateKey", {"grace": "0s"}, approved=True)
    assert fleet.send("mail-sender", leak).outcome == "succeeded"
    assert not fleet.works(before)


def send_mail(fleet: Fleet) -> int:
    body = json.dumps({"to": "a@example.com", "subject": "Hello", "text": "World"}).encode()
    return post(f"{fleet.services['mail-sender'].endpoint}/messages", body)[0]


def publish_event(fleet: Fleet) -> int:
    body = json.dumps({"type": "paid", "detail": {"by": "card"}}).encode()
    return post(f"{fleet.services['order-events'].endpoint}/orders/o-1/events", body)[0]


def test_mail_is_sent_with_the_present_key(fleet: Fleet) -> None:
    sent = fleet.aws("ses", "mail-sender").get_send_quota()["SentLast24Hours"]
    assert send_mail(fleet) == 202
    assert fleet.aws("ses", "mail-sender").get_send_quota()["SentLast24Hours"] == sent + 1


def waiting_messages(fleet: Fleet) -> int:
    queue = f"{fleet.upstream.endpoint}/123456789012/{QUEUE}"
    asked = ["ApproximateNumberOfMessages"]
    found = fleet.aws("sqs", "order-events").get_queue_attributes(QueueUrl=queue, AttributeNames=asked)
    return int(found["Attributes"]["ApproximateNumberOfMessages"])


def test_an_event_reaches_the_queue(fleet: Fleet) -> None:
    before = waiting_messages(fleet)
    assert publish_event(fleet) == 202
    assert waiting_messages(fleet) == before + 1


def archived(fleet: Fleet) -> set[str]:
    found = fleet.aws("s3", "archive-worker").list_objects_v2(Bucket=BUCKET)
    return {entry["Key"] for entry in found.get("Contents", [])}


def drop_file(fleet: Fleet, name: str) -> Path:
    file = fleet.services["archive-worker"].directory / "inbox" / name
    hidden = file.with_name(f".{name}")
    hidden.write_text("content")
    return hidden.rename(file)


def test_a_file_moves_to_the_bucket(fleet: Fleet) -> None:
    file = drop_file(fleet, "one.txt")
    eventually(lambda: not file.exists(), "the file is archived")
    assert "one.txt" in archived(fleet)


@pytest.mark.parametrize(("service", "use"), [("mail-sender", send_mail), ("order-events", publish_event)])
def test_a_disabled_service_answers_503_and_still_takes_orders(
    fleet: Fleet, service: str, use: Callable[[Fleet], int]
) -> None:
    assert (
        fleet.send(service, fleet.people.order(service, "disable", {}, approved=False)).outcome == "succeeded"
    )
    assert use(fleet) == 503
    rotated = fleet.send(service, fleet.people.order(service, "rotateKey", {"grace": "0s"}, approved=True))
    assert rotated.outcome == "succeeded"
    assert (
        fleet.send(service, fleet.people.order(service, "enable", {}, approved=False)).outcome == "succeeded"
    )
    assert use(fleet) == 202


def test_a_disabled_worker_leaves_its_files_alone(fleet: Fleet) -> None:
    service = "archive-worker"
    fleet.send(service, fleet.people.order(service, "disable", {}, approved=False))
    file = drop_file(fleet, "two.txt")
    marker = drop_file(fleet, "three.txt")
    log = fleet.services[service].directory / "log"
    eventually(lambda: "disabled: 2 files wait" in log.read_text(), "the worker sees both files")
    assert file.exists()
    assert marker.exists()
    assert "two.txt" not in archived(fleet)
    fleet.send(service, fleet.people.order(service, "enable", {}, approved=False))
    eventually(lambda: not file.exists() and not marker.exists(), "the files are archived")


def test_a_setting_is_changed_by_order_and_survives_a_restart(fleet: Fleet) -> None:
    service = "order-events"
    order = fleet.people.order(service, "configure", {"model": "order-event-1"}, approved=False)
    assert fleet.send(service, order).outputs == {"model": "order-event-1"}
    running = fleet.services[service]
    port = int(running.endpoint.rpartition(":")[2])
    running.stop()
    again = launch.start_service(service, fleet.directory, fleet.upstream, fleet.owners, port=port)
    fleet.services[service] = again
    assert (again.endpoint, again.public_key) == (running.endpoint, running.public_key)
    assert fleet.report(service).config["model"] == "order-event-1"
    wrong = fleet.people.order(service, "configure", {"model": "order-event-9"}, approved=False)
    assert fleet.send(service, wrong).reason == "ParamsInvalid"


@each_service
def test_secrets_are_in_no_argument_no_environment_and_no_open_file(fleet: Fleet, service: str) -> None:
    folder = fleet.directory / service
    for name in ("credentials", "key-admin", "agent.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    known = [fleet.key(service).secret, read_credentials(fleet.upstream.key_admin(service)).secret]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        assert not any(secret.encode() in seen for secret in known), process
    log = (folder / "log").read_text()
    assert not any(secret in log for secret in known)
    journal = b"".join(path.read_bytes() for path in folder.glob("agent.db*"))
    assert not any(secret.encode() in journal for secret in known)


def test_the_working_key_cannot_make_keys(fleet: Fleet) -> None:
    iam = fleet.aws("iam", "mail-sender")
    with pytest.raises(iam.exceptions.ClientError, match="AccessDenied"):
        iam.create_access_key(UserName="mail-sender")


STARTER = """
import sys
from pathlib import Path
from examples import launch
folder = Path(sys.argv[1])
upstream = launch.start_upstream(folder)
service = launch.start_service("archive-worker", folder, upstream, Path(sys.argv[2]))
print(service.endpoint, upstream.endpoint, flush=True)
sys.stdin.read()
"""


def answers(url: str) -> bool:
    try:
        post(url, b"{}")
    except OSError:
        return False
    return True


def test_everything_ends_when_its_starter_is_killed(fleet: Fleet, tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path), str(fleet.owners)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdin
    assert starter.stdout
    with starter.stdin, starter.stdout:
        urls = starter.stdout.readline().split()
        assert len(urls) == 2
        assert all(map(answers, urls))
        os.kill(starter.pid, signal.SIGKILL)
        starter.wait()
    eventually(lambda: not any(map(answers, urls)), "the service and the upstream ended")


def test_a_service_that_cannot_start_says_why(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "mail-sender").mkdir()
    elsewhere = dataclasses.replace(fleet.upstream, directory=tmp_path)
    with pytest.raises(launch.DidNotStart, match="expected a folder with at least one"):
        launch.start_service("mail-sender", tmp_path, elsewhere, tmp_path / "no-owners", port=1)


SOAK_ROUNDS = int(os.environ.get("SOAK_ROUNDS", "100"))


@pytest.mark.soak
@pytest.mark.timeout(0)
@each_service
def test_no_kill_at_any_moment_leaves_a_service_without_a_working_key(fleet: Fleet, service: str) -> None:
    """Rotate, kill the service in the middle, start it, send the same order again; over and over."""
    chance = random.Random(service)
    port = int(fleet.services[service].endpoint.rpartition(":")[2])
    succeeded = 0
    for round_number in range(SOAK_ROUNDS):
        before = fleet.key(service)
        asked_before = fleet.upstream.count_key_creations(service)
        order = fleet.people.order(service, "rotateKey", {"grace": "0s"}, approved=True)
        with ThreadPoolExecutor(1) as sender:
            sent = sender.submit(answer_or_none, fleet, service, order)
            wait([sent], timeout=chance.uniform(0.0, 0.4))
            fleet.services[service].process.kill()
            sent.result()
        assert fleet.works(fleet.key(service)), f"round {round_number}: no working key after the kill"
        fleet.services[service] = launch.start_service(
            service, fleet.directory, fleet.upstream, fleet.owners, port=port
        )
        receipt = fleet.send(service, order)
        after = fleet.key(service)
        assert fleet.works(after), f"round {round_number}: {receipt}"
        assert fleet.upstream.count_key_creations(service) - asked_before <= 1, f"round {round_number}"
        assert receipt.outcome in ("succeeded", "failed"), f"round {round_number}: {receipt}"
        assert (after != before) == (receipt.outcome == "succeeded"), f"round {round_number}: {receipt}"
        succeeded += receipt.outcome == "succeeded"
        eventually(
            lambda key=after: keys_of(fleet, service) == {key.id}, "nothing but the key in use is left"
        )
    assert succeeded > 0


def answer_or_none(fleet: Fleet, service: str, order: Envelope) -> Receipt | None:
    try:
        return fleet.send(service, order)
    except (OSError, http.client.HTTPException):
        return None


def keys_of(fleet: Fleet, service: str) -> set[str]:
    """The ids of all keys of the service's user, as the upstream lists them for the key admin."""
    admin = read_credentials(fleet.upstream.key_admin(service))
    iam = boto3.client(
        "iam",
        endpoint_url=fleet.upstream.endpoint,
        region_name=REGION,
        aws_access_key_id=admin.id,
        aws_secret_access_key=admin.secret,
    )
    return {key["AccessKeyId"] for key in iam.list_access_keys(UserName=service)["AccessKeyMetadata"]}
