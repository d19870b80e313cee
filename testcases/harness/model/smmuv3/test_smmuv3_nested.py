"""Stage 1 inside stage 2: CDs and stage 1 tables are behind stage 2 as well (IHI 0070 3.4, 3.13.5, 7.3)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from smmuv3_unit import IOVA, IPA, MOVED, NOWHERE, OUTPUT, SID, TABLES_IPA, WRITE, Unit, record_of

from harness.model.access import MemoryWrite, Permissions, Translated
from harness.model.radix import RadixTable
from harness.model.smmuv3 import Smmuv3EventClass, Smmuv3EventType, Stage1Format

CD, TT, IN = Smmuv3EventClass.CD, Smmuv3EventClass.TT, Smmuv3EventClass.IN
RW = Permissions.READ | Permissions.WRITE


@pytest.mark.parametrize("granule", [12, 14, 16])
@pytest.mark.parametrize("granule2", [12, 14, 16])
def test_two_stages_translate_with_every_pair_of_granules(granule: int, granule2: int) -> None:
    unit = Unit("12", granule=granule, granule2=granule2)
    outcome = unit.access(iova=IOVA + 0x123)
    assert outcome == Translated(OUTPUT + 0x123, 1 << min(granule, granule2), RW)


def test_each_stage_1_descriptor_is_translated_by_itself_7_3_22() -> None:
    """A table of 64 KB over stage 2 pages of 4 KB: its second page lies elsewhere than its first."""
    unit = Unit("12", granule=16)
    table = TABLES_IPA + 0x20_0000
    iova = IOVA & ~0x1FFF_FFFF | 0x1000 << 16
    other = 0x30_0000
    unit.outer.unmap(TABLES_IPA, 0x100_0000)
    unit.outer.map(TABLES_IPA, TABLES_IPA + MOVED, 0x20_0000)
    unit.outer.map(table, table + MOVED, 0x8000, largest_page=0x1000)
    # Index 0x1000 of the last level is 0x8000 into the table.
    unit.outer.map(table + 0x8000, other, 0x1000)
    unit.tree.set_fields(IOVA, 2, {"ADDR": table})
    unit.memory.write_u64(other, IPA | 0x0060_0000_0000_0F43)
    outcome = unit.access(iova=iova)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT


def test_rights_are_those_that_both_stages_give() -> None:
    unit = Unit("12")
    unit.outer.set_fields(IPA, 1, {"S2AP": 0b01})
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.permissions == Permissions.READ
    fault = assert_fault(unit.access(WRITE), Smmuv3EventType.F_PERMISSION, stage=2, level=1)
    record = record_of(fault)
    assert (record.event_class, record.ipa, record.input_address, record.stage2) == (IN, IPA, IOVA, True)


def test_rights_of_stage_1_bound_those_of_stage_2() -> None:
    unit = Unit("12")
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11})
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.permissions == Permissions.READ
    (mapping,) = unit.engine().iter_mappings(SID)
    assert mapping.permissions == Permissions.READ


def test_stage_1_permission_comes_before_stage_2_7_3_22() -> None:
    unit = Unit("12")
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11})
    unit.outer.unmap(IPA, 0x1000)
    assert_fault(unit.access(WRITE), Smmuv3EventType.F_PERMISSION, stage=1)
    assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION, stage=2, level=1)


def test_ipa_beyond_s2t0sz_is_a_stage_2_translation_fault_3_4() -> None:
    unit = Unit("12")
    unit.tree.set_fields(IOVA, 1, {"ADDR": 1 << 41})
    fault = assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION, stage=2)
    assert fault.level is None
    assert record_of(fault).ipa == 1 << 41


# CD fetch, CLASS CD.


def test_cd_that_stage_2_does_not_map_is_a_fault_of_class_cd_7_3_13() -> None:
    unit = Unit("12")
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": 0x7000_0000})
    fault = assert_fault(unit.access(WRITE), Smmuv3EventType.F_TRANSLATION, stage=2)
    record = record_of(fault)
    assert (record.event_class, record.ipa, record.is_read, record.stage2) == (CD, 0x7000_0000, False, True)


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"S2AP": 0b10}, Smmuv3EventType.F_PERMISSION),
        ({"AF": 0}, Smmuv3EventType.F_ACCESS),
        ({"VALID": 0}, Smmuv3EventType.F_TRANSLATION),
        ({"ADDR": 1 << 47}, Smmuv3EventType.F_ADDR_SIZE),
    ],
)
def test_every_stage_2_fault_of_a_cd_fetch_has_class_cd(fields: dict[str, int], event: Smmuv3EventType) -> None:
    unit = Unit("12", caps={"address_bits": 44})
    unit.outer.set_fields(unit.cd.root, 2, fields)
    fault = assert_fault(unit.access(), event, stage=2, level=2)
    record = record_of(fault)
    assert (record.event_class, record.ipa, record.table_read) == (CD, unit.cd.root & ~0xFFF, False)


def test_stage_2_walk_abort_of_a_cd_fetch_has_class_cd_7_3_12() -> None:
    unit = Unit("12")
    unit.outer.set_fields(unit.cd.root, 3, {"ADDR": NOWHERE})
    fault = assert_fault(unit.access(), Smmuv3EventType.F_WALK_EABT, stage=2, level=2)
    record = record_of(fault)
    assert (record.event_class, record.stage2, record.ipa) == (CD, True, 0)
    assert record.fetch_address == NOWHERE + (unit.cd.root >> 21 & 0x1FF) * 8


def test_l1cd_is_behind_stage_2_too_5_3() -> None:
    unit = Unit("12", substream_bits=8, context_format=1)
    assert isinstance(unit.access(), Translated)
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": 0x7000_0000})
    assert record_of(unit.access(pasid=65)).event_class == CD
    unit = Unit("12", substream_bits=8, context_format=1)
    unit.cd.set_level1_fields(0, {"L2PTR": 0x7000_1000})
    record = record_of(unit.access(pasid=3))
    assert (record.type, record.event_class, record.ipa) == (Smmuv3EventType.F_TRANSLATION, CD, 0x7000_1000)


def test_unreadable_cd_behind_stage_2_has_its_physical_address_7_3_10() -> None:
    unit = Unit("12")
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": IPA + 0x40})
    fault = assert_fault(unit.access(), Smmuv3EventType.F_CD_FETCH)
    assert record_of(fault).fetch_address == OUTPUT + 0x40


def test_cd_fetch_sets_the_access_flag_of_stage_2_and_never_its_dirty_state_3_13() -> None:
    unit = Unit("12")
    unit.tables.set_fields(SID, {"S2HA": 1, "S2HD": 1})
    unit.outer.set_fields(TABLES_IPA, 2, {"AF": 0, "S2AP": 0b01, "DBM": 1})
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    at = unit.outer.entry_address(TABLES_IPA, 2)
    updated = (unit.memory.read_u64(at) | 1 << 10).to_bytes(8, "little")
    # CDs and tables share a page of stage 2: its flag is set once.
    assert outcome.writes == (MemoryWrite(at, updated),)


def test_flags_that_one_walk_sets_twice_in_a_descriptor_are_all_kept() -> None:
    """The page of the tables is read (AF), written for the update of stage 1 (dirty), and read again as the output."""
    unit = Unit("12")
    unit.cd.set_fields(0, {"HA": 1})
    unit.tables.set_fields(SID, {"S2HA": 1, "S2HD": 1})
    unit.tree.set_fields(IOVA, 1, {"AF": 0, "ADDR": TABLES_IPA + 0x8000})
    unit.outer.set_fields(TABLES_IPA, 2, {"AF": 0, "S2AP": 0b01, "DBM": 1})
    page = unit.outer.entry_address(TABLES_IPA, 2)
    entry = unit.memory.read_u64(page)
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    for write in outcome.writes:
        write.apply(unit.memory)
    assert unit.memory.read_u64(page) == entry | 1 << 10 | 0x80
    assert [write.address == page for write in outcome.writes] == [True, True, False]


# Stage 1 table walks, CLASS TT.


@pytest.mark.parametrize("level", [1, 2, 3])
def test_table_that_stage_2_does_not_map_is_a_fault_of_class_tt_7_3_13(level: int) -> None:
    unit = Unit("12")
    unit.tree.set_fields(IOVA, level + 1, {"ADDR": 0x7000_0000})
    record = record_of(unit.access())
    at = 0x7000_0000 | (IOVA >> 3 + 9 * level & 0x1FF) * 8
    assert (record.type, record.event_class) == (Smmuv3EventType.F_TRANSLATION, TT)
    assert record.ipa == at & ~0xFFF


def test_topmost_table_that_stage_2_does_not_map_is_a_fault_of_class_tt() -> None:
    unit = Unit("12")
    unit.cd.set_fields(0, {"TTB0": 0x7000_0000 >> 4})
    assert record_of(unit.access()).event_class == TT


def test_table_that_stage_2_does_not_let_read_is_a_permission_fault_of_class_tt_7_3_16() -> None:
    unit = Unit("12")
    unit.outer.map(0x7000_0000, TABLES_IPA + MOVED, 0x1000, Permissions.WRITE)
    unit.tree.set_fields(IOVA, 2, {"ADDR": 0x7000_0000})
    fault = assert_fault(unit.access(WRITE), Smmuv3EventType.F_PERMISSION, stage=2, level=1)
    record = record_of(fault)
    # The access is a write, the walk a read.
    assert (record.event_class, record.table_read, record.is_read) == (TT, True, False)


def test_unreadable_table_behind_stage_2_is_a_stage_1_walk_abort_7_3_12() -> None:
    unit = Unit("12")
    unit.outer.map(0x7000_0000, NOWHERE, 0x1000)
    unit.tree.set_fields(IOVA, 2, {"ADDR": 0x7000_0000})
    fault = assert_fault(unit.access(), Smmuv3EventType.F_WALK_EABT, stage=1, level=1)
    record = record_of(fault)
    assert (record.event_class, record.stage2) == (TT, False)
    assert record.fetch_address == NOWHERE + (IOVA >> 12 & 0x1FF) * 8


def test_stage_2_walk_abort_of_a_table_walk_has_class_tt_7_3_12() -> None:
    unit = Unit("12")
    unit.tree.set_fields(IOVA, 2, {"ADDR": 0x7000_0000})
    unit.outer.map(0x7000_0000, OUTPUT, 0x1000)
    unit.outer.set_fields(0x7000_0000, 2, {"ADDR": NOWHERE})
    fault = assert_fault(unit.access(), Smmuv3EventType.F_WALK_EABT, stage=2, level=1)
    assert record_of(fault).event_class == TT


def test_stage_1_update_needs_a_write_at_stage_2_7_3_16() -> None:
    unit = Unit("12")
    unit.cd.set_fields(0, {"HA": 1})
    unit.tree.set_fields(IOVA, 1, {"AF": 0})
    at = unit.tree.entry_address(IOVA, 1)
    entry = unit.memory.read_u64(at + MOVED)
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.writes == (MemoryWrite(at + MOVED, (entry | 1 << 10).to_bytes(8, "little")),)
    unit.outer.set_fields(TABLES_IPA, 2, {"S2AP": 0b01})
    fault = assert_fault(unit.access(), Smmuv3EventType.F_PERMISSION, stage=2, level=2)
    record = record_of(fault)
    assert (record.event_class, record.table_read, record.ipa) == (TT, False, at & ~0xFFF)
    assert fault.writes == ()


def with_flags_to_set(unit: Unit) -> list[MemoryWrite]:
    """Stage 2 sets access flags, which the tables' page and the page itself lack; the updates, in their order."""
    unit.tables.set_fields(SID, {"S2HA": 1})
    writes = []
    for address, level in ((TABLES_IPA, 2), (IPA, 1)):
        unit.outer.set_fields(address, level, {"AF": 0})
        at = unit.outer.entry_address(address, level)
        writes.append(MemoryWrite(at, (unit.memory.read_u64(at) | 1 << 10).to_bytes(8, "little")))
    return writes


@pytest.mark.parametrize("settings", [{}, {"substream_bits": 8, "context_format": 1}])
def test_each_stage_2_descriptor_on_the_way_has_its_own_update_once_3_13(settings: dict[str, int]) -> None:
    unit = Unit("12", **settings)  # type: ignore[arg-type]
    writes = with_flags_to_set(unit)
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert list(outcome.writes) == writes


@pytest.mark.parametrize("settings", [{}, {"substream_bits": 8, "context_format": 1}])
def test_stage_2_flags_are_set_though_the_cd_is_bad_3_13(settings: dict[str, int]) -> None:
    unit = Unit("12", **settings)  # type: ignore[arg-type]
    writes = with_flags_to_set(unit)
    unit.cd.set_fields(0, {"V": 0})
    fault = assert_fault(unit.access(), Smmuv3EventType.C_BAD_CD)
    assert list(fault.writes) == writes[:1]


def test_stage_1_update_marks_its_stage_2_page_dirty_3_13_5() -> None:
    unit = Unit("12")
    unit.cd.set_fields(0, {"HA": 1})
    unit.tables.set_fields(SID, {"S2HA": 1, "S2HD": 1})
    unit.tree.set_fields(IOVA, 1, {"AF": 0})
    unit.outer.set_fields(TABLES_IPA, 2, {"S2AP": 0b01, "DBM": 1})
    page = unit.outer.entry_address(TABLES_IPA, 2)
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert [write.address for write in outcome.writes] == [page, unit.tree.entry_address(IOVA, 1) + MOVED]


def test_stage_1_flags_are_set_though_stage_2_faults_afterwards() -> None:
    unit = Unit("12")
    unit.cd.set_fields(0, {"HA": 1})
    unit.tree.set_fields(IOVA, 1, {"AF": 0})
    unit.outer.unmap(IPA, 0x1000)
    fault = assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION, stage=2)
    assert len(fault.writes) == 1


@pytest.mark.parametrize(
    ("memattr", "fwb", "device"),
    [
        (0b0000, 0, True),
        (0b0011, 0, True),
        (0b0100, 0, False),
        (0b1111, 0, False),
        (0b0011, 1, True),
        (0b0110, 1, False),
    ],
)
def test_s2ptw_keeps_tables_out_of_device_memory_5_2(memattr: int, fwb: int, device: bool) -> None:
    unit = Unit("12", caps={"FWB": 1})
    unit.tables.set_fields(SID, {"S2PTW": 1, "S2FWB": fwb})
    unit.outer.set_fields(TABLES_IPA, 2, {"MEMATTR": memattr})
    if device:
        fault = assert_fault(unit.access(), Smmuv3EventType.F_PERMISSION, stage=2)
        assert record_of(fault).event_class == CD
        unit.tables.set_fields(SID, {"S2PTW": 0})
    assert isinstance(unit.access(), Translated)


def test_access_flag_fault_comes_before_that_of_s2ptw_7_3_22() -> None:
    unit = Unit("12")
    unit.tables.set_fields(SID, {"S2PTW": 1})
    unit.outer.set_fields(TABLES_IPA, 2, {"MEMATTR": 0, "AF": 0})
    assert_fault(unit.access(), Smmuv3EventType.F_ACCESS, stage=2)


def test_s2ptw_is_ignored_for_the_page_itself_and_without_stage_1_5_2() -> None:
    unit = Unit("12")
    unit.tables.set_fields(SID, {"S2PTW": 1})
    unit.outer.set_fields(IPA, 1, {"MEMATTR": 0})
    assert isinstance(unit.access(), Translated)


def test_iova_of_the_same_value_as_a_table_maps_nothing_by_accident() -> None:
    unit = Unit("12")
    assert_fault(unit.access(iova=TABLES_IPA), Smmuv3EventType.F_TRANSLATION, stage=1)


def test_two_streams_of_one_stage_2_do_not_touch_each_other() -> None:
    unit = Unit("12")
    entries = Stage1Format()
    other = RadixTable(unit.pages, entries, entries.levels)
    before = unit.access()
    contexts = type(unit.cd)(unit.pages)
    contexts.describe(0, other, asid=1)
    unit.tables.attach(SID + 1, contexts, unit.outer, vmid=1)
    assert unit.access() == before
    assert_fault(unit.access(requester=SID + 1), Smmuv3EventType.F_TRANSLATION, stage=1)
