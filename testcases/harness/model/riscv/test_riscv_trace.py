"""What `explain` tells of a walk on a RISC-V IOMMU: each entry with address, size, value and cache tags (3.8)."""

from __future__ import annotations

import pytest
from riscv_unit import (
    DEVICE,
    FILE,
    GSCID,
    GUEST,
    IOVA,
    MRIF,
    NOWHERE,
    OUTPUT,
    PSCID,
    RAM,
    REAL,
    BigEndianMemory,
    Unit,
    message_unit,
)

from harness.model.access import AccessKind, Fault
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Region, SparseMemory
from harness.model.riscv import RiscvIommuEngine, RiscvIommuRegisters, RiscvIommuTables
from harness.model.riscv.registers import capabilities
from harness.model.riscv.tags import HOST, SHARED


def entries(unit: Unit, *, iova: int = IOVA, pasid: int | None = None) -> list[Step]:
    steps = unit.explain(AccessKind.WRITE, iova=iova, pasid=pasid).steps
    return [step for step in steps if step.address is not None]


@pytest.mark.parametrize("second", [None, "Sv39x4"])
@pytest.mark.parametrize("first", ["Sv39", "Sv57"])
def test_every_entry_stands_with_the_bytes_that_are_in_memory(first: str, second: str | None) -> None:
    unit = Unit(first, second, pdt_mode=3, levels=3)
    steps = entries(unit, pasid=5)
    for step in steps:
        assert step.address is not None
        assert step.value == int.from_bytes(unit.memory.read(step.address, step.size), "little")
        assert step.cached is not None
    levels = 3 if first == "Sv39" else 5
    # 3 of the device directory, 3 of the process directory, the first stage, and the second for each of these and for
    # the page itself.
    assert len(steps) == 3 + 3 + levels + (3 * (3 + levels + 1) if second else 0)


def test_directory_entries_are_tagged_with_device_and_process_3_8() -> None:
    steps = entries(Unit(pdt_mode=3, levels=3), pasid=5)
    device, process = EntryKind.DEVICE, EntryKind.PROCESS
    assert [step.cached for step in steps[:6]] == [
        CachedEntry(kind=device, requester=SHARED),
        CachedEntry(kind=device, requester=SHARED),
        CachedEntry(kind=device, requester=DEVICE),
        CachedEntry(kind=process, requester=DEVICE, space=SHARED),
        CachedEntry(kind=process, requester=DEVICE, space=SHARED),
        CachedEntry(kind=process, requester=DEVICE, space=5),
    ]
    assert [step.size for step in steps[:6]] == [8, 8, 64, 8, 8, 16]


def test_first_stage_entries_are_tagged_with_pscid_and_range_3_8() -> None:
    steps = entries(Unit())[1:]
    assert [step.cached for step in steps] == [
        CachedEntry(
            kind=kind,
            domain=HOST,
            space=PSCID,
            stage=1,
            first=IOVA & -size,
            last=(IOVA & -size) + size - 1,
        )
        for kind, size in ((EntryKind.TABLE, 1 << 30), (EntryKind.TABLE, 1 << 21), (EntryKind.LEAF, 1 << 12))
    ]


def test_with_two_stages_gscid_tags_both_and_the_second_has_guest_addresses_3_8() -> None:
    tags = [step.cached for step in entries(Unit(second="Sv39x4"))]
    first = [tag for tag in tags if tag is not None and tag.stage == 1]
    second = [tag for tag in tags if tag is not None and tag.stage == 2]
    assert {(tag.domain, tag.space) for tag in first} == {(GSCID, PSCID)}
    assert {(tag.domain, tag.space) for tag in second} == {(GSCID, None)}
    assert second[-1] == CachedEntry(kind=EntryKind.LEAF, domain=GSCID, stage=2, first=GUEST, last=GUEST + 0xFFF)


def test_entries_below_a_g_are_global_and_belong_to_no_space_3_8() -> None:
    unit = Unit()
    assert unit.first is not None
    unit.first.set_fields(IOVA, 2, {"G": 1})
    tags = [step.cached for step in entries(unit)[1:]]
    assert [(tag.is_global, tag.space) for tag in tags if tag is not None] == [
        (False, PSCID),
        (True, None),
        (True, None),
    ]


@pytest.mark.parametrize("second", [None, "Sv39x4"])
@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(
    ("at", "values"),
    [(1, {"V": 0}), (1, {"W": 0}), (1, {"D": 0}), (1, {"PBMT": 3}), (2, {"V": 0}), (2, {"PPN": NOWHERE >> 12})],
)
def test_a_fault_is_global_where_its_last_entry_of_the_first_stage_is_3_8(
    at: int, values: dict[str, int], level: int, second: str | None
) -> None:
    unit = Unit(second=second)
    assert unit.first is not None
    unit.first.set_fields(IOVA, level, {"G": 1})
    unit.first.set_fields(IOVA, at, values)
    outcome = unit.access(AccessKind.WRITE)
    assert isinstance(outcome, Fault)
    tags = [step.cached for step in entries(unit) if step.cached is not None and step.cached.stage == 1]
    assert outcome.is_global == tags[-1].is_global


def test_a_fault_of_the_second_stage_is_global_where_the_page_of_the_first_is() -> None:
    unit = Unit(second="Sv39x4")
    assert unit.first is not None
    assert unit.second is not None
    unit.second.set_fields(GUEST, 1, {"V": 0})
    for bit in (0, 1):
        unit.first.set_fields(IOVA, 1, {"G": bit})
        outcome = unit.access()
        assert isinstance(outcome, Fault)
        assert outcome.stage == 2
        assert outcome.is_global == bool(bit)


def test_a_large_page_is_tagged_with_all_it_serves() -> None:
    unit = Unit()
    assert unit.first is not None
    for iova, size in ((1 << 32, 1 << 16), (1 << 33, 1 << 21), (1 << 34, 1 << 30)):
        unit.first.map(iova, 0, size)
        tag = entries(unit, iova=iova + size // 2)[-1].cached
        assert tag is not None
        assert (tag.first, tag.last) == (iova, iova + size - 1)


def test_an_entry_without_v_must_not_be_cached_3_8() -> None:
    unit = Unit(levels=2)
    assert unit.first is not None
    unit.first.set_fields(IOVA, 1, {"V": 0})
    assert entries(unit)[-1].cached is None
    unit.tables.set_context_fields(DEVICE, {"tc.V": 0})
    assert entries(unit)[-1].cached is None
    unit.tables.set_directory_fields(DEVICE, 2, {"V": 0})
    assert entries(unit)[-1].cached is None


def test_an_msi_entry_is_tagged_with_gscid_page_and_number_3_8() -> None:
    last = entries(message_unit(), iova=FILE + 0x4010)[-1]
    assert (last.size, last.value) == (16, (0x4_0000_1000 >> 2) | 0b111)
    unit = message_unit()
    unit.tables.set_context_fields(DEVICE, {"iohgatp.GSCID": GSCID})
    assert entries(unit, iova=FILE + 0x4010)[-1].cached == CachedEntry(
        kind=EntryKind.INTERRUPT, domain=GSCID, first=FILE + 0x4000, last=FILE + 0x4FFF, index=1
    )
    assert entries(unit, iova=FILE + 0xC000)[-1].cached is None


def test_a_big_endian_value_is_that_of_the_bytes_in_memory() -> None:
    unit = Unit(context={"tc.SBE": 1}, features=frozenset({"END"}))
    step = entries(unit)[1]
    assert step.address is not None
    assert step.value == unit.memory.read_u64(step.address)


def test_big_endian_directories_stand_with_the_bytes_that_are_in_memory_3_10_6_4() -> None:
    memory = SparseMemory((Region(0, RAM),))
    tables = RiscvIommuTables(BigEndianMemory(memory), 0x1_0000, 3)
    tables.attach_processes(DEVICE, 3, overrides={"tc.SBE": 1})
    tables.set_process(DEVICE, 5)
    caps = capabilities() | capabilities(features=frozenset({"END"}))
    registers = RiscvIommuRegisters(capabilities=caps, ddtp=tables.ddtp, fctl=1)
    steps = RiscvIommuEngine(registers, memory).explain(Unit().request(pasid=5)).steps
    read = [step for step in steps if step.address is not None]
    assert [step.size for step in read] == [8, 8, 64, 8, 8, 16]
    for step in read:
        assert step.address is not None
        assert step.value == int.from_bytes(memory.read(step.address, step.size), "little")
        # The fields are those of the entry, which is valid.
        assert dict(step.fields).get("V", dict(step.fields).get("tc.V", dict(step.fields).get("ta.V"))) == 1
        assert step.cached is not None


def test_tables_of_a_process_are_tagged_with_its_pscid_and_the_guests_gscid_3_8() -> None:
    tags = [step.cached for step in entries(Unit(second="Sv39x4", pdt_mode=1), pasid=5)]
    assert {(tag.domain, tag.space) for tag in tags if tag is not None and tag.stage == 1} == {(GSCID, PSCID)}
    assert {tag.domain for tag in tags if tag is not None and tag.stage == 2} == {GSCID}


def test_a_process_context_without_v_must_not_be_cached_3_8() -> None:
    last = entries(Unit(pdt_mode=1, process={"ta.V": 0}), pasid=5)[-1]
    assert (last.size, last.cached) == (16, None)


def test_an_msi_entry_is_shown_in_the_format_that_its_mode_says_aia() -> None:
    unit = message_unit()
    basic, resident = (entries(unit, iova=FILE + number * 0x4000)[-1] for number in (0, 2))
    assert ("PPN", REAL >> 12) in basic.fields
    assert ("MRIF_Address", MRIF >> 9) in resident.fields
    # Mode 0 is reserved, but V is 1.
    unit.tables.set_interrupt_file(DEVICE, 0, REAL, overrides={"M": 0})
    assert entries(unit, iova=FILE)[-1].cached is not None


def test_the_step_of_an_entry_that_is_not_there_says_where_it_was_looked_for() -> None:
    messages = message_unit()
    messages.set_context(msiptp_PPN=NOWHERE >> 12)
    last = entries(messages, iova=FILE + 0x4000)[-1]
    assert (last.address, last.size, last.value, last.cached) == (NOWHERE + 16, 16, None, None)
    for mode, size in ((1, 16), (2, 8)):
        unit = Unit(pdt_mode=mode)
        unit.set_context(fsc_PPN=NOWHERE >> 12)
        last = entries(unit, pasid=5)[-1]
        assert (last.address, last.size, last.value) == (NOWHERE + (5 * 16 if mode == 1 else 0), size, None)


@pytest.mark.parametrize("level", [1, 2])
def test_a_table_that_is_not_there_is_said_so(level: int) -> None:
    unit = Unit()
    assert unit.first is not None
    unit.first.set_fields(IOVA, level + 1, {"PPN": NOWHERE >> 12})
    assert entries(unit)[-1].note == "no memory there"


def test_an_explanation_is_readable() -> None:
    text = str(Unit().explain())
    assert "device context [0x28]" in text
    assert "Sv39 PTE [level 1]" in text
    assert "[RISC-V IOMMU 3.1.3]" in text
    assert f"translated to {OUTPUT:#x}" in text
