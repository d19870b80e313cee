"""A VT-d unit that lives, in legacy mode with one device, for the tests; and the software that drives it."""

from __future__ import annotations

from enum import IntEnum

from harness.model.access import Access, AccessKind, Fault, Outcome
from harness.model.memory import Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.unit import Coverage, Readout
from harness.model.vtd import ExtendedCapabilities, SecondStageFormat, VtdRegisters, VtdTables
from harness.model.vtd.faults import VtdFaultRecord
from harness.model.vtd.invalidation.descriptors import DescriptorType, Granularity, build_descriptor
from harness.model.vtd.register_layouts import CAP_REG
from harness.model.vtd.registers import capabilities
from harness.model.vtd.unit import VtdUnit

__all__ = ["DOMAIN", "IOVA", "OUTPUT", "QUEUE", "RID", "SRTP", "TE", "Alive", "Offset"]

RID, DOMAIN = 0x0128, 7
IOVA, OUTPUT, QUEUE = 0x40_0000, 0x80_0000, 0x10_0000
TE, SRTP, QIE = 1 << 31, 1 << 30, 1 << 26
_HOST_WIDTH = 46
_RECORDS = 0x220


class Offset(IntEnum):
    """Where registers are (VT-d 11.4); of the last ones the capabilities say so."""

    VER = 0x00
    CAP = 0x08
    ECAP = 0x10
    GCMD = 0x18
    GSTS = 0x1C
    RTADDR = 0x20
    CCMD = 0x28
    FSTS = 0x34
    FECTL = 0x38
    FEDATA = 0x3C
    FEADDR = 0x40
    FEUADDR = 0x44
    PMEN = 0x64
    PLMBASE = 0x68
    PLMLIMIT = 0x6C
    IQH = 0x80
    IQT = 0x88
    IQA = 0x90
    ICS = 0x9C
    IECTL = 0xA0
    IRTA = 0xB8
    PQA = 0xD0
    IVA = 0x100
    IOTLB = 0x108
    FRCD = _RECORDS


class Alive:
    """A unit with tables for RID that map IOVA to OUTPUT, and as many fault records as are asked for.

    Args:
        records: fault recording registers.
        compresses: see `VtdUnit`.
        on: whether translation is turned on.
        protects: whether there are protected memory regions.
    """

    def __init__(self, records: int = 2, *, compresses: bool = False, on: bool = True, protects: bool = True) -> None:
        self.memory = SparseMemory((Region(0, 0x100_0000),))
        self.tables = VtdTables(self.memory, 0x1000)
        self.table = RadixTable(self.tables.pages, SecondStageFormat(), 3)
        self.table.map(IOVA, OUTPUT, 0x1000)
        self.tables.attach(RID, DOMAIN, 3, table=self.table)
        cap = capabilities(protected_memory=protects, max_address_mask=18, fault_recording_registers=records)
        extended = ExtendedCapabilities(
            queued_invalidation=True,
            interrupt_remapping=True,
            extended_interrupts=True,
            page_requests=True,
            iotlb_registers=Offset.IVA,
        )
        self.registers = VtdRegisters(
            rtaddr=0,
            cap=cap | CAP_REG.encode({"FRO": _RECORDS // 16}),
            ecap=extended.encode(),
            gsts=0,
            ver=0x10,
            fectl=1 << 31,
            host_address_width=_HOST_WIDTH,
        )
        self.coverage = Coverage()
        self.unit = VtdUnit(self.registers, self.memory, coverage=self.coverage, compresses=compresses)
        self.tail = 0
        self.enabled = 0
        if on:
            self.turn_on()

    def turn_on(self) -> None:
        """Set the root table, drop what caches hold, and translate."""
        self.write(Offset.RTADDR, self.tables.root)
        self.command(SRTP)
        self.invalidate_all()
        self.enable(TE)

    def command(self, bits: int) -> None:
        """Give a command beside what is enabled."""
        self.write(Offset.GCMD, self.enabled | bits, 4)

    def enable(self, bits: int) -> None:
        """Enable something for good."""
        self.enabled |= bits
        self.command(0)

    def invalidate_all(self) -> None:
        """Everything, through registers."""
        self.write(Offset.CCMD, 1 << 63 | Granularity.GLOBAL << 61)
        self.write(Offset.IOTLB, 1 << 63 | Granularity.GLOBAL << 60)

    def use_queue(self) -> None:
        """Enable queued invalidation, with the queue at QUEUE."""
        self.write(Offset.IQA, QUEUE)
        self.enable(QIE)

    def submit(self, kind: DescriptorType, **fields: int) -> None:
        """Put a descriptor on the queue, and move the tail."""
        data = build_descriptor(kind, fields).to_bytes(32, "little")[:16]
        self.unit.store(QUEUE + self.tail, data)
        self.tail += 16
        self.write(Offset.IQT, self.tail)

    def write(self, offset: int, value: int, size: int = 8) -> None:
        """Write a register."""
        self.unit.write(offset, size, value)

    def read(self, offset: int, size: int = 8) -> int:
        """What is known of a register."""
        return self.look(offset, size).value

    def look(self, offset: int, size: int = 8) -> Readout:
        """What a register reads as."""
        return self.unit.read(offset, size)

    def dma(self, iova: int = IOVA, kind: AccessKind = AccessKind.READ, *, requester: int = RID) -> Outcome:
        """A request whose first outcome comes to pass."""
        access = Access(requester=requester, iova=iova, length=4, kind=kind)
        outcome = self.unit.outcomes(access)[0]
        self.unit.settle(access, outcome)
        return outcome

    def outcomes(self, iova: int = IOVA) -> set[str]:
        """The classes of what may become of a read."""
        access = Access(requester=RID, iova=iova, length=4, kind=AccessKind.READ)
        return {type(outcome).__name__ for outcome in self.unit.outcomes(access)}

    def record(self, index: int = 0) -> VtdFaultRecord | None:
        """A fault record; None where F is clear."""
        at = Offset.FRCD + 16 * index
        return VtdFaultRecord.decode(self.read(at + 8) << 64 | self.read(at))

    def fail(self, requester: int = RID) -> VtdFaultRecord:
        """A request to where nothing is mapped, and what is recorded of it."""
        outcome = self.dma(IOVA + 0x1000, requester=requester)
        assert isinstance(outcome, Fault)
        assert isinstance(outcome.record, VtdFaultRecord)
        return outcome.record
