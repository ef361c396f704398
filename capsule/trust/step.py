"""A step of main under judgement: what of it is known, who speaks for it, and what it brought into force.

Rules kept: everything is judged by the policy before the step, with the keys that spoke when the step was
first seen; what is found once is not sought again; what came while main was suspended loses its author.
Called by takeover, mainline and hearing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from capsule.documents.digests import bytes_digest
from capsule.documents.paths import POLICY, SETTINGS, service_name
from capsule.documents.types import Capsule, Policy, Service
from capsule.trust import objects
from capsule.trust.change_reviews import Brought, reviewed_by
from capsule.trust.changes import DigestPair, MergedBy, ReviewedBy, VoidApproval, Word, read_word
from capsule.trust.key_validity import is_timed, policy_at
from capsule.trust.merged_changes import NoMerge, merged_by
from capsule.trust.objects import BadObject, ObjectReader
from capsule.trust.policy import signer_of
from capsule.trust.state import InForce, MainState, PendingChange
from capsule_agent.protocol import sshsig

REASONS: dict[str, str] = {
    "MergedWhileSuspended": "Merged while acting was suspended, so not taken over: ask for it again, "
    "with a new commit or with ChangeApprovals, once main is mended.",
}


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

    def reviewed_by(self, changes: Collection[PendingChange]) -> ReviewedBy | None:
        """What reviews at the forge say of `changes`; None: nothing."""
        if not all(change.signed or change.merged for change in changes):
            return None  # merged while main was suspended, or there from the beginning
        brought = [
            Brought(change, document.blob if document else None, self._blob(change.path))
            for change in changes
            for document in [in_force_at(self.state, change.path)]
        ]
        forge = self.state.settings.document.spec.forge
        try:
            found = reviewed_by(self.reader, self.policy, forge, self.commit, brought)
        except (VoidApproval, BadObject) as error:
            self.notes.append(f"{error} ({error.reason})")
            return None
        self.notes += found.notes
        return found

    def _blob(self, path: str) -> str | None:
        entry = objects.find(self.reader, self.tree, path)
        return entry.oid if entry else None

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


def _merged_while_suspended(change: PendingChange) -> PendingChange:
    reason = "MergedWhileSuspended"
    message = REASONS[reason]
    return replace(change, signed=False, merged=False, documents=(), reason=reason, message=message)
