"""Steps of an explanation: each entry in one piece, with the tags under which it may be cached (VT-d 6.2)."""

from __future__ import annotations

from typing import Any

import pytest
from vtd_units import IOVA, NOWHERE, PASID, RID, TES, Unit

from harness.model.access import Access, AccessKind
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Region, SparseMemory
from harness.model.vtd import VtdEngine, VtdRegisters, VtdTables
from harness.model.vtd.registers import capabilities

DOMAIN = 7


def tables_read(unit: Unit, pasid: int | None = None, iova: int = IOVA) -> list[Step]:
    access = Access(requester=RID, iova=iova, length=4, kind=AccessKind.READ, pasid=pasid)
    return [step for step in unit.engine.explain(access).steps if step.address is not None]


def legacy_steps(**fields: int) -> tuple[list[Step], SparseMemory]:
    memory = SparseMemory((Region(0, 1 << 24),))
    tables = VtdTables(memory, 0x1000)
    tables.attach(RID, DOMAIN, 4).map(IOVA, 0x8000_0000, 0x1000)
    tables.set_context_fields(RID, fields)
    engine = VtdEngine(VtdRegisters(rtaddr=tables.root, cap=capabilities(), ecap=0, gsts=TES), memory)
    access = Access(requester=RID, iova=IOVA, length=4, kind=AccessKind.READ)
    return [step for step in engine.explain(access).steps if step.address is not None], memory


def assert_each_is_what_memory_holds(steps: list[Step], memory: SparseMemory) -> None:
    for step in steps:
        assert step.address is not None
        assert step.value == int.from_bytes(memory.read(step.address, step.size), "little"), step.what


def span(shift: int, iova: int = IOVA) -> dict[str, Any]:
    first = iova >> shift << shift
    return {"first": first, "last": first + (1 << shift) - 1}


def second_stage(iova: int = IOVA, space: int | None = None) -> list[CachedEntry]:
    tables = [CachedEntry(kind=EntryKind.TABLE, domain=DOMAIN, stage=2, **span(shift, iova)) for shift in (39, 30, 21)]
    return [*tables, CachedEntry(kind=EntryKind.LEAF, domain=DOMAIN, space=space, stage=2, **span(12, iova))]


def first_stage(pasid: int) -> list[CachedEntry]:
    return [
        CachedEntry(
            kind=EntryKind.LEAF if shift == 12 else EntryKind.TABLE, domain=DOMAIN, space=pasid, stage=1, **span(shift)
        )
        for shift in (39, 30, 21, 12)
    ]


def test_legacy_entries_are_tagged_with_requester_and_domain_6_2_1() -> None:
    steps, memory = legacy_steps()
    assert_each_is_what_memory_holds(steps, memory)
    device = CachedEntry(kind=EntryKind.DEVICE, requester=RID, domain=DOMAIN)
    assert [step.cached for step in steps] == [device, device, *second_stage()]
    assert [step.size for step in steps] == [16, 16, 8, 8, 8, 8]


def test_legacy_entry_that_faults_is_tagged_with_domain_0_6_2_2() -> None:
    steps, _ = legacy_steps(P=0)
    device = CachedEntry(kind=EntryKind.DEVICE, requester=RID, domain=0)
    assert [step.cached for step in steps] == [device, device]


@pytest.mark.parametrize("pasid", [None, PASID])
def test_scalable_entries_are_tagged_with_requester_and_pasid_6_2_1(pasid: int | None) -> None:
    unit = Unit("second")
    unit.attach("second", PASID)
    steps = tables_read(unit, pasid)
    assert_each_is_what_memory_holds(steps, unit.memory)
    device = CachedEntry(kind=EntryKind.DEVICE, requester=RID)
    process = CachedEntry(kind=EntryKind.PROCESS, requester=RID, domain=DOMAIN, space=pasid or 0)
    assert [step.cached for step in steps] == [device, device, process, process, *second_stage(space=pasid or 0)]
    assert [step.size for step in steps] == [16, 32, 8, 64, 8, 8, 8, 8]


@pytest.mark.parametrize("pasid", [None, PASID])
def test_first_stage_entries_are_tagged_with_domain_and_pasid_6_2_1(pasid: int | None) -> None:
    unit = Unit("first")
    unit.attach("first", PASID)
    steps = tables_read(unit, pasid)
    assert_each_is_what_memory_holds(steps, unit.memory)
    assert [step.cached for step in steps[4:]] == first_stage(pasid or 0)


def test_pasid_entry_that_faults_is_tagged_with_domain_0_6_2_3() -> None:
    unit = Unit("second")
    unit.tables.set_pasid_fields(RID, {"P": 0})
    process = CachedEntry(kind=EntryKind.PROCESS, requester=RID, domain=0, space=0)
    assert [step.cached for step in tables_read(unit)[2:]] == [process, process]


@pytest.mark.parametrize("fields", [{"P": 0}, {"ADDR": 1 << 50}])
def test_first_stage_entry_that_faults_is_never_cached_6_2_4_1(fields: dict[str, int]) -> None:
    unit = Unit("first")
    unit.first.set_fields(IOVA, 1, fields)
    assert [step.cached is None for step in tables_read(unit)[4:]] == [False, False, False, True]


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_second_stage_entry_that_is_not_present_is_tagged_for_caching_mode_6_1(level: int) -> None:
    unit = Unit("second")
    unit.second.set_fields(IOVA, level, {"R": 0, "W": 0})
    assert tables_read(unit)[-1].cached == second_stage(space=0)[4 - level]


def test_nested_walk_shows_the_second_stage_before_each_first_stage_entry_3_8() -> None:
    unit = Unit("nested")
    unit.second.split(unit.first.root)
    steps = tables_read(unit)[4:]
    assert_each_is_what_memory_holds(steps, unit.memory)
    second = ["SS-PML4E", "SS-PDPE", "SS-PDE", "SS-PTE"]
    names = []
    for name in ("FS-PML4E", "FS-PDPE", "FS-PDE", "FS-PTE"):
        names += [*second, name]
    assert [step.what for step in steps] == [*names, *second]
    # Second-stage entries serve guest-physical addresses; those of the first stage serve input addresses.
    assert [step.cached for step in steps[4::5]] == first_stage(0)
    table = unit.first.entry_address(IOVA, 4)
    expected = second_stage(table, space=0)
    assert [step.cached for step in steps[:4]] == expected
    assert [step.cached for step in steps[-4:]] == second_stage(0x180_0000, space=0)


@pytest.mark.parametrize("stages", ["first", "second"])
def test_entry_that_memory_does_not_answer_has_no_value_and_no_tags(stages: str) -> None:
    unit = Unit(stages)
    (unit.first if stages == "first" else unit.second).set_fields(IOVA, 2, {"ADDR": NOWHERE})
    last = tables_read(unit)[-1]
    assert (last.value, last.cached, last.note) == (None, None, "no memory there")


def test_explanation_names_fields_and_sections() -> None:
    text = str(Unit("nested").engine.explain(Access(requester=RID, iova=IOVA, length=4, kind=AccessKind.READ)))
    for part in ("scalable-mode root-entry [bus 0x01]", "PGTT=0x3", "DID=0x7", "VT-d 9.7", "VT-d 9.8", "TTM=0x1"):
        assert part in text
