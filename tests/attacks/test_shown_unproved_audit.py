"""What somebody tries to have the command line believe by what stands on audit and no reconciler wrote.

Carol, an owner, has a key that has ended; the thief has it, and may push to main and to audit.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from capsule.cli import app
from capsule.documents.codec import emit
from capsule.documents.paths import AUDIT
from capsule.documents.types import Policy
from capsule.store.api import Draft, Person, RefUpdate
from capsule.store.git import open_store
from capsule_agent.protocol import sshsig
from tests.agent_fixtures import key as town_key
from tests.agent_fixtures import write_key
from tests.town import POLICY, START, Town, plain, principal


class Clone:
    """A clone of a repository at whose server the thief writes what they like."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        bare = folder / "state.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(bare)], check=True)
        ended = {"key": str(principal("carol")["keys"][0]), "validBefore": "2026-11-23T13:00:00Z"}
        people = {**POLICY["principals"], "carol": {**principal("carol"), "keys": (ended,)}}
        alone = {"match": {"change": "policy"}, "mayRequest": ("owners",), "approvals": ()}
        self.policy = {
            **POLICY,
            "principals": people,
            "teams": {**POLICY["teams"], "owners": ("bob", "carol")},
            "rules": (*POLICY["rules"], alone),
        }
        self.town = Town(folder, store=open_store(bare), policy=self.policy)
        self.reconciler = self.town.reconciler()
        self.town.settle(self.reconciler)
        self.bob = write_key(folder / "bob", "bob")
        self.place = folder / "clone"
        subprocess.run(["git", "clone", "-q", str(bare), str(self.place)], check=True)

    def new_policy(self, **more: Any) -> str:
        """Carol's key lets mallory in as a reviewer, and whoever else is named."""
        changed = {
            **self.policy,
            "serial": 2,
            "principals": {**self.policy["principals"], "mallory": principal("mallory"), **more},
            "teams": {**self.policy["teams"], "reviewers": ("bob", "mallory")},
        }
        text = emit(plain(Policy, "policy", changed))
        return self.town.commit({"policy.yaml": text}, "mallory joins", "carol")

    def invent(self, main: str, who: str | None) -> None:
        """A commit on audit that says it took in that step in time."""
        old = self.town.tip(AUDIT)
        assert old
        sign = (lambda data: town_key(who).sign(data, sshsig.COMMIT)) if who else None
        person = Person(who or "nobody", f"{who}@reconciler.invalid")
        message = f"take in main {main[:12]}\n\nCapsule-Revision: {main}\n"
        draft = Draft(old, {}, [old, main], message, person, START, sign=sign, overlay=main)
        self.town.store.publish([RefUpdate(AUDIT, old, self.town.store.write(draft))])

    def run(self, *words: str) -> Result:
        subprocess.run(["git", "-C", str(self.place), "fetch", "-q"], check=True)
        return CliRunner().invoke(app, ["-C", str(self.place), "--root", self.town.root, *words])

    def sign_signers(self) -> Result:
        return self.run("policy", "signers", "--yes", "--as-key", str(self.bob))

    def signers(self) -> Sequence[str]:
        return list(json.loads(self.town.file("signers/signers.json"))["principals"])

    def close(self) -> None:
        self.reconciler.close()
        self.town.close()


@pytest.fixture
def clone(tmp_path: Path) -> Any:
    place = Clone(tmp_path)
    yield place
    place.close()


@pytest.mark.parametrize("who", [None, "ghost"])
def test_owner_signs_no_thief_into_the_list_of_signers(clone: Clone, who: str | None) -> None:
    clone.invent(clone.new_policy(ghost=principal("ghost", machine=True)), who)
    assert json.loads(clone.run("policy", "show", "--json").output)["serial"] == 1
    signed = clone.sign_signers()
    assert (signed.exit_code, "mallory" in signed.output) == (0, False), signed.output
    assert "mallory" not in clone.signers()


def test_owner_signs_what_hangs_on_the_times_of_audit_only_when_it_was_proved(clone: Clone) -> None:
    clone.new_policy()
    clone.town.settle(clone.reconciler)  # in time
    assert json.loads(clone.run("policy", "show", "--json").output)["serial"] == 2
    refused = clone.sign_signers()
    assert (refused.exit_code, "AuditNotProved" in refused.output) == (1, True), refused.output
    assert "capsule audit verify" in refused.output
    proved = clone.run("audit", "verify")
    assert proved.exit_code == 0, proved.output
    signed = clone.sign_signers()
    assert (signed.exit_code, "mallory\n    + may approve" in signed.output) == (0, True), signed.output
    assert "mallory" in clone.signers()


def test_proof_from_another_root_is_no_proof(clone: Clone) -> None:
    """What was proved is kept by its root: another root, given by hand, is proved anew."""
    from capsule.commands.audit_memory import proved_tip

    assert clone.run("audit", "verify").exit_code == 0
    folder = clone.place / ".git"
    assert proved_tip(folder, clone.town.root) == clone.town.tip(AUDIT)
    assert proved_tip(folder, "0" * 40) is None
