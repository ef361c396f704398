"""Small pushes that unfold into much work: what is read of them is bounded, and says why it was not."""

from __future__ import annotations

import pytest

from capsule.trust import requests
from capsule.trust.objects import ObjectKind
from capsule.trust.one_request import (
    MAX_DOCUMENT_BYTES,
    MAX_FOLDER_BYTES,
    MAX_SIGNATURE_BYTES,
    MAX_STRANGERS,
)
from capsule.trust.requests import MAX_MONTHS, judge_requests
from tests.trust_history import History, approved, request_text

REF = "refs/heads/request/r1"
FOLDER = "requests/2026/11/r1"
RAW = request_text(action="runHealthCheck")


def branch_of(history: History, top: str) -> str:
    """A commit that only a request branch names, with `top` as its requests/."""
    return history.raw_commit(history.raw_tree([(b"40000", b"requests", top)]), [history.root])


def branched(history: History, files: dict[str, bytes | None]) -> str:
    main, before = history.tip, history.files
    tip = history.step(files)
    history.tip, history.files = main, before
    return tip


def years(history: History, count: int, months: int, month: str) -> str:
    year = history.raw_tree([(b"40000", f"{at:02}".encode(), month) for at in range(months)])
    return history.raw_tree([(b"40000", f"{at:04}".encode(), year) for at in range(count)])


@pytest.mark.parametrize(("count", "months"), [(10_000, 100), (10_000, 0), (3, 100)])
def test_branch_that_unfolds_into_a_million_months(count: int, months: int) -> None:
    history = History.begun()
    state = history.judged()
    full = history.raw_tree([(b"100644", f"a{at}".encode(), "0" * 40) for at in range(1000)])
    tip = branch_of(history, years(history, count, months, full))
    history.reads = 0
    found = judge_requests(history, state, {REF: tip})
    assert [(each.reason, each.path) for each in found.findings] == [("TooLarge", REF)]
    assert history.reads < MAX_MONTHS + 10
    history.reads = 0
    again = judge_requests(history, state, {REF: tip}, found)
    assert (again.findings, history.reads < 10) == (found.findings, True)


def test_branch_with_a_month_beyond_all_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_MONTH_BYTES", 2000)
    history = History.begun()
    full = history.raw_tree([(b"100644", f"a{at:03}".encode(), "0" * 40) for at in range(100)])
    tip = branch_of(history, years(history, 1, 1, full))
    found = judge_requests(history, history.judged(), {REF: tip})
    assert [each.reason for each in found.findings] == ["TooLarge"]


def test_months_and_requests_of_main_are_not_read_again_on_a_branch() -> None:
    history = History.begun()
    for at in range(20):
        month = f"2025/{at % 12 + 1:02}"
        raw = request_text(f"x{at}", action="runHealthCheck")
        history.step(history.request(raw, f"x{at}", month=month))
    state = history.judged()
    known = judge_requests(history, state)
    tip = branched(history, history.request(RAW))
    history.reads = 0
    found = judge_requests(history, state, {REF: tip}, known)
    assert found["r1"].verdict == "approved"
    assert history.reads <= 24
    history.reads = 0
    assert judge_requests(history, state, {REF: tip}, found)["r1"] is found["r1"]
    assert history.reads <= 6


def test_a_request_that_stands_twice_on_its_branch_does_not_count() -> None:
    history = History.begun()
    tip = branched(history, history.request(RAW) | history.request(RAW, month="2026/12"))
    found = judge_requests(history, history.judged(), {REF: tip})
    assert [each.reason for each in found.findings] == ["BranchWithoutRequest"]


def test_main_with_too_many_months_keeps_the_last_ones() -> None:
    history = History.begun()
    old = {f"requests/{1800 + at // 12}/{at % 12 + 1:02}/old/x": b"x" for at in range(MAX_MONTHS)}
    history.step({**old, **history.request(RAW)})
    found = judge_requests(history, history.judged())
    assert [(each.reason, each.path) for each in found.findings] == [("TooLarge", "requests")]
    assert found["r1"].verdict == "approved"


def test_main_with_a_month_beyond_all_measure_goes_on_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_MONTH_BYTES", 2000)
    history = History.begun()
    history.step({f"requests/2026/10/x{at:03}/x": b"x" for at in range(100)} | history.request(RAW))
    found = judge_requests(history, history.judged())
    assert [(each.reason, each.path) for each in found.findings] == [("TooLarge", "requests/2026/10")]
    assert found["r1"].verdict == "approved"


class _Counting:
    """Counts how many bytes of large blobs are handed out."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.large = 0

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        kind, data = self._history.read(oid)
        self.large += kind == "blob" and len(data) > MAX_DOCUMENT_BYTES
        return kind, data


def test_thousands_of_approvals_that_name_one_large_file() -> None:
    history, _ = approved()
    large = history.put("blob", b"x" * (MAX_DOCUMENT_BYTES + 1))
    special = {f"{FOLDER}/approvals/p{at:05}.json": (b"100644", large) for at in range(3000)}
    history.commit(history.files, [history.tip], special=special)
    reader = _Counting(history)
    judged = judge_requests(reader, history.judged())["r1"]
    assert reader.large == 0
    assert judged.verdict == "approved"
    assert len(judged.approvals) == MAX_STRANGERS + 1
    assert {each.reason for each in judged.approvals if not each.counts} == {"UnknownPrincipal"}


def test_an_approval_or_its_signature_that_is_too_large_says_so_and_is_not_kept() -> None:
    folder = f"{FOLDER}/approvals/bob.json"
    for path, size in ((folder, MAX_DOCUMENT_BYTES), (f"{folder}.sig", MAX_SIGNATURE_BYTES)):
        history, _ = approved()
        history.step({path: b"x" * (size + 1)})
        judged = judge_requests(history, history.judged())["r1"]
        assert judged.verdict == "proposed"
        assert [(each.principal, each.reason, each.document) for each in judged.approvals] == [
            ("bob", "TooLarge", b"")
        ]


@pytest.mark.parametrize(
    ("path", "size"),
    [("request.yaml", MAX_DOCUMENT_BYTES), ("request.yaml.sig", MAX_SIGNATURE_BYTES)],
)
def test_a_request_or_signature_that_is_too_large_is_refused_and_not_kept(path: str, size: int) -> None:
    history, _ = approved()
    history.step({f"{FOLDER}/{path}": b"x" * (size + 1)})
    judged = judge_requests(history, history.judged())["r1"]
    assert (judged.verdict, judged.reason, judged.raw) == ("refused", "MalformedTree", b"")


def test_a_folder_in_place_of_a_file_is_no_file() -> None:
    history, _ = approved()
    history.step({f"{FOLDER}/request.yaml.sig": None, f"{FOLDER}/request.yaml.sig/x": b"x"})
    assert judge_requests(history, history.judged())["r1"].reason == "RequestUnsigned"
    history.step({f"{FOLDER}/request.yaml": None, f"{FOLDER}/request.yaml/x": b"x"})
    assert judge_requests(history, history.judged())["r1"].reason == "MalformedTree"


def test_a_folder_with_more_entries_than_is_sensible_is_refused() -> None:
    history, _ = approved()
    blob = history.put("blob", b"x")
    count = MAX_FOLDER_BYTES // 30
    special = {f"{FOLDER}/approvals/p{at:08}.json": (b"100644", blob) for at in range(count)}
    history.commit(history.files, [history.tip], special=special)
    assert judge_requests(history, history.judged())["r1"].reason == "MalformedTree"


def test_the_cost_of_a_month_rises_with_its_requests_and_not_with_their_square() -> None:
    history = History.begun()
    count = 300
    history.step({f"requests/2026/11/x{at:05}/request.yaml": b"nonsense\n" for at in range(count)})
    state = history.judged()
    history.reads = 0
    assert len(judge_requests(history, state)) == count
    assert history.reads <= 2 * count + 10
