"""All requests of main and of the request branches, judged; what did not change is not judged again.

Rules kept: a name stands once among the requests of main, else none of its folders counts; a branch
`request/<name>` speaks of the request of that name alone, and only until main has it; the cost follows what
changed since the set before. Called by the reconciler, view, `plan` and commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from capsule.documents.digests import target_digest
from capsule.documents.paths import REQUEST_BRANCHES, REQUESTS, RequestFolder
from capsule.documents.scalars import NAME
from capsule.trust import objects
from capsule.trust.objects import BadObject, ObjectReader
from capsule.trust.one_request import REASONS as _ONE_REASONS
from capsule.trust.one_request import Source, expire, judge_request
from capsule.trust.state import Finding, JudgedRequest, MainState

__all__ = ["REASONS", "RequestSet", "expire", "judge_request", "judge_requests"]

REASONS: dict[str, str] = {
    **_ONE_REASONS,
    "DuplicateRequest": "Two folders under requests/ carry one name. A name is spent once: rename one.",
    "BranchWithoutRequest": "A branch request/<name> that holds no request of that name.",
}

_NAME = re.compile(NAME)
_YEAR = re.compile(r"[0-9]{4}")
_MONTH = re.compile(r"[0-9]{2}")
_Folders = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Memo:
    """A request as judged without a clock, and what else than its own folder that depended on."""

    judged: JudgedRequest
    policy: str
    settings: str
    services: int
    frozen: frozenset[str]

    def holds(self, state: MainState, frozen: frozenset[str], digest_of: Callable[[str], str | None]) -> bool:
        if (self.policy, self.settings) != (state.policy.digest, state.settings.digest):
            return False
        if self.services != len(state.services) or self.frozen != frozen:
            return False
        document = self.judged.document
        targets = document.spec.targets if document else ()
        return all(self.judged.target_digests.get(name) == digest_of(name) for name in targets)


@dataclass(frozen=True)
class RequestSet(Mapping[str, JudgedRequest]):
    """The judged requests by name, and findings about branches. Give it back to be judged further."""

    _requests: Mapping[str, JudgedRequest]
    findings: tuple[Finding, ...] = ()
    _memos: Mapping[tuple[Source, str, str], _Memo] = field(default_factory=dict, repr=False)
    _months: Mapping[str, _Folders] = field(default_factory=dict, repr=False)
    _digests: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> JudgedRequest:
        return self._requests[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._requests)

    def __len__(self) -> int:
        return len(self._requests)


def judge_requests(
    reader: ObjectReader,
    state: MainState,
    branches: Mapping[str, str] | None = None,
    known: Mapping[str, JudgedRequest] | None = None,
    *,
    now: datetime | None = None,
    begun: Mapping[str, Collection[str]] | None = None,
    left_out: Callable[[RequestFolder], bool] | None = None,
) -> RequestSet:
    """Judge the requests of main (as last read, `state.tip`) and those on request branches.

    `branches` are full ref names with the ids they name (others than request branches are ignored);
    `known` the set before. `begun` names by request the targets that were claimed already, whose later
    changes void nothing. `left_out` says which requests of main are not wanted, such as those long
    executed: they are not even read. With `now`, what has expired is refused. Raises MissingObject.
    """
    before = known if isinstance(known, RequestSet) else RequestSet({})
    judging = _Judging(reader, state, before, begun or {})
    on_main = judging.main(left_out or (lambda _: False))
    on_branches, findings = judging.branches(branches or {}, on_main)
    found = {name: expire(each, now) for name, each in {**on_main, **on_branches}.items()}
    return RequestSet(found, findings, judging.memos, judging.months, judging.digests)


class _Judging:
    """One run over all requests: what it read becomes the memory of the next one."""

    def __init__(
        self,
        reader: ObjectReader,
        state: MainState,
        before: RequestSet,
        begun: Mapping[str, Collection[str]],
    ) -> None:
        self._reader = reader
        self._state = state
        self._before = before
        self._begun = begun
        self.digests: dict[str, str] = {}
        self.memos: dict[tuple[Source, str, str], _Memo] = {}
        self.months: dict[str, _Folders] = {}

    def main(self, left_out: Callable[[RequestFolder], bool]) -> dict[str, JudgedRequest]:
        tree = objects.tree_of(objects.raw_commit(self._reader, self._state.tip))
        found: dict[str, JudgedRequest] = {}
        places: dict[str, RequestFolder] = {}
        for folder, oid in self._folders(tree):
            first = places.setdefault(folder.name, folder)
            if first == folder and left_out(folder):
                continue
            judged = self._judged(tree, folder, oid, "main", self._state.tip)
            if first != folder:
                message = f"{first.request} and {folder.request} carry one name"
                judged = replace(
                    found.get(folder.name, judged),
                    verdict="refused",
                    reason="DuplicateRequest",
                    message=message,
                )
            found[folder.name] = judged
        return found

    def branches(
        self, refs: Mapping[str, str], on_main: Collection[str]
    ) -> tuple[dict[str, JudgedRequest], tuple[Finding, ...]]:
        found: dict[str, JudgedRequest] = {}
        findings = []
        for ref, commit in sorted(refs.items()):
            name = ref.removeprefix(REQUEST_BRANCHES)
            if not ref.startswith(REQUEST_BRANCHES) or name in on_main:
                continue
            try:
                found[name] = self._on_branch(name, commit)
            except BadObject as error:
                findings.append(Finding(error.reason, str(error), ref, commit, "warning"))
        return found, tuple(findings)

    def _on_branch(self, name: str, commit: str) -> JudgedRequest:
        tree = objects.read_commit(self._reader, commit).tree
        found = [(folder, oid) for folder, oid in self._folders(tree) if folder.name == name]
        if len(found) != 1:
            raise BadObject("BranchWithoutRequest", f"expected one request {name!r}, found {len(found)}")
        ((folder, oid),) = found
        return self._judged(tree, folder, oid, "branch", commit)

    def _judged(
        self, tree: str, folder: RequestFolder, oid: str, source: Source, revision: str
    ) -> JudgedRequest:
        key = (source, folder.folder, oid)
        frozen = frozenset(self._begun.get(folder.name, ()))
        memo = self._before._memos.get(key)
        if memo is None or not memo.holds(self._state, frozen, self._digest_of):
            judged = judge_request(self._reader, self._state, tree, folder, source, revision, frozen=frozen)
            state = self._state
            memo = _Memo(judged, state.policy.digest, state.settings.digest, len(state.services), frozen)
        elif source == "branch" and memo.judged.revision != revision:
            memo = replace(memo, judged=replace(memo.judged, revision=revision))
        self.memos[key] = memo
        return memo.judged

    def _digest_of(self, name: str) -> str | None:
        """The target digest of a service in force, computed once for each text of its document."""
        service = self._state.services.get(name)
        if service is None:
            return None
        if service.blob not in self.digests:
            known = self._before._digests.get(service.blob)
            self.digests[service.blob] = known or target_digest(service.document)
        return self.digests[service.blob]

    def _folders(self, tree: str) -> Iterator[tuple[RequestFolder, str]]:
        """Every folder requests/<yyyy>/<mm>/<name>; a month that was read before is not read again."""
        top = objects.folder(self._reader, tree, REQUESTS)
        for year in objects.entries(self._reader, top) if top else ():
            if not year.is_folder or not _YEAR.fullmatch(year.name):
                continue
            for month in objects.entries(self._reader, year.oid):
                if month.is_folder and _MONTH.fullmatch(month.name):
                    label = f"{year.name}/{month.name}"
                    for name, oid in self._month(month.oid):
                        yield RequestFolder(label, name), oid

    def _month(self, oid: str) -> _Folders:
        if oid not in self.months:
            known = self._before._months.get(oid)
            if known is None:
                listed = objects.entries(self._reader, oid)
                known = tuple(
                    (each.name, each.oid) for each in listed if each.is_folder and _NAME.fullmatch(each.name)
                )
            self.months[oid] = known
        return self.months[oid]
