"""A branch along its first parents, small enough to be kept whole: 20 bytes a commit. Called by audit."""

from __future__ import annotations

from collections.abc import Iterator

from capsule.trust import objects
from capsule.trust.objects import ObjectReader


class Chain:
    """First parents from a tip back to the root, 20 bytes a commit."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    @classmethod
    def of(cls, reader: ObjectReader, tip: str | None, root: str) -> Chain:
        packed = bytearray()
        for oid in objects.first_parents(reader, tip, root) if tip else ():
            packed += bytes.fromhex(oid)
        return cls(bytes(packed))

    def __len__(self) -> int:
        return len(self._packed) // 20

    def oldest_first(self, start: int = 0) -> Iterator[str]:
        """The commits behind the first `start` ones."""
        for at in range(len(self._packed) - 20 * (start + 1), -1, -20):
            yield self._packed[at : at + 20].hex()

    def at(self, number: int) -> str | None:
        """The commit of that number, counted from 1 behind the root; None when there are fewer."""
        end = len(self._packed) - 20 * (number - 1)
        return self._packed[end - 20 : end].hex() if 0 < number <= len(self) else None

    def packed_from(self, start: int) -> bytes:
        """The ids behind the first `start` ones, 20 bytes each."""
        return b"".join(map(bytes.fromhex, self.oldest_first(start)))

    def positions(self) -> dict[bytes, int]:
        """Every commit with its place, counted from the root."""
        return {bytes.fromhex(oid): at for at, oid in enumerate(self.oldest_first(), 1)}
