"""The verbs for auditors: audit verify, checkpoint, export, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Screen
from capsule.cli.shared import (
    Subverbs,
    as_key_option,
    duration,
    instant_or_duration,
    json_option,
    now,
    opened,
    pair,
)
from capsule.commands.errors import FINDINGS

if TYPE_CHECKING:
    from capsule.trust.audit import AuditVerdict
    from capsule.view.ledger_rows import Selection

F = TypeVar("F", bound=Callable[..., Any])
_AT_ONCE = 1 << 16


def _moment(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    """A time in UTC, or a duration back from now."""
    if text is None:
        return None
    found = instant_or_duration(text)
    return _back(found) if isinstance(found, timedelta) else found


def _since(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    return _back(duration(text)) if text else None


def _back(span: timedelta) -> datetime:
    try:
        return now() - span
    except OverflowError:
        raise click.BadParameter("that is before all calendars") from None


def _labels(
    _ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    return tuple(pair(text) for text in texts)


def selection_options(function: F) -> F:
    """Which rows: `--since`, `--from`, `--to`, `--selector`, `--action`."""
    options = (
        click.option("--since", callback=_since, metavar="DURATION", help="So far back, such as 90d."),
        click.option(
            "--from",
            "start",
            callback=_moment,
            metavar="TIME",
            help='From this time on, such as "2026-10-01T00:00:00Z".',
        ),
        click.option("--to", "end", callback=_moment, metavar="TIME", help="Before this time."),
        click.option(
            "--selector",
            "-l",
            multiple=True,
            callback=_labels,
            metavar="KEY=VALUE",
            help="Services that had this label when it was done.",
        ),
        click.option("--action", default="", metavar="NAME", help="This action alone."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _selection(
    since: datetime | None,
    start: datetime | None,
    end: datetime | None,
    selector: tuple[tuple[str, str], ...],
    action: str,
) -> Selection:
    from capsule.view.ledger_rows import Selection

    if since and start:
        raise click.UsageError("--since and --from say the same: give one of them")
    begin = since or start
    if begin and end and begin >= end:
        raise click.UsageError("the window is empty: --to is not later than where it begins")
    return Selection(begin, end, dict(selector), action)


def _output_option(function: F) -> F:
    option: Callable[[F], F] = click.option(
        "--output",
        "-o",
        type=click.Path(path_type=Path, dir_okay=False, writable=True),
        metavar="FILE",
        help="Write to this file instead of standard output.",
    )
    return option(function)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Count(MofNCompleteColumn):
        """How many of how many, as soon as that is known."""

        def render(self, task: Task) -> Text:
            return super().render(task) if task.total is not None else Text("")

    columns = (TextColumn("proving"), BarColumn(), Count(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("proving", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _write(parts: Iterable[str], output: Path | None) -> None:
    """Write `parts` as they come, to standard output unless a file is named."""
    if output is None:
        for part in parts:
            sys.stdout.write(part)
        sys.stdout.flush()
        return
    with output.open("wb") as file:
        _write_to(file, parts)


def _write_to(stream: BinaryIO, parts: Iterable[str]) -> None:
    held: list[bytes] = []
    size = 0
    for part in parts:
        held.append(part.encode("utf-8", "backslashreplace"))
        size += len(held[-1])
        if size >= _AT_ONCE:
            stream.write(b"".join(held))
            held, size = [], 0
    stream.write(b"".join(held))


@click.group(cls=Subverbs)
def audit() -> None:
    """Prove the whole history again, offline; checkpoints, exports and reports of it."""


@audit.command("verify")
@click.option("--root", metavar="ID", help="Id of the first commit, obtained from somewhere else.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A checkpoint kept elsewhere: its commit must still be where it was.",
)
@click.option(
    "--signed-by",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="KEYFILE",
    help="The public key that must have signed the checkpoint (else: one of the policy of its day).",
)
@click.option("--from-start", is_flag=True, help="Prove all of it, also what this clone proved before.")
@json_option
@click.pass_context
def audit_verify(
    ctx: click.Context,
    root: str | None,
    checkpoint: Path | None,
    signed_by: Path | None,
    from_start: bool,
    as_json: bool,
) -> None:
    """Prove every step, signature, approval, receipt and record, from this clone alone.

    Where the last proof of this clone ended is kept in its git folder, and gone on from. Exit code 1 when
    anything does not hold, naming the commit; also without a root or a checkpoint of your
    own knowledge: then the verdict is at best "consistent, origin unproved".
    """
    from capsule.commands.audit import verify
    from capsule.commands.audit_checkpoint import load_checkpoint, load_public_key

    if signed_by and not checkpoint:
        raise click.UsageError("--signed-by says who signed a checkpoint: give --checkpoint as well")
    options: Globals = ctx.obj
    kept = load_checkpoint(checkpoint) if checkpoint else None
    key = load_public_key(signed_by) if signed_by else None
    with opened(replace(options, root=root or options.root)) as repository, _progress() as progress:
        verdict = verify(repository, checkpoint=kept, signed_by=key, from_start=from_start, progress=progress)
    _tell(verdict, as_json=as_json)
    if not (verdict.holds and verdict.origin_proved):
        ctx.exit(FINDINGS)


def _tell(verdict: AuditVerdict, *, as_json: bool) -> None:
    from capsule.commands.audit import in_words
    from capsule.view.model import as_json as value_of

    screen = Screen()
    if as_json:
        told = value_of(replace(verdict, state=None))
        told.pop("state")
        screen.json({**told, "holds": verdict.holds})
        return
    bad = verdict.first_bad
    if bad:
        screen.line(f"commit {bad.commit}: {bad.message} [{bad.reason}]", style="red")
    for finding in verdict.findings:
        screen.line(f"note: {finding.message} [{finding.reason}]", style="yellow")
    style = "red" if bad else "green" if verdict.origin_proved else "yellow"
    screen.line(in_words(verdict), style=style)
    if not verdict.origin_proved:
        screen.line("Give the root that an owner told you: capsule audit verify --root ID")


@audit.command("checkpoint")
@as_key_option
@click.option(
    "--unlisted",
    is_flag=True,
    help="Sign with a key that the policy lists for nobody, such as an auditor's: verify with --signed-by.",
)
@_output_option
@click.pass_obj
def audit_checkpoint(options: Globals, as_key: Path | None, unlisted: bool, output: Path | None) -> None:
    """Prove the history, then sign where it stands: a small statement to keep elsewhere.

    Every person and every machine of the policy in force may sign one, with a key that it lists for them.

    \b
    capsule audit checkpoint -o 2026-11-23.checkpoint
    capsule audit verify --checkpoint 2026-11-23.checkpoint
    """
    from capsule.commands.audit_checkpoint import make_checkpoint
    from capsule.commands.signing import find_signer

    with opened(options) as repository, _progress() as progress:
        signer = find_signer(repository.directory, as_key)
        made = make_checkpoint(repository, signer, now(), progress, unlisted=unlisted)
    _write([made.text], output)
    said = made.statement
    Screen(err=True).line(
        f"Signed: audit stands at commit {said.count}, {said.commit}. Keep it away from this repository.",
        dim=True,
    )


@audit.command("export")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@selection_options
@_output_option
@click.pass_obj
def audit_export(
    options: Globals,
    form: str,
    since: datetime | None,
    start: datetime | None,
    end: datetime | None,
    selector: tuple[tuple[str, str], ...],
    action: str,
    output: Path | None,
) -> None:
    """Every operation, refusal and exception on record, one a line, oldest first.

    In CSV, a text that a spreadsheet would take for a formula gets an apostrophe in front. The export proves
    nothing: run `capsule audit verify` beside it.
    """
    from capsule.commands.audit_ledger import LedgerReading
    from capsule.view.export import as_csv, as_json_lines

    selection = _selection(since, start, end, selector, action)
    with opened(options) as repository:
        rows = LedgerReading(repository, selection, selection.until or now()).rows()
        _write((as_csv if form == "csv" else as_json_lines)(rows), output)


@audit.command("report")
@click.option("--format", "form", type=click.Choice(["md", "html", "json"]), default="md", show_default=True)
@selection_options
@click.option("--no-verify", is_flag=True, help="Do not prove the history; the report says so at its top.")
@_output_option
@click.pass_context
def audit_report(
    ctx: click.Context,
    form: str,
    since: datetime | None,
    start: datetime | None,
    end: datetime | None,
    selector: tuple[tuple[str, str], ...],
    action: str,
    no_verify: bool,
    output: Path | None,
) -> None:
    """For auditors: exceptions, rotations by service, who asked and approved, keys that are overdue.

    Says at its top whether the history was proved. Exit code 1 when it was looked at and is not.
    """
    from capsule.commands.audit_ledger import report
    from capsule.view.report import as_html, as_markdown, as_value

    selection = _selection(since, start, end, selector, action)
    with opened(ctx.obj) as repository, _progress() as progress:
        made = report(repository, selection, now(), prove=not no_verify, progress=progress)
    if form == "json":
        import json

        _write([json.dumps(as_value(made), indent=2) + "\n"], output)
    else:
        _write([(as_html if form == "html" else as_markdown)(made)], output)
    if made.proof.proved is False:
        if not made.proof.first_bad:
            Screen(err=True).line(
                "Pin the root that an owner told you, then it is proved against that: "
                f"git -C {ctx.obj.directory} config capsule.root ID",
                style="yellow",
            )
        ctx.exit(FINDINGS)


COMMANDS = {"audit": audit}
