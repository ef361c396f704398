"""Taking pending changes of main over, one step at a time, as far as the policy before the step allows.

Rules kept: everything here is judged by the policy that was in force before the step; a policy change is
judged first, and while one stands unauthorised nothing else is taken over; documents are judged by the
labels in force and the labels proposed. Called by mainline.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from capsule.documents import codec
from capsule.documents.digests import bytes_digest
from capsule.documents.paths import POLICY, SETTINGS, service_name
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import Capsule, Policy, Service
from capsule.trust import objects
from capsule.trust.changes import (
    ChangeUnit,
    ChangeVerdict,
    DigestPair,
    MergedBy,
    VoidApproval,
    Word,
    judge_change,
    read_word,
)
from capsule.trust.key_validity import is_timed, policy_at
from capsule.trust.merged_changes import NoMerge, merged_by
from capsule.trust.objects import BadObject, ObjectReader
from capsule.trust.policy import InvalidPolicy, load_policy, signer_of
from capsule.trust.state import InForce, MainState, PendingChange
from capsule_agent.protocol import sshsig

REASONS: dict[str, str] = {
    "InvalidDocument": "The document in the tree is not valid; the last good one stays in force.",
    "NameMismatch": "The document carries another name than its file.",
    "DuplicateName": "Two documents claim one name, which must be unique in the repository.",
    "InvalidPolicy": "The policy in the tree is not valid or contradicts itself. Acting is suspended.",
    "PolicyMissing": "policy.yaml is gone from the tree. Acting is suspended.",
    "PolicySerialNotRising": "The policy changed, but its serial did not rise. Acting is suspended.",
    "PolicyNotAuthorised": "The policy before does not authorise this change of policy. Acting is suspended "
    "until the last good bytes are back, or owners under the last good policy approve the new ones.",
    "SettingsMissing": "capsule.yaml is gone from the tree; the last good settings stay in force.",
    "MisplacedDocument": "A document under services/ whose path gives no service name.",
    "MergedWhileSuspended": "Merged while acting was suspended, so not taken over: ask for it again, "
    "with a new commit or with ChangeApprovals, once main is mended.",
}


class UnfitDocument(ValueError):
    """Bytes that cannot come into force, whoever asks for it. `reason` is one of REASONS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class Step:
    """A step of main under judgement: the state before it, its tree, and what is not in force."""

    reader: ObjectReader
    state: MainState
    commit: str
    tree: str
    pending: dict[str, PendingChange]
    _authors: dict[str, str | None] = field(default_factory=dict)
    _words: dict[str, Word | None] = field(default_factory=dict)
    _used: set[tuple[str, str]] = field(default_factory=set)
    _taken: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    fleeting: bool = False
    """Whether anything here depends on when it is judged, for audit does not tell yet when it was seen."""

    @property
    def policy(self) -> Policy:
        """The policy of the step before, with the keys that spoke when this step was first seen."""
        return self.valid(self.state.policy.document)

    def valid(self, policy: Policy) -> Policy:
        """`policy` with the keys that spoke when this step was first seen."""
        if not is_timed(policy):
            return policy
        seen = self.state.seen
        at = seen.of(self.commit) if seen else None
        if seen and at is None:
            self.fleeting, at = True, seen.now
        return policy_at(policy, at)

    def bytes_at(self, path: str) -> tuple[bytes, str]:
        """The bytes and the blob id of a file that is in the tree."""
        entry = objects.find(self.reader, self.tree, path)
        assert entry is not None  # a change with a new digest was seen in this very tree
        return objects.read_blob(self.reader, entry.oid), entry.oid

    def now_so(self, path: str) -> DigestPair:
        """The digests of `path` in force and in the tree, with what this step took over already."""
        if path in self._taken:
            return self._taken[path], self._taken[path]
        in_force = in_force_at(self.state, path)
        digest = in_force.digest if in_force else None
        change = self.pending.get(path)
        return digest, (change.new if change else digest)

    def author(self, commit: str) -> str | None:
        """Who signed the step `commit`, as far as the policy before this step knows."""
        if commit not in self._authors:
            self._authors[commit] = self._signer(commit)
        return self._authors[commit]

    def _signer(self, commit: str) -> str | None:
        try:
            info = objects.read_commit(self.reader, commit)
            if info.signature is None:
                return None
            return signer_of(self.policy, info.signed_payload, info.signature, sshsig.COMMIT)
        except (BadObject, sshsig.BadSignature) as error:
            self.notes.append(f"the signature of commit {commit[:12]} does not count: {error}")
            return None

    def merged_by(self, changes: Collection[PendingChange]) -> MergedBy | None:
        """Who let `changes` in by the one merge that brought them all, and who wrote them; None: nobody."""
        commits = {change.since for change in changes if change.merged}
        if len(commits) != 1 or not all(change.merged for change in changes):
            return None
        found = {change.path: in_force_at(self.state, change.path) for change in changes}
        blobs = {path: document.blob if document else None for path, document in found.items()}
        forge = self.state.settings.document.spec.forge
        try:
            return merged_by(self.reader, self.policy, forge, commits.pop(), blobs)
        except NoMerge as error:
            self.notes.append(str(error))
            return None

    def words_on(self, changes: Iterable[PendingChange]) -> list[Word]:
        """The verified words among the documents that speak of `changes`."""
        paths = dict.fromkeys(path for change in changes for path in change.documents)
        found = (self._word(path) for path in paths)
        return [word for word in found if word]

    def bring_into_force(self, changes: Iterable[PendingChange], words: Iterable[Word]) -> None:
        """Note that `words` brought `changes` into force: they never do so again."""
        for change in changes:
            del self.pending[change.path]
            self._taken[change.path] = change.new
            self._used.update((word.digest, change.path) for word in words)

    def spent(self) -> frozenset[tuple[str, str]]:
        """All words that were used, up to this step."""
        return self.state.spent | self._used if self._used else self.state.spent

    def void_arrived(self, taken: MainState, words: Mapping[str, tuple[str, ...]]) -> MainState:
        """Void what this step brought, for main was suspended: changes lose their author, words are spent.

        The policy's own change keeps its words: they are what mends it. What waited before keeps its own.
        """
        for path, change in self.pending.items():
            if path == POLICY:
                continue
            late = [document for document in change.documents if path in words.get(document, ())]
            for document in late:
                data = objects.file_bytes(self.reader, self.tree, document)
                self._used.add((bytes_digest(data or b""), path))
            kept = tuple(document for document in change.documents if document not in late)
            self.pending[path] = replace(change, documents=kept)
            if change.since == self.commit:
                self.pending[path] = _merged_while_suspended(change)
        return replace(taken, spent=self.spent())

    def _word(self, path: str) -> Word | None:
        if path not in self._words:
            self._words[path] = self._read_word(path)
        return self._words[path]

    def _read_word(self, path: str) -> Word | None:
        data = objects.file_bytes(self.reader, self.tree, path)
        if data is None:
            return None
        signature = objects.file_bytes(self.reader, self.tree, f"{path}.sig")
        try:
            return read_word(self.policy, self.state.root, path, data, signature)
        except VoidApproval as void:
            self.notes.append(f"{void} ({void.reason})")
            return None


def in_force_at(state: MainState, path: str) -> InForce[Policy] | InForce[Capsule] | InForce[Service] | None:
    """The document in force whose place is `path`, or None."""
    if path == POLICY:
        return state.policy
    if path == SETTINGS:
        return state.settings
    name = service_name(path)
    service = state.services.get(name) if name else None
    return service if service and service.path == path else None


def load_service(data: bytes, path: str) -> Service:
    """Read the service document at `path`. Raises UnfitDocument."""
    try:
        service = codec.load_as(Service, data, path)
    except InvalidDocument as error:
        raise UnfitDocument("InvalidDocument", str(error)) from None
    if service.metadata.name != service_name(path):
        raise UnfitDocument("NameMismatch", f"{path} carries the name {service.metadata.name!r}")
    return service


# ---- one step -----------------------------------------------------------------------------------


def take_over(step: Step, *, blocked: bool) -> MainState:
    """The state after the step: changes that are authorised in force, all others pending with their reason.

    `blocked` says that nothing but the policy may be taken over in this step.
    """
    state = step.state
    policy_change = step.pending.get(POLICY)
    policy = state.policy
    if policy_change:
        policy = _judge_policy(step, policy_change)
    if blocked or POLICY in step.pending:
        return replace(state, policy=policy, spent=step.spent())
    settings = state.settings
    if SETTINGS in step.pending:
        settings = _judge_settings(step, step.pending[SETTINGS])
    services = _judge_services(step)
    return replace(state, policy=policy, settings=settings, services=services, spent=step.spent())


def _merged_while_suspended(change: PendingChange) -> PendingChange:
    reason = "MergedWhileSuspended"
    return replace(change, signed=False, merged=False, documents=(), reason=reason, message=REASONS[reason])


def _settle(step: Step, changes: Collection[PendingChange], verdict: ChangeVerdict) -> bool:
    """Note the verdict on `changes`; True when they are taken over."""
    if verdict.accepted:
        step.bring_into_force(changes, verdict.used)
        return True
    message = "; ".join([verdict.message, *dict.fromkeys(step.notes)])
    for change in changes:
        step.pending[change.path] = replace(
            change,
            reason=verdict.reason,
            message=message,
            authors=verdict.authors,
            approved_by=verdict.approved_by,
            missing=verdict.missing,
        )
    return False


def _judge(step: Step, unit: ChangeUnit, changes: list[PendingChange]) -> ChangeVerdict:
    step.notes.clear()
    signers = {step.author(change.since) if change.signed else None for change in changes}
    direct = {author for author in signers if author} if len(signers) == 1 else set()
    words = step.words_on(changes)
    return judge_change(
        step.policy, unit, direct, words, step.now_so, step.state.spent, lambda: step.merged_by(changes)
    )


def _pairs(changes: Iterable[PendingChange]) -> Mapping[str, DigestPair]:
    return {change.path: (change.old, change.new) for change in changes}


def _judge_policy(step: Step, change: PendingChange) -> InForce[Policy]:
    before = step.state.policy
    if change.new is None:
        _settle(step, [change], ChangeVerdict("PolicyMissing", f"{POLICY} is gone"))
        return before
    data, blob = step.bytes_at(POLICY)
    try:
        policy = load_policy(data, POLICY)
    except (InvalidDocument, InvalidPolicy) as error:
        _settle(step, [change], ChangeVerdict("InvalidPolicy", str(error)))
        return before
    if policy.spec.serial <= before.document.spec.serial:
        message = f"serial {policy.spec.serial} after {before.document.spec.serial}"
        _settle(step, [change], ChangeVerdict("PolicySerialNotRising", message))
        return before
    verdict = _judge(step, ChangeUnit("policy", _pairs([change]), {}, {}), [change])
    if not verdict.accepted:
        verdict = replace(
            verdict, reason="PolicyNotAuthorised", message=f"{verdict.reason}: {verdict.message}"
        )
    if not _settle(step, [change], verdict):
        return before
    return InForce(policy, POLICY, blob, change.new, step.commit)


def _judge_settings(step: Step, change: PendingChange) -> InForce[Capsule]:
    before = step.state.settings
    if change.new is None:
        _settle(step, [change], ChangeVerdict("SettingsMissing", f"{SETTINGS} is gone"))
        return before
    data, blob = step.bytes_at(SETTINGS)
    try:
        settings = codec.load_as(Capsule, data, SETTINGS)
    except InvalidDocument as error:
        _settle(step, [change], ChangeVerdict("InvalidDocument", str(error)))
        return before
    verdict = _judge(step, ChangeUnit("settings", _pairs([change]), {}, {}), [change])
    if not _settle(step, [change], verdict):
        return before
    return InForce(settings, SETTINGS, blob, change.new, step.commit)


def _judge_services(step: Step) -> Mapping[str, InForce[Service]]:
    by_name: dict[str, list[PendingChange]] = {}
    for change in [each for each in step.pending.values() if each.kind == "service"]:
        name = service_name(change.path)
        if name is None:
            misplaced = ChangeVerdict("MisplacedDocument", f"{change.path} gives no service name")
            _settle(step, [change], misplaced)
        else:
            by_name.setdefault(name, []).append(change)
    if not by_name:
        return step.state.services
    services = dict(step.state.services)
    for name, changes in by_name.items():
        before = services.get(name)
        try:
            after = _proposed(step, changes, before)
        except UnfitDocument as error:
            _settle(step, changes, ChangeVerdict(error.reason, str(error)))
            continue
        unit = ChangeUnit(
            "service",
            _pairs(changes),
            before.document.metadata.labels if before else None,
            after.document.metadata.labels if after else None,
        )
        if not _settle(step, changes, _judge(step, unit, changes)):
            continue
        if after:
            services[name] = after
        else:
            del services[name]
    return services


def _proposed(
    step: Step, changes: list[PendingChange], before: InForce[Service] | None
) -> InForce[Service] | None:
    """The one document that would be in force after `changes` of one name. Raises UnfitDocument."""
    present = [change for change in changes if change.new]
    stays = before is not None and all(change.path != before.path for change in changes)
    if len(present) + stays > 1:
        others = [change.path for change in present] + ([before.path] if before and stays else [])
        raise UnfitDocument("DuplicateName", f"one name in several places: {', '.join(others)}")
    if not present:
        return None
    data, blob = step.bytes_at(present[0].path)
    document = load_service(data, present[0].path)
    return InForce(document, present[0].path, blob, present[0].new or "", step.commit)
