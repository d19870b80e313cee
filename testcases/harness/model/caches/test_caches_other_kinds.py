"""What else is cached: interrupt entries, translations in devices (ATS), nothing at all; and where the model ends."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from cache_rigs import DOMAIN, FRAME, NEW_FRAME, OTHER_DOMAIN, OTHER_FRAME, PAGE, PASID, RID, RIGS, read, vtd_registers

from harness.errors import SpecError
from harness.model.access import (
    Access,
    AccessKind,
    AddressType,
    Attributes,
    Fault,
    MemoryWrite,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.amdvi import AmdviEngine, AmdviOpcode, AmdviRegisters, AmdviTables, make_command
from harness.model.amdvi.register_fields import CONTROL
from harness.model.amdvi.registers import extended_features
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.policies import AMDVI, RISCV, VIRTIO_IOMMU, VTD_LEGACY, VTD_SCALABLE, vtd_policy
from harness.model.caches.staleness import ALLOWED, NotAllowed, TooManyWalks, Undecided
from harness.model.engine import Interrupt, MsiWrite
from harness.model.memory import Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.riscv import RiscvIommuEngine, RiscvIommuRegisters, RiscvIommuTables
from harness.model.riscv.registers import capabilities as riscv_capabilities
from harness.model.virtio_iommu import (
    Attach,
    Features,
    Map,
    MapFlags,
    Unmap,
    VirtioIommuConfig,
    VirtioIommuEngine,
)
from harness.model.vtd import SecondStageFormat, VtdEngine, VtdFaultReason, VtdRegisters, VtdTables
from harness.model.vtd.context import TranslationType
from harness.model.vtd.interrupts.tables import InterruptTable, remappable_message
from harness.model.vtd.invalidation.descriptors import DescriptorType, Granularity, build_descriptor
from harness.model.vtd.register_layouts import CAP_REG, GSTS_REG

RW = Permissions.READ | Permissions.WRITE


def descriptor(kind: DescriptorType, **fields: int) -> int:
    return build_descriptor(kind, fields)


def invalidate(model: CacheModel[VtdRegisters], kind: DescriptorType, **fields: int) -> None:
    model.invalidate(model.engine.submit(descriptor(kind, **fields)).invalidations)


# --- interrupt entry cache, VT-d 6.5.2.8 ---


def message(index: int = 0) -> MsiWrite:
    address, data = remappable_message(index)
    return MsiWrite(requester=RID, address=address, data=data)


def remapping(*, caching_mode: bool = False) -> tuple[CacheModel[VtdRegisters], InterruptTable]:
    """A unit whose interrupt 0 is remapped to vector 0x41, its model, and its table as the driver writes it."""
    memory = SparseMemory((Region(0, 1 << 24),))
    table = InterruptTable(memory, 0x1000)
    table.remap(0, vector=0x41, destination=1, requester=RID)
    base = vtd_registers(0)
    cap = base.cap | CAP_REG.encode({"CM": int(caching_mode)})
    registers = replace(base, irta=table.irta, gsts=GSTS_REG.encode({"IRES": 1}), cap=cap)
    model = CacheModel(VtdEngine, registers, memory, VTD_LEGACY, interrupts=True)
    return model, InterruptTable(model.memory, 0x1000)


def vectors(model: CacheModel[VtdRegisters], index: int = 0) -> set[int | None]:
    """Vectors that an interrupt may have; None for a fault."""
    outcomes = model.interrupts(message(index))
    return {each.data & 0xFF if isinstance(each, Interrupt) else None for each in outcomes}


# A remapped message has its vector in the data.
_IEC = DescriptorType.INTERRUPT_ENTRY_CACHE


def test_an_interrupt_entry_that_was_changed_serves_until_it_is_invalidated() -> None:
    model, table = remapping()
    assert vectors(model) == {0x41}
    table.remap(0, vector=0x42, destination=1, requester=RID)
    assert vectors(model) == {0x41, 0x42}
    invalidate(model, _IEC, G=1, IIDX=1)
    assert vectors(model) == {0x41, 0x42}
    invalidate(model, DescriptorType.IOTLB, G=Granularity.GLOBAL)
    assert vectors(model) == {0x41, 0x42}
    invalidate(model, _IEC, G=1, IIDX=0)
    assert vectors(model) == {0x42}


def test_an_interrupt_entry_that_was_not_present_is_remembered_with_caching_mode_alone() -> None:
    for caching_mode in (False, True):
        model, table = remapping(caching_mode=caching_mode)
        table.remap(3, vector=0x50, destination=1)
        assert vectors(model, 3) == ({0x50, None} if caching_mode else {0x50})
        invalidate(model, _IEC, G=1, IIDX=3)
        assert vectors(model, 3) == {0x50}


def test_an_entry_that_refuses_a_requester_is_a_good_one_and_may_be_kept() -> None:
    model, table = remapping()
    table.remap(0, vector=0x41, destination=1, requester=RID + 8)
    invalidate(model, _IEC)
    table.remap(0, vector=0x41, destination=1, requester=RID)
    assert vectors(model) == {0x41, None}


def test_another_interrupt_table_counts_once_the_interrupt_entry_cache_is_invalidated() -> None:
    model, _ = remapping()
    other = InterruptTable(model.memory, 0x8000)
    other.remap(0, vector=0x61, destination=1, requester=RID)
    model.set_registers(replace(model.registers, irta=other.irta))
    assert vectors(model) == {0x41, 0x61}
    invalidate(model, _IEC)
    assert vectors(model) == {0x61}


def test_with_esirtps_a_new_interrupt_table_counts_at_once() -> None:
    model, _ = remapping()
    registers = replace(model.registers, cap=model.registers.cap | CAP_REG.encode({"ESIRTPS": 1}))
    model.set_registers(registers)
    other = InterruptTable(model.memory, 0x8000)
    other.remap(0, vector=0x61, destination=1, requester=RID)
    model.set_registers(replace(registers, irta=other.irta))
    assert vectors(model) == {0x61}


def test_with_esirtps_disabling_interrupt_remapping_drops_what_it_cached_11_4_4_1() -> None:
    for esirtps in (0, 1):
        model, table = remapping()
        on = replace(model.registers, cap=model.registers.cap | CAP_REG.encode({"ESIRTPS": esirtps}))
        model.set_registers(on)
        table.remap(0, vector=0x42, destination=1, requester=RID)
        model.set_registers(replace(on, gsts=0))
        model.set_registers(on)
        assert vectors(model) == ({0x42} if esirtps else {0x41, 0x42})


def test_interrupts_that_are_not_remapped_use_no_cache() -> None:
    model, table = remapping()
    table.remap(0, vector=0x42, destination=1, requester=RID)
    model.set_registers(replace(model.registers, gsts=GSTS_REG.encode({"CFIS": 1})))
    assert set(model.interrupts(message())) == {Interrupt(message().address, message().data, remapped=False)}


def test_a_model_without_interrupts_is_not_asked_about_them() -> None:
    with pytest.raises(SpecError, match="interrupts=True"):
        RIGS["vtd-legacy"]().model.interrupts(message())


def test_history_is_kept_for_interrupt_entries_until_they_are_invalidated_too() -> None:
    model, table = remapping()
    table.remap(0, vector=0x42, destination=1, requester=RID)
    invalidate(model, DescriptorType.CONTEXT_CACHE, G=Granularity.GLOBAL)
    invalidate(model, DescriptorType.IOTLB, G=Granularity.GLOBAL)
    assert vectors(model) == {0x41, 0x42}
    invalidate(model, _IEC)
    invalidate(model, DescriptorType.CONTEXT_CACHE, G=Granularity.GLOBAL)
    invalidate(model, DescriptorType.IOTLB, G=Granularity.GLOBAL)
    assert model.memory.is_empty


def test_an_amd_interrupt_table_entry_serves_until_the_table_of_that_device_is_invalidated() -> None:
    memory = SparseMemory((Region(0, 1 << 24),))
    tables = AmdviTables(memory, 0x1_0000, size=1)
    table = tables.attach_interrupts(RID)
    table.set(5, {"Vector": 0x41})
    registers = AmdviRegisters(
        device_table_base=tables.device_table_base,
        extended_feature=extended_features(),
        control=CONTROL.encode({"IommuEn": 1}),
    )
    model = CacheModel(AmdviEngine, registers, memory, AMDVI, interrupts=True)
    write = MsiWrite(requester=RID, address=0xFEE0_0000, data=5)
    (before,) = model.interrupts(write)
    replace(table, memory=model.memory).set(5, {"Vector": 0x42})
    (after,) = set(model.interrupts(write)) - {before}
    assert model.interrupts(write) == (after, before)
    for device in (RID + 1, RID):
        assert set(model.interrupts(write)) == {before, after}
        command = make_command(AmdviOpcode.INVALIDATE_INTERRUPT_TABLE, {"DeviceID": device})
        model.invalidate(model.engine.submit(command).invalidations)
    assert set(model.interrupts(write)) == {after}


def test_the_place_of_a_virtual_interrupt_file_is_remembered_until_its_guest_is_invalidated() -> None:
    rig = RIGS["riscv-second"]()
    file = 0x2800_0000
    tables = RiscvIommuTables(rig.memory, 0x100_0000, 1)
    tables.root = rig.registers.ddt_root
    tables.set_interrupt_files(RID, 0, file >> 12)
    tables.set_interrupt_file(RID, 0, FRAME)
    write = Access(requester=RID, iova=file, length=4, kind=AccessKind.WRITE)

    def places() -> set[int | None]:
        return {getattr(outcome, "address", None) for outcome in rig.model.allowed(write)}

    assert places() == {FRAME}
    rig.do(lambda: tables.set_interrupt_file(RID, 0, NEW_FRAME))
    assert places() == {FRAME, NEW_FRAME}
    # 3.8: MSI page tables go with the second stage.
    rig.invalidate("other gscid", "page of gscid", "devices")
    assert places() == {FRAME, NEW_FRAME}
    rig.invalidate("gscid")
    assert places() == {NEW_FRAME}


# --- device TLBs, VT-d 4, 6.5.2.5 ---


@pytest.fixture
def atc() -> tuple[CacheModel[VtdRegisters], RadixTable]:
    """A unit with a device that has a device TLB, and the table of the device."""
    memory = SparseMemory((Region(0, 1 << 26),))
    tables = VtdTables(memory, 0x1000)
    table = RadixTable(tables.pages, SecondStageFormat(), 3)
    table.map(PAGE, FRAME, 0x1000)
    tables.attach(RID, DOMAIN, 3, table=table, translation_type=TranslationType.SECOND_STAGE_DEVICE_TLB)
    registers = vtd_registers(tables.root)
    return CacheModel(VtdEngine, registers, memory, VTD_LEGACY, device_tlbs=[(RID, None)]), table


def in_device(model: CacheModel[VtdRegisters]) -> set[int]:
    return {outcome.address for outcome in model.device_may_hold(read())}


def put(model: CacheModel[VtdRegisters], table: RadixTable, frame: int | None) -> None:
    bits = 0 if frame is None else table.format.leaf_entry(frame, table.format.page_sizes[0], 0, RW)
    model.memory.write_u64(table.entry_address(PAGE, 1), bits)


def test_a_device_may_hold_what_the_iommu_has_dropped(atc: tuple[CacheModel[VtdRegisters], RadixTable]) -> None:
    model, table = atc
    assert in_device(model) == {FRAME}
    put(model, table, NEW_FRAME)
    invalidate(model, DescriptorType.IOTLB, G=Granularity.GLOBAL)
    assert {getattr(each, "address", None) for each in model.allowed(read())} == {NEW_FRAME}
    assert in_device(model) == {FRAME, NEW_FRAME}
    # Wrong: another device, another page.
    invalidate(model, DescriptorType.DEVICE_TLB, SID=RID + 8, ADDR=PAGE >> 12)
    invalidate(model, DescriptorType.DEVICE_TLB, SID=RID, ADDR=(PAGE >> 12) + 1)
    assert in_device(model) == {FRAME, NEW_FRAME}
    invalidate(model, DescriptorType.DEVICE_TLB, SID=RID, ADDR=PAGE >> 12)
    assert in_device(model) == {NEW_FRAME}


def test_a_device_tlb_that_is_told_before_the_iotlb_gets_the_old_translation_again(
    atc: tuple[CacheModel[VtdRegisters], RadixTable],
) -> None:
    model, table = atc
    put(model, table, None)
    invalidate(model, DescriptorType.DEVICE_TLB, SID=RID, ADDR=PAGE >> 12)
    invalidate(model, DescriptorType.IOTLB, G=Granularity.GLOBAL)
    assert in_device(model) == {FRAME}
    invalidate(model, DescriptorType.DEVICE_TLB, SID=RID, ADDR=PAGE >> 12)
    assert in_device(model) == set()


def test_history_is_kept_for_devices_until_they_are_told_of_everything(
    atc: tuple[CacheModel[VtdRegisters], RadixTable],
) -> None:
    model, table = atc
    put(model, table, None)
    invalidate(model, DescriptorType.CONTEXT_CACHE, G=Granularity.GLOBAL)
    invalidate(model, DescriptorType.IOTLB, G=Granularity.GLOBAL)
    assert not model.memory.is_empty
    invalidate(model, DescriptorType.DEVICE_TLB, SID=RID, S=1, ADDR=(1 << 51) - 1)
    assert model.memory.is_empty


def test_a_translated_request_is_let_in_by_a_context_that_was_changed_until_that_is_invalidated(
    atc: tuple[CacheModel[VtdRegisters], RadixTable],
) -> None:
    model, table = atc
    translated = replace(read(), iova=FRAME, address_type=AddressType.TRANSLATED)
    (let_in,) = model.allowed(translated)
    tables = VtdTables(model.memory, 0x100_0000)
    tables.root = model.registers.root_table
    tables.attach(RID, DOMAIN, 3, table=table)
    assert let_in in model.allowed(translated)
    assert len(model.allowed(translated)) == 2
    invalidate(model, DescriptorType.CONTEXT_CACHE, G=Granularity.SELECTIVE, DID=DOMAIN, SID=RID)
    (blocked,) = model.allowed(translated)
    assert isinstance(blocked, Fault)
    assert blocked.code is VtdFaultReason.TRANSLATION_TYPE_BLOCKS


def test_a_device_may_hold_translations_while_the_iommu_is_off(
    atc: tuple[CacheModel[VtdRegisters], RadixTable],
) -> None:
    model, _ = atc
    model.set_registers(replace(model.registers, gsts=0))
    assert in_device(model) == {FRAME}
    invalidate(model, DescriptorType.DEVICE_TLB, SID=RID, ADDR=PAGE >> 12)
    invalidate(model, DescriptorType.CONTEXT_CACHE, G=Granularity.GLOBAL)
    invalidate(model, DescriptorType.IOTLB, G=Granularity.GLOBAL)
    invalidate(model, DescriptorType.DEVICE_TLB, SID=RID, ADDR=PAGE >> 12)
    assert in_device(model) == set()


def test_a_device_that_was_not_named_is_not_asked_about() -> None:
    with pytest.raises(SpecError, match="device_tlbs"):
        RIGS["vtd-legacy"]().model.device_may_hold(read())


# --- virtio-iommu, 5.13.6.6.2 ---


def test_nothing_is_stale_once_a_virtio_request_is_answered() -> None:
    config = VirtioIommuConfig(endpoints={RID: ()}, offered=Features.MAP_UNMAP, page_size_mask=0x1000)
    engine = VirtioIommuEngine(config)
    model = CacheModel(lambda registers, memory: engine, config, SparseMemory(), VIRTIO_IOMMU)
    rights = MapFlags.READ | MapFlags.WRITE
    for request in (
        Attach(domain=1, endpoint=RID),
        Map(domain=1, virt_start=PAGE, virt_end=PAGE + 0xFFF, phys_start=FRAME, flags=rights),
    ):
        engine.submit(request)
    seen = engine.translate(read())
    assert model.allowed(read()) == {seen}
    engine.submit(Unmap(domain=1, virt_start=PAGE, virt_end=PAGE + 0xFFF))
    (fault,) = model.allowed(read())
    assert isinstance(fault, Fault)
    verdict = model.judge(read(), seen)
    assert isinstance(verdict, NotAllowed)
    assert [each.outcome for each in verdict.possible] == [fault]


# --- what is compared, and where the model ends ---


def test_flags_that_a_walk_sets_are_not_compared() -> None:
    rig = RIGS["amdvi-guest-pasid"]()
    rig.do(lambda: rig.table.set_fields(PAGE, 1, {"A": 0}))
    present = rig.model.engine.translate(rig.access)
    assert isinstance(present, Translated)
    assert present.writes
    assert rig.model.judge(rig.access, present) is ALLOWED
    # A cached translation sets none, and neither does an entry that has them: it is the same outcome.
    assert rig.model.allowed(rig.access) == {replace(present, writes=())}


def test_an_observer_that_sees_addresses_alone_compares_addresses() -> None:
    rig = RIGS["vtd-legacy"]()

    def same_place(one: Outcome, other: Outcome) -> bool:
        return getattr(one, "address", None) == getattr(other, "address", None)

    model = CacheModel(rig.engine_of, rig.registers, rig.memory, rig.policy, same=same_place)
    seen = Translated(FRAME, 1 << 30, Permissions.NONE, Attributes.NONE, (MemoryWrite(0, b""),))
    assert model.judge(rig.access, seen) is ALLOWED
    assert not model.judge(rig.access, replace(seen, address=NEW_FRAME))


def test_past_the_limit_of_walks_nothing_but_the_present_outcome_is_decided() -> None:
    rig = RIGS["vtd-legacy"]()
    model = CacheModel(rig.engine_of, rig.registers, rig.memory, rig.policy, walk_limit=3)
    before = model.engine.translate(rig.access)
    for frame in (NEW_FRAME, OTHER_FRAME):
        put(model, rig.table, frame)
    assert model.judge(rig.access, before)
    put(model, rig.table, None)
    verdict = model.judge(rig.access, before)
    assert isinstance(verdict, Undecided)
    assert "more than 3 ways" in str(verdict)
    with pytest.raises(TooManyWalks, match="begin anew"):
        bool(verdict)
    with pytest.raises(TooManyWalks):
        model.allowed(rig.access)
    assert model.judge(rig.access, model.engine.translate(rig.access)) is ALLOWED


def test_past_the_limit_of_history_nothing_but_the_present_outcome_is_decided_until_everything_is_invalidated() -> None:
    rig = RIGS["vtd-legacy"]()
    model = CacheModel(rig.engine_of, rig.registers, rig.memory, rig.policy, history_limit=16)
    before = model.engine.translate(rig.access)
    for number in range(40):
        put(model, rig.table, NEW_FRAME + 0x1000 * number)
    assert isinstance(model.judge(rig.access, before), Undecided)
    with pytest.raises(TooManyWalks, match="not known any more"):
        model.allowed(rig.access)
    invalidate(model, DescriptorType.CONTEXT_CACHE, G=Granularity.GLOBAL)
    assert isinstance(model.judge(rig.access, before), Undecided)
    invalidate(model, DescriptorType.IOTLB, G=Granularity.GLOBAL)
    assert isinstance(model.judge(rig.access, before), NotAllowed)
    assert len(model.allowed(rig.access)) == 1


def test_what_is_remembered_does_not_grow_over_rounds_that_end_with_a_full_invalidation() -> None:
    rig = RIGS["vtd-legacy"]()
    most = 0
    for number in range(80):
        rig.map(NEW_FRAME if number % 2 else FRAME)
        rig.invalidate("other domain", "page")
        assert len(rig.targets()) == 1
        most = max(most, rig.model.memory.size)
        rig.invalidate("contexts", "iotlb")
    assert rig.model.memory.is_empty
    assert most <= 2
    assert len(rig.model._past.log) <= 2


def test_invalidations_are_not_remembered_where_there_is_nothing_to_invalidate() -> None:
    rig = RIGS["vtd-legacy"]()
    rig.invalidate("other domain", "page", "other domain")
    assert len(rig.model._past.log) == 0


def test_past_the_limit_of_invalidations_nothing_but_the_present_outcome_is_decided() -> None:
    rig = RIGS["vtd-legacy"]()
    model = CacheModel(rig.engine_of, rig.registers, rig.memory, rig.policy, history_limit=16)
    before = model.engine.translate(rig.access)
    put(model, rig.table, None)
    wrong = model.engine.submit(rig.commands["other domain"]).invalidations
    for _ in range(40):
        model.invalidate(wrong)
    assert isinstance(model.judge(rig.access, before), Undecided)
    assert len(model._past.log) <= 16
    for name in rig.everything:
        model.invalidate(model.engine.submit(rig.commands[name]).invalidations)
    assert isinstance(model.judge(rig.access, before), NotAllowed)


def test_past_the_limit_of_register_changes_nothing_but_the_present_outcome_is_decided() -> None:
    rig = RIGS["amdvi-host"]()
    rig.map(None)
    seen = Translated(FRAME, 0x1000, RW)
    assert rig.model.judge(rig.access, seen)
    off = replace(rig.registers, control=0)
    for _ in range(200):
        rig.model.set_registers(off)
        rig.model.set_registers(rig.registers)
    assert isinstance(rig.model.judge(rig.access, seen), Undecided)
    rig.invalidate(*rig.everything)
    assert rig.targets() == {None}


def test_registers_that_say_nothing_of_tables_are_no_change() -> None:
    rig = RIGS["vtd-legacy"]()
    rig.model.set_registers(replace(rig.registers, gsts=rig.registers.gsts | GSTS_REG.encode({"QIES": 1})))
    assert rig.targets() == {FRAME}
    assert rig.model.memory.now == 1


def test_a_reset_leaves_no_cache() -> None:
    rig = RIGS["vtd-legacy"]()
    rig.map(None)
    assert rig.targets() == {FRAME, None}
    rig.model.reset()
    assert rig.targets() == {None}


def test_requesters_that_come_to_share_tags_are_found_after_history_was_let_go() -> None:
    rig = RIGS["vtd-legacy"]()
    tables = VtdTables(rig.memory, 0x100_0000)
    tables.root = rig.registers.root_table
    second = RadixTable(tables.pages, SecondStageFormat(), 3)
    second.map(PAGE, OTHER_FRAME, 0x1000)
    other = Access(requester=RID + 8, iova=PAGE, length=1, kind=AccessKind.READ)

    def attach(domain: int) -> None:
        tables.attach(RID + 8, domain, 3, table=second)

    for domain, targets in ((OTHER_DOMAIN, {FRAME}), (DOMAIN, {FRAME, OTHER_FRAME}), (OTHER_DOMAIN, {FRAME})):
        rig.do(partial(attach, domain))
        rig.invalidate("contexts", "iotlb")
        assert rig.model.memory.is_empty
        assert rig.targets() == targets
        assert len(rig.model.allowed(other)) == len(targets)
        assert rig.targets() == targets


def test_the_policy_of_vt_d_follows_the_mode() -> None:
    assert vtd_policy(vtd_registers(0)) is VTD_LEGACY
    assert vtd_policy(vtd_registers(0, mode=1)) is VTD_SCALABLE


def test_a_global_page_is_found_by_every_process_of_its_domain_and_spared_by_an_invalidation_of_one() -> None:
    rig = RIGS["riscv-both-process"]()
    rig.do(lambda: rig.table.set_fields(PAGE, 1, {"G": 1}))
    rig.invalidate("first stage")
    rig.map(None)
    rig.invalidate("page of space")
    # 4.1.1: IOTINVAL.VMA for one address space does not apply to global mappings.
    assert rig.targets() == {FRAME, None}
    rig.invalidate("page")
    assert rig.targets() == {None}
    assert rig.access.pasid == PASID


@pytest.mark.parametrize("is_global", [False, True])
def test_a_global_page_of_one_process_may_be_found_by_another_of_the_same_domain(is_global: bool) -> None:
    memory = SparseMemory((Region(0, 1 << 26),))
    tables = RiscvIommuTables(memory, 0x1_0000, 1)
    tables.attach_processes(RID, 1)
    for process, frame in ((5, FRAME), (6, OTHER_FRAME)):
        table = tables.new_page_table("Sv39")
        table.map(PAGE, frame, 0x1000, overrides={"G": int(is_global and process == 6)})
        tables.set_process(RID, process, first=table, pscid=process)
    registers = RiscvIommuRegisters(capabilities=riscv_capabilities(), ddtp=tables.ddtp)
    model = CacheModel(RiscvIommuEngine, registers, memory, RISCV, sources=[(RID, 5), (RID, 6)])
    targets = {getattr(outcome, "address", None) for outcome in model.allowed(read(5))}
    assert targets == ({FRAME, OTHER_FRAME} if is_global else {FRAME})
    assert {getattr(outcome, "address", None) for outcome in model.allowed(read(6))} == {OTHER_FRAME}


def test_a_global_page_is_looked_up_in_the_address_space_of_the_request_too() -> None:
    memory = SparseMemory((Region(0, 1 << 26),))
    tables = RiscvIommuTables(memory, 0x1_0000, 1)
    for device, frame in ((RID, FRAME), (RID + 1, OTHER_FRAME)):
        table = tables.new_page_table("Sv39")
        table.map(PAGE, frame, 0x1000, overrides={"G": int(device == RID)})
        tables.attach(device, first=table, pscid=7)
    registers = RiscvIommuRegisters(capabilities=riscv_capabilities(), ddtp=tables.ddtp)
    model = CacheModel(RiscvIommuEngine, registers, memory, RISCV, sources=[(RID, None), (RID + 1, None)])
    # Two devices with one PSCID and two tables: each finds what the other has brought in.
    assert {getattr(outcome, "address", None) for outcome in model.allowed(read())} == {FRAME, OTHER_FRAME}


def test_a_requester_that_was_seen_is_known_from_then_on() -> None:
    rig = RIGS["vtd-legacy"]()
    tables = VtdTables(rig.memory, 0x100_0000)
    tables.root = rig.registers.root_table
    second = RadixTable(tables.pages, SecondStageFormat(), 3)
    second.map(PAGE, OTHER_FRAME, 0x1000)
    tables.attach(RID + 8, DOMAIN, 3, table=second)
    assert rig.targets() == {FRAME}
    other = Access(requester=RID + 8, iova=PAGE, length=1, kind=AccessKind.READ)
    assert rig.model.judge(other, rig.model.engine.translate(other)) is ALLOWED
    assert rig.targets() == {FRAME, OTHER_FRAME}
