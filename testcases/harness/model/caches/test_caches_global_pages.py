"""Global pages of one device, which others of the same VMID may find under their own ASIDs (SMMUv3; DDI 0487 D8)."""

from __future__ import annotations

from dataclasses import dataclass, field

from cache_rigs import FRAME, OTHER_FRAME, PAGE, RAM, RID, RW, target

from harness.model.access import Access, AccessKind, Permissions
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.policies import SMMUV3
from harness.model.memory import Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.smmuv3 import Smmuv3ContextTable, Smmuv3Engine, Smmuv3Registers, Smmuv3Tables, Stage1Format
from harness.model.smmuv3.capabilities import capabilities
from harness.model.smmuv3.registers import CR0

OWN, SECOND, THIRD = RID, RID + 1, RID + 2


@dataclass
class Unit:
    """Three devices, each with an ASID and a table of its own; the first has `PAGE` at `FRAME`, for itself alone."""

    memory: SparseMemory = field(default_factory=lambda: SparseMemory((Region(0, RAM),)))
    tables: dict[int, RadixTable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        streams = Smmuv3Tables(self.memory, 0x1_0000)
        for device in (OWN, SECOND, THIRD):
            entries = Stage1Format(12)
            self.tables[device] = RadixTable(streams.pages, entries, entries.levels)
            contexts = Smmuv3ContextTable(streams.pages)
            contexts.describe(0, self.tables[device], asid=device)
            streams.attach(device, contexts, None)
        self.registers = Smmuv3Registers(
            capabilities=capabilities(),
            cr0=CR0.encode({"SMMUEN": 1, "CMDQEN": 1}),
            strtab_base=streams.strtab_base,
            strtab_base_cfg=streams.strtab_base_cfg,
        )
        self.map(OWN, FRAME)

    def map(self, device: int, frame: int, rights: Permissions = RW, *, is_global: bool = False) -> None:
        """Map `PAGE` for a device."""
        self.tables[device].map(PAGE, frame, 0x1000, rights, overrides={"NG": int(not is_global)})

    def start(self) -> CacheModel[Smmuv3Registers]:
        """What caches may hold from now on."""
        sources = [(device, None) for device in self.tables]
        return CacheModel(Smmuv3Engine, self.registers, self.memory, SMMUV3, sources=sources)


def targets(model: CacheModel[Smmuv3Registers], kind: AccessKind = AccessKind.READ) -> set[int | None]:
    """Where the first device may come to; None for a fault."""
    return {target(each) for each in model.allowed(Access(requester=OWN, iova=PAGE, length=1, kind=kind))}


def test_a_page_that_becomes_global_is_found_though_it_was_asked_for_before() -> None:
    unit = Unit()
    unit.map(SECOND, OTHER_FRAME)
    model = unit.start()
    assert targets(model) == targets(model) == {FRAME}
    entry = unit.tables[SECOND].entry_address(PAGE, 1)
    model.memory.write_u64(entry, unit.memory.read_u64(entry) & ~(1 << 11))  # nG
    assert targets(model) == {FRAME, OTHER_FRAME}


def test_of_two_other_devices_each_is_asked_for_its_own_page() -> None:
    unit = Unit()
    unit.map(SECOND, OTHER_FRAME)
    unit.map(THIRD, OTHER_FRAME + 0x1000, is_global=True)
    assert targets(unit.start()) == {FRAME, OTHER_FRAME + 0x1000}


def test_a_global_page_that_does_not_allow_an_access_may_block_it() -> None:
    unit = Unit()
    unit.map(SECOND, OTHER_FRAME, Permissions.READ, is_global=True)
    assert targets(unit.start(), AccessKind.WRITE) == {FRAME, None}
