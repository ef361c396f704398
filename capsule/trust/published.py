"""The policy as others learn it: stock git and OpenSSH by a file of allowed signers, agents by their list.

Rules kept: every key is bound to what its holder may do by the rules, and to when it speaks. Called by
signers and commands.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from capsule.documents.types import DatedKey, Policy
from capsule.trust.key_validity import key_text, policy_at
from capsule.trust.policy import people, requesters
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Power, SignerEntry, Signers

CHECKPOINT = "capsule-checkpoint@v1"
PERSON_NAMESPACES = (sshsig.COMMIT, sshsig.REQUEST, sshsig.APPROVAL, sshsig.SIGNERS, CHECKPOINT)
MACHINE_NAMESPACES = (sshsig.COMMIT, sshsig.ORDER, sshsig.HEARTBEAT, CHECKPOINT)
ASKING_MACHINE_NAMESPACES = (sshsig.COMMIT, sshsig.REQUEST, sshsig.ORDER, sshsig.HEARTBEAT, CHECKPOINT)
_PATTERN_CHARACTERS = frozenset('*?!,"#')


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
