"""GitLab (self-managed or gitlab.com), by its REST API.

Rules kept: a merge request counts as found only when it was merged into main of this very project. GitLab
does not say which commit an approval is of: it is bound to the last version that was pushed *before* the
approval (its own time, else that of the system note about it); without a time it is bound to nothing, and
counts for nothing. Format: docs.gitlab.com/api, version 4, GitLab 16 or newer. Made by forge.choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated
from urllib.parse import quote

from pydantic import Field, TypeAdapter

from capsule.forge.api import (
    CHECK,
    COMMENT_MARK,
    ForgeRefused,
    OpenedPull,
    PullHead,
    RawPull,
    RawReview,
    RawWriter,
)
from capsule.forge.rest import NotTaken, NotThere, Rest
from capsule.forge.shapes import (
    MAIN,
    AccountId,
    Address,
    CommitId,
    Login,
    Number,
    Shape,
    When,
    owner_and_name,
    whole,
)
from capsule.forge.telling import says
from capsule.forge.writers import check_all_told

_BOT_NAMES = ("project_", "group_")
_APPROVED = "approved this merge request"
_REQUESTED = "requested changes"
_Text = Annotated[str, Field(max_length=300)]


class _User(Shape):
    id: AccountId
    username: Login


class _Account(Shape):
    id: AccountId
    username: Login
    bot: bool | None = None


class _Listed(Shape):
    iid: Number
    state: _Text
    target_branch: _Text
    target_project_id: Number


class _Merge(Shape):
    iid: Number
    state: _Text
    target_branch: _Text
    target_project_id: Number
    sha: CommitId
    merge_commit_sha: CommitId | None = None
    squash_commit_sha: CommitId | None = None
    author: _User


class _Diff(Shape):
    base_sha: CommitId


class _Forked(Shape):
    diff_refs: _Diff


class _Approval(Shape):
    user: _User
    approved_at: When | None = None


class _Approvals(Shape):
    approved_by: tuple[_Approval, ...]


class _Version(Shape):
    id: Number
    head_commit_sha: CommitId
    created_at: When


class _Commit(Shape):
    id: CommitId
    author_email: Annotated[str, Field(max_length=10_000)] = ""
    committer_email: Annotated[str, Field(max_length=10_000)] = ""


class _Note(Shape):
    id: Number
    system: bool
    body: str
    author: _User
    created_at: When


class _Reviewer(Shape):
    user: _User
    state: _Text
    created_at: When


class _File(Shape):
    blob_id: CommitId


class _Project(Shape):
    id: Number


class _Opened(Shape):
    iid: Number
    web_url: Address


class _Open(Shape):
    iid: Number
    sha: CommitId | None  # not known yet just after it was opened


class _Pipeline(Shape):
    id: Number


class _Job(Shape):
    id: Number
    name: _Text
    status: _Text


_HEADS = TypeAdapter(list[_Open])
_PIPELINES = TypeAdapter(list[_Pipeline])
_JOBS = TypeAdapter(list[_Job])
_ANYTHING = TypeAdapter(Shape)
_LISTED = TypeAdapter(list[_Listed])
_MERGE = TypeAdapter(_Merge)
_FORKED = TypeAdapter(_Forked)
_APPROVALS = TypeAdapter(_Approvals)
_VERSIONS = TypeAdapter(list[_Version])
_COMMITS = TypeAdapter(list[_Commit])
_NOTES = TypeAdapter(list[_Note])
_REVIEWERS = TypeAdapter(list[_Reviewer])
_ACCOUNT = TypeAdapter(_Account)
_FILE = TypeAdapter(_File)
_PROJECT = TypeAdapter(_Project)
_OPENED = TypeAdapter(_Opened)
_OPEN = TypeAdapter(list[_Opened])


class GitLab:
    """The Forge at `server`. `token` is asked for at each call."""

    def __init__(self, server: str, repository: str, token: Callable[[], str]) -> None:
        group, _, name = repository.rpartition("/")
        owner_and_name(f"{group.replace('/', '.')}/{name}")  # groups may lie within groups
        self._here = f"/projects/{quote(repository, safe='')}"
        self._rest = Rest(f"{server.rstrip('/')}/api/v4", lambda: {"PRIVATE-TOKEN": token()})

    def find(self, commit: str) -> RawPull | None:
        """See Forge.find."""
        project = self._rest.get(_PROJECT, self._here).id
        try:
            listed = self._rest.pages(_LISTED, f"{self._here}/repository/commits/{commit}/merge_requests")
        except NotThere:  # no such commit there, yet
            return None
        for each in listed:
            if _is_merged(each, project):
                merge = self._rest.get(_MERGE, f"{self._here}/merge_requests/{each.iid}")
                if _is_merged(merge, project):
                    return self._raw(merge)
        return None

    def pull(self, number: int) -> RawPull | None:
        """See Forge.pull."""
        try:
            merge = self._rest.get(_MERGE, f"{self._here}/merge_requests/{number}")
        except NotThere:
            return None
        return self._raw(merge) if merge.target_branch == MAIN else None

    def writers(self, number: int) -> Sequence[RawWriter]:
        """See Forge.writers. GitLab tells no accounts of commits."""
        commits = self._rest.pages(_COMMITS, f"{self._here}/merge_requests/{number}/commits")
        check_all_told(number, len(commits))
        return [
            RawWriter(None, email) for each in commits for email in (each.author_email, each.committer_email)
        ]

    def base(self, number: int) -> str:
        """See Forge.base."""
        return self._rest.get(_FORKED, f"{self._here}/merge_requests/{number}").diff_refs.base_sha

    def blob_ids(self, commit: str, paths: Sequence[str]) -> Mapping[str, str]:
        """See Forge.blob_ids."""
        found = {}
        for path in paths:
            where = f"{self._here}/repository/files/{quote(path, safe='')}"
            try:
                found[path] = self._rest.get(_FILE, where, {"ref": commit}).blob_id
            except NotThere:
                continue
        return found

    def open_pull(self, branch: str, title: str, body: str, reviewers: Sequence[int]) -> OpenedPull:
        """See Forge.open_pull."""
        text = {
            "source_branch": branch,
            "target_branch": MAIN,
            "title": title,
            "description": body,
            "reviewer_ids": list(reviewers),
        }
        path = f"{self._here}/merge_requests"
        try:
            opened = self._rest.post(_OPENED, path, text)
        except NotTaken:
            query = {"state": "opened", "source_branch": branch, "target_branch": MAIN}
            known = self._rest.get(_OPEN, path, query)
            if not known:
                raise
            return OpenedPull(known[0].iid, known[0].web_url, tuple(reviewers))
        return OpenedPull(opened.iid, opened.web_url)

    def account(self) -> str:
        """See Forge.account."""
        return self._rest.get(_ACCOUNT, "/user").username

    def open_pulls(self) -> Sequence[PullHead]:
        """See Forge.open_pulls."""
        query = {"state": "opened", "target_branch": MAIN}
        listed = self._rest.pages(_HEADS, f"{self._here}/merge_requests", query)
        return [PullHead(each.iid, each.sha) for each in listed if each.sha]

    def comment(self, number: int, text: str) -> None:
        """See Forge.comment."""
        own = self._rest.get(_ACCOUNT, "/user").id
        where = f"{self._here}/merge_requests/{number}/notes"
        body = f"{COMMENT_MARK}\n{text}"
        for note in self._rest.pages(_NOTES, where, {"activity_filter": "only_comments"}):
            if note.author.id == own and not note.system and note.body.startswith(COMMENT_MARK):
                if not says(note.body, body):
                    self._rest.change("PUT", f"{where}/{note.id}", {"body": body})
                return
        self._rest.post(_ANYTHING, where, {"body": body})

    def set_check(self, pull: PullHead, passed: bool, text: str) -> None:  # noqa: ARG002 (the job says it)
        """See Forge.set_check: a merge request is held by its pipeline, so its job judges once more."""
        pipelines = self._rest.get(
            _PIPELINES, f"{self._here}/merge_requests/{pull.number}/pipelines", {"per_page": 1}
        )
        where = f"{self._here}/pipelines/{pipelines[0].id}/jobs" if pipelines else ""
        jobs = self._rest.pages(_JOBS, where) if where else []
        job = next((each for each in jobs if each.name == CHECK), None)
        if job is None:
            raise ForgeRefused(
                "CheckMissing", f"the last pipeline of merge request {pull.number} has no job {CHECK}"
            )
        if job.status == ("failed" if passed else "success"):
            self._rest.post(_ANYTHING, f"{self._here}/jobs/{job.id}/retry", {})

    def close(self) -> None:
        """Let go of connections."""
        self._rest.close()

    def _raw(self, merge: _Merge) -> RawPull:
        where = f"{self._here}/merge_requests/{merge.iid}"
        versions = sorted(self._rest.pages(_VERSIONS, f"{where}/versions"), key=lambda each: each.created_at)
        notes = [
            note
            for note in self._rest.pages(_NOTES, f"{where}/notes", {"activity_filter": "only_activity"})
            if note.system
        ]
        approvals = self._rest.get(_APPROVALS, f"{where}/approvals").approved_by
        reviewers = self._rest.pages(_REVIEWERS, f"{where}/reviewers")
        raw = [*self._approved(approvals, versions, notes), *self._refused(reviewers, notes, merge.sha)]
        raw.sort(key=lambda each: (each.submitted_at, each.id))
        became = merge.merge_commit_sha or merge.squash_commit_sha or merge.sha
        merged = became if merge.state == "merged" else None
        return RawPull(merge.iid, merged, merge.sha, merge.author.id, tuple(raw))

    def _approved(
        self, approvals: Sequence[_Approval], versions: Sequence[_Version], notes: Sequence[_Note]
    ) -> Iterator[RawReview]:
        for each in approvals:
            note = _last(notes, each.user.id, _APPROVED)
            at = each.approved_at or (note.created_at if note else None)
            if at is None:
                continue  # an approval without a time is of no commit, and would not be in order either
            yield RawReview(
                note.id if note else 0,
                each.user.id,
                each.user.username,
                "approved",
                _version_before(versions, at),
                whole(at),
                self._is_bot(each.user),
            )

    def _refused(
        self, reviewers: Sequence[_Reviewer], notes: Sequence[_Note], head: str
    ) -> Iterator[RawReview]:
        for each in reviewers:
            if each.state == "requested_changes":
                note = _last(notes, each.user.id, _REQUESTED)
                yield RawReview(
                    note.id if note else 0,
                    each.user.id,
                    each.user.username,
                    "changes_requested",
                    head,
                    whole(note.created_at if note else each.created_at),
                    self._is_bot(each.user),
                )

    def _is_bot(self, user: _User) -> bool:
        if user.username.startswith(_BOT_NAMES) and "_bot" in user.username:
            return True
        return self._rest.get(_ACCOUNT, f"/users/{user.id}").bot is not False


def _is_merged(merge: _Listed | _Merge, project: int) -> bool:
    return merge.state == "merged" and merge.target_branch == MAIN and merge.target_project_id == project


def _last(notes: Sequence[_Note], user: int, body: str) -> _Note | None:
    """The last system note of this account that begins so."""
    found = [note for note in notes if note.author.id == user and note.body.startswith(body)]
    return max(found, key=lambda note: (note.created_at, note.id), default=None)


def _version_before(versions: Sequence[_Version], at: datetime) -> str | None:
    """The head that stood when something was approved at `at`; versions are given oldest first."""
    before = [each.head_commit_sha for each in versions if each.created_at < at]
    return before[-1] if before else None
