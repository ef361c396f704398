"""The report that an auditor reads: rotations and other operations, who asked and approved, exceptions, keys.

Rules kept: the same history and window give the same bytes; whether the history was proved stands at the top;
what people or agents wrote is shown as text and never as Markdown or HTML of ours. Called by
commands.audit_ledger.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from capsule.documents.scalars import instant_text
from capsule.view.export import UNKNOWN, values
from capsule.view.ledger_rows import EXCEPTIONS, KeyAge, LedgerRow, Selection

ROTATE = "rotateKey"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#!|~&$@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_TIMES = frozenset({"When", "Last", "Created", "Due"})
_LONG = frozenset({"What", "Why", "Meaning", "Labels", "Labels then", "Approved"})
_INSTANT = re.compile(r"(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}):[0-9.]+Z")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of the history: `verdict` in words; `proved` is None where nobody looked."""

    proved: bool | None
    verdict: str
    first_bad: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All that the report tells, in the order of the history."""

    title: str
    root: str
    main: str
    audit: str
    selection: Selection
    end: datetime
    proof: Proof
    rows: tuple[LedgerRow, ...]
    keys: tuple[KeyAge, ...]

    @property
    def operations(self) -> tuple[LedgerRow, ...]:
        """Operations and desired-state orders."""
        return tuple(row for row in self.rows if row.kind in ("operation", "desired-state"))

    @property
    def exceptions(self) -> tuple[LedgerRow, ...]:
        """What an auditor must look at."""
        return tuple(row for row in self.rows if row.kind == "exception")

    @property
    def refusals(self) -> tuple[LedgerRow, ...]:
        """Requests that ended without being executed."""
        return tuple(row for row in self.rows if row.kind == "refusal")

    @property
    def rotations(self) -> tuple[tuple[str, int, datetime], ...]:
        """For each service how often its key was rotated with success, and when last."""
        done: dict[str, list[datetime]] = {}
        for row in self.operations:
            if (row.action, row.outcome) == (ROTATE, "succeeded"):
                done.setdefault(row.service, []).append(row.at)
        return tuple((name, len(times), max(times)) for name, times in sorted(done.items()))


@dataclass(frozen=True, slots=True)
class _Table:
    heading: str
    empty: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def proof_line(proof: Proof) -> str:
    """The first thing to read."""
    if proof.proved is None:
        return f"NOT PROVED: nobody checked this history for this report. {proof.verdict}"
    if not proof.proved:
        return f"NOT PROVED: {proof.verdict}"
    return f"Proved {proof.verdict.removeprefix('proved ')}"


def as_value(report: Report) -> dict[str, object]:
    """The report as JSON values."""
    return {
        "title": report.title,
        "repository": report.root,
        "main": report.main,
        "audit": report.audit,
        "from": _time(report.selection.since),
        "to": _time(report.end),
        "selector": dict(report.selection.selector),
        "action": report.selection.action,
        "proved": report.proof.proved,
        "verdict": report.proof.verdict,
        "firstBad": report.proof.first_bad,
        "rotations": [
            {"service": name, "count": count, "last": _time(last)} for name, count, last in report.rotations
        ],
        "exceptions": [values(row) for row in report.exceptions],
        "operations": [values(row) for row in report.operations],
        "refusals": [values(row) for row in report.refusals],
        "keys": [
            {
                "service": key.service,
                "labels": dict(sorted(key.labels.items())),
                "created": _time(key.created),
                "due": _time(key.due),
                "overdue": key.overdue,
            }
            for key in report.keys
        ],
    }


def as_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown."""
    lines = [f"# {_md(report.title)}", "", f"**{_md(proof_line(report.proof))}**", ""]
    lines += [f"- {_md(name)}: {_md(value)}" for name, value in _facts(report)]
    for table in _tables(report):
        lines += ["", f"## {_md(table.heading)}", ""]
        if not table.rows:
            lines.append(_md(table.empty))
            continue
        lines.append("| " + " | ".join(map(_md, table.columns)) + " |")
        lines.append("|" + " --- |" * len(table.columns))
        lines += ["| " + " | ".join(map(_md, row)) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def as_html(report: Report) -> str:
    """The report as one HTML page that loads nothing and runs nothing."""
    state = "good" if report.proof.proved else "bad"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{_html(report.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{_html(report.title)}</h1>\n<p class="{state}">{_html(proof_line(report.proof))}</p>\n<dl>'
    ]
    parts += [f"<dt>{_html(name)}</dt><dd>{_html(value)}</dd>" for name, value in _facts(report)]
    parts.append("</dl>")
    for table in _tables(report):
        parts.append(f"<h2>{_html(table.heading)}</h2>")
        if not table.rows:
            parts.append(f"<p>{_html(table.empty)}</p>")
            continue
        heading = _html(table.heading)
        parts.append(
            f'<div class="wide" role="region" tabindex="0" aria-label="{heading}">\n<table>\n<thead><tr>'
        )
        parts += [f'<th scope="col">{_html(title)}</th>' for title in table.columns]
        parts.append("</tr></thead>\n<tbody>")
        parts += [_html_row(table.columns, row) for row in table.rows]
        parts.append("</tbody>\n</table>\n</div>")
    return "\n".join(parts) + "\n</body>\n</html>\n"


_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2rem;color:#111;background:#fff}"
    ".wide{overflow-x:auto}table{border-collapse:collapse}"
    "th,td{border:1px solid #bbb;padding:.3rem .5rem;text-align:left;vertical-align:top;white-space:nowrap}"
    "td.long{white-space:normal;min-width:14rem;max-width:32rem;overflow-wrap:break-word}"
    "time{font-variant-numeric:tabular-nums}.good{font-weight:bold;color:#05570f}"
    ".bad{font-weight:bold;color:#8a0010;border:2px solid;padding:.5rem}"
    "dt{font-weight:bold;float:left;clear:left;width:9rem}dd{margin-left:10rem;overflow-wrap:anywhere}"
    "@media(max-width:40rem){body{margin:1rem}dt{float:none}dd{margin-left:0}}"
    "@media print{th,td{white-space:normal;overflow-wrap:anywhere}td.long{min-width:0}}"
)


def _facts(report: Report) -> list[tuple[str, str]]:
    selection = report.selection
    window = f"{_time(selection.since) or 'the beginning'} to {_time(report.end)}"
    outcomes = Counter(row.outcome for row in report.operations)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none"
    facts = [
        ("Window", window),
        ("Selector", _labels(selection.selector)),
        ("Action", selection.action),
        ("Repository", report.root),
        ("main", report.main),
        ("audit", report.audit),
        ("First bad commit", report.proof.first_bad),
        ("Operations", counted),
        ("Exceptions", str(len(report.exceptions))),
        ("Keys overdue", str(sum(key.overdue for key in report.keys))),
    ]
    return [(name, value) for name, value in facts if value]


def _tables(report: Report) -> Iterable[_Table]:
    yield _Table(
        "Exceptions",
        "None.",
        (
            "When",
            "Exception",
            "Service",
            "Action",
            "Outcome",
            "Request",
            "Asked",
            "Approved",
            "What",
            "Commit",
        ),
        tuple(
            (
                _when(row),
                row.reason,
                _service(row),
                row.action,
                row.outcome,
                row.request,
                row.requested_by,
                ", ".join(row.approved_by),
                row.message,
                row.commit[:12],
            )
            for row in report.exceptions
        ),
    )
    seen = sorted({row.reason for row in report.exceptions} & EXCEPTIONS.keys())
    if seen:
        meaning = tuple((reason, EXCEPTIONS[reason]) for reason in seen)
        yield _Table("What these exceptions mean", "", ("Exception", "Meaning"), meaning)
    yield _Table(
        "Rotations by service",
        "None in this window.",
        ("Service", "Rotations", "Last"),
        tuple((name, str(count), _time(last) or "") for name, count, last in report.rotations),
    )
    yield _Table(
        "Keys at the end of the window",
        "No service is selected.",
        ("Service", "Labels", "Created", "Due", "Overdue"),
        tuple(
            (
                key.service,
                _labels(key.labels),
                _time(key.created) or "not on record",
                _time(key.due) or "",
                "OVERDUE" if key.overdue else "",
            )
            for key in report.keys
        ),
    )
    yield _Table(
        "Operations",
        "None in this window.",
        (
            "When",
            "Service",
            "Labels then",
            "Action",
            "Outcome",
            "Request",
            "Asked",
            "Approved",
            "Evidence",
            "Why",
        ),
        tuple(
            (
                _when(row),
                row.service,
                _labels(row.labels),
                row.action,
                f"{row.outcome} ({row.reason})",
                row.request,
                row.requested_by,
                ", ".join(row.approved_by),
                row.evidence,
                row.why,
            )
            for row in report.operations
        ),
    )
    yield _Table(
        "Requests that were refused",
        "None in this window.",
        ("When", "Request", "Phase", "Reason", "What"),
        tuple((_when(row), row.request, row.outcome, row.reason, row.message) for row in report.refusals),
    )


def _when(row: LedgerRow) -> str:
    return instant_text(row.at)


def _time(at: datetime | None) -> str | None:
    return instant_text(at) if at else None


def _service(row: LedgerRow) -> str:
    """The service; where its labels are not known, and so no selector leaves it out, that is said."""
    return f"{row.service} (labels {UNKNOWN})" if row.labels is None else row.service


def _labels(labels: Mapping[str, str] | None) -> str:
    if labels is None:
        return UNKNOWN
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _plain(text: str) -> str:
    """The text on one line, every character that does not simply print written out."""
    return "".join(
        char if unicodedata.category(char) not in _INVISIBLE else f"\\u{ord(char):04x}" for char in text
    )


def _md(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", _plain(text))


def _html(text: str) -> str:
    return html.escape(_plain(text), quote=True)


def _html_row(columns: Sequence[str], row: Sequence[str]) -> str:
    cells = (_html_cell(title, cell) for title, cell in zip(columns, row, strict=True))
    return "<tr>" + "".join(cells) + "</tr>"


def _html_cell(title: str, cell: str) -> str:
    """A cell: only text for people may break over lines; a time is shown to the minute, and is UTC."""
    if title in _LONG:
        return f'<td class="long">{_html(cell)}</td>'
    time = _INSTANT.fullmatch(cell) if title in _TIMES else None
    if time is None:
        return f"<td>{_html(cell)}</td>"
    return f'<td><time datetime="{cell}" title="{cell}">{time[1]} {time[2]} UTC</time></td>'
