"""What an agent says of the actions that it offers: their parameters, and how many approvals it counts.

Rules kept: pure; an agent may publish whatever it likes, so what is no JSON Schema as agents publish them
says nothing. Called by drift and rollout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from capsule_agent.protocol.messages import ActionInfo


def approvals_wanted(offered: ActionInfo, given: Collection[str]) -> int:
    """How many signed approvals the agent counts for the action with these parameters: as many as the action
    asks for, or any of them, or any that the agent fills in by a default."""
    wanted = [
        schema.get("x-approvals")
        for name, schema in properties_of(offered.params).items()
        if isinstance(schema, Mapping) and (name in given or "default" in schema)
    ]
    return max([offered.approvals, *(count for count in wanted if isinstance(count, int))])


def properties_of(schema: Mapping[str, object]) -> Mapping[str, object]:
    """What a JSON Schema says of each parameter; nothing where it is not one as agents publish them."""
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}
