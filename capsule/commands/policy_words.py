"""A policy in words: its principals, teams, rules and freezes, as people read them. Values for `--json`, too.

Rules kept: every word follows from the policy that trust took over, and keys are told by their fingerprints.
Called by the verbs `policy show`, `policy diff` and `policy explain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from capsule.documents.types import DatedKey, Freeze, Policy, Rule
from capsule.trust.key_validity import key_text, valid_at
from capsule.trust.policy import is_satisfiable
from capsule_agent.protocol.sshsig import PublicKey


@dataclass(frozen=True, slots=True)
class KeyShown:
    """A key by its fingerprint, from when until when it speaks, and whether it does now."""

    fingerprint: str
    valid_after: datetime | None
    valid_before: datetime | None
    speaks: bool


@dataclass(frozen=True, slots=True)
class PrincipalShown:
    """A person or a machine, the keys, accounts and teams."""

    name: str
    machine: bool
    email: str
    keys: tuple[KeyShown, ...]
    forge: Mapping[str, int]
    teams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleShown:
    """A rule by its number, counted from 1, in words; `satisfiable` is whether anybody can meet it."""

    number: int
    words: str
    satisfiable: bool


@dataclass(frozen=True, slots=True)
class PolicyShown:
    """A whole policy; `since` is the commit that brought it into force."""

    serial: int
    since: str
    principals: tuple[PrincipalShown, ...]
    teams: Mapping[str, tuple[str, ...]]
    rules: tuple[RuleShown, ...]
    freezes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def policy_shown(policy: Policy, since: str, now: datetime, notes: tuple[str, ...] = ()) -> PolicyShown:
    """`policy` in words, at `now`."""
    spec = policy.spec
    principals = tuple(
        PrincipalShown(
            name,
            each.machine,
            each.email or "",
            tuple(key_shown(entry, now) for entry in each.keys),
            dict(each.forge),
            tuple(team for team, members in spec.teams.items() if name in members),
        )
        for name, each in spec.principals.items()
    )
    rules = tuple(
        RuleShown(number, rule_words(rule), is_satisfiable(policy, rule))
        for number, rule in enumerate(spec.rules, 1)
    )
    freezes = tuple(freeze_words(freeze) for freeze in spec.freezes)
    return PolicyShown(spec.serial, since, principals, dict(spec.teams), rules, freezes, notes)


def key_shown(entry: str | DatedKey, now: datetime) -> KeyShown:
    """A key of a policy, at `now`."""
    key = PublicKey.parse(key_text(entry))
    if isinstance(entry, str):
        return KeyShown(key.fingerprint, None, None, True)
    return KeyShown(key.fingerprint, entry.valid_after, entry.valid_before, valid_at(entry, now))


def key_words(key: KeyShown) -> str:
    """Such as "SHA256:… until before 2026-12-01 00:00 UTC, speaks no more"."""
    ends = (("from", key.valid_after), ("until before", key.valid_before))
    window = "".join(f" {word} {_when(at)}" for word, at in ends if at)
    return f"{key.fingerprint}{window}{'' if key.speaks else ' (does not count now)'}"


def subject_words(rule: Rule) -> str:
    """What a rule is about, such as "rotateKey where env=prod"."""
    match = rule.match
    about = f"a change of {match.change}" if match.change else match.action or ""
    about = "any action" if about == "*" else about
    labels = ", ".join(f"{name}={value}" for name, value in match.selector.items())
    return f"{about} where {labels}" if labels else about


def demand_words(rule: Rule | None) -> str:
    """What a rule demands, such as "asked by operators, approved by 1 of reviewers (signature)"."""
    if rule is None:
        return "refused: no rule is about it"
    needs = " and ".join(f"{each.count} of {each.team}" for each in rule.approvals)
    kind = "signature" if rule.evidence == "signature" else f"{rule.evidence} or stronger"
    approved = f"approved by {needs} ({kind})" if needs else "no approval needed"
    glass = f"; {rule.break_glass.team} may break the glass" if rule.break_glass else ""
    return f"asked by {' or '.join(rule.may_request)}, {approved}{glass}"


def rule_words(rule: Rule) -> str:
    """A whole rule in one line."""
    return f"{subject_words(rule)}: {demand_words(rule)}"


def freeze_words(freeze: Freeze) -> str:
    """A freeze in one line."""
    labels = ", ".join(f"{name}={value}" for name, value in freeze.selector.items()) or "every service"
    free = f", but for {', '.join(freeze.except_)}" if freeze.except_ else ""
    why = f": {freeze.reason}" if freeze.reason else ""
    window = f"{freeze.start:%Y-%m-%d %H:%M} to {freeze.end:%Y-%m-%d %H:%M} {freeze.timezone}"
    return f"nothing begins on {labels} from {window}{free}{why}"


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
