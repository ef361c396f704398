"""What people see while they ask and decide: requests, changes, rules, approvals. Called by cli.acts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capsule.cli.screen import Column, Screen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from capsule.commands.change import ChangeDecided, ChangeReview, Decision
    from capsule.commands.decision import Decided, Review, Word
    from capsule.commands.repository import Repository
    from capsule.commands.request import Asked
    from capsule.commands.switch import Switch
    from capsule.documents.types import Rollout, Rule, Service
    from capsule.trust.state import InForce, JudgedRequest, MissingApproval


def show_asked(repository: Repository, asked: Asked) -> None:
    screen, judged = Screen(), asked.judged
    name = judged.name
    screen.line(f"Request {name}", bold=True)
    _show_request_facts(screen, judged)
    _show_targets(screen, repository.state.services, judged)
    _show_not_offered(screen, asked)
    screen.line()
    screen.line(f"Signed on branch request/{name} ({asked.commit[:12]}){', pushed' if asked.pushed else ''}.")
    if judged.evidence == "break-glass":
        screen.line(f"BREAK-GLASS: nobody approves this, and {_when(asked.held)}.", style="red")
        screen.line(f"Marked until a reviewer types: capsule acknowledge --request {name}", style="red")
    elif judged.verdict == "approved":
        screen.line(f"It needs no approval, and {_when(asked.held)}.")
    else:
        screen.line(f"Waits for approval: {missing_text(judged.missing)}.")
        screen.line(f"A reviewer types: capsule approve {name}")


def _when(held: str) -> str:
    return f"it is held: {held}" if held else "the next pass of the reconciler acts on it"


def _show_not_offered(screen: Screen, asked: Asked) -> None:
    """A warning where agents did not offer the action when they were last looked at."""
    missing = asked.not_offered
    if not missing:
        return
    first = missing[0]
    also = f" (and {len(missing) - 1} more targets)" if len(missing) > 1 else ""
    meant = f" Did you mean {first.meant}?" if first.meant else ""
    screen.line()
    if first.offered:
        screen.line(
            f"Warning: the agent of {first.service} offers {', '.join(first.offered)}, as last seen{also}: "
            f"the request would be refused [UnknownAction].{meant}",
            style="yellow",
        )
    else:
        screen.line(
            f"Warning: {first.service} has no agent key, so it is only observed{also}: "
            "the request would be refused [ObserveOnly].",
            style="yellow",
        )


def show_switched(asked: Asked, action: Switch) -> None:
    """What a `disable` or `enable` means until it is settled, and what is faster than an approval."""
    screen, name = Screen(), asked.judged.name
    if action == "enable":
        return
    screen.line()
    if asked.not_offered:  # it was said that it would be refused
        return
    if asked.judged.verdict == "approved":
        screen.line("It holds until it is settled: merge `enabled: false`, or ask with `capsule enable`.")
        screen.line(f"See it happen: capsule show {name}")
    else:
        screen.line("Nothing is disabled until then. At once, without anybody:", style="yellow")
        screen.line("  on the service's own host: capsule-agent disable --reason TEXT", style="yellow")


def show_left_out(doubtful: Sequence[str]) -> None:
    """Targets of an earlier request that were not asked for anew."""
    if doubtful:
        Screen().line(
            f"Left out: {', '.join(doubtful)}. Nobody knows how it ended there: look, then ask by name.",
            style="yellow",
        )


def show_review(seen: Review) -> None:
    screen = Screen()
    screen.line(f"Request {seen.judged.name}", bold=True)
    _show_request_facts(screen, seen.judged)
    _show_targets(screen, seen.services, seen.judged)
    for each in seen.judged.approvals:
        if each.counts:
            screen.line(f"{each.principal} has signed: {each.decision}.")
        else:
            screen.line(
                f"Void: {each.principal}'s {each.decision} does not count: {each.message} [{each.reason}]",
                style="yellow",
            )
    screen.line()


def _show_request_facts(screen: Screen, judged: JudgedRequest) -> None:
    from capsule.documents.scalars import instant_text

    if judged.document is None:
        return
    spec = judged.document.spec
    screen.facts(
        [
            ("asked by", spec.requested_by),
            ("action", spec.action),
            ("with", ", ".join(f"{name}={value}" for name, value in spec.params.items())),
            ("reason", spec.reason),
            ("expires", instant_text(spec.expires)),
            ("not before", instant_text(spec.not_before) if spec.not_before else ""),
            ("rollout", _rollout_text(spec.rollout) if len(spec.targets) > 1 else ""),
            ("digest", judged.digest),
        ]
    )
    if spec.break_glass:
        screen.line(f"BREAK-GLASS: {spec.requested_by} acts without approvals.", style="red")


def _rollout_text(rollout: Rollout) -> str:
    """Such as "2 at once, 10m between batches, each healthy before the next, stop on failure"."""
    from capsule.documents.scalars import duration_text

    parts = [f"{rollout.parallel} at once"]
    if rollout.pause:
        parts.append(f"{duration_text(rollout.pause)} between batches")
    if rollout.health_check:
        parts.append("each healthy before the next")
    return ", ".join([*parts, f"{rollout.on_failure} on failure"])


def _show_targets(screen: Screen, services: Mapping[str, InForce[Service]], judged: JudgedRequest) -> None:
    assert judged.document is not None  # a request that cannot be read is refused before it is shown
    rows = []
    for name in judged.document.spec.targets:
        service = services.get(name)
        if service is None:
            rows.append((name, "not in force", "", "", ""))
            continue
        spec, labels = service.document.spec, service.document.metadata.labels
        rows.append(
            (
                name,
                ", ".join(f"{key}={value}" for key, value in labels.items()),
                ", ".join(f"{key}={value}" for key, value in spec.pins.items()),
                spec.agent.endpoint,
                rule_text(judged.rules[name]) if name in judged.rules else "no rule",
            )
        )
    screen.line()
    screen.table(
        [
            Column("SERVICE"),
            Column("LABELS", whole=False),
            Column("PINS", whole=False),
            Column("AGENT", whole=False),
            Column("RULE", whole=False),
        ],
        rows,
    )


def rule_text(rule: Rule) -> str:
    """The rule that decides, in a few words."""
    about = rule.match.action or f"change of {rule.match.change}"
    labels = ", ".join(f"{key}={value}" for key, value in rule.match.selector.items())
    needs = " and ".join(f"{each.count} of {each.team}" for each in rule.approvals) or "no approval"
    glass = f"; {rule.break_glass.team} may break the glass" if rule.break_glass else ""
    return f"{about}{f' where {labels}' if labels else ''}: {needs} ({rule.evidence}){glass}"


def missing_text(missing: Sequence[MissingApproval]) -> str:
    """Such as "1 of reviewers (bob, carol)"."""
    return "; ".join(
        f"{each.count} of {each.team} ({', '.join(each.candidates) or 'nobody can'})" for each in missing
    )


def show_decided(seen: Review, done: Decided, word: Word) -> None:
    screen = Screen()
    name = seen.judged.name
    screen.line(
        f"{'Approved' if word == 'approve' else 'Rejected'} by {seen.principal}, signed.", style="green"
    )
    if done.merged:
        screen.line(f"Merged into main ({done.merged.commit[:12]}).")
    if word == "reject":  # whatever was missing, nothing of it is waited for any more
        screen.line("It is not carried out: whoever still wants it asks anew.")
    elif done.merged and not done.missing:
        when = _when(done.held)
        screen.line(f"{when[0].upper()}{when[1:]}.", style="yellow" if done.held else None)
    elif done.merged:
        screen.line(f"Still missing: {missing_text(done.missing)}.")
    elif done.missing:
        screen.line(f"Still missing: {missing_text(done.missing)}.")
        screen.line(f"They type: capsule approve {name}")
    for note in (done.note, done.merged.note if done.merged else ""):
        if note:
            screen.line(note, style="yellow")


def show_change(seen: ChangeReview) -> None:
    screen = Screen()
    screen.line(f"Change {seen.digest}", bold=True)
    screen.facts(
        [
            ("branch", seen.branch.removeprefix("refs/heads/")),
            ("by", ", ".join(sorted(seen.authors)) or "nobody known yet"),
            ("approved by", ", ".join(f"{who} (signature)" for who in sorted(seen.approvers))),
            ("rule", "\n".join(rule_text(rule) for rule in seen.rules)),
        ]
    )
    screen.line()
    for line in seen.diff.split("\n"):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        screen.line(line, style=style)
    for text in seen.void:
        screen.line(f"Void: {text}", style="yellow")
    screen.line()


def show_change_decided(seen: ChangeReview, done: ChangeDecided, decision: Decision) -> None:
    screen = Screen()
    branch = seen.branch.removeprefix("refs/heads/")
    word = {"propose": "Proposed", "approve": "Approved", "reject": "Rejected"}[decision]
    screen.line(f"{word} by {seen.principal}, signed ({done.commit[:12]}).", style="green")
    if done.merged:
        screen.line(f"Merged into main ({done.merged.commit[:12]}): in force.")
    for pending in done.pending:
        screen.line(f"{pending.path}: {pending.message} [{pending.reason}]")
    if done.pending:
        screen.line(f"Reviewers type: capsule approve {branch}")
    for note in (done.note, done.merged.note if done.merged else ""):
        if note:
            screen.line(note, style="yellow")
