"""What a page-table walk of either stage comes to: a page, or why there is none, and the flags that it sets."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from harness.model.access import MemoryWrite

__all__ = ["FlagUpdates", "PageLeaf", "Trouble", "WalkBlocked"]


class Trouble(IntEnum):
    """Why a walk stopped. Which cause it becomes depends on the access."""

    ACCESS_FAULT = 0
    PAGE_FAULT = 1
    GUEST_PAGE_FAULT = 2


class PageLeaf(NamedTuple):
    """Where a walk ends. A tuple, since one is made for each walk.

    Attributes:
        address: output address of the access.
        shift: log2 of the page size in bytes.
        entry: bits of the leaf, with the flags that the walk set.
        is_global: G of the leaf, or of an entry above it.
    """

    address: int
    shift: int
    entry: int
    is_global: bool


class WalkBlocked(NamedTuple):
    """A walk that did not end at a page.

    Attributes:
        trouble: why.
        stage: 1 or 2.
        level: of the entry that stopped it; None for an address that the tables do not reach.
        iotval2: of a guest page fault (4.2).
        is_global: G of the last entry of the first stage that was good enough to be cached, or of one above it.
    """

    trouble: Trouble
    stage: int
    level: int | None
    iotval2: int
    is_global: bool = False


class FlagUpdates(dict[int, bytes]):
    """The entries in which a walk sets flags: their new bytes by physical address, in the order in which it does."""

    def writes(self) -> tuple[MemoryWrite, ...]:
        """As what the IOMMU writes."""
        return tuple(MemoryWrite(address, data) for address, data in self.items())
