"""Main, judged step by step along its first parents, from a root pinned outside of the repository.

Rules kept: each step is judged by the policy of the step before it; a change that its rule does not
authorise is not taken over and the last good document stays in force; a policy change that the old policy
does not authorise suspends acting until main is mended forward, and what was merged meanwhile must be
asked for again; the cost of a step follows its diff. Called by the reconciler, view, `plan`, `check` and
`capsule audit verify`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from capsule.documents import codec
from capsule.documents.digests import bytes_digest
from capsule.documents.paths import (
    CHANGE_APPROVALS,
    MACHINE_FOLDERS,
    POLICY,
    SERVICES,
    SETTINGS,
    SIGNERS_FOLDER,
    service_name,
)
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import Capsule, ChangeKind, Service
from capsule.trust import objects
from capsule.trust.changes import is_word, named_paths
from capsule.trust.hearing import findings_of, hear_all
from capsule.trust.key_validity import Seen
from capsule.trust.objects import BadObject, Change, NotDescended, ObjectReader, TreeEntry
from capsule.trust.policy_checks import InvalidPolicy, load_policy
from capsule.trust.signers import judge_signers
from capsule.trust.state import Finding, InForce, MainState, PendingChange
from capsule.trust.step import Step, in_force_at
from capsule.trust.takeover import UnfitDocument, load_service, take_over
from capsule.trust.told_changes import told_since

REASONS: dict[str, str] = {
    "HistoryRewritten": "Main no longer descends from the commit judged last, or from the root: it was "
    "rewound or replaced. Push the old tip back; new work goes on top of it.",
    "MachinePathOnMain": "Main holds status/ or records/, which reconcilers alone write, on audit. "
    "Remove them.",
    "ServicesEmptied": "The last service, or more of them than limits.maxShare, disappeared at once, which "
    "is taken for an accident. Bring them back, or remove them in several merges.",
    "BadRoot": "The first commit does not hold what a state repository begins with.",
}

_DOCUMENT_SUFFIXES = (".yaml", ".yml", ".json")


class BadRoot(ValueError):
    """The pinned root is not the first commit of a state repository; the text says why."""

    reason = "BadRoot"


@dataclass(frozen=True, slots=True)
class _Folders:
    """What of a root tree matters here: the ids of documents and folders, None where absent."""

    settings: str | None
    policy: str | None
    services: str | None
    approvals: str | None
    signers: str | None
    machine: tuple[str, ...]

    @classmethod
    def of(cls, reader: ObjectReader, tree: str) -> _Folders:
        entries = {entry.name: entry for entry in objects.entries(reader, tree)}
        return cls(
            settings=_oid(entries, SETTINGS, folder=False),
            policy=_oid(entries, POLICY, folder=False),
            services=_oid(entries, SERVICES, folder=True),
            approvals=_oid(entries, CHANGE_APPROVALS, folder=True),
            signers=_oid(entries, SIGNERS_FOLDER, folder=True),
            machine=tuple(name for name in MACHINE_FOLDERS if name in entries),
        )


def _oid(entries: Mapping[str, TreeEntry], name: str, *, folder: bool) -> str | None:
    entry = entries.get(name)
    return entry.oid if entry and entry.is_folder == folder else None


# ---- from the root ------------------------------------------------------------------------------


def begin(reader: ObjectReader, root: str) -> MainState:
    """The state after the first commit, whose content is trusted because its id is pinned.

    Raises BadRoot, MissingObject.
    """
    try:
        commit = objects.read_commit(reader, root)
        found = _Folders.of(reader, commit.tree)
        if commit.parents:
            raise BadRoot(f"{root} is not the first commit of a history")
        if found.machine:
            raise BadRoot(f"{root} holds {found.machine[0]}/, which belongs on audit alone")
        policy, policy_place = _first(reader, root, found.policy, POLICY)
        settings, settings_place = _first(reader, root, found.settings, SETTINGS)
        state = MainState(
            root=root,
            tip=root,
            policy=InForce(load_policy(policy, POLICY), POLICY, *policy_place),
            settings=InForce(codec.load_as(Capsule, settings, SETTINGS), SETTINGS, *settings_place),
            services={},
        )
        services, pending = _first_services(reader, root, found.services)
        signers, findings = judge_signers(reader, root, found.signers, state.policy.document, None)
    except (BadObject, InvalidDocument, InvalidPolicy) as error:
        raise BadRoot(f"{root}: {error}") from None
    state = replace(state, services=services, pending=pending, signers=signers)
    return replace(state, findings=findings_of(state, findings))


def _first(
    reader: ObjectReader, root: str, blob: str | None, path: str
) -> tuple[bytes, tuple[str, str, str]]:
    """The bytes of a document of the first commit, with blob id, digest and the commit."""
    if blob is None:
        raise BadRoot(f"{root} holds no {path}")
    data = objects.read_blob(reader, blob)
    return data, (blob, bytes_digest(data), root)


def _first_services(
    reader: ObjectReader, root: str, folder: str | None
) -> tuple[dict[str, InForce[Service]], tuple[PendingChange, ...]]:
    services: dict[str, InForce[Service]] = {}
    pending = []
    for change in objects.changes(reader, None, folder, SERVICES):
        if change.new is None or not _is_service_document(change.path):
            continue
        data = objects.read_blob(reader, change.new.oid)
        digest = bytes_digest(data)
        try:
            service = load_service(data, change.path)
        except UnfitDocument as error:
            reason, message = error.reason, str(error)
        else:
            name = service.metadata.name
            if name not in services:
                services[name] = InForce(service, change.path, change.new.oid, digest, root)
                continue
            reason, message = "DuplicateName", f"{services[name].path} has the name {name} already"
        pending.append(PendingChange("service", change.path, None, digest, root, reason, message))
    return services, tuple(pending)


def _is_service_document(path: str) -> bool:
    """Whether a file under services/ is meant to be a document (a README.md is not)."""
    return path.endswith(_DOCUMENT_SUFFIXES)


# ---- step by step -------------------------------------------------------------------------------


def judge(
    reader: ObjectReader,
    root: str,
    tip: str,
    known: MainState | None = None,
    seen: Seen | None = None,
) -> MainState:
    """Main judged up to `tip`, going on from `known` where that is of the same root, and will stay so.

    `seen` tells when steps were seen, for keys that speak for a while only; without it these do not count.

    To notice that main was rewound between two runs, first judge up to the revision that audit observed
    last, then give the outcome as `known`. Raises BadRoot, MissingObject.
    """
    goes_on = known and known.root == root and not known.fleeting and not _told_late(reader, known, tip, seen)
    state = known if known and goes_on else begin(reader, root)
    return advance(reader, replace(state, seen=seen), tip)


def _told_late(reader: ObjectReader, known: MainState, tip: str, seen: Seen | None) -> bool:
    """Whether reviews were recorded since, or are gone, that bear on steps which `known` has left behind."""
    tree = seen.told.tree if seen and seen.told else None
    return tree != known.told and told_since(reader, known.told, tree, known.tip, tip)


def advance(reader: ObjectReader, state: MainState, tip: str) -> MainState:
    """Judge every step from `state.tip` (left out) to `tip`.

    When `tip` does not descend from `state.tip` along first parents, nothing is taken over and the
    answer is `state`, suspended as HistoryRewritten. Raises MissingObject.
    """
    try:
        steps = list(objects.first_parents(reader, tip, state.tip))
    except (NotDescended, BadObject) as error:
        reason = error.reason if isinstance(error, BadObject) else "HistoryRewritten"
        return _suspended(state, Finding(reason, str(error), commit=tip))
    missed: Finding | None = None
    told = state.seen.told if state.seen else None
    state = hear_all(reader, state, told)
    for commit in reversed(steps):
        state, missed = _step(reader, state, commit, missed)
        if missed is None:
            state = hear_all(reader, state, told)
    return _suspended(replace(state, told=told.tree if told else None), missed)


def _suspended(state: MainState, branch: Finding | None) -> MainState:
    """The state with what suspends it: a branch that cannot be followed, or else what its steps hold."""
    kept = tuple(each for each in state.findings if each != state.suspended or each == state.held)
    findings = (branch, *kept) if branch else kept
    return replace(state, suspended=branch or state.held, findings=findings)


def _step(
    reader: ObjectReader, state: MainState, commit: str, missed: Finding | None
) -> tuple[MainState, Finding | None]:
    """The state after one step, or the same state and why the step cannot be taken over at all.

    `missed` is that of the step before. The next good step is compared with the last one taken over.
    """
    try:
        before = _Folders.of(reader, objects.tree_of(objects.raw_commit(reader, state.tip)))
        raw = objects.raw_commit(reader, commit)
        tree = objects.tree_of(raw)
        after = _Folders.of(reader, tree)
        if after.machine:
            message = f"{after.machine[0]}/ on main: only reconcilers write it, on audit"
            return state, Finding("MachinePathOnMain", message, after.machine[0], commit)
        merged = len(objects.parents_of(raw)) > 1
        differing = list(_differing(reader, before, after))
        changed = _Diff(commit, tree, before, after, differing, merged, missed is not None)
        return _taken(reader, state, changed), None
    except BadObject as error:
        return state, Finding(error.reason, str(error), commit=commit)


@dataclass(frozen=True, slots=True)
class _Diff:
    """A step beside the last one taken over; `missed` says that steps between could not be."""

    commit: str
    tree: str
    before: _Folders
    after: _Folders
    differing: list[Change]
    merged: bool
    missed: bool


def _taken(reader: ObjectReader, state: MainState, diff: _Diff) -> MainState:
    was_held = state.held is not None or diff.missed
    pending = _pending(reader, state, diff, speaks=not was_held)
    emptied = _emptied(reader, state, pending, diff)
    words = _arrived_words(reader, diff)
    step = Step(reader, state, diff.commit, diff.tree, _with_words(pending, words))
    heard = any(change.told for change in state.pending)  # maybe while nothing could be taken over
    touched = heard or bool(diff.differing) or state.policy.since == state.tip
    taken = take_over(step, blocked=was_held or emptied is not None) if touched else state
    held = emptied or _held_by_policy(step.pending.get(POLICY))
    if was_held or held:
        taken = step.void_arrived(taken, words)
    signers = state.signers
    findings = tuple(each for each in state.findings if each.path.startswith(SIGNERS_FOLDER))
    if diff.before.signers != diff.after.signers or taken.policy is not state.policy:
        policy = step.valid(taken.policy.document)
        signers, findings = judge_signers(reader, state.root, diff.after.signers, policy, signers)
    taken = replace(
        taken,
        tip=diff.commit,
        heard=0,
        pending=tuple(step.pending.values()),
        signers=signers,
        held=held,
        suspended=held,
        fleeting=state.fleeting or step.fleeting,
    )
    return replace(taken, findings=findings_of(taken, findings))


def _held_by_policy(change: PendingChange | None) -> Finding | None:
    return Finding(change.reason, change.message, POLICY, change.since) if change else None


def _emptied(
    reader: ObjectReader, state: MainState, pending: Mapping[str, PendingChange], diff: _Diff
) -> Finding | None:
    """What is wrong when services in force go at once: all of them, or more than limits.maxShare (one may
    always go, and a document that moves to another folder is not gone)."""
    services = [change for change in pending.values() if change.kind == "service"]
    stay = {service_name(change.path) for change in services if change.new is not None}
    gone = [each for each in services if each.new is None and service_name(each.path) not in stay]
    if not gone:
        return None
    left = objects.changes(reader, None, diff.after.services, SERVICES)
    if not any(service_name(change.path) for change in left):
        return Finding("ServicesEmptied", REASONS["ServicesEmptied"], SERVICES, diff.commit)
    share, before = state.settings.document.spec.limits.max_share, len(state.services)
    if len(gone) == 1 or len(gone) * 100 <= share * before:
        return None
    message = f"{len(gone)} of {before} services are gone, more than limits.maxShare ({share} %)"
    return Finding("ServicesEmptied", f"{message}. {REASONS['ServicesEmptied']}", SERVICES, diff.commit)


def _differing(reader: ObjectReader, before: _Folders, after: _Folders) -> Iterator[Change]:
    """The documents and words on changes that differ between two steps."""
    for path, old, new in (
        (POLICY, before.policy, after.policy),
        (SETTINGS, before.settings, after.settings),
    ):
        if old != new:
            yield Change(path, _file(path, old), _file(path, new))
    for name, old, new in (
        (SERVICES, before.services, after.services),
        (CHANGE_APPROVALS, before.approvals, after.approvals),
    ):
        if old != new:
            yield from objects.changes(reader, old, new, name)


def _file(path: str, oid: str | None) -> TreeEntry | None:
    return TreeEntry(0o100644, path, oid) if oid else None


def _pending(
    reader: ObjectReader, state: MainState, diff: _Diff, *, speaks: bool
) -> dict[str, PendingChange]:
    """What differs from the documents in force after this step, not yet judged. `speaks` says whether the
    commit itself may say whose change it is."""
    pending = {change.path: change for change in state.pending}
    for change in diff.differing:
        kind = _kind(change.path)
        if kind is None:
            continue
        in_force = in_force_at(state, change.path)
        blob = change.new.oid if change.new else None
        if blob == (in_force.blob if in_force else None):
            pending.pop(change.path, None)
            continue
        new = bytes_digest(objects.read_blob(reader, blob)) if blob else None
        old = in_force.digest if in_force else None
        pending[change.path] = PendingChange(
            kind,
            change.path,
            old,
            new,
            diff.commit,
            signed=speaks and not diff.merged,
            merged=speaks and diff.merged,
        )
    return pending


def _kind(path: str) -> ChangeKind | None:
    if path == POLICY:
        return "policy"
    if path == SETTINGS:
        return "settings"
    return "service" if path.startswith(f"{SERVICES}/") and _is_service_document(path) else None


def _arrived_words(reader: ObjectReader, diff: _Diff) -> dict[str, tuple[str, ...]]:
    """The words that arrive with a step, with the paths they speak of; nothing of it is verified yet."""
    arrived = dict.fromkeys(change.path.removesuffix(".sig") for change in diff.differing if change.new)
    return {
        path: named_paths(objects.file_bytes(reader, diff.tree, path) or b"")
        for path in filter(is_word, arrived)
    }


def _with_words(
    pending: dict[str, PendingChange], words: Mapping[str, tuple[str, ...]]
) -> dict[str, PendingChange]:
    """Add words to the pending changes they speak of."""
    for document, named in words.items():
        for path in named:
            change = pending.get(path)
            if change and document not in change.documents:
                pending[path] = replace(change, documents=(*change.documents, document))
    return pending
