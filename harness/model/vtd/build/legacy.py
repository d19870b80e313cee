"""Builds legacy-mode tables, the mirror image of what the VT-d engine walks: any field can be set otherwise."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass, field

from harness.model.bits import Layout, changed
from harness.model.memory import WritableMemory
from harness.model.radix import NO_OVERRIDES, PageAllocator, RadixTable
from harness.model.vtd.build.page_formats import SecondStageFormat
from harness.model.vtd.context import CONTEXT_ENTRY, TranslationType, context_entry_address
from harness.model.vtd.root import ROOT_ENTRY, root_entry_address

__all__ = ["VtdTables", "change_entry", "write_entry"]


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
        root_entry = self.memory.read_u64(root_entry_address(self.root, requester))
        if not root_entry & 1:
            root_entry = ROOT_ENTRY.encode({"P": 1, "CTP": self.pages.take()})
            self.memory.write_u64(root_entry_address(self.root, requester), root_entry)
        fields = {"P": 1, "TT": translation_type, "SSPTPTR": table.root, "AW": levels - 2, "DID": domain_id}
        address = context_entry_address(ROOT_ENTRY["CTP"].get(root_entry), requester)
        write_entry(self.memory, address, CONTEXT_ENTRY.encode({**fields, **overrides}), 16)
        return table

    def set_root_fields(self, bus: int, values: NamedValues[str, int]) -> None:
        """Set fields of a bus's root-entry, by their names in `ROOT_ENTRY`."""
        change_entry(self.memory, root_entry_address(self.root, bus << 8), ROOT_ENTRY, 16, values)

    def set_context_fields(self, requester: int, values: NamedValues[str, int]) -> None:
        """Set fields of a requester's context-entry, by their names in `CONTEXT_ENTRY`."""
        table = ROOT_ENTRY["CTP"].get(self.memory.read_u64(root_entry_address(self.root, requester)))
        change_entry(self.memory, context_entry_address(table, requester), CONTEXT_ENTRY, 16, values)


def write_entry(memory: WritableMemory, address: int, value: int, size: int) -> None:
    """Write an entry of `size` bytes, the word with the present bit last, as software has to."""
    for offset in reversed(range(0, size, 8)):
        memory.write_u64(address + offset, value >> 8 * offset & (1 << 64) - 1)


def change_entry(
    memory: WritableMemory, address: int, layout: Layout, size: int, values: NamedValues[str, int]
) -> None:
    """Set fields of the entry of `size` bytes at an address."""
    value = int.from_bytes(memory.read(address, size), "little")
    write_entry(memory, address, changed(layout, value, values), size)
