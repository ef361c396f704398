"""All services in one sentence: the first thing people read. Called by the guide and the dashboard."""

from __future__ import annotations

from capsule.view.model import Snapshot, needs_attention


def summary(snapshot: Snapshot) -> str:
    """One calm sentence about all services."""
    total = len(snapshot.services)
    if not total:
        return "No services yet."
    calm = [row for row in snapshot.services if not needs_attention(row)]
    attention = total - len(calm)
    healthy = sum(row.status == "HEALTHY" for row in calm)
    disabled = len(calm) - healthy
    if healthy == total:
        return "The one service is healthy." if total == 1 else f"All {total:,} services are healthy."
    of_all = f" of {total:,} services" if total > 1 else " service"
    parts = [
        (attention, f"need{'s' if attention == 1 else ''} attention"),
        (healthy, f"{_be(healthy)} fine"),
        (disabled, f"{_be(disabled)} switched off"),
    ]
    texts = [f"{count:,}{{}} {text}" for count, text in parts if count]
    return ", ".join([texts[0].format(of_all), *(text.format("") for text in texts[1:])]) + "."


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
