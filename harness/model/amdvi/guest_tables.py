"""The guest page tables: GCR3 table by PASID, then x86 long-mode tables of four or five levels (AMD-Vi 2.2.6).

All addresses in them, that of the GCR3 table among them, are guest physical: the host tables translate each before it
is read. With Mode 0 the host tables map everything to itself.

Where an entry has two things wrong with it the order taken is: not present, reserved bits, user/supervisor, write and
execute permission, at each level from the top. A request without PASID that GIoV sends here has PASID 0 and asks for
user mode; its address is not sign-extended, that of a request with PASID is.

Accessed and dirty flags (A in every entry of the way, D in the entry of the page for a write) are set only by a walk
that reaches its page; a table that the host tables do not let be written stops a walk that must set one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from harness.model.access import Attributes, MemoryWrite
from harness.model.amdvi.faults import AmdviFaultReason, Blocked
from harness.model.amdvi.guest_entries import GCR3_ENTRY, GUEST_LEAF_ENTRY, GUEST_TABLE_ENTRY
from harness.model.amdvi.host_tables import HostTables
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.engine import TableLoop
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory

__all__ = [
    "GuestLeaf",
    "GuestMapping",
    "GuestRoot",
    "GuestTables",
    "HostStage",
]

_ADDRESS = GUEST_LEAF_ENTRY["Address"].mask
_RW, _US, _ACCESSED, _DIRTY = (GUEST_LEAF_ENTRY[name].mask for name in ("RW", "US", "A", "D"))
_PS, _GLOBAL, _NX = (GUEST_LEAF_ENTRY[name].mask for name in ("PS", "G", "NX"))
_GCR3_RESERVED = GCR3_ENTRY["RSVD_1"].mask | GCR3_ENTRY["RSVD_52"].mask
_NAMES = {1: "PTE", 2: "PDE", 3: "PDPE", 4: "PML4E", 5: "PML5E"}
_LARGE_LEVELS = (2, 3)
_PAT_OF_LARGE = 1 << 12
# By level, the bits that must be zero in a present entry (AMD64 manual volume 2, long-mode page translation): in
# levels 4 and 5 those that would make it a page, and of the address of a large page what is below its size.
_TABLE_RESERVED = (0, 0, 0, 0, _PS | _GLOBAL, _PS | _GLOBAL)
_LEAF_RESERVED = (0, 0, *((1 << shift) - 1 & _ADDRESS & ~_PAT_OF_LARGE for shift in (21, 30)))
_ENTRIES = struct.Struct("<512Q")
_READ, _WRITE, _EXECUTE = 1, 2, 4
_EVERYTHING = _READ | _WRITE | _EXECUTE


class HostStage(NamedTuple):
    """What of a device table entry the host tables are walked with: see `HostTables.walk`."""

    root: int
    mode: int
    rights: int
    had: int


class GuestRoot(NamedTuple):
    """What of a device table entry and a request the guest tables are walked with.

    Attributes:
        table: guest physical address of the GCR3 table.
        glx: its levels, less one.
        levels: 4 or 5 levels of guest tables.
        pasid: 20 bits.
        sign_extended: addresses must be canonical; else their upper bits zero.
        domain: DomainID.
    """

    table: int
    glx: int
    levels: int
    pasid: int
    sign_extended: bool
    domain: int


class GuestLeaf(NamedTuple):
    """What a walk ends at.

    Attributes:
        address: physical address, both stages.
        shift: log2 of the smaller of both stages' pages.
        rights: bit 0 read, bit 1 write, bit 2 execute, both stages.
        attributes: G, supervisor, and FC of the host's page.
        writes: accessed and dirty flags.
    """

    address: int
    shift: int
    rights: int
    attributes: Attributes
    writes: tuple[MemoryWrite, ...]


class GuestMapping(NamedTuple):
    """A page of guest tables: guest virtual to guest physical."""

    address: int
    guest_physical: int
    size: int
    rights: int


class GuestTables:
    """Walks guest tables as an IOMMU with these registers does."""

    def __init__(self, registers: AmdviRegisters, memory: Memory, host: HostTables) -> None:
        self._memory = memory
        self._read_u64 = memory.read_u64
        self._host = host
        self._pasid_bits = registers.pasid_bits
        # Where NXSup or USSup is 0 the bit is ignored.
        self._no_execute = _NX if registers.feature("NXSup") else 0
        self._user = _US if registers.feature("USSup") else 0
        # Flags that are set, which GAUpdateDis (reserved without GAUpdateDisSup) and GDUpdateDis switch off.
        keeps_accessed = registers.feature("GAUpdateDisSup") and registers.controls("GAUpdateDis")
        self._accessed = 0 if keeps_accessed else _ACCESSED
        self._dirty = 0 if registers.controls("GDUpdateDis") else _DIRTY
        self._caches_not_present = registers.caches_not_present

    def walk(
        self, stage: HostStage, root: GuestRoot, address: int, needed: int, user: bool, trace: list[Step] | None
    ) -> GuestLeaf | Blocked:
        """Walk down to the page of a guest virtual address, and on to the host's page.

        Args:
            stage: the host tables.
            root: the guest tables.
            address: guest virtual address.
            needed: bit 0 read, bit 1 write, bit 2 execute; all of them.
            user: whether the request asks for user mode.
            trace: takes a step for each entry; None for speed.
        """
        writes: dict[int, MemoryWrite] = {}
        table = self._find_guest_cr3(stage, root, writes, trace)
        if isinstance(table, Blocked):
            return table
        # AMD-Vi 2.2.6: with PASID bits above the topmost decoded one repeat it, without they are zero.
        width = 12 + 9 * root.levels
        upper = address >> width - 1 if root.sign_extended else address >> width
        if upper and not (root.sign_extended and upper == (1 << 65 - width) - 1):
            return Blocked(AmdviFaultReason.NOT_CANONICAL, 1)

        read_u64, nested, domain = self._read_u64, stage.mode, root.domain
        rights, is_user = _EVERYTHING, True
        no_execute, user_bit, accessed = self._no_execute, self._user, self._accessed
        level = root.levels
        while True:
            shift = 3 + 9 * level
            guest_physical = table + ((address >> shift & 0x1FF) << 3)
            if nested:
                found = self._read(stage, guest_physical, level, domain, writes, trace)
                if isinstance(found, Blocked):
                    return found
                entry_address, entry = found
            else:
                entry_address = guest_physical
                try:
                    entry = read_u64(entry_address)
                except OutsideMemory:
                    return _no_memory(entry_address, level, trace)
            is_leaf = level == 1 or (entry & _PS and level in _LARGE_LEVELS)
            if trace is not None:
                trace.append(self._step(entry_address, entry, level, bool(is_leaf), address, root))
            if not entry & 1:
                return Blocked(AmdviFaultReason.NOT_PRESENT, 1, level)
            if entry & (_LEAF_RESERVED if is_leaf else _TABLE_RESERVED)[level]:
                return Blocked(AmdviFaultReason.ENTRY_RESERVED, 1, level)
            if entry & user_bit != user_bit:
                is_user = False
                if user:
                    return Blocked(AmdviFaultReason.SUPERVISOR_PAGE, 1, level)
            if not entry & _RW:
                rights &= ~_WRITE
            if entry & no_execute:
                rights &= ~_EXECUTE
            if rights & needed != needed:
                return Blocked(AmdviFaultReason.NO_PERMISSION, 1, level)
            wanted = accessed | (self._dirty if is_leaf and needed & _WRITE else 0)
            if wanted & ~entry:
                refused = self._set_flags(stage, guest_physical, entry_address, entry | wanted, domain, writes)
                if refused is not None:
                    return refused
            if is_leaf:
                break
            table = entry & _ADDRESS
            level -= 1

        output = entry & _ADDRESS & -(1 << shift) | address & (1 << shift) - 1
        # Executing is reading for the host tables, which know no other right.
        final = self._host.walk(*stage, output, _host_needs(needed), domain, trace)
        if isinstance(final, Blocked):
            return final
        attributes = (Attributes.GLOBAL if entry & _GLOBAL else Attributes.NONE) | final.attributes
        if not is_user:
            attributes |= Attributes.PRIVILEGED
        _add(writes, final.writes)
        shift = min(shift, final.shift)
        return GuestLeaf(final.address, shift, both(rights, final.rights), attributes, tuple(writes.values()))

    def iter_leaves(self, stage: HostStage, root: GuestRoot) -> Iterator[GuestMapping]:
        """Every page that the guest tables of a PASID map, in ascending order, before the host tables.

        What a walk would fault on is left out, but for the host tables' part in it.

        Raises:
            TableLoop: a table is its own ancestor.
        """
        table = self._find_guest_cr3(stage, root, {}, None)
        if not isinstance(table, Blocked):
            yield from self._iter_level(stage, root, table, root.levels, 0, _EVERYTHING, ())

    def _iter_level(
        self,
        stage: HostStage,
        root: GuestRoot,
        table: int,
        level: int,
        base: int,
        rights: int,
        above: tuple[int, ...],
    ) -> Iterator[GuestMapping]:
        if table in above:
            raise TableLoop("guest", table, base)
        address = table
        if stage.mode:
            leaf = self._host.walk(*stage, table, _READ, root.domain, None)
            if isinstance(leaf, Blocked):
                return
            address = leaf.address
        try:
            entries = _ENTRIES.unpack(self._memory.read(address, _ENTRIES.size))
        except OutsideMemory:
            return
        shift = 3 + 9 * level
        for index, entry in enumerate(entries):
            is_leaf = level == 1 or (entry & _PS and level in _LARGE_LEVELS)
            if not entry & 1 or entry & (_LEAF_RESERVED if is_leaf else _TABLE_RESERVED)[level]:
                continue
            narrowed = rights & ~(0 if entry & _RW else _WRITE) & ~(_EXECUTE if entry & self._no_execute else 0)
            at = base + (index << shift)
            if root.sign_extended and level == root.levels and index >= 256:
                at += (1 << 64) - (1 << 12 + 9 * level)
            if is_leaf:
                yield GuestMapping(at, entry & _ADDRESS & -(1 << shift), 1 << shift, narrowed)
            else:
                below = (*above, table)
                yield from self._iter_level(stage, root, entry & _ADDRESS, level - 1, at, narrowed, below)

    def _find_guest_cr3(
        self, stage: HostStage, root: GuestRoot, writes: dict[int, MemoryWrite], trace: list[Step] | None
    ) -> int | Blocked:
        """Guest physical address of the topmost guest table of a PASID."""
        table, glx, pasid, domain = root.table, root.glx, root.pasid, root.domain
        if pasid >> min(9 * (glx + 1), self._pasid_bits):
            return Blocked(AmdviFaultReason.PASID_BEYOND_TABLE, 1)
        for level in range(glx, -1, -1):
            found = self._read(stage, table + ((pasid >> 9 * level & 0x1FF) << 3), None, domain, writes, trace)
            if isinstance(found, Blocked):
                return found
            entry_address, entry = found
            if trace is not None:
                cached = None
                if entry & 1 or self._caches_not_present:
                    cached = CachedEntry(kind=EntryKind.PROCESS, domain=domain, space=pasid)
                name = f"GCR3 table level {level + 1} [pasid {pasid:#x}]"
                fields = GCR3_ENTRY.describe(entry)
                trace.append(Step(name, GCR3_ENTRY.section, entry_address, entry, fields, cached=cached))
            if not entry & 1:
                return Blocked(AmdviFaultReason.GCR3_NOT_PRESENT, 1)
            if entry & _GCR3_RESERVED:
                return Blocked(AmdviFaultReason.GCR3_RESERVED, 1)
            table = entry & _ADDRESS
        return table

    def _read(
        self,
        stage: HostStage,
        guest_physical: int,
        level: int | None,
        domain: int,
        writes: dict[int, MemoryWrite],
        trace: list[Step] | None,
    ) -> tuple[int, int] | Blocked:
        """Where an entry of the guest's is, and the entry."""
        address = guest_physical
        if stage.mode:
            leaf = self._host.walk(*stage, guest_physical, _READ, domain, trace)
            if isinstance(leaf, Blocked):
                return leaf
            address = leaf.address
            _add(writes, leaf.writes)
        try:
            return address, self._read_u64(address)
        except OutsideMemory:
            return _no_memory(address, level, trace)

    def _set_flags(
        self,
        stage: HostStage,
        guest_physical: int,
        entry_address: int,
        bits: int,
        domain: int,
        writes: dict[int, MemoryWrite],
    ) -> Blocked | None:
        """Set flags of an entry, which the host tables must allow."""
        if stage.mode:
            granted = self._host.walk(*stage, guest_physical, _READ | _WRITE, domain, None)
            if isinstance(granted, Blocked):
                return granted
            _add(writes, granted.writes)
        _add(writes, (MemoryWrite(entry_address, bits.to_bytes(8, "little")),))
        return None

    def _step(self, at: int, entry: int, level: int, is_leaf: bool, address: int, root: GuestRoot) -> Step:
        layout = GUEST_LEAF_ENTRY if is_leaf else GUEST_TABLE_ENTRY
        cached = None
        if entry & 1 or self._caches_not_present:
            span = 1 << 3 + 9 * level
            cached = CachedEntry(
                kind=EntryKind.LEAF if is_leaf else EntryKind.TABLE,
                domain=root.domain,
                space=root.pasid,
                stage=1,
                first=address & -span,
                last=(address & -span) + span - 1,
                is_global=is_leaf and bool(entry & _GLOBAL),
            )
        return Step(f"guest {_NAMES[level]}", layout.section, at, entry, layout.describe(entry), cached=cached)


def _no_memory(address: int, level: int | None, trace: list[Step] | None) -> Blocked:
    """An entry of a guest table, or of the GCR3 table without a level, that cannot be read."""
    if trace is not None:
        name = "GCR3 table" if level is None else f"guest {_NAMES[level]}"
        trace.append(Step(name, GCR3_ENTRY.section, address, note="no memory there"))
    return Blocked(AmdviFaultReason.PAGE_TABLE_ACCESS, 1, level, address)


def both(guest_rights: int, host_rights: int) -> int:
    """What two stages allow together; the host's read right is that to execute as well."""
    return guest_rights & (host_rights | (_EXECUTE if host_rights & _READ else 0))


def _add(writes: dict[int, MemoryWrite], more: tuple[MemoryWrite, ...]) -> None:
    """The last write to an address holds the flags of those before."""
    for write in more:
        writes[write.address] = write


def _host_needs(needed: int) -> int:
    return needed & _WRITE | (_READ if needed & (_READ | _EXECUTE) else 0)
