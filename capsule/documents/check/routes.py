"""Checks of `notify` in capsule.yaml: routes by which nobody will ever be told. Called by check.tree."""

from __future__ import annotations

from collections.abc import Iterator

from capsule.documents.check.sources import Source, Tree
from capsule.documents.problems import Problem, nearest
from capsule.documents.types import Capsule


def check_routes(tree: Tree) -> Iterator[Problem]:
    """Teams that the policy does not list, and labels that no service has."""
    if tree.settings is None:
        return
    for at, route in enumerate(tree.settings.document.spec.notify):
        yield from _unknown_teams(tree, tree.settings, at, route.teams)
        if route.selector and not tree.unreadable_services and not _matches(tree, at, tree.settings):
            message = "no service has all of these labels, so nobody is told of anything"
            loc = ("spec", "notify", at, "selector")
            yield tree.settings.problem(loc, "RouteMatchesNothing", message, severity="warning")


def _unknown_teams(tree: Tree, source: Source[Capsule], at: int, teams: tuple[str, ...]) -> Iterator[Problem]:
    known = tree.policy.document.spec.teams if tree.policy else teams
    for place, team in enumerate(teams):
        if team not in known:
            loc = ("spec", "notify", at, "teams", place)
            message = f'no team is named "{team}"'
            yield source.problem(loc, "UnknownTeam", message, hint=nearest(team, known), severity="warning")


def _matches(tree: Tree, at: int, source: Source[Capsule]) -> bool:
    wanted = source.document.spec.notify[at].selector.items()
    return any(wanted <= each.document.metadata.labels.items() for each in tree.services.values())
