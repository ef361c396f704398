"""Receivers: files that only their reader may open; addresses that can only send a message."""

from __future__ import annotations

import os
from pathlib import Path

import apprise
import pytest

from capsule.notify.reasons import Undeliverable
from capsule.notify.receivers import MOST_ADDRESSES, MOST_BYTES, SCHEMES, addresses

SECRET = "hunter2-hunter2"


def write(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    file = folder / "oncall"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(mode)
    return file


def refused(folder: Path) -> Undeliverable:
    with pytest.raises(Undeliverable) as caught:
        addresses(folder, "oncall")
    assert SECRET not in str(caught.value)
    return caught.value


def test_one_address_a_line(tmp_path: Path) -> None:
    write(tmp_path, "# ours\n\n  json://127.0.0.1/a?+x=y  \r\nSLACK://a/b/c\n")
    assert addresses(tmp_path, "oncall") == ("json://127.0.0.1/a?+x=y", "SLACK://a/b/c")


def test_a_file_that_is_linked_to_is_read(tmp_path: Path) -> None:
    """Secrets of an orchestrator are links into a folder that is exchanged whole."""
    write(tmp_path, "json://127.0.0.1/a").rename(tmp_path / "data")
    (tmp_path / "oncall").symlink_to("data")
    assert addresses(tmp_path, "oncall") == ("json://127.0.0.1/a",)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_file_open_to_others_is_not_read(tmp_path: Path, mode: int) -> None:
    write(tmp_path, f"json://{SECRET}@127.0.0.1/", mode)
    error = refused(tmp_path)
    assert error.reason == "ReceiverOpen"
    assert "chmod 600" in str(error)


def test_a_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path).reason == "ReceiverMissing"


@pytest.mark.parametrize(
    "content",
    [b"", b"# nothing\n", b"\xff\xfe", b"#" * (MOST_BYTES + 1), b"json://a/\n" * (MOST_ADDRESSES + 1)],
)
def test_a_file_that_makes_no_sense(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, content)
    assert refused(tmp_path).reason == "ReceiverUnreadable"


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "oncall").mkdir(mode=0o700)
    assert refused(tmp_path).reason == "ReceiverUnreadable"
    (tmp_path / "oncall").rmdir()
    os.mkfifo(tmp_path / "oncall", 0o600)
    assert refused(tmp_path).reason == "ReceiverUnreadable"


@pytest.mark.parametrize(
    "address",
    [
        f"file:///{SECRET}",
        f"windows://{SECRET}",
        f"dbus://{SECRET}",
        f"macosx://{SECRET}",
        f"gnome://{SECRET}",
        f"syslog://{SECRET}",
        f"http://{SECRET}/config",
        f"hooks.example.com/{SECRET}",
        f"apprise://{SECRET}/x",
        f"{SECRET}://a",
    ],
)
def test_other_kinds_of_addresses_are_refused(tmp_path: Path, address: str) -> None:
    write(tmp_path, f"json://127.0.0.1/\n{address}\n")
    error = refused(tmp_path)
    assert error.reason == "ReceiverRefused"
    assert "address 2 of receiver oncall" in str(error)


@pytest.mark.parametrize(
    "query",
    ["template=/etc/passwd", "a=b&TEMPLATE=x", "%74emplate=x", "attach=file:///etc/passwd", "redirect=yes",
     "pgp=yes", "pgpprv=x", "a=b;template=x", "a=?&template=x"],
)  # fmt: skip
def test_parameters_that_read_files_are_refused(tmp_path: Path, query: str) -> None:
    write(tmp_path, f"slack://{SECRET}/a/b?{query}")
    assert refused(tmp_path).reason == "ReceiverRefused"


def test_apprise_knows_every_kind_that_is_taken() -> None:
    known = {
        scheme
        for service in apprise.Apprise().details()["schemas"]
        for scheme in (*(service["protocols"] or ()), *(service["secure_protocols"] or ()))
    }
    assert known >= SCHEMES


def test_the_page_lists_the_kinds_that_are_taken() -> None:
    page = Path(__file__).parents[3] / "docs" / "how-to" / "get-notified.md"
    missing = [scheme for scheme in SCHEMES if f"`{scheme}`" not in page.read_text(encoding="utf-8")]
    assert not missing
