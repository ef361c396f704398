"""What this directory is, what waits for whom, and the commands that go on from here: `capsule` alone."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from capsule.commands.errors import CommandError
from capsule.commands.freshness import get_news
from capsule.commands.git_program import GitFailed, run_git
from capsule.commands.lost_audit import lost_audit
from capsule.commands.reads import look
from capsule.commands.reconcile import reconcilers, runs_here
from capsule.commands.repository import Repository, open_repository
from capsule.commands.signing import find_signer, identify
from capsule.documents.paths import SETTINGS
from capsule.store.api import StoreError
from capsule.view.model import RequestRow, ServiceRow, Snapshot, needs_attention, switched_otherwise
from capsule.view.summary import summary

_MOST = 3
_YOUNG = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Step:
    """A command to type, and what it is for."""

    command: str
    purpose: str


@dataclass(frozen=True, slots=True)
class Guide:
    """Where one stands, in a few lines, and the next steps."""

    lines: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class _Me:
    """Who signs here, or why nobody does."""

    name: str | None
    problem: str = ""


def guide(
    directory: Path, root: str | None, as_key: Path | None, now: datetime, *, offline: bool = False
) -> Guide:
    """What is so in `directory`, and what to do next. Never raises for a directory that is not set up."""
    try:
        repository = open_repository(directory, root)
    except (CommandError, StoreError):
        return _nothing_here(directory)
    try:
        repository.now = now
        if not _is_state_repository(repository):
            return _nothing_here(directory)
        away = "" if offline else get_news(repository, now)
        return _here(repository, look(repository, now), _me(repository, as_key), away)
    except (CommandError, StoreError) as error:
        return Guide(
            (f"This state repository cannot be shown: {error}",),
            (Step("capsule doctor", "what is wrong, and how to mend it"),),
        )
    finally:
        repository.close()


def _is_state_repository(repository: Repository) -> bool:
    try:
        run_git(repository.directory, "cat-file", "-e", f"{repository.main}:{SETTINGS}")
    except (GitFailed, CommandError):
        return False
    return True


def _nothing_here(directory: Path) -> Guide:
    return Guide(
        (f"There is no state repository in {directory.resolve()}.",),
        (
            Step("capsule demo", "see a key rotation from request to proof, on this machine"),
            Step("capsule init DIR", "create a state repository"),
            Step("capsule -C DIR", "look at one that exists (or set CAPSULE_REPO)"),
            Step("capsule --help", "all commands"),
        ),
    )


def _me(repository: Repository, as_key: Path | None) -> _Me:
    try:
        signer = find_signer(repository.directory, as_key)
        return _Me(identify(repository.policy, signer, repository.directory).principal)
    except CommandError as error:
        unknown = error.reason == "UnknownKey"
        return _Me(None, "your signing key is nobody's in its policy" if unknown else str(error))


def _here(repository: Repository, seen: Snapshot, me: _Me, away: str) -> Guide:
    waiting = [row for row in seen.requests if row.phase == "Proposed"]
    mine = [row for row in waiting if me.name in _candidates(row)]
    lines = [_who(seen, me), *_services(seen)]
    if seen.suspended:
        lines.append(f"Suspended, nothing is acted on: {seen.suspended}")
    lost = lost_audit(repository)
    if lost:
        lines.append(f"{lost.message.capitalize()} [AuditRewritten]. To put it back: {lost.remedy}")
    lines += _conditions(seen)
    lines += [f"{freeze.message} [{freeze.reason}]" for freeze in seen.freezes[:_MOST]]
    if mine:
        lines.append(f"{_count(mine, 'request')} {'waits' if len(mine) == 1 else 'wait'} for your approval.")
    others = len(waiting) - len(mine)
    if others:
        lines.append(
            f"{others} {'more ' if mine else ''}"
            f"{'request waits' if others == 1 else 'requests wait'} for others."
        )
    if not waiting:
        lines.append("No request waits for approval.")
    lines += _held(seen)
    if not _alive(seen):
        lines.append(_silence(repository, seen))
    lines += _age(repository, seen.now, away)
    return Guide(tuple(lines), tuple(_steps(repository, seen, me.name, mine)))


def _who(seen: Snapshot, me: _Me) -> str:
    title = seen.title or "State repository"
    return f"{title}; you are {me.name}." if me.name else f"{title}; {me.problem}."


def _services(seen: Snapshot) -> list[str]:
    """All of them in a sentence; and by name those that need somebody, and those switched off."""
    named = [f"{row.name} {_why(row)}" for row in seen.services if needs_attention(row)]
    named += [
        f"{row.name} is {row.status}"
        for row in seen.services
        if row.status == "DISABLED" and not needs_attention(row)
    ]
    return [summary(seen), *([f"{_some(named)}."] if named else [])]


def _conditions(seen: Snapshot) -> list[str]:
    """What everybody should know of the repository, what is most urgent first."""
    found = sorted(seen.conditions, key=lambda each: each.type != "BreakGlass")
    told = [
        f"{'BREAK-GLASS: ' if each.type == 'BreakGlass' else ''}{each.message} [{each.reason}]"
        for each in found
    ]
    more = [f"And {len(told) - _MOST} more: capsule services"] if len(told) > _MOST else []
    return [*told[:_MOST], *more]


def _held(seen: Snapshot) -> list[str]:
    held = [row for row in seen.requests if row.phase == "Held"]
    if not held:
        return []
    verb = "is" if len(held) == 1 else "are"
    return [
        f"{_count(held, 'request')} {verb} held: {_some([f'{row.name} ({row.message})' for row in held])}."
    ]


def _some(told: list[str]) -> str:
    return ", ".join(told[:_MOST]) + (f", and {len(told) - _MOST} more" if len(told) > _MOST else "")


def _age(repository: Repository, now: datetime, away: str) -> list[str]:
    """How old what is shown is, where it comes from a remote and is not of this minute."""
    at = repository.store.fetched_at()
    if not repository.store.has_remote() or (at and now - at < _YOUNG):
        return []
    told = f"last fetched at {at:%Y-%m-%d %H:%M} UTC" if at else "of an unknown time"
    why = away.split("\n", maxsplit=1)[0]
    return [f"This picture is {told}{f': {why}' if why else ''}."]


def _why(row: ServiceRow) -> str:
    """What makes a service stand out: its status, or else drift, or else its first condition."""
    if row.status not in ("HEALTHY", "DISABLED") or switched_otherwise(row):
        return f"is {row.status}"
    if row.drift:
        return f"drifts ({row.drift[0].pin})"
    return f"says {row.conditions[0].type}" if row.conditions else "needs a look"


def _steps(repository: Repository, seen: Snapshot, me: str | None, mine: list[RequestRow]) -> list[Step]:
    steps = [
        Step(
            f"capsule approve {row.name}",
            f"{row.action} on {', '.join(row.targets[:3])}, asked by {row.requested_by}",
        )
        for row in mine[:5]
    ]
    if repository.root_source == "first commit" or me is None or seen.suspended:
        steps.append(Step("capsule doctor", "what is missing here, and how to mend it"))
    if not seen.services and repository.location.work_tree is None:
        command = f"capsule clone {repository.directory} DIR --root {repository.root}"
        steps.append(Step(command, "where people edit and sign: there are no files to edit here"))
    elif not seen.services:
        steps.append(Step("$EDITOR services/NAME.yaml", "describe your first service, then `capsule check`"))
        steps.append(Step("capsule propose", "sign that change, on a branch of its own"))
    else:
        steps.append(Step("capsule services", "how they are"))
        steps.append(_first_request(seen))
    if _alive(seen) or not runs_here(repository):
        steps.append(
            Step("capsule dashboard", "all of it in a browser (where `capsule up` runs, it serves that)")
        )
    else:
        steps.append(Step("capsule up", "start the reconciler and the dashboard"))
    steps.append(Step("capsule log", "who asked, who approved, what happened"))
    steps.append(Step("capsule --help", "all commands"))
    return steps


def _first_request(seen: Snapshot) -> Step:
    """A request that would be carried out here, or how one comes to be possible."""
    for action in ("rotateKey", "runHealthCheck"):
        for row in seen.services:
            if action in row.actions:
                return Step(f"capsule request {action} {row.name} --reason TEXT", "ask for an action")
    return Step("capsule doctor", "what services lack that are only observed: nothing can be ordered there")


def _alive(seen: Snapshot) -> bool:
    return any(beat.alive for beat in seen.heartbeats)


def _silence(repository: Repository, seen: Snapshot) -> str:
    if not seen.heartbeats and repository.store.has_remote():
        return "Unknown here: no heartbeat of a reconciler was fetched, and what is shown may be old."
    silence = "No reconciler gives a sign of life: nothing is acted on, and what is shown may be old."
    if runs_here(repository):
        return silence
    return f"{silence} Tell whoever runs {reconcilers(repository)}: its key is not in this clone."


def _candidates(row: RequestRow) -> set[str]:
    return {name for missing in row.missing for name in missing.candidates}


def _count(items: Sized, noun: str) -> str:
    number = len(items)
    return f"{number} {noun}{'' if number == 1 else 's'}"
