"""The report: the state of a service as its agent sees it, made anew for every call.

Rules kept: one item that cannot be read hides no other; sensitive items appear as fingerprints alone; plain
values that are not one printable line, too long, or hold something sensitive appear as fingerprints too.
Called by calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from capsule_agent.declare import Action, ConfigItem, HealthProbe
from capsule_agent.journal import Journal
from capsule_agent.protocol.messages import HealthReport, Report, instant_text
from capsule_agent.protocol.strict_json import MAX_INTEGER
from capsule_agent.sensitive import Redactor
from capsule_agent.values import Scalar


def build_report(
    *,
    service: str,
    version: str,
    nonce: str,
    observe: bool,
    items: Iterable[ConfigItem],
    actions: Mapping[str, Action],
    probe: HealthProbe,
    journal: Journal,
    redactor: Redactor,
    now: datetime,
) -> Report:
    """Read everything once and put it together."""
    config: dict[str, Scalar] = {}
    fingerprints: dict[str, str] = {}
    for item in items:
        value = _read(item, redactor)
        if value is None:
            continue
        if item.sensitive:
            fingerprints[item.name] = redactor.fingerprint(str(value))
        else:
            config[item.name] = redactor.leaving(value)
    health = probe.now()
    state = journal.state()
    return Report(
        service=service,
        nonce=nonce,
        version=version,
        enabled=state.enabled,
        observe=observe,
        config=config,
        fingerprints=fingerprints,
        health=HealthReport(health.status, health.detail, instant_text(now)),
        actions=() if observe else tuple(action.info for action in actions.values()),
        journal=state.mark,
        signers_serial=state.signers_serial,
        at=instant_text(now),
        disabled_reason=redactor.line(state.disabled_reason),
        disabled_by_host=state.disabled_by_host,
        key_created_at=state.key_created_at,
        busy=state.busy,
        repository=state.repository,
    )


def _read(item: ConfigItem, redactor: Redactor) -> Scalar | None:
    try:
        value = item.read()
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            return str(value)
        return value if value is None or isinstance(value, str | int | bool) else str(value)
    except Exception:
        redactor.log_exception(f"config item {item.name} could not be read")
        return None
