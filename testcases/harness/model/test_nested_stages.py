"""An outer stage under a guest's IOMMU: inner then outer, each with its own faults, and what a shadow of both holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reasons import assert_fault

from harness.errors import SpecError
from harness.model.access import (
    Access,
    AccessKind,
    Attributes,
    Bypassed,
    BypassReason,
    Fault,
    Mapping,
    MemoryWrite,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.engine import AccessCrossesPage, translate_range
from harness.model.memory import OffsetMemory, OutsideMemory, Region, SparseMemory
from harness.model.nested import (
    FixedStage,
    FixedStageFault,
    OuterFault,
    OutsideStage,
    StagedMemory,
    TwoStages,
    compose,
    shadow,
)
from harness.model.radix import PageAllocator, RadixTable
from harness.model.smmuv3 import (
    Smmuv3ContextTable,
    Smmuv3Engine,
    Smmuv3Registers,
    Smmuv3Tables,
    Stage1Format,
)
from harness.model.smmuv3.capabilities import capabilities as smmu_capabilities
from harness.model.smmuv3.registers import CR0
from harness.model.vtd import (
    FirstStageFormat,
    VtdEngine,
    VtdFaultReason,
    VtdRegisters,
    VtdScalableTables,
    VtdTables,
)
from harness.model.vtd.context import TranslationType
from harness.model.vtd.invalidation.commands import IQA_REG
from harness.model.vtd.invalidation.descriptors import DescriptorType, build_descriptor
from harness.model.vtd.register_layouts import ECAP_REG, GSTS_REG
from harness.model.vtd.registers import capabilities

RID, HOST_RID = 0x28, 0x30
PAGE = 0x1000
TABLES = 0x10_0000
"""Guest-physical address from which on the guest's tables lie: 1 MiB of it,"""
MOVED = 0x4000_0000
"""and how much higher that is in the host's memory."""
IOVA, GUEST, HOST = 0x40_0000, 0x800_0000, 0x9_0000_0000
RO, WO, RW = Permissions.READ, Permissions.WRITE, Permissions.READ | Permissions.WRITE
OF_TABLES = Mapping(TABLES, TABLES + MOVED, 0x10_0000, RW)


def vtd_registers(root: int, *, mode: int = 0, **names: int) -> VtdRegisters:
    ecap = ECAP_REG.encode({"PT": 1, "QI": 1, "C": 1, "SMTS": 1, "FSTS": 1, "SSTS": 1, "SMPWCS": 1, **names})
    return VtdRegisters(
        rtaddr=root | mode << 10,
        cap=capabilities(),
        ecap=ecap,
        gsts=GSTS_REG.encode({"TES": 1}),
        iqa=IQA_REG.encode({"DW": mode}),
    )


@dataclass
class Guest:
    """A guest with VT-d in legacy mode, one device, and tables in its own memory."""

    memory: SparseMemory
    tables: VtdTables
    table: RadixTable

    @classmethod
    def make(cls) -> Guest:
        memory = SparseMemory((Region(0, 1 << 40),))
        tables = VtdTables(OffsetMemory(memory, MOVED), TABLES)
        return cls(memory, tables, tables.attach(RID, 1, 3))

    def over(self, *mappings: Mapping) -> TwoStages[int | bytes, object]:
        """On a host that maps the guest's tables, and these."""
        staged = StagedMemory(FixedStage([OF_TABLES, *mappings]), self.memory, HOST_RID)
        return TwoStages(VtdEngine(vtd_registers(self.tables.root), staged), staged)


def access(iova: int = IOVA, kind: AccessKind = AccessKind.READ, length: int = 4) -> Access:
    return Access(requester=RID, iova=iova, length=length, kind=kind)


def test_an_access_goes_through_the_inner_and_then_the_outer_stage() -> None:
    guest = Guest.make()
    guest.table.map(IOVA, GUEST, PAGE)
    engine = guest.over(Mapping(GUEST, HOST, PAGE, RW))
    assert engine.translate(access(IOVA + 0x123)) == Translated(HOST + 0x123, PAGE, RW)


@pytest.mark.parametrize(("inner", "outer"), [(PAGE, 1 << 21), (1 << 21, PAGE), (1 << 21, 1 << 22)])
def test_the_size_is_the_smaller_one(inner: int, outer: int) -> None:
    guest = Guest.make()
    guest.table.map(IOVA, GUEST, inner)
    outcome = guest.over(Mapping(GUEST, HOST, outer, RW)).translate(access())
    assert outcome == Translated(HOST, min(inner, outer), RW)


@pytest.mark.parametrize(("inner", "outer"), [(RW, RO), (RO, RW), (RW, RW), (RW, WO)])
def test_permissions_are_what_both_give(inner: Permissions, outer: Permissions) -> None:
    guest = Guest.make()
    guest.table.map(IOVA, GUEST, PAGE, inner)
    engine = guest.over(Mapping(GUEST, HOST, PAGE, outer))
    for kind, right in ((AccessKind.READ, RO), (AccessKind.WRITE, WO)):
        outcome = engine.translate(access(kind=kind))
        if right in inner & outer:
            assert outcome == Translated(HOST, PAGE, inner & outer)
        else:
            assert isinstance(outcome, OuterFault) == (right in inner)


def test_a_fault_of_the_inner_stage_comes_as_it_is() -> None:
    guest = Guest.make()
    engine = guest.over(Mapping(GUEST, HOST, PAGE, RW))
    fault = assert_fault(engine.translate(access()), VtdFaultReason.READ_NOT_PERMITTED, stage=2)
    assert not isinstance(fault, OuterFault)
    assert fault == engine.inner.translate(access())
    assert (fault.iova, fault.requester) == (IOVA, RID)


def test_a_fault_of_the_outer_stage_is_of_the_guest_physical_address_and_kept_apart() -> None:
    guest = Guest.make()
    guest.table.map(IOVA, GUEST, PAGE)
    engine = guest.over()
    fault = assert_fault(engine.translate(access(IOVA + 8)), FixedStageFault.NOT_MAPPED)
    assert isinstance(fault, OuterFault)
    assert fault.iova == GUEST
    assert fault.inner == Translated(GUEST + 8, PAGE, RW)
    assert str(fault) == "outer stage: fault NOT_MAPPED, not reported at guest-physical 0x8000000"
    read_only = guest.over(Mapping(GUEST, HOST, PAGE, RO))
    assert_fault(read_only.translate(access(kind=AccessKind.WRITE)), FixedStageFault.NOT_PERMITTED)


def test_a_table_that_the_outer_stage_hides_is_a_fault_of_the_inner_stage() -> None:
    guest = Guest.make()
    guest.table.map(IOVA, GUEST, PAGE)
    hidden = guest.table.entry_address(IOVA, 1) & -PAGE
    below = [Mapping(at, at + MOVED, PAGE, RW) for at in range(TABLES, TABLES + 0x10_0000, PAGE) if at != hidden]
    staged = StagedMemory(FixedStage([*below, Mapping(GUEST, HOST, PAGE, RW)]), guest.memory)
    engine = TwoStages(VtdEngine(vtd_registers(guest.tables.root), staged), staged)
    fault = assert_fault(engine.translate(access()), VtdFaultReason.PAGING_ENTRY_ACCESS, level=1)
    assert not isinstance(fault, OuterFault)
    assert f"{guest.table.entry_address(IOVA, 1):#x}: fault NOT_MAPPED" in str(engine.explain(access()))


def test_a_read_that_the_outer_stage_blocks_is_outside_of_memory_with_its_fault() -> None:
    staged = StagedMemory(FixedStage([Mapping(0, PAGE, PAGE, RW)]), SparseMemory(), HOST_RID)
    with pytest.raises(OutsideStage) as blocked:
        staged.read(PAGE - 4, 8)
    assert blocked.value.address == PAGE
    assert blocked.value.fault.requester == HOST_RID
    with pytest.raises(OutsideMemory):
        staged.read((1 << 64) - 4, 8)


def test_staged_memory_is_read_across_pieces_that_lie_apart() -> None:
    memory = SparseMemory()
    memory.write(0x5FFC, b"abcd")
    memory.write(0x9000, b"efgh")
    staged = StagedMemory(FixedStage([Mapping(0, 0x5000, PAGE, RW), Mapping(PAGE, 0x9000, PAGE, RW)]), memory)
    assert staged.read(0xFFC, 8) == b"abcdefgh"
    assert staged.read_u64(0xFFC) == int.from_bytes(b"abcdefgh", "little")


def test_bypass_of_the_inner_stage_is_translated_by_the_outer_one() -> None:
    guest = Guest.make()
    guest.tables.attach(RID, 1, 3, translation_type=TranslationType.PASS_THROUGH)
    engine = guest.over(Mapping(GUEST, HOST, PAGE, RW))
    assert engine.translate(access(GUEST)) == Translated(HOST, PAGE, RW)
    assert isinstance(engine.translate(access(GUEST + PAGE)), OuterFault)


def test_an_outer_stage_that_is_off_leaves_the_inner_translation() -> None:
    guest = Guest.make()
    guest.table.map(IOVA, GUEST, PAGE)
    off = VtdEngine(VtdRegisters(rtaddr=0, cap=capabilities(), ecap=0, gsts=0), guest.memory)
    tables = StagedMemory(FixedStage([OF_TABLES]), guest.memory)
    engine = TwoStages(VtdEngine(vtd_registers(guest.tables.root), tables), tables, off)
    assert engine.translate(access()) == Translated(GUEST, PAGE, RW)
    guest.tables.attach(RID, 1, 3, translation_type=TranslationType.PASS_THROUGH)
    assert engine.translate(access()) == Bypassed(IOVA, BypassReason.PASS_THROUGH)


def test_the_outer_stage_may_be_an_engine_that_knows_the_device_by_another_name() -> None:
    guest = Guest.make()
    guest.table.map(IOVA, GUEST, 1 << 21)
    host = VtdTables(guest.memory, 0x100_0000)
    host_table = host.attach(HOST_RID, 9, 4)
    host_table.map(GUEST, HOST, 0x4000, RO)
    outer = VtdEngine(vtd_registers(host.root), guest.memory)
    tables = StagedMemory(FixedStage([OF_TABLES]), guest.memory)
    engine = TwoStages(VtdEngine(vtd_registers(guest.tables.root), tables), tables, outer, lambda _: HOST_RID)
    assert engine.translate(access(IOVA + 0x3010)) == Translated(HOST + 0x3010, PAGE, RO)
    fault = assert_fault(engine.translate(access(IOVA + 0x4000)), VtdFaultReason.READ_NOT_PERMITTED, stage=2, level=1)
    assert isinstance(fault, OuterFault)
    assert (fault.requester, fault.iova) == (HOST_RID, GUEST + 0x4000)
    assert list(engine.iter_mappings(RID)) == [Mapping(IOVA + at, HOST + at, PAGE, RO) for at in range(0, 0x4000, PAGE)]
    explained = str(engine.explain(access()))
    assert "root-entry [bus 0x00]" in explained
    assert "outer root-entry [bus 0x00]" in explained


def test_an_access_may_reach_to_the_page_boundary_of_both() -> None:
    guest = Guest.make()
    guest.table.map(IOVA, GUEST, 1 << 21)
    engine = guest.over(Mapping(GUEST, HOST, PAGE, RW), Mapping(GUEST + PAGE, HOST + 0x10_0000, PAGE, RW))
    crossing = access(IOVA + PAGE - 8, length=16)
    with pytest.raises(AccessCrossesPage):
        engine.translate(crossing)
    pieces = translate_range(engine, crossing)
    assert [piece.outcome for piece in pieces] == [
        Translated(HOST + PAGE - 8, PAGE, RW),
        Translated(HOST + 0x10_0000, PAGE, RW),
    ]


def test_the_granule_is_the_smaller_one() -> None:
    guest = Guest.make()
    wide = StagedMemory(FixedStage([Mapping(0, 0, 1 << 20, RW)], 1 << 16), guest.memory)
    assert TwoStages(VtdEngine(vtd_registers(0), wide), wide).granule == PAGE


def test_a_doorbell_that_the_inner_stage_translates_is_translated_again() -> None:
    memory = SparseMemory((Region(0, 1 << 40),))
    doorbell, real = 0x808_0000, 0x2001_0000
    pages = PageAllocator(OffsetMemory(memory, MOVED), TABLES)
    tables = Smmuv3Tables(pages.memory, TABLES + 0x8_0000)
    entries = Stage1Format(12)
    table = RadixTable(pages, entries, entries.levels)
    table.map(0xFFFF_F000, doorbell, PAGE)
    contexts = Smmuv3ContextTable(pages)
    contexts.describe(0, table, asid=1)
    tables.attach(RID, contexts)
    registers = Smmuv3Registers(
        capabilities=smmu_capabilities(),
        cr0=CR0.encode({"SMMUEN": 1}),
        strtab_base=tables.strtab_base,
        strtab_base_cfg=tables.strtab_base_cfg,
    )
    staged = StagedMemory(FixedStage([OF_TABLES, Mapping(doorbell, real, PAGE, WO)]), memory)
    engine = TwoStages(Smmuv3Engine(registers, staged), staged)
    outcome = engine.translate(access(0xFFFF_F040, AccessKind.WRITE))
    assert isinstance(outcome, Translated)
    assert (outcome.address, outcome.permissions) == (real + 0x40, WO)
    assert isinstance(engine.translate(access(0xFFFF_F040)), OuterFault)


def test_an_interrupt_address_is_put_to_the_outer_stage_unchanged() -> None:
    guest = Guest.make()
    message = access(0xFEE0_0000, AccessKind.WRITE)
    assert isinstance(guest.over().translate(message), OuterFault)
    doorbell = guest.over(Mapping(0xFEE0_0000, HOST, PAGE, WO))
    assert doorbell.translate(message) == Translated(HOST, PAGE, WO)


def scalable_guest(rights: Permissions = RW) -> tuple[TwoStages[int | bytes, object], RadixTable, SparseMemory]:
    """A guest with a first-stage table, the leaf of which has neither A nor D."""
    memory = SparseMemory((Region(0, 1 << 40),))
    tables = VtdScalableTables(OffsetMemory(memory, MOVED), TABLES)
    tables.attach(RID)
    first = RadixTable(tables.pages, FirstStageFormat(), 4, sign_extended=True)
    first.map(IOVA, GUEST, PAGE)
    first.set_fields(IOVA, 1, {"A": 0, "D": 0})
    tables.attach_pasid(RID, 7, first_stage=first, overrides={"PWSNP": 1})
    staged = StagedMemory(FixedStage([replace(OF_TABLES, permissions=rights), Mapping(GUEST, HOST, PAGE, RW)]), memory)
    return TwoStages(VtdEngine(vtd_registers(tables.root, mode=1), staged), staged), first, memory


def test_flags_that_the_inner_stage_sets_are_set_where_the_outer_stage_has_its_tables() -> None:
    engine, first, _ = scalable_guest()
    inner = engine.inner.translate(access(kind=AccessKind.WRITE))
    outcome = engine.translate(access(kind=AccessKind.WRITE))
    assert isinstance(inner, Translated)
    assert isinstance(outcome, Translated)
    assert inner.writes
    assert outcome.writes == tuple(MemoryWrite(write.address + MOVED, write.data) for write in inner.writes)
    assert outcome.writes[-1].address == first.entry_address(IOVA, 1) + MOVED


def test_flags_that_the_outer_stage_does_not_let_be_set_are_its_fault() -> None:
    engine, first, _ = scalable_guest(RO)
    fault = assert_fault(engine.translate(access()), FixedStageFault.NOT_PERMITTED)
    assert isinstance(fault, OuterFault)
    assert fault.iova == first.entry_address(IOVA, 1) & -PAGE


def test_the_status_of_a_guests_command_is_stored_where_the_outer_stage_has_it() -> None:
    engine, _, _ = scalable_guest()
    status = TABLES + 0xF000
    wait = build_descriptor(DescriptorType.WAIT, {"SW": 1, "DATA": 1, "ADDR": status >> 2})
    reply = engine.submit(wait)
    assert reply.writes == (MemoryWrite(status + MOVED, b"\1\0\0\0"),)  # type: ignore[attr-defined]
    elsewhere = build_descriptor(DescriptorType.WAIT, {"SW": 1, "DATA": 1, "ADDR": 0x7000_0000 >> 2})
    with pytest.raises(OutsideStage):
        engine.submit(elsewhere)


def test_attributes_of_both_stages_count() -> None:
    guest = Guest.make()
    guest.table.map(IOVA, GUEST, PAGE)
    host = VtdTables(guest.memory, 0x100_0000)
    host_table = host.attach(RID, 9, 3)
    host_table.map(GUEST, HOST, PAGE, overrides={"SNP": 1})
    outer = VtdEngine(vtd_registers(host.root, SC=1), guest.memory)
    tables = StagedMemory(FixedStage([OF_TABLES]), guest.memory)
    outcome = TwoStages(VtdEngine(vtd_registers(guest.tables.root), tables), tables, outer).translate(access())
    assert outcome == Translated(HOST, PAGE, RW, Attributes.SNOOP)


@pytest.mark.parametrize(
    "mappings",
    [
        [Mapping(0, 0, 0x2000, RW), Mapping(0x1000, 0, 0x1000, RW)],
        [Mapping(0x800, 0, 0x1000, RW)],
        [Mapping(0, 0, 0x1800, RW)],
        [Mapping(0, 0, 0, RW)],
    ],
    ids=["overlap", "first address", "size", "empty"],
)
def test_ranges_that_overlap_or_are_no_pages_are_refused(mappings: list[Mapping]) -> None:
    with pytest.raises(SpecError):
        FixedStage(mappings)


# --- properties: random inner tables over random maps of guest memory ---

_RIGHTS = st.sampled_from([RO, WO, RW])
SLOTS = 24


@st.composite
def inner_pages(draw: st.DrawFn) -> list[Mapping]:
    """Pages of 4 KiB and 2 MiB to a few places of guest memory."""
    pages = []
    for slot in draw(st.lists(st.integers(0, 7), max_size=5, unique=True)):
        size = draw(st.sampled_from([PAGE, 1 << 21]))
        iova = (slot << 21) + (draw(st.integers(0, SLOTS - 1)) * PAGE if size == PAGE else 0)
        target = GUEST + (draw(st.integers(0, SLOTS - 1)) * PAGE if size == PAGE else 0)
        pages.append(Mapping(IOVA + iova, target, size, draw(_RIGHTS)))
    return pages


@st.composite
def outer_ranges(draw: st.DrawFn) -> list[Mapping]:
    """Ranges of guest memory, apart from each other, some next to each other in the host as well."""
    ranges = []
    at = 0
    while at < SLOTS:
        length = draw(st.integers(1, 6))
        if draw(st.booleans()):
            target = HOST + (at if draw(st.booleans()) else draw(st.integers(0, 99))) * PAGE
            ranges.append(Mapping(GUEST + at * PAGE, target, length * PAGE, draw(_RIGHTS)))
        at += length
    return ranges


def by_hand(inner: list[Mapping], outer: list[Mapping], iova: int, right: Permissions) -> int | str:
    """Where an access goes, or whose fault it is."""
    for page in inner:
        if page.iova <= iova < page.iova + page.size and right in page.permissions:
            guest = iova - page.iova + page.address
            for part in outer:
                if part.iova <= guest < part.iova + part.size and right in part.permissions:
                    return guest - part.iova + part.address
            return "outer"
    return "inner"


def seen(outcome: Outcome) -> int | str:
    if isinstance(outcome, Fault):
        return "outer" if isinstance(outcome, OuterFault) else "inner"
    return outcome.address


def points(inner: list[Mapping]) -> list[int]:
    """An address in every page that may be mapped, and in some that are not."""
    pages = {IOVA + (slot << 21) + number * PAGE for slot in range(8) for number in range(0, SLOTS, 5)}
    for page in inner:
        pages |= {page.iova + at for at in range(0, min(page.size, SLOTS * PAGE), PAGE)}
        pages |= {page.iova - PAGE, page.iova + page.size}
    return sorted(pages)


def built(inner: list[Mapping], outer: list[Mapping]) -> TwoStages[int | bytes, object]:
    guest = Guest.make()
    for page in inner:
        guest.table.map(page.iova, page.address, page.size, page.permissions)
    return guest.over(*outer)


@settings(max_examples=25, deadline=None)
@given(inner_pages(), outer_ranges())
def test_both_stages_together_are_one_after_the_other(inner: list[Mapping], outer: list[Mapping]) -> None:
    engine = built(inner, outer)
    for iova in points(inner):
        for kind, right in ((AccessKind.READ, RO), (AccessKind.WRITE, WO)):
            request = access(iova + 0x10, kind)
            outcome = engine.translate(request)
            assert seen(outcome) == by_hand(inner, outer, iova + 0x10, right)
            assert engine.explain(request).outcome == outcome


@settings(max_examples=25, deadline=None)
@given(inner_pages(), outer_ranges())
def test_a_shadow_table_agrees_with_both_stages_at_every_point(inner: list[Mapping], outer: list[Mapping]) -> None:
    engine = built(inner, outer)
    shadowed = shadow(engine.inner, engine.outer, RID)
    # One table in the place of two: each way through the shadow is the way through both.
    host = VtdTables(SparseMemory(), TABLES)
    table = host.attach(RID, 1, 3)
    for mapping in shadowed:
        table.map(mapping.iova, mapping.address, mapping.size, mapping.permissions)
    single = VtdEngine(vtd_registers(host.root), host.memory)
    for iova in points(inner):
        for kind in (AccessKind.READ, AccessKind.WRITE):
            both, one = engine.translate(access(iova, kind)), single.translate(access(iova, kind))
            if isinstance(both, Fault):
                assert isinstance(one, Fault)
            else:
                assert isinstance(one, Translated)
                assert one.address == both.address
                assert isinstance(both, Translated)
                assert one.permissions == both.permissions


@settings(max_examples=40, deadline=None)
@given(inner_pages(), outer_ranges())
def test_a_shadow_has_no_two_mappings_that_could_be_one(inner: list[Mapping], outer: list[Mapping]) -> None:
    engine = built(inner, outer)
    shadowed = shadow(engine.inner, engine.outer, RID)
    for before, after in pairwise(shadowed):
        assert before.iova + before.size <= after.iova
        follows = before.iova + before.size == after.iova and before.address + before.size == after.address
        assert not (follows and before.permissions == after.permissions)
    assert sum(mapping.size for mapping in shadowed) == sum(each.size for each in engine.iter_mappings(RID))


def test_what_two_stages_do_not_both_permit_is_not_mapped() -> None:
    assert list(compose([Mapping(0, GUEST, PAGE, RO)], [Mapping(GUEST, HOST, PAGE, WO)])) == []


def test_every_fault_of_a_fixed_stage_is_reached() -> None:
    stage = FixedStage([Mapping(PAGE, HOST, PAGE, RO)])
    assert_fault(stage.translate(access(0)), FixedStageFault.NOT_MAPPED)
    assert_fault(stage.translate(access(2 * PAGE)), FixedStageFault.NOT_MAPPED)
    assert_fault(stage.translate(access(PAGE, AccessKind.WRITE)), FixedStageFault.NOT_PERMITTED)
    assert stage.translate(access(PAGE, AccessKind.EXECUTE)) == Translated(HOST, PAGE, RO)
    assert stage.explain(access(PAGE)).outcome == stage.translate(access(PAGE))
