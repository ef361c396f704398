"""The actions every agent has: runHealthCheck, configure, enable, disable, and rotateKey with a Rotation.

Rules kept: `configure` reaches only items with a `set`; the host's `disable` outlasts an `enable` from
outside. Called by agent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from capsule_agent.declare import Action, ActionError, ConfigItem, HealthProbe
from capsule_agent.journal import Journal
from capsule_agent.protocol.messages import EvidenceKind, Order
from capsule_agent.rotation import OUTPUTS, Ending, Rotation, Rotator
from capsule_agent.values import Field, Scalar

_WHY = {"reason": Field(str, "Why, shown in reports", default="", max_length=200)}
_STATE = {"enabled": Field(bool, "Whether the service takes traffic now"), "disabledReason": Field(str)}


def health_action(probe: HealthProbe) -> Action:
    """runHealthCheck: the adapter's own health check, asked now."""
    status = Field(str, "Health as the adapter says it", choices=("UP", "DEGRADED", "DOWN"))
    return Action(
        name="runHealthCheck",
        run=probe.now,
        takes_order=False,
        params={},
        outputs={"status": status, "detail": Field(str, "Why")},
        danger="none",
        idempotent=True,
    )


def switch_actions(journal: Journal, clock: Callable[[], datetime]) -> tuple[Action, Action]:
    """enable and disable, as the document or a request wants it; the host's own choice wins."""

    def state() -> dict[str, Scalar]:
        found = journal.state()
        return {"enabled": found.enabled, "disabledReason": found.disabled_reason}

    def enable(reason: str) -> Ending:  # noqa: ARG001 (why it was enabled stands in the request)
        journal.set_enabled(None, by_host=False, now=clock())
        message = "still disabled on the host" if journal.state().disabled_by_host else ""
        return Ending("succeeded", "Enabled", message, state())

    def disable(order: Order, reason: str) -> Ending:
        journal.set_enabled(_why_disabled(order, reason), by_host=False, now=clock())
        return Ending("succeeded", "Disabled", "", state())

    common: dict[str, Any] = {"params": _WHY, "outputs": _STATE, "idempotent": True}
    return (
        Action(name="enable", run=enable, takes_order=False, danger="low", **common),
        Action(name="disable", run=disable, takes_order=True, danger="high", **common),
    )


def _why_disabled(order: Order, reason: str) -> str:
    """What a report says of it: a request by its name, or else the service's document."""
    if not order.request:
        return f"spec: {reason or 'its document says enabled: false'}"
    return f"request {order.request}: {reason}" if reason else f"request {order.request}"


def configure_action(items: Mapping[str, ConfigItem]) -> Action | None:
    """configure: sets the items that are named, of those that can be set; None when there are none.

    The default of an item says nothing here: an item that an order does not name stays as it is.
    """
    settable = {name: item for name, item in items.items() if item.write is not None}
    if not settable:
        return None

    def configure(**values: Scalar) -> dict[str, Any]:
        if not values:
            raise ActionError("no parameter was given, so there is nothing to configure")
        for name, value in values.items():
            write = settable[name].write
            assert write
            write(value)
        return {name: settable[name].read() for name in values}

    return Action(
        name="configure",
        run=configure,
        takes_order=False,
        params={
            name: dataclasses.replace(item.value, required=False, default=None)
            for name, item in settable.items()
        },
        outputs={name: item.value for name, item in settable.items()},
        idempotent=True,
    )


def rotation_action(rotation: Rotation, rotator: Rotator, approvals: int, evidence: EvidenceKind) -> Action:
    """rotateKey: see rotation."""

    def rotate(order: Order, grace: str) -> Ending:
        return rotator.run(order.op_id, grace)

    return Action(
        name="rotateKey",
        run=rotate,
        takes_order=True,
        params=rotation.params,
        outputs=OUTPUTS,
        danger="high",
        approvals=approvals,
        evidence=evidence,
    )
