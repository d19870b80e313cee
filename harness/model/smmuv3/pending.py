"""Invalidations that were commanded, until a CMD_SYNC says that they are complete (IHI 0070 4.7.3, 4.8).

Consumption of an invalidation means nothing: it may be done at any time between its command and the end of the next
CMD_SYNC, and in any order with others. So until then what it drops may still be used, and what is brought in after the
command may stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from harness.model.invalidation import EntryKind, Invalidation

__all__ = ["PendingInvalidations"]


class _Pending(NamedTuple):
    """An invalidation, and the moment of its command."""

    moment: int
    invalidation: Invalidation


class PendingInvalidations:
    """What waits for a CMD_SYNC."""

    def __init__(self) -> None:
        self._waiting: list[_Pending] = []

    def add(self, moment: int, invalidations: tuple[Invalidation, ...]) -> None:
        """A command was consumed.

        Args:
            moment: of the history of memory; later than that of any other.
            invalidations: what it drops.
        """
        self._waiting += (_Pending(moment, each) for each in invalidations)

    def clear(self) -> None:
        """Nothing waits."""
        self._waiting.clear()

    def complete(self, last_change: int) -> Iterator[tuple[int | None, Invalidation]]:
        """A CMD_SYNC was consumed: what is dropped, in the order that drops least, and since when; None for now.

        What leads to translations is dropped after them: stage 2 alone after stage 1, CDs after stage 2, STEs last,
        since a translation may have been made from it in between. Where memory has changed since the command, of one
        of these nothing is said to be dropped: what was brought in after the command may stay.

        Args:
            last_change: moment of the last change of what is in memory, other than commands.
        """
        waiting = sorted(self._waiting, key=_rank)
        self._waiting.clear()
        for moment, invalidation in waiting:
            if not _rank(_Pending(moment, invalidation)):
                yield moment, invalidation
            elif last_change <= moment:
                yield None, invalidation


def _rank(pending: _Pending) -> int:
    invalidation = pending.invalidation
    if EntryKind.DEVICE in invalidation.kinds:
        return 3
    if EntryKind.PROCESS in invalidation.kinds:
        return 2
    return 1 if invalidation.stage == 2 else 0
