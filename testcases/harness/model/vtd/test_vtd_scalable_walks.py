"""One-stage walks in scalable mode: rights, reserved bits, flags and attributes (VT-d 3.6, 3.7, 9.7, 9.8)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from vtd_units import HAW, IOVA, NOWHERE, OUTPUT, PASID, RAM, RID, Unit

from harness.model.access import (
    AccessKind,
    Attributes,
    Bypassed,
    Fault,
    MemoryWrite,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.memory import Region
from harness.model.radix import RadixTable
from harness.model.vtd import FirstStageFormat, SecondStageFormat, VtdFaultReason
from harness.model.vtd.registers import capabilities

RW = Permissions.READ | Permissions.WRITE
PAGE = Translated(OUTPUT, 0x1000, RW)
READ, WRITE = AccessKind.READ, AccessKind.WRITE
BEYOND_HAW = 1 << HAW
A1, D1, EA = 1 << 5, 1 << 6, 1 << 10
A2, D2 = 1 << 8, 1 << 9


@pytest.fixture
def first() -> Unit:
    return Unit("first")


@pytest.fixture
def second() -> Unit:
    return Unit("second")


def flags_of(outcome: Outcome) -> dict[int, int]:
    """Where the walk has written what, 64-bit entries."""
    assert isinstance(outcome, Translated | Fault)
    return {write.address: int.from_bytes(write.data, "little") for write in outcome.writes}


def entries(unit: Unit, table: RadixTable, iova: int = IOVA) -> dict[int, tuple[int, int]]:
    """Address and bits of the entry of each level on the way to an address."""
    addresses = {level: table.entry_address(iova, level) for level in range(1, table.levels + 1)}
    return {level: (address, unit.memory.read_u64(address)) for level, address in addresses.items()}


def clear_flags(unit: Unit, table: RadixTable, *names: str) -> None:
    for level in range(1, table.levels + 1):
        table.set_fields(IOVA, level, {name: 0 for name in names if name != "D" or level == 1})


# Second stage: rights.


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_entry_without_r_and_w_faults_with_reason_0x79_sss_2(second: Unit, level: int) -> None:
    second.second.set_fields(IOVA, level, {"R": 0, "W": 0, "IW": 1})
    for kind in (READ, WRITE):
        assert_fault(second.access(kind), VtdFaultReason.SECOND_STAGE_NOT_PRESENT, stage=2, level=level)


def test_rights_that_no_level_shares_fault_with_reason_0x79_sss_2(second: Unit) -> None:
    second.second.set_fields(IOVA, 2, {"R": 0})
    second.second.set_fields(IOVA, 1, {"W": 0})
    assert_fault(second.access(WRITE), VtdFaultReason.SECOND_STAGE_NOT_PRESENT, level=1)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_write_without_w_faults_with_reason_0x85_sgn_6(second: Unit, level: int) -> None:
    second.second.set_fields(IOVA, level, {"W": 0})
    assert_fault(second.access(WRITE), VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED, stage=2, level=level)
    assert second.access() == Translated(OUTPUT, 0x1000, Permissions.READ)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_read_without_r_faults_with_reason_0x86_sgn_7(second: Unit, level: int) -> None:
    second.second.set_fields(IOVA, level, {"R": 0})
    assert_fault(second.access(), VtdFaultReason.SCALABLE_READ_NOT_PERMITTED, stage=2, level=level)
    assert second.access(WRITE) == Translated(OUTPUT, 0x1000, Permissions.WRITE)


@pytest.mark.parametrize("supported", [True, False])
def test_zero_length_read_of_a_write_only_page_goes_through_only_with_zlr_3_14(second: Unit, supported: bool) -> None:
    second.cap = capabilities(zero_length_reads=supported)
    second.second.set_fields(IOVA, 1, {"R": 0})
    outcome = second.access(length=0)
    if supported:
        assert outcome == Translated(OUTPUT, 0x1000, Permissions.WRITE)
    else:
        assert_fault(outcome, VtdFaultReason.SCALABLE_READ_NOT_PERMITTED)


# Second stage: entries.


def test_second_stage_table_outside_of_memory_faults_with_reason_0x7b_sss_4(second: Unit) -> None:
    second.tables.set_pasid_fields(RID, {"SSPTPTR": NOWHERE})
    assert_fault(second.access(), VtdFaultReason.SECOND_STAGE_ROOT_ACCESS, stage=2, level=4)


@pytest.mark.parametrize("level", [2, 3, 4])
def test_lower_second_stage_table_outside_of_memory_faults_with_reason_0x78_sss_1(second: Unit, level: int) -> None:
    second.second.set_fields(IOVA, level, {"ADDR": NOWHERE})
    assert_fault(second.access(), VtdFaultReason.SECOND_STAGE_ACCESS, stage=2, level=level - 1)


@pytest.mark.parametrize(
    ("level", "fields"),
    [
        (1, {"IW": 1}),
        (1, {"ADDR": BEYOND_HAW}),
        (2, {"RSVD_11": 1}),
        (4, {"PS": 1}),
        (4, {"IW": 1}),
        (3, {"ADDR": BEYOND_HAW}),
    ],
)
def test_reserved_field_of_a_second_stage_entry_faults_with_reason_0x7a_sss_3(
    second: Unit, level: int, fields: dict[str, int]
) -> None:
    second.second.set_fields(IOVA, level, fields)
    assert_fault(second.access(), VtdFaultReason.SECOND_STAGE_RESERVED, stage=2, level=level)


@pytest.mark.parametrize(("levels", "width"), [(3, 39), (4, 48), (5, 57)])
def test_address_beyond_the_second_stages_width_faults_with_reason_0x84_sgn_5(levels: int, width: int) -> None:
    unit = Unit("second", levels)
    assert_fault(unit.access(iova=1 << width), VtdFaultReason.SCALABLE_ADDRESS_BEYOND_WIDTH, stage=2)
    assert_fault(unit.access(iova=(1 << width) - 0x1000), VtdFaultReason.SECOND_STAGE_NOT_PRESENT)


def test_address_beyond_mgaw_faults_with_reason_0x84_sgn_5(second: Unit) -> None:
    second.cap = capabilities(guest_address_width=40)
    assert_fault(second.access(iova=1 << 40), VtdFaultReason.SCALABLE_ADDRESS_BEYOND_WIDTH)


def test_io_permissions_take_the_place_of_r_and_w_with_ssirwe_11_4_5(second: Unit) -> None:
    table = RadixTable(second.tables.pages, SecondStageFormat(io_permissions=True), 4)
    table.map(IOVA, OUTPUT, 0x1000, Permissions.READ)
    second.tables.attach_pasid(RID, 7, second_stage=table)
    assert_fault(second.access(), VtdFaultReason.SECOND_STAGE_NOT_PRESENT)
    second.rtaddr |= 1 << 7
    assert second.access() == Translated(OUTPUT, 0x1000, Permissions.READ)
    assert_fault(second.access(WRITE), VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED)
    assert [mapping.permissions for mapping in second.engine.iter_mappings(RID)] == [Permissions.READ]
    table.set_fields(IOVA, 1, {"IR": 0, "R": 1, "W": 1})
    assert_fault(second.access(), VtdFaultReason.SECOND_STAGE_NOT_PRESENT)


# Second stage: flags.


def test_second_stage_flags_are_set_by_ssade_3_7_2() -> None:
    unit = Unit("second", SSADE=1, PWSNP=1)
    found = entries(unit, unit.second)
    read, written = flags_of(unit.access()), flags_of(unit.access(WRITE))
    assert read == {address: bits | A2 for address, bits in found.values()}
    assert list(read) == [found[level][0] for level in (4, 3, 2, 1)]
    assert written == {**read, found[1][0]: found[1][1] | A2 | D2}


def test_second_stage_flags_that_are_set_are_not_written_again_3_7_2() -> None:
    unit = Unit("second", SSADE=1, PWSNP=1)
    for write in unit.access(WRITE).writes:  # type: ignore[union-attr]
        write.apply(unit.memory)
    assert flags_of(unit.access(WRITE)) == {}


def test_second_stage_flags_are_ignored_without_ssade_9_8(second: Unit) -> None:
    assert second.access(WRITE) == PAGE
    second.second.set_fields(IOVA, 1, {"A": 1, "D": 1})
    assert second.access(WRITE) == PAGE


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_second_stage_flag_without_snooping_faults_with_reason_0x7c_sss_5(level: int) -> None:
    unit = Unit("second", SSADE=1)
    for other in {1, 2, 3, 4} - {level}:
        unit.second.set_fields(IOVA, other, {"A": 1})
    assert_fault(unit.access(), VtdFaultReason.SECOND_STAGE_FLAGS_NOT_SNOOPED, stage=2, level=level)
    unit.second.set_fields(IOVA, level, {"A": 1})
    assert unit.access() == PAGE
    assert_fault(unit.access(WRITE), VtdFaultReason.SECOND_STAGE_FLAGS_NOT_SNOOPED, level=1)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_second_stage_flag_in_read_only_memory_faults_with_reason_0x7d_sss_6(level: int) -> None:
    unit = Unit("second", SSADE=1, PWSNP=1)
    unit.read_only = (Region(unit.second.entry_address(IOVA, level) & ~0xFFF, 0x1000),)
    outcome = assert_fault(unit.access(), VtdFaultReason.SECOND_STAGE_FLAGS_FAILED, stage=2, level=level)
    assert len(outcome.writes) == 4 - level


def test_denied_write_sets_accessed_flags_of_tables_alone_3_7_2() -> None:
    unit = Unit("second", SSADE=1, PWSNP=1)
    unit.second.set_fields(IOVA, 1, {"W": 0})
    outcome = unit.access(WRITE)
    assert set(flags_of(outcome)) == {unit.second.entry_address(IOVA, level) for level in (4, 3, 2)}


# First stage: rights.


@pytest.mark.parametrize("levels", [4, 5])
def test_first_stage_page_is_translated_at_every_depth_3_6(levels: int) -> None:
    assert Unit("first", levels).access(iova=IOVA + 0x123) == Translated(OUTPUT + 0x123, 0x1000, RW)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_absent_first_stage_entry_faults_with_reason_0x71_sfs_2(first: Unit, level: int) -> None:
    first.first.set_fields(IOVA, level, {"P": 0, "ADDR": BEYOND_HAW, "US": 0, "RW": 0})
    assert_fault(first.access(WRITE), VtdFaultReason.FIRST_STAGE_NOT_PRESENT, stage=1, level=level)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_user_request_of_a_supervisor_page_faults_with_reason_0x81_sgn_2(first: Unit, level: int) -> None:
    first.first.set_fields(IOVA, level, {"US": 0})
    for kind in (READ, WRITE):
        assert_fault(first.access(kind), VtdFaultReason.USER_NOT_PERMITTED, stage=1, level=level)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_user_write_without_rw_faults_with_reason_0x85_sgn_6(first: Unit, level: int) -> None:
    first.first.set_fields(IOVA, level, {"RW": 0})
    assert_fault(first.access(WRITE), VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED, stage=1, level=level)
    assert first.access() == Translated(OUTPUT, 0x1000, Permissions.READ)


def supervisor(first: Unit, **fields: int) -> Unit:
    first.attach("first", PASID, SRE=1, **fields)
    return first


def test_supervisor_reads_whatever_is_present_3_6_1(first: Unit) -> None:
    unit = supervisor(first)
    unit.first.set_fields(IOVA, 2, {"US": 0})
    outcome = unit.access(pasid=PASID, privileged=True)
    assert outcome == Translated(OUTPUT, 0x1000, RW, Attributes.PRIVILEGED)
    assert_fault(unit.access(pasid=PASID), VtdFaultReason.USER_NOT_PERMITTED)


def test_supervisor_writes_read_only_pages_unless_wpe_is_set_3_6_1(first: Unit) -> None:
    unit = supervisor(first)
    unit.first.set_fields(IOVA, 1, {"RW": 0})
    assert unit.access(WRITE, pasid=PASID, privileged=True) == PAGE
    unit.tables.set_pasid_fields(RID, {"WPE": 1}, PASID)
    outcome = unit.access(WRITE, pasid=PASID, privileged=True)
    assert_fault(outcome, VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED, stage=1, level=1)
    assert unit.access(pasid=PASID, privileged=True) == Translated(OUTPUT, 0x1000, Permissions.READ)


def test_rid_priv_makes_requests_without_pasid_privileged_9_4(first: Unit) -> None:
    first.first.set_fields(IOVA, 1, {"US": 0})
    first.tables.set_pasid_fields(RID, {"SRE": 1})
    assert_fault(first.access(), VtdFaultReason.USER_NOT_PERMITTED)
    first.tables.set_context_fields(RID, {"RID_PRIV": 1})
    assert first.access() == Translated(OUTPUT, 0x1000, RW, Attributes.PRIVILEGED)
    assert len(list(first.engine.iter_mappings(RID))) == 1


# First stage: entries and addresses.


@pytest.mark.parametrize(("levels", "bits"), [(4, 48), (5, 57)])
def test_address_that_is_not_canonical_faults_with_reason_0x80_sgn_1(levels: int, bits: int) -> None:
    unit = Unit("first", levels)
    for iova in (1 << bits - 1, 1 << bits, 1 << 63, (1 << 64) - (1 << bits)):
        assert_fault(unit.access(iova=iova), VtdFaultReason.NOT_CANONICAL, stage=1)
    for iova in ((1 << bits - 1) - 0x1000, (1 << 64) - (1 << bits - 1), (1 << 64) - 0x1000):
        assert_fault(unit.access(iova=iova), VtdFaultReason.FIRST_STAGE_NOT_PRESENT)


def test_upper_half_of_the_canonical_addresses_is_mapped_3_6(first: Unit) -> None:
    top = (1 << 64) - 0x1000
    first.first.map(top, 0x9000_0000, 0x1000)
    assert first.access(iova=top) == Translated(0x9000_0000, 0x1000, RW)
    assert [mapping.iova for mapping in first.engine.iter_mappings(RID)] == [IOVA, top]


def test_first_stage_table_outside_of_memory_faults_with_reason_0x73_sfs_4(first: Unit) -> None:
    first.tables.set_pasid_fields(RID, {"FSPTPTR": NOWHERE << 128})
    assert_fault(first.access(), VtdFaultReason.FIRST_STAGE_ROOT_ACCESS, stage=1, level=4)


@pytest.mark.parametrize("level", [2, 3, 4])
def test_lower_first_stage_table_outside_of_memory_faults_with_reason_0x70_sfs_1(first: Unit, level: int) -> None:
    first.first.set_fields(IOVA, level, {"ADDR": NOWHERE})
    assert_fault(first.access(), VtdFaultReason.FIRST_STAGE_ACCESS, stage=1, level=level - 1)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_address_beyond_haw_in_a_first_stage_entry_faults_with_reason_0x72_sfs_3(first: Unit, level: int) -> None:
    first.first.set_fields(IOVA, level, {"ADDR": BEYOND_HAW})
    assert_fault(first.access(), VtdFaultReason.FIRST_STAGE_RESERVED, stage=1, level=level)


@pytest.mark.parametrize(("levels", "level"), [(4, 4), (5, 4), (5, 5)])
def test_page_size_bit_above_level_3_faults_with_reason_0x72_sfs_3(levels: int, level: int) -> None:
    unit = Unit("first", levels)
    unit.first.set_fields(IOVA, level, {"PS": 1})
    assert_fault(unit.access(), VtdFaultReason.FIRST_STAGE_RESERVED, stage=1, level=level)


def test_gigabyte_page_that_fs1gp_lacks_faults_with_reason_0x72_sfs_3(first: Unit) -> None:
    first.first.map(1 << 30, 0x4000_0000, 1 << 30)
    assert first.access(iova=1 << 30) == Translated(0x4000_0000, 1 << 30, RW)
    first.cap = capabilities(first_stage_1g_pages=False)
    assert_fault(first.access(iova=1 << 30), VtdFaultReason.FIRST_STAGE_RESERVED, stage=1, level=3)


@pytest.mark.parametrize(("shift", "bit"), [(21, 13), (21, 20), (30, 13), (30, 29)])
def test_address_bits_below_a_large_page_fault_with_reason_0x72_sfs_3(first: Unit, shift: int, bit: int) -> None:
    first.first.map(1 << 30, 0x4000_0000, 1 << shift, overrides={"ADDR": 0x4000_0000 | 1 << bit})
    assert_fault(first.access(iova=1 << 30), VtdFaultReason.FIRST_STAGE_RESERVED, stage=1)


@pytest.mark.parametrize("shift", [21, 30])
def test_bit_12_of_a_large_page_is_pat_and_no_address_9_7(first: Unit, shift: int) -> None:
    first.first.map(1 << 30, 0x4000_0000, 1 << shift, overrides={"PAT": 1})
    assert first.access(iova=(1 << 30) + 0x5123) == Translated(0x4000_5123, 1 << shift, RW)


@pytest.mark.parametrize(
    "fields", [{"PWT": 1}, {"PCD": 1}, {"PAT": 1}, {"G": 1}, {"IGN_9": 1}, {"EA": 1}, {"IGN_11": 1}, {"IGN_52": 0xFFF}]
)
def test_ignored_bits_of_a_first_stage_page_are_ignored_9_7(first: Unit, fields: dict[str, int]) -> None:
    first.first.set_fields(IOVA, 1, fields)
    assert first.access(WRITE) == PAGE


# First stage: flags.


def test_first_stage_flags_are_set_3_6_2() -> None:
    unit = Unit("first", PWSNP=1)
    clear_flags(unit, unit.first, "A", "D")
    found = entries(unit, unit.first)
    read, written = flags_of(unit.access()), flags_of(unit.access(WRITE))
    assert read == {address: bits | A1 for address, bits in found.values()}
    assert list(read) == [found[level][0] for level in (4, 3, 2, 1)]
    assert written == {**read, found[1][0]: found[1][1] | A1 | D1}
    first_write = unit.access().writes[0]  # type: ignore[union-attr]
    assert first_write == MemoryWrite(found[4][0], (found[4][1] | A1).to_bytes(8, "little"))


def test_extended_accessed_flag_is_set_by_eafe_3_6_2() -> None:
    unit = Unit("first", PWSNP=1, EAFE=1)
    found = entries(unit, unit.first)
    assert flags_of(unit.access()) == {address: bits | EA for address, bits in found.values()}


def test_first_stage_flags_that_are_set_are_not_written_again_3_6_2(first: Unit) -> None:
    assert first.access(WRITE) == PAGE


def test_entry_that_a_walk_uses_twice_keeps_the_flags_that_it_has_set() -> None:
    unit = Unit("first", PWSNP=1)
    table = RadixTable(unit.tables.pages, FirstStageFormat(preset_flags=False), 4)
    # The topmost entry leads to its own table: it is PML4E, PDPE, PDE and PTE of address 0.
    unit.memory.write_u64(table.root, table.format.table_entry(table.root, 4))
    unit.tables.attach_pasid(RID, 7, first_stage=table, overrides={"PWSNP": 1})
    entry = unit.memory.read_u64(table.root)
    outcome = unit.access(WRITE, iova=0)
    assert outcome == Translated(
        table.root,
        0x1000,
        RW,
        writes=tuple(MemoryWrite(table.root, (entry | flags).to_bytes(8, "little")) for flags in (A1, A1 | D1)),
    )


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_first_stage_flag_without_snooping_faults_with_reason_0x90_sfs_9(first: Unit, level: int) -> None:
    first.first.set_fields(IOVA, level, {"A": 0})
    assert_fault(first.access(), VtdFaultReason.FIRST_STAGE_FLAGS_NOT_SNOOPED, stage=1, level=level)


def test_dirty_flag_without_snooping_faults_with_reason_0x90_sfs_9(first: Unit) -> None:
    first.first.set_fields(IOVA, 1, {"D": 0})
    assert first.access() == PAGE
    assert_fault(first.access(WRITE), VtdFaultReason.FIRST_STAGE_FLAGS_NOT_SNOOPED, stage=1, level=1)


def test_first_stage_flag_in_read_only_memory_faults_with_reason_0x91_sfs_10() -> None:
    unit = Unit("first", PWSNP=1)
    unit.first.set_fields(IOVA, 1, {"A": 0})
    unit.read_only = (Region(0, RAM),)
    assert_fault(unit.access(), VtdFaultReason.FIRST_STAGE_FLAGS_FAILED, stage=1, level=1)


def test_blocked_write_does_not_make_its_page_dirty_3_6_2() -> None:
    unit = Unit("first", PWSNP=1)
    unit.first.set_fields(IOVA, 1, {"A": 0, "D": 0, "ADDR": 0xFEE0_0000})
    outcome = assert_fault(unit.access(WRITE), VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE)
    assert outcome.writes == ()


# Addresses that are not memory, and attributes.


@pytest.mark.parametrize("stages", ["first", "second"])
def test_output_in_the_interrupt_range_faults_with_reason_0x87_sgn_8(stages: str) -> None:
    unit = Unit(stages)
    table = unit.first if stages == "first" else unit.second
    table.map(1 << 30, 0xFEE0_0000, 0x1000)
    outcome = unit.access(iova=1 << 30)
    assert_fault(outcome, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE, stage=1 if stages == "first" else 2)


@pytest.mark.parametrize("stages", ["first", "second"])
def test_large_page_faults_with_reason_0x87_only_where_it_leads_into_the_range_sgn_8(stages: str) -> None:
    unit = Unit(stages)
    table = unit.first if stages == "first" else unit.second
    table.map(1 << 30, 0xC000_0000, 1 << 30)
    assert isinstance(unit.access(iova=(1 << 30) + 0x3EDF_FFFC), Translated)
    outcome = unit.access(iova=(1 << 30) + 0x3EE0_0000)
    assert_fault(outcome, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE)
    assert isinstance(unit.access(iova=(1 << 30) + 0x3EF0_0000), Translated)


@pytest.mark.parametrize("stages", ["first", "second"])
def test_request_with_pasid_to_the_interrupt_range_is_translated_3_15(stages: str) -> None:
    unit = Unit(stages)
    unit.attach(stages, PASID)
    table = unit.first if stages == "first" else unit.second
    table.map(0xFEE0_0000, 0x9000_0000, 0x1000)
    assert unit.access(WRITE, iova=0xFEE0_0000, pasid=PASID) == Translated(0x9000_0000, 0x1000, RW)


@pytest.mark.parametrize("stages", ["", "first", "second"])
def test_illegal_request_without_pasid_to_the_interrupt_range_faults_with_reason_0x87_3_15(stages: str) -> None:
    unit = Unit(stages)
    outcome = assert_fault(unit.access(iova=0xFEE0_0000), VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE)
    assert outcome.record is not None


def test_pass_through_with_pasid_to_the_interrupt_range_faults_with_reason_0x87_3_15() -> None:
    unit = Unit("")
    unit.attach("", PASID)
    assert isinstance(unit.access(WRITE, pasid=PASID), Bypassed)
    outcome = unit.access(WRITE, iova=0xFEE0_0000, pasid=PASID)
    assert_fault(outcome, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE)


def test_pass_through_beyond_the_host_width_faults_with_reason_0x83_sgn_4_2() -> None:
    unit = Unit("")
    assert isinstance(unit.access(iova=(1 << HAW) - 0x1000), Bypassed)
    assert_fault(unit.access(iova=1 << HAW), VtdFaultReason.BEYOND_HOST_WIDTH)


@pytest.mark.parametrize(
    ("stages", "pgsnp", "snp", "snooped"),
    [
        ("first", 0, 0, False),
        ("first", 1, 0, True),
        ("second", 0, 0, False),
        ("second", 1, 0, True),
        ("second", 0, 1, True),
    ],
)
def test_snoop_attribute_is_pgsnp_or_snp_3_10(stages: str, pgsnp: int, snp: int, snooped: bool) -> None:
    unit = Unit(stages, PGSNP=pgsnp)
    unit.second.set_fields(IOVA, 1, {"SNP": snp})
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert (Attributes.SNOOP in outcome.attributes) == snooped
