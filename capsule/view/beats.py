"""The heartbeats of a repository: which verify, and the freshest probe of each service.

Rules kept: a heartbeat counts only when a machine of the policy in force signed its commit, the ref and
the document name that machine, and the commit has no parents; any other is a condition and changes
nothing. Called by view.build.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from capsule.documents.paths import HEARTBEATS, LOCAL_HEARTBEATS
from capsule.documents.types import Policy
from capsule.trust.key_validity import committed_at, policy_at
from capsule.trust.objects import BadObject, MissingObject, ObjectReader, file_bytes, read_commit
from capsule.trust.policy import signer_of
from capsule.view.heartbeat import HEARTBEAT_FILE, Heartbeat, Probe, decode_heartbeat
from capsule.view.model import ConditionRow
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import instant
from capsule_agent.protocol.strict_json import InvalidMessage


@dataclass(frozen=True)
class Beat:
    """One heartbeat that verified, or why it did not."""

    commit: str
    reconciler: str
    at: datetime | None = None
    every: timedelta = timedelta(0)
    observed_revision: str | None = None
    probes: Mapping[str, Probe] = field(default_factory=dict)
    operations: Mapping[str, str] = field(default_factory=dict)
    condition: ConditionRow | None = None


@dataclass(frozen=True)
class FreshProbe:
    """The latest probe of a service, and when the reconciler that made it last gave a sign of life."""

    probe: Probe
    at: datetime
    beat: datetime


def read_beat(reader: ObjectReader, policy: Policy, reconciler: str, commit: str) -> Beat:
    """The heartbeat at `commit`, named by the ref of `reconciler`; with a condition when it is ignored."""
    try:
        heartbeat = _verified(reader, policy, reconciler, commit)
    except (_Ignored, BadObject, MissingObject, InvalidMessage, sshsig.BadSignature) as error:
        message = f"the heartbeat of {reconciler} is ignored: {error}"
        return Beat(commit, reconciler, condition=ConditionRow("Heartbeat", "HeartbeatIgnored", message))
    return Beat(
        commit,
        reconciler,
        instant(heartbeat.at),
        timedelta(seconds=heartbeat.interval_seconds),
        heartbeat.observed_revision,
        heartbeat.probes,
        heartbeat.operations,
    )


def heartbeat_refs(refs: Mapping[str, str]) -> Mapping[str, str]:
    """Names of reconcilers with the commits their heartbeat refs name; one beside us is the fresher one."""
    found: dict[str, str] = {}
    for folder in (HEARTBEATS, LOCAL_HEARTBEATS):
        names = sorted(name for name in refs if name.startswith(folder))
        found.update({name.removeprefix(folder): refs[name] for name in names})
    return found


def newest(beats: Iterable[Beat]) -> Beat | None:
    """The youngest of the heartbeats that count."""
    return max((beat for beat in beats if beat.at), key=lambda beat: (beat.at, beat.commit), default=None)


def freshest_probes(beats: Iterable[Beat]) -> Mapping[str, FreshProbe]:
    """The latest probe of each service over all heartbeats that count."""
    found: dict[str, FreshProbe] = {}
    for beat in beats:
        if beat.at is None:
            continue
        for service, probe in beat.probes.items():
            at = instant(probe.at)
            if service not in found or found[service].at < at:
                found[service] = FreshProbe(probe, at, beat.at)
    return found


def latest_waits(beats: Iterable[Beat]) -> Mapping[str, str]:
    """Why operations (`request/service`) have no result yet, as their reconcilers last said."""
    counted = sorted((beat for beat in beats if beat.at), key=lambda beat: (beat.at, beat.commit))
    return {operation: why for beat in counted for operation, why in beat.operations.items()}


class _Ignored(ValueError):
    """Why a heartbeat does not count."""


def _verified(reader: ObjectReader, policy: Policy, reconciler: str, commit: str) -> Heartbeat:
    info = read_commit(reader, commit)
    if info.parents:
        raise _Ignored("its commit has parents")
    if info.signature is None:
        raise _Ignored("its commit is not signed")
    then = policy_at(policy, committed_at(info))
    signer = signer_of(then, info.signed_payload, info.signature, sshsig.COMMIT)
    if signer != reconciler or not policy.spec.principals[signer].machine:
        raise _Ignored(f"it is signed by {signer}, expected the machine {reconciler}")
    data = file_bytes(reader, info.tree, HEARTBEAT_FILE)
    if data is None:
        raise _Ignored(f"its tree has no {HEARTBEAT_FILE}")
    heartbeat = decode_heartbeat(data)
    if heartbeat.reconciler != reconciler:
        raise _Ignored(f"it speaks for {heartbeat.reconciler[:80]!r}")
    # Its commit may say any time: what the heartbeat says itself is what makes it look alive.
    signer_of(policy_at(policy, instant(heartbeat.at)), info.signed_payload, info.signature, sshsig.COMMIT)
    return heartbeat
