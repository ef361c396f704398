"""The command line: options to calls, values to text, and the one place where errors are shown.

Rules kept: the only reader of the environment; results go to standard output, everything else to standard
error; exit codes are 0 fine, 1 findings, 2 wrong usage, 3 something in the set-up, 4 refused by policy (and
70 for a defect of Capsule itself, 130 after Ctrl-C). A verb's modules are imported when it is used, so
that `capsule --help` is quick. Called by the `capsule` command.
"""

from __future__ import annotations

from capsule.cli.app import app


def main() -> None:
    """Run the command line with the arguments of this process."""
    app(prog_name="capsule")


__all__ = ["app", "main"]
