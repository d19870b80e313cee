"""The host page tables: one to six levels that may skip some, with pages of every power of two (AMD-Vi 2.2.3).

Where an entry has two things wrong with it the specification leaves the order open. Here, at each level from the top:
not present, reserved bits, the level or page size that it encodes, the permission that the request needs, bits of the
address in skipped levels. The address bits below a page of its level's own size are ignored.

Accessed and dirty flags are set where the device table entry asks for it (HAD): A in every entry of the way, D in the
entry that maps the page; not in the other entries of a page that takes several. Flags are set only by a walk that
reaches its page.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from harness.model.access import PERMISSIONS, Attributes, Mapping, MemoryWrite
from harness.model.amdvi.faults import AmdviFaultReason, Blocked
from harness.model.bits import Field, Layout
from harness.model.engine import TableLoop
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory

__all__ = ["PDE", "PTE", "HostLeaf", "HostTables", "host_level_shift", "page_shift"]

# An entry that leads to another table.
PDE = Layout(
    "host page directory entry",
    "AMD-Vi 2.2.3",
    (
        Field("PR", 0, 1),
        Field("IGN_1", 1, 4),
        Field("A", 5, 1),
        Field("IGN_6", 6, 3),
        Field("NextLevel", 9, 3),
        Field("Address", 12, 40, in_place=True),
        Field("RSVD_52", 52, 9),
        Field("IR", 61, 1),
        Field("IW", 62, 1),
        Field("IGN_63", 63, 1),
    ),
)

# An entry that maps a page: NextLevel is 0, or 7 where the low address bits encode the size.
PTE = Layout(
    "host page translation entry",
    "AMD-Vi 2.2.3",
    (
        Field("PR", 0, 1),
        Field("IGN_1", 1, 4),
        Field("A", 5, 1),
        Field("D", 6, 1),
        Field("IGN_7", 7, 2),
        Field("NextLevel", 9, 3),
        Field("Address", 12, 40, in_place=True),
        Field("RSVD_52", 52, 7),
        Field("U", 59, 1),
        Field("FC", 60, 1),
        Field("IR", 61, 1),
        Field("IW", 62, 1),
        Field("IGN_63", 63, 1),
    ),
)

_ADDRESS = PTE["Address"].mask
_PDE_RESERVED = PDE["RSVD_52"].mask
_PTE_RESERVED = PTE["RSVD_52"].mask
_ACCESSED = PTE["A"].mask
_DIRTY = PTE["D"].mask
# What may differ between the entries of one page: flags, and bits that are ignored.
_FLAGS = _ACCESSED | _DIRTY | sum(field.mask for field in PTE.fields if field.name.startswith("IGN"))
_FORCE_COHERENT = PTE["FC"].mask
_TOP_LEVEL = 6
_SIZE_ENCODED = 7
_ENTRIES = struct.Struct("<512Q")
_PAGE = 4096
_WRITE = 0b10
# Members of an enum are slow to look up through their class.
_NOT_PRESENT = AmdviFaultReason.NOT_PRESENT
_ENTRY_RESERVED = AmdviFaultReason.ENTRY_RESERVED
_INVALID_LEVEL = AmdviFaultReason.INVALID_LEVEL
_INVALID_PAGE_SIZE = AmdviFaultReason.INVALID_PAGE_SIZE
_NO_PERMISSION = AmdviFaultReason.NO_PERMISSION
_SKIPPED_BITS = AmdviFaultReason.SKIPPED_BITS
_BEYOND = AmdviFaultReason.ADDRESS_BEYOND_TABLE
_ACCESS = AmdviFaultReason.PAGE_TABLE_ACCESS


class HostLeaf(NamedTuple):
    """What a walk ends at. A tuple, since one is made for each walk.

    Attributes:
        address: output address.
        shift: log2 of the page size in bytes.
        rights: bit 0 IR, bit 1 IW, all levels and the device table entry taken together.
        entry: the 64 bits of the entry that maps the page; 0 where Mode 0 maps everything to itself.
        writes: accessed and dirty flags.
    """

    address: int
    shift: int
    rights: int
    entry: int = 0
    writes: tuple[MemoryWrite, ...] = ()

    @property
    def attributes(self) -> Attributes:
        """FC: accesses are snooped whatever the request says."""
        return Attributes.SNOOP if self.entry & _FORCE_COHERENT else Attributes.NONE


def host_level_shift(level: int) -> int:
    """log2 of the bytes that one entry of a level covers."""
    return 3 + 9 * level


def page_shift(entry: int, level: int) -> int:
    """log2 of the page that an entry maps; 0 where the encoded size does not lie between those of its levels."""
    shift = 3 + 9 * level
    if entry >> 9 & 7 != _SIZE_ENCODED:
        return shift
    # The lowest zero from bit 12 on says the size: bit n stands for 2^(n + 1) bytes (AMD-Vi 2.2.3, page size
    # encodings).
    ones = (entry & _ADDRESS) >> 12
    encoded = 13 + ((ones ^ (ones + 1)).bit_length() - 1)
    return encoded if shift < encoded < shift + 9 else 0


class HostTables:
    """Walks host page tables.

    Args:
        memory: where the tables are.
        caches_not_present: NpCache, for the tags of the trace.
    """

    def __init__(self, memory: Memory, *, caches_not_present: bool) -> None:
        self._memory = memory
        self._read_u64 = memory.read_u64
        self._caches_not_present = caches_not_present

    def walk(
        self,
        root: int,
        mode: int,
        rights: int,
        had: int,
        address: int,
        needed: int,
        domain: int,
        trace: list[Step] | None,
    ) -> HostLeaf | Blocked:
        """Walk down to the page of an address.

        Args:
            root: physical address of the topmost table.
            mode: its level, 1 to 6; 0 maps every address to itself.
            rights: IR and IW of the device table entry: bit 0 and bit 1.
            had: HAD of the device table entry: bit 0 sets A, bit 1 sets D.
            address: input address.
            needed: rights that must all be left at the end.
            domain: DomainID, for the trace.
            trace: takes a step for each entry; None for speed.
        """
        if rights & needed != needed:
            return Blocked(AmdviFaultReason.NO_PERMISSION_OF_DEVICE, 2)
        if not mode:
            return HostLeaf(address, 64, rights)
        # AMD-Vi 2.2.3: bits above those that the topmost table decodes must be zero.
        if address >> 12 + 9 * mode:
            return Blocked(_BEYOND, 2, mode)
        read_u64 = self._read_u64
        level = mode
        marks: list[tuple[int, int]] | None = [] if had else None
        while True:
            shift = 3 + 9 * level
            entry_address = root + ((address >> shift & 0x1FF) << 3)
            try:
                entry = read_u64(entry_address)
            except OutsideMemory:
                if trace is not None:
                    trace.append(_unread(level, entry_address, address, domain, "no memory there"))
                return Blocked(_ACCESS, 2, level, entry_address)
            if trace is not None:
                trace.append(self._step(level, entry_address, entry, address, domain))
            if not entry & 1:
                return Blocked(_NOT_PRESENT, 2, level)
            # AMD-Vi 2.2.3: what is allowed is what all levels allow.
            rights &= entry >> 61
            next_level = entry >> 9 & 7
            if not next_level or next_level == _SIZE_ENCODED:
                break
            if entry & _PDE_RESERVED:
                return Blocked(_ENTRY_RESERVED, 2, level)
            # AMD-Vi 2.2.3, page table level parameters: a table lies below the entry that leads to it.
            if next_level >= level:
                return Blocked(_INVALID_LEVEL, 2, level)
            if rights & needed != needed:
                return Blocked(AmdviFaultReason.NO_PERMISSION_OF_TABLE, 2, level)
            if marks is not None and not entry & _ACCESSED:
                marks.append((entry_address, entry | _ACCESSED))
            # AMD-Vi 2.2.3: the address bits of levels that are skipped must be zero.
            if next_level != level - 1 and address >> 12 + 9 * next_level & (1 << 9 * (level - 1 - next_level)) - 1:
                return Blocked(_SKIPPED_BITS, 2, level)
            level = next_level
            root = entry & _ADDRESS
        if entry & _PTE_RESERVED:
            return Blocked(_ENTRY_RESERVED, 2, level)
        # AMD-Vi 2.2.3, page table level parameters: level 6 holds no pages.
        if level == _TOP_LEVEL:
            return Blocked(_INVALID_LEVEL, 2, level)
        if next_level:
            shift = page_shift(entry, level)
            if not shift:
                return Blocked(_INVALID_PAGE_SIZE, 2, level)
        if rights & needed != needed:
            return Blocked(_NO_PERMISSION, 2, level)
        offset = (1 << shift) - 1
        output = entry & _ADDRESS & ~offset | address & offset
        if marks is not None:
            return HostLeaf(output, shift, rights, entry, _writes(marks, entry_address, entry, had, needed))
        return HostLeaf(output, shift, rights, entry)

    def iter_leaves(self, root: int, mode: int, rights: int) -> Iterator[Mapping]:
        """Every page that the tables map, in ascending order, one `Mapping` each; not Mode 0.

        What a walk would fault on is left out.

        Raises:
            TableLoop: a table is its own ancestor.
        """
        return self._iter_level(root, mode, 0, rights, ())

    def _iter_level(self, table: int, level: int, base: int, rights: int, above: tuple[int, ...]) -> Iterator[Mapping]:
        if table in above:
            raise TableLoop("host", table, base)
        count = 128 if level == _TOP_LEVEL else 512
        try:
            entries = _ENTRIES.unpack(self._memory.read(table, _ENTRIES.size))[:count]
        except OutsideMemory:
            return
        span = 3 + 9 * level
        index = 0
        while index < count:
            entry = entries[index]
            at = base + (index << span)
            left = rights & entry >> 61
            next_level = entry >> 9 & 7
            parts = 1
            if not entry & 1 or not left:
                pass
            elif next_level and next_level != _SIZE_ENCODED:
                if not entry & _PDE_RESERVED and next_level < level:
                    yield from self._iter_level(entry & _ADDRESS, next_level, at, left, (*above, table))
            elif level < _TOP_LEVEL and not entry & _PTE_RESERVED and (shift := page_shift(entry, level)):
                parts = _equal_parts(entries, index, 1 << shift - span)
                # An entry that stands alone, or among others, says its own part of the page.
                address = entry & _ADDRESS & -(1 << shift) | at & (1 << shift) - 1
                yield Mapping(at, address, parts << span, PERMISSIONS[left])
            index += parts

    def _step(self, level: int, entry_address: int, entry: int, address: int, domain: int) -> Step:
        next_level = entry >> 9 & 7
        is_leaf = next_level in (0, _SIZE_ENCODED)
        shift = (page_shift(entry, level) if is_leaf else 0) or host_level_shift(level)
        cached = None
        if entry & 1 or self._caches_not_present:
            first = address & -(1 << shift)
            cached = CachedEntry(
                kind=EntryKind.LEAF if is_leaf else EntryKind.TABLE,
                domain=domain,
                stage=2,
                first=first,
                last=first + (1 << shift) - 1,
            )
        layout = PTE if is_leaf else PDE
        return Step(f"host level {level}", layout.section, entry_address, entry, layout.describe(entry), cached=cached)


def _unread(level: int, entry_address: int | None, address: int, domain: int, note: str) -> Step:
    """The step of a walk that ends before an entry is read; its tags tell what else may be found for the address."""
    page = address & -_PAGE
    cached = CachedEntry(kind=EntryKind.TABLE, domain=domain, stage=2, first=page, last=page + _PAGE - 1)
    return Step(f"host level {level}", PTE.section, entry_address, note=note, cached=cached)


def _equal_parts(entries: tuple[int, ...], index: int, parts: int) -> int:
    """How many entries from one on are one page: all that it takes, where they say the same; else one."""
    if index % parts or any((entry ^ entries[index]) & ~_FLAGS for entry in entries[index : index + parts]):
        return 1
    return parts


def _writes(
    marks: list[tuple[int, int]], entry_address: int, entry: int, had: int, needed: int
) -> tuple[MemoryWrite, ...]:
    """The flags of a walk: those of the entries above, and of the one that maps the page."""
    flags = _ACCESSED | (_DIRTY if had & 2 and needed & _WRITE else 0)
    if flags & ~entry:
        marks.append((entry_address, entry | flags))
    return tuple(MemoryWrite(address, bits.to_bytes(8, "little")) for address, bits in marks)
