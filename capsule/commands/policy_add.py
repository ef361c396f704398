"""`capsule policy add`: somebody joins, as an edit of policy.yaml in the work tree, which is then proposed.

Rules kept: nothing is committed and nothing is in force by it; comments and layout stay; what was written is
read again as a policy before the file is replaced. Called by the verb of that name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsule.commands.errors import SetUpProblem, WrongUsage
from capsule.commands.repository import Repository
from capsule.documents.codec import CannotEdit, InvalidDocument, edit
from capsule.documents.paths import POLICY
from capsule.documents.scalars import NAME
from capsule.documents.types import Policy
from capsule.trust.key_validity import key_text
from capsule.trust.policy_checks import InvalidPolicy, load_policy
from capsule_agent.protocol.sshsig import BadKey, PublicKey

_REVIEWED = re.compile(r'( *)# (- match: \{action: "\*"\}\n)((?: *# [^\n]*\n)*)')
_UNCOMMENT = re.compile(r" Uncomment it together with the reviewers\n *# above\.(?= )")
_EXAMPLE_PERSON = re.compile(r' *# bob:\n *#   email: [^\n]*\n *#   keys:\n *#     - "ssh-ed25519 AAAA…"\n')
_EXAMPLE_TEAM = re.compile(r" *# reviewers: \[bob\] [^\n]*\n")
_WANTED = re.compile(r"( *)# ( *(?:mayRequest|approvals): )")


@dataclass(frozen=True, slots=True)
class Joined:
    """What was written: the file, its new serial, what it says that it did not, and what is left to do."""

    file: Path
    serial: int
    said: tuple[str, ...]
    left: tuple[str, ...]


def add_person(
    repository: Repository, name: str, key: PublicKey, teams: Sequence[str], email: str | None
) -> Joined:
    """Write `name` with `key` into the policy.yaml of the work tree, as a member of `teams`.

    Raises SetUpProblem for a bare repository, WrongUsage for a name or key that is taken or no name, and for
    a file whose layout leaves no room for the edit.
    """
    if repository.location.work_tree is None:
        raise SetUpProblem(
            "NoWorkTree", "this repository is bare: there is no policy.yaml to edit", "git clone"
        )
    file = repository.location.work_tree / POLICY
    data = _read(file)
    before = _policy(data)
    _refuse_what_is_taken(before, name, key)
    changed = _without_examples(_edited(data, before, name, key, teams, email), teams)
    said = [f"{name} joins with {key.fingerprint}", *(f"team {team} gains {name}" for team in teams)]
    asked = _teams_asked(before)
    if "reviewers" in teams and "reviewers" not in asked:
        changed, uncommented = _with_the_templates_rule(changed)
        said += ["every other action needs 1 of reviewers"] if uncommented else []
    after = _policy(changed)
    file.write_bytes(changed)
    return Joined(file, after.spec.serial, tuple(said), tuple(_left(after, teams)))


def read_key(file: Path) -> PublicKey:
    """The OpenSSH public key in a file. Raises WrongUsage for anything else."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise WrongUsage(
            "BadKey", f"{file}: {error.strerror}", "It is the file that ends in .pub beside their key."
        ) from None
    if "PRIVATE KEY" in text:
        raise WrongUsage("BadKey", f"{file} is a private key, which stays with its owner", f"Give {file}.pub")
    try:
        return PublicKey.parse(" ".join(text.split()[:2]))
    except BadKey as error:
        raise WrongUsage(
            "BadKey", f"{file}: {error}", "Only ssh-ed25519 keys work: ssh-keygen -t ed25519"
        ) from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise WrongUsage("Unreadable", f"{file}: {error.strerror}", "git switch main") from None


def _policy(data: bytes) -> Policy:
    try:
        return load_policy(data, POLICY)
    except (InvalidDocument, InvalidPolicy) as error:
        raise WrongUsage("InvalidPolicy", str(error), "capsule check") from None


def _refuse_what_is_taken(policy: Policy, name: str, key: PublicKey) -> None:
    if not re.fullmatch(NAME, name):
        raise WrongUsage(
            "BadName", f"{name!r} is not a valid name", "Such as bob, or mary-ann: a-z, 0-9 and -."
        )
    if name in policy.spec.principals:
        raise WrongUsage("BadName", f"{POLICY} lists {name} already", "Edit their entry there by hand.")
    for other, principal in policy.spec.principals.items():
        if any(PublicKey.parse(key_text(entry)) == key for entry in principal.keys):
            raise WrongUsage(
                "BadKey",
                f"{POLICY} lists this key already, as {other}'s",
                "A key is one person's: have them make another (ssh-keygen -t ed25519)",
            )


def _edited(
    data: bytes, before: Policy, name: str, key: PublicKey, teams: Sequence[str], email: str | None
) -> bytes:
    entry: dict[str, Any] = {**({"email": email} if email else {}), "keys": [key.text]}
    changes: dict[tuple[str, ...], Any] = {
        ("spec", "serial"): before.spec.serial + 1,
        ("spec", "principals", name): entry,
    }
    for team in teams:
        changes["spec", "teams", team] = [*before.spec.teams.get(team, ()), name]
    try:
        data = edit(data, changes, path=POLICY)
    except CannotEdit as error:
        raise WrongUsage("CannotEdit", str(error), f"Nothing was written: edit {POLICY} by hand.") from None
    return data


def _teams_asked(policy: Policy) -> set[str]:
    """The teams whose approval some rule for actions asks for."""
    rules = [rule for rule in policy.spec.rules if rule.match.action]
    return {each.team for rule in rules for each in rule.approvals}


def _without_examples(data: bytes, teams: Sequence[str]) -> bytes:
    """Without what the template shows, commented out, of what is there now: a person, and the reviewers."""
    text = _EXAMPLE_PERSON.sub("", data.decode())
    return (_EXAMPLE_TEAM.sub("", text) if "reviewers" in teams else text).encode()


def _with_the_templates_rule(data: bytes) -> tuple[bytes, bool]:
    """The rule that `capsule init` left commented out for the day when there is a reviewer, in force."""
    text = data.decode()
    found = _REVIEWED.search(text)
    if found is None:
        return data, False
    rest = _WANTED.sub(r"\1\2", found[3])
    before = _UNCOMMENT.sub("\n    #", text[: found.start()])
    return f"{before}{found[1]}{found[2]}{rest}{text[found.end() :]}".encode(), True


def _left(after: Policy, teams: Sequence[str]) -> list[str]:
    """What a person should still think of."""
    asked = {each.team for rule in after.spec.rules for each in rule.approvals}
    left = [f"no rule asks for the approval of {team} yet" for team in teams if team not in asked]
    alone = [
        f"change: {rule.match.change}"
        for rule in after.spec.rules
        if rule.match.change and not rule.approvals
    ]
    if alone:
        left.append(f"one person alone may still change documents (rules {', '.join(alone)} ask nobody)")
    return left
