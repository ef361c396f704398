"""Terminal escapes and markup in every field that is shown: no screen is painted, no page is changed.

Rules kept: the texts stand wherever the formats let them stand: in documents, in their reasons and
parameters, in outputs and messages of agents, in subjects, trailers and names of commits, in heartbeats, and
in files that are no documents. Every reading verb and every page is looked at.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from capsule.cli import app
from capsule.documents.paths import MAIN
from capsule.store.git import init
from capsule.trust.objects import parse_commit
from capsule.web.app import create_app
from tests.web.chronicle import RECONCILER, Chronicle
from tests.web.integration_services import NOW, OPENAI, integration_services, probes

MARKUP = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{4243*4243}}[red]x[/red]"
PAINT = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\u200b\u2028\r"
BOTH = MARKUP + PAINT
REQUEST = "20261123-hostile-x1y2"
HELD = "20261123-held-x1y2"
VERBS = (
    ("services",),
    ("show", "openai-chat"),
    ("show", REQUEST),
    ("show", HELD),
    ("requests",),
    ("plan",),
    ("log",),
    ("history",),
    ("history", "openai-chat"),
    ("check",),
    ("doctor",),
    ("audit", "verify"),
    ("policy", "allowed-signers"),
    ("show", BOTH),
    ("log", "--service", BOTH),
    (),
)
PAGES = (
    "/",
    "/services/openai-chat",
    "/requests",
    f"/requests/{REQUEST}",
    f"/requests/{HELD}",
    "/audit",
    f"/?q={MARKUP}",
    f"/services/{MARKUP}",
    f"/requests?phase={MARKUP}",
    f"/audit?service={MARKUP}&since={MARKUP}",
    f"/{MARKUP}",
)


def hostile(story: Chronicle, folder: Path) -> Chronicle:
    """A history of eight services, with hostile texts in it."""
    asked = story.request(
        REQUEST,
        "rotateKey",
        ("openai-chat",),
        reason=MARKUP,
        params={"grace": MARKUP, "note": "javascript:alert(1)"},
        approvals={"bob": "approve"},
    )
    refused = story.request("20261123-refused-x1y2", "rotateKey", ("embeddings",), reason=MARKUP)
    story.record(story.claim(asked, "openai-chat", approved_by=("bob",)), BOTH, {"Capsule-Service": BOTH})
    story.record(
        story.result(
            asked, "openai-chat", "failed", "ActionFailed", message=MARKUP, outputs={"keyId": MARKUP}
        )
        | story.refusal(refused, "Rejected", "NotEntitled", MARKUP),
        f"{PAINT} rotateKey openai-chat: succeeded",
        {"Requested-by": BOTH, "Approved-by": BOTH, "Capsule-Outcome": BOTH, "Capsule-Reason": BOTH},
    )
    story.record(
        story.status(
            OPENAI,
            "UNHEALTHY",
            "HealthDown",
            message=MARKUP,
            version=MARKUP,
            values={"model": MARKUP, "upstream": "javascript:alert(1)"},
            health={"status": "DOWN", "detail": MARKUP, "since": "2026-11-23T00:00:00Z"},
        ),
        f"status {BOTH}",
    )
    story.commit({f"services/broken{at}.yaml": text for at, text in enumerate(broken())}, BOTH)
    _by_hostile_name(story, folder)
    story.request(HELD, "rotateKey", ("embeddings",), reason=MARKUP, approvals={"bob": "approve"})
    waits = {f"{REQUEST}/openai-chat": BOTH, f"{HELD}/": f"AgentNotReachable: {BOTH}", "x/": BOTH}
    story.beat(probes(story) | {"openai-chat": story.probe(reason=BOTH)}, waits=waits)
    return story


def broken() -> list[str]:
    """Files that are no documents, and say so in a message that must quote them."""
    return [
        BOTH,
        f"apiVersion: capsule/v1\nkind: {MARKUP}\n",
        f"a: {PAINT}\n",
        f'kind: "{MARKUP}"\nx: "\\e[2J"\n',
    ]


def _by_hostile_name(story: Chronicle, folder: Path) -> None:
    """A commit on main by somebody with an odd name, as other tools than ours may write it."""
    tip = story.ref(MAIN)
    tree = parse_commit(story.store.read(tip)[1]).tree
    name = PAINT.replace("\r", "") + MARKUP.replace("<", "(").replace(">", ")")
    person = f"{name} <bob@example.com> 1795000000 +0000"
    raw = f"tree {tree}\nparent {tip}\nauthor {person}\ncommitter {person}\n\n{BOTH}\n\n{BOTH}\n"
    words = ["git", "-C", str(folder), "hash-object", "-w", "-t", "commit", "--literally", "--stdin"]
    made = subprocess.run(words, input=raw.encode(), capture_output=True, check=True, timeout=30).stdout
    story._move(MAIN, made.decode().strip())
    story.record({"status/filler.txt": b"x"}, BOTH, who=RECONCILER)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Chronicle]]:
    folder = tmp_path_factory.mktemp("hostile") / "state.git"
    store: Any = init(folder, bare=True)
    story = hostile(integration_services(store), folder)
    yield folder, story
    shutil.rmtree(folder)


def painted(text: str) -> set[str]:
    """The characters of `text` that could do something to a terminal."""
    return {char for char in text if not char.isprintable() and char != "\n"}


@pytest.mark.parametrize(
    "words", VERBS, ids=lambda words: "-".join(words)[:20].encode("ascii", "ignore").decode() or "none"
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_terminal_escapes_in_every_field_that_a_verb_shows(
    state: tuple[Path, Chronicle], words: tuple[str, ...], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, story = state
    monkeypatch.setenv("HOME", str(folder.parent))
    more = ["--json"] if form == "json" and words and words[0] != "policy" else []
    done = CliRunner().invoke(app, ["-C", str(folder), "--root", story.root, *words, *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert painted(done.output) == set()
    if more and done.stdout.startswith(("{", "[")) and words[0] != "watch":
        assert json.loads(done.stdout) is not None


class Elements(HTMLParser):
    """What a browser would make of a page: names of elements with names of attributes, and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action")]


@pytest.mark.parametrize("page", PAGES, ids=range(len(PAGES)))
def test_markup_in_every_field_that_a_page_shows(state: tuple[Path, Chronicle], page: str) -> None:
    _, story = state
    client = create_app(lambda: story.store, story.root, lambda: NOW).test_client()
    answer = client.get(page)
    assert answer.status_code < 500
    found = Elements()
    found.feed(answer.text)
    assert [each for each in found.elements if each[0] in ("img", "iframe", "object", "style")] == []
    assert [each for each in found.elements if any(name.startswith("on") for name in each[1])] == []
    assert all("src" in names for tag, names in found.elements if tag == "script")
    assert [
        each for each in found.addresses if each.lower().strip().startswith(("javascript:", "data:"))
    ] == []
    assert painted(answer.text) <= {"\t"}
    assert "18003049" not in answer.text or "{{4243*4243}}" in answer.text
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "page", ["/api/v1/services", "/api/v1/requests", "/api/v1/audit", "/api/v1/services/openai-chat"]
)
def test_escapes_in_every_field_of_json(state: tuple[Path, Chronicle], page: str) -> None:
    _, story = state
    answer = create_app(lambda: story.store, story.root, lambda: NOW).test_client().get(page)
    assert answer.status_code == 200
    assert painted(answer.text) == set()
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_hostile_texts_are_there(state: tuple[Path, Chronicle]) -> None:
    """Else the tests above would find nothing in nothing."""
    folder, story = state
    shown = {
        words: CliRunner().invoke(app, ["-C", str(folder), "--root", story.root, *words]).output
        for words in (("show", "openai-chat"), ("show", REQUEST), ("log",))
    }
    assert all("alert(1)" in text for text in shown.values()), shown
    assert "\\x1b[2J" in shown["log",]
    client = create_app(lambda: story.store, story.root, lambda: NOW).test_client()
    for page in PAGES[:5]:
        assert "&lt;script&gt;" in client.get(page).text, page


def test_control_what_a_heartbeat_says_of_a_hold_is_among_these_texts(state: tuple[Path, Chronicle]) -> None:
    _, story = state
    client = create_app(lambda: story.store, story.root, lambda: NOW).test_client()
    item = client.get(f"/api/v1/requests/{HELD}").json["item"]
    assert (item["phase"], item["reason"], item["message"].startswith(MARKUP)) == (
        "Held",
        "AgentNotReachable",
        True,
    )
