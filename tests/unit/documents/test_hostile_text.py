"""Every text that could mean two things, hide something or cost too much is refused, with its place."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.documents.codec import MAX_BYTES, load, parse, parser
from capsule.documents.problems import REASONS, InvalidDocument, Problem

HOSTILE: dict[str, tuple[bytes, str, int, int]] = {
    "alias bomb": (
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "AnchorNotAllowed",
        1,
        4,
    ),
    "alias alone": (b"a: *x\n", "AliasNotAllowed", 1, 4),
    "self reference": (b"&a [*a]\n", "AnchorNotAllowed", 1, 1),
    "anchor on a key": (b"&k key: value\n", "AnchorNotAllowed", 1, 1),
    "merge key": (b"a: 1\n<<: {confirm: true}\n", "MergeKeyNotAllowed", 2, 1),
    "merge key as value": (b"a: <<\n", "MergeKeyNotAllowed", 1, 4),
    "duplicate key": (b"a: 1\nb: 2\na: 3\n", "DuplicateKey", 3, 1),
    "duplicate key, quoted otherwise": (b'a: 1\n"a": 3\n', "DuplicateKey", 2, 1),
    "python object": (b"a: !!python/object/apply:os.system [id]\n", "TagNotAllowed", 1, 4),
    "standard tag": (b"a: !!str 5\n", "TagNotAllowed", 1, 4),
    "local tag": (b"a: !secret x\n", "TagNotAllowed", 1, 4),
    "lone tag": (b"a: ! x\n", "TagNotAllowed", 1, 4),
    "verbatim tag on a mapping": (b"a: !<tag:x> {b: 1}\n", "TagNotAllowed", 1, 4),
    "several documents": (b"a: 1\n---\nb: 2\n", "SeveralDocuments", 2, 1),
    "version directive": (b"%YAML 1.1\n---\na: 1\n", "DirectiveNotAllowed", 1, 1),
    "tag directive": (b"%TAG ! tag:x,2000:\n---\na: 1\n", "DirectiveNotAllowed", 1, 1),
    "unknown directive": (b"%FOO bar\n---\na: 1\n", "BadSyntax", 1, 5),
    "nothing": (b"", "EmptyDocument", 1, 1),
    "only a comment": (b"# a: 1\n", "EmptyDocument", 2, 1),
    "byte order mark": (b"\xef\xbb\xbfa: 1\n", "ByteOrderMark", 1, 1),
    "utf-16": ("a: 1\n".encode("utf-16"), "ByteOrderMark", 1, 1),
    "utf-16 without a mark": ("a: 1\n".encode("utf-16-le"), "ForbiddenCharacter", 1, 2),
    "latin-1": (b"a: 1\nb: caf\xe9\n", "NotUtf8", 2, 7),
    "overlong encoding": (b"a: \xc0\xaf\n", "NotUtf8", 1, 4),
    "surrogate": (b"a: \xed\xa0\x80\n", "NotUtf8", 1, 4),
    "null byte": (b"a: 1\x00\n", "ForbiddenCharacter", 1, 5),
    "delete": (b"a: x\x7f\n", "ForbiddenCharacter", 1, 5),
    "escape character": (b"a: \x1b[2J\n", "ForbiddenCharacter", 1, 4),
    "escaped escape character": (b'a: "\\e[2J"\n', "ForbiddenCharacter", 1, 4),
    "escaped line separator": (b'a: "x\\Ly"\n', "ForbiddenCharacter", 1, 4),
    "escaped right-to-left override": (b'b: 1\na: "x\\u202ey"\n', "ForbiddenCharacter", 2, 4),
    "escaped carriage return": (b'a: "x\\ry"\n', "ForbiddenCharacter", 1, 4),
    "key hidden behind a line separator": (
        "# note\u2028approvals: []\n".encode(),
        "ForbiddenCharacter",
        1,
        7,
    ),
    "paragraph separator": ("a: x\u2029\n".encode(), "ForbiddenCharacter", 1, 5),
    "next line": ("# note\u0085approvals: []\n".encode(), "ForbiddenCharacter", 1, 7),
    "lone carriage return": (b"# note\rapprovals: []\n", "ForbiddenCharacter", 1, 7),
    "right-to-left override": ("a: \u202ex\n".encode(), "ForbiddenCharacter", 1, 4),
    "isolate": ("a: 1\n# \u2067x\n".encode(), "ForbiddenCharacter", 2, 3),
    "zero width space": ("ap\u200bprovals: []\n".encode(), "ForbiddenCharacter", 1, 3),
    "byte order mark inside": ("a: \ufeffx\n".encode(), "ForbiddenCharacter", 1, 4),
    "tag characters": ("a: x\U000e0041\n".encode(), "ForbiddenCharacter", 1, 5),
    "tab as indentation": (b"a:\n\tb: 1\n", "BadSyntax", 2, 1),
    "unclosed list": (b"a: [1\n", "BadSyntax", 2, 1),
    "colon in plain text": (b"a: b: c\n", "BadSyntax", 1, 5),
    "escape beyond Unicode": (b'a: "\\U00110000"\n', "BadSyntax", 1, 7),
    "escape far beyond Unicode": (b'a: "\\UFFFFFFFF"\n', "BadSyntax", 1, 7),
    "escaped surrogate": (b'a: "\\ud800"\n', "BadSyntax", 1, 7),
    "reserved indicator": (b"a: @x\n", "BadSyntax", 1, 4),
    "unknown escape": (b'a: "\\q"\n', "BadSyntax", 1, 5),
    "deep flow lists": (b"[" * 200_000, "TooDeep", 1, 33),
    "deep flow mappings": (b"{a: " * 50_000, "TooDeep", 1, 129),
    "deep block lists": (b"- " * 100_000, "TooDeep", 1, 65),
    "deep mappings as keys": (b"? " * 100_000, "TooDeep", 1, 65),
    "deep behind brackets in comments": (b"[ #]\n" * 40_000, "TooDeep", 33, 1),
    "oversize": (b"a: " + b"x" * MAX_BYTES, "TooLarge", 1, 1),
    "20 MB scalar": (b"a: '" + b"x" * 20_000_000 + b"'", "TooLarge", 1, 1),
    "integer of 5000 digits": (b"a: " + b"7" * 5000 + b"\n", "IntegerTooLarge", 1, 4),
    "integer above 53 bits": (b"a: 9007199254740992\n", "IntegerTooLarge", 1, 4),
    "integer below 53 bits": (b"a: -9007199254740992\n", "IntegerTooLarge", 1, 4),
    "day that does not exist": (b"a: 2026-99-99\n", "AmbiguousScalar", 1, 4),
    "integer key": (b"1: x\n", "KeyNotText", 1, 1),
    "boolean key": (b"true: x\n", "KeyNotText", 1, 1),
    "null key": (b"null: x\n", "KeyNotText", 1, 1),
    "list as key": (b"[a]: x\n", "KeyNotText", 1, 1),
    "mapping as key": (b"{a: 1}: x\n", "KeyNotText", 1, 1),
    "empty key": (b"? \n: x\n", "EmptyValue", 1, 2),
    "ambiguous key": (b"on: x\n", "AmbiguousScalar", 1, 1),
    "empty value": (b"a:\nb: 1\n", "EmptyValue", 1, 3),
    "empty item": (b"- a\n-\n", "EmptyValue", 2, 2),
    "float": (b"a: 1.5\n", "FloatNotAllowed", 1, 4),
}

AMBIGUOUS = [
    "no",
    "No",
    "NO",
    "yes",
    "Yes",
    "YES",
    "on",
    "On",
    "ON",
    "off",
    "Off",
    "OFF",
    "y",
    "Y",
    "n",
    "N",
    "True",
    "TRUE",
    "False",
    "FALSE",
    "tRue",
    "~",
    "Null",
    "NULL",
    "=",
    "010",
    "0o10",
    "0x1f",
    "0X1F",
    "0b101",
    "+5",
    "-0",
    "00",
    "007",
    "1_000",
    "1,000",
    "1:20",
    "190:20:30",
    "1:20.5",
    "6e12",
    "6E12",
    "1e5",
    "12e03",
    ".inf",
    "-.inf",
    "+.INF",
    ".nan",
    ".NaN",
    "1.",
    ".5",
    "+1.5",
    "01.5",
    "1_0.5",
    "2026-11-23",
    "2026-1-2",
    "2026-11-30T00:00:00Z",
    "2026-99-99",
    "2001-12-14t21:59:43.10-05:00",
]
TEXT = [
    "1.8.2",
    "10.0.3.4",
    "gpt-5.1",
    "30s",
    "24h",
    "nope",
    "yesterday",
    "none",
    "nullable",
    "truely",
    "on-call",
    "off_peak",
    "0x",
    "0xyz",
    "1a",
    "12-14",
    "20261123-rotate",
    "2026-11",
    "2026-11-23-rotate",
    "https://x.example/y?z=1",
    "a:b",
    "v1",
    "-",
    "-",
    "e5",
    "_1",
    "localhost:8080",
]


@pytest.fixture(params=["C parser", "pure parser"])
def _either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pure parser":
        monkeypatch.setattr(parser, "CParser", None)
    else:
        assert parser.CParser is not None


def _first(data: bytes) -> Problem:
    with pytest.raises(InvalidDocument) as caught:
        parse(data, path="x.yaml")
    return caught.value.problems[0]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_with_its_place(name: str) -> None:
    data, reason, line, column = HOSTILE[name]
    began = time.monotonic()
    found = _first(data)
    assert time.monotonic() - began < 2
    assert (found.reason, found.line, found.column) == (reason, line, column)
    assert found.path == "x.yaml"
    assert found.severity == "error"
    assert len(found.message) < 300


_OTHER_REASON = {"unknown directive": "DirectiveNotAllowed", "escaped surrogate": "ForbiddenCharacter"}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_pure_parser_refuses_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "CParser", None)
    data, reason, line, _ = HOSTILE[name]
    found = _first(data)
    assert found.reason == _OTHER_REASON.get(name, reason)
    assert found.line == line or reason in ("BadSyntax", "EmptyValue", "DirectiveNotAllowed")


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_a_scalar_that_readers_read_differently_is_refused(text: str) -> None:
    found = _first(f"a:\n  - {text}\n".encode())
    expected = {"1.", "1.5", "-1.5"}
    assert found.reason == ("FloatNotAllowed" if text in expected - {"1."} else "AmbiguousScalar")
    assert (found.line, found.column) == (2, 5)
    assert f'"{text}"' in found.hint


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_the_same_text_in_quotes_is_text(text: str) -> None:
    assert parse(f'a: "{text}"\n'.encode(), path="x.yaml").value == {"a": text}
    assert parse(f"a: '{text}'\n".encode(), path="x.yaml").value == {"a": text}
    assert parse(f"a: |-\n  {text}\n".encode(), path="x.yaml").value == {"a": text}


@pytest.mark.parametrize("text", [text for text in TEXT if text != "-"])
def test_text_that_only_looks_like_something_else_is_text(text: str) -> None:
    assert parse(f"a: {text}\n".encode(), path="x.yaml").value == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("0", 0),
        ("-7", -7),
        ("9007199254740991", 2**53 - 1),
        ("-9007199254740991", -(2**53) + 1),
        ("{}", {}),
        ("[]", ()),
        ("[1, [a]]", (1, ("a",))),
        ("{a: {b: c}}", {"a": {"b": "c"}}),
        ('""', ""),
        ('"\\u00fc\\n\\t"', "ü\n\t"),
    ],
)
def test_what_is_plain_in_every_version_is_read(text: str, value: object) -> None:
    found = parse(f"x: {text}\n".encode(), path="x.yaml").value
    assert found == {"x": value}
    assert isinstance(found, dict)
    assert type(found["x"]) is type(value)


@pytest.mark.usefixtures("_either_parser")
def test_both_parsers_read_the_same() -> None:
    text = '---\na: [1, two, {b: null}]\r\nc: |\n  line\n  line\nd: "q\\""\n# end\n...\n'
    node = parse(text.encode(), path="x.yaml")
    assert node.value == {"a": (1, "two", {"b": None}), "c": "line\nline\n", "d": 'q"'}
    assert (node.children["c"].line, node.children["c"].column) == (3, 4)
    assert (node.children["a"].items[1].line, node.children["a"].items[1].column) == (2, 8)


def test_the_c_parser_is_used_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "_ruamel_yaml", None)
    try:
        assert importlib.reload(parser).CParser is None
    finally:
        monkeypatch.undo()
        assert importlib.reload(parser).CParser is not None


def test_all_problems_are_found_in_one_run() -> None:
    data = b"a: no\nb: &x 1\nc: *x\nd: !t 1\na: 010\n7: x\ne: 1.5\n"
    with pytest.raises(InvalidDocument) as caught:
        parse(data, path="dir/x.yaml")
    found = [(problem.line, problem.reason) for problem in caught.value.problems]
    assert found == [
        (1, "AmbiguousScalar"),
        (2, "AnchorNotAllowed"),
        (3, "AliasNotAllowed"),
        (4, "TagNotAllowed"),
        (5, "AmbiguousScalar"),
        (5, "DuplicateKey"),
        (6, "KeyNotText"),
        (7, "FloatNotAllowed"),
    ]
    assert "dir/x.yaml:1:4: error: " in str(caught.value)


@pytest.mark.parametrize("data", [b"a: " + b"\x1b" * 5000, b"- no\n" * 50_000, b'- "\\e"\n' * 30_000])
def test_the_number_of_problems_is_bounded(data: bytes) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse(data, path="x.yaml")
    assert len(caught.value.problems) == parser.MAX_PROBLEMS


def test_the_size_bound_can_be_set() -> None:
    with pytest.raises(InvalidDocument):
        parse(b"a: 1234567\n", path="x.yaml", max_bytes=10)
    assert parse(b"a: 1234567\n", path="x.yaml", max_bytes=11).value == {"a": 1234567}


def test_every_reason_is_explained() -> None:
    assert {reason for _, reason, _, _ in HOSTILE.values()} <= REASONS.keys()
    assert all(text.endswith((".", "…")) and text[0].isupper() for text in REASONS.values())


_PIECES = st.sampled_from(
    [
        "a",
        "kind",
        ": ",
        ":",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\n",
        "  ",
        "&a",
        "*a",
        "!t",
        "<<",
        "#",
        '"',
        "'",
        "|",
        ">",
        "%YAML 1.1",
        "---",
        "...",
        "? ",
        "no",
        "010",
        "1.5",
        "\\e",
        "\u2028",
        "\u202e",
        "\x1b",
        "\r",
        "\t",
        "ü",
        "@",
        "`",
        "apiVersion: capsule/v1\n",
        "kind: Service\n",
        "metadata: {name: x}\n",
        "spec:\n",
        "null",
        "~",
        "1" * 30,
    ]
)


@settings(max_examples=300, deadline=2000)
@given(
    st.one_of(
        st.binary(max_size=300), st.lists(_PIECES, max_size=40).map(lambda parts: "".join(parts).encode())
    )
)
def test_no_bytes_at_all_make_load_raise(data: bytes) -> None:
    for path in ("x.yaml", "x.json"):
        document, problems = load(data, path)
        assert (document is None) == bool(problems)
        assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)
        assert all(problem.reason in REASONS for problem in problems)
        assert all(problem.message.isprintable() for problem in problems)
