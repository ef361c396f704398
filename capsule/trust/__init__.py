"""Trust: bytes in, verified state or an error out.

Rules kept: pure (no I/O, clock or randomness); nothing is acted on because it is in the repository, it is
acted on because it verifies; a step is judged by the policy of the step before. Called by decide, plan,
view, the reconciler and `capsule audit verify`.
"""
