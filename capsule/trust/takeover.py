"""Taking pending changes of main over, one step at a time, as far as the policy before the step allows.

Rules kept: everything here is judged by the policy that was in force before the step; a policy change is
judged first, and while one stands unauthorised nothing else is taken over; documents are judged by the
labels in force and the labels proposed. Called by mainline.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from capsule.documents import codec
from capsule.documents.paths import POLICY, SETTINGS, service_name
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import Capsule, Evidence, Policy, Service
from capsule.trust.changes import ChangeUnit, ChangeVerdict, DigestPair, judge_change
from capsule.trust.policy_checks import InvalidPolicy, load_policy
from capsule.trust.state import InForce, MainState, PendingChange
from capsule.trust.step import REASONS as _STEP_REASONS
from capsule.trust.step import Step

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
    **_STEP_REASONS,
}


class UnfitDocument(ValueError):
    """Bytes that cannot come into force, whoever asks for it. `reason` is one of REASONS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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
    return replace(_documents_taken(step, step.pending), policy=policy)


def take_over_reviewed(step: Step, paths: Collection[str]) -> MainState:
    """The state after reviews of `paths` were recorded: nothing else that waits is judged anew."""
    names = {service_name(path) for path in paths}
    concerned = [path for path in step.pending if path in paths or service_name(path) in names - {None}]
    return _documents_taken(step, concerned)


def _documents_taken(step: Step, paths: Collection[str]) -> MainState:
    """The state with those changes of `paths` in force that are authorised, of all but the policy."""
    settings = step.state.settings
    if SETTINGS in paths:
        settings = _judge_settings(step, step.pending[SETTINGS])
    services = _judge_services(step, paths)
    return replace(step.state, settings=settings, services=services, spent=step.spent())


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
            evidence=verdict.evidence,
            takes_reviews=verdict.takes_reviews and (change.signed or change.merged),
        )
    return False


def _judge(step: Step, unit: ChangeUnit, changes: list[PendingChange]) -> ChangeVerdict:
    step.notes.clear()
    signers = {step.author(change.since) if change.signed else None for change in changes}
    direct = {author for author in signers if author} if len(signers) == 1 else set()
    return judge_change(
        step.policy,
        unit,
        direct,
        step.words_on(changes),
        step.now_so,
        step.state.spent,
        lambda: step.merged_by(changes),
        lambda: step.reviewed_by(changes),
    )


def _let_in_by(verdict: ChangeVerdict) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Evidence, ...]]:
    return verdict.authors, verdict.approved_by, verdict.evidence


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
    return InForce(policy, POLICY, blob, change.new, step.commit, *_let_in_by(verdict))


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
    return InForce(settings, SETTINGS, blob, change.new, step.commit, *_let_in_by(verdict))


def _judge_services(step: Step, paths: Collection[str]) -> Mapping[str, InForce[Service]]:
    by_name: dict[str, list[PendingChange]] = {}
    for change in [each for each in step.pending.values() if each.kind == "service" and each.path in paths]:
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
        verdict = _judge(step, unit, changes)
        if not _settle(step, changes, verdict):
            continue
        if after:
            authors, approved_by, evidence = _let_in_by(verdict)
            services[name] = replace(after, authors=authors, approved_by=approved_by, evidence=evidence)
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
