"""Builds the tables that the VT-d engine walks: its mirror image, legal by default, any field overridable."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass, field

from harness.model.access import PERMISSIONS, Permissions
from harness.model.bits import Layout, changed
from harness.model.memory import WritableMemory
from harness.model.radix import NO_OVERRIDES, Entry, LeafEntry, PageAllocator, PageSize, RadixTable, TableEntry
from harness.model.vtd.context import CONTEXT_ENTRY, TranslationType, context_entry_address
from harness.model.vtd.root import ROOT_ENTRY, root_entry_address
from harness.model.vtd.second_stage import LEAF_ENTRY, TABLE_ENTRY, level_shift

__all__ = ["SecondStageFormat", "VtdTables"]


class SecondStageFormat:
    """Second-stage entries (VT-d 9.8)."""

    entry_size = 8
    page_sizes = (PageSize(12, 1), PageSize(21, 2), PageSize(30, 3))

    def level_shift(self, level: int) -> int:
        """See `TableFormat`."""
        return level_shift(level)

    def index_bits(self, level: int, levels: int) -> int:
        """See `TableFormat`: 512 entries."""
        return 9

    def table_entry(self, address: int, level: int) -> int:
        """See `TableFormat`."""
        return TABLE_ENTRY.encode({"R": 1, "W": 1, "ADDR": address})

    def leaf_entry(self, address: int, page: PageSize, part: int, permissions: Permissions) -> int:
        """See `TableFormat`."""
        read, write = int(Permissions.READ in permissions), int(Permissions.WRITE in permissions)
        return LEAF_ENTRY.encode({"R": read, "W": write, "PS": int(page.level > 1), "ADDR": address})

    def decode(self, entry: int, level: int) -> Entry:
        """See `TableFormat`."""
        if not entry & 3:
            return None
        if level > 1 and not (level < 4 and LEAF_ENTRY["PS"].get(entry)):
            return TableEntry(TABLE_ENTRY["ADDR"].get(entry), level - 1)
        return LeafEntry(LEAF_ENTRY["ADDR"].get(entry), self.page_sizes[level - 1], PERMISSIONS[entry & 3])

    def layout(self, level: int, *, is_leaf: bool) -> Layout:
        """See `TableFormat`."""
        return LEAF_ENTRY if is_leaf else TABLE_ENTRY


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
        table: RadixTable | None = None,
        translation_type: TranslationType = TranslationType.SECOND_STAGE,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> RadixTable:
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
            table = RadixTable(self.pages, SecondStageFormat(), levels)
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
        self._write_128(address, changed(ROOT_ENTRY, self._read_128(address), values))

    def set_context_fields(self, requester: int, values: NamedValues[str, int]) -> None:
        """Set fields of a requester's context-entry, by their names in `CONTEXT_ENTRY`."""
        table = ROOT_ENTRY["CTP"].get(self.memory.read_u64(root_entry_address(self.root, requester >> 8)))
        address = context_entry_address(table, requester)
        self._write_128(address, changed(CONTEXT_ENTRY, self._read_128(address), values))

    def _read_128(self, address: int) -> int:
        return self.memory.read_u64(address + 8) << 64 | self.memory.read_u64(address)

    def _write_128(self, address: int, value: int) -> None:
        # The half with the present bit last, as software has to (VT-d 9: entries are read in one piece).
        self.memory.write_u64(address + 8, value >> 64)
        self.memory.write_u64(address, value & (1 << 64) - 1)
