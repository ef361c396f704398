"""What a policy says: which rule decides, whose signature it is, whose approval is still missing.

Rules kept: people are counted, never keys; nobody approves what they asked for; machines neither ask nor
approve; first matching rule decides and no match is a refusal. One person may stand in several teams and
so meet several approval rules at once, but counts once in each of them; a rule names each team once.
Called by mainline, requests and audit, by decide (freezes), and by `capsule policy`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from capsule.documents import codec
from capsule.documents.types import ChangeKind, Freeze, Policy, Rule
from capsule.trust.state import MissingApproval
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import SignerEntry, Signers

REASONS: dict[str, str] = {
    "SharedKey": "One key is listed for two principals, so that a signature would not say who signed.",
    "BadKey": "A key that is not one OpenSSH Ed25519 public key.",
    "UnknownPrincipal": "A name that the policy does not list among its principals.",
    "UnknownTeam": "A name that the policy does not list among its teams.",
    "BadMatch": "A rule must match an action or a change, not both and not neither.",
    "RepeatedTeam": "A rule lists the same team twice among its approvals; raise its count instead.",
    "UnknownTimezone": "A freeze names a time zone that is not in the IANA database.",
    "BadWindow": "A freeze ends before it begins.",
}

OWNERS = "owners"
PERSON_NAMESPACES = (sshsig.COMMIT, sshsig.REQUEST, sshsig.APPROVAL, sshsig.SIGNERS)
MACHINE_NAMESPACES = (sshsig.COMMIT, sshsig.ORDER, sshsig.HEARTBEAT)
_PATTERN_CHARACTERS = frozenset('*?!,"#')


class InvalidPolicy(ValueError):
    """A policy that contradicts itself. `problems` holds a reason of REASONS and a text for each."""

    def __init__(self, problems: Collection[tuple[str, str]]) -> None:
        super().__init__("; ".join(message for _, message in problems))
        self.problems = tuple(problems)


def load_policy(data: bytes, path: str) -> Policy:
    """Read `policy.yaml`. Raises InvalidDocument for its form, InvalidPolicy for what it says."""
    policy = codec.load_as(Policy, data, path)
    problems = policy_problems(policy)
    if problems:
        raise InvalidPolicy(problems)
    return policy


def policy_problems(policy: Policy) -> list[tuple[str, str]]:
    """What makes a policy contradict itself, each as (reason, text); empty for a sound one."""
    return [*_key_problems(policy), *_team_problems(policy), *_freeze_problems(policy)]


def _key_problems(policy: Policy) -> list[tuple[str, str]]:
    problems = []
    holders: dict[sshsig.PublicKey, str] = {}
    for name, principal in policy.spec.principals.items():
        for text in principal.keys:
            try:
                key = sshsig.PublicKey.parse(text)
            except sshsig.BadKey as error:
                problems.append(("BadKey", f"a key of {name}: {error}"))
                continue
            holder = holders.setdefault(key, name)
            if holder != name:
                problems.append(("SharedKey", f"{holder} and {name} share the key {key.fingerprint}"))
    return problems


def _team_problems(policy: Policy) -> list[tuple[str, str]]:
    spec = policy.spec
    problems = [
        ("UnknownPrincipal", f"team {team} lists {member}, who is no principal")
        for team, members in spec.teams.items()
        for member in members
        if member not in spec.principals
    ]
    named: list[tuple[str, str]] = []
    for at, rule in enumerate(spec.rules, 1):
        if (rule.match.action is None) == (rule.match.change is None):
            problems.append(("BadMatch", f"rule {at} must match either an action or a change"))
        approving = Counter(each.team for each in rule.approvals)
        for team in (team for team, count in approving.items() if count > 1):
            problems.append(("RepeatedTeam", f"rule {at} lists team {team} twice; raise its count"))
        named += [(f"rule {at}", team) for team in (*rule.may_request, *approving)]
    named += [("a freeze", team) for freeze in spec.freezes for team in freeze.except_]
    problems += [
        ("UnknownTeam", f"{where} names {team}, which is no team")
        for where, team in named
        if team not in spec.teams
    ]
    return problems


def _freeze_problems(policy: Policy) -> list[tuple[str, str]]:
    problems = []
    for freeze in policy.spec.freezes:
        try:
            start, end = _window(freeze)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            problems.append(("UnknownTimezone", f"{freeze.timezone!r} is no IANA time zone"))
            continue
        if end <= start:
            problems.append(("BadWindow", f"the freeze from {freeze.start} ends at {freeze.end}"))
    return problems


# ---- rules --------------------------------------------------------------------------------------


def rule_for_action(policy: Policy, action: str, labels: Mapping[str, str]) -> Rule | None:
    """The first rule for `action` on a service with `labels`; None is a refusal."""
    return next(
        (
            rule
            for rule in policy.spec.rules
            if rule.match.action in (action, "*") and _selects(rule.match.selector, labels)
        ),
        None,
    )


def rules_for_change(
    policy: Policy,
    kind: ChangeKind,
    before: Mapping[str, str] | None,
    after: Mapping[str, str] | None,
) -> tuple[Rule, ...] | None:
    """All rules that a change must meet: that of the labels before and that of the labels after.

    None stands for a document that does not exist; settings and policy have no labels: pass `{}`. The
    answer None is a refusal: one of the sides has no rule.
    """
    rules: list[Rule] = []
    for labels in (before, after):
        if labels is None:
            continue
        found = next(
            (
                rule
                for rule in policy.spec.rules
                if rule.match.change == kind and _selects(rule.match.selector, labels)
            ),
            None,
        )
        if found is None:
            return None
        if found not in rules:
            rules.append(found)
    return tuple(rules)


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.items())


# ---- people -------------------------------------------------------------------------------------


def is_person(policy: Policy, name: str) -> bool:
    """Whether `name` is a principal who may ask and approve: a person, not a machine."""
    principal = policy.spec.principals.get(name)
    return principal is not None and not principal.machine


def is_machine(policy: Policy, name: str) -> bool:
    """Whether `name` is a principal who may write on audit: a reconciler."""
    principal = policy.spec.principals.get(name)
    return principal is not None and principal.machine


def people(policy: Policy, teams: Iterable[str]) -> frozenset[str]:
    """The people in any of `teams`; machines do not count."""
    members = (member for team in teams for member in policy.spec.teams.get(team, ()))
    return frozenset(member for member in members if is_person(policy, member))


def may_request(policy: Policy, rule: Rule, name: str) -> bool:
    """Whether the principal `name` may ask for what `rule` is about."""
    return name in people(policy, rule.may_request)


def may_approve(policy: Policy, rule: Rule, name: str) -> bool:
    """Whether the word of `name` counts for any team that `rule` asks."""
    return name in people(policy, (each.team for each in rule.approvals))


def missing_approvals(
    policy: Policy, rules: Iterable[Rule], authors: Collection[str], approvers: Collection[str]
) -> tuple[MissingApproval, ...]:
    """What is missing until every rule is met: per team the largest number of people still needed.

    Whoever is among `authors` (who asked, or changed something) never counts as an approver.
    """
    missing: dict[str, MissingApproval] = {}
    for rule in rules:
        for needed in rule.approvals:
            team = people(policy, [needed.team]) - set(authors)
            short = needed.count - len(team & set(approvers))
            known = missing.get(needed.team)
            if short > 0 and (known is None or known.count < short):
                missing[needed.team] = MissingApproval(
                    needed.team, short, tuple(sorted(team - set(approvers)))
                )
    return tuple(missing.values())


def is_satisfiable(policy: Policy, rule: Rule) -> bool:
    """Whether somebody may ask for what `rule` is about and enough others may approve it."""
    return any(
        not missing_approvals(policy, [rule], [author], people(policy, policy.spec.teams))
        for author in people(policy, rule.may_request)
    )


# ---- signatures ---------------------------------------------------------------------------------


class _Same:
    """A policy compared by identity, so that its keys are read once."""

    __slots__ = ("policy",)

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.policy is self.policy

    def __hash__(self) -> int:
        return id(self.policy)


@lru_cache(maxsize=64)
def _holders(same: _Same) -> Mapping[sshsig.PublicKey, str]:
    return {
        sshsig.PublicKey.parse(text): name
        for name, principal in same.policy.spec.principals.items()
        for text in principal.keys
    }


def signer_of(policy: Policy, data: bytes, signature: str, namespace: str) -> str:
    """The principal whose key signed `data` in `namespace`. Raises sshsig.BadSignature."""
    holders = _holders(_Same(policy))
    return holders[sshsig.verify(data, signature, namespace, holders)]


def allowed_signers(policy: Policy) -> str:
    """The policy as an OpenSSH allowed_signers file, for stock `git verify-commit` and `ssh-keygen -Y`.

    Every key is bound to the namespaces it may sign in. Format: ssh-keygen(1), ALLOWED SIGNERS.
    """
    lines = []
    for name, principal in sorted(policy.spec.principals.items()):
        names = [name]
        if principal.email and not _PATTERN_CHARACTERS & set(principal.email):
            names.append(principal.email)
        namespaces = ",".join(MACHINE_NAMESPACES if principal.machine else PERSON_NAMESPACES)
        lines += [
            f'{",".join(names)} namespaces="{namespaces}" {sshsig.PublicKey.parse(text).text}\n'
            for text in principal.keys
        ]
    return "".join(lines)


def signers_document(policy: Policy, repository: str, serial: int) -> Signers:
    """What agents need to know of the policy: who may sign requests, approvals and orders, with which keys.

    `repository` is the id of the first commit; `serial` must be above that of the list before.
    """
    rules = [rule for rule in policy.spec.rules if rule.match.action is not None]
    asking = people(policy, (team for rule in rules for team in rule.may_request))
    approving = people(policy, (each.team for rule in rules for each in rule.approvals))
    entries: dict[str, SignerEntry] = {}
    for name, principal in sorted(policy.spec.principals.items()):
        keys = tuple(sshsig.PublicKey.parse(text).text for text in principal.keys)
        if principal.machine:
            entries[name] = SignerEntry(keys, ("order",))
        elif name in asking and name in approving:
            entries[name] = SignerEntry(keys, ("request", "approve"))
        elif name in asking:
            entries[name] = SignerEntry(keys, ("request",))
        elif name in approving:
            entries[name] = SignerEntry(keys, ("approve",))
    return Signers(repository=repository, serial=serial, principals=entries)


# ---- freezes ------------------------------------------------------------------------------------


def frozen_until(policy: Policy, labels: Mapping[str, str], requester: str, now: datetime) -> datetime | None:
    """Until when (UTC) a freeze holds back what `requester` asked of a service with `labels`; None: free."""
    holding = freeze_in_force(policy, labels, requester, now)
    return holding[0] if holding else None


def freeze_in_force(
    policy: Policy, labels: Mapping[str, str], requester: str, now: datetime
) -> tuple[datetime, Freeze] | None:
    """The end (UTC) and the document of the freeze that holds longest, or None."""
    holding = [
        (end, freeze)
        for freeze in policy.spec.freezes
        if _selects(freeze.selector, labels) and requester not in people(policy, freeze.except_)
        for start, end in [_window(freeze)]
        if start <= now < end
    ]
    return max(holding, key=lambda each: each[0], default=None)


def _window(freeze: Freeze) -> tuple[datetime, datetime]:
    """Start and end in UTC. Where the clocks change, the longer reading of a local time holds."""
    zone = ZoneInfo(freeze.timezone)
    starts, ends = (
        [local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        for local in (freeze.start, freeze.end)
    )
    return min(starts), max(ends)
