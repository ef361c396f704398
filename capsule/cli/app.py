"""The `capsule` command itself: its global options, its list of verbs, and the one error handler."""

from __future__ import annotations

import importlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from capsule.cli.screen import Screen
from capsule.commands.errors import ENVIRONMENT, USAGE, CommandError
from capsule.documents.problems import InvalidDocument
from capsule.documents.secrets import redacted

DEFECT = 70
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Verb:
    """Where the command of a verb is, and what it is for."""

    module: str
    summary: str


SECTIONS: dict[str, dict[str, Verb]] = {
    "Look": {
        "services": Verb("reads", "All services: status, pins, drift, last rotation"),
        "show": Verb("reads", "One service or one request, with everything known about it"),
        "requests": Verb("reads", "All requests, with phase and evidence"),
        "plan": Verb("reads", "What the next pass of the reconciler would do"),
        "log": Verb("reads", "Who asked, who approved, what happened, when"),
        "history": Verb("history", "How available services were: uptime and incidents"),
        "watch": Verb("watch", "Follow live what happens"),
    },
    "Ask and decide": {
        "request": Verb("asking", "Ask for an action on services, signed by you"),
        "disable": Verb("built_in_asks", "Take all traffic from services, now"),
        "enable": Verb("built_in_asks", "Give services their traffic back"),
        "approve": Verb("acts", "See exactly what will happen, then sign your approval"),
        "reject": Verb("acts", "Say no to a request or a change, and why"),
        "cancel": Verb("built_in_asks", "Ask to call off a request"),
        "abort": Verb("built_in_asks", "Ask that nothing further of a request is begun"),
        "acknowledge": Verb("built_in_asks", "Say that you know of a condition that stays until then"),
        "propose": Verb("acts", "Sign a change of services, settings or policy as its author"),
    },
    "Prove": {
        "check": Verb("prove", "Every problem of the documents, with file, line and column"),
        "approval": Verb("approval", "What approval a branch still needs before its merge counts"),
        "audit": Verb("audit", "Prove the whole history again, offline; reports for auditors"),
        "policy": Verb("policies", "What the policy says, for people, git, ssh-keygen and agents"),
        "notify": Verb("notify", "What people are told now, and a test message to a receiver"),
        "doctor": Verb("setup", "What is missing or unsafe here, and the command that mends it"),
    },
    "Run": {
        "init": Verb("setup", "Create a state repository"),
        "clone": Verb("setup", "Get a state repository from a server"),
        "import": Verb("adopt", "Write services/ documents from running agents"),
        "reconcile": Verb("run", "Execute what is approved and record the outcome"),
        "dashboard": Verb("run", "Serve the dashboard, read only"),
        "up": Verb("run", "Reconciler and dashboard in one process: all a small team runs"),
        "demo": Verb("run", "See a key rotation from request to proof, on this machine"),
        "protect": Verb("hosting", "Make a bare repository refuse what the policy does not authorise"),
        "hook": Verb("hosting", "What git asks on a server before it takes a push"),
        "completion": Verb("setup", "Print the completion script of your shell"),
    },
}
VERBS = {name: verb for section in SECTIONS.values() for name, verb in section.items()}


@dataclass(frozen=True, slots=True)
class Globals:
    """The options that stand before the verb."""

    directory: Path
    root: str | None
    debug: bool
    token_file: Path | None = None


class VerbGroup(click.Group):
    """A group whose verbs are imported when used, and whose errors are shown in one place."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"capsule.cli.{VERBS[cmd_name].module}")
        command: click.Command = module.COMMANDS[cmd_name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1, cutoff=0.7)
            actions = "Actions are asked for with `capsule request ACTION SERVICE`."
            hint = f"Did you mean `{near[0]}`?" if near else actions
            ctx.fail(f"There is no command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        width = max(map(len, VERBS))
        for section, verbs in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), verb.summary) for name, verb in verbs.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.UsageError, BrokenPipeError):
            raise
        except click.Abort:  # Ctrl-C at a prompt
            ctx.exit(INTERRUPTED)
        except KeyboardInterrupt:
            click.echo("", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:  # the one handler: everything that went wrong ends here
            _report(ctx, error)


def _report(ctx: click.Context, error: Exception) -> NoReturn:
    from capsule.store.api import StoreError

    if ctx.params.get("debug"):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, CommandError):
        reason, hint, code = error.reason, error.hint, error.exit_code
    elif isinstance(error, StoreError):
        reason, hint, code = type(error).__name__, error.hint, ENVIRONMENT
    elif isinstance(error, InvalidDocument):
        first = error.problems[0]
        reason, hint, code = first.reason, first.hint, USAGE
        error = ValueError(first.message)
    elif isinstance(error, OSError):
        reason, hint, code = "SystemError", "", ENVIRONMENT
    elif isinstance(error, click.ClickException):
        reason, hint, code = "WrongUsage", "", error.exit_code
    else:
        reason, code = "Defect", DEFECT
        hint = (
            "This is a defect of Capsule, not your mistake. Run again with --debug and report what it shows."
        )
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    Screen(err=True).problem(reason, redacted(message or type(error).__name__), redacted(hint))
    ctx.exit(code)


@click.group(
    cls=VerbGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Without a verb, capsule looks at this repository and says what you can do next.",
)
@click.option(
    "-C",
    "--repo",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    envvar="CAPSULE_REPO",
    metavar="DIR",
    help="The state repository, or a folder in it (CAPSULE_REPO; here by default).",
)
@click.option(
    "--root",
    envvar="CAPSULE_ROOT",
    metavar="ID",
    help="Id of the repository's first commit, as an owner told you (CAPSULE_ROOT; git config capsule.root).",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CAPSULE_TOKEN_FILE",
    metavar="FILE",
    help="File with the token for the repository's https:// remote (CAPSULE_TOKEN_FILE; "
    "git config capsule.remote.tokenFile; else git's credential helpers).",
)
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
@click.version_option(package_name="capsule-ops", prog_name="capsule", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context, directory: Path, root: str | None, token_file: Path | None, debug: bool) -> None:
    """Operate integration services from a git repository.

    An operator asks for an action in a signed file, a reviewer's signature is the confirmation, the
    reconciler executes it once and commits the outcome. Anyone can prove it from a clone.
    """
    ctx.obj = Globals(directory, root, debug, token_file)
    if ctx.invoked_subcommand is None:
        from capsule.cli.guide import show_guide

        show_guide(ctx.obj)
