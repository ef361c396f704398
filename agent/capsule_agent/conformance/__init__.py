"""Does an agent, in whatever language, keep the wire contract? Asked over HTTP, with the published vectors.

Rules kept: everything is judged from outside, by what the agent answers; the keys are made for the test, and
an agent that trusts them must hold nothing of value; each check stands alone and has one name. Called by
`capsule-agent conformance`.
"""

from __future__ import annotations

from capsule_agent.conformance.suite import CHECKS, Finding, run_checks

__all__ = ["CHECKS", "Finding", "run_checks"]
