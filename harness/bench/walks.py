"""The engines and formats that `viommu bench model` measures, each with tables made by its builders."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from harness.bench.workloads import (
    INTERRUPTS,
    PAGES,
    REQUESTER,
    TABLES,
    Interrupts,
    Judging,
    Walks,
    map_dense,
    map_guest,
    map_pages,
    ram,
)
from harness.model.amdvi import AmdviEngine, AmdviRegisters, AmdviTables, Gcr3Table
from harness.model.amdvi.register_fields import CONTROL
from harness.model.amdvi.registers import extended_features
from harness.model.caches.policies import AMDVI, RISCV, SMMUV3, VTD_LEGACY, VTD_SCALABLE
from harness.model.caches.policy import CachePolicy
from harness.model.memory import MappedMemory
from harness.model.radix import RadixTable
from harness.model.riscv import RiscvIommuEngine, RiscvIommuRegisters, RiscvIommuTables
from harness.model.riscv.registers import capabilities as riscv_capabilities
from harness.model.smmuv3 import (
    Smmuv3ContextTable,
    Smmuv3Engine,
    Smmuv3Registers,
    Smmuv3Tables,
    Stage1Format,
    Stage2Format,
)
from harness.model.smmuv3.capabilities import capabilities as smmuv3_capabilities
from harness.model.smmuv3.registers import CR0
from harness.model.virtio_iommu import Attach, Map, VirtioIommuConfig, VirtioIommuEngine
from harness.model.vtd import (
    ExtendedCapabilities,
    FirstStageFormat,
    SecondStageFormat,
    VtdEngine,
    VtdRegisters,
    VtdScalableTables,
    VtdTables,
)
from harness.model.vtd.interrupts.tables import InterruptTable, remappable_message
from harness.model.vtd.register_layouts import GSTS_REG, RTADDR_REG
from harness.model.vtd.registers import TranslationTableMode
from harness.model.vtd.registers import capabilities as vtd_capabilities

__all__ = ["dense_vtd", "every_interrupt", "every_judging", "every_walk"]

_4K, _2M, _1G = 1 << 12, 1 << 21, 1 << 30
_PASID = 5
_RECORDS = 0x1000  # below the tables: where interrupts are posted
_FILES, _REAL_FILES = 0x4000_0000, 0x2800_0000  # interrupt files as a RISC-V guest has them, and real ones
_ECAP = ExtendedCapabilities(
    queued_invalidation=True, scalable_mode=True, first_stage=True, second_stage=True, nested=True, walk_coherency=True
)


def every_walk() -> Iterator[Walks]:
    """Every engine and format."""
    for levels, page, name in ((3, _4K, "4k"), (4, _4K, "4k"), (5, _4K, "4k"), (4, _2M, "2m"), (4, _1G, "1g")):
        yield Walks(f"vtd_legacy_{levels}_level_{name}", partial(_vtd_legacy, levels, page), page)
    for stages, levels in (("second_stage", 4), ("first_stage", 4), ("first_stage", 5), ("nested", 4)):
        yield Walks(f"vtd_scalable_{stages}_{levels}_level_4k", partial(_vtd_scalable, stages, levels))
    for levels in (3, 4, 5, 6):
        yield Walks(f"amdvi_v1_{levels}_level_4k", partial(_amdvi_host, levels))
    for stages, levels in (("v2", 4), ("v2", 5), ("nested", 4)):
        make = partial(_amdvi_guest, levels, nested=stages == "nested")
        yield Walks(f"amdvi_{stages}_{levels}_level_4k", make, pasid=_PASID)
    for granule, name in ((12, "4k"), (14, "16k"), (16, "64k")):
        for stages in ("stage_1", "stage_2", "nested"):
            yield Walks(f"smmuv3_{stages}_{name}", partial(_smmuv3, stages, granule), 1 << granule)
    for scheme in ("Sv39", "Sv48", "Sv57"):
        for stages in ("first_stage", "second_stage", "two_stage"):
            yield Walks(f"riscv_{stages}_{scheme.lower()}_4k", partial(_riscv, stages, scheme))
    yield Walks("virtio_iommu_4k", _virtio_iommu)


def every_judging() -> Iterator[Judging]:
    """A format of each architecture, and one of two stages; names and tables are those of `every_walk`."""
    policies: dict[str, CachePolicy[Any]] = {
        "vtd_legacy_4_level_4k": VTD_LEGACY,
        "vtd_scalable_first_stage_4_level_4k": VTD_SCALABLE,
        "vtd_scalable_nested_4_level_4k": VTD_SCALABLE,
        "amdvi_v1_4_level_4k": AMDVI,
        "smmuv3_stage_1_4k": SMMUV3,
        "riscv_first_stage_sv39_4k": RISCV,
    }
    for walks in every_walk():
        if walks.name in policies:
            yield Judging(walks, policies[walks.name])


def every_interrupt() -> Iterator[Interrupts]:
    """Every format of entries that remap interrupts."""
    remappable = [remappable_message(index) for index in range(INTERRUPTS)]
    yield Interrupts("vtd_remapped", partial(_vtd_interrupts, posted=False), remappable)
    yield Interrupts("vtd_posted", partial(_vtd_interrupts, posted=True), remappable)
    indexes = [(0xFEE0_0000, index) for index in range(INTERRUPTS)]
    yield Interrupts("amdvi_remapped_32_bit", partial(_amdvi_interrupts, wide=False), indexes)
    yield Interrupts("amdvi_remapped_128_bit", partial(_amdvi_interrupts, wide=True), indexes)
    files = [(_FILES + number * _4K, 1 + number % 200) for number in range(INTERRUPTS)]
    yield Interrupts("riscv_remapped", partial(_riscv_interrupts, resident=False), files)
    yield Interrupts("riscv_resident", partial(_riscv_interrupts, resident=True), files)


def dense_vtd(count: int) -> VtdEngine:
    """A VT-d unit in legacy mode, whose four levels of tables map `count` pages of 4 KiB from 0 on."""
    memory = ram((count // 512 + count // 512**2 + 64) * _4K + TABLES)
    tables = VtdTables(memory, TABLES)
    map_dense(tables.attach(REQUESTER, 1, 4), count)
    return _vtd_engine(memory, tables.root)


def _map_stages(first: RadixTable | None, second: RadixTable | None, page: int = _4K) -> None:
    match first, second:
        case RadixTable(), RadixTable():
            map_guest(first, second, page)
        case (RadixTable() as only, None) | (None, RadixTable() as only):
            map_pages(only, page)


def _vtd_engine(memory: MappedMemory, root: int, mode: TranslationTableMode = TranslationTableMode.LEGACY) -> VtdEngine:
    rtaddr = RTADDR_REG.encode({"RTA": root, "TTM": mode})
    gsts = GSTS_REG["TES"].mask
    return VtdEngine(VtdRegisters(rtaddr=rtaddr, cap=vtd_capabilities(), ecap=_ECAP.encode(), gsts=gsts), memory)


def _vtd_legacy(levels: int, page: int) -> VtdEngine:
    memory = ram()
    tables = VtdTables(memory, TABLES)
    map_pages(tables.attach(REQUESTER, 1, levels), page)
    return _vtd_engine(memory, tables.root)


def _vtd_scalable(stages: str, levels: int) -> VtdEngine:
    memory = ram()
    tables = VtdScalableTables(memory, TABLES)
    tables.attach(REQUESTER)
    first = RadixTable(tables.pages, FirstStageFormat(), levels) if stages != "second_stage" else None
    second = RadixTable(tables.pages, SecondStageFormat(), levels) if stages != "first_stage" else None
    _map_stages(first, second)
    tables.attach_pasid(REQUESTER, 1, first_stage=first, second_stage=second)
    return _vtd_engine(memory, tables.root, TranslationTableMode.SCALABLE)


def _vtd_interrupts(*, posted: bool) -> VtdEngine:
    memory = ram()
    table = InterruptTable(memory, TABLES, INTERRUPTS)
    for index in range(INTERRUPTS):
        if posted:
            table.write_descriptor(_RECORDS + 64 * index, vector=0x42, destination=1)
            table.post(index, vector=0x41, descriptor=_RECORDS + 64 * index, requester=REQUESTER)
        else:
            table.remap(index, vector=0x41, destination=1, requester=REQUESTER)
    cap, gsts = vtd_capabilities(posted_interrupts=True), GSTS_REG["IRES"].mask
    return VtdEngine(VtdRegisters(rtaddr=0, cap=cap, ecap=_ECAP.encode(), gsts=gsts, irta=table.irta), memory)


def _amdvi_engine(memory: MappedMemory, tables: AmdviTables, **control: int) -> AmdviEngine:
    registers = AmdviRegisters(
        device_table_base=tables.device_table_base,
        extended_feature=extended_features(),
        control=CONTROL.encode({"IommuEn": 1, "GTEn": 1, **control}),
    )
    return AmdviEngine(registers, memory)


def _amdvi_host(levels: int) -> AmdviEngine:
    memory = ram()
    tables = AmdviTables(memory, TABLES)
    map_pages(tables.attach(REQUESTER, 1, levels))
    return _amdvi_engine(memory, tables)


def _amdvi_guest(levels: int, *, nested: bool) -> AmdviEngine:
    memory = ram()
    tables = AmdviTables(memory, TABLES)
    gcr3 = Gcr3Table(tables.pages)
    host = tables.attach(REQUESTER, 1, levels) if nested else None
    _map_stages(gcr3.add(_PASID, levels), host)
    tables.attach_guest(REQUESTER, 1, gcr3, levels=levels, host=host)
    return _amdvi_engine(memory, tables)


def _amdvi_interrupts(*, wide: bool) -> AmdviEngine:
    memory = ram()
    tables = AmdviTables(memory, TABLES)
    tables.attach(REQUESTER, 1)
    table = tables.attach_interrupts(REQUESTER, INTERRUPTS.bit_length() - 1, wide=wide)
    for index in range(INTERRUPTS):
        table.set(index, {"Vector": 0x41, "Destination": 1})
    return _amdvi_engine(memory, tables, GAEn=int(wide))


def _smmuv3(stages: str, granule: int) -> Smmuv3Engine:
    memory = ram()
    tables = Smmuv3Tables(memory, TABLES)
    first = second = contexts = None
    if stages != "stage_1":
        second = RadixTable(tables.pages, Stage2Format(granule, input_bits=40), 2 if granule == 16 else 3)
    if stages != "stage_2":
        entries = Stage1Format(granule)
        first = RadixTable(tables.pages, entries, entries.levels)
        contexts = Smmuv3ContextTable(tables.pages)
        contexts.describe(0, first)
    _map_stages(first, second, 1 << granule)
    tables.attach(REQUESTER, contexts, second)
    registers = Smmuv3Registers(
        capabilities=smmuv3_capabilities(),
        cr0=CR0["SMMUEN"].mask,
        strtab_base=tables.strtab_base,
        strtab_base_cfg=tables.strtab_base_cfg,
    )
    return Smmuv3Engine(registers, memory)


def _riscv_engine(memory: MappedMemory, tables: RiscvIommuTables) -> RiscvIommuEngine:
    return RiscvIommuEngine(RiscvIommuRegisters(capabilities=riscv_capabilities(), ddtp=tables.ddtp), memory)


def _riscv(stages: str, scheme: str) -> RiscvIommuEngine:
    memory = ram()
    tables = RiscvIommuTables(memory, TABLES)
    first = tables.new_page_table(scheme) if stages != "second_stage" else None
    second = tables.new_page_table(f"{scheme}x4") if stages != "first_stage" else None
    _map_stages(first, second)
    tables.attach(REQUESTER, first=first, second=second)
    return _riscv_engine(memory, tables)


def _riscv_interrupts(*, resident: bool) -> RiscvIommuEngine:
    memory = ram()
    tables = RiscvIommuTables(memory, TABLES)
    tables.attach(REQUESTER, second=tables.new_page_table("Sv48x4"))
    tables.set_interrupt_files(REQUESTER, INTERRUPTS - 1, _FILES >> 12)
    for number in range(INTERRUPTS):
        if resident:
            tables.set_resident_interrupt_file(REQUESTER, number, _RECORDS + 512 * number, _REAL_FILES, 5)
        else:
            tables.set_interrupt_file(REQUESTER, number, _REAL_FILES + number * _4K)
    return _riscv_engine(memory, tables)


def _virtio_iommu() -> VirtioIommuEngine:
    engine = VirtioIommuEngine(VirtioIommuConfig(endpoints={REQUESTER: ()}))
    engine.submit(Attach(domain=1, endpoint=REQUESTER))
    for start in range(0, PAGES * _4K, _4K):
        engine.submit(Map(domain=1, virt_start=start, virt_end=start + _4K - 1, phys_start=_1G + start, flags=3))
    return engine
