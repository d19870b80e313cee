"""Up to when no cache can know anything any more, so that the history of memory may be let go."""

from __future__ import annotations

from collections.abc import Iterable

from harness.model.invalidation import CachedEntry, EntryKind, Invalidation

__all__ = ["Horizon"]

_LAST_ADDRESS = (1 << 64) - 1
_INTERRUPTS = CachedEntry(kind=EntryKind.INTERRUPT)


class Horizon:
    """The moment before which everything was dropped, in the order of a walk.

    The order matters: a stale device entry that is dropped after the translations may have made one of them again.

    Args:
        everything: what there is to invalidate, as the tags that all of it has, in the order in which a walk uses it.
        device_tlbs: requesters, with a PASID or None, whose device TLBs have to be told as well.
        interrupts: whether interrupt entries have to be dropped too.

    Attributes:
        moment: what ended before it is known nowhere.
    """

    def __init__(
        self,
        everything: Iterable[CachedEntry],
        device_tlbs: Iterable[tuple[int, int | None]],
        *,
        interrupts: bool,
    ) -> None:
        self.moment = 0
        self._everything = tuple(everything)
        self._reached = [0] * len(self._everything)
        self._device_tlbs = {
            CachedEntry(kind=EntryKind.DEVICE_TLB, requester=requester, space=pasid): 0
            for requester, pasid in device_tlbs
        }
        self._keeps_interrupts = interrupts
        self._interrupts = 0

    def advance(self, moment: int, invalidations: tuple[Invalidation, ...]) -> bool:
        """Take what was dropped at a moment; true if the horizon moves."""
        through = moment
        for number, entry in enumerate(self._everything):
            if any(_drops_all(invalidation, entry) for invalidation in invalidations):
                self._reached[number] = through
            through = self._reached[number]
        for entry in self._device_tlbs:
            if any(_drops_all(invalidation, entry) for invalidation in invalidations):
                self._device_tlbs[entry] = through
        if any(_drops_all(invalidation, _INTERRUPTS) for invalidation in invalidations):
            self._interrupts = moment
        reached = min((through, *self._device_tlbs.values()))
        if self._keeps_interrupts:
            reached = min(reached, self._interrupts)
        moves = reached > self.moment
        self.moment = reached
        return moves


def _drops_all(invalidation: Invalidation, entry: CachedEntry) -> bool:
    """Whether everything is dropped that has the tags of an entry, and any others."""
    return (
        invalidation.drops(entry)
        and (entry.requester is not None or invalidation.requester is None or not invalidation.requester_mask)
        and (entry.domain is not None or invalidation.domain is None)
        and (entry.stage is not None or invalidation.stage is None)
        and invalidation.granule is None
        and (invalidation.has_space is None or entry.kind is EntryKind.DEVICE_TLB)
        and not invalidation.first
        and (invalidation.last is None or invalidation.last >= _LAST_ADDRESS)
        and invalidation.indexes is None
    )
