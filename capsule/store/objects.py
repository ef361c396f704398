"""Git objects built from a draft: trees edited along the touched paths alone, commits as git writes them.

Rules kept: the same draft gives the same bytes in every store; only trees on a touched path are written
again; a path that git or a file system could misread is refused; nothing here does I/O (objects are read
through a callable). Formats: gitformat-pack(5), git's Documentation/technical/signature-format. Called by
store.git and testing.memory_store.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from capsule.store.api import DamagedObject, Draft, InvalidDraft, Person, RefUpdate, StoreError
from capsule.trust.objects import ObjectKind
from capsule.trust.raw import MAX_COMMIT_BYTES

Read = Callable[[str], tuple[ObjectKind, bytes]]

REGULAR = 0o100644
EXECUTABLE = 0o100755
FOLDER = 0o040000
GITLINK = 0o160000

MACHINE_FOLDERS = (b"status", b"records")
"""Top folders that come from the base of a draft, never from its overlay."""

REMOTE_PREFIXES = ("refs/heads/", "refs/capsule/")
"""What is read from a remote. Tags are not: one named like a branch has misled git before."""

MAX_DEPTH = 64
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096

_HEX40 = re.compile(r"[0-9a-f]{40}\Z")


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object that a draft needs; `oid` is the SHA-1 of its header and `data`."""

    kind: ObjectKind
    data: bytes
    oid: str

    @classmethod
    def of(cls, kind: ObjectKind, data: bytes) -> NewObject:
        """The object of these bytes."""
        return cls(kind, data, object_id(kind, data))


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One line of a tree: mode and id."""

    mode: int
    oid: str

    @property
    def is_folder(self) -> bool:
        return self.mode == FOLDER


@dataclass(frozen=True, slots=True)
class CommitLinks:
    """What a walk needs of a commit. `time` is the committer's, in seconds since 1970, 0 if unreadable."""

    tree: str
    parents: tuple[str, ...]
    time: int


def object_id(kind: ObjectKind, data: bytes) -> str:
    """The id that git gives these bytes."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()


def is_object_id(text: str) -> bool:
    """Whether `text` is a full id: 40 lower-case hex digits."""
    return _HEX40.match(text) is not None


def parse_tree(data: bytes, oid: str = "") -> dict[bytes, TreeEntry]:
    """The entries of a tree by name. Raises DamagedObject for bytes that are not a tree."""
    entries: dict[bytes, TreeEntry] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        end = data.find(b"\0", space)
        if space < 0 or end < 0 or end + 21 > len(data):
            raise DamagedObject(f"tree {oid} ends in the middle of an entry")
        name = data[space + 1 : end]
        try:
            mode = int(data[at:space], 8)
        except ValueError:
            raise DamagedObject(f"tree {oid} has an entry without a mode") from None
        if not name or b"/" in name or name in entries:
            raise DamagedObject(f"tree {oid} has an empty, repeated or slashed name: {name[:80]!r}")
        entries[name] = TreeEntry(mode, data[end + 1 : end + 21].hex())
        at = end + 21
    return entries


def encode_tree(entries: Mapping[bytes, TreeEntry]) -> bytes:
    """The bytes of a tree, sorted as git sorts: folders as if their name ended in a slash."""
    ordered = sorted(entries.items(), key=lambda item: item[0] + (b"/" if item[1].is_folder else b""))
    return b"".join(b"%o %s\0" % (entry.mode, name) + bytes.fromhex(entry.oid) for name, entry in ordered)


def commit_links(data: bytes, oid: str = "") -> CommitLinks:
    """Tree, parents and time of a commit. Raises DamagedObject."""
    lines = data.split(b"\n\n", 1)[0].split(b"\n")
    if not lines[0].startswith(b"tree "):
        raise DamagedObject(f"commit {oid} does not begin with its tree")
    ids = [line.split(b" ", 1)[1] for line in _leading(lines)]
    try:
        tree, *parents = [raw.decode("ascii") for raw in ids]
    except UnicodeDecodeError:
        raise DamagedObject(f"commit {oid} names something that is no id") from None
    if not all(is_object_id(each) for each in (tree, *parents)):
        raise DamagedObject(f"commit {oid} names something that is no id")
    return CommitLinks(tree, tuple(parents), _committer_time(lines))


def _leading(lines: list[bytes]) -> Iterable[bytes]:
    yield lines[0]
    for line in lines[1:]:
        if not line.startswith(b"parent "):
            return
        yield line


def _committer_time(lines: list[bytes]) -> int:
    for line in lines:
        if line.startswith(b"committer "):
            words = line.rsplit(b" ", 2)
            return int(words[1]) if len(words) == 3 and words[1].isdigit() and len(words[1]) < 12 else 0
    return 0


def check_path(path: str) -> tuple[bytes, ...]:
    """The components of a path that a draft may write. Raises InvalidDraft, which says what is wrong."""
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        raise InvalidDraft(f"path {path!r} is not valid Unicode") from None
    names = tuple(raw.split(b"/"))
    if len(raw) > MAX_PATH_BYTES or len(names) > MAX_DEPTH:
        raise InvalidDraft(
            f"path {path[:80]!r}… is longer than {MAX_PATH_BYTES} bytes or {MAX_DEPTH} folders"
        )
    for name, text in zip(names, path.split("/"), strict=True):
        problem = _name_problem(name, text)
        if problem:
            raise InvalidDraft(f"path {path!r}: {problem}", "use a relative path of plain names")
    return names


def _name_problem(name: bytes, text: str) -> str | None:
    if not name:
        return "it is empty, absolute, or has an empty folder name"
    if text in (".", ".."):
        return "`.` and `..` are no names"
    if len(name) > MAX_NAME_BYTES:
        return f"a name is longer than {MAX_NAME_BYTES} bytes"
    if "\\" in text or any(unicodedata.category(each) == "Cc" for each in text):
        return "a name has a backslash or a control character"
    visible = "".join(each for each in text if unicodedata.category(each) != "Cf")
    folded = unicodedata.normalize("NFKC", visible).casefold().split(":", 1)[0].rstrip(" .")
    if folded in (".git", "git~1"):
        return "some file systems read this name as .git"
    return None


_BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[/.]\Z")


def check_ref_name(name: str) -> None:
    """Raises StoreError unless `name` is a full ref name by the rules of git-check-ref-format(1)."""
    try:
        fine = name.encode().count(b"/") >= 2 and name.startswith("refs/") and not _BAD_IN_REF.search(name)
    except UnicodeEncodeError:
        fine = False
    if not fine:
        raise StoreError(f"{name!r} is not a full ref name", "write it as refs/heads/<name>")


def check_update(update: RefUpdate, read: Read, *, shared: bool) -> None:
    """Raises StoreError for a ref that cannot be published (`shared`: with a remote), and InvalidDraft for a
    move that says nothing, or to something that is no commit."""
    check_ref_name(update.name)
    if update.old is None and update.new is None:
        raise InvalidDraft(f"{update.name}: neither an old nor a new value is given")
    if shared and not update.name.startswith(REMOTE_PREFIXES):
        raise StoreError(f"{update.name} cannot be published: only {' and '.join(REMOTE_PREFIXES)}…")
    if update.new is not None and read(update.new)[0] != "commit":
        raise InvalidDraft(f"{update.name}: {update.new} is not a commit")


def check_room(name: str, others: Iterable[str]) -> None:
    """Raises StoreError when a new ref `name` would be a folder of another, or below one."""
    for other in others:
        if other.startswith(f"{name}/") or name.startswith(f"{other}/"):
            raise StoreError(f"{name} cannot be made: there is a ref {other}", "delete that one, or rename")


@dataclass(frozen=True, slots=True)
class _Edit:
    names: tuple[bytes, ...]
    data: bytes | None
    mode: int | None


class _TreeEditor:
    """Applies edits to trees and gathers the objects this needs, children before parents."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.made: dict[str, NewObject] = {}

    def entries(self, tree: str | None) -> dict[bytes, TreeEntry]:
        if tree is None:
            return {}
        kind, data = self._read(tree)
        if kind != "tree":
            raise DamagedObject(f"object {tree} is a {kind}, expected a tree")
        return parse_tree(data, tree)

    def put(self, kind: ObjectKind, data: bytes) -> str:
        new = NewObject.of(kind, data)
        self.made.setdefault(new.oid, new)
        return new.oid

    def apply(self, entries: dict[bytes, TreeEntry], edits: list[_Edit], at: bytes = b"") -> None:
        """Change `entries`, a folder's, by `edits` (sorted, with names relative to the folder)."""
        for name, group in groupby(edits, key=lambda edit: edit.names[0]):
            here: _Edit | None = None
            below: list[_Edit] = []
            for edit in group:
                if len(edit.names) == 1:
                    here = edit
                else:
                    below.append(_Edit(edit.names[1:], edit.data, edit.mode))
            path = at + name
            if here is not None and here.data is None:
                self._remove_file(entries, name, path)
            if below:
                self._apply_below(entries, name, below, path)
            if here is not None and here.data is not None:
                self._put_file(entries, name, here, path)

    def _remove_file(self, entries: dict[bytes, TreeEntry], name: bytes, path: bytes) -> None:
        current = entries.get(name)
        if current is not None and current.is_folder:
            raise InvalidDraft(f"cannot delete {path.decode()!r}: it is a folder", "delete the files in it")
        entries.pop(name, None)

    def _apply_below(
        self, entries: dict[bytes, TreeEntry], name: bytes, edits: list[_Edit], path: bytes
    ) -> None:
        current = entries.get(name)
        if current is not None and not current.is_folder:
            if all(edit.data is None for edit in edits):
                return
            raise InvalidDraft(f"cannot write below {path.decode()!r}: it is a file", "delete it first")
        old = current.oid if current else None
        folder = self.entries(old)
        before = dict(folder)
        self.apply(folder, edits, path + b"/")
        if folder == before:
            return
        if folder:
            entries[name] = TreeEntry(FOLDER, self.put("tree", encode_tree(folder)))
        else:
            entries.pop(name, None)

    def _put_file(self, entries: dict[bytes, TreeEntry], name: bytes, edit: _Edit, path: bytes) -> None:
        assert edit.data is not None
        current = entries.get(name)
        if current is not None and current.is_folder:
            raise InvalidDraft(f"cannot write {path.decode()!r}: it is a folder", "delete the files in it")
        oid = object_id("blob", edit.data)
        kept = current.mode if current and current.mode in (REGULAR, EXECUTABLE) else REGULAR
        entry = TreeEntry(kept if edit.mode is None else edit.mode, oid)
        if current is None or current.oid != oid:
            self.put("blob", edit.data)
        entries[name] = entry


def build_commit(read: Read, draft: Draft) -> tuple[str, list[NewObject]]:
    """The commit of a draft: its id, and every object it needs that its base, overlay and parents may
    not have; children before parents, the commit last.

    Raises InvalidDraft, DamagedObject, MissingObject (a base, overlay or parent that is not here).
    """
    edits = _checked_edits(draft)
    for parent in draft.parents:
        _tree_of(read, parent)
    editor = _TreeEditor(read)
    base = _tree_of(read, draft.base) if draft.base is not None else None
    overlay = _tree_of(read, draft.overlay) if draft.overlay is not None else None
    root = editor.entries(base)
    if overlay is not None:
        machine = {name: root[name] for name in MACHINE_FOLDERS if name in root}
        people = editor.entries(overlay)
        root = {name: entry for name, entry in people.items() if name not in MACHINE_FOLDERS} | machine
    editor.apply(root, edits)
    tree = editor.put("tree", encode_tree(root))
    if tree in (base, overlay):
        editor.made.pop(tree, None)
    commit = NewObject.of("commit", commit_bytes(draft, tree))
    if len(commit.data) > MAX_COMMIT_BYTES:
        raise InvalidDraft(
            f"the commit has {len(commit.data)} bytes, expected at most {MAX_COMMIT_BYTES}",
            "shorten its message, or write several commits",
        )
    return commit.oid, [*editor.made.values(), commit]


def _checked_edits(draft: Draft) -> list[_Edit]:
    for path, mode in draft.modes.items():
        if mode not in (REGULAR, EXECUTABLE):
            raise InvalidDraft(f"path {path!r}: mode {mode:o} is not 100644 or 100755")
        if draft.edits.get(path) is None:
            raise InvalidDraft(f"path {path!r} has a mode and nothing is written there")
    if len(set(draft.parents)) != len(draft.parents):
        raise InvalidDraft("a commit cannot have the same parent twice")
    edits = [_Edit(check_path(path), data, draft.modes.get(path)) for path, data in draft.edits.items()]
    return sorted(edits, key=lambda edit: edit.names)


def _tree_of(read: Read, commit: str) -> str:
    kind, data = read(commit)
    if kind != "commit":
        raise InvalidDraft(f"{commit} is a {kind}, expected a commit")
    return commit_links(data, commit).tree


def commit_bytes(draft: Draft, tree: str) -> bytes:
    """The commit object of a draft over `tree`, signed if the draft signs. Raises InvalidDraft."""
    when = _timestamp(draft.at)
    header = [f"tree {tree}", *(f"parent {parent}" for parent in draft.parents)]
    header.append(f"author {_person(draft.author)} {when} +0000")
    header.append(f"committer {_person(draft.committer or draft.author)} {when} +0000")
    head, body = "\n".join(header).encode(), _message(draft.message)
    if draft.sign is None:
        return head + b"\n\n" + body
    signature = draft.sign(head + b"\n\n" + body)
    return head + _signature_header(signature) + b"\n\n" + body


def _signature_header(signature: str) -> bytes:
    # git folds the armored text: every further line begins with one space, the last line break is dropped.
    lines = signature.strip("\n").split("\n")
    if not lines[0].startswith("-----BEGIN ") or any(not line or "\0" in line for line in lines):
        raise InvalidDraft("the signer did not return an armored signature")
    return b"\ngpgsig " + "\n ".join(lines).encode()


def _timestamp(at: datetime) -> int:
    if at.tzinfo is None:
        raise InvalidDraft("the time of a commit needs a time zone")
    seconds = int(at.timestamp())
    if seconds < 0:
        raise InvalidDraft("the time of a commit is before 1970")
    return seconds


def _person(person: Person) -> str:
    for what, text in (("name", person.name), ("email", person.email)):
        controls = any(unicodedata.category(each) in ("Cc", "Cs") for each in text)
        if not text or text != text.strip() or controls or set(text) & set("<>"):
            raise InvalidDraft(
                f"{what} {text!r} is empty or has spaces around it, <, > or control characters"
            )
    if " " in person.email:
        raise InvalidDraft(f"email {person.email!r} has a space")
    return f"{person.name} <{person.email}>"


def _message(text: str) -> bytes:
    if "\0" in text:
        raise InvalidDraft("the message has a NUL character")
    if not text.strip():
        raise InvalidDraft("the message is empty")
    try:
        return (text if text.endswith("\n") else text + "\n").encode()
    except UnicodeEncodeError:
        raise InvalidDraft("the message is not valid Unicode") from None
