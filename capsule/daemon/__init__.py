"""The process around passes: the loop, signals, what a service manager and a monitoring system are told.

Rules kept: the reconciler knows nothing of this room; one daemon owns a repository; everything that listens
does so on loopback unless a person says otherwise. Called by `capsule reconcile` and `capsule up`.
"""

from capsule.daemon.endpoints import BeyondLoopback, Monitoring, serve_monitoring
from capsule.daemon.logs import FORMATS, LEVELS, set_up_logs
from capsule.daemon.loop import POLL_LOCAL, POLL_REMOTE, NotTakenOver, run, run_once
from capsule.daemon.metrics import Metrics
from capsule.daemon.signals import Wishes, follow_signals
from capsule.daemon.systemd import Manager
from capsule.daemon.upkeep import upkeep
from capsule.daemon.vitals import Turn, Vitals
from capsule.daemon.webhook import Bell, serve_webhooks

__all__ = [
    "Bell",
    "BeyondLoopback",
    "FORMATS",
    "LEVELS",
    "POLL_LOCAL",
    "POLL_REMOTE",
    "Manager",
    "Metrics",
    "Monitoring",
    "NotTakenOver",
    "Turn",
    "Vitals",
    "Wishes",
    "follow_signals",
    "run",
    "run_once",
    "serve_monitoring",
    "serve_webhooks",
    "set_up_logs",
    "upkeep",
]
