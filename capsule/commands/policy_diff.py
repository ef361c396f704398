"""`capsule policy diff`: what another policy would change, in words, and who may bring it into force.

Rules kept: what becomes weaker is found by what decides for each service and each action before and after,
not by how the rules are written; who may approve follows from the policy in force, as trust judges it. Called
by the verb.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from capsule.commands.errors import WrongUsage
from capsule.commands.git_program import GitFailed, run_git
from capsule.commands.policy_words import demand_words, freeze_words, key_shown, key_words, rule_words
from capsule.commands.repository import Repository
from capsule.commands.writing import file_at
from capsule.documents.paths import POLICY
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import ChangeKind, Policy, Rule
from capsule.trust.evidence import at_least
from capsule.trust.key_validity import key_text, policy_at
from capsule.trust.objects import BadObject, MissingObject
from capsule.trust.policy import is_satisfiable, people, requesters, rule_for_action, rules_for_change
from capsule.trust.policy_checks import InvalidPolicy, load_policy

ANY = "any other action"
_CHANGES: tuple[ChangeKind, ...] = ("service", "settings", "policy")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that changes, in words; `weaker` when more becomes possible, or for more people."""

    text: str
    weaker: bool = False


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """What the policy at `revision` would change against the one in force.

    `findings` are what is wrong with it; `may_ask` and `may_approve` the people who can bring it into force,
    the latter by team with how many of it are needed.
    """

    revision: str
    serial_before: int
    serial_after: int
    differences: tuple[Difference, ...]
    findings: tuple[str, ...]
    may_ask: tuple[str, ...]
    may_approve: Mapping[str, tuple[int, tuple[str, ...]]]

    @property
    def weakens(self) -> bool:
        """Whether anything becomes weaker."""
        return any(each.weaker for each in self.differences)


def policy_diff(repository: Repository, revision: str, now: datetime) -> PolicyDiff:
    """The policy at `revision` beside the one in force. Raises WrongUsage where there is none to compare."""
    commit = _commit(repository, revision)
    try:
        data = file_at(repository, commit, POLICY)
    except (BadObject, MissingObject) as error:
        raise WrongUsage("BadRevision", f"{revision}: {error}") from None
    if data is None:
        raise WrongUsage("NoPolicyThere", f"{revision} holds no {POLICY}", "capsule policy diff BRANCH")
    before = repository.state.policy.document
    try:
        after = load_policy(data, f"{revision}:{POLICY}")
    except (InvalidDocument, InvalidPolicy) as error:
        raise WrongUsage("InvalidPolicy", f"the policy at {revision} can never be in force: {error}",
                         f"capsule check {revision}") from None  # fmt: skip
    labels = {name: dict(each.document.metadata.labels) for name, each in repository.state.services.items()}
    same = data == file_at(repository, repository.state.policy.since, POLICY)
    differences = () if same else (*_differences(before, after, now), *_decisions(before, after, labels))
    rules = rules_for_change(before, "policy", {}, {}) or ()
    return PolicyDiff(
        commit,
        before.spec.serial,
        after.spec.serial,
        differences,
        () if same else tuple(_findings(before, after, now)),
        tuple(sorted({who for rule in rules for who in requesters(before, rule)})),
        {
            each.team: (each.count, tuple(sorted(people(before, [each.team]))))
            for rule in rules
            for each in rule.approvals
        },
    )


def _commit(repository: Repository, revision: str) -> str:
    try:
        return run_git(
            repository.directory, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"
        ).strip()
    except GitFailed:
        raise WrongUsage(
            "BadRevision", f"git knows no commit {revision!r} here", "git fetch, or name a branch or an id"
        ) from None


def _findings(before: Policy, after: Policy, now: datetime) -> Iterator[str]:
    if after.spec.serial <= before.spec.serial:
        yield f"the serial is {after.spec.serial}, it must be above {before.spec.serial}"
    for number, rule in enumerate(after.spec.rules, 1):
        if not is_satisfiable(after, rule):
            yield f"rule {number} can be met by nobody: {rule_words(rule)}"
    rules = rules_for_change(before, "policy", {}, {})
    if rules is None or not all(is_satisfiable(before, rule) for rule in rules):
        yield "nobody can bring it into force: the policy in force has no rule for it that can be met"
    for name, each in policy_at(after, now).spec.principals.items():
        if not each.keys:
            yield f"{name} has no key that counts now"


# ---- what it says -------------------------------------------------------------------------------


def _differences(before: Policy, after: Policy, now: datetime) -> Iterator[Difference]:
    yield from _principals(before, after, now)
    yield from _teams(before, after)
    old, new = ([rule_words(rule) for rule in each.spec.rules] for each in (before, after))
    yield from (Difference(f"rule {at} goes: {text}") for at, text in enumerate(old, 1) if text not in new)
    yield from (Difference(f"rule {at} is new: {text}") for at, text in enumerate(new, 1) if text not in old)
    if [text for text in old if text in new] != [text for text in new if text in old]:
        yield Difference("rules stand in another order")
    old, new = ([freeze_words(freeze) for freeze in each.spec.freezes] for each in (before, after))
    yield from (Difference(f"freeze ends: {text}", weaker=True) for text in old if text not in new)
    yield from (Difference(f"freeze begins: {text}") for text in new if text not in old)


def _principals(before: Policy, after: Policy, now: datetime) -> Iterator[Difference]:
    old, new = before.spec.principals, after.spec.principals
    yield from (
        Difference(f"{name} leaves: no key of theirs counts any more") for name in old if name not in new
    )
    for name, each in new.items():
        known = old.get(name)
        if known is None:
            yield Difference(f"{name} joins{' as a machine' if each.machine else ''}")
        elif known.machine != each.machine:
            kind = "a machine" if each.machine else "a person, who may approve"
            yield Difference(f"{name} becomes {kind}", weaker=not each.machine)
        had = {key_text(entry): entry for entry in known.keys} if known else {}
        has = {key_text(entry): entry for entry in each.keys}
        for text, entry in has.items():
            if had.get(text) != entry:
                word = "another time for" if text in had else "a new key for"
                shown = key_words(key_shown(entry, now))
                yield Difference(f"{word} {name}: {shown}", weaker=known is not None)
        for text in had.keys() - has.keys():
            yield Difference(f"a key of {name} goes: {key_shown(text, now).fingerprint}")
        if known and dict(known.forge) != dict(each.forge):
            accounts = ", ".join(f"{forge} {user}" for forge, user in each.forge.items()) or "none"
            yield Difference(f"accounts of {name} at forges: {accounts}", weaker=bool(each.forge))


def _teams(before: Policy, after: Policy) -> Iterator[Difference]:
    old, new, said = before.spec.teams, after.spec.teams, _teams_with_a_say(before)
    for team in dict.fromkeys([*old, *new]):
        had, has = set(old.get(team, ())), set(new.get(team, ()))
        if has - had:
            # Also where nobody was in it: what no one could ask for or approve becomes possible.
            weaker = bool(had) or team in said
            yield Difference(f"team {team} gains {', '.join(sorted(has - had))}", weaker)
        if had - has:
            yield Difference(f"team {team} loses {', '.join(sorted(had - has))}")


def _teams_with_a_say(policy: Policy) -> set[str]:
    """The teams that a rule lets ask, approve or break the glass."""
    rules = policy.spec.rules
    glass = {rule.break_glass.team for rule in rules if rule.break_glass}
    approvers = {each.team for rule in rules for each in rule.approvals}
    return approvers | glass | {team for rule in rules for team in rule.may_request}


# ---- what it decides ----------------------------------------------------------------------------


def _decisions(
    before: Policy, after: Policy, services: Mapping[str, Mapping[str, str]]
) -> Iterator[Difference]:
    """What decides otherwise, for the services in force, with those alike in one line."""
    found: dict[tuple[str, str, str, bool], list[str]] = {}
    named = {rule.match.action for each in (before, after) for rule in each.spec.rules if rule.match.action}
    for action in [*sorted(named - {"*"}), ANY]:
        for name, labels in services.items():
            pair = rule_for_action(before, action, labels), rule_for_action(after, action, labels)
            _note(found, (before, after), f"{action} on", name, pair)
    for kind in _CHANGES:
        for name, labels in services.items() if kind == "service" else (("", {}),):
            rules = [rules_for_change(each, kind, labels, labels) for each in (before, after)]
            one, other = (each[0] if each else None for each in rules)
            _note(found, (before, after), f"a change of {kind}", name, (one, other))
    for (about, old, new, weaker), names in found.items():
        some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        yield Difference(f"{about} {some}".strip() + f": was {old}; becomes {new}", weaker)


def _note(
    found: dict[tuple[str, str, str, bool], list[str]],
    policies: tuple[Policy, Policy],
    about: str,
    name: str,
    pair: tuple[Rule | None, Rule | None],
) -> None:
    old, new = (demand_words(rule) for rule in pair)
    if old != new:
        found.setdefault((about, old, new, is_weaker(policies, *pair)), []).append(name)


def is_weaker(policies: tuple[Policy, Policy], before: Rule | None, after: Rule | None) -> bool:
    """Whether `after` demands less than `before` of anybody, or lets more people ask or break the glass."""
    if after is None:
        return False
    if before is None:
        return True
    needed = {each.team: each.count for each in after.approvals}
    fewer = any(needed.get(each.team, 0) < each.count for each in before.approvals)
    if fewer or not at_least(after.evidence, before.evidence):
        return True
    glass = {each.break_glass.team if each.break_glass else None for each in (before, after)}
    if after.break_glass and len(glass) > 1:
        return True
    return not requesters(policies[1], after) <= requesters(policies[0], before)
