"""The documents of a state repository: frozen types, strict codec, digests, checks.

Rules kept: pure (no I/O, clock or randomness); whatever a document may hold is said by its type and
nowhere else; every problem names file, line and column. Called by every room above.
"""
