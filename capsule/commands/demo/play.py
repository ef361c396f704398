"""The story of the demo, step by step, each step checked."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from capsule.commands.demo.proofs import (
    approval_verifies,
    every_commit_good,
    no_secret_in,
    tampering_is_noticed,
)
from capsule.commands.demo.stage import (
    BEHIND_SSH,
    ROTATED,
    Narrator,
    Ran,
    SshServer,
    Stage,
    capsule_up,
    set_stage,
    wait_until,
)
from capsule.lifecycle import FINAL

_SHOWN_LINES = 30


@dataclass
class Story:
    """What was checked, in order, and what held."""

    root: str = ""
    dashboard: str = ""
    checks: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether every check held (and there was one)."""
        return bool(self.checks) and all(held for _, held in self.checks)


def play(
    folder: Path | None,
    narrator: Narrator,
    *,
    bind: tuple[str, int],
    stay: bool,
    stop: threading.Event | None = None,
    ssh_server: SshServer = "auto",
) -> Story:
    """Play the demo in `folder` (a temporary one when None); with `stay`, keep everything up until `stop`.

    `ssh_server` chooses the one that the third service is behind; "auto" takes OpenSSH's where it works.
    Raises WrongUsage for a folder that is not empty, CommandError when something does not start.
    """
    story = Story()
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capsule-demo-")))
        narrator.chapter("The stage")
        narrator.say("An AWS that runs on this machine (moto), three services in front of it, alice and bob.")
        now = datetime.now(UTC).replace(microsecond=0)
        stage = stack.enter_context(set_stage(folder.absolute(), now, ssh_server))
        narrator.say(f"{BEHIND_SSH} listens on no port: it is reached over SSH alone ({stage.door.server}).")
        story.root = stage.root
        story.dashboard = stack.enter_context(capsule_up(stage, bind))
        _Play(stage, narrator, story).all()
        _end(stage, narrator, story, stay=stay)
        if stay:
            with suppress(KeyboardInterrupt):
                (stop or threading.Event()).wait()
            narrator.say("Stopping everything.")
    return story


def _end(stage: Stage, narrator: Narrator, story: Story, *, stay: bool) -> None:
    passed = sum(held for _, held in story.checks)
    facts = {"state repository": str(stage.state), "root": story.root}
    if stay:
        facts["dashboard"] = story.dashboard
        facts["look around"] = f"{_command()} -C {stage.state} services"
        facts["stop"] = "Ctrl-C"
    narrator.summary(facts, passed, len(story.checks) - passed)


def _command() -> str:
    """The capsule that runs this, by its whole path: it may lie in an environment that nobody entered."""
    beside = Path(sys.executable).with_name("capsule")
    return str(beside) if beside.is_file() else "capsule"


class _Play:
    """The acts, in order. A step that does not hold is told, and the story goes on as far as it can."""

    def __init__(self, stage: Stage, narrator: Narrator, story: Story) -> None:
        self._stage = stage
        self._narrator = narrator
        self._story = story
        self._request = ""

    def all(self) -> None:
        """Play everything."""
        self._services_are_seen()
        old = self._stage.credentials()
        self._alice_asks()
        if not self._request:
            return
        self._nothing_happens_without_approval(old)
        self._bob_approves()
        self._the_key_is_rotated(old)
        self._over_ssh()
        self._the_commits()
        self._the_proof([old.secret, self._stage.credentials().secret])

    # ---- the acts -------------------------------------------------------------------------------

    def _services_are_seen(self) -> None:
        self._narrator.say(f"Dashboard: {self._story.dashboard}")
        seen = wait_until(lambda: self._statuses() == {"HEALTHY"})
        self._show("capsule services", self._stage.capsule("services"))
        self._check("the reconciler sees all three services, and they are healthy", seen)

    def _alice_asks(self) -> None:
        self._narrator.chapter("Alice asks for a new key")
        ran = self._stage.capsule(
            *("request", "rotateKey", ROTATED, "-p", "grace=0s"),
            *("--reason", "The old key was seen in a log, OPS-1234"),
            person="alice",
        )
        self._show(f"capsule request rotateKey {ROTATED} -p grace=0s --reason …", ran)
        listed = self._json("requests", "--phase", "Proposed")
        self._request = listed[0]["name"] if len(listed) == 1 else ""
        self._check("the request is signed, and waits for approval", ran.code == 0 and bool(self._request))

    def _nothing_happens_without_approval(self, old: Any) -> None:
        self._narrator.chapter("Nothing happens without approval")
        refused = self._stage.capsule("approve", self._request, "--yes", person="alice")
        self._show(f"capsule approve {self._request}   # as alice, who asked", refused)
        self._check("alice cannot approve her own request (exit code 4)", refused.code == 4)
        self._narrator.say("So alice merges it herself, with plain git.")
        name = f"request/{self._request}"
        merged = self._stage.git("merge", "--no-ff", "--quiet", "-m", f"Merge {name} myself", name)
        tip = self._stage.git("rev-parse", "main").output.strip()
        self._show(f"git merge --no-ff {name}", merged)
        taken_in = wait_until(lambda: self._stage.git("merge-base", "--is-ancestor", tip, "audit").code == 0)
        self._check("the reconciler has seen her merge", merged.code == 0 and taken_in)
        self._show("capsule plan", self._stage.capsule("plan"))
        self._check("the request still waits for approval", self._phase() == "Proposed")
        self._check(
            "the upstream was asked for no key, and the old one works",
            self._stage.upstream.count_key_creations(ROTATED) == 0
            and self._stage.upstream.key_works(old.id, old.secret),
        )

    def _bob_approves(self) -> None:
        self._narrator.chapter("Bob approves")
        ran = self._stage.capsule("approve", self._request, "--yes", person="bob")
        self._show(f"capsule approve {self._request}   # as bob", ran)
        self._check("bob's approval is signed and merged into main", ran.code == 0)

    def _the_key_is_rotated(self, old: Any) -> None:
        self._narrator.chapter("The reconciler executes it, once")
        done = wait_until(lambda: self._phase() in FINAL)
        self._show(f"capsule show {self._request}", self._stage.capsule("show", self._request))
        self._check("the rotation succeeded", done and self._phase() == "Succeeded")
        new = self._stage.credentials()
        upstream = self._stage.upstream
        self._narrator.say("Now the upstream itself is asked.")
        self._check("the old key is refused", not upstream.key_works(old.id, old.secret))
        self._check(
            "a new key is in use, and it works", new.id != old.id and upstream.key_works(new.id, new.secret)
        )
        self._check("exactly one key was created", upstream.count_key_creations(ROTATED) == 1)

    def _over_ssh(self) -> None:
        self._narrator.chapter("A service where only SSH is open")
        self._narrator.say(
            f"{BEHIND_SSH} is behind {self._stage.door.server}: a forced command, and a pinned host key."
        )
        ran = self._stage.capsule(
            *("request", "runHealthCheck", BEHIND_SSH, "--reason", "Is it reachable?"), person="alice"
        )
        self._show(f"capsule request runHealthCheck {BEHIND_SSH} --reason …", ran)
        self._check("a health check needs no approval, only a signature", ran.code == 0)
        done = wait_until(lambda: bool(self._health_check()))
        self._show("capsule requests", self._stage.capsule("requests"))
        self._check("it was executed over SSH, and succeeded", done and self._health_check() == "Succeeded")
        self._check("the SSH server's log has the reconciler's login", self._stage.door.logins() > 0)
        self._check(
            "that login runs nothing else (ssh … echo anything else)",
            not self._stage.login_runs_anything_else(),
        )

    def _health_check(self) -> str:
        """The phase of the health check once it is a final one; empty before."""
        phases = [row["phase"] for row in self._json("requests") if row["name"] != self._request]
        return phases[0] if phases and phases[0] in FINAL else ""

    def _the_commits(self) -> None:
        self._narrator.chapter("The commits")
        pretty = "--format=%h %G? %an: %s"
        self._show(
            "git log --graph --format='%h %G? %an: %s' audit",
            self._stage.git("log", "--graph", pretty, "audit"),
        )
        self._show("capsule log", self._stage.capsule("log"))
        self._check("stock git finds every commit of audit well signed", every_commit_good(self._stage))
        self._check(
            "stock ssh-keygen accepts bob's approval", approval_verifies(self._stage, self._request, "bob")
        )
        self._check(
            "git fsck --strict finds nothing", self._stage.git("fsck", "--strict", "--no-progress").code == 0
        )

    def _the_proof(self, secrets: list[str]) -> None:
        self._narrator.chapter("The proof")
        ran = self._stage.capsule("audit", "verify", "--root", self._stage.root)
        self._show(f"capsule audit verify --root {self._stage.root}", ran)
        self._check("the whole history proves, from the root", ran.code == 0)
        self._narrator.say("Somebody changes one byte of a record, and commits over it (in a copy).")
        noticed, output = tampering_is_noticed(self._stage)
        self._narrator.command("capsule audit verify   # in the copy", output)
        self._check("that is noticed, and the commit is named", noticed)
        self._check(
            "no object of the repository holds a key of a service", no_secret_in(self._stage, secrets)
        )

    # ---- small words ----------------------------------------------------------------------------

    def _check(self, text: str, held: bool) -> None:
        self._story.checks.append((text, held))
        self._narrator.check(text, held)

    def _show(self, command: str, ran: Ran) -> None:
        lines = ran.output.rstrip("\n").split("\n")
        if len(lines) > _SHOWN_LINES:
            lines = [*lines[:_SHOWN_LINES], f"… {len(lines) - _SHOWN_LINES} more lines"]
        self._narrator.command(command, "\n".join(lines))

    def _json(self, *arguments: str) -> Any:
        ran = self._stage.capsule(*arguments, "--json")
        with suppress(ValueError):
            return json.loads(ran.answer)
        return []

    def _statuses(self) -> set[str]:
        return {row["status"] for row in self._json("services")}

    def _phase(self) -> str:
        row = self._json("show", self._request)
        return row["phase"] if isinstance(row, dict) else ""
