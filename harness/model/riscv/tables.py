"""Builds the tables that the RISC-V IOMMU engine walks: its mirror image, legal by default, any field overridable."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass, field
from typing import NamedTuple

from harness.errors import SpecError
from harness.model.bits import Layout, changed
from harness.model.memory import WritableMemory
from harness.model.radix import NO_OVERRIDES, PageAllocator, RadixTable
from harness.model.riscv.device import PDT_LEVELS, device_indexes
from harness.model.riscv.device_layouts import BASE_CONTEXT, DIRECTORY_ENTRY, EXTENDED_CONTEXT
from harness.model.riscv.msi import MSI_ENTRY_SIZE, MSI_PTE_BASIC, MSI_PTE_MRIF
from harness.model.riscv.pages import FIRST_STAGE_SCHEMES, SCHEMES, SECOND_STAGE_SCHEMES, PteFormat
from harness.model.riscv.process import PROCESS_CONTEXT, process_indexes
from harness.model.riscv.register_fields import DDTP
from harness.model.riscv.registers import IommuMode

__all__ = ["RiscvIommuTables", "new_page_table"]

_MODES = {
    name: mode
    for schemes in (*FIRST_STAGE_SCHEMES.values(), *SECOND_STAGE_SCHEMES.values())
    for mode, name in schemes.items()
}


def new_page_table(pages: PageAllocator, scheme: str) -> RadixTable:
    """An empty page table of a scheme ("Sv39", "Sv48x4"...)."""
    chosen = SCHEMES[scheme]
    # Sv39, Sv48 and Sv57 have two halves (Privileged Architecture); the others count from zero on.
    sign_extended = scheme in ("Sv39", "Sv48", "Sv57")
    return RadixTable(pages, PteFormat(chosen), chosen.levels, sign_extended=sign_extended)


class _ProcessTables(NamedTuple):
    """The process directory of a device."""

    pages: PageAllocator
    root: int
    levels: int


@dataclass(slots=True)
class RiscvIommuTables:
    """A device directory table, and what hangs below it (3.1, 3.2, 3.3.3).

    Attributes:
        memory: what the tables are in.
        base: physical address from which on pages are taken.
        levels: of the device directory, 1 to 3.
        extended: device contexts have the extended format (capabilities.MSI_FLAT).
    """

    memory: WritableMemory
    base: int
    levels: int = 3
    extended: bool = True
    pages: PageAllocator = field(init=False)
    root: int = field(init=False)
    _processes: dict[int, _ProcessTables] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.pages = PageAllocator(self.memory, self.base)
        self.root = self.pages.take()

    @property
    def ddtp(self) -> int:
        """The register that leads to these tables."""
        mode = (IommuMode.ONE_LEVEL, IommuMode.TWO_LEVEL, IommuMode.THREE_LEVEL)[self.levels - 1]
        return DDTP.encode({"iommu_mode": mode, "PPN": self.root >> 12})

    def new_page_table(self, scheme: str) -> RadixTable:
        """See `new_page_table`; its tables lie among these."""
        return new_page_table(self.pages, scheme)

    def attach(
        self,
        device_id: int,
        *,
        first: RadixTable | None = None,
        second: RadixTable | None = None,
        pscid: int = 0,
        gscid: int = 0,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Give a device a context without process directory.

        Args:
            device_id: within the width of the levels.
            first: first stage; Bare where left out. It lies in guest memory where there is a second one.
            second: second stage; Bare where left out.
            pscid: PSCID.
            gscid: GSCID.
            overrides: fields of the context to set otherwise, for what has no argument, and for illegal ones.
        """
        fields = {"tc.V": 1, "ta.PSCID": pscid, **_stage_fields("iohgatp", second), **_stage_fields("fsc", first)}
        if second is not None:
            fields["iohgatp.GSCID"] = gscid
        if _is_32_bit(first) or _is_32_bit(second):
            fields["tc.SXL"] = 1
        self._write(self._context_address(device_id), self._layout, self._layout.encode({**fields, **overrides}))

    def attach_processes(
        self,
        device_id: int,
        mode: int,
        *,
        second: RadixTable | None = None,
        gscid: int = 0,
        guest_pages: PageAllocator | None = None,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Give a device a context with a process directory, empty as yet.

        Args:
            device_id: within the width of the levels.
            mode: pdtp.MODE: 1 for PD8, 2 for PD17, 3 for PD20.
            second: second stage; Bare where left out.
            gscid: GSCID.
            guest_pages: where the process directory lies: in guest memory, where there is a second stage.
            overrides: fields of the context to set otherwise.
        """
        pages = guest_pages or self.pages
        directory = self._processes[device_id] = _ProcessTables(pages, pages.take(), PDT_LEVELS[mode])
        fields = {"tc.PDTV": 1, "fsc.MODE": mode, "fsc.PPN": directory.root >> 12}
        self.attach(device_id, second=second, gscid=gscid, overrides={**fields, **overrides})

    def share_processes(self, device_id: int, other: int) -> None:
        """Give a device the context of another one, and with it that one's process directory."""
        self._processes[device_id] = self._processes[other]
        context = self._read(self._context_address(other), self._layout, self.memory)
        self._write(self._context_address(device_id), self._layout, context)

    def set_process(
        self,
        device_id: int,
        process_id: int,
        *,
        first: RadixTable | None = None,
        pscid: int = 0,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Give a process of a device, which has a process directory, a context.

        Args:
            device_id: of the device.
            process_id: within the width of the directory.
            first: first stage; Bare where left out.
            pscid: PSCID.
            overrides: fields of `PROCESS_CONTEXT` to set otherwise.
        """
        fields = {"ta.V": 1, "ta.PSCID": pscid, **_stage_fields("fsc", first)}
        address = self._process_address(device_id, process_id, 0, make=True)
        self._write(address, PROCESS_CONTEXT, PROCESS_CONTEXT.encode({**fields, **overrides}), self._process(device_id))

    def set_interrupt_files(self, device_id: int, mask: int, pattern: int) -> None:
        """Say which guest pages are those of virtual interrupt files, and give them an empty MSI page table.

        Args:
            device_id: of a device with a second stage.
            mask: msi_addr_mask, of page numbers.
            pattern: msi_addr_pattern.
        """
        size = MSI_ENTRY_SIZE << mask.bit_count()
        table = self.pages.take(max(size, 4096))
        values = {
            "msiptp.MODE": 1,
            "msiptp.PPN": table >> 12,
            "msi_addr_mask.mask": mask,
            "msi_addr_pattern.pattern": pattern,
        }
        self.set_context_fields(device_id, values)

    def set_interrupt_file(
        self, device_id: int, number: int, page: int, *, overrides: NamedValues[str, int] = NO_OVERRIDES
    ) -> None:
        """Have messages to a virtual interrupt file go to the page of a real one (basic translate mode)."""
        value = MSI_PTE_BASIC.encode({"V": 1, "M": 3, "PPN": page >> 12, **overrides})
        self._write(self._msi_address(device_id, number), MSI_PTE_BASIC, value)

    def set_resident_interrupt_file(
        self,
        device_id: int,
        number: int,
        address: int,
        notice_address: int,
        notice_data: int,
        *,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Have messages to a virtual interrupt file stored in a memory-resident one (MRIF mode)."""
        fields = {
            "V": 1,
            "M": 1,
            "MRIF_Address": address >> 9,
            "NPPN": notice_address >> 12,
            "N": notice_data & 0x3FF,
            "N10": notice_data >> 10,
        }
        value = MSI_PTE_MRIF.encode({**fields, **overrides})
        self._write(self._msi_address(device_id, number), MSI_PTE_MRIF, value)

    def set_context_fields(self, device_id: int, values: NamedValues[str, int]) -> None:
        """Set fields of a device's context, by their names in `EXTENDED_CONTEXT` or `BASE_CONTEXT`."""
        self._change(self._context_address(device_id), self._layout, values, self.memory)

    def set_directory_fields(self, device_id: int, level: int, values: NamedValues[str, int]) -> None:
        """Set fields of the entry that leads a device from a level of the directory (2 or 3) to the next."""
        address = self._directory_address(device_id, level)
        self._change(address, DIRECTORY_ENTRY, values, self.memory)

    def set_process_fields(self, device_id: int, process_id: int, values: NamedValues[str, int]) -> None:
        """Set fields of a process's context, by their names in `PROCESS_CONTEXT`."""
        address = self._process_address(device_id, process_id, 0, make=False)
        self._change(address, PROCESS_CONTEXT, values, self._process(device_id))

    def set_process_directory_fields(
        self, device_id: int, process_id: int, level: int, values: NamedValues[str, int]
    ) -> None:
        """Set fields of the entry that leads a process from a level of its directory (2 or 3) to the next."""
        address = self._process_address(device_id, process_id, level - 1, make=False)
        self._change(address, DIRECTORY_ENTRY, values, self._process(device_id))

    @property
    def _layout(self) -> Layout:
        return EXTENDED_CONTEXT if self.extended else BASE_CONTEXT

    def _context_address(self, device_id: int) -> int:
        table = self._directory_table(device_id, 1)
        return table + device_indexes(device_id, extended=self.extended)[0] * (64 if self.extended else 32)

    def _directory_address(self, device_id: int, level: int) -> int:
        indexes = device_indexes(device_id, extended=self.extended)
        return self._directory_table(device_id, level) + 8 * indexes[level - 1]

    def _directory_table(self, device_id: int, level: int) -> int:
        """The table of a level on the way to a device; made where it is not there."""
        indexes = device_indexes(device_id, extended=self.extended)
        if any(indexes[self.levels :]) or indexes[2] >> 9:
            raise SpecError(f"device_id {device_id:#x} is wider than a directory of {self.levels} levels")
        table = self.root
        for current in range(self.levels, level, -1):
            table = _next_table(self.memory, self.pages, table + 8 * indexes[current - 1], make=True)
        return table

    def _process(self, device_id: int) -> WritableMemory:
        return self._processes[device_id].pages.memory

    def _process_address(self, device_id: int, process_id: int, depth: int, *, make: bool) -> int:
        """Where the entry of a process is, `depth` levels above the process context."""
        pages, table, levels = self._processes[device_id]
        indexes = process_indexes(process_id)
        for level in range(levels - 1, depth, -1):
            table = _next_table(pages.memory, pages, table + 8 * indexes[level], make=make)
        return table + indexes[depth] * (8 if depth else 16)

    def _msi_address(self, device_id: int, number: int) -> int:
        context = self._read(self._context_address(device_id), self._layout, self.memory)
        return (self._layout["msiptp.PPN"].get(context) << 12) + MSI_ENTRY_SIZE * number

    def _change(self, address: int, layout: Layout, values: NamedValues[str, int], memory: WritableMemory) -> None:
        self._write(address, layout, changed(layout, self._read(address, layout, memory), values), memory)

    def _read(self, address: int, layout: Layout, memory: WritableMemory) -> int:
        return sum(memory.read_u64(address + 8 * word) << 64 * word for word in range(_words(layout)))

    def _write(self, address: int, layout: Layout, value: int, memory: WritableMemory | None = None) -> None:
        # The doubleword with V last, as software has to (3.9).
        for word in reversed(range(_words(layout))):
            (memory or self.memory).write_u64(address + 8 * word, value >> 64 * word & (1 << 64) - 1)


def _words(layout: Layout) -> int:
    """Doublewords of a structure."""
    last = layout.fields[-1]
    return (last.low + last.width) // 64


def _next_table(memory: WritableMemory, pages: PageAllocator, address: int, *, make: bool) -> int:
    """The table that a directory entry leads to; made where it is not there."""
    entry = memory.read_u64(address)
    if not entry and make:
        entry = DIRECTORY_ENTRY.encode({"V": 1, "PPN": pages.take() >> 12})
        memory.write_u64(address, entry)
    return DIRECTORY_ENTRY["PPN"].get(entry) << 12


def _scheme(table: RadixTable) -> str:
    assert isinstance(table.format, PteFormat)
    return table.format.scheme.name


def _is_32_bit(table: RadixTable | None) -> bool:
    return table is not None and _scheme(table).startswith("Sv32")


def _stage_fields(name: str, table: RadixTable | None) -> dict[str, int]:
    """PPN and MODE of iohgatp or fsc."""
    if table is None:
        return {}
    return {f"{name}.PPN": table.root >> 12, f"{name}.MODE": _MODES[_scheme(table)]}
