"""Which pins of a service differ from what its agent reports, and which of them its agent would set.

Rules kept: pure; a pin in `ignoreDrift` never differs. Called by status (which records drift) and by
convergence (which corrects it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from capsule.decide.offers import properties_of
from capsule.documents.types import Scalar, Service
from capsule_agent.protocol.messages import Report

CONFIGURE = "configure"


@dataclass(frozen=True, slots=True)
class Differing:
    """A pin whose reported value is not the desired one; `observed` is None when none is reported."""

    pin: str
    desired: Scalar
    observed: Scalar | None


def differing(service: Service, report: Report) -> tuple[Differing, ...]:
    """The pins of `service` that `report` does not show as desired, by name."""
    found = (
        Differing(pin, desired, observed_value(report, pin))
        for pin, desired in sorted(service.spec.pins.items())
        if pin not in service.spec.ignore_drift
    )
    return tuple(item for item in found if not same(item.observed, item.desired))


def same(one: Scalar | None, other: Scalar | None) -> bool:
    """Whether two values are equal and of one type: true is not 1."""
    return type(one) is type(other) and one == other


def observed_value(report: Report, pin: str) -> Scalar | None:
    """What a report says of one pin: `version` is the agent's own, all others come from its config."""
    value = report.config.get(pin)
    if value is None and pin == "version":
        value = report.version
    return value if isinstance(value, str | int | bool) else None


def correctable(report: Report) -> frozenset[str]:
    """The values that the agent's `configure` sets without anybody's approval."""
    offered = (action for action in report.actions if action.name == CONFIGURE and not action.approvals)
    return frozenset(
        name
        for action in offered
        for name, schema in properties_of(action.params).items()
        if not (isinstance(schema, Mapping) and schema.get("x-approvals"))
    )
