"""A server without a forge, and a history on its way there: pushes as its hook judges them.

Nothing here is used outside of tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from capsule.documents.paths import MAIN
from capsule.trust.pushes import Push, judge_push
from capsule.trust.refused_pushes import RefusedPush
from tests.trust_history import History


class Server:
    """A repository as the server has it, and a history on its way there."""

    def __init__(self) -> None:
        self.history = History.begun()
        self.root = self.history.root
        self.refs = {MAIN: self.root}

    def push(self, *wanted: tuple[str, str | None], root: str | None = None) -> tuple[RefusedPush, ...]:
        """Push each (ref, id), and take it when nothing is refused."""
        moves = [Push(ref, self.refs.get(ref), new) for ref, new in wanted]
        refused = judge_push(self.history, root or self.root, self.refs, moves)
        if not refused:
            for ref, new in wanted:
                self.refs.pop(ref, None)
                if new:
                    self.refs[ref] = new
        return refused

    def main(self) -> tuple[RefusedPush, ...]:
        return self.push((MAIN, self.history.tip))

    def request(self, edits: Mapping[str, bytes | None], *parents: str) -> str:
        """A commit with `edits` on top of the first parent, which is main's tip by default; main stays."""
        history = self.history
        before = history.files, history.tip
        oid = history.commit(history.edited(edits), list(parents) or [history.tip])
        history.files, history.tip = before
        return oid


def why(refused: tuple[RefusedPush, ...]) -> list[str]:
    assert all(each.message and each.advice for each in refused)
    return [each.reason for each in refused]
