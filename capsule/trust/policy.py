"""What a policy says: which rule decides, whose signature it is, whose approval is still missing.

Rules kept: people are counted, never keys; nobody approves what they asked for; a machine never approves,
and asks only where a rule names a team that lists it and asks approvals of people (rotations that fall due);
first matching rule decides and no match is a refusal. One person may stand in several teams and so meet
several approval rules at once, but counts once in each of them; a rule names each team once.
Called by mainline, requests and audit, by decide (freezes), and by `capsule policy`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from capsule.documents import codec
from capsule.documents.types import ChangeKind, DatedKey, Evidence, Freeze, Policy, Rule
from capsule.trust.evidence import EVIDENCE, STRONGEST, accepts, at_least
from capsule.trust.key_validity import Same, key_text, never_valid, policy_at
from capsule.trust.state import MissingApproval
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Power, SignerEntry, Signers

REASONS: dict[str, str] = {
    "SharedKey": "One key is listed for two principals, so that a signature would not say who signed.",
    "SharedAccount": "One account at a forge is listed for two principals, so that a review would not say "
    "who gave it.",
    "BadKeyWindow": "A key whose `validBefore` is not after its `validAfter`.",
    "BadKey": "A key that is not one OpenSSH Ed25519 public key.",
    "UnknownPrincipal": "A name that the policy does not list among its principals.",
    "UnknownTeam": "A name that the policy does not list among its teams.",
    "BadMatch": "A rule must match an action or a change, not both and not neither.",
    "RepeatedTeam": "A rule lists the same team twice among its approvals; raise its count instead.",
    "UnknownTimezone": "A freeze names a time zone that is not in the IANA database.",
    "BadWindow": "A freeze ends before it begins, or lies beyond the calendar.",
}

OWNERS = "owners"
CHECKPOINT = "capsule-checkpoint@v1"
PERSON_NAMESPACES = (sshsig.COMMIT, sshsig.REQUEST, sshsig.APPROVAL, sshsig.SIGNERS, CHECKPOINT)
MACHINE_NAMESPACES = (sshsig.COMMIT, sshsig.ORDER, sshsig.HEARTBEAT)
ASKING_MACHINE_NAMESPACES = (sshsig.COMMIT, sshsig.REQUEST, sshsig.ORDER, sshsig.HEARTBEAT)
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
    found = [*_key_problems(policy), *_account_problems(policy), *_team_problems(policy)]
    return [*found, *_freeze_problems(policy)]


def _key_problems(policy: Policy) -> list[tuple[str, str]]:
    problems = []
    holders: dict[sshsig.PublicKey, str] = {}
    for name, principal in policy.spec.principals.items():
        for entry in principal.keys:
            try:
                key = sshsig.PublicKey.parse(key_text(entry))
            except sshsig.BadKey as error:
                problems.append(("BadKey", f"a key of {name}: {error}"))
                continue
            holder = holders.setdefault(key, name)
            if holder != name:
                problems.append(("SharedKey", f"{holder} and {name} share the key {key.fingerprint}"))
            if never_valid(entry):
                problems.append(("BadKeyWindow", f"{name}'s key {key.fingerprint} ends before it begins"))
    return problems


def _account_problems(policy: Policy) -> list[tuple[str, str]]:
    problems = []
    holders: dict[tuple[str, int], str] = {}
    for name, principal in policy.spec.principals.items():
        for forge, user in principal.forge.items():
            holder = holders.setdefault((forge, user), name)
            if holder != name:
                problems.append(("SharedAccount", f"{holder} and {name} share the account {user} at {forge}"))
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
        breaking = [rule.break_glass.team] if rule.break_glass else []
        named += [(f"rule {at}", team) for team in (*rule.may_request, *approving, *breaking)]
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
        except OverflowError:
            problems.append(("BadWindow", f"{freeze.start} to {freeze.end} is beyond the calendar"))
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
    """Whether `name` is a principal who may approve: a person, not a machine."""
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


def requesters(policy: Policy, rule: Rule) -> frozenset[str]:
    """Who may ask for what `rule` is about.

    Machines of its teams may only where the rule is about an action and asks approvals, which people alone
    give: whoever holds a machine's key makes nothing happen by asking. Changes of documents are people's.
    """
    if rule.match.action is None or not rule.approvals:
        return people(policy, rule.may_request)
    members = (member for team in rule.may_request for member in policy.spec.teams.get(team, ()))
    return frozenset(member for member in members if member in policy.spec.principals)


def may_request(policy: Policy, rule: Rule, name: str) -> bool:
    """Whether the principal `name` may ask for what `rule` is about."""
    return name in requesters(policy, rule)


def may_approve(policy: Policy, rule: Rule, name: str) -> bool:
    """Whether the word of `name` counts for any team that `rule` asks."""
    return name in people(policy, (each.team for each in rule.approvals))


def missing_approvals(
    policy: Policy,
    rules: Iterable[Rule],
    authors: Collection[str],
    approvers: Collection[str] | Mapping[str, Evidence],
) -> tuple[MissingApproval, ...]:
    """What is missing until every rule is met: per team the largest number of people still needed.

    `approvers` are people who signed, or each with the strongest evidence there is of their approval: under
    a rule only those count whose evidence it takes. Whoever is among `authors` (who asked, or changed
    something) never counts as an approver.
    """
    given = approvers if isinstance(approvers, Mapping) else dict.fromkeys(approvers, STRONGEST)
    missing: dict[str, MissingApproval] = {}
    for rule in rules:
        counted = {name for name, evidence in given.items() if accepts(rule, evidence)}
        for needed in rule.approvals:
            team = people(policy, [needed.team]) - set(authors)
            short = needed.count - len(team & counted)
            known = missing.get(needed.team)
            if short > 0 and (known is None or known.count < short):
                missing[needed.team] = MissingApproval(needed.team, short, tuple(sorted(team - counted)))
    return tuple(missing.values())


def needed_evidence(
    policy: Policy, rules: Collection[Rule], authors: Collection[str], approvers: Mapping[str, Evidence]
) -> Evidence:
    """The strongest kind such that approvals of that kind or stronger meet the rules: the weakest that was
    needed. The strongest of all where nothing is asked, or where nothing suffices."""
    for kind in reversed(EVIDENCE):
        given = {name: evidence for name, evidence in approvers.items() if at_least(evidence, kind)}
        if not missing_approvals(policy, rules, authors, given):
            return kind
    return STRONGEST


def is_satisfiable(policy: Policy, rule: Rule) -> bool:
    """Whether somebody may ask for what `rule` is about and enough others may approve it."""
    return any(
        not missing_approvals(policy, [rule], [author], people(policy, policy.spec.teams))
        for author in requesters(policy, rule)
    )


# ---- signatures ---------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _holders(same: Same) -> Mapping[sshsig.PublicKey, str]:
    return {
        sshsig.PublicKey.parse(entry): name
        for name, principal in same.policy.spec.principals.items()
        for entry in principal.keys
        if isinstance(entry, str)
    }


def signer_of(policy: Policy, data: bytes, signature: str, namespace: str) -> str:
    """The principal whose key signed `data` in `namespace`. Raises sshsig.BadSignature.

    A key that speaks for a while only counts in the policy as it was at some instant: see `policy_at`.
    """
    holders = _holders(Same(policy))
    return holders[sshsig.verify(data, signature, namespace, holders)]


def holder_of(policy: Policy, key: sshsig.PublicKey) -> str | None:
    """Whose key it is; for who knows already that a signature verifies with it."""
    return _holders(Same(policy)).get(key)


def keys_of(policy: Policy) -> frozenset[sshsig.PublicKey]:
    """The keys of all principals, people and machines."""
    return frozenset(_holders(Same(policy)))


def allowed_signers(policy: Policy) -> str:
    """The policy as an OpenSSH allowed_signers file, for stock `git verify-commit` and `ssh-keygen -Y`.

    Every key is bound to the namespaces it may sign in. Format: ssh-keygen(1), ALLOWED SIGNERS.
    """
    lines = []
    asking = _asking(policy)
    for name, principal in sorted(policy.spec.principals.items()):
        names = [name]
        if principal.email and not _PATTERN_CHARACTERS & set(principal.email):
            names.append(principal.email)
        of_machine = ASKING_MACHINE_NAMESPACES if name in asking else MACHINE_NAMESPACES
        namespaces = ",".join(of_machine if principal.machine else PERSON_NAMESPACES)
        lines += [
            f'{",".join(names)} namespaces="{namespaces}"{_window_of(entry)} '
            f"{sshsig.PublicKey.parse(key_text(entry)).text}\n"
            for entry in principal.keys
        ]
    return "".join(lines)


def _window_of(entry: str | DatedKey) -> str:
    """The options of a key that speaks for a while only, in UTC. OpenSSH takes `valid-before` as the last
    second, the policy as the first one after."""
    if isinstance(entry, str):
        return ""
    last = entry.valid_before - timedelta(seconds=1) if entry.valid_before else None
    options = (("valid-after", entry.valid_after), ("valid-before", last))
    return "".join(f',{name}="{at:%Y%m%d%H%M%S}Z"' for name, at in options if at)


def _asking(policy: Policy) -> frozenset[str]:
    """Everybody who may ask for some action."""
    rules = (rule for rule in policy.spec.rules if rule.match.action is not None)
    return frozenset(name for rule in rules for name in requesters(policy, rule))


def signers_document(policy: Policy, repository: str, serial: int, at: datetime | None = None) -> Signers:
    """What agents need to know of the policy: who may sign requests, approvals and orders, with which keys.

    `repository` is the id of the first commit; `serial` must be above that of the list before. Of keys that
    speak for a while only, those that do `at` that time: agents learn of others with the next list.
    """
    policy = policy_at(policy, at)
    rules = [rule for rule in policy.spec.rules if rule.match.action is not None]
    asking = _asking(policy)
    approving = people(policy, (each.team for rule in rules for each in rule.approvals))
    breaking = people(policy, (rule.break_glass.team for rule in rules if rule.break_glass))
    entries: dict[str, SignerEntry] = {}
    for name, principal in sorted(policy.spec.principals.items()):
        plain = (entry for entry in principal.keys if isinstance(entry, str))
        keys = tuple(sshsig.PublicKey.parse(text).text for text in plain)
        if not keys:
            continue
        if principal.machine:
            entries[name] = SignerEntry(keys, ("order", "request") if name in asking else ("order",))
            continue
        may: list[Power] = ["request"] if name in asking or name in breaking else []
        may += ["approve"] if name in approving else []
        may += ["break-glass"] if name in breaking else []
        if may:
            entries[name] = SignerEntry(keys, tuple(may))
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
