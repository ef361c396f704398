"""What an adapter declares: config items, health, actions. Values only; `agent` collects them.

Rules kept: nothing can be changed from outside without a `set`; a sensitive item has none. Called by agent,
execute and report.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from capsule_agent import spare_threads
from capsule_agent.protocol.messages import ActionInfo, Danger, EvidenceKind, HealthStatus
from capsule_agent.sensitive import Redactor
from capsule_agent.values import Field, Fields, object_schema


class ActionError(Exception):
    """Raised by an action to fail with a text that may be shown: it must hold no secret."""


@dataclass(frozen=True, slots=True)
class Health:
    """What an adapter says of itself: UP, DEGRADED or DOWN, and one line why."""

    status: HealthStatus
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ConfigItem:
    """One configuration value: how it is read, how it is set (if it can be), how it is guarded."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object] | None
    sensitive: bool
    value: Field


@dataclass(frozen=True, slots=True)
class Action:
    """One action an order may name."""

    name: str
    run: Callable[..., Any]
    takes_order: bool
    params: Fields
    outputs: Fields
    danger: Danger = "low"
    approvals: int = 0
    evidence: EvidenceKind = "signature"
    idempotent: bool = False
    break_glass: bool = False

    @property
    def info(self) -> ActionInfo:
        """The action as reports show it."""
        return ActionInfo(
            name=self.name,
            params=object_schema(self.params, required=True),
            outputs=object_schema(self.outputs, required=False),
            danger=self.danger,
            approvals=self.approvals,
            evidence=self.evidence,
            break_glass=self.break_glass or None,
        )

    def approvals_for(self, params: Mapping[str, Any]) -> int:
        """How many approvals an order needs that is executed with these parameters, defaults included."""
        of_params = [item.approvals for name, item in self.params.items() if name in params]
        return max([self.approvals, *of_params]) if of_params else self.approvals


@dataclass(slots=True)
class HealthProbe:
    """Asks the adapter for its health, bounded in time, and never twice at once."""

    redactor: Redactor
    within: float
    ask: Callable[[], Health] | None = None
    _running: concurrent.futures.Future[Health] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> Health:
        """The health; DOWN when the adapter raises or does not answer in time."""
        if self.ask is None:
            return Health("UP", "the adapter declares no health check")
        try:
            found = self._start(self.ask).result(self.within)
        except concurrent.futures.TimeoutError:
            return Health("DOWN", f"the health check did not answer within {self.within:g} s")
        except Exception as error:
            self.redactor.log_exception("the health check failed")
            return Health("DOWN", f"the health check failed: {type(error).__name__}")
        return Health(found.status, self.redactor.line(found.detail))

    def _start(self, ask: Callable[[], Health]) -> concurrent.futures.Future[Health]:
        with self._lock:
            if self._running is None or self._running.done():
                self._running = concurrent.futures.Future()
                spare_threads.run(partial(_fill, self._running, ask))
            return self._running


def _fill(future: concurrent.futures.Future[Health], ask: Callable[[], Health]) -> None:
    try:
        found = ask()
        if not isinstance(found, Health) or found.status not in ("UP", "DEGRADED", "DOWN"):
            raise TypeError("health must return Health")  # noqa: TRY301 (reported like any other failure)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(found)
