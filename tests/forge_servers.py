"""A loopback server that speaks the REST API of a forge, in the shapes that its API description publishes.

Rules kept: it is written from the descriptions (GitHub: OpenAPI 2022-11-28; GitLab: docs.gitlab.com/api v4;
Gitea: swagger.v1.json of 1.22), and answers more fields than any client reads; a wrong token is a 401; a
`fault` replaces the answer, for tests of lies and storms. Called by tests of the clients.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "tok-3f9a77c1d2"
REPOSITORY = "acme/state"


@dataclass
class Account:
    """An account; `kind` is User or Bot."""

    id: int
    login: str
    kind: str = "User"


@dataclass
class Review:
    """A review by an account at a commit: approved, changes, commented, dismissed, stale or pending."""

    id: int
    user: Account | None
    state: str
    commit: str
    at: datetime
    untimed: bool = False


@dataclass
class Said:
    """A comment on a pull request."""

    id: int
    user: Account
    body: str


@dataclass
class Pull:
    """A pull request. `pushes` are the heads it had, each with the time of its push."""

    number: int
    author: Account
    head: str
    base: str = "main"
    merged: str | None = None
    repository: str = REPOSITORY
    branch: str = "request/x"
    reviews: list[Review] = field(default_factory=list)
    pushes: list[tuple[str, datetime]] = field(default_factory=list)
    title: str = ""
    body: str = ""
    reviewers: list[int] = field(default_factory=list)
    comments: list[Said] = field(default_factory=list)
    written: list[tuple[Account | None, str]] = field(default_factory=list)
    """Who wrote each commit: the account that the forge knows behind the e-mail, and the e-mail; one
    commit of whoever opened it where this is empty."""
    committed: dict[int, tuple[Account | None, str, bool]] = field(default_factory=dict)
    """Who committed which of them (0 is the first) where not its author, and whether it is verified."""
    claimed: int | None = None
    forked: str = "0" * 40

    @property
    def commits(self) -> list[tuple[Account | None, str]]:
        return self.written or [(self.author, "")]


@dataclass
class Answer:
    """What is sent instead of the right answer."""

    status: int
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    dribble: float = 0.0


class Missing(Exception):
    """404."""


class Conflict(Exception):
    """409 or 422."""


class Site:
    """What the forge holds: accounts, pull requests, files by (commit, path)."""

    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}
        self.pulls: dict[int, Pull] = {}
        self.commits: dict[str, list[int]] = {}
        self.files: dict[tuple[str, str], str] = {}
        self.unaskable: set[str] = set()
        self.own: Account | None = Account(1, "robot")
        self.statuses: list[tuple[str, dict[str, str]]] = []
        self.jobs: list[tuple[str, str]] = [("capsule check", "success"), ("capsule/approval", "failed")]
        self.retried: list[int] = []
        self.calls: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], Answer | None] = lambda _method, _path: None

    def account(self, number: int, login: str, kind: str = "User") -> Account:
        self.accounts[number] = Account(number, login, kind)
        return self.accounts[number]

    def add(self, pull: Pull, *commits: str) -> Pull:
        self.pulls[pull.number] = pull
        for commit in commits:
            self.commits.setdefault(commit, []).append(pull.number)
        return pull

    def open(self, branch: str, title: str, body: str, author: Account) -> Pull:
        if any(each.branch == branch and each.merged is None for each in self.pulls.values()):
            raise Conflict
        number = max(self.pulls, default=0) + 1
        return self.add(Pull(number, author, "d" * 40, branch=branch, title=title, body=body))

    def say(self, number: int, user: Account, body: str) -> Said:
        said = Said(7000 + sum(len(each.comments) for each in self.pulls.values()), user, body)
        self.pulls[number].comments.append(said)
        return said

    def said(self, number: str) -> Said:
        for pull in self.pulls.values():
            for each in pull.comments:
                if each.id == int(number):
                    return each
        raise Missing


class Forbidden(Exception):
    """403."""


NOBODY = Account(41898282, "github-actions[bot]", "Bot")
"""Whoever writes with the token of a job."""


def iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


# ---- GitHub -------------------------------------------------------------------------------------


def _github_user(account: Account | None) -> dict[str, Any] | None:
    if account is None:
        return None
    return {
        "login": account.login,
        "id": account.id,
        "node_id": "MDQ6",
        "type": account.kind,
        "site_admin": False,
    }


def _github_pull(pull: Pull, address: str, *, whole: bool) -> dict[str, Any]:
    merged_at = "2026-11-23T12:30:00Z" if pull.merged else None
    repo = {"id": 1296269, "name": "state", "full_name": pull.repository, "private": True}
    told = {
        "url": f"{address}/api/v3/repos/{REPOSITORY}/pulls/{pull.number}",
        "id": 9_000_000 + pull.number,
        "number": pull.number,
        "state": "closed" if pull.merged else "open",
        "html_url": f"{address}/{REPOSITORY}/pull/{pull.number}",
        "title": pull.title,
        "user": _github_user(pull.author),
        "merged_at": merged_at,
        "merge_commit_sha": pull.merged,
        "head": {"label": f"acme:{pull.branch}", "ref": pull.branch, "sha": pull.head, "repo": repo},
        "base": {"label": f"acme:{pull.base}", "ref": pull.base, "sha": "0" * 40, "repo": repo},
        "draft": False,
    }
    commits = len(pull.commits) if pull.claimed is None else pull.claimed
    return {**told, "merged": bool(pull.merged), "comments": 0, "commits": commits} if whole else told


_GITHUB_STATES = {
    "approved": "APPROVED",
    "changes": "CHANGES_REQUESTED",
    "commented": "COMMENTED",
    "dismissed": "DISMISSED",
    "pending": "PENDING",
    "stale": "DISMISSED",
}


def github(site: Site, method: str, path: str, query: dict[str, str], body: Any, address: str) -> Any:
    here = f"/api/v3/repos/{REPOSITORY}"
    if method == "GET" and (found := re.fullmatch(f"{here}/commits/([0-9a-f]{{40}})/pulls", path)):
        if found[1] not in site.commits:
            raise Conflict
        return [_github_pull(site.pulls[n], address, whole=False) for n in site.commits[found[1]]]
    if method == "GET" and (found := re.fullmatch(f"{here}/pulls/([0-9]+)", path)):
        return _github_pull(_pull(site, found[1]), address, whole=True)
    if method == "GET" and (found := re.fullmatch(f"{here}/pulls/([0-9]+)/reviews", path)):
        return [
            {
                "id": each.id,
                "node_id": "MDE3",
                "user": _github_user(each.user),
                "body": "",
                "state": _GITHUB_STATES[each.state],
                "commit_id": each.commit,
                **({} if each.state == "pending" else {"submitted_at": iso(each.at)}),
                "author_association": "MEMBER",
            }
            for each in _pull(site, found[1]).reviews
        ]
    if method == "GET" and (found := re.fullmatch(f"{here}/pulls/([0-9]+)/commits", path)):
        return _commits(_pull(site, found[1]), _github_user)
    if method == "GET" and (found := re.fullmatch(f"{here}/compare/0{{40}}\\.\\.\\.([0-9a-f]{{40}})", path)):
        forked = next((each.forked for each in site.pulls.values() if each.head == found[1]), None)
        if forked is None:
            raise Missing
        files = [] if query.get("page") == "2" else [{"filename": "a", "patch": "x" * 100}]
        return {"status": "diverged", "merge_base_commit": {"sha": forked}, "commits": [], "files": files}
    if method == "GET" and (found := re.fullmatch(f"{here}/contents/(.+)", path)):
        return _contents(site, unquote(found[1]), query)
    if method == "GET" and (found := re.fullmatch("/api/v3/user/([0-9]+)", path)):
        return {**(_github_user(_account(site, found[1])) or {}), "name": "A", "followers": 3}
    if path == "/api/v3/user":
        if site.own is None:
            raise Forbidden
        return _github_user(site.own)
    if path.startswith((f"{here}/issues/", f"{here}/statuses/")):
        return _told(site, method, path.removeprefix(here), body, _github_user)
    if method == "GET" and path == f"{here}/pulls" and "head" not in query:
        assert query["base"] == "main"
        found_pulls = [p for p in site.pulls.values() if p.base == "main" and p.merged is None]
        return [_github_pull(each, address, whole=False) for each in found_pulls]
    if method == "GET" and path == f"{here}/pulls":
        owner, _, branch = query["head"].partition(":")
        assert owner == "acme"
        found_pulls = [p for p in site.pulls.values() if p.branch == branch and p.merged is None]
        return [_github_pull(each, address, whole=False) for each in found_pulls]
    if method == "POST" and path == f"{here}/pulls":
        assert body["base"] == "main"
        opened = site.open(body["head"], body["title"], body["body"], site.accounts[1])
        return _github_pull(opened, address, whole=True)
    if method == "POST" and (found := re.fullmatch(f"{here}/pulls/([0-9]+)/requested_reviewers", path)):
        pull = _pull(site, found[1])
        _request_reviewers(site, pull, body["reviewers"])
        return _github_pull(pull, address, whole=False)
    raise Missing


def _told(
    site: Site, method: str, path: str, body: Any, shown: Callable[[Account | None], dict[str, Any] | None]
) -> Any:
    """Comments and statuses, by the paths that GitHub and Gitea share."""

    def comment(said: Said) -> dict[str, Any]:
        return {"id": said.id, "node_id": "IC_", "user": shown(said.user), "body": said.body}

    if found := re.fullmatch("/issues/([0-9]+)/comments", path):
        pull = _pull(site, found[1])
        if method == "POST":
            return comment(site.say(pull.number, site.own or NOBODY, body["body"]))
        return [comment(each) for each in pull.comments]
    if method == "PATCH" and (found := re.fullmatch("/issues/comments/([0-9]+)", path)):
        said = site.said(found[1])
        said.body = body["body"]
        return comment(said)
    if method == "POST" and (found := re.fullmatch("/statuses/([0-9a-f]{40})", path)):
        assert len(body["description"]) <= 140
        site.statuses.append((found[1], body))
        return {"id": 1, **body}
    raise Missing


def _commits(pull: Pull, shown: Callable[[Account | None], dict[str, Any] | None]) -> Any:
    """The commits of a pull request, as GitHub and Gitea tell them: 250 at most, as GitHub does."""
    told = []
    for number, (account, email) in enumerate(pull.commits[:250]):
        committer, address, verified = pull.committed.get(number, (account, email, False))
        told.append(
            {
                "sha": f"{number + 1:040x}",
                "author": shown(account),
                "committer": shown(committer),
                "commit": {
                    "message": "m",
                    "author": {"name": "n", "email": email, "date": "2026-11-23T12:00:00Z"},
                    "committer": {"name": "n", "email": address, "date": "2026-11-23T12:00:00Z"},
                    "verification": {"verified": verified, "reason": "x", "signature": None},
                },
                "parents": [],
            }
        )
    return told


# ---- Gitea and Forgejo --------------------------------------------------------------------------


def _gitea_user(account: Account | None) -> dict[str, Any] | None:
    if account is None:
        return None
    return {"id": account.id, "login": account.login, "full_name": "", "email": "", "is_admin": False}


def _gitea_pull(pull: Pull, address: str) -> dict[str, Any]:
    return {
        "id": 500 + pull.number,
        "number": pull.number,
        "url": f"{address}/{REPOSITORY}/pulls/{pull.number}",
        "html_url": f"{address}/{REPOSITORY}/pulls/{pull.number}",
        "user": _gitea_user(pull.author),
        "title": pull.title,
        "state": "closed" if pull.merged else "open",
        "merged": bool(pull.merged),
        "merged_at": "2026-11-23T12:30:00Z" if pull.merged else None,
        "merge_commit_sha": pull.merged,
        "merge_base": pull.forked,
        "base": {"label": pull.base, "ref": pull.base, "sha": "0" * 40, "repo_id": 7},
        "head": {"label": pull.branch, "ref": pull.branch, "sha": pull.head, "repo_id": 7},
    }


_GITEA_STATES = {
    "approved": "APPROVED",
    "changes": "REQUEST_CHANGES",
    "commented": "COMMENT",
    "dismissed": "APPROVED",
    "stale": "APPROVED",
    "pending": "PENDING",
}


def gitea(site: Site, method: str, path: str, query: dict[str, str], body: Any, address: str) -> Any:
    here = f"/api/v1/repos/{REPOSITORY}"
    if method == "GET" and path == here:
        return {"id": 7, "full_name": REPOSITORY}
    if method == "GET" and (found := re.fullmatch(f"{here}/commits/([0-9a-f]{{40}})/pull", path)):
        numbers = site.commits.get(found[1])
        if not numbers:
            raise Missing
        return _gitea_pull(site.pulls[numbers[-1]], address)
    if method == "GET" and (found := re.fullmatch(f"{here}/pulls/([0-9]+)/commits", path)):
        return _commits(_pull(site, found[1]), _gitea_user)
    if method == "GET" and (found := re.fullmatch(f"{here}/pulls/([0-9]+)/reviews", path)):
        return [
            {
                "id": each.id,
                "user": _gitea_user(each.user),
                "team": None,
                "state": _GITEA_STATES[each.state],
                "body": "",
                "commit_id": each.commit,
                "stale": each.state == "stale",
                "official": True,
                "dismissed": each.state == "dismissed",
                "comments_count": 0,
                "submitted_at": iso(each.at),
                "updated_at": iso(each.at),
            }
            for each in _pull(site, found[1]).reviews
        ]
    if method == "GET" and (found := re.fullmatch(f"{here}/contents/(.+)", path)):
        return _contents(site, unquote(found[1]), query)
    if method == "GET" and (found := re.fullmatch(f"{here}/pulls/([0-9]+)", path)):
        return _gitea_pull(_pull(site, found[1]), address)
    if path == "/api/v1/user":
        if site.own is None:
            raise Forbidden
        return _gitea_user(site.own)
    if path.startswith((f"{here}/issues/", f"{here}/statuses/")):
        query.clear()  # the list of comments has no pages
        query["limit"] = "10000"
        return _told(site, method, path.removeprefix(here), body, _gitea_user)
    if method == "GET" and path == f"{here}/pulls":
        return [_gitea_pull(p, address) for p in site.pulls.values() if p.merged is None]
    if method == "GET" and path == "/api/v1/users/search":
        found_users = [a for a in site.accounts.values() if str(a.id) == query["uid"]]
        return {"ok": True, "data": [_gitea_user(each) for each in found_users]}
    if method == "GET" and (found := re.fullmatch(f"{here}/pulls/main/(.+)", path)):
        for each in site.pulls.values():
            if each.branch == unquote(found[1]) and each.merged is None:
                return _gitea_pull(each, address)
        raise Missing
    if method == "POST" and path == f"{here}/pulls":
        return _gitea_pull(site.open(body["head"], body["title"], body["body"], site.accounts[1]), address)
    if method == "POST" and (found := re.fullmatch(f"{here}/pulls/([0-9]+)/requested_reviewers", path)):
        _request_reviewers(site, _pull(site, found[1]), body["reviewers"])
        return []
    raise Missing


# ---- GitLab -------------------------------------------------------------------------------------


def _gitlab_user(account: Account) -> dict[str, Any]:
    return {"id": account.id, "username": account.login, "name": account.login, "state": "active"}


def _gitlab_merge(pull: Pull, address: str) -> dict[str, Any]:
    return {
        "id": 800 + pull.number,
        "iid": pull.number,
        "project_id": 42,
        "target_project_id": 42 if pull.repository == REPOSITORY else 43,
        "source_project_id": 42,
        "title": pull.title,
        "state": "merged" if pull.merged else "opened",
        "target_branch": pull.base,
        "source_branch": pull.branch,
        "author": _gitlab_user(pull.author),
        "sha": pull.head,
        "merge_commit_sha": pull.merged,
        "squash_commit_sha": None,
        "diff_refs": {"base_sha": pull.forked, "head_sha": pull.head, "start_sha": "0" * 40},
        "web_url": f"{address}/{REPOSITORY}/-/merge_requests/{pull.number}",
    }


def gitlab(site: Site, method: str, path: str, query: dict[str, str], body: Any, address: str) -> Any:
    here = "/api/v4/projects/acme%2Fstate"
    if method == "GET" and path == here:
        return {"id": 42, "path_with_namespace": REPOSITORY}
    merges = f"{here}/repository/commits/([0-9a-f]{{40}})/merge_requests"
    if method == "GET" and (found := re.fullmatch(merges, path)):
        if found[1] not in site.commits:
            raise Missing
        return [_gitlab_merge(site.pulls[n], address) for n in site.commits[found[1]]]
    if method == "GET" and (found := re.fullmatch(f"{here}/merge_requests/([0-9]+)", path)):
        return _gitlab_merge(_pull(site, found[1]), address)
    if method == "GET" and path == "/api/v4/user":
        return {**_gitlab_user(site.own or NOBODY), "bot": False}
    notes = f"{here}/merge_requests/([0-9]+)/notes"
    if method == "POST" and (found := re.fullmatch(notes, path)):
        said = site.say(int(found[1]), site.own or NOBODY, body["body"])
        return {"id": said.id, "body": said.body}
    if method == "PUT" and (found := re.fullmatch(f"{notes}/([0-9]+)", path)):
        site.said(found[2]).body = body["body"]
        return {"id": int(found[2])}
    if method == "GET" and (found := re.fullmatch(notes, path)) and "comments" in query["activity_filter"]:
        return [
            {"id": each.id, "system": False, "body": each.body, "author": _gitlab_user(each.user)}
            | {"created_at": "2026-11-23T12:00:00.000Z"}
            for each in _pull(site, found[1]).comments
        ]
    if method == "GET" and re.fullmatch(f"{here}/merge_requests/([0-9]+)/pipelines", path):
        return [{"id": 61, "sha": "0" * 40, "status": "failed"}] if site.jobs else []
    if method == "GET" and path == f"{here}/pipelines/61/jobs":
        return [
            {"id": number, "name": name, "status": status, "stage": "test"}
            for number, (name, status) in enumerate(site.jobs, 501)
        ]
    if method == "POST" and (found := re.fullmatch(f"{here}/jobs/([0-9]+)/retry", path)):
        site.retried.append(int(found[1]))
        return {"id": 999, "status": "pending"}
    if method == "GET" and path == f"{here}/merge_requests" and "source_branch" not in query:
        assert (query["state"], query["target_branch"]) == ("opened", "main")
        found_pulls = [p for p in site.pulls.values() if p.base == "main" and p.merged is None]
        return [_gitlab_merge(each, address) for each in found_pulls]
    if method == "GET" and (found := re.fullmatch(f"{here}/merge_requests/([0-9]+)/(\\w+)", path)):
        return _gitlab_part(site, _pull(site, found[1]), found[2])
    if method == "GET" and (found := re.fullmatch("/api/v4/users/([0-9]+)", path)):
        account = _account(site, found[1])
        return {**_gitlab_user(account), "bot": account.kind == "Bot", "public_email": ""}
    if method == "GET" and (found := re.fullmatch(f"{here}/repository/files/([^/]+)", path)):
        blob = site.files.get((query["ref"], unquote(found[1])))
        if blob is None:
            raise Missing
        return {"file_path": unquote(found[1]), "size": 3, "encoding": "base64", "blob_id": blob}
    if method == "GET" and path == f"{here}/merge_requests":
        branch = query["source_branch"]
        found_pulls = [p for p in site.pulls.values() if p.branch == branch and p.merged is None]
        return [_gitlab_merge(each, address) for each in found_pulls]
    if method == "POST" and path == f"{here}/merge_requests":
        pull = site.open(body["source_branch"], body["title"], body["description"], site.accounts[1])
        pull.reviewers = list(body["reviewer_ids"])
        return _gitlab_merge(pull, address)
    raise Missing


def _gitlab_part(site: Site, pull: Pull, part: str) -> Any:
    people = [each for each in pull.reviews if each.user]
    if part == "approvals":
        approved = [each for each in people if each.state == "approved"]
        return {
            "id": pull.number,
            "approved": True,
            "approved_by": [
                {
                    "user": _gitlab_user(each.user),  # type: ignore[arg-type]  # those without are left out above
                    **({} if each.untimed else {"approved_at": iso(each.at)}),
                }
                for each in approved
            ],
        }
    if part == "versions":
        pushes = pull.pushes or [(pull.head, datetime(2026, 11, 1, tzinfo=UTC))]
        return [
            {"id": 100 + n, "head_commit_sha": head, "base_commit_sha": "0" * 40, "created_at": iso(at)}
            for n, (head, at) in reversed(list(enumerate(pushes)))
        ]
    if part == "commits":
        return [
            {"id": f"{number + 1:040x}", "author_name": "n", "author_email": email}
            | {"committer_email": pull.committed.get(number, (None, email))[1]}
            for number, (_, email) in enumerate(pull.commits)
        ]
    if part == "notes":
        texts = {"approved": "approved this merge request", "changes": "requested changes"}
        return [
            {
                "id": each.id,
                "system": True,
                "body": texts[each.state],
                "author": _gitlab_user(each.user),  # type: ignore[arg-type]  # as above
                "created_at": iso(each.at),
            }
            for each in people
            if each.state in texts
        ]
    if part == "reviewers":
        words = {"approved": "approved", "changes": "requested_changes"}
        return [
            {
                "user": _gitlab_user(each.user),  # type: ignore[arg-type]  # as above
                "state": words.get(each.state, "reviewed"),
                "created_at": "2026-11-23T09:00:00.000Z",
            }
            for each in people
        ]
    raise Missing


# ---- serving ------------------------------------------------------------------------------------


def _pull(site: Site, number: str) -> Pull:
    if int(number) not in site.pulls:
        raise Missing
    return site.pulls[int(number)]


def _account(site: Site, number: str) -> Account:
    if int(number) not in site.accounts:
        raise Missing
    return site.accounts[int(number)]


def _contents(site: Site, path: str, query: dict[str, str]) -> Any:
    blob = site.files.get((query["ref"], path))
    if blob is None:
        raise Missing
    return {"type": "file", "name": path.rpartition("/")[2], "path": path, "sha": blob, "size": 3}


def _request_reviewers(site: Site, pull: Pull, logins: list[str]) -> None:
    if site.unaskable & set(logins):
        raise Conflict
    ids = {each.login: each.id for each in site.accounts.values()}
    pull.reviewers += [ids[login] for login in logins]


API = {"github": github, "gitlab": gitlab, "gitea": gitea}
_LOGIN = {
    "github": ("Authorization", f"Bearer {TOKEN}"),
    "gitlab": ("PRIVATE-TOKEN", TOKEN),
    "gitea": ("Authorization", f"token {TOKEN}"),
}


@contextmanager
def serve(kind: str, site: Site) -> Iterator[str]:
    """The forge at an address of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_PATCH(self) -> None:
            self.do_POST()

        def do_PUT(self) -> None:
            self.do_POST()

        def _answer(self, body: Any) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            site.calls.append((self.command, self.path))
            fault = site.fault(self.command, self.path)
            if fault:
                self._send(fault)
                return
            name, login = _LOGIN[kind]
            if self.headers.get(name) != login:
                self._send(Answer(401, b'{"message": "Bad credentials"}'))
                return
            try:
                found = API[kind](site, self.command, parts.path, query, body, address)
            except Missing:
                self._send(Answer(404, b'{"message": "Not Found"}'))
                return
            except Forbidden:
                self._send(Answer(403, b'{"message": "Resource not accessible by integration"}'))
                return
            except Conflict:
                self._send(Answer(422 if kind == "github" else 409, b'{"message": "no"}'))
                return
            if isinstance(found, list) and self.command == "GET":
                size, page = int(query.get("per_page", query.get("limit", 20))), int(query.get("page", 1))
                found = found[(page - 1) * size : page * size]
            self._send(Answer(201 if self.command == "POST" else 200, json.dumps(found).encode()))

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            try:
                if answer.dribble:
                    for byte in answer.body:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(answer.dribble)
                else:
                    self.wfile.write(answer.body)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
