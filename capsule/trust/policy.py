"""What a policy says: which rule decides, whose signature it is, whose approval is still missing.

Rules kept: people are counted, never keys; nobody approves what they asked for; a machine never approves,
and asks only where a rule names a team that lists it and asks approvals of people (rotations that fall due);
first matching rule decides and no match is a refusal. One person may stand in several teams and so meet
several approval rules at once, but counts once in each of them; a rule names each team once.
Called by mainline, requests and audit, by decide, and by `capsule policy`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from capsule.documents.types import ChangeKind, Evidence, Policy, Rule
from capsule.trust.evidence import EVIDENCE, STRONGEST, accepts, at_least
from capsule.trust.key_validity import Same
from capsule.trust.state import MissingApproval
from capsule_agent.protocol import sshsig

OWNERS = "owners"


# ---- rules --------------------------------------------------------------------------------------


def rule_for_action(policy: Policy, action: str, labels: Mapping[str, str]) -> Rule | None:
    """The first rule for `action` on a service with `labels`; None is a refusal."""
    return next(
        (
            rule
            for rule in policy.spec.rules
            if rule.match.action in (action, "*") and selects(rule.match.selector, labels)
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
                if rule.match.change == kind and selects(rule.match.selector, labels)
            ),
            None,
        )
        if found is None:
            return None
        if found not in rules:
            rules.append(found)
    return tuple(rules)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether `labels` hold every label of `selector`; an empty selector selects everything."""
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
