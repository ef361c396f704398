"""All requests of main and of the request branches, judged; what did not change is not judged again.

Rules kept: a name stands once among the requests of main, else none of its folders counts; a branch
`request/<name>` speaks of the request of that name alone, and only until main has it; the cost follows what
changed since the set before. Called by the reconciler, view, `plan` and commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from capsule.documents.digests import target_digest
from capsule.documents.paths import REQUEST_BRANCHES, REQUESTS, RequestFolder
from capsule.documents.scalars import NAME
from capsule.documents.types import Attestation
from capsule.trust import objects
from capsule.trust.merges import Arrivals
from capsule.trust.objects import BadObject, ObjectReader
from capsule.trust.one_request import REASONS as _ONE_REASONS
from capsule.trust.one_request import Source, expire, judge_request, takes_merge
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
_Place = tuple[RequestFolder, str]
_Come = tuple[str | None, bool]
"""The step that brought a request to main, and whether what its pull request became comes at it or after."""

MAX_MONTHS = 200
MAX_YEAR_BYTES = 64 * 1024
MAX_MONTH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Memo:
    """A request as judged without a clock, and what else than its own folder that depended on."""

    judged: JudgedRequest
    policy: str
    settings: str
    services: int
    frozen: frozenset[str]
    told: Attestation | None
    come: _Come

    def holds(
        self,
        state: MainState,
        frozen: frozenset[str],
        told: Attestation | None,
        come: _Come,
        digest_of: Callable[[str], str | None],
    ) -> bool:
        if (self.policy, self.settings) != (state.policy.digest, state.settings.digest):
            return False
        if self.services != len(state.services) or self.frozen != frozen:
            return False
        if self.told != told or self.come != come:
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
    _places: Mapping[tuple[str, str], _Place | Finding] = field(default_factory=dict, repr=False)
    _arrivals: Arrivals | None = field(default=None, repr=False)

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
    attestations: Mapping[str, Sequence[Attestation]] | None = None,
) -> RequestSet:
    """Judge the requests of main (as last read, `state.tip`) and those on request branches.

    `branches` are full ref names with the ids they name (others than request branches are ignored);
    `known` the set before. `begun` names by request the targets that were claimed already, whose later
    changes void nothing. `left_out` says which requests of main are not wanted, such as those long
    executed: they are not even read. `attestations` are what audit records of their reviews at a forge, by
    request, oldest first. With `now`, what has expired is refused. Raises MissingObject.
    """
    before = known if isinstance(known, RequestSet) else RequestSet({})
    judging = _Judging(reader, state, before, begun or {}, attestations or {})
    on_main = judging.main(left_out or (lambda _: False))
    on_branches = judging.branches(branches or {})
    found = {name: expire(each, now) for name, each in {**on_main, **on_branches}.items()}
    findings = tuple(judging.findings)
    kept = (judging.memos, judging.months, judging.digests, judging.places, judging.arrivals)
    return RequestSet(found, findings, *kept)


class _Judging:
    """One run over all requests: what it read becomes the memory of the next one."""

    def __init__(
        self,
        reader: ObjectReader,
        state: MainState,
        before: RequestSet,
        begun: Mapping[str, Collection[str]],
        attestations: Mapping[str, Sequence[Attestation]],
    ) -> None:
        self._reader = reader
        self._state = state
        self._before = before
        self._begun = begun
        self._attestations = attestations
        self.arrivals = (before._arrivals or Arrivals(reader)).read_by(reader)
        self.digests: dict[str, str] = {}
        self.memos: dict[tuple[Source, str, str], _Memo] = {}
        self.months: dict[str, _Folders] = {}
        self.places: dict[tuple[str, str], _Place | Finding] = {}
        self.findings: list[Finding] = []
        self._spoken: dict[str, RequestFolder] = {}

    def main(self, left_out: Callable[[RequestFolder], bool]) -> dict[str, JudgedRequest]:
        tree = objects.tree_of(objects.raw_commit(self._reader, self._state.tip))
        found: dict[str, JudgedRequest] = {}
        for folder, oid in self._folders(tree):
            first = self._spoken.setdefault(folder.name, folder)
            if first == folder and left_out(folder):
                continue
            judged = self._judged(folder, oid, "main", self._state.tip)
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

    def branches(self, refs: Mapping[str, str]) -> dict[str, JudgedRequest]:
        """The requests that lie on their branches alone. To be called after `main`."""
        found: dict[str, JudgedRequest] = {}
        on_main = frozenset(self.months)
        for ref, commit in sorted(refs.items()):
            name = ref.removeprefix(REQUEST_BRANCHES)
            if not ref.startswith(REQUEST_BRANCHES) or name in self._spoken:
                continue
            place = self._before._places.get((ref, commit))
            if place is None:
                try:
                    place = self._on_branch(name, commit, on_main)
                except BadObject as error:
                    place = Finding(error.reason, str(error), ref, commit, "warning")
            self.places[ref, commit] = place
            if isinstance(place, Finding):
                self.findings.append(place)
            else:
                found[name] = self._judged(*place, "branch", commit)
        return found

    def _on_branch(self, name: str, commit: str, on_main: Collection[str]) -> _Place:
        """Where the branch's one request lies; months that are main's own are not read again."""
        months, left = self._months_of(objects.read_commit(self._reader, commit).tree)
        if left:
            raise BadObject("TooLarge", f"more than {MAX_MONTHS} months under {REQUESTS}/")
        found = []
        for label, month in months:
            listed = () if month in on_main else objects.entries(self._reader, month, MAX_MONTH_BYTES)
            found += [
                (RequestFolder(label, name), each.oid)
                for each in listed
                if each.name == name and each.is_folder and _NAME.fullmatch(name)
            ]
        if len(found) != 1:
            raise BadObject("BranchWithoutRequest", f"expected one request {name!r}, found {len(found)}")
        return found[0]

    def _judged(self, folder: RequestFolder, oid: str, source: Source, revision: str) -> JudgedRequest:
        key = (source, folder.folder, oid)
        frozen = frozenset(self._begun.get(folder.name, ()))
        attested = self._attestations.get(folder.name, ()) if source == "main" else ()
        told = attested[-1] if attested else None
        memo = self._before._memos.get(key)
        come = self._come(memo.judged, revision, told) if memo else (None, False)
        lasts = memo is not None and not memo.judged.fleeting
        if memo is None or not lasts or not memo.holds(self._state, frozen, told, come, self._digest_of):
            judged = judge_request(
                self._reader,
                self._state,
                oid,
                folder,
                source,
                revision,
                frozen=frozen,
                attestations=attested,
                arrivals=self.arrivals,
            )
            state = self._state
            come = self._come(judged, revision, told)
            memo = _Memo(
                judged,
                state.policy.digest,
                state.settings.digest,
                len(state.services),
                frozen,
                told,
                come,
            )
        elif source == "branch" and memo.judged.revision != revision:
            memo = replace(memo, judged=replace(memo.judged, revision=revision))
        self.memos[key] = memo
        return memo.judged

    def _come(self, judged: JudgedRequest, revision: str, told: Attestation | None) -> _Come:
        """How the request came to main, where its verdict may rest on that."""
        if judged.source != "main" or not (told or takes_merge(judged.rules.values())):
            return None, False
        place = (revision, judged.path, judged.blob)
        known = told is not None and self.arrivals.since_holds(*place, told.spec.merged)
        return self.arrivals.of(*place), known

    def _digest_of(self, name: str) -> str | None:
        """The target digest of a service in force, computed once for each text of its document."""
        service = self._state.services.get(name)
        if service is None:
            return None
        if service.blob not in self.digests:
            known = self._before._digests.get(service.blob)
            self.digests[service.blob] = known or target_digest(service.document)
        return self.digests[service.blob]

    def _folders(self, tree: str) -> Iterator[_Place]:
        """Every folder requests/<yyyy>/<mm>/<name> of main; what is beyond all measure is a finding."""
        months, left = self._months_of(tree)
        if left:
            text = f"only the last {MAX_MONTHS} months count: remove those without requests"
            self.findings.append(Finding("TooLarge", text, REQUESTS, self._state.tip))
        for label, month in months:
            try:
                listed = self._month(month)
            except BadObject as error:
                self.findings.append(
                    Finding(error.reason, str(error), f"{REQUESTS}/{label}", self._state.tip)
                )
                continue
            for name, oid in listed:
                yield RequestFolder(label, name), oid

    def _months_of(self, tree: str) -> tuple[list[tuple[str, str]], bool]:
        """The last months of a tree as (yyyy/mm, tree), and whether there are more than may be."""
        top = objects.folder(self._reader, tree, REQUESTS)
        listed = objects.entries(self._reader, top, MAX_MONTH_BYTES) if top else ()
        years = [each for each in listed if each.is_folder and _YEAR.fullmatch(each.name)]
        months = [
            (f"{year.name}/{month.name}", month.oid)
            for year in years[-MAX_MONTHS:]
            for month in objects.entries(self._reader, year.oid, MAX_YEAR_BYTES)
            if month.is_folder and _MONTH.fullmatch(month.name)
        ]
        return months[-MAX_MONTHS:], max(len(years), len(months)) > MAX_MONTHS

    def _month(self, oid: str) -> _Folders:
        if oid not in self.months:
            known = self._before._months.get(oid)
            if known is None:
                listed = objects.entries(self._reader, oid, MAX_MONTH_BYTES)
                known = tuple(
                    (each.name, each.oid) for each in listed if each.is_folder and _NAME.fullmatch(each.name)
                )
            self.months[oid] = known
        return self.months[oid]
