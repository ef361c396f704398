"""Checks of the policy: keys, teams, rules that can never do what they say, freezes. Called by check.tree."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import MAXYEAR, MINYEAR
from zoneinfo import ZoneInfo, available_timezones

from capsule.documents.check.people import people_of
from capsule.documents.check.sources import Loc, Source, public_key
from capsule.documents.problems import Problem, nearest
from capsule.documents.types import ChangeKind, DatedKey, Match, Policy, Rule

_CHANGES: tuple[ChangeKind, ...] = ("policy", "service", "settings")


def check_policy(source: Source[Policy]) -> list[Problem]:
    """Every problem of a policy that is well-formed."""
    return [*_keys(source), *_teams(source), *_rules(source), *_freezes(source)]


def requesters_of(policy: Policy, rule: Rule) -> set[str]:
    """Who may ask under the rule: people, and machines only for an action that people must approve."""
    if rule.match.action is None or not rule.approvals:
        return people_of(policy, rule.may_request)
    spec = policy.spec
    members = {name for team in rule.may_request for name in spec.teams.get(team, ())}
    return members & spec.principals.keys()


def matches_action(match: Match, action: str, labels: dict[str, str]) -> bool:
    """Whether the rule with this match is about `action` on a service with `labels`."""
    return match.action in (action, "*") and match.selector.items() <= labels.items()


def _keys(source: Source[Policy]) -> Iterator[Problem]:
    owners: dict[object, str] = {}
    for name, principal in source.document.spec.principals.items():
        for at, entry in enumerate(principal.keys):
            loc: Loc = ("spec", "principals", name, "keys", at)
            key = public_key(entry if isinstance(entry, str) else entry.key)
            yield from _window(source, loc, entry)
            if isinstance(key, str):
                yield source.problem(loc, "BadKey", key)
            elif owners.setdefault(key, name) != name:
                message = f'this key is also listed for "{owners[key]}"'
                yield source.problem(loc, "SharedKey", message, hint="give every principal keys of its own")


def _window(source: Source[Policy], loc: Loc, entry: str | DatedKey) -> Iterator[Problem]:
    if isinstance(entry, str) or entry.valid_after is None or entry.valid_before is None:
        return
    if entry.valid_before <= entry.valid_after:
        message = "the key ends before it begins, so it never speaks"
        yield source.problem((*loc, "validBefore"), "BadKeyWindow", message, "an instant after validAfter")


def _teams(source: Source[Policy]) -> Iterator[Problem]:
    principals = source.document.spec.principals
    for team, members in source.document.spec.teams.items():
        for at, name in enumerate(members):
            if name not in principals:
                message = f'no principal is named "{name}"'
                hint = nearest(name, principals)
                yield source.problem(("spec", "teams", team, at), "UnknownPrincipal", message, hint=hint)


def _rules(source: Source[Policy]) -> Iterator[Problem]:
    rules = source.document.spec.rules
    for at, rule in enumerate(rules):
        loc: Loc = ("spec", "rules", at)
        if (rule.match.action is None) == (rule.match.change is None):
            message = "a rule is about an action or about a change"
            yield source.problem((*loc, "match"), "BadMatch", message, "either action or change")
        unknown = list(_unknown_teams(source, rule, loc))
        yield from unknown
        if not unknown:
            yield from _unsatisfiable(source, rule, loc)
        yield from _repeated_teams(source, rule, loc)
        yield from _idle_glass(source, rule, loc)
        for earlier, other in enumerate(rules[:at]):
            if _covers(other.match, rule.match):
                message = f"rule {earlier + 1} matches everything that this rule {at + 1} does"
                hint = "move this one up, or remove it"
                yield source.problem(loc, "ShadowedRule", message, hint=hint, severity="warning")
                break
    for change in _CHANGES:
        if not any(rule.match.change == change for rule in rules):
            message = f"no rule says who may change documents of kind {change}"
            hint = f"add a rule with match: {{change: {change}}}"
            loc = ("spec", "rules")
            yield source.problem(loc, "NoRuleForChange", message, hint=hint, severity="warning", on_key=True)


def _unknown_teams(source: Source[Policy], rule: Rule, loc: Loc) -> Iterator[Problem]:
    named: list[tuple[Loc, str]] = [
        ((*loc, "mayRequest", at), team) for at, team in enumerate(rule.may_request)
    ]
    named += [((*loc, "approvals", at, "team"), need.team) for at, need in enumerate(rule.approvals)]
    named += [((*loc, "breakGlass", "team"), rule.break_glass.team)] if rule.break_glass else []
    yield from (_unknown_team(source, where, team) for where, team in named if not _is_team(source, team))


def _is_team(source: Source[Policy], team: str) -> bool:
    return team in source.document.spec.teams


def _unknown_team(source: Source[Policy], loc: Loc, team: str) -> Problem:
    hint = nearest(team, source.document.spec.teams)
    return source.problem(loc, "UnknownTeam", f'no team is named "{team}"', hint=hint)


def _repeated_teams(source: Source[Policy], rule: Rule, loc: Loc) -> Iterator[Problem]:
    teams = [need.team for need in rule.approvals]
    for at, team in enumerate(teams):
        if team in teams[:at]:
            message = f'"{team}" stands twice among the approvals of one rule'
            where = (*loc, "approvals", at, "team")
            yield source.problem(where, "RepeatedTeam", message, hint="raise its count instead")


def _idle_glass(source: Source[Policy], rule: Rule, loc: Loc) -> Iterator[Problem]:
    """Only approvals of an action can be gone without, and only by people."""
    if rule.break_glass is None:
        return
    where = (*loc, "breakGlass")
    if rule.match.action is None or not rule.approvals:
        message = "there is no approval of an action here that anybody could go without"
        yield source.problem(where, "IdleBreakGlass", message, hint="remove it", severity="warning")
    elif _is_team(source, rule.break_glass.team) and not people_of(source.document, (rule.break_glass.team,)):
        message = f'no person is in "{rule.break_glass.team}", and machines do not break the glass'
        yield source.problem((*where, "team"), "IdleBreakGlass", message, severity="warning")


def _unsatisfiable(source: Source[Policy], rule: Rule, loc: Loc) -> Iterator[Problem]:
    """A rule is satisfiable when one person may ask and enough *others* are in each team that approves."""
    policy = source.document
    requesters = requesters_of(policy, rule)
    if not requesters:
        machines = any(policy.spec.teams.get(team) for team in rule.may_request)
        message = "no person is in a team that may request"
        hint = "machines may ask for actions only where people must approve" if machines else ""
        yield source.problem((*loc, "mayRequest"), "UnsatisfiableRule", message, hint=hint)
        return
    for at, need in enumerate(rule.approvals):
        people = people_of(policy, (need.team,))
        most = max(len(people - {requester}) for requester in requesters)
        if most < need.count:
            message = f'{need.count} of "{need.team}" must approve, and there are {most} beside the requester'
            where = (*loc, "approvals", at, "count")
            expected = f"at most {most}" if most else ""
            yield source.problem(where, "UnsatisfiableRule", message, expected, "add people to the team")


def _covers(earlier: Match, later: Match) -> bool:
    if earlier.action is None or later.action is None:
        same = (
            earlier.action is later.action and earlier.change is not None and earlier.change == later.change
        )
    else:
        same = earlier.action in ("*", later.action)
    return same and earlier.selector.items() <= later.selector.items()


def _freezes(source: Source[Policy]) -> Iterator[Problem]:
    for at, freeze in enumerate(source.document.spec.freezes):
        loc: Loc = ("spec", "freezes", at)
        if not _is_timezone(freeze.timezone):
            hint = nearest(freeze.timezone, available_timezones())
            message = f'no time zone is named "{freeze.timezone}"'
            yield source.problem((*loc, "timezone"), "UnknownTimezone", message, "an IANA zone", hint)
        if freeze.end <= freeze.start:
            yield source.problem((*loc, "to"), "BadWindow", "the freeze ends before it starts")
        elif freeze.start.year == MINYEAR or freeze.end.year == MAXYEAR:
            yield source.problem((*loc, "to"), "BadWindow", "the freeze lies beyond the calendar")
        for index, team in enumerate(freeze.except_):
            if not _is_team(source, team):
                yield _unknown_team(source, (*loc, "except", index), team)


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        return False
    return True
