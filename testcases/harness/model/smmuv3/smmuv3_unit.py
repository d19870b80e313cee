"""An SMMU for tests, with one stream and one page, in each configuration of stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.model.access import Access, AccessKind, AddressType, Fault, Outcome
from harness.model.memory import OffsetMemory, Region, SparseMemory
from harness.model.radix import PageAllocator, RadixTable
from harness.model.smmuv3 import (
    Smmuv3ContextTable,
    Smmuv3Engine,
    Smmuv3Event,
    Smmuv3Registers,
    Smmuv3Tables,
    Stage1Format,
    Stage2Format,
)
from harness.model.smmuv3.capabilities import Smmuv3Capabilities, capabilities
from harness.model.smmuv3.registers import CR0

SID = 0x28
ASID, VMID = 0x51, 0x61
IOVA = 0x40_0000
OUTPUT = 0x8000_0000
IPA = 0x4000_0000
NOWHERE = 0x2_0000_0000
RAM = 0x400_0000
# Behind stage 2, CDs and stage 1 tables have these IPAs, and lie so much higher in memory.
TABLES_IPA, TABLES_SIZE, MOVED = 0x100_0000, 0x100_0000, 0x100_0000
ENABLED = CR0.encode({"SMMUEN": 1, "EVENTQEN": 1, "CMDQEN": 1})
ATSCHK = CR0["ATSCHK"].mask
READ, WRITE, EXECUTE = AccessKind.READ, AccessKind.WRITE, AccessKind.EXECUTE


@dataclass
class Unit:
    """An SMMU whose stream SID maps a page of the smallest size at IOVA to OUTPUT, through the stages asked for.

    Attributes:
        stages: "" for bypass, "1", "2" or "12".
        granule: log2, of stage 1.
        granule2: log2, of stage 2.
        substream_bits: S1CDMax.
        context_format: S1Fmt.
        split: of the stream table.
    """

    stages: str = "1"
    granule: int = 12
    granule2: int = 12
    substream_bits: int = 0
    context_format: int = 0
    split: int | None = None
    caps: dict[str, Any] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory = SparseMemory((Region(0, RAM),))
        self.tables = Smmuv3Tables(self.memory, 0x10_0000, split=self.split)
        self.pages = self.tables.pages
        nested = self.stages == "12"
        self.stage2: RadixTable | None = None
        if "2" in self.stages:
            levels = {12: 3, 14: 3, 16: 2}[self.granule2]
            self.stage2 = RadixTable(self.pages, Stage2Format(self.granule2, input_bits=40), levels)
            self.stage2.map(IPA if nested else IOVA, OUTPUT, 1 << self.granule2)
        if nested:
            assert self.stage2 is not None
            self.stage2.map(TABLES_IPA, TABLES_IPA + MOVED, TABLES_SIZE)
            self.pages = PageAllocator(OffsetMemory(self.memory, MOVED), TABLES_IPA)
        self.contexts: Smmuv3ContextTable | None = None
        self.stage1: RadixTable | None = None
        if "1" in self.stages:
            entries = Stage1Format(self.granule)
            self.stage1 = RadixTable(self.pages, entries, entries.levels)
            self.stage1.map(IOVA, IPA if nested else OUTPUT, 1 << self.granule)
            self.contexts = Smmuv3ContextTable(self.pages, self.substream_bits, self.context_format)
            self.contexts.describe(0, self.stage1, asid=ASID)
        self.tables.attach(SID, self.contexts, self.stage2, vmid=VMID)

    @property
    def cd(self) -> Smmuv3ContextTable:
        assert self.contexts is not None
        return self.contexts

    @property
    def tree(self) -> RadixTable:
        """The stage 1 table, or the only one."""
        table = self.stage1 or self.stage2
        assert table is not None
        return table

    @property
    def outer(self) -> RadixTable:
        assert self.stage2 is not None
        return self.stage2

    def capabilities(self) -> Smmuv3Capabilities:
        return capabilities(**self.caps)

    def all_registers(self) -> Smmuv3Registers:
        values = {
            "cr0": ENABLED,
            "strtab_base": self.tables.strtab_base,
            "strtab_base_cfg": self.tables.strtab_base_cfg,
            **self.registers,
        }
        return Smmuv3Registers(capabilities=self.capabilities(), **values)

    def engine(self) -> Smmuv3Engine:
        return Smmuv3Engine(self.all_registers(), self.memory)

    def access(
        self,
        kind: AccessKind = READ,
        *,
        iova: int = IOVA,
        length: int = 4,
        requester: int = SID,
        pasid: int | None = None,
        privileged: bool = False,
        address_type: AddressType = AddressType.UNTRANSLATED,
    ) -> Outcome:
        """The outcome, which `explain` must have as well."""
        access = Access(
            requester=requester,
            iova=iova,
            length=length,
            kind=kind,
            pasid=pasid,
            privileged=privileged,
            address_type=address_type,
        )
        engine = self.engine()
        outcome = engine.translate(access)
        assert engine.explain(access).outcome == outcome
        return outcome


def record_of(outcome: object) -> Smmuv3Event:
    """The event of a fault that is recorded, through its bytes and back."""
    assert isinstance(outcome, Fault), outcome
    record = outcome.record
    assert isinstance(record, Smmuv3Event), outcome
    assert Smmuv3Event.decode(record.encode()) == record
    return record
