"""Checks of a request against the services and the policy beside it. Called by check.tree."""

from __future__ import annotations

from collections.abc import Iterator

from capsule.documents.check.people import people_of
from capsule.documents.check.policy import matches_action, requesters_of
from capsule.documents.check.sources import Source, Tree
from capsule.documents.problems import Problem, nearest
from capsule.documents.types import ActionRequest, Policy, Rule


def check_request(tree: Tree, source: Source[ActionRequest]) -> Iterator[Problem]:
    """Every problem of a request that is well-formed and has not expired."""
    yield from _targets(tree, source)
    if tree.policy:
        yield from _requester(tree.policy.document, source)
        yield from _rules(tree, tree.policy.document, source)


def _targets(tree: Tree, source: Source[ActionRequest]) -> Iterator[Problem]:
    targets = source.document.spec.targets
    for at, name in enumerate(targets):
        loc = ("spec", "targets", at)
        if name in targets[:at]:
            yield source.problem(loc, "DuplicateTarget", f'"{name}" is named twice', hint="remove one")
        elif name not in tree.services and name not in tree.unreadable_services:
            message, hint = f'no service is named "{name}"', nearest(name, tree.services)
            grave = tree.severity("error", source.path)
            yield source.problem(loc, "UnknownService", message, "the name of a service", hint, grave)
    if tree.settings and len(targets) > tree.settings.document.spec.limits.max_targets:
        limit = tree.settings.document.spec.limits.max_targets
        message = f"{len(targets)} services in one request"
        hint = "ask in several requests"
        yield source.problem(("spec", "targets"), "TooManyTargets", message, f"at most {limit}", hint)


def _requester(policy: Policy, source: Source[ActionRequest]) -> Iterator[Problem]:
    name = source.document.spec.requested_by
    if name not in policy.spec.principals:
        hint = nearest(name, policy.spec.principals)
        message = f'no principal is named "{name}"'
        yield source.problem(("spec", "requestedBy"), "UnknownPrincipal", message, hint=hint)


def _rules(tree: Tree, policy: Policy, source: Source[ActionRequest]) -> Iterator[Problem]:
    spec = source.document.spec
    refused: set[str] = set()
    for at, name in enumerate(spec.targets):
        if name not in tree.services:
            continue
        rule = _deciding(policy, spec.action, dict(tree.services[name].document.metadata.labels))
        if rule is None:
            message = f'no rule of the policy matches {spec.action} on "{name}"; it will be refused'
            loc = ("spec", "targets", at)
            grave = tree.severity("warning", source.path)
            yield source.problem(loc, "NoRuleForRequest", message, severity=grave)
        elif spec.requested_by not in _may_ask(policy, rule, spec.break_glass):
            refused.add(name)
    if refused and spec.requested_by in policy.spec.principals:
        message = f'"{spec.requested_by}" may not request {spec.action} on {", ".join(sorted(refused)[:5])}'
        yield source.problem(("spec", "requestedBy"), "NotAllowedToRequest", message, severity="warning")


def _may_ask(policy: Policy, rule: Rule, glass: bool) -> set[str]:
    """Who may ask so; with a broken glass, those whom the rule lets act without approvals."""
    if not glass:
        return requesters_of(policy, rule)
    return people_of(policy, (rule.break_glass.team,)) if rule.break_glass else set()


def _deciding(policy: Policy, action: str, labels: dict[str, str]) -> Rule | None:
    return next((rule for rule in policy.spec.rules if matches_action(rule.match, action, labels)), None)
