"""/metrics, /healthz and /readyz, over real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import urllib3

from capsule.daemon import BeyondLoopback, Metrics, Turn, Vitals, serve_monitoring
from capsule.daemon.endpoints import is_loopback
from capsule.daemon.serving import AddressTaken, Served
from capsule.daemon.vitals import LEAST_ALLOWANCE
from capsule.reconciler import PassReport

DONE = Turn.of(PassReport("a" * 40, 0, 0, 0, 0), 0.1)


@dataclass
class Daemon:
    metrics: Metrics
    vitals: Vitals
    served: Served
    now: list[float]

    def get(self, path: str, method: str = "GET", **headers: str) -> urllib3.BaseHTTPResponse:
        return urllib3.request(
            method, f"{self.served.address}{path}", headers=headers, retries=False, timeout=5
        )


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    now = [0.0]
    metrics, vitals = Metrics(), Vitals(0.5, lambda: now[0])
    served = serve_monitoring(metrics, vitals, "127.0.0.1", 0)
    yield Daemon(metrics, vitals, served, now)
    served.close()


def test_metrics_are_served_as_prometheus_reads_them(daemon: Daemon) -> None:
    daemon.metrics.turned(DONE)
    answer = daemon.get("metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert 'capsule_passes_total{result="done"} 1.0' in answer.data.decode()


def test_health_and_readiness_say_why_not(daemon: Daemon) -> None:
    assert daemon.get("healthz").json() == {"alive": True, "reasons": []}
    answer = daemon.get("readyz")
    assert answer.status == 503
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"ready": False, "reasons": ["the first pass has not ended yet"]}
    daemon.vitals.turned(DONE)
    assert daemon.get("readyz").json() == {"ready": True, "reasons": []}
    daemon.now[0] += LEAST_ALLOWANCE + 1
    answer = daemon.get("healthz")
    assert answer.status == 503
    assert answer.json()["reasons"] == ["no pass ended for 121 seconds; 120 are allowed"]


def test_what_keeps_it_from_acting_paints_no_terminal(daemon: Daemon) -> None:
    daemon.vitals.turned(Turn.of(PassReport(None, 0, 0, 0, 0, "remote: \x1b[2J\u202e"), 0.1))
    body = daemon.get("readyz").data.decode()
    assert body.isascii()
    assert "\x1b" not in body
    assert json.loads(body)["reasons"] == ["nothing is acted on: remote: \x1b[2J\u202e"]


def test_nothing_else_is_answered(daemon: Daemon) -> None:
    assert daemon.get("").status == 404
    assert daemon.get("metrics/../healthz/x").status == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = daemon.get("metrics", method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    head = daemon.get("healthz", "HEAD")
    assert (head.status, head.data) == (200, b"")


@pytest.mark.parametrize("name", ["evil.example", "evil.example:80", "localhost.evil.example", "[", ""])
def test_a_name_that_was_rebound_to_loopback_is_refused(daemon: Daemon, name: str) -> None:
    assert daemon.get("metrics", Host=name).status in (400, 421)


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:9464", "127.0.0.1:9464", "[::1]:9464", "127.8.8.8"])
def test_names_of_loopback_are_answered(daemon: Daemon, name: str) -> None:
    assert daemon.get("metrics", Host=name).status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "monitoring.example", ""])
def test_other_machines_are_refused_unless_a_person_says_so(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(BeyondLoopback, match="other machines"):
        serve_monitoring(Metrics(), Vitals(0.5), host, 0)


def test_beyond_loopback_any_name_is_answered() -> None:
    served = serve_monitoring(Metrics(), Vitals(0.5), "0.0.0.0", 0, beyond_loopback=True)
    try:
        url = f"http://127.0.0.1:{served.port}/healthz"
        assert urllib3.request("GET", url, headers={"Host": "node-7.example"}, retries=False).status == 200
    finally:
        served.close()


def test_an_address_that_is_taken_is_named(daemon: Daemon) -> None:
    with pytest.raises(AddressTaken, match=rf"port {daemon.served.port} of 127.0.0.1 is taken .* --metrics"):
        serve_monitoring(Metrics(), Vitals(0.5), "127.0.0.1", daemon.served.port)


def test_clients_that_never_finish_asking_hold_nobody_up(daemon: Daemon) -> None:
    slow = [socket.create_connection(("127.0.0.1", daemon.served.port)) for _ in range(20)]
    try:
        for each in slow:
            each.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n")
        assert daemon.get("healthz").status == 200
    finally:
        for each in slow:
            each.close()


def test_closing_twice_is_closing() -> None:
    served = serve_monitoring(Metrics(), Vitals(0.5), "127.0.0.1", 0)
    served.close()
    served.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", served.port), timeout=1)
