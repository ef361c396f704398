"""Routes of notifications by which nobody would ever be told."""

from __future__ import annotations

import pytest

from capsule.documents.check import check_tree

HEAD = "apiVersion: capsule/v1\nkind: Capsule\nmetadata: {name: x}\nspec:\n  notify:\n"
BROKEN = {"services/other.yaml": b"kind: Service\n"}


def found(tree: dict[str, bytes], route: str) -> list[tuple[str, int, int, str]]:
    problems = check_tree({**tree, "capsule.yaml": f"{HEAD}    - {{to: a}}\n    - {route}\n".encode()})
    return [
        (each.reason, each.line, each.column, each.severity)
        for each in problems
        if each.path == "capsule.yaml"
    ]


@pytest.mark.parametrize(
    "route", ["{to: oncall}", "{to: oncall, selector: {team: search}, teams: [reviewers], events: [Drift]}"]
)
def test_a_route_that_leads_somewhere(tree: dict[str, bytes], route: str) -> None:
    assert found(tree, route) == []


def test_labels_that_no_service_has(tree: dict[str, bytes]) -> None:
    route = "{to: oncall, selector: {team: search, env: test}}"
    assert found(tree, route) == [("RouteMatchesNothing", 7, 30, "warning")]
    # The service that has them may be the one that cannot be read.
    assert found({**tree, **BROKEN}, route) == []


def test_a_team_that_is_not_there(tree: dict[str, bytes]) -> None:
    assert found(tree, "{to: oncall, teams: [owners, reviewer]}") == [("UnknownTeam", 7, 36, "warning")]
    without = {path: data for path, data in tree.items() if path != "policy.yaml"}
    assert found(without, "{to: oncall, teams: [reviewer]}") == []


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        ("{to: oncall, events: [Drfit]}", "WrongValue"),
        ('{to: "https://hooks.example.com/x"}', "BadFormat"),
        ("{to: oncall, on: [Drift]}", "AmbiguousScalar"),
        ("{events: [Drift]}", "MissingField"),
        ("{to: oncall, remindAfter: weekly}", "BadFormat"),
    ],
)
def test_a_route_that_is_not_one(tree: dict[str, bytes], route: str, reason: str) -> None:
    assert reason in [each[0] for each in found(tree, route)]
