"""The policy as it is read: what contradicts itself in it never comes into force.

Rules kept: a signature says who signed, and a review who gave it: no key and no account is two principals';
what a rule or a freeze names exists. Called by mainline, takeover and commands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from zoneinfo import ZoneInfoNotFoundError

from capsule.documents import codec
from capsule.documents.types import Policy
from capsule.trust.freezes import window
from capsule.trust.key_validity import key_text, never_valid
from capsule_agent.protocol import sshsig

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
            start, end = window(freeze)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            problems.append(("UnknownTimezone", f"{freeze.timezone!r} is no IANA time zone"))
            continue
        except OverflowError:
            problems.append(("BadWindow", f"{freeze.start} to {freeze.end} is beyond the calendar"))
            continue
        if end <= start:
            problems.append(("BadWindow", f"the freeze from {freeze.start} ends at {freeze.end}"))
    return problems
