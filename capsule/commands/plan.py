"""`capsule plan`: what the next pass would do, and why. Asks agents for their report, changes nothing.

Rules kept: the plan is made by the very decision the reconciler executes; only agents that an approved
request waits for are asked, and only for a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from capsule.commands.repository import Repository
from capsule.decide import World
from capsule.lifecycle import Observation, Records
from capsule.plan import Plan, plan
from capsule.reconciler.clock import Clock
from capsule.reconciler.orders import Courier
from capsule.transport.api import Transport
from capsule.trust.state import JudgedRequest, MainState
from capsule_agent.protocol.sshsig import PrivateKey

_AT_ONCE = 16
_NOBODY = bytes(32)


def next_pass(repository: Repository, transport: Transport | None, clock: Clock) -> Plan:
    """The plan of the next pass. Without a `transport` no agent is asked, so approved requests are held."""
    state = repository.state
    judged = repository.requests(state)
    records = repository.records()
    seen = {} if transport is None else _ask(repository, state, _awaited(judged, records), transport, clock)
    return plan(
        World(
            state=state,
            requests=judged,
            records=records,
            now=clock.now(),
            reconciler=_reconciler(state, records),
            observations=seen,
        )
    )


def _awaited(judged: Mapping[str, JudgedRequest], records: Records) -> set[str]:
    """Services that an approved request waits for."""
    waiting: set[str] = set()
    for each in judged.values():
        known = records.of(each.name)
        if each.verdict == "approved" and each.document and not (known and known.refusal):
            begun = known.operations if known else {}
            waiting |= {name for name in each.document.spec.targets if name not in begun}
    return waiting


def _ask(
    repository: Repository, state: MainState, names: set[str], transport: Transport, clock: Clock
) -> dict[str, Observation]:
    # A report is asked for without a signature; the courier's key is never used here.
    courier = Courier(transport, PrivateKey.from_seed(_NOBODY), "", repository.root, clock)
    default = state.settings.document.spec.probe.timeout
    wanted = [state.services[name] for name in sorted(names) if name in state.services]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(
            lambda service: courier.probe(
                service, (service.document.spec.health.timeout or default).total_seconds(), None
            ),
            wanted,
        )
        return {seen.service: seen for seen in found}


def _reconciler(state: MainState, records: Records) -> str:
    """Whose pass it would be: the reconciler that claimed last, else the first machine of the policy."""
    claims = [item.claims[-1] for _, item in records.running() if item.claims]
    if claims:
        return max(claims, key=lambda claim: claim.spec.claimed_at).spec.reconciler
    machines = [name for name, who in state.policy.document.spec.principals.items() if who.machine]
    return machines[0] if machines else ""
