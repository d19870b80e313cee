"""A scalable-mode unit with one requester, for the tests: tables of either stage, and requests to put to them."""

from __future__ import annotations

from dataclasses import replace

from harness.model.access import Access, AccessKind, AddressType, Outcome
from harness.model.memory import Region, SparseMemory
from harness.model.radix import PageAllocator, RadixTable
from harness.model.vtd import (
    ExtendedCapabilities,
    FirstStageFormat,
    SecondStageFormat,
    VtdEngine,
    VtdRegisters,
    VtdScalableTables,
)
from harness.model.vtd.registers import capabilities

__all__ = ["EVERYTHING", "HAW", "IOVA", "NOWHERE", "OUTPUT", "PASID", "RAM", "RID", "TES", "Unit"]

RID = 0x0128
PASID = 0x45
IOVA = 0x40_0000
OUTPUT = 0x8000_0000
RAM = 0x200_0000
NOWHERE = 0x7000_0000
HAW = 46
TES = 1 << 31
_SCALABLE = 1 << 10

EVERYTHING = ExtendedCapabilities(
    queued_invalidation=True,
    device_tlbs=True,
    pass_through=True,
    snoop_control=True,
    memory_types=True,
    nested=True,
    page_requests=True,
    supervisor_requests=True,
    no_write_flag=True,
    extended_accessed=True,
    pasid=True,
    scalable_mode=True,
    second_stage_flags=True,
    second_stage=True,
    first_stage=True,
    walk_coherency=True,
    rid_pasid=True,
    abort_mode=True,
    rid_privilege=True,
    host_permissions=True,
    translated_with_pasid=True,
    io_permissions=True,
    host_permission_1g_pages=True,
    pasid_width=20,
)


class Unit:
    """A unit in scalable mode. RID has PASIDs, a device TLB, and an entry for requests without PASID.

    Args:
        stages: "first", "second", "nested" or "" (pass-through) for the entry of requests without PASID.
        levels: of the tables.
        overrides: fields of that entry.
    """

    def __init__(self, stages: str = "", levels: int = 4, **overrides: int) -> None:
        self.memory = SparseMemory((Region(0, RAM),))
        self.tables = VtdScalableTables(self.memory, 0x1000)
        self.tables.attach(RID, pasid=True, device_tlb=True)
        self.capabilities = EVERYTHING
        self.cap = capabilities()
        self.gsts = TES
        self.rtaddr = self.tables.root | _SCALABLE
        self.ver = 0x40
        self.width = HAW
        self.read_only: tuple[Region, ...] = ()
        self.first = RadixTable(self.tables.pages, FirstStageFormat(), max(levels, 4), sign_extended=True)
        self.second = RadixTable(self.tables.pages, SecondStageFormat(), levels)
        if stages == "nested":
            # The tables of the first stage are where they are: the second stage maps them to themselves.
            self.first.map(IOVA, 0x180_0000, 0x1000)
            self.second.map(0, 0, 0x100_0000)
            self.second.map(0x180_0000, OUTPUT, 0x1000)
        else:
            self.first.map(IOVA, OUTPUT, 0x1000)
            self.second.map(IOVA, OUTPUT, 0x1000)
        self.attach(stages, **overrides)

    def attach(self, stages: str, pasid: int | None = None, **overrides: int) -> None:
        """Give a PASID (RID_PASID when left out) an entry with these stages."""
        self.tables.attach_pasid(
            RID,
            7,
            pasid=pasid,
            first_stage=self.first if stages in ("first", "nested") else None,
            second_stage=self.second if stages in ("second", "nested") else None,
            overrides=overrides,
        )

    def lacks(self, *names: str) -> None:
        """Take capabilities away."""
        self.capabilities = replace(self.capabilities, **dict.fromkeys(names, False))

    @property
    def engine(self) -> VtdEngine:
        registers = VtdRegisters(
            rtaddr=self.rtaddr,
            cap=self.cap,
            ecap=self.capabilities.encode(),
            gsts=self.gsts,
            ver=self.ver,
            host_address_width=self.width,
        )
        return VtdEngine(registers, self.memory, read_only=self.read_only)

    def access(
        self,
        kind: AccessKind = AccessKind.READ,
        *,
        iova: int = IOVA,
        length: int = 4,
        pasid: int | None = None,
        privileged: bool = False,
        address_type: AddressType = AddressType.UNTRANSLATED,
        requester: int = RID,
    ) -> Outcome:
        """What becomes of a request; the explanation of it has to end in the same."""
        access = Access(
            requester=requester,
            iova=iova,
            length=length,
            kind=kind,
            pasid=pasid,
            privileged=privileged,
            address_type=address_type,
        )
        outcome = self.engine.translate(access)
        assert self.engine.explain(access).outcome == outcome
        return outcome

    def ask(self, kind: AccessKind = AccessKind.WRITE, *, iova: int = IOVA, pasid: int | None = None) -> Outcome:
        """A translation request: a read has the NW flag set."""
        return self.access(kind, iova=iova, pasid=pasid, address_type=AddressType.TRANSLATION_REQUEST)

    def new_table(self, levels: int, *, second: bool = False) -> RadixTable:
        """Another table."""
        pages: PageAllocator = self.tables.pages
        return RadixTable(
            pages, SecondStageFormat() if second else FirstStageFormat(), levels, sign_extended=not second
        )
