"""Builds the tables that the VT-d engine walks: its mirror image, legal by default, any field overridable."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass, field

from harness.errors import SpecError
from harness.model.access import Permissions
from harness.model.bits import Layout
from harness.model.memory import WritableMemory
from harness.model.vtd.context import CONTEXT_ENTRY, TranslationType, context_entry_address
from harness.model.vtd.root import ROOT_ENTRY, root_entry_address
from harness.model.vtd.second_stage import LEAF_ENTRY, TABLE_ENTRY, level_shift

__all__ = ["PageAllocator", "SecondStageTable", "VtdTables"]

_PAGE = 4096
_NO_OVERRIDES: NamedValues[str, int] = {}


@dataclass(slots=True)
class PageAllocator:
    """Hands out zeroed pages of 4 KiB, one after the other.

    Attributes:
        memory: what the pages are in.
        next_page: physical address of the next one.
    """

    memory: WritableMemory
    next_page: int

    def take(self) -> int:
        """The address of a new page.

        Raises:
            OutsideMemory: there is no memory left.
        """
        page = self.next_page
        self.memory.write(page, bytes(_PAGE))
        self.next_page += _PAGE
        return page


@dataclass(slots=True)
class SecondStageTable:
    """A second-stage table of 3, 4 or 5 levels (VT-d 9.8).

    Attributes:
        pages: where tables come from.
        levels: how many.
        root: physical address of the topmost one; a new page when left out.
    """

    pages: PageAllocator
    levels: int
    root: int = -1

    def __post_init__(self) -> None:
        if self.root < 0:
            self.root = self.pages.take()

    def map(
        self,
        iova: int,
        address: int,
        size: int,
        permissions: Permissions = Permissions.READ | Permissions.WRITE,
        *,
        largest_page: int = 1 << 30,
        overrides: NamedValues[str, int] = _NO_OVERRIDES,
    ) -> None:
        """Map `size` bytes from `iova` on to `address` on, with the largest pages that fit.

        Args:
            iova: first input address, a multiple of 4 KiB.
            address: first output address, a multiple of 4 KiB.
            size: bytes, a multiple of 4 KiB.
            permissions: of the leaves; tables above them allow both.
            largest_page: bytes; 4 KiB, 2 MiB or 1 GiB.
            overrides: fields of `LEAF_ENTRY` to set otherwise in each leaf, for illegal ones.

        Raises:
            SpecError: not whole pages, beyond the width of the table, or something is mapped there already.
        """
        end = iova + size
        if (iova | address | size) % _PAGE or not 0 <= iova < end <= 1 << level_shift(self.levels + 1):
            raise SpecError(f"{size:#x} bytes at iova {iova:#x} to {address:#x} are not whole pages within the tables")
        while iova < end:
            level, entry_address = self._free_entry(iova, address, end - iova, largest_page)
            fields = {
                "R": int(Permissions.READ in permissions),
                "W": int(Permissions.WRITE in permissions),
                "PS": int(level > 1),
                "ADDR": address,
            }
            self.pages.memory.write_u64(entry_address, LEAF_ENTRY.encode({**fields, **overrides}))
            iova += 1 << level_shift(level)
            address += 1 << level_shift(level)

    def unmap(self, iova: int, size: int) -> None:
        """Clear the leaves of a range; tables stay where they are.

        Raises:
            SpecError: a page of the range is not mapped, or only a part of it is in the range.
        """
        end = iova + size
        while iova < end:
            level = self._leaf_level(iova)
            page = 1 << level_shift(level)
            if iova % page or iova + page > end:
                raise SpecError(f"unmapping up to {end:#x} would split the page of {page:#x} bytes at {iova:#x}")
            self.pages.memory.write_u64(self.entry_address(iova, level), 0)
            iova += page

    def entry_address(self, iova: int, level: int) -> int:
        """Physical address of the entry that an address uses at a level (1 for the last).

        Raises:
            SpecError: no table leads there.
        """
        table = self.root
        for current in range(self.levels, 0, -1):
            address = _slot(table, iova, current)
            if current == level:
                return address
            entry = self.pages.memory.read_u64(address)
            if not entry & 3 or (entry & LEAF_ENTRY["PS"].mask and current < 4):
                break
            table = TABLE_ENTRY["ADDR"].get(entry)
        raise SpecError(f"no table leads iova {iova:#x} to level {level}")

    def set_fields(self, iova: int, level: int, values: NamedValues[str, int]) -> None:
        """Set fields of the entry that an address uses at a level, by their names in `LEAF_ENTRY` or `TABLE_ENTRY`.

        Raises:
            SpecError: no table leads there, no such field, or a value that does not fit.
        """
        address = self.entry_address(iova, level)
        layout = LEAF_ENTRY if all(name in dict(LEAF_ENTRY.decode(0)) for name in values) else TABLE_ENTRY
        self.pages.memory.write_u64(address, _changed(layout, self.pages.memory.read_u64(address), values))

    def _leaf_level(self, iova: int) -> int:
        memory = self.pages.memory
        for level in range(self.levels, 0, -1):
            entry = memory.read_u64(self.entry_address(iova, level))
            if not entry & 3:
                break
            if level == 1 or (level < 4 and entry & LEAF_ENTRY["PS"].mask):
                return level
        raise SpecError(f"nothing is mapped at {iova:#x}")

    def _free_entry(self, iova: int, address: int, left: int, largest_page: int) -> tuple[int, int]:
        """Level and address of the topmost free entry that the next page can use; makes the tables above it."""
        memory = self.pages.memory
        table = self.root
        for level in range(self.levels, 0, -1):
            entry_address = _slot(table, iova, level)
            entry = memory.read_u64(entry_address)
            page = 1 << level_shift(level)
            if entry & 3 and (level == 1 or entry & LEAF_ENTRY["PS"].mask):
                raise SpecError(f"iova {iova:#x} is mapped already", hint="unmap it first")
            if not entry & 3:
                if level == 1 or (page <= min(largest_page, left) and not (iova | address) % page):
                    return level, entry_address
                entry = TABLE_ENTRY.encode({"R": 1, "W": 1, "ADDR": self.pages.take()})
                memory.write_u64(entry_address, entry)
            table = TABLE_ENTRY["ADDR"].get(entry)
        raise AssertionError("the last level always returns")


@dataclass(slots=True)
class VtdTables:
    """A legacy-mode root table, and what hangs below it (VT-d 9.1, 9.3).

    Attributes:
        memory: what the tables are in.
        base: physical address from which on pages are taken.
    """

    memory: WritableMemory
    base: int
    pages: PageAllocator = field(init=False)
    root: int = field(init=False)

    def __post_init__(self) -> None:
        self.pages = PageAllocator(self.memory, self.base)
        self.root = self.pages.take()

    def attach(
        self,
        requester: int,
        domain_id: int,
        levels: int,
        *,
        table: SecondStageTable | None = None,
        translation_type: TranslationType = TranslationType.SECOND_STAGE,
        overrides: NamedValues[str, int] = _NO_OVERRIDES,
    ) -> SecondStageTable:
        """Give a requester a context-entry, and a second-stage table of its own unless one is given to share.

        Args:
            requester: 16-bit requester id.
            domain_id: DID.
            levels: levels of the table; AW follows from it.
            table: to share with another requester.
            translation_type: TT.
            overrides: fields of `CONTEXT_ENTRY` to set otherwise, for illegal ones.
        """
        if table is None:
            table = SecondStageTable(self.pages, levels)
        bus = requester >> 8
        root_entry = self.memory.read_u64(root_entry_address(self.root, bus))
        if not root_entry & 1:
            root_entry = ROOT_ENTRY.encode({"P": 1, "CTP": self.pages.take()})
            self.memory.write_u64(root_entry_address(self.root, bus), root_entry)
        fields = {"P": 1, "TT": translation_type, "SSPTPTR": table.root, "AW": levels - 2, "DID": domain_id}
        address = context_entry_address(ROOT_ENTRY["CTP"].get(root_entry), requester)
        self._write_128(address, CONTEXT_ENTRY.encode({**fields, **overrides}))
        return table

    def set_root_fields(self, bus: int, values: NamedValues[str, int]) -> None:
        """Set fields of a bus's root-entry, by their names in `ROOT_ENTRY`."""
        address = root_entry_address(self.root, bus)
        self._write_128(address, _changed(ROOT_ENTRY, self._read_128(address), values))

    def set_context_fields(self, requester: int, values: NamedValues[str, int]) -> None:
        """Set fields of a requester's context-entry, by their names in `CONTEXT_ENTRY`."""
        table = ROOT_ENTRY["CTP"].get(self.memory.read_u64(root_entry_address(self.root, requester >> 8)))
        address = context_entry_address(table, requester)
        self._write_128(address, _changed(CONTEXT_ENTRY, self._read_128(address), values))

    def _read_128(self, address: int) -> int:
        return self.memory.read_u64(address + 8) << 64 | self.memory.read_u64(address)

    def _write_128(self, address: int, value: int) -> None:
        # The half with the present bit last, as software has to (VT-d 9: entries are read in one piece).
        self.memory.write_u64(address + 8, value >> 64)
        self.memory.write_u64(address, value & (1 << 64) - 1)


def _slot(table: int, iova: int, level: int) -> int:
    return table + ((iova >> level_shift(level) & 0x1FF) << 3)


def _changed(layout: Layout, value: int, values: NamedValues[str, int]) -> int:
    for name, new in values.items():
        entry = layout[name]
        value = value & ~entry.mask | entry.put(new)
    return value
