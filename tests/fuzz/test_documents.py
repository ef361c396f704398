"""Any bytes as a document: a document that comes back as it was, or problems that each tell a place."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from capsule.documents import codec
from capsule.documents.check import check_tree
from capsule.documents.digests import target_digest
from capsule.documents.problems import REASONS, InvalidDocument, Problem
from capsule.documents.types import Service
from capsule_agent.protocol import messages
from tests.agent_fixtures import Ask, signers_list
from tests.fuzz.fuzzing import fuzz, spoiled
from tests.trust_history import Audit, approved, first_files, policy_text, request_text, service_text

HISTORY, RAW = approved()
MACHINE = Audit(HISTORY)
RECORDS = [*MACHINE.claim(RAW).values(), *MACHINE.result(RAW).values(), *MACHINE.refusal(RAW).values()]
YAML = [
    policy_text(),
    service_text(extra="  onDrift: correct\n"),
    request_text(),
    first_files()["capsule.yaml"],
]
YAML += [data for data in RECORDS if data and data.startswith(b"apiVersion")]
JSON = [Ask().approval("bob").to_json(), signers_list().document.encode()]
JSON += [data for path, data in HISTORY.files.items() if path.endswith(".json")]
WORDS = [
    *(b": ", b"- ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"!!str ", b"!x ", b"<<: ", b"? ", b"|\n", b">\n"),
    *(
        b"---\n",
        b"...\n",
        b"%YAML 1.1\n",
        b"#",
        b"'",
        b'"',
        b"\\u2028",
        b"\\x00",
        b"\t",
        b"no",
        b"010",
        b"6e12",
    ),
    *(b"2026-11-23", b"~", b"1e999", b"[" * 40, b"{a: " * 40, b"- " * 40, b"kind: Policy\n", b"spec:\n"),
]


def check_places(data: bytes, problems: tuple[Problem, ...]) -> None:
    lines = data.count(b"\n") + 2
    for problem in problems:
        assert problem.reason in REASONS
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert len(problem.message) < 2000
        assert problem.message.isprintable()


@fuzz(data=spoiled(YAML, WORDS) | st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_yaml_document_or_problems_with_their_places(data: bytes) -> None:
    document, problems = codec.load(data, "services/x.yaml")
    assert (document is None) == bool(problems)
    check_places(data, problems)
    if document is not None:
        again, none = codec.load(codec.emit(document), "services/x.yaml")
        assert (again, none) == (document, ())
    if isinstance(document, Service):
        assert target_digest(document).startswith("sha256:")


@fuzz(data=spoiled(JSON, [b'"', b"{", b"[", b",", b"\\ud800", b"NaN", b"1e999", b"null", b"[" * 40]))
def test_any_bytes_are_a_json_document_or_problems_with_their_places(data: bytes) -> None:
    document, problems = codec.load(data, "approvals/bob.json")
    assert (document is None) == bool(problems)
    check_places(data, problems)


@fuzz(data=spoiled(YAML, WORDS))
def test_any_bytes_are_nodes_or_an_invalid_document(data: bytes) -> None:
    try:
        codec.parse(data, path="x.yaml")
    except InvalidDocument as error:
        check_places(data, tuple(error.problems))


@fuzz(data=spoiled([service_text(extra="  onDrift: report # seen\n")], WORDS), value=st.text(max_size=20))
def test_an_edit_of_any_document_is_made_or_refused(data: bytes, value: str) -> None:
    """What is edited says exactly what was asked for."""
    try:
        edited = codec.edit(data, {("spec", "pins", "model"): value})
    except (InvalidDocument, codec.CannotEdit):
        return
    node = codec.parse(edited, path="x.yaml")
    assert node.children["spec"].children["pins"].children["model"].value == value


FILES = dict(HISTORY.files)
PATHS = sorted(FILES)


@fuzz(
    path=st.sampled_from(PATHS),
    data=spoiled(sorted(FILES.values()), WORDS),
    named=st.sampled_from(
        [*PATHS, "services/é.yaml", "x", "requests/2026/13/r/request.yaml", "services//a.yaml"]
    ),
)
def test_a_tree_with_any_file_is_checked(path: str, data: bytes, named: str) -> None:
    for problem in check_tree({**FILES, path: data, named: data}):
        assert problem.path in FILES or problem.path == named
        assert problem.message.isprintable()


def test_the_samples_are_right() -> None:
    assert all(codec.load(data, "x.yaml")[1] == () for data in YAML)
    assert all(codec.load(data, "x.json")[1] == () for data in JSON)
    assert len(YAML) == 7
    assert messages.decode(messages.Approval, JSON[0]).principal == "bob"


@pytest.mark.parametrize("data", [b"kind: {a: b}\n", b"kind: [a]\n", b"apiVersion: {a: b}\nkind: Policy\n"])
def test_a_kind_that_is_no_text_is_a_problem(data: bytes) -> None:
    """What the long run once found."""
    document, problems = codec.load(data, "services/x.yaml")
    assert document is None
    assert problems
