"""The pull request of a request: its title, its body, whom it asks, and opening it at the forge.

Rules kept: every text that people or documents brought is escaped, so that none becomes markup, a link or a
mention; reviewers are the people who may still approve, by the numbers of their accounts. Called by
`capsule request --push`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from capsule.commands.errors import SetUpProblem
from capsule.commands.forge_access import Connect, reaching
from capsule.commands.repository import Repository
from capsule.documents.paths import REQUEST_BRANCHES
from capsule.documents.problems import shown
from capsule.documents.scalars import duration_text, instant_text
from capsule.documents.types import ForgeSettings, Policy, Scalar
from capsule.forge.api import MOST_COMMENT
from capsule.forge.choose import web_address
from capsule.plan import missing_text
from capsule.trust.state import JudgedRequest, MainState

_MARKUP = {ord(each): f"&#{ord(each)};" for each in "\\`*_{}[]()<>+|:\"'"}
_JOINER = "&#8288;"
_REFERENCES = {ord(each): f"&#{ord(each)};{_JOINER}" for each in "@#!~$%&"}
"""What forges look for in the text that is shown, after entities were read: an invisible joiner parts it."""
_CUT = "\nThis is too long for a forge, and was cut here; `capsule approval` shows all of it.\n"
_MOST_ROWS = 200
_MOST_REVIEWERS = 15
_MOST_TITLE = 200


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where the pull request is, or (`opened` false) where a person opens it. `unasked` are people who may
    approve and could not be asked at the forge."""

    address: str
    opened: bool
    number: int = 0
    unasked: tuple[str, ...] = ()


def require_forge(repository: Repository) -> ForgeSettings:
    """The forge that the settings in force name. Raises SetUpProblem."""
    settings = repository.state.settings.document.spec.forge
    if settings is None:
        raise SetUpProblem(
            "NoForge",
            "capsule.yaml in force names no forge, so no pull request can be opened",
            "Propose it: spec.forge: {kind: github, server: https://github.com, repository: owner/name}",
        )
    if not repository.store.has_remote():
        raise SetUpProblem(
            "NoRemote",
            "this repository has no remote: no forge knows its branches",
            "git remote add origin URL",
        )
    return settings


def push(repository: Repository, judged: JudgedRequest, connect: Connect | None) -> Pushed:
    """Open the pull request of a request on its branch, or say where a person does. Raises SetUpProblem."""
    state = repository.state
    settings = require_forge(repository)
    branch = (REQUEST_BRANCHES + judged.name).removeprefix("refs/heads/")
    if connect is None:
        return Pushed(web_address(settings, branch), False)
    accounts = reviewers(state.policy.document, judged, settings.kind)
    try:
        with reaching(connect, settings) as forge:
            opened = forge.open_pull(branch, title(judged), bounded(body(state, judged)), list(accounts))
    except SetUpProblem as error:
        by_hand = f"The request is on its branch. By hand: {web_address(settings, branch)}"
        raise SetUpProblem(error.reason, error.message, f"{error.hint}\n{by_hand}") from None
    unasked = [accounts[each] for each in opened.unasked]
    unasked += [name for name in _candidates(judged) if name not in accounts.values()]
    return Pushed(opened.address, True, opened.number, tuple(sorted(unasked)))


def reviewers(policy: Policy, judged: JudgedRequest, kind: str) -> Mapping[int, str]:
    """The people who may still approve and have an account at the forge: number of the account, name."""
    people = policy.spec.principals
    found = {people[name].forge[kind]: name for name in _candidates(judged) if kind in people[name].forge}
    return dict(list(found.items())[:_MOST_REVIEWERS])


def title(judged: JudgedRequest) -> str:
    """Such as "rotateKey on openai-chat"."""
    assert judged.document is not None  # a request that cannot be read is refused before it is pushed
    spec = judged.document.spec
    names = ", ".join(spec.targets[:3])
    more = f" and {len(spec.targets) - 3} more" if len(spec.targets) > 3 else ""
    return f"{spec.action} on {names}{more}"[:_MOST_TITLE]


def body(state: MainState, judged: JudgedRequest) -> str:
    """What a reviewer must see, in Markdown: who asks for what and why, and the plan as a table."""
    assert judged.document is not None
    spec = judged.document.spec
    facts = [
        ("Asked by", spec.requested_by),
        ("Action", spec.action),
        ("With", _pairs(spec.params)),
        ("Reason", spec.reason),
        ("Expires", instant_text(spec.expires)),
        ("Not before", instant_text(spec.not_before) if spec.not_before else ""),
        ("Waits for", missing_text(judged)),
        ("Digest", judged.digest),
    ]
    lines = [f"Request `{judged.name}`", "", *table(("", ""), [pair for pair in facts if pair[1]])]
    lines += [
        "",
        "### Plan",
        "",
        plan_table(state, judged),
        "Approve here where the policy accepts reviews, or sign:",
        "",
    ]
    return "\n".join([*lines, "```", f"capsule approve {judged.name}", "```", ""])


def plan_table(state: MainState, judged: JudgedRequest) -> str:
    """What happens to each target, as a Markdown table."""
    assert judged.document is not None
    lines = table(("service", "what happens", "labels", "pins"), _plan(state, judged))
    left = len(judged.document.spec.targets) - _MOST_ROWS
    lines += ["", f"and {left} more, which stand in request.yaml"] if left > 0 else []
    return "\n".join([*lines, ""])


def _plan(state: MainState, judged: JudgedRequest) -> Iterable[tuple[str, ...]]:
    assert judged.document is not None
    spec = judged.document.spec
    size = spec.rollout.parallel
    for index, name in enumerate(spec.targets[:_MOST_ROWS]):
        service = state.services.get(name)
        batch = f", batch {index // size + 1}" if len(spec.targets) > size else ""
        pause = f", {duration_text(spec.rollout.pause)} after the one before" if spec.rollout.pause else ""
        labels = _pairs(service.document.metadata.labels) if service else "not in force"
        pins = _pairs(service.document.spec.pins) if service else ""
        yield name, f"{spec.action}{batch}{pause if batch else ''}", labels, pins


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A Markdown table; every cell is escaped."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(escaped(cell) for cell in row)} |" for row in rows]


def escaped(text: str) -> str:
    """`text` so that Markdown and HTML show it, and neither a forge nor a browser reads anything into it."""
    told = shown(text).translate(_MARKUP | _REFERENCES)
    return told.replace("&#58;//", f"&#58;{_JOINER}//").replace("www.", f"www{_JOINER}.")


def bounded(text: str, most: int = MOST_COMMENT) -> str:
    """`text` cut at the end of a line, with a word about it, so that a forge takes it."""
    if len(text) <= most:
        return text
    kept = text[: most - len(_CUT)]
    return kept[: kept.rfind("\n") + 1] + _CUT


def _pairs(values: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _candidates(judged: JudgedRequest) -> list[str]:
    return sorted({name for each in judged.missing for name in each.candidates})
