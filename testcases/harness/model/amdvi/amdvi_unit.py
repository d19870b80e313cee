"""One AMD IOMMU with one device, for tests: what is legal by default, and any register or field set otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.model.access import Access, AccessKind, AddressType, Fault, Outcome
from harness.model.amdvi import AmdviEngine, AmdviEvent, AmdviRegisters, AmdviTables, Gcr3Table
from harness.model.amdvi.register_fields import CONTROL
from harness.model.amdvi.registers import extended_features
from harness.model.engine import MsiOutcome, MsiWrite
from harness.model.memory import OffsetMemory, Region, SparseMemory
from harness.model.radix import PageAllocator, RadixTable

__all__ = ["DOMAIN", "IOVA", "MSI", "NOWHERE", "OUTPUT", "RID", "Unit", "guest_unit", "nested_unit", "record_of"]

RID = 0x0128
DOMAIN = 0x1234
IOVA = 0x4020_1000
OUTPUT = 0x8000_0000
NOWHERE = 0x7000_0000
RAM = 0x1000_0000
MSI = 0xFEE0_0000
# Where guest physical memory starts in the nested unit, and how much of it there is.
GUEST_BASE = 0x400_0000
GUEST_RAM = 0x2_0000


@dataclass
class Unit:
    """An IOMMU. `control` and `extended_feature` are registers; `gcr3_entry` is where that of the guest's PASID is."""

    memory: SparseMemory = field(default_factory=lambda: SparseMemory((Region(0, RAM),)))
    control: dict[str, int] = field(default_factory=lambda: {"IommuEn": 1, "GTEn": 1})
    extended_feature: int = field(default_factory=extended_features)
    registers: dict[str, Any] = field(default_factory=dict)
    gcr3_entry: int = 0

    def __post_init__(self) -> None:
        self.tables = AmdviTables(self.memory, 0x10_0000)

    def make_registers(self) -> AmdviRegisters:
        values = {"device_table_base": self.tables.device_table_base, **self.registers}
        return AmdviRegisters(extended_feature=self.extended_feature, control=CONTROL.encode(self.control), **values)

    def engine(self) -> AmdviEngine:
        return AmdviEngine(self.make_registers(), self.memory)

    def map(self, levels: int = 4, **options: Any) -> RadixTable:
        """Host tables for the device, with one page of 4 KiB at IOVA mapped to OUTPUT."""
        table = self.tables.attach(RID, DOMAIN, levels, **options)
        table.map(IOVA & (1 << table.width) - 1, OUTPUT, 0x1000)
        return table

    def set(self, **fields: int) -> None:
        """Set fields of the device table entry."""
        self.tables.set_fields(RID, fields)

    def access(
        self,
        kind: AccessKind = AccessKind.READ,
        *,
        iova: int = IOVA,
        length: int = 4,
        requester: int = RID,
        pasid: int | None = None,
        privileged: bool = False,
        address_type: AddressType = AddressType.UNTRANSLATED,
    ) -> Outcome:
        """The outcome, which `translate` and `explain` agree on."""
        access = Access(
            requester=requester,
            iova=iova,
            length=length,
            kind=kind,
            pasid=pasid,
            privileged=privileged,
            address_type=address_type,
        )
        outcome = self.engine().translate(access)
        assert self.engine().explain(access).outcome == outcome
        return outcome

    def ats(self, kind: AccessKind = AccessKind.READ, **options: Any) -> Outcome:
        """A translation request."""
        return self.access(kind, address_type=AddressType.TRANSLATION_REQUEST, **options)

    def msi(self, data: int = 0x0005, *, address: int = MSI, requester: int = RID) -> MsiOutcome:
        write = MsiWrite(requester=requester, address=address, data=data)
        outcome = self.engine().remap_msi(write)
        assert self.engine().explain_msi(write)[1] == outcome
        return outcome


def guest_unit(
    *, glx: int = 0, levels: int = 4, pasid: int = 5, without_pasid: bool = False
) -> tuple[Unit, RadixTable]:
    """A device with guest tables for one PASID, no host tables, and IOVA mapped to OUTPUT, readable and writable."""
    unit = Unit()
    gcr3 = Gcr3Table(unit.tables.pages, glx)
    unit.tables.attach_guest(RID, DOMAIN, gcr3, levels=levels, without_pasid=without_pasid)
    table = gcr3.add(pasid, levels)
    unit.gcr3_entry = gcr3.entry_address(pasid)
    table.map(IOVA, OUTPUT, 0x1000)
    return unit, table


def nested_unit(*, host_levels: int = 4, pasid: int = 5) -> tuple[Unit, RadixTable, RadixTable]:
    """The same above host tables, which map guest physical memory from 0 on to GUEST_BASE on, and OUTPUT likewise."""
    unit = Unit()
    guest_memory = OffsetMemory(unit.memory, GUEST_BASE)
    gcr3 = Gcr3Table(PageAllocator(guest_memory, 0x1000))
    host = unit.tables.attach(RID, DOMAIN, host_levels)
    host.map(0, GUEST_BASE, GUEST_RAM, largest_page=4096)
    host.map(OUTPUT, OUTPUT + GUEST_BASE, 0x1000)
    unit.tables.attach_guest(RID, DOMAIN, gcr3, host=host)
    guest = gcr3.add(pasid)
    guest.map(IOVA, OUTPUT, 0x1000)
    return unit, guest, host


def record_of(outcome: object) -> Mapping[str, int]:
    """The fields of the event that reports a fault, but for the event code, reserved ones and those that are zero."""
    assert isinstance(outcome, Fault), outcome
    assert isinstance(outcome.record, AmdviEvent), outcome
    event = AmdviEvent.decode(outcome.record.encode())
    assert event == outcome.record
    names = (entry.name for entry in event.layout.fields)
    fields = {name: event[name] for name in names if event[name] and name != "EventCode"}
    assert not any(name.startswith("RSVD") for name in fields)
    return fields
