"""A bare repository behind a real sshd and git-shell, with the hook: what stock git may push, and what not.

One server for all tests of this file: forbidden pushes leave no trace, and that is asserted each time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from capsule.cli import app
from capsule.documents.digests import bytes_digest, change_digest
from capsule.documents.paths import AUDIT, HEARTBEATS, MAIN, REQUEST_BRANCHES, change_approval
from capsule.documents.types import ChangedPath
from capsule.store.api import Draft, Person, PushRefused, RefMoved, RefUpdate
from capsule.store.git import RemoteSettings, SshSettings, open_store
from capsule.testing.memory_store import MemoryStore
from capsule_agent.protocol import sshsig
from tests import town as town_module
from tests.agent_fixtures import key, write_key
from tests.docs.pages import blocks
from tests.git_servers import Sshd, assert_sound, git, git_environment, sshd
from tests.sshd import SSHD, keygen
from tests.town import Town

SERVICE = "services/openai-chat.yaml"
RULES = (
    *town_module.POLICY["rules"][:3],
    {
        "match": {"change": "service"},
        "mayRequest": ("operators",),
        "approvals": ({"team": "reviewers", "count": 1},),
    },
    {
        "match": {"change": "policy"},
        "mayRequest": ("owners",),
        "approvals": ({"team": "owners", "count": 1},),
    },
)


PAGE = {
    language: [each.text for each in blocks(language) if each.page.name == "host-the-repository-yourself.md"]
    for language in ("sh", "sshdconfig")
}


@dataclass
class Pushed:
    """How a push by stock git ended: whether it was taken, and what git showed."""

    taken: bool
    said: str


@dataclass
class Hosting:
    """The server, a person's plain clone of it, and a town whose store pushes to it over ssh."""

    bare: Path
    desk: Path
    keys: Path
    server: Sshd
    town: Town

    def git(self, *arguments: str) -> str:
        return git(self.desk, *arguments).strip()

    def begin(self, start: str = "origin/main") -> None:
        """A clean desk at what the server has."""
        self.git("fetch", "--quiet", "--prune", "origin", "+refs/heads/*:refs/remotes/origin/*")
        self.git("checkout", "--quiet", "--force", "-B", "try", start)

    def commit(self, files: Mapping[str, str | None], who: str = "alice") -> str:
        """A commit on the desk, signed by `who` with stock git; its id."""
        for name, text in files.items():
            path = self.desk / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        self.git("add", "--all")
        signing = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={self.keys / who}")
        self.git(*signing, "commit", "--quiet", "--allow-empty", "-S", "-m", "Try it")
        return self.git("rev-parse", "HEAD")

    def push(self, *arguments: str) -> Pushed:
        done = subprocess.run(
            ["git", "push", "origin", *arguments],
            cwd=self.desk,
            env={**git_environment(), "GIT_SSH_COMMAND": self.ssh},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Pushed(done.returncode == 0, done.stderr)

    @property
    def ssh(self) -> str:
        files = f"-i {self.server.key} -o UserKnownHostsFile={self.server.known_hosts}"
        return f"ssh -F /dev/null {files} -o IdentitiesOnly=yes -o BatchMode=yes"

    def refs(self) -> dict[str, str]:
        """What the server has, asked on the server itself."""
        listed = git(self.bare, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ") for line in listed)

    def refused(self, *arguments: str) -> str:
        """What git shows of a push that must be refused and must change nothing."""
        before = self.refs()
        pushed = self.push(*arguments)
        assert not pushed.taken, pushed.said
        assert self.refs() == before
        assert "Traceback" not in pushed.said
        return pushed.said


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    folder = tmp_path_factory.mktemp("hosting")
    bare = folder / "state.git"
    with pytest.MonkeyPatch.context() as patch, sshd(folder / "sshd") as server:
        patch.setitem(town_module.POLICY, "rules", RULES)
        with closing(Town(folder / "twin", MemoryStore())) as twin:  # the same keys and clock: the same root
            set_up_as_documented(folder, twin.root)
        work = folder / "work"
        git(folder, "init", "--quiet", "--initial-branch=main", str(work))
        git(work, "remote", "add", "origin", server.url(bare))
        keys = SshSettings((server.key,), (server.known_hosts,), agent=False, config=Path(os.devnull))
        settings = RemoteSettings(timeout=60.0, ssh=keys)
        with (
            closing(open_store(work, settings=settings)) as store,
            closing(Town(folder / "town", store)) as town,
        ):
            desk = folder / "desk"
            git(folder, "clone", "--quiet", str(bare), str(desk))
            git(desk, "config", "remote.origin.pushurl", server.url(bare))
            git(desk, "config", "user.name", "Somebody")
            git(desk, "config", "user.email", "somebody@example.com")
            for who in ("alice", "mallory"):
                write_key(folder / who, who)
            yield Hosting(bare, desk, folder, server, town)
    assert_sound(bare)


def set_up_as_documented(folder: Path, root: str) -> None:
    """Type the commands of the how-to that make the repository, in `folder` instead of /srv/git."""
    text = PAGE["sh"][0].replace("/srv/git", str(folder)).replace("ROOT", root)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**git_environment(), "PATH": path}
    done = subprocess.run(
        ["sh", "-e", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def protected(bare: Path, *arguments: str) -> str:
    """What `capsule` prints when it is run on the server."""
    done = CliRunner().invoke(app, ["-C", str(bare), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def by_reconciler(town: Town, tip: str, edits: Mapping[str, bytes | None]) -> str:
    """A commit on top of `tip` that a reconciler with a defect might write."""
    draft = Draft(
        base=tip,
        edits=edits,
        parents=(tip,),
        message="edit\n",
        author=Person("reconciler-1", "reconciler-1@reconciler.invalid"),
        at=town.clock.now(),
        sign=lambda data: key("reconciler-1").sign(data, sshsig.COMMIT),
    )
    return town.store.write(draft)


def test_sshd_understands_the_settings_of_the_how_to(tmp_path: Path) -> None:
    keygen(tmp_path / "host")
    config = tmp_path / "sshd_config"
    config.write_text(f"HostKey {tmp_path / 'host'}\n{PAGE['sshdconfig'][0]}")
    where = "user=git,host=localhost,addr=127.0.0.1"
    done = subprocess.run(
        [SSHD, "-T", "-C", where, "-f", str(config)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"permittty no", "disableforwarding yes"} <= set(done.stdout.splitlines())


def word(hosting: Hosting, who: str, decision: str, old: str, new: str) -> dict[str, str | None]:
    """The files of somebody's signed word on a change of the service."""
    pair = ChangedPath(old=bytes_digest(old.encode()), new=bytes_digest(new.encode()))
    document = {
        "apiVersion": "capsule/v1",
        "kind": "ChangeApproval",
        "repository": hosting.town.root,
        "principal": who,
        "decision": decision,
        "changes": {SERVICE: {"old": pair.old, "new": pair.new}},
    }
    text = json.dumps(document)
    path = change_approval(change_digest({SERVICE: pair}), who)
    return {path: text, f"{path}.sig": key(who).sign(text.encode(), sshsig.APPROVAL)}


# ---- what is taken ------------------------------------------------------------------------------


def test_a_rotation_is_asked_approved_executed_and_recorded_over_the_hook(hosting: Hosting) -> None:
    town = hosting.town
    town.request("on-branch", branch=True, approved_by=())
    town.request("rotate-1")
    report = town.settle(town.reconciler())
    assert report.quiet
    assert "rotateKey openai-chat: succeeded" in town.audit_subjects()
    refs = hosting.refs()
    assert refs[AUDIT] == town.tip(AUDIT)
    assert refs[MAIN] == town.tip()
    assert f"{REQUEST_BRANCHES}on-branch" in refs
    assert f"{HEARTBEATS}reconciler-1" in refs


def test_the_reconciler_that_comes_second_loses_the_race_and_nothing_else(hosting: Hosting) -> None:
    town = hosting.town
    stale = town.tip(AUDIT)
    assert stale is not None
    base = hosting.git("--git-dir", str(hosting.bare), "rev-parse", f"{AUDIT}~1")
    with pytest.raises(RefMoved):
        town.store.publish([RefUpdate(AUDIT, base, by_reconciler(town, base, {"status/x.yaml": b"late\n"}))])
    assert hosting.refs()[AUDIT] == stale


def test_an_authorised_merge_and_free_branches_and_tags_come_in_from_stock_git(hosting: Hosting) -> None:
    hosting.begin()
    hosting.git("checkout", "--quiet", "-b", "change/timeout")
    old = (hosting.desk / SERVICE).read_text()
    new = f"{old}  health:\n    timeout: 9s\n"
    words = word(hosting, "alice", "propose", old, new) | word(hosting, "bob", "approve", old, new)
    hosting.commit({SERVICE: new, **words})
    hosting.git("checkout", "--quiet", "try")
    hosting.git("merge", "--quiet", "--no-ff", "--no-edit", "change/timeout")
    pushed = hosting.push("HEAD:main", "change/timeout", "HEAD:refs/tags/v1")
    assert pushed.taken, pushed.said
    assert "9s" in git(hosting.bare, "show", f"main:{SERVICE}")
    assert hosting.refs()[MAIN] == hosting.git("rev-parse", "HEAD")


# ---- what is refused on main --------------------------------------------------------------------


def test_a_change_without_approval_is_refused_with_who_may_approve(hosting: Hosting) -> None:
    hosting.begin()
    text = (hosting.desk / SERVICE).read_text()
    hosting.commit({SERVICE: text.replace("m1", "m2")})
    said = hosting.refused("HEAD:main")
    assert "still needed: 1 of team reviewers (bob, carol)" in said
    assert "capsule approve change/NAME" in said
    assert "[ChangeNotAuthorised]" in said
    assert hosting.push("HEAD:refs/heads/change/model").taken  # as the advice says


def test_a_policy_that_gives_its_writer_rights_is_refused(hosting: Hosting) -> None:
    hosting.begin()
    text = (hosting.desk / "policy.yaml").read_text()
    hosting.commit({"policy.yaml": text.replace("serial: 1", "serial: 2")}, "mallory")
    said = hosting.refused("HEAD:main")
    assert "PolicyNotAuthorised" in said
    assert "policy.yaml" in said


def test_what_reconcilers_write_is_refused_on_main(hosting: Hosting) -> None:
    hosting.begin()
    hosting.commit({"records/2026/11/rotate-1/refusal.yaml": "x\n"})
    said = hosting.refused("HEAD:main")
    assert "[MachinePathOnMain]" in said
    assert "git rebase -i" in said


def test_main_and_audit_are_neither_deleted_nor_rewound(hosting: Hosting) -> None:
    said = hosting.refused(":main", ":audit")
    assert said.count("[BranchDeleted]") == 2
    assert "holds the history" in said
    hosting.begin("origin/main~1")
    hosting.commit({"OTHER.md": "Another history.\n"})
    said = hosting.refused("--force", "HEAD:main", "origin/audit~1:refs/heads/audit")
    assert said.count("[BranchRewound]") == 2
    assert "git rebase origin/main" in said


# ---- what is refused elsewhere ------------------------------------------------------------------


def test_audit_is_written_by_reconcilers_alone(hosting: Hosting) -> None:
    hosting.begin("origin/audit")
    hosting.commit({"status/openai-chat.yaml": "all: well\n"}, "alice")
    said = hosting.refused("HEAD:audit")
    assert "signed by alice, who is a person" in said
    assert "capsule reconcile" in said


def test_a_reconciler_rewrites_no_record(hosting: Hosting) -> None:
    town = hosting.town
    tip = town.tip(AUDIT)
    assert tip is not None
    listed = git(hosting.bare, "ls-tree", "-r", "--name-only", "audit", "records").split()
    record = next(path for path in listed if path.endswith("result.yaml"))
    with pytest.raises(PushRefused, match="RecordChanged"):
        town.store.publish([RefUpdate(AUDIT, tip, by_reconciler(town, tip, {record: b"other\n"}))])
    assert hosting.refs()[AUDIT] == tip


def test_a_request_branch_holds_its_own_signed_request_alone(hosting: Hosting) -> None:
    hosting.begin("origin/request/on-branch")
    request = "requests/2026/11/on-branch/request.yaml"
    text = (hosting.desk / request).read_text()
    edited = hosting.commit({request: text.replace("Quarterly", "Because I say so")})
    hosting.begin()
    foreign = hosting.commit({"policy.yaml": "mine\n"})
    said = hosting.refused(f"{edited}:request/on-branch", f"{foreign}:refs/heads/request/other")
    assert "refs/heads/request/on-branch: " in said
    assert "[BadSignature]" in said
    assert "refs/heads/request/other: the branch also changes policy.yaml" in said
    assert "on a branch of its own" in said


def test_one_push_is_told_of_all_that_misleads_and_takes_nothing(hosting: Hosting) -> None:
    hosting.begin()
    hosting.git("checkout", "--quiet", "--orphan", "beat")
    beat = hosting.commit({}, "alice")
    hosting.begin()
    hosting.commit({"FINE.md": "Fine.\n"})
    replaced = "replace/" + "a" * 40
    names = ["tags/main", "tags/audit", "tags/origin/main", "heads/Audit", replaced, "notes/commits"]
    forged = f"+{beat}:{HEARTBEATS}reconciler-1"
    said = hosting.refused("HEAD:main", *(f"HEAD:refs/{name}" for name in names), forged)
    for name in names:
        assert f"refs/{name}: " in said
    assert said.count("[RefShadows]") == 4
    assert said.count("[RefNotServed]") == 2
    assert "signed by alice, expected the machine 'reconciler-1'" in said
    assert "Give the tag another name" in said
    assert "capsule: refs/heads/main: " not in said
    assert "Nothing of this push was taken." in said
    assert "hidden ref" in hosting.refused("HEAD:refs/capsule/local/seen/main")


# ---- the hook itself ----------------------------------------------------------------------------


def test_a_server_that_cannot_judge_refuses(hosting: Hosting) -> None:
    hosting.begin()
    hosting.commit({"FINE.md": "Fine.\n"})
    root = git(hosting.bare, "config", "capsule.root").strip()
    git(hosting.bare, "config", "--unset", "capsule.root")
    try:
        assert "capsule -C REPOSITORY protect --root ID" in hosting.refused("HEAD:main")
    finally:
        git(hosting.bare, "config", "capsule.root", root)
    script = hosting.bare / "hooks" / "pre-receive"
    text = script.read_text()
    script.write_text(text.replace(sys.executable, "/nowhere/python"))
    try:
        hosting.refused("HEAD:main")
    finally:
        script.write_text(text)


def test_a_hook_that_breaks_refuses(hosting: Hosting, tmp_path: Path) -> None:
    broken = tmp_path / "broken.git"
    shutil.copytree(hosting.bare, broken)
    bad = "b" * 40
    (broken / "objects" / bad[:2]).mkdir(exist_ok=True)
    (broken / "objects" / bad[:2] / bad[2:]).write_bytes(zlib.compress(b"commit 3\0bad"))
    done = CliRunner().invoke(app, ["-C", str(broken), "hook", "update", MAIN, "0" * 40, bad])
    assert done.exit_code == 1
    assert "could not judge this push" in done.output
    assert "[HookFailed]" in done.output


def test_the_update_hook_judges_one_ref(hosting: Hosting) -> None:
    tip = hosting.refs()[MAIN]

    def update(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["-C", str(hosting.bare), "hook", "update", *arguments])

    assert update("refs/heads/topic", "0" * 40, tip).exit_code == 0
    refused = update(MAIN, tip, "0" * 40)
    assert (refused.exit_code, "[BranchDeleted]" in refused.output) == (1, True)
    assert f"{MAIN} was left alone." in refused.output
    nonsense = update(MAIN, "x", "y")
    assert (nonsense.exit_code, "[HookInput]" in nonsense.output) == (1, True)


def test_protecting_again_changes_nothing_and_another_hook_is_left_alone(hosting: Hosting) -> None:
    config = (hosting.bare / "config").read_bytes()
    said = protected(hosting.bare, "protect")
    assert git(hosting.bare, "config", "capsule.root").strip() in said
    assert (hosting.bare / "config").read_bytes() == config
    assert git(hosting.bare, "config", "--get-all", "transfer.hideRefs") == "refs/capsule/local\n"
