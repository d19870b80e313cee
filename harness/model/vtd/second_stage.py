"""The second-stage page-table walk of 3, 4 or 5 levels (VT-d 3.7 and 9.8).

Rights are those of a valid translation, all levels taken together (VT-d 3.7.1; SSS.2 speaks of the result of the walk):
a walk that finds an entry without the right that it needs goes on, and an entry further down that is not present or
not good decides. In one entry neither R nor W (not present) comes before reserved fields.

With RTADDR_REG.SSIRWE set IR and IW take the place of R and W throughout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from harness.model.access import PERMISSIONS, Mapping
from harness.model.bits import Field, Layout
from harness.model.engine import TableLoop
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.flags import FlagFailure, Flags
from harness.model.vtd.registers import VtdRegisters

__all__ = [
    "LEAF_ENTRY",
    "TABLE_ENTRY",
    "Leaf",
    "SecondStage",
    "WalkBlocked",
    "cached_span",
    "level_of_shift",
    "level_shift",
]

# VT-d 9.8: an entry that references another table. A is ignored without SSADE, IR without SSIRWE, R and W with it.
TABLE_ENTRY = Layout(
    "second-stage entry",
    "VT-d 9.8",
    (
        Field("R", 0, 1),
        Field("W", 1, 1),
        Field("IGN_2", 2, 5),
        Field("PS", 7, 1),
        Field("A", 8, 1),
        Field("IGN_9", 9, 2),
        Field("RSVD_11", 11, 1),
        Field("ADDR", 12, 40, in_place=True),
        Field("IGN_52", 52, 9),
        Field("IR", 61, 1),
        Field("IW", 62, 1),
        Field("IGN_63", 63, 1),
    ),
)

# VT-d 9.8: an entry that maps a page. PS is ignored in the last level. EMT and IPAT say which memory type accesses of
# processor graphics have, and decide on nothing here.
LEAF_ENTRY = Layout(
    "second-stage entry",
    "VT-d 9.8",
    (
        Field("R", 0, 1),
        Field("W", 1, 1),
        Field("IGN_2", 2, 1),
        Field("EMT", 3, 3),
        Field("IPAT", 6, 1),
        Field("PS", 7, 1),
        Field("A", 8, 1),
        Field("D", 9, 1),
        Field("IGN_10", 10, 1),
        Field("SNP", 11, 1),
        Field("ADDR", 12, 40, in_place=True),
        Field("IGN_52", 52, 9),
        Field("IR", 61, 1),
        Field("IW", 62, 1),
        Field("IGN_63", 63, 1),
    ),
)

_NAMES = {1: "SS-PTE", 2: "SS-PDE", 3: "SS-PDPE", 4: "SS-PML4E", 5: "SS-PML5E"}
_ADDRESS = LEAF_ENTRY["ADDR"].mask
_PAGE_SIZE = LEAF_ENTRY["PS"].mask
_ENTRIES = struct.Struct("<512Q")
_R = 0b01
_W = 0b10
_IO_SHIFT = LEAF_ENTRY["IR"].low
_IW = LEAF_ENTRY["IW"].mask
_A = LEAF_ENTRY["A"].mask
_D = LEAF_ENTRY["D"].mask


class Leaf(NamedTuple):
    """What a walk ends at. A tuple, since one is made for each walk.

    Attributes:
        entry: the 64 bits of the last entry.
        shift: log2 of the page size in bytes.
        rights: bit 0 R, bit 1 W, all levels taken together.
        address: where that entry is.
    """

    entry: int
    shift: int
    rights: int
    address: int


class WalkBlocked(NamedTuple):
    """A walk that did not end at a page.

    Attributes:
        reason: why.
        level: of the entry that stopped it.
        stage: that the entry is of.
    """

    reason: VtdFaultReason
    level: int
    stage: int = 2


class _Reasons(NamedTuple):
    """What the walk's faults are called in a mode."""

    root_access: VtdFaultReason
    access: VtdFaultReason
    reserved: VtdFaultReason
    no_write: VtdFaultReason
    no_read: VtdFaultReason
    no_right: VtdFaultReason | None


# VT-d 7.1.3. In legacy mode an entry without R and W has no reason of its own.
_LEGACY = _Reasons(
    VtdFaultReason.CONTEXT_INVALID,
    VtdFaultReason.PAGING_ENTRY_ACCESS,
    VtdFaultReason.PAGING_ENTRY_RESERVED,
    VtdFaultReason.WRITE_NOT_PERMITTED,
    VtdFaultReason.READ_NOT_PERMITTED,
    None,
)
_SCALABLE = _Reasons(
    VtdFaultReason.SECOND_STAGE_ROOT_ACCESS,
    VtdFaultReason.SECOND_STAGE_ACCESS,
    VtdFaultReason.SECOND_STAGE_RESERVED,
    VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED,
    VtdFaultReason.SCALABLE_READ_NOT_PERMITTED,
    VtdFaultReason.SECOND_STAGE_NOT_PRESENT,
)
_FLAG_FAILURES = {
    FlagFailure.NOT_SNOOPED: VtdFaultReason.SECOND_STAGE_FLAGS_NOT_SNOOPED,
    FlagFailure.REFUSED: VtdFaultReason.SECOND_STAGE_FLAGS_FAILED,
}


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


def level_of_shift(shift: int) -> int:
    """The level of the entries that cover 2^shift bytes."""
    return (shift - 3) // 9


class SecondStage:
    """Walks second-stage tables as a unit with these registers does, in one of its modes.

    Args:
        registers: of the unit.
        scalable: whether PASID-table entries lead to the tables, or context-entries.
    """

    def __init__(self, registers: VtdRegisters, *, scalable: bool) -> None:
        self._reasons = _SCALABLE if scalable else _LEGACY
        # VT-d 11.4.5: SSIRWE moves the rights to bits 62:61. In legacy mode it may not be set.
        self._rights_shift = _IO_SHIFT if registers.io_permissions else 0
        self._either = (_R | _W) << self._rights_shift
        # IW is reserved where it grants nothing, IR is ignored (VT-d 9.8).
        reserved = 0 if registers.io_permissions else _IW
        # Bits 51:HAW of an address are reserved (VT-d 9.8, ADDR).
        reserved |= _ADDRESS & ~((1 << registers.host_address_width) - 1)
        # SNP of a leaf is reserved where ECAP_REG.SC is 0 (VT-d 9.8, SNP).
        snoop = 0 if registers.extended.snoop_control else LEAF_ENTRY["SNP"].mask
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
                    self._either if level == 1 else _PAGE_SIZE if large else 0,
                    reserved | page_size | TABLE_ENTRY["RSVD_11"].mask,
                    reserved | snoop | below_page,
                )
            )
        self._by_level = tuple(by_level)
        self._downwards = tuple(tuple(by_level[levels:0:-1]) for levels in range(6))

    def walk(
        self,
        memory: Memory,
        table: int,
        levels: int,
        iova: int,
        needed: int,
        domain: int,
        trace: list[Step] | None,
        flags: Flags | None = None,
        space: int | None = None,
    ) -> Leaf | WalkBlocked:
        """Walk down to the page of an address.

        Args:
            memory: where the tables are.
            table: physical address of the topmost table.
            levels: how many there are.
            iova: input address, within the width of that many levels.
            needed: rights of which one must be left at the end: bit 0 R, bit 1 W.
            domain: what entries are tagged with in a cache; only the trace shows it, as `space`.
            trace: takes a step for each entry; None for speed.
            flags: takes the accessed flags of all entries but the leaf (SSADE); None where entries have none.
            space: PASID, or RID_PASID, that translations are tagged with in scalable mode.
        """
        read_u64 = memory.read_u64
        rights = either = self._either
        needed <<= self._rights_shift
        denied = 0
        for level, shift, leaf_bits, table_reserved, leaf_reserved in self._downwards[levels]:
            address = table | (iova >> shift & 0x1FF) << 3
            try:
                entry = read_u64(address)
            except OutsideMemory:
                if trace is not None:
                    trace.append(Step(_NAMES[level], "VT-d 9.8", address, note="no memory there"))
                # LCT.4 or SSS.4 for the topmost table, LSS.1 or SSS.1 for those below.
                top = level == levels
                return WalkBlocked(self._reasons.root_access if top else self._reasons.access, level)
            is_leaf = entry & leaf_bits
            if trace is not None:
                trace.append(_step(level, address, entry, bool(is_leaf) or level == 1, domain, space, iova))
            # VT-d 3.7: with R and W both 0 the entry is not present, and none of its other fields is looked at.
            # LSS.2, SSS.3: otherwise its reserved fields must be zero.
            if entry & (leaf_reserved if is_leaf else table_reserved) and entry & either:
                return WalkBlocked(self._reasons.reserved, level)
            # LGN.2, LGN.3, SSS.2, SGN.6, SGN.7: a right must be there at every level.
            rights &= entry
            if not rights & needed:
                if not entry & either:
                    return WalkBlocked(self._denied(0, needed), level)
                denied = denied or level
            if is_leaf:
                if denied:
                    return WalkBlocked(self._denied(rights, needed), denied)
                return Leaf(entry, shift, rights >> self._rights_shift, address)
            # VT-d 3.7.2: whatever is used is accessed.
            if flags is not None and not entry & _A and (failure := flags.set(address, entry, _A)):
                return WalkBlocked(_FLAG_FAILURES[failure], level)
            table = entry & _ADDRESS
        raise AssertionError("a present entry of level 1 is a leaf")

    def use(self, leaf: Leaf, flags: Flags, *, dirty: bool) -> WalkBlocked | None:
        """Set the flags of the entry that maps the page, which is accessed, and dirty when written (VT-d 3.7.2)."""
        used = _A | _D if dirty else _A
        if used & ~leaf.entry and (failure := flags.set(leaf.address, leaf.entry, used)):
            return WalkBlocked(_FLAG_FAILURES[failure], level_of_shift(leaf.shift))
        return None

    def _denied(self, rights: int, needed: int) -> VtdFaultReason:
        reasons = self._reasons
        if not rights and reasons.no_right is not None:
            return reasons.no_right
        return reasons.no_write if needed >> self._rights_shift == _W else reasons.no_read

    def iter_leaves(self, memory: Memory, table: int, levels: int, limit: int) -> Iterator[Mapping]:
        """Every page that the tables map below `limit`, in ascending order, one `Mapping` each.

        What a walk would fault on is left out.

        Raises:
            TableLoop: a table is its own ancestor.
        """
        return self._iter_level(memory, table, levels, 0, limit, self._either, ())

    def _iter_level(
        self, memory: Memory, table: int, level: int, base: int, limit: int, rights: int, above: tuple[int, ...]
    ) -> Iterator[Mapping]:
        if table in above:
            raise TableLoop("second-stage", table, base)
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
                    yield Mapping(iova, entry & _ADDRESS, 1 << shift, PERMISSIONS[left >> self._rights_shift])
            elif not entry & table_reserved:
                below = (*above, table)
                yield from self._iter_level(memory, entry & _ADDRESS, level - 1, iova, limit, left, below)


def cached_span(level: int, iova: int, *, is_leaf: bool) -> tuple[int, int]:
    """First and last input address of what a cache keeps of an entry that was met on the way to an address.

    Of a page that is the 4 KiB around the address, whatever its size: hardware may cache a large page as smaller ones
    (VT-d 6.2.4.1, 6.5.3.2), of which an invalidation of others need not drop the one that serves the address.
    """
    span = (1 << level_shift(1 if is_leaf else level)) - 1
    return iova & ~span, iova | span


def _step(level: int, address: int, entry: int, is_leaf: bool, domain: int, space: int | None, iova: int) -> Step:
    """What a trace shows of an entry. One that is not present is tagged as well, since CAP_REG.CM lets it be cached.

    VT-d 6.2.1, tables 17 and 24: in scalable mode the IOTLB is tagged with a PASID; paging-structure caches of the
    second stage are not.
    """
    first, last = cached_span(level, iova, is_leaf=is_leaf)
    if is_leaf:
        layout = LEAF_ENTRY
        cached = CachedEntry(kind=EntryKind.LEAF, domain=domain, space=space, stage=2, first=first, last=last)
    else:
        layout = TABLE_ENTRY
        cached = CachedEntry(kind=EntryKind.TABLE, domain=domain, stage=2, first=first, last=last)
    return Step(_NAMES[level], "VT-d 9.8", address, entry, layout.describe(entry), cached=cached)
