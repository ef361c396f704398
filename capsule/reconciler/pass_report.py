"""What one pass did, as a value. Made by the reconciler; read by the daemon and by `--once`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass did, for logs and for `--once`."""

    audit: str | None
    commits: int
    began: int
    ended: int
    under_way: int
    stalled: str = ""
    lost_race: bool = False

    @property
    def quiet(self) -> bool:
        """Whether nothing happened and nothing is under way."""
        return not (self.commits or self.began or self.ended or self.under_way or self.lost_race)
