"""Commands: one plain function per verb, returning values; printing is the command line's.

Rules kept: no function here prints, asks, or reads the environment; every failure is a `CommandError`
that says what is wrong, where, and what next. Called by capsule.cli and by tests.
"""
