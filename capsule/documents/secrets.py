"""What looks like a secret in a text, and the text without it.

Rules kept: pure; only forms that say what they are (a prefix, a frame, a word such as `password=` before it)
are found, so that fingerprints, digests, public keys, signatures, commit ids and ids of keys never are; a
finding quotes nothing. Called by codec, trust, reconciler, notify, daemon, transport and the command line.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from math import log2
from typing import NamedTuple

_START = r"(?<![A-Za-z0-9_])"
_PLACEHOLDER = r"(?:x+|\*+|\.{3,}|…|(?i:token|password)|[<${(‹%\[][^@\s]*)"

KINDS: Mapping[str, str] = {
    "PrivateKey": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\s\S]{0,20000}?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|(?:\s+[A-Za-z0-9+/=]{16,})*)"
    r"|-----BEGIN [A-Z0-9 ]*PRIVATE KEY"
    r"|b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/=]*"  # base64 of "openssh-key-v1", with or without its frame
    r"|PuTTY-User-Key-File-[0-9]"
    r"|AGE-SECRET-KEY-1[0-9A-Z]{20,}",
    "VendorToken": _START
    + r"(?:"
    + "|".join(
        (
            r"(?<!-)sk-(?=[A-Za-z0-9_-]*[A-Z0-9])[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic, OpenRouter
            r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
            r"gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}",
            r"gl(?:pat|dt|rt|ptt|soat|cbt|agent|ft|imt|feed)-[A-Za-z0-9_-]{18,}",  # GitLab
            r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{20,}",  # Slack
            r"(?<![+/])AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}",  # Google
            r"hv[sbr]\.[A-Za-z0-9_-]{20,}",  # Vault
            r"SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}",  # SendGrid
            r"npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{50,}",
            r"hf_[A-Za-z]{30,}|gsk_[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{37}",  # Hugging Face, Groq, Replicate
            r"do[op]_v1_[a-f0-9]{64}|dapi[a-f0-9]{32}|shp(?:at|ss|ca|pa)_[a-fA-F0-9]{32}",
            r"sntrys_[A-Za-z0-9+/=_-]{40,}|lin_api_[A-Za-z0-9]{40}|PMAK-[a-f0-9]{24}-[a-f0-9]{34}",
            r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram
        )
    )
    + r")",
    "JsonWebToken": _START + r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "UrlPassword": r"(?<![A-Za-z0-9+.-])[a-zA-Z][a-zA-Z0-9+.-]{1,30}://[^\s/:@\"'<>]{0,200}:"
    rf"(?!{_PLACEHOLDER}@)([^\s/@\"'<>]{{1,500}})@",
    "WebhookAddress": r"https://hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9+/]{20,})"
    r"|https://(?:[a-z]+\.)?discord(?:app)?\.com/api/webhooks/([0-9]{15,}/[A-Za-z0-9_-]{40,})",
    "AuthorizationHeader": r"(?i:authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|token|digest)\s+"
    r"|(?<![a-z])bearer\s+)(?=[^\s]{0,200}[0-9])([A-Za-z0-9._~+/=-]{16,})",
    "AssignedSecret": r"(?i:password|passwd|passphrase|secret|secret[_-]?key|access[_-]?key|token|api[_-]?key"
    r"|account[_-]?key|private[_-]?key|credential)[\"']?\s{0,4}[:=]\s{0,4}[\"']?([A-Za-z0-9+/=_~.-]{20,500})",
}
"""The pattern of each kind; its group, where it has one, is the secret itself."""

_PATTERNS = {kind: re.compile(pattern) for kind, pattern in KINDS.items()}
_HINTS: Mapping[str, tuple[str, ...]] = {
    "PrivateKey": ("private key", "b3blbnnzac1rzxktdje", "putty-", "age-secret-key"),
    "VendorToken": (
        *("sk-", "k_live_", "k_test_", "gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "xox", "xapp-"),
        *("glpat-", "gldt-", "glrt-", "glptt-", "glsoat-", "glcbt-", "glagent-", "glft-", "glimt-"),
        *("glfeed-", "aiza", "ya29.", "gocspx-", "hvs.", "hvb.", "hvr.", "sg.", "npm_", "pypi-age", "hf_"),
        *("gsk_", "r8_", "_v1_", "dapi", "shpat_", "shpss_", "shpca_", "shppa_", "sntrys_", "lin_api_"),
        *("pmak-", ":aa"),
    ),
    "JsonWebToken": (".eyj",),
    "UrlPassword": ("://",),
    "WebhookAddress": ("hooks.slack.com", "/api/webhooks/"),
    "AuthorizationHeader": ("authorization", "bearer"),
    "AssignedSecret": (
        *("passw", "passphrase", "secret", "accesskey", "access_key", "access-key", "token", "apikey"),
        *("api_key", "api-key", "account", "private", "credential"),
    ),
}
"""What a text holds, in small letters, where it holds anything of a kind: cheap to look for."""

MARK = re.compile(r"\[secret sha256:[0-9a-f]{12}\]")
"""What stands where a secret stood."""

_LEAST_ENTROPY = 3.5
_CLASSES = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))


class SecretFinding(NamedTuple):
    """A secret's kind (one of KINDS) and its place in the text, as offsets."""

    kind: str
    start: int
    end: int


def findings(text: str) -> tuple[SecretFinding, ...]:
    """Everything in `text` that looks like a secret, in the order of the text, without overlaps."""
    small = text.lower()
    found = [
        SecretFinding(kind, *match.span(match.lastindex or 0))
        for kind, hints in _HINTS.items()
        if any(hint in small for hint in hints)
        for match in _PATTERNS[kind].finditer(text)
        if kind != "AssignedSecret" or _is_random(match[1])
    ]
    kept: list[SecretFinding] = []
    for each in sorted(found, key=lambda item: (item.start, -item.end)):
        if not kept or each.start >= kept[-1].end:
            kept.append(each)
    return tuple(kept)


def fingerprint(secret: str) -> str:
    """`sha256:` and 12 hex digits: the same secret in two places is seen to be the same, and not told."""
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def redacted(text: str) -> str:
    """`text` with each secret replaced by `[secret sha256:…]`; the same text when it holds none."""
    found = findings(text)
    for each in reversed(found):
        mark = f"[secret {fingerprint(text[each.start : each.end])}]"
        text = text[: each.start] + mark + text[each.end :]
    return text


def redacted_value(name: str, value: str) -> str:
    """`value` without its secrets, where its name alone may say that it is one (`apiToken`)."""
    clean, head = redacted(value), f"{name}="
    return clean if clean != value else redacted(head + value).removeprefix(head)


def _is_random(value: str) -> bool:
    """Whether a value that is called a secret is one, and not the name of one."""
    if not all(pattern.search(value) for pattern in _CLASSES):
        return False
    size = len(value)
    return -sum(count / size * log2(count / size) for count in Counter(value).values()) >= _LEAST_ENTROPY
