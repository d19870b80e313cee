"""The page-table walk of either stage (Privileged Architecture, virtual address translation process; 3.3 steps 17, 19).

The second stage is walked as the first, with these differences (hypervisor extension, two-stage address translation):
its input address is zero-extended and two bits wider, every access counts as one of user privilege, and G is ignored.
What the first stage reads and writes of its own tables goes through the second (`ImplicitAccess`).

The IOMMU has no MXR: a read needs R. Write-without-read encodings stay reserved (3.3: the shadow-stack encoding too).
All that is wrong with an entry gives the same page fault, so the order of these checks cannot be seen.

An accessed or dirty flag is set where the entry allows the access and only then. The D flag of a second-stage entry is
set for an implicit access when this access is a write: when a flag of a first-stage entry has to be set. (Hardware may
set it earlier, for any implicit access.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple, NoReturn

from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.riscv.pages import PTE, PagingScheme
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tags import StageTags, page_entry
from harness.model.riscv.walk_results import FlagUpdates, PageLeaf, Trouble, WalkBlocked

__all__ = [
    "GLOBAL",
    "READ",
    "USER",
    "WRITE",
    "ImplicitAccess",
    "PageTableWalk",
    "WalkLevel",
    "beyond_physical_addresses",
    "entry_reader",
]

READ, WRITE, EXECUTE = 1, 2, 4  # rights of a leaf: its bits 3:1, and of `Permissions`
_V, USER, GLOBAL, _A, _D = (PTE[name].mask for name in ("V", "U", "G", "A", "D"))
_RIGHTS, _R_OR_X, _R_AND_W, _W = 0b1110, 0b1010, 0b0110, 0b0100
_PPN = PTE["PPN"].mask
_N = PTE["N"].mask
_PBMT = PTE["PBMT"].mask
_NAPOT = 0xF << 10
_NAPOT_64K = 0x8 << 10
_BEYOND = {1: "beyond the first stage", 2: "beyond the second stage"}
# What a leaf may have set that an entry which leads to a table may not: D, A, U, and the fields of Svnapot and Svpbmt.
_LEAF_ONLY = _D | _A | USER | _N | _PBMT


def entry_reader(memory: Memory, size: int, *, big_endian: bool) -> Callable[[int], int]:
    """How entries of 4 or 8 bytes are read. Raises what the memory raises."""
    if size == 8 and not big_endian:
        return memory.read_u64
    read = memory.read
    order: Literal["little", "big"] = "big" if big_endian else "little"

    def read_entry(address: int) -> int:
        return int.from_bytes(read(address, size), order)

    return read_entry


def beyond_physical_addresses(address: int, size: int) -> NoReturn:
    """6.3, PAS: there is nothing beyond the physical address space.

    Raises:
        OutsideMemory: always.
    """
    raise OutsideMemory(address, size)


class WalkLevel(NamedTuple):
    """What a walk needs to know of a level.

    Attributes:
        level: 1 for the last.
        shift: log2 of the bytes that one entry covers.
        index_mask: of the number of an entry in its table.
        reserved: bits that an entry which maps a page must not have set.
    """

    level: int
    shift: int
    index_mask: int
    reserved: int


class PageTableWalk:
    """Walks the tables of one scheme, as one of the two stages.

    Args:
        scheme: of the tables.
        stage: 1 or 2.
        registers: what the implementation has.
        memory: where the tables are; a first stage below a second reads it at the addresses that the latter gives.
        big_endian: byte order of the entries.
        width: bits of input address, where that is fewer than the scheme has.

    Attributes:
        scheme, stage: as above.
        order: byte order of the entries.
        width: bits of input address.
        sign_extended: whether the bits above these equal the highest of them, or are zero.
        levels: from the root down.
    """

    def __init__(
        self,
        scheme: PagingScheme,
        stage: int,
        registers: RiscvIommuRegisters,
        memory: Memory,
        *,
        big_endian: bool,
        width: int | None = None,
    ) -> None:
        self.scheme = scheme
        self.stage = stage
        self.order: Literal["little", "big"] = "big" if big_endian else "little"
        self._read = entry_reader(memory, scheme.entry_size, big_endian=big_endian)
        self._limit = 1 << registers.physical_address_size
        self._fault = Trouble.PAGE_FAULT if stage == 1 else Trouble.GUEST_PAGE_FAULT
        self._entry_shift = scheme.entry_size.bit_length() - 1
        self.width = min(scheme.width, width or scheme.width)
        # Sv39, Sv48 and Sv57: bits above the width equal its highest bit. Sv32 (3.1.3.1, SXL) and the second stage:
        # they are zero.
        self.sign_extended = stage == 1 and scheme.name != "Sv32"
        reserved = scheme.layout["RSVD_54"].mask if "RSVD_54" in scheme.layout else 0
        if "RSW_59" in scheme.layout and not registers.has("Svrsw60t59b"):
            # 9.4: bits 60:59 are software's only with Svrsw60t59b.
            reserved |= scheme.layout["RSW_59"].mask
        self._table_test = _V | _RIGHTS | _LEAF_ONLY | reserved
        if not registers.has("Svpbmt"):
            reserved |= _PBMT
        levels = []
        for level in range(scheme.levels, 0, -1):
            bits = scheme.root_bits if level == scheme.levels else scheme.index_bits
            shift = scheme.level_shift(level)
            # A superpage's PPN has zeros below its size, and Svnapot has no encoding above the last level.
            misaligned = (1 << shift) - (1 << 12) >> 2
            leaf_reserved = reserved | misaligned | (_N if level > 1 else 0)
            levels.append(WalkLevel(level, shift, (1 << bits) - 1, leaf_reserved))
        self.levels = tuple(levels)

    def walk(
        self,
        root: int,
        address: int,
        needed: int,
        is_store: bool,
        barred: int,
        sets_flags: bool,
        updates: FlagUpdates,
        implicit: ImplicitAccess | None,
        trace: list[Step] | None,
        tags: StageTags,
    ) -> PageLeaf | WalkBlocked:
        """Walk down to the page of an address.

        Args:
            root: address of the root table; a guest physical one where `implicit` is given.
            address: input address, 64 bits.
            needed: rights that the leaf must have: `READ`, `WRITE`, `EXECUTE`.
            is_store: the access writes where the leaf has W, so D is looked at.
            barred: the value of U that the access must not meet: 0, `USER`, or -1 for none.
            sets_flags: SADE or GADE, whichever is this stage's.
            updates: takes the entries in which flags are set.
            implicit: the second stage below this one, if any.
            trace: takes a step for each entry; None for speed.
            tags: of the cached entries of this stage, for the trace.
        """
        upper = address >> self.width - 1
        if upper and not self._reaches(upper):
            if trace is not None:
                what = f"{self.scheme.name} address"
                trace.append(Step(what, self._section, None, address, reason=_BEYOND[self.stage]))
            return self._blocked(address, None, False)
        read, limit, entry_shift, table_test = self._read, self._limit, self._entry_shift, self._table_test
        table = at = where = root
        is_global = 0
        entry = level = shift = leaf_reserved = 0
        for level, shift, index_mask, leaf_reserved in self.levels:  # noqa: B007 (the leaf is looked at below)
            at = table + ((address >> shift & index_mask) << entry_shift)
            where = at
            if implicit is not None:
                # Hypervisor extension: the tables of the first stage lie at guest physical addresses.
                found = implicit.load(at, trace)
                if not isinstance(found, PageLeaf):
                    return found._replace(is_global=bool(is_global))
                where = found.address
            try:
                if where >= limit:
                    beyond_physical_addresses(where, self.scheme.entry_size)
                entry = read(where)
            except OutsideMemory:
                if trace is not None:
                    trace.append(Step(self._name(level), self._section, where, note="no memory there"))
                return WalkBlocked(Trouble.ACCESS_FAULT, self.stage, level, 0, bool(is_global))
            is_table = entry & table_test == _V and level > 1
            if trace is not None:
                self._trace(trace, level, shift, where, entry, address, bool(is_global), is_table, tags)
            if not is_table:
                break
            # `leads_to_table`: R, W and X are 0, and the entry leads to the next table, and its G holds for all below.
            is_global |= entry & GLOBAL
            table = (entry & _PPN) << 2
        if updates and where in updates:
            entry = int.from_bytes(updates[where], self.order)
        rights = entry >> 1 & 7
        is_napot = entry & _N
        if entry & _V:
            is_global |= entry & GLOBAL
        if not self.maps_page(entry, leaf_reserved) or needed & ~rights or entry & USER == barred:
            if trace is not None:
                self._give_reason(trace, self._complaint(entry, level, leaf_reserved, needed, barred))
            return self._blocked(address, level, bool(is_global))
        # A must be set, and D where the access is a store that the entry allows; else hardware sets it, or it faults.
        wanted = _A | _D if is_store and rights & WRITE else _A
        if entry & wanted != wanted:
            if not sets_flags:
                if trace is not None:
                    self._give_reason(trace, "D is 0" if entry & _A else "A is 0")
                return self._blocked(address, level, bool(is_global))
            if implicit is not None:
                blocked = implicit.store(at)
                if blocked is not None:
                    return blocked._replace(is_global=bool(is_global))
            entry |= wanted
            updates[where] = entry.to_bytes(self.scheme.entry_size, self.order)
        if is_napot:
            # Svnapot: the low bits of the PPN are those of the input address.
            shift = 16
        page_mask = (1 << shift) - 1
        output = (entry & _PPN) << 2 & ~page_mask | address & page_mask
        return PageLeaf(output, shift, entry, bool(is_global))

    def _blocked(self, address: int, level: int | None, is_global: bool) -> WalkBlocked:
        """A page fault, or a guest page fault, at an entry."""
        return WalkBlocked(self._fault, self.stage, level, address & ~3 if self.stage == 2 else 0, is_global)

    def leads_to_table(self, entry: int, level: int) -> bool:
        """Whether an entry is a good pointer to a table of the level below."""
        return entry & self._table_test == _V and level > 1

    def maps_page(self, entry: int, reserved: int) -> bool:
        """Whether an entry, of a level with these reserved bits, is a good leaf."""
        rights = entry & _RIGHTS
        return bool(
            entry & _V
            and not entry & reserved
            and entry & _PBMT != _PBMT
            # Neither R nor X is a pointer, out of place or with reserved bits; W without R is reserved.
            and rights & _R_OR_X
            and rights & _R_AND_W != _W
            and not (entry & _N and entry & _NAPOT != _NAPOT_64K)
        )

    def _complaint(self, entry: int, level: int, reserved: int, needed: int, barred: int) -> str:
        """What is wrong with the entry that stops a walk, for a person; flags that are not set are another matter."""
        rights = entry & _RIGHTS
        if not entry & _V:
            return "V is 0"
        if not rights:
            return "a pointer at the last level" if level == 1 else f"a pointer with {self._names(entry & ~_V)}"
        if rights & _R_AND_W == _W:
            return "W without R"
        if entry & reserved:
            return self._names(entry & reserved & ~_PPN) or "misaligned page"
        if not self.maps_page(entry, reserved):
            return "PBMT" if entry & _PBMT == _PBMT else "N" if rights & _R_OR_X else "neither R nor X"
        return "U" if entry & USER == barred else f"no {'RWX'[(needed & ~(rights >> 1)).bit_length() - 1]}"

    def _names(self, bits: int) -> str:
        """The fields, of those that say something wrong, that bits of an entry belong to."""
        return ", ".join(field.name for field in self.scheme.layout.fields if bits & self._table_test & field.mask)

    def _give_reason(self, trace: list[Step], reason: str) -> None:
        trace[-1] = replace(trace[-1], reason=reason)

    def _reaches(self, upper: int) -> bool:
        """Whether an address whose bits from width - 1 on are `upper`, not zero, is one that the tables map."""
        if self.sign_extended:
            return upper == (1 << 65 - self.width) - 1
        return upper == 1

    @property
    def _section(self) -> str:
        return "Privileged, two-stage translation" if self.stage == 2 else "Privileged, Sv32 to Sv57"

    def _name(self, level: int) -> str:
        return f"{self.scheme.name} PTE [level {level}]"

    def _trace(
        self,
        trace: list[Step],
        level: int,
        shift: int,
        where: int,
        entry: int,
        address: int,
        is_global: bool,
        is_table: bool,
        tags: StageTags,
    ) -> None:
        size = self.scheme.entry_size
        if entry & _N and level == 1:
            shift = 16
        # 3.8: an entry with V=0 must not be cached.
        cached = None
        if entry & _V:
            marked = self.stage == 1 and (is_global or bool(entry & GLOBAL))
            first = address & -(1 << shift)
            cached = page_entry(tags, first, 1 << shift, is_leaf=not is_table, is_global=marked)
        value = int.from_bytes(entry.to_bytes(size, self.order), "little")
        fields = self.scheme.layout.describe(entry)
        trace.append(
            Step(self._name(level), self._section, where, value, fields, size=size, cached=cached),
        )


class ImplicitAccess:
    """What the IOMMU itself reads and writes at guest physical addresses: process directory, first-stage tables.

    Args:
        walk: the second stage.
        root: its root table, from iohgatp.
        sets_flags: GADE.
        updates: takes the entries in which flags are set.
        tags: of the second stage's cached entries.
    """

    __slots__ = ("_root", "_sets_flags", "_tags", "_updates", "_walk")

    def __init__(self, walk: PageTableWalk, root: int, sets_flags: bool, updates: FlagUpdates, tags: StageTags) -> None:
        self._walk = walk
        self._root = root
        self._sets_flags = sets_flags
        self._updates = updates
        self._tags = tags

    def load(self, guest: int, trace: list[Step] | None) -> PageLeaf | WalkBlocked:
        """Translate a guest physical address that is read.

        4.2: bit 0 of iotval2 says that the access was implicit.
        """
        found = self._walk.walk(
            self._root, guest, READ, False, 0, self._sets_flags, self._updates, None, trace, self._tags
        )
        if isinstance(found, PageLeaf) or found.trouble is not Trouble.GUEST_PAGE_FAULT:
            return found
        return found._replace(iotval2=found.iotval2 | 1)

    def store(self, guest: int) -> WalkBlocked | None:
        """Whether something stops the write of a flag to a guest physical address that was read before.

        4.2: bit 1 of iotval2 says that the implicit access was a write.
        """
        found = self._walk.walk(
            self._root, guest, WRITE, True, 0, self._sets_flags, self._updates, None, None, self._tags
        )
        if isinstance(found, PageLeaf):
            return None
        return found._replace(iotval2=found.iotval2 | 3) if found.trouble is Trouble.GUEST_PAGE_FAULT else found
