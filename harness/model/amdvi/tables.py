"""Builds what the AMD-Vi engine walks: its mirror image, legal by default, any field overridable."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass, field

from harness.errors import SpecError
from harness.model.amdvi.device_table import DTE, DTE_SIZE
from harness.model.amdvi.formats import GuestFormat, HostFormat
from harness.model.amdvi.guest_entries import GCR3_ENTRY
from harness.model.amdvi.interrupts import IRTE_32, IRTE_128, IRTE_128_GUEST
from harness.model.amdvi.register_fields import DEVICE_TABLE_BASE
from harness.model.bits import changed
from harness.model.memory import WritableMemory
from harness.model.radix import NO_OVERRIDES, PageAllocator, RadixTable

__all__ = ["AmdviTables", "Gcr3Table", "InterruptTable"]

_PAGE = 4096


@dataclass(slots=True)
class Gcr3Table:
    """A GCR3 table, and the guest tables that it leads to by PASID (AMD-Vi 2.2.6).

    Attributes:
        pages: where tables come from: guest physical memory, where host tables stand below.
        glx: levels less one: 0 to 2.
    """

    pages: PageAllocator
    glx: int = 0
    root: int = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.pages.take()

    def add(
        self,
        pasid: int,
        levels: int = 4,
        *,
        table: RadixTable | None = None,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> RadixTable:
        """Give a PASID guest tables, of its own unless some are given to share.

        Args:
            pasid: within what this table holds.
            levels: 4 or 5.
            table: to share with another PASID.
            overrides: fields of `GCR3_ENTRY` to set otherwise.

        Raises:
            SpecError: the table has no room for the PASID.
        """
        if table is None:
            table = RadixTable(self.pages, GuestFormat(), levels, sign_extended=True)
        entry = GCR3_ENTRY.encode({"V": 1, "Address": table.root})
        self.pages.memory.write_u64(self.entry_address(pasid), changed(GCR3_ENTRY, entry, overrides))
        return table

    def entry_address(self, pasid: int, level: int = 0) -> int:
        """Where the entry of a PASID is, in its last level (0) or one above; makes the tables that lead there.

        Raises:
            SpecError: the table has no room for the PASID.
        """
        if pasid >> 9 * (self.glx + 1):
            raise SpecError(f"a GCR3 table of {self.glx + 1} levels has no entry for pasid {pasid:#x}")
        memory, at = self.pages.memory, self.root
        for above in range(self.glx, level, -1):
            address = at + (pasid >> 9 * above & 0x1FF) * 8
            entry = memory.read_u64(address)
            if not GCR3_ENTRY["V"].get(entry):
                entry = GCR3_ENTRY.encode({"V": 1, "Address": self.pages.take()})
                memory.write_u64(address, entry)
            at = GCR3_ENTRY["Address"].get(entry)
        return at + (pasid >> 9 * level & 0x1FF) * 8


@dataclass(frozen=True, slots=True)
class InterruptTable:
    """An interrupt remapping table (AMD-Vi 2.2.5).

    Attributes:
        memory: what it is in.
        root: its physical address.
        wide: entries of 128 bits, for GAEn.
    """

    memory: WritableMemory
    root: int
    wide: bool

    def entry_address(self, index: int) -> int:
        """Where an entry is."""
        return self.root + index * (16 if self.wide else 4)

    def set(self, index: int, values: NamedValues[str, int]) -> None:
        """Write an entry from its fields; RemapEn is set unless it is named.

        Their names are those of `IRTE_32` or `IRTE_128`, and with GuestMode of `IRTE_128_GUEST`.
        """
        layout = IRTE_32
        if self.wide:
            layout = IRTE_128_GUEST if values.get("GuestMode") else IRTE_128
        bits = layout.encode({"RemapEn": 1, **values})
        self.memory.write(self.entry_address(index), bits.to_bytes(16 if self.wide else 4, "little"))


@dataclass(slots=True)
class AmdviTables:
    """A device table, and what hangs below it (AMD-Vi 2.2.2). Its entries have V=0 at first.

    Attributes:
        memory: what the tables are in.
        base: physical address from which on pages are taken.
        size: pages of 4 KiB that the device table has, a power of two; 128 devices each.
    """

    memory: WritableMemory
    base: int
    size: int = 4
    pages: PageAllocator = field(init=False)
    root: int = field(init=False)

    def __post_init__(self) -> None:
        self.pages = PageAllocator(self.memory, self.base)
        self.root = self.pages.take(self.size * _PAGE)

    @property
    def device_table_base(self) -> int:
        """The register that leads to this table."""
        return DEVICE_TABLE_BASE.encode({"Size": self.size - 1, "DevTabBase": self.root})

    def attach(
        self,
        requester: int,
        domain_id: int,
        levels: int = 4,
        *,
        table: RadixTable | None = None,
        host_format: HostFormat | None = None,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> RadixTable:
        """Let a device be translated by host tables: its own, unless some are given to share.

        Args:
            requester: DeviceID.
            domain_id: DomainID.
            levels: of the tables, 1 to 6; Mode follows from it.
            table: to share with another device.
            host_format: of a new table.
            overrides: fields of `DTE` to set otherwise, for illegal ones.
        """
        if table is None:
            table = RadixTable(self.pages, host_format or HostFormat(), levels)
        fields = {"Mode": table.levels, "HostPageTableRoot": table.root}
        self._set_translation(requester, domain_id, {**fields, **overrides})
        return table

    def attach_guest(
        self,
        requester: int,
        domain_id: int,
        gcr3: Gcr3Table,
        *,
        levels: int = 4,
        host: RadixTable | None = None,
        without_pasid: bool = False,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Let a device's requests with PASID be translated by guest tables.

        Args:
            requester: DeviceID.
            domain_id: DomainID.
            gcr3: leads to the guest tables.
            levels: of the guest tables, 4 or 5.
            host: host tables below them; none (Mode 0) when left out.
            without_pasid: GIoV: requests without PASID go through the tables of PASID 0.
            overrides: fields of `DTE` to set otherwise.
        """
        root = gcr3.root
        fields = {
            "Mode": 0 if host is None else host.levels,
            "HostPageTableRoot": 0 if host is None else host.root,
            "GV": 1,
            "GIoV": int(without_pasid),
            "GLX": gcr3.glx,
            "GCR3_14_12": root >> 12 & 7,
            "GCR3_30_15": root >> 15 & 0xFFFF,
            "GCR3_51_31": root >> 31,
            "GuestPagingMode": levels - 4,
        }
        self._set_translation(requester, domain_id, {**fields, **overrides})

    def attach_interrupts(
        self,
        requester: int,
        length: int = 5,
        *,
        wide: bool = False,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> InterruptTable:
        """Give a device an interrupt table, and IntCtl that uses it.

        Args:
            requester: DeviceID.
            length: IntTabLen, log2 of the number of entries.
            wide: entries of 128 bits.
            overrides: fields of `DTE` to set otherwise.
        """
        table = InterruptTable(self.memory, self.pages.take(max(128, (16 if wide else 4) << length)), wide)
        fields = {"IV": 1, "IntTabLen": length, "IntTableRoot_51_6": table.root >> 6, "IntCtl": 0b10}
        self.set_fields(requester, {**fields, **overrides})
        return table

    def entry_address(self, requester: int) -> int:
        """Where the entry of a device is."""
        return self.root + (requester & 0xFFFF) * DTE_SIZE

    def set_fields(self, requester: int, values: NamedValues[str, int]) -> None:
        """Set fields of a device's entry, by their names in `DTE`."""
        address = self.entry_address(requester)
        bits = int.from_bytes(self.memory.read(address, DTE_SIZE), "little")
        self.memory.write(address, changed(DTE, bits, values).to_bytes(DTE_SIZE, "little"))

    def _set_translation(self, requester: int, domain_id: int, values: NamedValues[str, int]) -> None:
        self.set_fields(requester, {"V": 1, "TV": 1, "IR": 1, "IW": 1, "DomainID": domain_id, **values})
