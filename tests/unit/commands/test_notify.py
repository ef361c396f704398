"""`capsule notify`, and a reconciler that tells people: the whole way from capsule.yaml to a receiver."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from capsule.commands.init import init
from capsule.commands.notify import Lookout
from capsule.commands.repository import open_repository
from capsule.notify.mailbox import Pauses
from capsule.notify.notifier import Notifier
from tests.integration.test_notify import Receiver, receiving, until
from tests.unit.commands.conftest import Office, right_now

ROUTES = """\
apiVersion: capsule/v1
kind: Capsule
metadata: {name: office}
spec:
  title: Office
  limits: {maxShare: 100}
  notify:
    - {to: reviewers-chat, events: [ApprovalPending], selector: {env: prod}, every: 0s}
    - {to: nobody, events: [KeyOverdue]}
"""
SECRET = "s3cr3t-t0k3n"


@pytest.fixture
def routed(office: Office) -> Office:
    """The office with routes in the settings in force from the first commit on."""
    files = {
        str(path.relative_to(office.state)): path.read_bytes()
        for path in office.state.rglob("*.yaml")
        if ".git" not in path.parts
    }
    files["policy.yaml"] = re.sub(
        rb'(machine: true, keys: \[")[^"]+', rb"\1{{reconciler_key}}", files["policy.yaml"]
    )
    shutil.rmtree(office.state)
    made = init(office.state, right_now(), files={**files, "capsule.yaml": ROUTES.encode()})
    return replace(office, root=made.root)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def receivers(tmp_path: Path, receiver: Receiver) -> Path:
    folder = tmp_path / "receivers"
    folder.mkdir(mode=0o700)
    write(folder, "reviewers-chat", receiver.address())
    return folder


def write(folder: Path, name: str, *addresses: str) -> None:
    file = folder / name
    file.touch(0o600)
    file.write_text("\n".join(addresses))


def test_list_shows_what_is_true_and_where_it_goes(routed: Office) -> None:
    request = routed.ask()
    shown = routed.run("notify", "list")
    assert shown.exit_code == 0, shown.output
    assert "ApprovalPending  reload openai-chat: waits for 1 of reviewers" in shown.output
    assert "  to reviewers-chat\n" in shown.output
    (row,) = json.loads(routed.run("notify", "list", "--json").output)
    assert (row["kind"], row["about"], row["teams"], row["to"]) == (
        "ApprovalPending",
        request,
        ["reviewers"],
        ["reviewers-chat"],
    )


def test_list_says_when_nobody_is_told(office: Office) -> None:
    assert office.run("notify", "list").output == "Nothing to tell anybody.\n"
    office.ask()
    assert "no route is about it" in office.run("notify", "list").output


def test_test_sends_to_every_address(office: Office, receiver: Receiver, receivers: Path) -> None:
    write(receivers, "oncall", receiver.address(), f"slack://{SECRET}")
    done = office.run("notify", "test", "oncall", "--notify-dir", str(receivers))
    assert done.exit_code == 1
    assert "oncall, address 1: taken\n" in done.output
    assert "oncall, address 2: not taken: apprise cannot read the address [ReceiverRefused]" in done.output
    assert receiver.titles() == ["Capsule Office: test"]
    assert receiver.got[0]["type"] == "info"
    assert SECRET not in done.output
    write(receivers, "oncall", receiver.address())
    office.monkeypatch.setenv("CAPSULE_NOTIFY_DIR", str(receivers))
    done = office.run("notify", "test", "oncall", "--json")
    assert (done.exit_code, json.loads(done.output)) == (0, [{"number": 1, "reason": "", "message": ""}])


def test_test_of_what_is_not_there(office: Office, receivers: Path) -> None:
    done = office.run("notify", "test", "nobody", "--notify-dir", str(receivers))
    assert (done.exit_code, "ReceiverMissing" in done.output) == (3, True)
    done = office.run("notify", "test", "nobody")
    assert (done.exit_code, "CAPSULE_NOTIFY_DIR" in done.output) == (2, True)


def test_a_misspelt_event_is_found_by_check(office: Office) -> None:
    (office.state / "capsule.yaml").write_text(ROUTES.replace("KeyOverdue", "KeyOverdu"))
    done = office.run("check")
    assert done.exit_code == 1
    assert 'did you mean "KeyOverdue"?' in done.output


def test_a_reconciler_tells_once(routed: Office, receiver: Receiver, receivers: Path) -> None:
    routed.ask()
    for _ in range(2):
        routed.run("reconcile", "--once", "--notify-dir", str(receivers))
        assert receiver.titles() == ["Capsule Office: reload openai-chat: waits for 1 of reviewers"]
    memory = routed.state / ".git" / "capsule" / "notify.json"
    assert memory.stat().st_mode & 0o777 == 0o600
    assert not routed.git("status", "--porcelain")


def test_a_reconciler_without_the_folder_it_was_given_does_not_start(routed: Office, tmp_path: Path) -> None:
    done = routed.run("reconcile", "--once", "--notify-dir", str(tmp_path / "missing"))
    assert (done.exit_code, "ReceiverMissing" in done.output) == (3, True)


def test_only_what_moved_is_looked_at(routed: Office, receiver: Receiver, receivers: Path) -> None:
    """A pass that changed nothing costs no look; a new request is seen at the next one."""
    with_routes = open_repository(routed.state)
    notifier = Watched(receivers, routed.folder / "notify.json", pauses=Pauses(0.01, 0.01, 0.1))
    lookout = Lookout(with_routes, notifier, least=0.01)
    lookout.start()
    try:
        lookout.turned()
        until(lambda: notifier.looks == 1)
        for _ in range(20):
            lookout.turned()
            threading.Event().wait(0.005)
        assert notifier.looks == 1
        routed.ask()
        began = time.monotonic()
        lookout.turned()
        assert time.monotonic() - began < 0.1
        until(lambda: len(receiver.got) == 1)
        assert notifier.looks == 2
    finally:
        lookout.close()
        with_routes.close()


def test_a_repository_that_cannot_be_looked_at_stops_nobody(
    routed: Office, receiver: Receiver, receivers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    routed.ask()
    repository = open_repository(routed.state)
    notifier = Watched(receivers, routed.folder / "notify.json", pauses=Pauses(0.01, 0.01, 0.1))
    lookout = Lookout(repository, notifier, least=0.01)
    main = routed.state / ".git" / "refs" / "heads" / "main"
    good = main.read_text()
    main.write_text("0" * 39 + "1\n")
    lookout.start()
    try:
        lookout.turned()
        until(lambda: "notifications:" in caplog.text)
        assert notifier.looks == 0
        main.write_text(good)
        lookout.turned()
        until(lambda: len(receiver.got) == 1)
    finally:
        lookout.close()
        repository.close()


class Watched(Notifier):
    """The notifier, with a count of its looks."""

    looks = 0

    def consider(self, *seen: object) -> None:
        super().consider(*seen)  # type: ignore[arg-type] # passed on as it came
        self.looks += 1


def test_apprise_is_not_imported_before_a_message_leaves() -> None:
    import subprocess
    import sys

    code = "import sys, capsule.commands.notify, capsule.cli.run; sys.exit('apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
