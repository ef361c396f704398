"""Commits and trees read from their raw bytes, strictly: what two readers could read differently is an error.

Rules kept: duplicate or misplaced headers, NUL bytes, special modes, `.git`-like, hidden and colliding names
are errors with a reason. Formats: the git book's chapter on objects, gitformat-signature. Called by objects.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

REASONS: dict[str, str] = {
    "MalformedCommit": "A commit whose raw bytes git's own tools would read in more than one way, "
    "for example with two author headers. Write the commit again with git itself.",
    "MalformedTree": "A tree whose raw bytes are not a well-formed, sorted list of entries.",
    "ForbiddenMode": "A symlink, a submodule or another special entry. State repositories hold folders "
    "and plain files alone: remove the entry.",
    "ForbiddenName": "A file name that git or a file system treats specially, such as .git or a name "
    "with control characters: rename the file.",
    "CollidingNames": "Two names in one folder that differ only in case or in Unicode form, so that some "
    "computers would see one file: rename one of them.",
    "WrongKind": "An id names another kind of object than its place demands, such as a tag in place of "
    "a commit.",
    "TooLarge": "A tree or a file that is larger, fuller or deeper than is ever sensible.",
}

FOLDER = 0o40000
MAX_COMMIT_BYTES = 1024 * 1024

_MODES = {b"40000": FOLDER, b"100644": 0o100644, b"100755": 0o100755}
_HEX = re.compile(rb"[0-9a-f]{40}")
_PERSON = re.compile(rb"([^<>\n]*) <([^<>\n]*)> (0|[1-9][0-9]{0,11}) ([+-][0-9]{4})")
_HEADER = re.compile(rb"[A-Za-z][A-Za-z0-9:._-]*")
_TRAILER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*): (.*)")
_ONCE = frozenset({b"tree", b"author", b"committer", b"parent", b"encoding", b"gpgsig", b"gpgsig-sha256"})
_ORDINARY = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_ORDINARY_ENTRY = re.compile(rb"(40000|100644|100755) ([A-Za-z0-9_-][A-Za-z0-9._-]*)\0(.{20})", re.DOTALL)
_GIT_LIKE = re.compile(r"\.git|\.git:.*|git~[0-9]+")


class BadObject(ValueError):
    """An object that no verdict may rest on. `reason` is one of REASONS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Stamp:
    """Author or committer as the commit says it; nothing here is proved. `at` is in Unix seconds."""

    name: str
    email: str
    at: int


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """A commit, read strictly. `signed_payload` are the bytes that `signature` is about."""

    tree: str
    parents: tuple[str, ...]
    author: Stamp
    committer: Stamp
    signature: str | None
    signed_payload: bytes
    message: str
    trailers: Mapping[str, tuple[str, ...]]


class TreeEntry(NamedTuple):
    """One entry of a tree: a folder (mode 0o40000) or a plain file. (A long proof makes millions.)"""

    mode: int
    name: str
    oid: str

    @property
    def is_folder(self) -> bool:
        return self.mode == FOLDER


# ---- commits ------------------------------------------------------------------------------------


def parse_commit(data: bytes) -> CommitInfo:
    """Read the raw bytes of a commit. Raises BadObject unless every reader would read them alike.

    `tree`, `parent`…, `author`, `committer` come first and in this order; after them any header git
    tools write is let through, but none of those again and `gpgsig` only once.
    """
    tree, parents, rest = _lineage(data)
    head, message = _split_head(rest)
    lines = head.split(b"\n")
    author = _stamp(lines, 0, b"author")
    committer = _stamp(lines, 1, b"committer")
    signature = _signature(lines[2:])
    text = message.decode("utf-8", errors="replace")
    payload = data if signature is None else _without_signature(data)
    return CommitInfo(tree, parents, author, committer, signature, payload, text, trailers(text))


def parents_of(data: bytes) -> tuple[str, ...]:
    """The parents of a commit, read from its first lines alone. Raises BadObject.

    Lets history be walked past a commit whose later headers are malformed.
    """
    return _lineage(data)[1]


def tree_of(data: bytes) -> str:
    """The tree of a commit, read from its first lines alone. Raises BadObject."""
    return _lineage(data)[0]


def trailers(message: str) -> dict[str, tuple[str, ...]]:
    """`Token: value` lines of the last paragraph, when all its lines are such and it is not the first."""
    paragraphs = message.rstrip("\n").split("\n\n")
    if len(paragraphs) < 2:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for line in paragraphs[-1].split("\n"):
        match = _TRAILER.fullmatch(line)
        if not match:
            return {}
        found[match[1]] = (*found.get(match[1], ()), match[2])
    return found


def _lineage(data: bytes) -> tuple[str, tuple[str, ...], bytes]:
    """Tree, parents and the bytes that follow, which begin with the author."""
    if len(data) > MAX_COMMIT_BYTES:
        raise BadObject(
            "MalformedCommit", f"a commit of {len(data)} bytes, expected at most {MAX_COMMIT_BYTES}"
        )
    tree, at = _id_line(data, 0, b"tree ")
    if tree is None:
        raise BadObject("MalformedCommit", "a commit begins with its tree")
    parents = []
    while True:
        parent, at = _id_line(data, at, b"parent ")
        if parent is None:
            break
        parents.append(parent)
    if not data.startswith(b"author ", at):
        raise BadObject("MalformedCommit", "expected the author after tree and parents")
    if len(set(parents)) != len(parents):
        raise BadObject("MalformedCommit", "the same parent stands twice")
    return tree, tuple(parents), data[at:]


def _id_line(data: bytes, at: int, label: bytes) -> tuple[str | None, int]:
    if not data.startswith(label, at):
        return None, at
    start = at + len(label)
    if not _HEX.fullmatch(data[start : start + 40]) or data[start + 40 : start + 41] != b"\n":
        raise BadObject("MalformedCommit", f"expected 40 hex digits after {label.decode().strip()!r}")
    return data[start : start + 40].decode(), start + 41


def _split_head(rest: bytes) -> tuple[bytes, bytes]:
    if b"\0" in rest:
        raise BadObject("MalformedCommit", "a NUL byte hides what follows it from some readers")
    head, blank, message = rest.partition(b"\n\n")
    if not blank:
        if not rest.endswith(b"\n"):
            raise BadObject("MalformedCommit", "the headers do not end")
        head, message = rest[:-1], b""
    return head, message


def _stamp(lines: list[bytes], at: int, label: bytes) -> Stamp:
    line = lines[at] if at < len(lines) else b""
    match = _PERSON.fullmatch(line.removeprefix(label + b" ")) if line.startswith(label + b" ") else None
    if not match:
        raise BadObject("MalformedCommit", f"expected {label.decode()} as Name <email> seconds zone")
    name, email = (part.decode("utf-8", errors="replace") for part in (match[1], match[2]))
    return Stamp(name, email, int(match[3]))


def _signature(lines: list[bytes]) -> str | None:
    """The one gpgsig header among those behind the committer; raises on any that must not be there."""
    signature: list[bytes] | None = None
    seen: set[bytes] = set()
    name = b""
    for line in lines:
        if line.startswith(b" "):
            if not name:
                raise BadObject("MalformedCommit", "the committer's line goes on in the next one")
            if name == b"gpgsig" and signature is not None:
                signature.append(line[1:])
            continue
        name, space, value = line.partition(b" ")
        if not space or not _HEADER.fullmatch(name):
            raise BadObject("MalformedCommit", "expected a header")
        if name in _ONCE and (name in seen or name not in (b"encoding", b"gpgsig")):
            raise BadObject("MalformedCommit", f"header {name.decode()!r} at a place where it must not be")
        seen.add(name)
        if name == b"gpgsig":
            signature = [value]
    if signature is None:
        return None
    try:
        return b"\n".join([*signature, b""]).decode("ascii")
    except UnicodeDecodeError:
        raise BadObject("MalformedCommit", "the signature is not ASCII") from None


def _without_signature(data: bytes) -> bytes:
    """The commit without its gpgsig header and the lines that continue it: what git signs."""
    start = data.index(b"\ngpgsig ") + 1
    end = data.index(b"\n", start)
    while data.startswith(b"\n ", end):
        end = data.index(b"\n", end + 1)
    return data[:start] + data[end + 1 :]


# ---- trees --------------------------------------------------------------------------------------


def parse_tree(data: bytes) -> tuple[TreeEntry, ...]:
    """Read the raw bytes of a tree. Raises BadObject for anything but plain, distinct, sorted names."""
    found = ordinary_entries(data)
    return tuple(found[1]) if found else _any_tree(data)


def ordinary_entries(data: bytes) -> tuple[list[bytes], list[TreeEntry]] | None:
    """The sort keys and the entries of a tree that holds ordinary names alone, read all at once.

    None where there is anything else, good or bad: `parse_tree` tells.
    """
    found = _ORDINARY_ENTRY.findall(data)
    if not found:
        return None if data else ([], [])
    modes, names, oids = zip(*found, strict=True)
    joined = b"\0".join(names)
    if sum(map(len, modes)) + len(joined) + 1 + 21 * len(found) != len(data):
        return None  # some bytes belong to no ordinary entry
    keys = [name + b"/" if mode == b"40000" else name for mode, name, _ in found]
    if len(set(joined.lower().split(b"\0"))) != len(found) or keys != sorted(keys):
        return None
    plain = joined.decode("ascii").split("\0")
    parts = zip(map(_MODES.__getitem__, modes), plain, map(bytes.hex, oids), strict=True)
    return keys, list(map(TreeEntry._make, parts))


def _any_tree(data: bytes) -> tuple[TreeEntry, ...]:
    entries: list[TreeEntry] = []
    seen: dict[str, str] = {}
    last = b""
    at = 0
    while at < len(data):
        entry, raw_name, at = _entry(data, at)
        key = raw_name + (b"/" if entry.is_folder else b"")
        if key <= last:
            raise BadObject("MalformedTree", f"{_short(entry.name)} is not in git's order")
        last = key
        same = _folded(entry.name)
        if same in seen:
            raise BadObject(
                "CollidingNames",
                f"{_short(seen[same])} and {_short(entry.name)} are one file to some systems",
            )
        seen[same] = entry.name
        entries.append(entry)
    return tuple(entries)


def _entry(data: bytes, at: int) -> tuple[TreeEntry, bytes, int]:
    space = data.find(b" ", at, at + 8)
    end = data.find(b"\0", at)
    if space < 0 or end < space or end + 21 > len(data):
        raise BadObject("MalformedTree", "an entry is cut off")
    mode, raw_name = data[at:space], data[space + 1 : end]
    if mode not in _MODES:
        shown = raw_name.decode("utf-8", errors="backslashreplace")
        raise BadObject("ForbiddenMode", f"{_short(shown)} has mode {mode.decode('ascii', 'replace')}")
    return TreeEntry(_MODES[mode], _name(raw_name), data[end + 1 : end + 21].hex()), raw_name, end + 21


def _name(raw: bytes) -> str:
    if _ORDINARY.fullmatch(raw):
        return raw.decode("ascii")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadObject("ForbiddenName", f"{_short(raw)} is not UTF-8") from None
    if not name.isascii() and any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in name):
        raise BadObject("ForbiddenName", f"{_short(name)} holds characters that cannot be seen")
    if (
        name in ("", ".", "..")
        or "/" in name
        or "\\" in name
        or any(ord(char) in (*range(32), 127) for char in name)
    ):
        raise BadObject("ForbiddenName", f"{_short(name)} is no plain file name")
    if _GIT_LIKE.fullmatch(_folded(name).rstrip(". ")):
        raise BadObject("ForbiddenName", f"{_short(name)} means git's own folder on some systems")
    return name


def _short(name: str | bytes) -> str:
    """A name for a message: a tree may hold one of a million characters."""
    return repr(name[:80])


def _folded(name: str) -> str:
    """What the name is to a system that minds neither case nor Unicode form."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFKC", name).casefold()
