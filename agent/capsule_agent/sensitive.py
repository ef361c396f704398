"""What must never leave the process as it is: sensitive values, and texts that could hold them.

Rules kept: a sensitive value leaves as a keyed fingerprint alone; an output, a message and a log line
pass through here first. Called by report, execute, rotation and for every line that is logged.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from capsule_agent.values import MAX_TEXT, BadValue, Fields, Scalar, is_plain, plain_line

log = logging.getLogger("capsule_agent")
MAX_LINE = 500
_REMEMBERED = 64
_MAX_FRAMES = 30


class Redactor:
    """Knows the sensitive values of one process: those readable now, and those seen since it began."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._sources: list[Callable[[], Any]] = []
        self._seen: dict[str, None] = {}
        self._lock = threading.Lock()

    def watch(self, read: Callable[[], Any]) -> None:
        """From now on what `read` returns is sensitive."""
        self._sources.append(read)

    def remember(self, value: str) -> None:
        """`value` is sensitive, wherever it came from."""
        if not value:
            return
        with self._lock:
            self._seen.pop(value, None)
            self._seen[value] = None
            while len(self._seen) > _REMEMBERED:
                self._seen.pop(next(iter(self._seen)))

    def fingerprint(self, value: str) -> str:
        """The keyed fingerprint of `value`: equal for equal values of one journal, telling nothing else."""
        data = value.encode("utf-8", "surrogatepass")
        return "hmac-sha256:" + hmac.new(self._secret, data, hashlib.sha256).hexdigest()[:32]

    def values(self) -> list[str]:
        """All sensitive values known, the longest first."""
        for read in self._sources:
            try:
                value = read()
            except Exception:  # noqa: S112 (a key that cannot be read now can leak nothing now)
                continue
            if value is not None:
                self.remember(str(value))
        with self._lock:
            return sorted(self._seen, key=len, reverse=True)

    def holds_sensitive(self, text: str) -> bool:
        """Whether `text` contains a sensitive value; very short ones count only when they are all of it."""
        return any(value in text if len(value) > 3 else value == text for value in self.values())

    def redact(self, text: str) -> str:
        """`text` with every sensitive value replaced by its fingerprint."""
        for value in self.values():
            if len(value) > 3 or value == text:
                text = text.replace(value, self.fingerprint(value))
        return text

    def line(self, text: str) -> str:
        """One line for people: redacted, control characters replaced, bounded."""
        clean = plain_line(self.redact(text))
        return clean if len(clean) <= MAX_LINE else clean[: MAX_LINE - 1] + "…"

    def leaving(self, value: Scalar) -> Scalar:
        """`value` as it may leave: text that is too long, is not one printable line, or holds something
        sensitive becomes a fingerprint of the whole."""
        if not isinstance(value, str):
            return value
        fits = len(value) <= MAX_TEXT and is_plain(value)
        return value if fits and not self.holds_sensitive(value) else self.fingerprint(value)

    def outputs(self, fields: Fields, found: Mapping[str, Any]) -> tuple[dict[str, Scalar], list[str]]:
        """The outputs that may leave, and why others were dropped."""
        kept: dict[str, Scalar] = {}
        dropped: list[str] = []
        for name, value in found.items():
            if name not in fields:
                dropped.append(f"output {name!r} was dropped: not declared")
                continue
            try:
                kept[name] = self.leaving(fields[name].check(value))
            except BadValue as error:
                dropped.append(f"output {name!r} was dropped: {error}")
        return kept, dropped

    def log_exception(self, what: str) -> None:
        """Log locally that the present exception happened: its class and where, never what it says.

        What adapter code raises may carry a secret that nobody here has seen yet, such as a key that was
        created and never handed over.
        """
        log.error("%s\n%s", what, self.redact("\n".join(_places(sys.exception()))))


def _places(error: BaseException | None) -> Iterator[str]:
    """Class and frames of an exception and of those it came from, without any of their values."""
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        yield f"{type(error).__module__}.{type(error).__qualname__}, raised at (the last call last):"
        for frame in traceback.extract_tb(error.__traceback__, limit=-_MAX_FRAMES):
            yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
