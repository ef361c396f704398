"""All requests of main and of the request branches, judged; what did not change is not judged again.

Rules kept: a name stands once among the requests of main, else none of its folders counts; a branch
`request/<name>` speaks of the request of that name alone, and only until main has it; the cost follows what
changed since the set before. Called by the reconciler, view, `plan` and commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from capsule.documents.digests import target_digest
from capsule.documents.paths import REQUEST_BRANCHES, REQUESTS, RequestFolder
from capsule.documents.scalars import NAME
from capsule.documents.types import Attestation
from capsule.trust import objects
from capsule.trust.arrivals import Arrivals
from capsule.trust.objects import BadObject, ObjectReader
from capsule.trust.one_request import REASONS as _ONE_REASONS
from capsule.trust.one_request import Source, expire, judge_request
from capsule.trust.request_memory import Basis, Come, Folders, Key, Memo, Memory, Month, Place, RequestSet
from capsule.trust.state import Finding, JudgedRequest, MainState

__all__ = ["REASONS", "RequestSet", "expire", "judge_afresh", "judge_request", "judge_requests"]

REASONS: dict[str, str] = {
    **_ONE_REASONS,
    "DuplicateRequest": "Two folders under requests/ carry one name. A name is spent once: rename one.",
    "BranchWithoutRequest": "A branch request/<name> that holds no request of that name.",
}

_NAME = re.compile(NAME)
_YEAR = re.compile(r"[0-9]{4}")
_MONTH = re.compile(r"[0-9]{2}")
_Listed = tuple[str, str, Folders]
"""A month as yyyy/mm, its tree, and the folders in it."""

MAX_MONTHS = 200
MAX_YEAR_BYTES = 64 * 1024
MAX_MONTH_BYTES = 4 * 1024 * 1024


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
    found = judging.main(left_out)
    on_branches = judging.branches(branches or {})
    found.update(on_branches)
    if now:
        found = {name: expire(each, now) for name, each in found.items()}
    return RequestSet(
        found,
        tuple(judging.findings),
        judging.shown,
        frozenset(on_branches),
        judging.fleeting,
        judging.memory,
    )


def judge_afresh(
    reader: ObjectReader,
    state: MainState,
    judged: JudgedRequest,
    *,
    begun: Collection[str] = (),
    attestations: Sequence[Attestation] = (),
) -> JudgedRequest:
    """A request of a RequestSet, judged where it lies without anything remembered, as a proof of audit does.

    `begun` and `attestations` are those of this request. Raises BadObject, MissingObject.
    """
    folder = RequestFolder.of(judged.path)
    if folder is None:
        raise ValueError(f"{judged.path} is no request's")
    on_main = judged.source == "main"
    revision = state.tip if on_main else judged.revision
    tree = objects.tree_of(objects.raw_commit(reader, revision))
    return judge_request(
        reader,
        state,
        objects.folder(reader, tree, folder.folder),
        folder,
        judged.source,
        revision,
        frozen=frozenset(begun),
        attestations=attestations if on_main else (),
    )


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
        self._basis = Basis.of(state)
        self._before = before.memory
        self._begun = begun
        self._attestations = attestations
        self._told = {name: each[-1] for name, each in attestations.items() if each}
        self._arrivals = (before.memory.arrivals or Arrivals(reader)).read_by(reader)
        self.memory = Memory(self._arrivals)
        self.shown: dict[str, Mapping[str, JudgedRequest]] = {}
        self.findings: list[Finding] = []
        self.fleeting = False
        self._spoken: dict[str, str] = {}

    def main(self, left_out: Callable[[RequestFolder], bool] | None) -> dict[str, JudgedRequest]:
        """The requests of main; a month of which nothing changed is taken as it was judged before."""
        tree = objects.tree_of(objects.raw_commit(self._reader, self._state.tip))
        listed = list(self._listing(tree))
        found: dict[str, JudgedRequest] = {}
        for label, _, folders in reversed(listed):
            self._spoken.update(dict.fromkeys(folders, label))
        doubled = len(self._spoken) < sum(len(folders) for _, _, folders in listed)
        for label, oid, folders in listed:
            month = self._before.months.get(label)
            if month is None or left_out or doubled or not self._holds(label, month, oid, folders):
                month = self._judge_month(label, oid, folders, month, left_out)
            elif month.revision != self._state.tip:
                month = replace(month, revision=self._state.tip)
            self.memory.months[label] = month
            self.shown[label] = month.judged
            if not month.lasts:
                self.fleeting = self.fleeting or any(each.fleeting for each in month.judged.values())
            found.update(month.judged)
        if doubled:
            self._refuse_doubles(listed, found)
        return found

    def _holds(self, label: str, month: Month, oid: str, folders: Folders) -> bool:
        """Whether all that the verdicts of a month depended on is as it was."""
        tip = self._state.tip
        return (
            month.lasts
            and (month.tree, month.basis) == (oid, self._basis)
            and (month.begun, month.told) == self._recorded(folders)
            and all(self._digest_of(name) == digest for name, digest in month.targets.items())
            and (
                month.revision == tip
                or (
                    self._month_come(label, oid, month.memos.values()) == month.come
                    and all(self._come(memo.judged, tip, memo.told) == memo.come for memo in month.reviewed)
                )
            )
        )

    def _month_come(self, label: str, oid: str, memos: Collection[Memo]) -> str | None:
        """The step since which a month is as it is, if that matters: so is every file in it since."""
        if not any(memo.judged.arrived for memo in memos):
            return None
        return self._arrivals.of(self._state.tip, f"{REQUESTS}/{label}", oid)

    def _recorded(
        self, folders: Folders
    ) -> tuple[tuple[Collection[str] | None, ...], tuple[Attestation | None, ...]]:
        """What was begun of each request, and what a forge said of it last."""
        return tuple(map(self._begun.get, folders)), tuple(map(self._told.get, folders))

    def _judge_month(
        self,
        label: str,
        oid: str,
        folders: Folders,
        before: Month | None,
        left_out: Callable[[RequestFolder], bool] | None,
    ) -> Month:
        """The requests of a month whose names were not spoken for by an earlier one."""
        state = self._state
        known = before.memos if before else {}
        memos: dict[Key, Memo] = {}
        judged: dict[str, JudgedRequest] = {}
        for name, tree in folders.items():
            folder = RequestFolder(label, name)
            if self._spoken[name] == label and not (left_out and left_out(folder)):
                judged[name] = self._judged(folder, tree, "main", state.tip, known, memos)
        documents = [each.document for each in judged.values() if each.document]
        named = {name for document in documents for name in document.spec.targets}
        begun, told = self._recorded(folders)
        return Month(
            oid,
            self._basis,
            state.tip,
            {name: self._digest_of(name) for name in named},
            begun,
            told,
            self._month_come(label, oid, memos.values()),
            tuple(memo for memo in memos.values() if memo.told),
            judged,
            memos,
            len(judged) == len(folders) and not any(each.fleeting for each in judged.values()),
        )

    def _refuse_doubles(self, listed: Sequence[_Listed], found: dict[str, JudgedRequest]) -> None:
        """Of folders that carry one name, the first is shown, refused."""
        for label, _, folders in listed:
            for name, oid in folders.items():
                first = self._spoken[name]
                if first == label:
                    continue
                folder = RequestFolder(label, name)
                known = found.get(name) or self._judged(folder, oid, "main", self._state.tip, {}, {})
                message = f"{RequestFolder(first, name).request} and {folder.request} carry one name"
                found[name] = replace(known, verdict="refused", reason="DuplicateRequest", message=message)
                self.shown[first] = {**self.shown[first], name: found[name]}

    def branches(self, refs: Mapping[str, str]) -> dict[str, JudgedRequest]:
        """The requests that lie on their branches alone. To be called after `main`."""
        found: dict[str, JudgedRequest] = {}
        on_main = frozenset(self.memory.listed)
        for ref, commit in sorted(refs.items()):
            name = ref.removeprefix(REQUEST_BRANCHES)
            if not ref.startswith(REQUEST_BRANCHES) or name in self._spoken:
                continue
            place = self._before.places.get((ref, commit))
            if place is None:
                try:
                    place = self._on_branch(name, commit, on_main)
                except BadObject as error:
                    place = Finding(error.reason, str(error), ref, commit, "warning")
            self.memory.places[ref, commit] = place
            if isinstance(place, Finding):
                self.findings.append(place)
            else:
                known = self._before.on_branches
                found[name] = self._judged(*place, "branch", commit, known, self.memory.on_branches)
                self.fleeting = self.fleeting or found[name].fleeting
        return found

    def _on_branch(self, name: str, commit: str, on_main: Collection[str]) -> Place:
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

    def _judged(
        self,
        folder: RequestFolder,
        oid: str,
        source: Source,
        revision: str,
        before: Mapping[Key, Memo],
        memos: dict[Key, Memo],
    ) -> JudgedRequest:
        """One request; judged anew only if it does not stand in `before` as it is. Noted in `memos`."""
        key = (source, folder.folder, oid)
        frozen = frozenset(self._begun.get(folder.name, ()))
        attested = self._attestations.get(folder.name, ()) if source == "main" else ()
        told = self._told.get(folder.name) if source == "main" else None
        memo = before.get(key)
        come = self._come(memo.judged, revision, told) if memo else ((), False)
        lasts = memo is not None and not memo.judged.fleeting
        if memo is None or not lasts or not memo.holds(self._basis, frozen, told, come, self._digest_of):
            judged = judge_request(
                self._reader,
                self._state,
                oid,
                folder,
                source,
                revision,
                frozen=frozen,
                attestations=attested,
                arrivals=self._arrivals,
            )
            come = self._come(judged, revision, told)
            memo = Memo(judged, self._basis, frozen, told, come)
        elif source == "branch" and memo.judged.revision != revision:
            memo = replace(memo, judged=replace(memo.judged, revision=revision))
        memos[key] = memo
        return memo.judged

    def _come(self, judged: JudgedRequest, revision: str, told: Attestation | None) -> Come:
        """How the request came to main, as far as its verdict rests on that."""
        shown = told is not None and self._arrivals.since_holds(
            revision, judged.path, judged.blob, told.spec.merged
        )
        return tuple(self._arrivals.of(revision, *file) for file in judged.arrived), shown

    def _digest_of(self, name: str) -> str | None:
        """The target digest of a service in force, computed once for each text of its document."""
        service = self._state.services.get(name)
        if service is None:
            return None
        if service.blob not in self.memory.digests:
            known = self._before.digests.get(service.blob)
            self.memory.digests[service.blob] = known or target_digest(service.document)
        return self.memory.digests[service.blob]

    def _listing(self, tree: str) -> Iterator[_Listed]:
        """The folders requests/<yyyy>/<mm>/<name> of main; what is beyond all measure is a finding."""
        months, left = self._months_of(tree)
        if left:
            text = f"only the last {MAX_MONTHS} months count: remove those without requests"
            self.findings.append(Finding("TooLarge", text, REQUESTS, self._state.tip))
        for label, month in months:
            try:
                yield label, month, self._folders(month)
            except BadObject as error:
                self.findings.append(
                    Finding(error.reason, str(error), f"{REQUESTS}/{label}", self._state.tip)
                )

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

    def _folders(self, oid: str) -> Folders:
        if oid not in self.memory.listed:
            known = self._before.listed.get(oid)
            if known is None:
                listed = objects.entries(self._reader, oid, MAX_MONTH_BYTES)
                known = {
                    each.name: each.oid for each in listed if each.is_folder and _NAME.fullmatch(each.name)
                }
            self.memory.listed[oid] = known
        return self.memory.listed[oid]
