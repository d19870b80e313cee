"""The second-stage page-table walk of 3, 4 or 5 levels (VT-d 3.7 and 9.8).

Where an entry has two things wrong with it the specification leaves the order open. Here, at each level from the top:
neither R nor W (not present) first, then reserved fields, then the right that the request needs. A walk stops at
the first entry that lacks this right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from harness.errors import HarnessError
from harness.model.access import PERMISSIONS, Mapping
from harness.model.bits import Field, Layout
from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.registers import VtdRegisters

__all__ = ["LEAF_ENTRY", "TABLE_ENTRY", "Leaf", "SecondStage", "TableLoop", "WalkBlocked", "level_shift"]

# VT-d 9.8: an entry that references another table. X, A and the IGN fields are ignored in legacy mode.
TABLE_ENTRY = Layout(
    "second-stage entry",
    "VT-d 9.8",
    (
        Field("R", 0, 1),
        Field("W", 1, 1),
        Field("X", 2, 1),
        Field("IGN_3", 3, 4),
        Field("PS", 7, 1),
        Field("A", 8, 1),
        Field("IGN_9", 9, 2),
        Field("RSVD_11", 11, 1),
        Field("ADDR", 12, 40, in_place=True),
        Field("IGN_52", 52, 10),
        Field("RSVD_62", 62, 1),
        Field("IGN_63", 63, 1),
    ),
)

# VT-d 9.8: an entry that maps a page. EMT, IPAT, A and D are ignored in legacy mode, PS in the last level.
LEAF_ENTRY = Layout(
    "second-stage entry",
    "VT-d 9.8",
    (
        Field("R", 0, 1),
        Field("W", 1, 1),
        Field("X", 2, 1),
        Field("EMT", 3, 3),
        Field("IPAT", 6, 1),
        Field("PS", 7, 1),
        Field("A", 8, 1),
        Field("D", 9, 1),
        Field("IGN_10", 10, 1),
        Field("SNP", 11, 1),
        Field("ADDR", 12, 40, in_place=True),
        Field("IGN_52", 52, 10),
        Field("RSVD_62", 62, 1),
        Field("IGN_63", 63, 1),
    ),
)

_NAMES = {1: "SS-PTE", 2: "SS-PDE", 3: "SS-PDPE", 4: "SS-PML4E", 5: "SS-PML5E"}
_ADDRESS = LEAF_ENTRY["ADDR"].mask
_PAGE_SIZE = LEAF_ENTRY["PS"].mask
_ENTRIES = struct.Struct("<512Q")
_WRITE = 0b10
_EITHER = 0b11


class TableLoop(HarnessError):
    """A table is reached again below itself: its mappings cannot be listed.

    Translation of one address still ends, since each entry takes one level.
    """


class Leaf(NamedTuple):
    """What a walk ends at. A tuple, since one is made for each walk.

    Attributes:
        entry: the 64 bits of the last entry.
        shift: log2 of the page size in bytes.
        rights: bit 0 R, bit 1 W, all levels taken together.
    """

    entry: int
    shift: int
    rights: int


class WalkBlocked(NamedTuple):
    """A walk that did not end at a page, and the level of the entry that stopped it."""

    reason: VtdFaultReason
    level: int


class _Level(NamedTuple):
    """What a walk needs to know of a level.

    Attributes:
        level: 1 for the last.
        shift: log2 of the bytes that one entry covers.
        leaf_bits: any of them set makes a present entry a leaf: PS, or in the last level R and W themselves.
        table_reserved: reserved bits of an entry that references a table.
        leaf_reserved: reserved bits of an entry that maps a page.
    """

    level: int
    shift: int
    leaf_bits: int
    table_reserved: int
    leaf_reserved: int


def level_shift(level: int) -> int:
    """log2 of the bytes that one entry of a level covers."""
    return 3 + 9 * level


class SecondStage:
    """Walks second-stage tables as a unit with these registers does."""

    def __init__(self, registers: VtdRegisters) -> None:
        # Bits 51:HAW of an address are reserved (VT-d 9.8, ADDR).
        above_haw = _ADDRESS & ~((1 << registers.host_address_width) - 1)
        # SNP of a leaf is reserved where ECAP_REG.SC is 0 (VT-d 9.8, SNP).
        snoop = 0 if registers.snoop_control else LEAF_ENTRY["SNP"].mask
        by_level = [_Level(0, 0, 0, 0, 0)]
        for level in range(1, 6):
            large = level in registers.large_page_levels
            # PS is reserved at the levels that hold no page here: 4 and 5, and those that SSLPS leaves out.
            page_size = 0 if large else _PAGE_SIZE
            # The address of a large page has zeros below its size.
            below_page = ((1 << level_shift(level)) - 1) & _ADDRESS
            by_level.append(
                _Level(
                    level,
                    level_shift(level),
                    _EITHER if level == 1 else _PAGE_SIZE if large else 0,
                    above_haw | page_size | TABLE_ENTRY["RSVD_11"].mask | TABLE_ENTRY["RSVD_62"].mask,
                    above_haw | snoop | below_page | LEAF_ENTRY["RSVD_62"].mask,
                )
            )
        self._by_level = tuple(by_level)
        self._downwards = tuple(tuple(by_level[levels:0:-1]) for levels in range(6))

    def walk(
        self, memory: Memory, table: int, levels: int, iova: int, needed: int, trace: list[Step] | None
    ) -> Leaf | WalkBlocked:
        """Walk down to the page of an address.

        Args:
            memory: where the tables are.
            table: physical address of the topmost table.
            levels: how many there are.
            iova: input address, within the width of that many levels.
            needed: rights of which one must be left at the end: bit 0 R, bit 1 W.
            trace: takes a step for each entry; None for speed.
        """
        read_u64 = memory.read_u64
        rights = _EITHER
        for level, shift, leaf_bits, table_reserved, leaf_reserved in self._downwards[levels]:
            address = table | (iova >> shift & 0x1FF) << 3
            try:
                entry = read_u64(address)
            except OutsideMemory:
                if trace is not None:
                    trace.append(Step(_NAMES[level], "VT-d 9.8", address, note="no memory there"))
                # LCT.4 for the table that the context-entry references, LSL.1 for those below.
                top = level == levels
                return WalkBlocked(VtdFaultReason.CONTEXT_INVALID if top else VtdFaultReason.PAGING_ENTRY_ACCESS, level)
            is_leaf = entry & leaf_bits
            if trace is not None:
                layout = LEAF_ENTRY if is_leaf or level == 1 else TABLE_ENTRY
                trace.append(Step(_NAMES[level], "VT-d 9.8", address, entry, layout.describe(entry)))
            # VT-d 3.7: with R and W both 0 the entry is not present, and none of its other fields is looked at.
            # LSL.2: otherwise its reserved fields must be zero.
            if entry & (leaf_reserved if is_leaf else table_reserved) and entry & _EITHER:
                return WalkBlocked(VtdFaultReason.PAGING_ENTRY_RESERVED, level)
            # LGN.2, LGN.3: a right must be there at every level.
            rights &= entry
            if not rights & needed:
                denied = VtdFaultReason.WRITE_NOT_PERMITTED if needed == _WRITE else VtdFaultReason.READ_NOT_PERMITTED
                return WalkBlocked(denied, level)
            if is_leaf:
                return Leaf(entry, shift, rights)
            table = entry & _ADDRESS
        raise AssertionError("a present entry of level 1 is a leaf")

    def iter_leaves(self, memory: Memory, table: int, levels: int, limit: int) -> Iterator[Mapping]:
        """Every page that the tables map below `limit`, in ascending order, one `Mapping` each.

        What a walk would fault on is left out.

        Raises:
            TableLoop: a table is its own ancestor.
        """
        return self._iter_level(memory, table, levels, 0, limit, _EITHER, ())

    def _iter_level(
        self, memory: Memory, table: int, level: int, base: int, limit: int, rights: int, above: tuple[int, ...]
    ) -> Iterator[Mapping]:
        if table in above:
            raise TableLoop(
                f"the second-stage table at {table:#x} is reached again below itself, for iova {base:#x}",
                hint="these tables are corrupt, or map themselves on purpose; translate single addresses instead",
            )
        try:
            entries = _ENTRIES.unpack(memory.read(table, _ENTRIES.size))
        except OutsideMemory:
            return
        _, shift, leaf_bits, table_reserved, leaf_reserved = self._by_level[level]
        for index, entry in enumerate(entries):
            left = rights & entry
            iova = base + (index << shift)
            if not left or iova >= limit:
                continue
            if entry & leaf_bits:
                if not entry & leaf_reserved:
                    yield Mapping(iova, entry & _ADDRESS, 1 << shift, PERMISSIONS[left])
            elif not entry & table_reserved:
                below = (*above, table)
                yield from self._iter_level(memory, entry & _ADDRESS, level - 1, iova, limit, left, below)
