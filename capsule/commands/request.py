"""`capsule request`: ask for an action, signed by the person who asks.

Rules kept: a selector is written out as names before anything is signed; what the policy can never allow
is refused before a branch exists; the request lies on its own branch `request/<name>`. Called
by the verb of that name, and by follow_up and switch.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from difflib import get_close_matches

from pydantic import ValidationError

from capsule.commands.errors import Doubtful, RefusedByPolicy, WrongUsage
from capsule.commands.offered import NotOffered, not_offered, unfit_params
from capsule.commands.repository import Repository
from capsule.commands.signing import Identity
from capsule.commands.writing import commit_as
from capsule.documents.codec import emit
from capsule.documents.digests import target_digest
from capsule.documents.paths import REQUEST_BRANCHES, RequestFolder
from capsule.documents.scalars import instant_text
from capsule.documents.types import API_VERSION, ActionRequest, Metadata, RequestSpec, Rollout, Scalar
from capsule.store.api import RefUpdate
from capsule.trust.break_glass import LEAKED
from capsule.trust.policy import may_request, rule_for_action
from capsule.trust.state import JudgedRequest, MainState
from capsule.view.requests import held_back
from capsule_agent.protocol.ids import request_digest
from capsule_agent.protocol.messages import Approval, ApprovedRequest
from capsule_agent.protocol.sshsig import APPROVAL, REQUEST

_DISABLE = "disable"
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_MAX_NAME = 63
LONGEST_REASON = 500
ROTATE = "rotateKey"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for. Targets are `services`, or everything `selector` matches, at most `at_most`."""

    action: str
    reason: str
    services: Sequence[str] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    at_most: int | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict)
    expires_in: timedelta = timedelta(days=7)
    not_before: datetime | None = None
    rollout: Rollout = field(default_factory=Rollout)
    break_glass: bool = False
    anyway: bool = False
    """Ask even for what agents did not offer when they were last seen."""

    def of(self, targets: Sequence[str], rollout: Rollout) -> Wish:
        """The same wish, about these services by name."""
        return replace(self, services=targets, selector={}, at_most=None, rollout=rollout)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is on its branch, as a reviewer will see it."""

    branch: str
    commit: str
    judged: JudgedRequest
    pushed: bool
    not_offered: tuple[NotOffered, ...] = ()
    held: str = ""
    """What keeps it from being begun although it is approved, in words."""


def request(repository: Repository, identity: Identity, wish: Wish, now: datetime) -> Asked:
    """Write, sign and publish a request on `request/<name>`.

    Raises WrongUsage for a wish that names nothing real, Doubtful for one that agents would refuse as far as
    is known here (unless `anyway`), RefusedByPolicy for one the policy can never
    allow, and StoreError when it cannot be published.
    """
    if wish.expires_in <= timedelta(0):
        raise WrongUsage("BadRequest", "--expires must be later than now, such as 2h or 7d")
    if wish.not_before and wish.not_before >= now + wish.expires_in:
        raise WrongUsage(
            "BadRequest",
            "--not-before lies after --expires: it would never begin",
            "Give it longer, such as --expires 14d",
        )
    repository.require_pinned()
    repository.refresh()
    state = repository.state
    targets = resolve_targets(state, wish)
    unknown = not_offered(repository, wish.action, targets)
    if not wish.anyway:
        _refuse_unfit_params(wish)
        _refuse_what_is_not_offered(state, wish, targets, unknown)
    name = request_name(wish.action, targets, now)
    document = _document(name, identity.principal, targets, wish, now)
    folder = RequestFolder(f"{now:%Y/%m}", name)
    raw = emit(document)
    edits: dict[str, bytes | None] = {
        folder.request: raw,
        folder.signature: identity.signer.sign(raw, REQUEST).encode(),
    }
    if wish.break_glass:
        edits |= _broken_glass(repository.root, state, folder, document, raw, identity)
    commit = commit_as(
        repository,
        identity,
        (repository.main,),
        edits,
        f"Ask for {wish.action} on {_shortly(targets)}\n\n{wish.reason}\n\nCapsule-Request: {name}\n",
        now,
    )
    branch = REQUEST_BRANCHES + name
    judged = _judge_before_it_exists(repository, state, branch, commit)
    repository.store.publish([RefUpdate(branch, None, commit)])
    held = held_back(document.spec, state, now) if judged.verdict == "approved" else None
    told = held.message if held else ""
    return Asked(branch, commit, judged, repository.store.has_remote(), unknown, told)


def _refuse_unfit_params(wish: Wish) -> None:
    unfit = unfit_params(wish.action, wish.params)
    if unfit:
        advice = "Nothing was written. If the agent takes it all the same: --anyway"
        raise Doubtful("ParamsInvalid", unfit, advice)


def _refuse_what_is_not_offered(
    state: MainState, wish: Wish, targets: Sequence[str], unknown: Sequence[NotOffered]
) -> None:
    """Stop where the reconciler would refuse the request; a `disable` goes on for whom it can reach."""
    if not unknown or (wish.action == _DISABLE and len(unknown) < len(targets)):
        return
    first = unknown[0]
    also = f" (and {len(unknown) - 1} more targets)" if len(unknown) > 1 else ""
    if not first.offered:
        path = state.services[first.service].path
        raise Doubtful(
            "ObserveOnly",
            f"{first.service} has no agent key, so it is only observed{also}: nothing can be ordered there",
            f"Nothing was written. capsule-agent keygen on its host makes a key, `key:` in {path} names it\n"
            "(docs/how-to/enrol-a-service.md). If that is merged before the next pass: --anyway",
        )
    meant = f"; did you mean {first.meant}?" if first.meant else ""
    raise Doubtful(
        "UnknownAction",
        f"the agent of {first.service} offers {', '.join(first.offered)}, as last seen{also}, "
        f"not {wish.action}{meant}",
        "Nothing was written. If it was deployed anew since: --anyway",
    )


def leaked(wish: Wish) -> Wish:
    """The same wish for a key that leaked: the old one is revoked right after the switch.

    Raises WrongUsage for another action than rotateKey, and where a grace is given as well.
    """
    if wish.action != ROTATE:
        raise WrongUsage("BadRequest", f"--leaked is about keys: it goes with {ROTATE}, not {wish.action}")
    if "grace" in wish.params:
        raise WrongUsage(
            "BadRequest", "--leaked means a grace of 0s: leave out --param grace", "or leave out --leaked"
        )
    reason = wish.reason if wish.reason.startswith(LEAKED) else LEAKED + wish.reason
    return replace(wish, params={**wish.params, "grace": "0s"}, reason=reason)


def find_request(repository: Repository, name: str) -> JudgedRequest:
    """The request `name` (or the branch `request/NAME`), judged. Raises WrongUsage when there is none."""
    requests = repository.requests(repository.state)
    found = requests.get(name.removeprefix("refs/heads/").removeprefix("request/"))
    if found is None:
        raise WrongUsage(
            "UnknownRequest", f"there is no request {name!r}{_nearest(name, requests)}", "capsule requests"
        )
    return found


def resolve_targets(state: MainState, wish: Wish) -> tuple[str, ...]:
    """The names of the services a wish is about, sorted. Raises WrongUsage."""
    if bool(wish.services) == bool(wish.selector):
        raise WrongUsage("NoTargets", "name services, or give a --selector with --at-most (not both)")
    if wish.services:
        for name in wish.services:
            if name not in state.services:
                raise WrongUsage(
                    "UnknownService",
                    f"no service {name!r} is in force{_nearest(name, state.services)}",
                    "capsule services",
                )
        return tuple(dict.fromkeys(wish.services))
    found = tuple(name for name in sorted(state.services) if matches(state, name, wish.selector))
    if not found:
        raise WrongUsage("NoTargets", "the selector matches no service in force", "capsule services")
    if wish.at_most is None:
        raise WrongUsage(
            "AtMostMissing",
            f"a selector needs --at-most N: it matches {len(found)} services now ({_shortly(found)})",
        )
    if len(found) > wish.at_most:
        raise WrongUsage(
            "TooManyTargets", f"the selector matches {len(found)} services, --at-most is {wish.at_most}"
        )
    return found


def matches(state: MainState, name: str, selector: Mapping[str, str]) -> bool:
    """Whether every label of `selector` is the service's."""
    labels = state.services[name].document.metadata.labels
    return all(labels.get(key) == value for key, value in selector.items())


def request_name(action: str, targets: Sequence[str], now: datetime) -> str:
    """Such as 20261123-rotate-key-openai-chat-k3f9: a DNS label that people can read out."""
    tail = "".join(secrets.choice(_ALPHABET) for _ in range(4))
    subject = targets[0] if len(targets) == 1 else f"{len(targets)}-services"
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", action).lower()
    middle = f"{words}-{subject}"[: _MAX_NAME - len("yyyymmdd--") - len(tail)].rstrip("-")
    return f"{now:%Y%m%d}-{middle}-{tail}"


def _document(
    name: str, principal: str, targets: tuple[str, ...], wish: Wish, now: datetime
) -> ActionRequest:
    expires = (now + wish.expires_in).replace(microsecond=0)
    try:
        return ActionRequest(
            api_version=API_VERSION,
            kind="ActionRequest",
            metadata=Metadata(name=name),
            spec=RequestSpec(
                requested_by=principal,
                action=wish.action,
                targets=targets,
                params=wish.params,
                reason=wish.reason,
                expires=expires,
                not_before=wish.not_before,
                rollout=wish.rollout,
                break_glass=wish.break_glass,
            ),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WrongUsage("BadRequest", f"{where}: {first['msg']}") from None


def _broken_glass(
    root: str,
    state: MainState,
    folder: RequestFolder,
    document: ActionRequest,
    raw: bytes,
    identity: Identity,
) -> dict[str, bytes | None]:
    """The requester's own word that they act without approvals, for agents that check such words."""
    spec, who = document.spec, identity.principal
    word = Approval(
        repository=root,
        principal=who,
        decision="break-glass",
        request=ApprovedRequest(
            document.metadata.name, request_digest(raw), who, spec.action, dict(spec.params)
        ),
        targets={name: target_digest(state.services[name].document) for name in spec.targets},
        expires=instant_text(spec.expires),
        reason=spec.reason,
    )
    data = emit(word)
    signature = identity.signer.sign(data, APPROVAL).encode()
    return {folder.approval(who): data, folder.approval_signature(who): signature}


def _judge_before_it_exists(
    repository: Repository, state: MainState, branch: str, commit: str
) -> JudgedRequest:
    name = branch.removeprefix(REQUEST_BRANCHES)
    judged = repository.judge_branch(state, branch, commit)
    if judged is None or judged.verdict == "refused":
        raise RefusedByPolicy(
            judged.reason if judged else "NotARequest",
            judged.message if judged else f"{name} would not be a request",
            f"Nothing was written. {_remedy(state, judged)}",
        )
    return judged


def _remedy(state: MainState, judged: JudgedRequest | None) -> str:
    """What a person can do about a refusal: who may ask, which field sets the limit."""
    spec = judged.document.spec if judged and judged.document else None
    if spec and judged and judged.reason == "TooManyTargets":
        limits = state.settings.document.spec.limits
        return (
            f"capsule.yaml sets spec.limits (maxTargets {limits.max_targets}, maxShare {limits.max_share}): "
            "ask for fewer services at a time, or propose to raise it."
        )
    if spec and judged and judged.reason == "NotEntitled" and not spec.break_glass:
        return f"Who may: {_who_may_ask(state, spec)}. All rules: capsule policy show"
    return "The rules in force: capsule policy show"


def _who_may_ask(state: MainState, spec: RequestSpec) -> str:
    """Such as "operators (alice)": who may ask for the first target that the requester may not ask for."""
    policy = state.policy.document
    for name in spec.targets:
        labels = state.services[name].document.metadata.labels
        rule = rule_for_action(policy, spec.action, labels)
        if rule and not may_request(policy, rule, spec.requested_by):
            teams = policy.spec.teams
            return ", ".join(f"{team} ({', '.join(teams.get(team, ()))})" for team in rule.may_request)
    return "nobody"


def _shortly(targets: Sequence[str]) -> str:
    return ", ".join(targets[:3]) + (f" and {len(targets) - 3} more" if len(targets) > 3 else "")


def _nearest(word: str, valid: Mapping[str, object]) -> str:
    near = get_close_matches(word, valid, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
