"""One request and what its evidence amounts to, judged against main as it is in force now.

Rules kept: a request is what its signed bytes say, and nothing is executed that its rules do not allow for
every target; an approval counts only for the bytes, the targets and the parameters it names, in the
repository it names, by a person who is entitled today; whoever asks does not approve; every approval that
does not count says why. Called by requests and by `capsule audit verify`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from capsule.documents import codec
from capsule.documents.digests import bytes_digest, target_digest
from capsule.documents.paths import RequestFolder
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import ActionRequest, Attestation, Policy, Rule
from capsule.trust import objects
from capsule.trust.approvals import ApprovalFiles, ApprovalSubject, judge_approval
from capsule.trust.arrivals import Arrivals
from capsule.trust.arrived_keys import ArrivedKeys
from capsule.trust.attestations import Shown, judge_reviews
from capsule.trust.break_glass import own_words
from capsule.trust.evidence import accepts, strongest
from capsule.trust.merges import Merged, judge_merge
from capsule.trust.objects import BadObject, ObjectReader, TreeEntry
from capsule.trust.policy import (
    is_machine,
    may_request,
    missing_approvals,
    needed_evidence,
    people,
    rule_for_action,
    signer_of,
)
from capsule.trust.state import JudgedRequest, MainState, SeenApproval
from capsule_agent.protocol import sshsig

REASONS: dict[str, str] = {
    "InvalidDocument": "request.yaml is not a valid ActionRequest.",
    "NameMismatch": "The request carries another name than its folder.",
    "DuplicateTarget": "The request names one target twice.",
    "RequestUnsigned": "request.yaml.sig is missing: sign request.yaml as the requester.",
    "BadSignature": "request.yaml.sig was not made over these bytes, as a request, by the requester.",
    "UnknownPrincipal": "The person is not a principal of the policy (any more).",
    "MachineRequest": "A machine asks where it may not: only a rule lets it whose mayRequest names a team "
    "that lists the machine, and that asks at least one approval of a person.",
    "UnknownService": "A target is not a service in force.",
    "NoRule": "No rule of the policy is about this action on this service. No match is a refusal.",
    "NotEntitled": "The requester is in none of the teams that the rule lets ask.",
    "NoBreakGlass": "The request breaks the glass, and the rule of a target has no `breakGlass`.",
    "BreakGlassUnreasoned": "Whoever breaks the glass says why, in more than a word.",
    "TooManyTargets": "The request names more services than limits.maxTargets or limits.maxShare allow.",
    "Expired": "The request's time is over. Ask again.",
    "ApprovalsMissing": "Not enough people of the demanded teams have approved yet.",
    "AwaitsMerge": "The request lies on its branch and its rules ask for approvals: it counts "
    "once it is merged.",
    "Rejected": "Somebody entitled to approve has rejected it.",
    "MalformedTree": "The request's folder holds something that no verdict may rest on, such as a symlink "
    "or a file far too large.",
}

MAX_FOLDER_BYTES = 256 * 1024
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_SIGNATURE_BYTES = 8 * 1024
MAX_STRANGERS = 20
LEAST_REASON = 10
"""Characters of the reason of a request that breaks the glass."""

Source = Literal["main", "branch"]


class _Refused(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def judge_request(
    reader: ObjectReader,
    state: MainState,
    own: str | None,
    folder: RequestFolder,
    source: Source,
    revision: str,
    now: datetime | None = None,
    *,
    frozen: Collection[str] = (),
    attestations: Sequence[Attestation] = (),
    arrivals: Arrivals | None = None,
) -> JudgedRequest:
    """Judge the request whose folder, `folder` in the commit `revision`, is the tree `own`.

    `frozen` are targets already begun: later changes of their documents void nothing. `attestations` are
    what reconcilers recorded of its reviews, oldest first: the last one counts. `arrivals` remembers what was
    walked of main. With `now` an expired request is refused. Never raises for what the request holds; raises
    MissingObject.
    """
    try:
        listed = {each.name: each for each in objects.entries(reader, own, MAX_FOLDER_BYTES)} if own else {}
        raw, signature, blob, seal = _files(reader, listed)
        approvals = _approvals(reader, listed.get("approvals"), state)
    except BadObject as error:
        # the digest of nothing: a refusal that is recorded must name one
        blank = JudgedRequest(
            folder.name, folder.request, bytes_digest(b""), b"", "", source, revision, None, "refused"
        )
        return replace(blank, reason="MalformedTree", message=str(error))
    armored = (signature or b"").decode("ascii", errors="replace")
    judged = JudgedRequest(
        folder.name, folder.request, bytes_digest(raw), raw, armored, source, revision, None, "refused"
    )
    try:
        document = _read(raw, folder)
    except _Refused as refused:
        return replace(judged, reason=refused.reason, message=str(refused))
    services = {name: state.services[name] for name in document.spec.targets if name in state.services}
    digests = {name: target_digest(service.document) for name, service in services.items()}
    judged = replace(judged, document=document, target_digests=digests, blob=blob)
    walked = (arrivals or Arrivals(reader)) if source == "main" else None
    keys = ArrivedKeys(state.policy.document, state.seen, walked, revision)
    try:
        _check_requester(keys.of_file(folder.signature, seal), document, raw, signature)
        rules = _rules(state, document, frozen)
        if not frozen:
            _check_limits(state, document)
    except _Refused as refused:
        judged = replace(judged, fleeting=keys.fleeting, arrived=tuple(keys.asked))
        return replace(judged, reason=refused.reason, message=str(refused))
    judged = replace(judged, rules=rules)
    subject = _subject(state, judged, document, frozen)
    seen = [
        each
        if isinstance(each, SeenApproval)
        else judge_approval(keys.subject(subject, folder.folder, each), each)
        for each in approvals
    ]
    if walked:
        place = _Place(reader, walked, revision, blob, keys)
        seen += place.reviews(subject, judged.path, state, attestations)
        seen += place.merge(subject, judged.path, state)
    judged = replace(judged, approvals=tuple(seen), fleeting=keys.fleeting, arrived=tuple(keys.asked))
    return expire(_weigh(state, judged, document), now)


def expire(judged: JudgedRequest, now: datetime | None) -> JudgedRequest:
    """`judged`, refused when its time is over at `now`; a rejection stays one."""
    document = judged.document
    if now is None or document is None or judged.verdict in ("refused", "rejected"):
        return judged
    if now < document.spec.expires:
        return judged
    message = f"expired at {document.spec.expires.isoformat()}"
    return replace(judged, verdict="refused", reason="Expired", message=message)


def _files(reader: ObjectReader, listed: Mapping[str, TreeEntry]) -> tuple[bytes, bytes | None, str, str]:
    """Request and signature from the request's own folder, and the blob ids of both."""
    request, seal = listed.get("request.yaml"), listed.get("request.yaml.sig")
    if request is None or request.is_folder:
        raise BadObject("MalformedTree", "request.yaml is missing")
    raw = objects.read_blob(reader, request.oid, MAX_DOCUMENT_BYTES)
    if seal is None or seal.is_folder:
        return raw, None, request.oid, ""
    return raw, objects.read_blob(reader, seal.oid, MAX_SIGNATURE_BYTES), request.oid, seal.oid


def _approvals(
    reader: ObjectReader, inner: TreeEntry | None, state: MainState
) -> list[ApprovalFiles | SeenApproval]:
    """The words on the request: files of people of the policy, and why others are not even read."""
    listed = objects.entries(reader, inner.oid, MAX_FOLDER_BYTES) if inner and inner.is_folder else ()
    files = {each.name: each.oid for each in listed if not each.is_folder}
    principals = state.policy.document.spec.principals
    found: list[ApprovalFiles | SeenApproval] = []
    strangers = 0
    for name in (each.removesuffix(".json") for each in files if each.endswith(".json")):
        if name in principals:
            found.append(_approval(reader, name, files))
        elif strangers < MAX_STRANGERS:
            strangers += 1
            found.append(_unread(name, "UnknownPrincipal", f"the policy lists no principal {name[:80]!r}"))
    return found


def _approval(reader: ObjectReader, name: str, files: Mapping[str, str]) -> ApprovalFiles | SeenApproval:
    beside = files.get(f"{name}.json.sig")
    try:
        document = objects.read_blob(reader, files[f"{name}.json"], MAX_DOCUMENT_BYTES)
        sealed = objects.read_blob(reader, beside, MAX_SIGNATURE_BYTES) if beside else None
    except BadObject as error:
        return _unread(name, error.reason, f"approvals/{name}.json: {error}")
    return ApprovalFiles(name, document, sealed, beside or "")


def _unread(name: str, reason: str, message: str) -> SeenApproval:
    return SeenApproval(name, "approve", False, "signature", b"", "", reason, message)


def _read(raw: bytes, folder: RequestFolder) -> ActionRequest:
    try:
        document = codec.load_as(ActionRequest, raw, folder.request)
    except InvalidDocument as error:
        raise _Refused("InvalidDocument", str(error)) from None
    if document.metadata.name != folder.name:
        raise _Refused("NameMismatch", f"named {document.metadata.name!r} in folder {folder.name!r}")
    targets = document.spec.targets
    if len(set(targets)) != len(targets):
        twice = next(name for name in targets if targets.count(name) > 1)
        raise _Refused("DuplicateTarget", f"{twice} stands twice among the targets")
    return document


def _check_requester(policy: Policy, document: ActionRequest, raw: bytes, signature: bytes | None) -> None:
    who = document.spec.requested_by
    if who not in policy.spec.principals:
        raise _Refused("UnknownPrincipal", f"the policy lists no principal {who!r}")
    if signature is None:
        raise _Refused("RequestUnsigned", "request.yaml.sig is missing")
    try:
        signer = signer_of(policy, raw, signature.decode("ascii", errors="replace"), sshsig.REQUEST)
    except sshsig.BadSignature as error:
        raise _Refused("BadSignature", f"request.yaml.sig: {error}") from None
    if signer != who:
        raise _Refused("BadSignature", f"request.yaml.sig was made by {signer}, not by {who}")


def _rules(state: MainState, document: ActionRequest, frozen: Collection[str]) -> dict[str, Rule]:
    """The rule of every target; each must let the requester ask."""
    policy, spec = state.policy.document, document.spec
    rules: dict[str, Rule] = {}
    for name in spec.targets:
        service = state.services.get(name)
        if service is None:
            if name in frozen:
                continue
            raise _Refused("UnknownService", f"no service in force is named {name!r}")
        rule = rule_for_action(policy, spec.action, service.document.metadata.labels)
        if rule is None:
            raise _Refused("NoRule", f"no rule is about {spec.action} on {name}")
        if spec.break_glass:
            _check_glass(policy, rule, document, name)
        elif not may_request(policy, rule, spec.requested_by):
            if is_machine(policy, spec.requested_by):
                message = f"the machine {spec.requested_by} may not ask for {spec.action} on {name}"
                raise _Refused("MachineRequest", message)
            raise _Refused("NotEntitled", f"{spec.requested_by} may not ask for {spec.action} on {name}")
        rules[name] = rule
    return rules


def _check_glass(policy: Policy, rule: Rule, document: ActionRequest, target: str) -> None:
    """The rule lets this requester act without approvals, and they say why."""
    spec = document.spec
    if rule.break_glass is None:
        raise _Refused("NoBreakGlass", f"the rule for {spec.action} on {target} lets nobody break the glass")
    if spec.requested_by not in people(policy, [rule.break_glass.team]):
        message = (
            f"{spec.requested_by} is not in {rule.break_glass.team}: may not break the glass on {target}"
        )
        raise _Refused("NotEntitled", message)
    if len(own_words(spec.reason)) < LEAST_REASON:
        raise _Refused("BreakGlassUnreasoned", f"say why in at least {LEAST_REASON} characters")


def _check_limits(state: MainState, document: ActionRequest) -> None:
    """Neither limit is passed; but a `disable` is the safe direction, and no share of all services is too
    large for it: a key that leaked is not used on because it serves half of them."""
    limits = state.settings.document.spec.limits
    count = len(document.spec.targets)
    share = max(1, len(state.services) * limits.max_share // 100)
    if count > limits.max_targets:
        raise _Refused("TooManyTargets", f"{count} targets; limits.maxTargets is {limits.max_targets}")
    if count > share and document.spec.action != "disable":
        whole = len(state.services)
        message = f"{count} of {whole} services; limits.maxShare of {limits.max_share} percent allows {share}"
        raise _Refused("TooManyTargets", message)


def _subject(
    state: MainState, judged: JudgedRequest, document: ActionRequest, frozen: Collection[str]
) -> ApprovalSubject:
    return ApprovalSubject(
        state.root,
        judged.path.removesuffix("/request.yaml"),
        judged.digest,
        document,
        state.policy.document,
        tuple(judged.rules.values()),
        judged.target_digests,
        frozen,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request lies on main: what else than signatures may say who approved it."""

    reader: ObjectReader
    arrivals: Arrivals
    revision: str
    blob: str
    keys: ArrivedKeys

    def reviews(
        self, subject: ApprovalSubject, path: str, state: MainState, attestations: Sequence[Attestation]
    ) -> tuple[SeenApproval, ...]:
        """What the last attestation amounts to."""
        if not attestations:
            return ()
        told = attestations[-1]
        on_main = self.arrivals.since_holds(self.revision, path, self.blob, told.spec.merged)
        return judge_reviews(
            subject, told, Shown(path, self.blob, on_main, state.settings.document.spec.forge)
        )

    def merge(self, subject: ApprovalSubject, path: str, state: MainState) -> tuple[SeenApproval, ...]:
        """What the merge that brought the request amounts to, where a rule takes that at all."""
        if not takes_merge(subject.rules):
            return ()
        arrival = self.keys.step_of(path, self.blob)
        merged = Merged(path, self.blob, state.services, state.settings.document.spec.forge)
        then = replace(subject, policy=self.keys.of_step(arrival))
        return (judge_merge(self.reader, then, merged, arrival),)


def takes_merge(rules: Iterable[Rule]) -> bool:
    """Whether a merge may approve what these rules are about: only then is main looked through."""
    return any(rule.approvals and accepts(rule, "merge") for rule in rules)


def _weigh(state: MainState, judged: JudgedRequest, document: ActionRequest) -> JudgedRequest:
    """The verdict that the approvals amount to."""
    policy, rules = state.policy.document, tuple(judged.rules.values())
    given = strongest(judged.evidence_of_people())
    authors = {document.spec.requested_by}
    missing = missing_approvals(policy, rules, authors, given)
    judged = replace(judged, missing=missing, evidence=needed_evidence(policy, rules, authors, given))
    against = [each.principal for each in judged.approvals if each.counts and each.decision == "reject"]
    if against:
        names = ", ".join(dict.fromkeys(against))
        return replace(judged, verdict="rejected", reason="Rejected", message=f"rejected by {names}")
    if document.spec.break_glass:
        return replace(judged, verdict="approved", evidence="break-glass", missing=())
    if missing:
        text = ", ".join(f"{each.count} of {each.team}" for each in missing)
        return replace(judged, verdict="proposed", reason="ApprovalsMissing", message=f"missing: {text}")
    if judged.source == "branch" and any(rule.approvals for rule in rules):
        message = "approved, and waits for its merge into main"
        return replace(judged, verdict="proposed", reason="AwaitsMerge", message=message)
    return replace(judged, verdict="approved")
