"""What a stranger tries with a pull request of theirs against the check that is posted on all of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.forge_servers import Answer, Pull, Review, Site, serve
from tests.unit.commands.conftest import Office
from tests.unit.commands.test_pull_requests import AT, BOB, asked_at_forge, token_file


def _head_with_link(remote: Path, folder: Path) -> str:
    """A commit on main whose tree holds a symbolic link, in the repository of the forge."""
    who = {f"GIT_{role}_{what}": "m" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**who, "GIT_INDEX_FILE": str(folder / "index"), "PATH": "/usr/bin:/bin"}

    def git(*words: str, text: str = "") -> str:
        done = subprocess.run(
            ["git", "-C", str(remote), *words],
            env=env,
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    blob = git("hash-object", "-w", "--stdin", text="x")
    git("read-tree", "main")
    git("update-index", "--add", "--cacheinfo", f"120000,{blob},docs-link")
    return git("commit-tree", git("write-tree"), "-p", "main", "-m", "hi")


def test_signature_under_the_list_of_signers_is_judged_with_the_list(office: Office) -> None:
    """An edit of the signature alone is no range that needs nothing: it may take the list out of force."""
    office.git("switch", "-q", "-c", "unsign", "main")
    owner = next(office.state.glob("signers/*.sig"))
    owner.write_text("nonsense\n")
    office.git("commit", "-qam", "Nothing of interest")
    told = office.run("approval", "main..unsign")
    assert (told.exit_code, "signers/signers.json" in told.output) == (1, True), told.output


def test_pull_request_that_cannot_be_judged_stops_no_other_and_stays_red(office: Office) -> None:
    site = Site()
    with serve("github", site) as server:
        here, _, pull = asked_at_forge(office, site, server)
        remote = office.folder / "remote.git"
        evil = _head_with_link(remote, office.folder)
        subprocess.run(["git", "-C", str(remote), "update-ref", "refs/pull/6/head", evil], check=True)
        site.add(Pull(6, site.account(666, "mallory"), evil))
        pull.reviews.append(Review(900, site.account(BOB, "bob"), "approved", pull.head, AT))
        options = ("--post", "--forge-token-file", str(token_file(office, server)))
        done = here.run("approval", "--open", *options)
    assert (done.exit_code, "docs-link" in done.output) == (1, True), done.output
    posted = {commit: body["state"] for commit, body in site.statuses}
    assert posted == {pull.head: "success", evil: "failure"}


def test_check_that_could_not_be_turned_red_is_told(office: Office) -> None:
    """An earlier look may have set it to success: who posts must know that it still stands."""
    site = Site()
    with serve("github", site) as server:
        here, _, _ = asked_at_forge(office, site, server)
        evil = _head_with_link(office.folder / "remote.git", office.folder)
        site.add(Pull(6, site.account(666, "mallory"), evil))
        subprocess.run(
            ["git", "-C", str(office.folder / "remote.git"), "update-ref", "refs/pull/6/head", evil],
            check=True,
        )
        site.fault = lambda _, path: Answer(403) if evil in path else None
        options = ("--post", "--forge-token-file", str(token_file(office, server)))
        done = here.run("approval", "--pull", "6", *options)
    told = " ".join(done.output.split())
    assert (done.exit_code, "docs-link" in told, "may still be green" in told) == (3, True, True), told
    assert not site.statuses
