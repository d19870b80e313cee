"""The invalidations that were done, each with its moment, and which of them drop a cached entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.model.invalidation import CachedEntry, Invalidation

__all__ = ["InvalidationLog"]


class Drop(NamedTuple):
    """An invalidation, and when it was."""

    moment: int
    invalidation: Invalidation


class InvalidationLog:
    """The invalidations that were done, and which of them drop an entry."""

    def __init__(self) -> None:
        self._drops: list[Drop] = []
        # Of each entry that was asked about: how many invalidations were looked at, and when it is dropped.
        self._known: dict[CachedEntry, tuple[int, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._drops)

    def add(self, moment: int, invalidation: Invalidation) -> None:
        """One more, not earlier than the others."""
        self._drops.append(Drop(moment, invalidation))

    def forget(self, before: int) -> None:
        """Let go of those before a moment."""
        self._drops = [drop for drop in self._drops if drop.moment >= before]
        self._known.clear()

    def times(self, entry: CachedEntry) -> Sequence[int]:
        """The moments at which an entry is dropped, ascending."""
        seen, times = self._known.get(entry, (0, []))
        if seen < len(self._drops):
            times += [drop.moment for drop in self._drops[seen:] if drop.invalidation.drops(entry)]
            self._known[entry] = (len(self._drops), times)
        return times

    def times_of_any(self, entries: Sequence[CachedEntry]) -> Sequence[int]:
        """The moments at which any of some entries is dropped, ascending."""
        if len(entries) == 1:
            return self.times(entries[0])
        return sorted({moment for entry in entries for moment in self.times(entry)})

    def at(self, moment: int, entries: Iterable[CachedEntry]) -> Invalidation | None:
        """The invalidation that drops one of some entries at a moment."""
        entries = tuple(entries)
        for drop in self._drops:
            if drop.moment == moment and any(drop.invalidation.drops(entry) for entry in entries):
                return drop.invalidation
        return None

    def since(self, moment: int, entries: Iterable[CachedEntry]) -> Sequence[Invalidation]:
        """The invalidations from a moment on that drop one of some entries, in their order."""
        entries = tuple(entries)
        return [
            drop.invalidation
            for drop in self._drops
            if drop.moment >= moment and any(drop.invalidation.drops(entry) for entry in entries)
        ]
