"""Makes text that came from a peer fit for a message: one bounded line of printable characters.

No secret in it is shown. Called wherever a transport quotes what the other side sent.
"""

from __future__ import annotations

from capsule.documents.secrets import redacted


def quoted(text: str | bytes, limit: int = 200) -> str:
    """At most `limit` characters of `text` on one line; what is not printable becomes "?"."""
    if isinstance(text, bytes):
        text = text[: limit * 4].decode("utf-8", "replace")
    line = " ".join(redacted(text[: limit * 4]).split())
    shown = "".join(char if char.isprintable() else "?" for char in line)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def word(text: object) -> str:
    """`text` if it is a reason code (a word of ASCII letters and digits, at most 63), else empty."""
    if isinstance(text, str) and text.isascii() and text.isalnum() and len(text) <= 63:
        return text
    return ""
