"""A merge as evidence for the changes of documents that it brings: who wrote them, and who let them in.

Rules kept: only a true merge of two parents counts, and only for bytes that it has from its second parent,
written on top of the bytes in force; everybody who touched them there must be known, and is an author; the
author does not let in their own. Counts only where every rule takes `merge`. Called by takeover.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from capsule.documents.types import ForgeSettings, Policy
from capsule.trust import objects
from capsule.trust.changes import MergedBy
from capsule.trust.merges import merger_of
from capsule.trust.objects import BadObject, CommitInfo, ObjectReader

MAX_COMMITS = 1000


class NoMerge(ValueError):
    """A commit that is no evidence for what it brings; the text says why."""


def merged_by(
    reader: ObjectReader,
    policy: Policy,
    forge: ForgeSettings | None,
    commit: str,
    in_force: Mapping[str, str | None],
) -> MergedBy:
    """What the step `commit` of main says of the paths of `in_force`, given with their blob ids in force.

    None stands for a document that does not exist. Raises NoMerge, MissingObject.
    """
    try:
        merge = objects.read_commit(reader, commit)
        if len(merge.parents) != 2:
            raise NoMerge(f"{commit[:12]} is no merge of two parents")
        merger = merger_of(policy, forge, merge)
        if merger is None:
            raise NoMerge(f"the merge {commit[:12]} names no person of the policy")
        writers = {
            who
            for path, blob in in_force.items()
            for who in _writers(reader, policy, forge, merge, path, blob)
        }
    except BadObject as error:
        raise NoMerge(f"the merge {commit[:12]}: {error}") from None
    if merger in writers:
        raise NoMerge(f"{merger} merged what they wrote")
    return MergedBy(merger, frozenset(writers))


def _writers(
    reader: ObjectReader,
    policy: Policy,
    forge: ForgeSettings | None,
    merge: CommitInfo,
    path: str,
    blob: str | None,
) -> Iterable[str]:
    """The people who wrote what the second parent's side has at `path`, on top of `blob`."""
    first, second = merge.parents
    if _at(reader, first, path) != blob:
        raise NoMerge(f"{path} was not as it is in force when it was merged")
    brought = objects.find(reader, merge.tree, path)
    if _at(reader, second, path) != (brought.oid if brought else None):
        raise NoMerge(f"the merge holds other bytes of {path} than the branch it merged")
    for commit in _touching(reader, second, path, blob):
        who = merger_of(policy, forge, objects.read_commit(reader, commit))
        if who is None:
            raise NoMerge(f"{commit[:12]}, which writes {path}, is by nobody that the policy knows")
        yield who


def _touching(reader: ObjectReader, tip: str, path: str, blob: str | None) -> Iterable[str]:
    """The commits that lead from the bytes `blob` of `path` to those at `tip`."""
    stack, seen = [tip], {tip}
    while stack:
        commit = stack.pop()
        found = _at(reader, commit, path)
        if found == blob:
            continue
        parents = objects.parents_of(objects.raw_commit(reader, commit))
        same = [parent for parent in parents if _at(reader, parent, path) == found]
        if not same:
            yield commit
        if not parents or len(seen) > MAX_COMMITS:
            raise NoMerge(f"{path} was not written on top of the bytes in force: update the branch")
        fresh = [parent for parent in same[:1] or parents if parent not in seen]
        seen.update(fresh)
        stack += fresh


def _at(reader: ObjectReader, commit: str, path: str) -> str | None:
    entry = objects.find(reader, objects.tree_of(objects.raw_commit(reader, commit)), path)
    return entry.oid if entry else None
