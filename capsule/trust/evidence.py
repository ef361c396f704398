"""Kinds of evidence of an approval, and which of them a rule takes.

Rules kept: merge < forge < signature; a rule names the weakest it takes; a person who approves in several
ways counts once, by the strongest. Called by policy, one_request, attestations and merges.
"""

from __future__ import annotations

from collections.abc import Iterable

from capsule.documents.types import Evidence, Rule

EVIDENCE: tuple[Evidence, ...] = ("merge", "forge", "signature")
"""Weakest first."""
STRONGEST: Evidence = "signature"


def at_least(evidence: Evidence, kind: Evidence) -> bool:
    """Whether `evidence` is of this kind or stronger."""
    return EVIDENCE.index(evidence) >= EVIDENCE.index(kind)


def accepts(rule: Rule, evidence: Evidence) -> bool:
    """Whether approvals by this kind of evidence count under `rule`."""
    return at_least(evidence, rule.evidence)


def weakest(kinds: Iterable[Evidence]) -> Evidence | None:
    """The weakest of these kinds; None of none."""
    return min(kinds, key=EVIDENCE.index, default=None)


def strongest(seen: Iterable[tuple[str, Evidence]]) -> dict[str, Evidence]:
    """Each person with the strongest evidence among `seen`: whoever approves twice counts once."""
    found: dict[str, Evidence] = {}
    for name, evidence in seen:
        if name not in found or at_least(evidence, found[name]):
            found[name] = evidence
    return found
