"""Nested translation: a first stage whose tables and pages lie in a second one (VT-d 3.8)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from vtd_units import IOVA, OUTPUT, RID, Unit

from harness.model.access import AccessKind, Attributes, Mapping, Permissions, Translated
from harness.model.memory import OffsetMemory, Region, SparseMemory
from harness.model.radix import PageAllocator, RadixTable
from harness.model.vtd import FirstStageFormat, SecondStageFormat, VtdFaultReason, VtdScalableTables
from harness.model.vtd.registers import capabilities

RW = Permissions.READ | Permissions.WRITE
PAGE = Translated(OUTPUT, 0x1000, RW)
READ, WRITE = AccessKind.READ, AccessKind.WRITE
GPA = 0x180_0000  # of the page at IOVA
A2, D2 = 1 << 8, 1 << 9


@pytest.fixture
def unit() -> Unit:
    """The page of each first-stage table has a second-stage entry of its own."""
    unit = Unit("nested")
    unit.second.split(table_of(unit, 4))
    return unit


def table_of(unit: Unit, level: int) -> int:
    """Guest-physical address of the first-stage table of a level on the way to IOVA."""
    return unit.first.entry_address(IOVA, level) & ~0xFFF


def test_page_is_translated_by_both_stages_3_8(unit: Unit) -> None:
    assert unit.access(iova=IOVA + 0x123) == Translated(OUTPUT + 0x123, 0x1000, RW)


def test_guest_tables_are_read_where_the_second_stage_puts_them_3_8() -> None:
    unit = Unit("nested")
    unit.memory = host = SparseMemory((Region(0, 0x200_0000),))
    unit.tables = VtdScalableTables(host, 0x1000)
    unit.rtaddr = unit.tables.root | 1 << 10
    unit.tables.attach(RID)
    guest = OffsetMemory(host, 0x100_0000)
    unit.first = RadixTable(PageAllocator(guest, 0x40_0000), FirstStageFormat(), 4)
    unit.first.map(IOVA, 0x50_0000, 0x1000)
    unit.second = RadixTable(unit.tables.pages, SecondStageFormat(), 4)
    unit.second.map(0, 0x100_0000, 0x60_0000)
    unit.attach("nested")
    assert unit.access() == Translated(0x150_0000, 0x1000, RW)
    assert list(unit.engine.iter_mappings(RID)) == [Mapping(IOVA, 0x150_0000, 0x1000, RW)]
    unit.attach("first")
    assert_fault(unit.access(), VtdFaultReason.FIRST_STAGE_NOT_PRESENT, level=4)


@pytest.mark.parametrize(("first", "second"), [(12, 21), (21, 12), (21, 21), (30, 21), (21, 30)])
def test_size_is_that_of_the_smaller_page_3_8(first: int, second: int) -> None:
    unit = Unit("nested")
    unit.first.map(1 << 30, 1 << 31, 1 << first)
    unit.second.map(1 << 31, 1 << 32, 1 << max(first, second), largest_page=1 << second)
    offset = (1 << first) - 0x1000
    assert unit.access(iova=(1 << 30) + offset) == Translated((1 << 32) + offset, 1 << min(first, second), RW)


# The second stage of first-stage tables.


def test_topmost_table_that_may_not_be_read_faults_with_reason_0x75_sfs_6(unit: Unit) -> None:
    unit.second.set_fields(table_of(unit, 4), 1, {"R": 0})
    assert_fault(unit.access(), VtdFaultReason.FIRST_STAGE_ROOT_UNREADABLE, stage=1, level=4)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_lower_table_that_may_not_be_read_faults_with_reason_0x76_sfs_7(unit: Unit, level: int) -> None:
    unit.second.set_fields(table_of(unit, level), 1, {"R": 0})
    assert_fault(unit.access(), VtdFaultReason.FIRST_STAGE_ENTRY_UNREADABLE, stage=1, level=level)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_table_that_the_second_stage_lacks_faults_with_reason_0x79_sss_2(unit: Unit, level: int) -> None:
    unit.second.set_fields(table_of(unit, level), 1, {"R": 0, "W": 0})
    assert_fault(unit.access(), VtdFaultReason.SECOND_STAGE_NOT_PRESENT, stage=2, level=1)


def test_table_that_may_only_be_read_is_enough_while_its_flags_are_set_3_8_1(unit: Unit) -> None:
    for level in (1, 2, 3, 4):
        unit.second.set_fields(table_of(unit, level), 1, {"W": 0})
    assert unit.access(WRITE) == PAGE


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_flag_in_a_table_that_may_not_be_written_faults_with_reason_0x77_sfs_8(unit: Unit, level: int) -> None:
    unit.tables.set_pasid_fields(RID, {"PWSNP": 1})
    unit.second.set_fields(table_of(unit, level), 1, {"W": 0})
    unit.first.set_fields(IOVA, level, {"A": 0})
    assert_fault(unit.access(), VtdFaultReason.FIRST_STAGE_FLAGS_UNWRITABLE, stage=1, level=level)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_ssade_wants_tables_to_be_writable_3_8_1(unit: Unit, level: int) -> None:
    unit.tables.set_pasid_fields(RID, {"PWSNP": 1, "SSADE": 1})
    assert isinstance(unit.access(), Translated)
    unit.second.set_fields(table_of(unit, level), 1, {"W": 0})
    assert_fault(unit.access(), VtdFaultReason.FIRST_STAGE_FLAGS_UNWRITABLE, stage=1, level=level)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_first_stage_address_beyond_the_second_stages_width_faults_with_reason_0x74_sfs_5(level: int) -> None:
    unit = Unit("nested", 3)
    unit.first.set_fields(IOVA, level, {"ADDR": 1 << 39})
    assert_fault(unit.access(), VtdFaultReason.FIRST_STAGE_ADDRESS_BEYOND_WIDTH, stage=1, level=level)


def test_first_stage_address_beyond_mgaw_faults_with_reason_0x74_sfs_5(unit: Unit) -> None:
    unit.cap = capabilities(guest_address_width=40)
    unit.first.set_fields(IOVA, 1, {"ADDR": 1 << 40})
    assert_fault(unit.access(), VtdFaultReason.FIRST_STAGE_ADDRESS_BEYOND_WIDTH, stage=1, level=1)


# The second stage of the page.


def test_write_needs_the_right_of_both_stages_3_8_1(unit: Unit) -> None:
    unit.second.set_fields(GPA, 1, {"W": 0})
    assert_fault(unit.access(WRITE), VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED, stage=2, level=1)
    assert unit.access() == Translated(OUTPUT, 0x1000, Permissions.READ)
    unit.second.set_fields(GPA, 1, {"W": 1})
    unit.first.set_fields(IOVA, 1, {"RW": 0})
    assert_fault(unit.access(WRITE), VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED, stage=1, level=1)
    assert unit.access() == Translated(OUTPUT, 0x1000, Permissions.READ)


def test_read_needs_the_right_of_the_second_stage_3_8_1(unit: Unit) -> None:
    unit.second.set_fields(GPA, 1, {"R": 0})
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_READ_NOT_PERMITTED, stage=2, level=1)
    assert unit.access(WRITE) == Translated(OUTPUT, 0x1000, Permissions.WRITE)
    assert unit.access(length=0) == Translated(OUTPUT, 0x1000, Permissions.WRITE)


def test_page_that_the_second_stage_lacks_faults_with_reason_0x79_sss_2(unit: Unit) -> None:
    unit.second.unmap(GPA, 0x1000)
    assert_fault(unit.access(), VtdFaultReason.SECOND_STAGE_NOT_PRESENT, stage=2, level=1)


def test_output_of_both_stages_in_the_interrupt_range_faults_with_reason_0x87_sgn_8(unit: Unit) -> None:
    unit.second.set_fields(GPA, 1, {"ADDR": 0xFEE0_0000})
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE, stage=2)


def test_guest_physical_address_in_the_interrupt_range_is_no_output_3_15(unit: Unit) -> None:
    unit.first.set_fields(IOVA, 1, {"ADDR": 0xFEE0_0000})
    unit.second.map(0xFEE0_0000, 0x9000_0000, 0x1000)
    assert unit.access() == Translated(0x9000_0000, 0x1000, RW)


def test_snp_of_the_pages_second_stage_entry_counts_3_10(unit: Unit) -> None:
    unit.second.set_fields(GPA, 1, {"SNP": 1})
    assert unit.access() == Translated(OUTPUT, 0x1000, RW, Attributes.SNOOP)


# Flags.


def test_both_stages_set_their_flags_in_the_order_of_the_walk_3_8_1() -> None:
    unit = Unit("nested", PWSNP=1, SSADE=1)
    outcome = unit.access(WRITE)
    assert isinstance(outcome, Translated)
    second = [unit.second.entry_address(table_of(unit, 4), level) for level in (4, 3, 2)]
    page = [unit.second.entry_address(GPA, level) for level in (2, 1)]
    # The first-stage flags are preset. Its tables share a 2 MiB page, which counts as written.
    assert [write.address for write in outcome.writes] == [*second, *page]
    final = {write.address: int.from_bytes(write.data, "little") for write in outcome.writes}
    assert final[second[2]] & (A2 | D2) == A2 | D2
    assert final[page[1]] & (A2 | D2) == A2 | D2
    assert final[second[0]] & (A2 | D2) == A2


def test_reading_leaves_the_pages_dirty_flag_clear_3_7_2() -> None:
    unit = Unit("nested", PWSNP=1, SSADE=1)
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    final = {write.address: int.from_bytes(write.data, "little") for write in outcome.writes}
    assert final[unit.second.entry_address(GPA, 1)] & (A2 | D2) == A2


def test_flags_of_the_tables_stay_set_where_the_page_itself_faults_3_7_2() -> None:
    unit = Unit("nested", PWSNP=1, SSADE=1)
    unit.second.set_fields(GPA, 1, {"ADDR": 0xFEE0_0000})
    outcome = assert_fault(unit.access(WRITE), VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE, stage=2)
    second = [unit.second.entry_address(table_of(unit, 4), level) for level in (4, 3, 2)]
    assert [write.address for write in outcome.writes] == [*second, unit.second.entry_address(GPA, 2)]


def test_first_stage_flags_are_written_at_host_addresses(unit: Unit) -> None:
    unit.tables.set_pasid_fields(RID, {"PWSNP": 1})
    unit.first.set_fields(IOVA, 1, {"A": 0, "D": 0})
    outcome = unit.access(WRITE)
    assert isinstance(outcome, Translated)
    assert [write.address for write in outcome.writes] == [unit.first.entry_address(IOVA, 1)]


def test_write_that_the_second_stage_denies_leaves_the_first_stages_page_clean_3_6_2(unit: Unit) -> None:
    unit.tables.set_pasid_fields(RID, {"PWSNP": 1})
    unit.first.set_fields(IOVA, 1, {"A": 0, "D": 0})
    unit.second.set_fields(GPA, 1, {"W": 0})
    outcome = assert_fault(unit.access(WRITE), VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED, stage=2)
    assert outcome.writes == ()


# Listing.


def test_listing_has_a_piece_for_each_page_of_either_stage(unit: Unit) -> None:
    unit.first.map(1 << 30, 1 << 31, 3 << 21)
    unit.second.map(1 << 31, 1 << 33, 1 << 21)
    unit.second.map((1 << 31) + (2 << 21), 1 << 34, 0x2000, Permissions.READ)
    listed = list(unit.engine.iter_mappings(RID))
    assert listed == [
        Mapping(IOVA, OUTPUT, 0x1000, RW),
        Mapping(1 << 30, 1 << 33, 1 << 21, RW),
        Mapping((1 << 30) + (2 << 21), 1 << 34, 0x1000, Permissions.READ),
        Mapping((1 << 30) + (2 << 21) + 0x1000, (1 << 34) + 0x1000, 0x1000, Permissions.READ),
    ]


def test_listing_does_not_look_at_flags() -> None:
    unit = Unit("nested", SSADE=1)
    assert list(unit.engine.iter_mappings(RID)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)]
    assert_fault(unit.access(), VtdFaultReason.SECOND_STAGE_FLAGS_NOT_SNOOPED, stage=2, level=4)


def test_listing_leaves_out_tables_and_pages_that_the_second_stage_lacks(unit: Unit) -> None:
    unit.second.set_fields(table_of(unit, 1), 1, {"R": 0})
    assert list(unit.engine.iter_mappings(RID)) == []
