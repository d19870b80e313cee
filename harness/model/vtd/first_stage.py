"""The first-stage page-table walk of 4 or 5 levels, alone or nested in a second stage (VT-d 3.6, 3.8 and 9.7).

Rights are those of a valid translation, all levels taken together (VT-d 3.6.1): a walk that finds an entry without a
right that it needs goes on, and an entry further down that is not present or not good decides. In one entry not
present comes before reserved fields, and these, nested, before an address beyond the second stage's width; of the
rights U/S comes before R/W, which the specification leaves open. G is ignored, as are XD and protection keys, which
VT-d does not have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from harness.model.access import Mapping, Permissions
from harness.model.engine import TableLoop
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.first_stage_entries import LARGE_PAGE_ENTRY, PAGE_ENTRY, layout_of
from harness.model.vtd.flags import FlagFailure, Flags
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.second_stage import WalkBlocked, cached_span, level_of_shift, level_shift

__all__ = [
    "FirstLeaf",
    "FirstStage",
    "GuestTables",
    "TableMemory",
    "TablePlace",
    "is_canonical",
]

_NAMES = {1: "FS-PTE", 2: "FS-PDE", 3: "FS-PDPE", 4: "FS-PML4E", 5: "FS-PML5E"}
_ADDRESS = PAGE_ENTRY["ADDR"].mask
_PAGE_SIZE = LARGE_PAGE_ENTRY["PS"].mask
_P = PAGE_ENTRY["P"].mask
_RW = PAGE_ENTRY["RW"].mask
_US = PAGE_ENTRY["US"].mask
_RIGHTS = _P | _RW | _US
_A = PAGE_ENTRY["A"].mask
_D = PAGE_ENTRY["D"].mask
_EA = PAGE_ENTRY["EA"].mask
_ENTRIES = struct.Struct("<512Q")
# What bits 63:N-1 of a canonical address are, by number of levels.
_CANONICAL = tuple((0, (1 << 53 - 9 * levels) - 1) for levels in range(6))
_FLAG_FAILURES = {
    FlagFailure.NOT_SNOOPED: VtdFaultReason.FIRST_STAGE_FLAGS_NOT_SNOOPED,
    FlagFailure.REFUSED: VtdFaultReason.FIRST_STAGE_FLAGS_FAILED,
}


class TablePlace(NamedTuple):
    """Where the second stage puts an entry of a first-stage table.

    Attributes:
        address: physical address.
        writable: whether flags may be set in it.
    """

    address: int
    writable: bool


class FirstLeaf(NamedTuple):
    """What a walk ends at.

    Attributes:
        address: of the page: physical, or guest-physical where the walk is nested.
        shift: log2 of the page size in bytes.
        rights: P, R/W and U/S in their bits, all levels taken together.
        entry: the 64 bits of the last entry.
        place: where that entry is, and whether flags may be set in it.
    """

    address: int
    shift: int
    rights: int
    entry: int
    place: TablePlace


class GuestTables(Protocol):
    """The second stage under nested tables (VT-d 3.8)."""

    @property
    def width(self) -> int:
        """Bits of a guest-physical address: the smaller of MGAW and the width that AW selects."""
        ...

    def find_entry(self, address: int, level: int, *, top: bool) -> TablePlace | WalkBlocked:
        """Where the entry at a guest-physical address is, if it may be read.

        Args:
            address: guest-physical.
            level: of the entry, for the fault.
            top: the entry is of the table that FSPTPTR references.
        """
        ...


class TableMemory(Protocol):
    """What whole tables are read from, by the addresses that they have for each other."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from `address` on, within a page; raises `OutsideMemory`."""
        ...


class _Level(NamedTuple):
    """What a walk needs to know of a level.

    Attributes:
        level: 1 for the last.
        shift: log2 of the bytes that one entry covers.
        leaf_bits: any of them set makes a present entry a leaf: PS, or in the last level P itself.
        table_reserved: reserved bits of an entry that references a table.
        leaf_reserved: reserved bits of an entry that maps a page.
        page_address: address bits of an entry that maps a page.
    """

    level: int
    shift: int
    leaf_bits: int
    table_reserved: int
    leaf_reserved: int
    page_address: int


def is_canonical(address: int, levels: int) -> bool:
    """Whether bits 63:N of an address are the same as bit N-1, N the width of that many levels (VT-d 3.6)."""
    return address >> 11 + 9 * levels in _CANONICAL[levels]


class FirstStage:
    """Walks first-stage tables as a unit with these registers does."""

    def __init__(self, registers: VtdRegisters) -> None:
        # Bits 51:HAW of an address are reserved, in nested tables too (VT-d 3.6).
        above_haw = _ADDRESS & ~((1 << registers.host_address_width) - 1)
        large_levels = {2, 3} if registers.first_stage_1g_pages else {2}
        by_level = [_Level(0, 0, 0, 0, 0, 0)]
        for level in range(1, 6):
            large = level in large_levels
            # PS is reserved in a PML5E and a PML4E, and in a PDPE where CAP_REG.FS1GP is 0 (VT-d 3.6).
            page_size = 0 if large or level == 1 else _PAGE_SIZE
            # Bits 20:13 or 29:13 of a large page are reserved; bit 12 is PAT (VT-d 3.6).
            below_page = (1 << level_shift(level)) - (1 << 13) if large else 0
            by_level.append(
                _Level(
                    level,
                    level_shift(level),
                    _P if level == 1 else _PAGE_SIZE if large else 0,
                    above_haw | page_size,
                    above_haw | below_page,
                    _ADDRESS & -(1 << level_shift(level)),
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
        flags: Flags,
        extended: bool,
        tags: tuple[int, int],
        trace: list[Step] | None,
        guest: GuestTables | None = None,
    ) -> FirstLeaf | WalkBlocked:
        """Walk down to the page of an address.

        Args:
            memory: where the tables are.
            table: address of the topmost table: physical, or guest-physical where nested.
            levels: how many there are.
            iova: input address, canonical.
            needed: P, with R/W and U/S where the request needs them: all of them must be left at every level.
            flags: takes the accessed flags of all entries but the leaf.
            extended: EAFE.
            tags: domain and PASID, which entries are tagged with in a cache; only the trace shows them.
            trace: takes a step for each entry; None for speed.
            guest: the second stage that the tables are in.
        """
        read_u64 = memory.read_u64
        rights = _RIGHTS
        accessed = _A | _EA if extended else _A
        writable = True
        denied = 0
        for level, shift, leaf_bits, table_reserved, leaf_reserved, page_address in self._downwards[levels]:
            address = table | (iova >> shift & 0x1FF) << 3
            if guest is not None:
                place = guest.find_entry(address, level, top=level == levels)
                if isinstance(place, WalkBlocked):
                    return place
                address, writable = place
            try:
                entry = read_u64(address)
            except OutsideMemory:
                if trace is not None:
                    trace.append(Step(_NAMES[level], "VT-d 9.7", address, note="no memory there"))
                # SFS.4 for the topmost table, SFS.1 for those below.
                top = level == levels
                reason = VtdFaultReason.FIRST_STAGE_ROOT_ACCESS if top else VtdFaultReason.FIRST_STAGE_ACCESS
                return WalkBlocked(reason, level, 1)
            is_leaf = entry & leaf_bits
            reserved = entry & (leaf_reserved if is_leaf else table_reserved)
            if trace is not None:
                good = bool(entry & _P) and not reserved
                trace.append(_step(level, address, entry, bool(is_leaf) or level == 1, good, tags, iova))
            # SFS.3: reserved fields of a present entry.
            if reserved and entry & _P:
                return WalkBlocked(VtdFaultReason.FIRST_STAGE_RESERVED, level, 1)
            # SFS.2, SGN.2, SGN.6: present, and each right that is needed, at every level.
            rights &= entry
            if rights & needed != needed:
                if not entry & _P:
                    return WalkBlocked(VtdFaultReason.FIRST_STAGE_NOT_PRESENT, level, 1)
                denied = denied or level
            # SFS.5: an address that the second stage does not have.
            if guest is not None and (entry & _ADDRESS) >> guest.width:
                return WalkBlocked(VtdFaultReason.FIRST_STAGE_ADDRESS_BEYOND_WIDTH, level, 1)
            if is_leaf:
                if denied:
                    return WalkBlocked(_denied(rights, needed), denied, 1)
                return FirstLeaf(entry & page_address, shift, rights, entry, TablePlace(address, writable))
            # VT-d 3.6.2: whatever is used is accessed.
            if accessed & ~entry:
                failure = _set(flags, TablePlace(address, writable), entry, accessed)
                if failure is not None:
                    return WalkBlocked(failure, level, 1)
            table = entry & _ADDRESS
        raise AssertionError("a present entry of level 1 is a leaf")

    def use(self, leaf: FirstLeaf, flags: Flags, *, extended: bool, dirty: bool) -> WalkBlocked | None:
        """Set the flags of the entry that maps the page, which is accessed, and dirty when written (VT-d 3.6.2)."""
        used = (_A | _EA if extended else _A) | (_D if dirty else 0)
        if used & ~leaf.entry and (failure := _set(flags, leaf.place, leaf.entry, used)) is not None:
            return WalkBlocked(failure, level_of_shift(leaf.shift), 1)
        return None

    def iter_leaves(
        self, memory: TableMemory, table: int, levels: int, needed: int, write_always: bool
    ) -> Iterator[Mapping]:
        """Every page that the tables map, in ascending order of 64-bit input addresses, one `Mapping` each.

        What a walk would fault on is left out, flags apart.

        Args:
            memory: where the tables are, as they address it.
            table: the topmost.
            levels: how many there are.
            needed: as for `walk`.
            write_always: R/W is not looked at.

        Raises:
            TableLoop: a table is its own ancestor.
        """
        return self._iter_level(memory, table, levels, 0, (needed, write_always, levels), _RIGHTS, ())

    def _iter_level(
        self,
        memory: TableMemory,
        table: int,
        level: int,
        base: int,
        request: tuple[int, bool, int],
        rights: int,
        above: tuple[int, ...],
    ) -> Iterator[Mapping]:
        if table in above:
            raise TableLoop("first-stage", table, base)
        try:
            entries = _ENTRIES.unpack(memory.read(table, _ENTRIES.size))
        except OutsideMemory:
            return
        needed, write_always, levels = request
        _, shift, leaf_bits, table_reserved, leaf_reserved, page_address = self._by_level[level]
        for index, entry in enumerate(entries):
            left = rights & entry
            if left & needed != needed:
                continue
            iova = base + (index << shift)
            if entry & leaf_bits:
                if not entry & leaf_reserved:
                    permissions = Permissions.READ
                    if write_always or left & _RW:
                        permissions |= Permissions.WRITE
                    yield Mapping(_sign_extended(iova, levels), entry & page_address, 1 << shift, permissions)
            elif not entry & table_reserved:
                below = (*above, table)
                yield from self._iter_level(memory, entry & _ADDRESS, level - 1, iova, request, left, below)


def _set(flags: Flags, place: TablePlace, entry: int, used: int) -> VtdFaultReason | None:
    # SFS.8: the second stage does not let the entry be written.
    if not place.writable:
        return VtdFaultReason.FIRST_STAGE_FLAGS_UNWRITABLE
    # SFS.9, SFS.10.
    failure = flags.set(place.address, entry, used)
    return None if failure is None else _FLAG_FAILURES[failure]


def _denied(rights: int, needed: int) -> VtdFaultReason:
    if needed & ~rights & _US:
        return VtdFaultReason.USER_NOT_PERMITTED
    return VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED


def _sign_extended(iova: int, levels: int) -> int:
    upper = -1 << 12 + 9 * levels
    return iova | upper & (1 << 64) - 1 if iova >> 11 + 9 * levels else iova


def _step(level: int, address: int, entry: int, is_leaf: bool, good: bool, tags: tuple[int, int], iova: int) -> Step:
    """What a trace shows of an entry. One that faults is never cached: CAP_REG.CM is not for first-stage entries."""
    layout = layout_of(level, is_leaf=is_leaf)
    first, last = cached_span(level, iova, is_leaf=is_leaf)
    domain, pasid = tags
    cached = CachedEntry(
        kind=EntryKind.LEAF if is_leaf else EntryKind.TABLE,
        domain=domain,
        space=pasid,
        stage=1,
        first=first,
        last=last,
    )
    return Step(_NAMES[level], "VT-d 9.7", address, entry, layout.describe(entry), cached=cached if good else None)
