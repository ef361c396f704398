"""Capsule's side of the SSH bench: python -m bench.ssh_capsule FLEET OPERATIONS; prints seconds as JSON.

An operation is what a reconciler does once a claim is recorded: the order is made and signed, carried over
SSH to the agent, which checks owners and reconciler, steps its journal on disk from Received to Done and
signs the receipt; that receipt's signature and content are verified here. What people sign is signed
before. Called by bench.ssh.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.ssh_fleet import Fleet, Host, read_fleet
from capsule.documents.types import AgentAddress
from capsule.reconciler.operations import AT_ONCE
from capsule.transport.ssh import SshTransport
from capsule.trust.receipts import open_receipt
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Envelope, Evidence, SignersList
from tests.agent_fixtures import REPOSITORY, Ask, key, signers_list

_SECONDS = 60.0


class Orders:
    """Orders for one host, each for a request of its own that was signed beforehand."""

    def __init__(self, fleet: Fleet, host: Host, count: int, signers: SignersList) -> None:
        endpoint = f"ssh://{fleet.user}@{host.address}:{host.port}"
        self._agent_key = key(f"agent {host.service}").public
        self._address = AgentAddress(endpoint=endpoint, key=self._agent_key.text, host_key=host.host_key)
        self._signer = key("reconciler-1")
        self._signers = signers
        self._asks = [_ask(host.service, signers) for _ in range(count)]
        self._evidence: list[Evidence] = [ask.evidence() for ask in self._asks]

    def run(self, transport: SshTransport) -> None:
        """One after the other, as an agent executes them."""
        for ask, evidence in zip(self._asks, self._evidence, strict=True):
            order = ask.order()
            payload = order.to_json()
            signature = self._signer.sign(payload, sshsig.ORDER)
            sent = Envelope(payload.decode(), signature, evidence, self._signers).to_json()
            answer = transport.call(self._address, "order", sent, timeout=_SECONDS)
            receipt = open_receipt(
                answer,
                self._agent_key,
                repository=REPOSITORY,
                service=order.service,
                op_id=order.op_id,
                attempt=order.attempt,
            ).receipt
            if (receipt.outcome, receipt.reason) != ("succeeded", "Done"):
                raise SystemExit(f"{order.service}: {receipt.outcome} {receipt.reason}: {receipt.message}")


def _ask(service: str, signers: SignersList) -> Ask:
    now = datetime.now(UTC)
    return Ask(
        action="runHealthCheck",
        params={},
        request=f"20261123-check-{secrets.token_hex(6)}",
        service=service,
        approvers=(),
        signers=signers,
        expires=now + timedelta(days=1),
        not_after=now + timedelta(minutes=10),
    )


def main(file: str, operations: int) -> None:
    fleet = read_fleet(Path(file))
    signers = signers_list()
    each = operations // len(fleet.hosts)
    transport = SshTransport(keys=[fleet.order_key], max_connections=len(fleet.hosts))
    found = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for state in ("cold", "warm"):
            orders = [Orders(fleet, host, each, signers) for host in fleet.hosts]
            began = time.perf_counter()
            list(pool.map(lambda one: one.run(transport), orders))
            found[state] = time.perf_counter() - began
    transport.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
