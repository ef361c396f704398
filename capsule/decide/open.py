"""Whether a request may still have an effect. Called by the other parts of decide.

Rules kept: pure; what is recorded decides first, so that an edited request never begins again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from capsule.lifecycle import Month, Records, RequestRecords
from capsule.lifecycle.phase import may_continue
from capsule.trust.requests import RequestSet
from capsule.trust.state import JudgedRequest


@dataclass(frozen=True, slots=True)
class _OpenMonth:
    """The names of a month's requests that are not finished, as judged and recorded in that month."""

    judged: Mapping[str, JudgedRequest]
    recorded: Month | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class OpenRequests:
    """The names, in order, of all requests that may still have an effect, and of few that may not."""

    names: tuple[str, ...] = ()
    _months: Mapping[str, _OpenMonth] = field(default_factory=dict, repr=False)


def open_requests(
    requests: Mapping[str, JudgedRequest], records: Records, known: OpenRequests | None = None
) -> OpenRequests:
    """The requests worth a look; with those `known` before, only months of which something changed are
    walked."""
    if not isinstance(requests, RequestSet):
        return OpenRequests(tuple(sorted(requests)))
    before = known._months if known else {}
    months = {
        label: _open_month(judged, records.months.get(label), before.get(label))
        for label, judged in requests.months.items()
    }
    found = {name for month in months.values() for name in month.names}
    return OpenRequests(tuple(sorted(found | requests.on_branches)), months)


def _open_month(
    judged: Mapping[str, JudgedRequest], recorded: Month | None, before: _OpenMonth | None
) -> _OpenMonth:
    if before and before.judged is judged and before.recorded is recorded:
        return before
    records = recorded.requests if recorded else {}
    names = (name for name, each in judged.items() if not finished(each, records.get(name)))
    return _OpenMonth(judged, recorded, tuple(names))


def finished(judged: JudgedRequest, records: RequestRecords | None) -> bool:
    """Whether nothing further is begun for a request, whatever comes."""
    if records is None:
        return False
    if records.refusal:
        return True
    done = {name for name, operation in records.operations.items() if operation.result}
    if judged.document is None:
        return records.claimed
    if set(judged.document.spec.targets) <= done:
        return True
    return not may_continue(judged, records)
