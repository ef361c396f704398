"""Under which names the dashboard answers."""

from __future__ import annotations

import pytest

from capsule.web.guard import Hosts, host_of


@pytest.mark.parametrize(
    "header",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST.:8000",
        "127.0.0.1:8000",
        "[::1]:8000",
        "[::1]",
        "capsule.example.com",
    ],
)
def test_loopback_and_configured_names_are_answered(header: str) -> None:
    assert Hosts(["capsule.example.com"]).allows(header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "evil.example",
        "localhost.evil.example",
        "localhost:8000@evil.example",
        "127.0.0.1.evil.example:8000",
        "192.168.0.7:8000",
        "[::1",
        "[::1]x",
        "localhost:port",
        ":8000",
    ],
)
def test_other_names_are_refused(header: str | None) -> None:
    assert not Hosts(["capsule.example.com"]).allows(header)


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "[::]"])
def test_bound_to_all_interfaces_every_literal_address_is_answered_and_no_name(bound: str) -> None:
    hosts = Hosts([bound])
    assert hosts.allows("192.168.0.7:8000")
    assert hosts.allows("[fd00::7]:8000")
    assert not hosts.allows("evil.example:8000")


def test_the_host_is_what_stands_before_the_port() -> None:
    assert host_of("Example.COM:80") == "example.com"
    assert host_of("[FD00::7]:80") == "fd00::7"
