"""The agent of Capsule: embed it in an integration service, and approved orders can reach it.

The names are loaded when they are first used, so that the far end of an SSH connection, which needs none of
them, starts fast.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsule_agent.agent import Agent
    from capsule_agent.declare import ActionError, Health
    from capsule_agent.journal import JournalError
    from capsule_agent.rotation import FoundKey, NewKey, Rotation
    from capsule_agent.values import DeclarationError, Field

__version__ = "0.1.0"
__all__ = [
    "ActionError",
    "Agent",
    "DeclarationError",
    "Field",
    "FoundKey",
    "Health",
    "JournalError",
    "NewKey",
    "Rotation",
]

_HOMES = {
    "ActionError": "declare",
    "Agent": "agent",
    "DeclarationError": "values",
    "Field": "values",
    "FoundKey": "rotation",
    "Health": "declare",
    "JournalError": "journal",
    "NewKey": "rotation",
    "Rotation": "rotation",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
