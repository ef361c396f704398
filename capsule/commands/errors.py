"""The ways a command can end that is not well, each with its exit code.

Rules kept: `message` says what is wrong and where, `hint` what to do next (often a command to copy);
neither ever holds key material. Raised by commands, shown by the one handler in capsule.cli.
"""

from __future__ import annotations

FINDINGS = 1
USAGE = 2
ENVIRONMENT = 3
REFUSED = 4


class CommandError(Exception):
    """Base: what went wrong, with a CamelCase `reason` and the next step as `hint`."""

    exit_code = FINDINGS

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint


class WrongUsage(CommandError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = USAGE


class Doubtful(WrongUsage):
    """What would be refused, as far as is known here: who knows better goes on with --anyway."""


class SetUpProblem(CommandError):
    """Something outside of the repository is missing: git, a key, a setting, a remote."""

    exit_code = ENVIRONMENT


class RefusedByPolicy(CommandError):
    """The policy in force does not let this person do this."""

    exit_code = REFUSED
