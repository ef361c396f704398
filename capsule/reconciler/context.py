"""What the lines of a log are about: request, service, revision, kept beside the code that writes them.

Rules kept: it follows a call into the thread that carries it; nothing here is a secret. Written by the
reconciler; read by the daemon's log formatters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})
_known: ContextVar[Mapping[str, str] | None] = ContextVar("capsule_log_context", default=None)


@contextmanager
def about(**facts: str) -> Iterator[None]:
    """Whatever is logged within is about these, such as `request` and `service`; empty ones are left out."""
    token = _known.set({**known(), **{name: value for name, value in facts.items() if value}})
    try:
        yield
    finally:
        _known.reset(token)


def note(**facts: str) -> None:
    """As `about`, from here to the end of the `about` around it; outside of any, nothing is noted."""
    before = _known.get()
    if before is not None:
        _known.set({**before, **facts})


def known() -> Mapping[str, str]:
    """What a line logged now is about."""
    return _known.get() or _NOTHING
