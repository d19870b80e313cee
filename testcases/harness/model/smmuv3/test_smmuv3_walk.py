"""Walks of VMSAv8-64 tables: which table, which level, which faults (IHI 0070 3.4, 7.3.13 to 7.3.16; DDI 0487 D8)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from smmuv3_unit import EXECUTE, IOVA, NOWHERE, OUTPUT, RAM, READ, SID, WRITE, Unit, record_of

from harness.model.access import AccessKind, Attributes, Fault, MemoryWrite, Permissions, Translated
from harness.model.radix import RadixTable
from harness.model.smmuv3 import Smmuv3EventClass, Smmuv3EventType, Stage1Format, Stage2Format
from harness.model.smmuv3.permissions import stage1_rights, stage2_rights

TOP = 1 << 64
DBM, AF = 1 << 51, 1 << 10


# Blocks, pages and levels.

SIZES = [
    (12, 1, 12),
    (12, 2, 21),
    (12, 3, 30),
    (14, 1, 14),
    (14, 2, 25),
    (16, 1, 16),
    (16, 2, 29),
]


@pytest.mark.parametrize("stages", ["1", "2"])
@pytest.mark.parametrize(("granule", "level", "shift"), SIZES)
def test_block_or_page_of_every_level_translates(stages: str, granule: int, level: int, shift: int) -> None:
    unit = Unit(stages, granule=granule, granule2=granule)
    unit.tree.map(1 << 34, 1 << 35, 1 << shift, largest_page=1 << shift)
    offset = (1 << shift) - 4
    outcome = unit.access(iova=(1 << 34) + offset)
    assert isinstance(outcome, Translated)
    assert (outcome.address, outcome.size) == ((1 << 35) + offset, 1 << shift)


@pytest.mark.parametrize(("granule", "level"), [(12, 4), (14, 3), (14, 4), (16, 3)])
def test_block_at_a_level_that_has_none_is_a_translation_fault(granule: int, level: int) -> None:
    unit = Unit(granule=granule)
    unit.tree.set_fields(IOVA, level, {"TABLE": 0, "ADDR": 0})
    assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION, stage=1, level=level)


@pytest.mark.parametrize("stages", ["1", "2"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_descriptor_that_is_not_valid_is_a_translation_fault(stages: str, level: int) -> None:
    unit = Unit(stages)
    unit.tree.set_fields(IOVA, level, {"VALID": 0})
    assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION, stage=int(stages), level=level)


def test_block_type_in_the_last_level_is_a_translation_fault() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"PAGE": 0})
    assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION, stage=1, level=1)


@pytest.mark.parametrize("stages", ["1", "2"])
def test_unreadable_table_is_a_walk_abort_with_its_address_7_3_12(stages: str) -> None:
    unit = Unit(stages)
    unit.tree.set_fields(IOVA, 2, {"ADDR": NOWHERE})
    fault = assert_fault(unit.access(), Smmuv3EventType.F_WALK_EABT, stage=int(stages), level=1)
    record = record_of(fault)
    assert record.fetch_address == NOWHERE + (IOVA >> 12 & 0x1FF) * 8
    # 7.3.12: at stage 1 CLASS is TT.
    assert record.event_class == (Smmuv3EventClass.TT if stages == "1" else Smmuv3EventClass.IN)
    assert (record.input_address, record.stage2) == (IOVA, stages == "2")


def test_table_at_the_end_of_memory_is_read() -> None:
    unit = Unit()
    unit.memory.write_u64(RAM - 8, (OUTPUT | 0x0060_0000_0000_0F43))
    unit.tree.set_fields(0x1F_F000, 2, {"VALID": 1, "TABLE": 1, "ADDR": RAM - 0x1000})
    assert isinstance(unit.access(iova=0x1F_F000), Translated)


# Input addresses.


@pytest.mark.parametrize("size", [25, 30, 32, 39, 42, 48])
@pytest.mark.parametrize("granule", [12, 14, 16])
def test_txsz_bounds_the_input_3_4(size: int, granule: int) -> None:
    unit = Unit()
    entries = Stage1Format(granule, input_bits=size)
    table = RadixTable(unit.pages, entries, entries.levels)
    last = (1 << size) - (1 << granule)
    table.map(last, OUTPUT, 1 << granule)
    unit.cd.describe(0, table)
    assert isinstance(unit.access(iova=last), Translated)
    assert_fault(unit.access(iova=1 << size), Smmuv3EventType.F_TRANSLATION, stage=1)
    assert_fault(unit.access(iova=TOP - 4), Smmuv3EventType.F_TRANSLATION, stage=1)


@pytest.mark.parametrize("size", [25, 39, 48])
def test_ttb1_serves_the_top_of_the_address_space_3_4_1(size: int) -> None:
    unit = Unit()
    entries = Stage1Format(14, input_bits=size)
    upper = RadixTable(unit.pages, entries, entries.levels)
    upper.map(0x8000, OUTPUT + 0x1_0000, 0x4000)
    unit.cd.describe(0, unit.tree, upper=upper)
    outcome = unit.access(iova=TOP - (1 << size) + 0x8010)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT + 0x1_0010
    assert isinstance(unit.access(), Translated)
    assert_fault(unit.access(iova=TOP - (1 << size) - 4), Smmuv3EventType.F_TRANSLATION, stage=1)


@pytest.mark.parametrize(("disabled", "iova"), [("EPD0", IOVA), ("EPD1", TOP - 0x1000)])
def test_disabled_table_is_a_translation_fault_5_4_1_1(disabled: str, iova: int) -> None:
    unit = Unit()
    upper = RadixTable(unit.pages, Stage1Format(), 4)
    upper.map((1 << 48) - 0x1000, OUTPUT, 0x1000)
    unit.cd.describe(0, unit.tree, upper=upper)
    assert isinstance(unit.access(iova=iova), Translated)
    unit.cd.set_fields(0, {disabled: 1})
    fault = assert_fault(unit.access(iova=iova), Smmuv3EventType.F_TRANSLATION, stage=1)
    assert fault.level is None


@pytest.mark.parametrize("tag", [0x01, 0x80, 0xFF])
def test_tbi_ignores_the_top_byte_5_4(tag: int) -> None:
    unit = Unit()
    assert_fault(unit.access(iova=tag << 56 | IOVA), Smmuv3EventType.F_TRANSLATION)
    unit.cd.set_fields(0, {"TBI0": 1})
    outcome = unit.access(iova=tag << 56 | IOVA)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT
    # 3.4.1: all bits of the address are recorded.
    assert record_of(unit.access(iova=tag << 56 | 0x5000)).input_address == tag << 56 | 0x5000
    assert_fault(unit.access(iova=1 << 48 | IOVA), Smmuv3EventType.F_TRANSLATION)


def test_tbi1_is_of_the_upper_table_alone_5_4() -> None:
    unit = Unit()
    upper = RadixTable(unit.pages, Stage1Format(), 4)
    upper.map(0x1000, OUTPUT, 0x1000)
    unit.cd.describe(0, unit.tree, upper=upper, overrides={"TBI1": 1})
    assert isinstance(unit.access(iova=0x00FF_0000_0000_1000), Translated)
    assert_fault(unit.access(iova=0x0100_0000_0000_1000), Smmuv3EventType.F_TRANSLATION)


def test_el2_regime_has_no_upper_table_5_4_1() -> None:
    unit = Unit(caps={"HYP": 1})
    upper = RadixTable(unit.pages, Stage1Format(), 4)
    upper.map(0x1000, OUTPUT, 0x1000)
    unit.cd.describe(0, unit.tree, upper=upper)
    iova = TOP - (1 << 48) + 0x1000
    assert isinstance(unit.access(iova=iova), Translated)
    unit.tables.set_fields(SID, {"STRW": 0b10})
    assert_fault(unit.access(iova=iova), Smmuv3EventType.F_TRANSLATION, stage=1)
    assert isinstance(unit.access(), Translated)


@pytest.mark.parametrize(("granule", "size", "levels"), [(12, 16, 1), (14, 16, 1), (16, 17, 1)])
def test_small_tables_start_at_the_last_level(granule: int, size: int, levels: int) -> None:
    unit = Unit(caps={"STT": 1})
    entries = Stage1Format(granule, input_bits=size)
    assert entries.levels == levels
    table = RadixTable(unit.pages, entries, levels)
    table.map(1 << granule if size > granule + 1 else 0, OUTPUT, 1 << granule)
    unit.cd.describe(0, table)
    assert isinstance(unit.access(iova=1 << granule if size > granule + 1 else 0), Translated)


@pytest.mark.parametrize("granule", [12, 14, 16])
def test_52_bits_of_input_and_output_translate(granule: int) -> None:
    unit = Unit(caps={"address_bits": 52, "VAX": 1, "DS": 1})
    entries = Stage1Format(granule, input_bits=52, address_bits=52)
    table = RadixTable(unit.pages, entries, entries.levels)
    iova, output = (1 << 52) - (1 << granule), 0x6_EDCB_A987_0000
    table.map(iova, output, 1 << granule)
    unit.cd.describe(0, table)
    outcome = unit.access(iova=iova)
    assert isinstance(outcome, Translated)
    assert outcome.address == output


@pytest.mark.parametrize(("granule", "shift"), [(12, 39), (14, 36), (16, 42)])
def test_52_bit_addresses_add_a_size_of_block(granule: int, shift: int) -> None:
    unit = Unit(caps={"address_bits": 52, "VAX": 1, "DS": 1})
    entries = Stage1Format(granule, input_bits=52, address_bits=52)
    table = RadixTable(unit.pages, entries, entries.levels)
    table.map(1 << 50, 1 << 51, 1 << shift)
    unit.cd.describe(0, table)
    outcome = unit.access(iova=(1 << 50) + 0x1234)
    assert isinstance(outcome, Translated)
    assert (outcome.address, outcome.size) == ((1 << 51) + 0x1234, 1 << shift)


# Stage 2: start levels and tables side by side.


@pytest.mark.parametrize(
    ("granule", "levels", "size"),
    [
        *((12, 2, 31), (12, 2, 34), (12, 3, 31), (12, 3, 40), (12, 3, 43), (12, 4, 40), (12, 4, 48)),
        *((14, 2, 40), (14, 3, 37), (14, 3, 48), (16, 2, 30), (16, 2, 46), (16, 3, 43), (16, 3, 48)),
    ],
)
def test_stage_2_starts_where_sl0_says_and_joins_up_to_16_tables(granule: int, levels: int, size: int) -> None:
    unit = Unit("2", granule2=granule)
    table = RadixTable(unit.pages, Stage2Format(granule, input_bits=size), levels)
    iova = (1 << size) - (1 << granule)
    table.map(iova, OUTPUT, 1 << granule)
    unit.tables.attach(SID, None, table)
    outcome = unit.access(iova=iova)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT
    assert_fault(unit.access(iova=(1 << size) % (1 << 48)), Smmuv3EventType.F_TRANSLATION, stage=2)


def test_stage_2_of_16_kb_starts_at_level_0_with_ds_whatever_the_oas_5_2() -> None:
    unit = Unit("2", caps={"DS": 1, "address_bits": 48})
    table = RadixTable(unit.pages, Stage2Format(14, input_bits=48, address_bits=52), 4)
    iova = (1 << 48) - (1 << 14)
    table.map(iova, OUTPUT, 1 << 14)
    unit.tables.attach(SID, None, table)
    outcome = unit.access(iova=iova)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT
    # DDI 0487 D8: S2SL0 0b11 is reserved without DS.
    unit.tables.set_fields(SID, {"S2DS": 0})
    assert_fault(unit.access(iova=iova), Smmuv3EventType.C_BAD_STE)


@pytest.mark.parametrize("stages", ["1", "2"])
def test_topmost_table_is_aligned_to_64_bytes_where_the_output_has_52_bits_5_2_5_4(stages: str) -> None:
    unit = Unit(stages, caps={"address_bits": 52})
    # Two entries of 512 MB: 16 bytes.
    entries = (Stage1Format if stages == "1" else Stage2Format)(16, input_bits=30, address_bits=52)
    table = RadixTable(unit.pages, entries, 2)
    table.map(IOVA, OUTPUT, 1 << 16)
    if stages == "1":
        unit.cd.describe(0, table)
        unit.cd.set_fields(0, {"TTB0": table.root + 0x30 >> 4})
    else:
        unit.tables.attach(SID, None, table)
        unit.tables.set_fields(SID, {"S2TTB": table.root + 0x30 >> 4})
    assert isinstance(unit.access(), Translated)


def test_stage_2_table_is_aligned_to_all_its_joined_tables_5_2() -> None:
    unit = Unit("2")
    # 40 bits with 3 levels: two tables of 4 KB side by side.
    unit.tables.set_fields(SID, {"S2TTB": unit.outer.root >> 4 | 0x1FF})
    assert isinstance(unit.access(), Translated)


# Output addresses.


@pytest.mark.parametrize(("ips", "bits"), [(0, 32), (1, 36), (2, 40), (3, 42), (4, 44), (5, 48)])
def test_output_beyond_ips_is_an_address_size_fault_3_4(ips: int, bits: int) -> None:
    unit = Unit()
    unit.cd.set_fields(0, {"IPS": ips})
    unit.tree.map(0, (1 << bits) - 0x1000, 0x1000)
    assert isinstance(unit.access(iova=0), Translated)
    if bits < 48:
        unit.tree.map(0x1000, 1 << bits, 0x1000)
        assert_fault(unit.access(iova=0x1000), Smmuv3EventType.F_ADDR_SIZE, stage=1, level=1)


def test_output_size_is_capped_at_the_oas_5_4() -> None:
    unit = Unit(caps={"address_bits": 40})
    unit.tree.map(0x1000, 1 << 40, 0x1000)
    assert_fault(unit.access(iova=0x1000), Smmuv3EventType.F_ADDR_SIZE, stage=1, level=1)


def test_stage_2_output_beyond_s2ps_is_an_address_size_fault_5_2() -> None:
    unit = Unit("2")
    unit.tables.set_fields(SID, {"S2PS": 0b001})
    unit.tree.map(0x1000, 1 << 36, 0x1000)
    fault = assert_fault(unit.access(iova=0x1000), Smmuv3EventType.F_ADDR_SIZE, stage=2, level=1)
    assert record_of(fault).ipa == 0x1000


def test_next_table_beyond_ips_is_an_address_size_fault_5_4() -> None:
    unit = Unit()
    unit.cd.set_fields(0, {"IPS": 0})
    unit.tree.set_fields(IOVA, 3, {"ADDR": 1 << 33})
    assert_fault(unit.access(), Smmuv3EventType.F_ADDR_SIZE, stage=1, level=3)


def test_address_bits_51_48_are_ignored_without_52_bit_addresses() -> None:
    unit = Unit(granule=16)
    unit.tree.set_fields(IOVA, 1, {"ADDR": OUTPUT | 0xF000, "ADDR_49_48": 3})
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT


def test_64_kb_descriptor_has_its_upper_bits_in_15_12() -> None:
    unit = Unit(granule=16, caps={"address_bits": 52})
    unit.cd.set_fields(0, {"IPS": 0b110})
    unit.tree.set_fields(IOVA, 1, {"ADDR": OUTPUT | 0x5000})
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.address == 5 << 48 | OUTPUT
    unit.cd.set_fields(0, {"IPS": 0b101})
    assert_fault(unit.access(), Smmuv3EventType.F_ADDR_SIZE, stage=1, level=1)


# The Access flag and dirty state, 3.13.


@pytest.mark.parametrize("stages", ["1", "2"])
def test_clear_access_flag_is_an_access_fault_before_permission_7_3_22(stages: str) -> None:
    unit = Unit(stages)
    unit.tree.set_fields(IOVA, 1, {"AF": 0, **({"AP": 0b10} if stages == "1" else {"S2AP": 0})})
    assert_fault(unit.access(WRITE), Smmuv3EventType.F_ACCESS, stage=int(stages), level=1)


@pytest.mark.parametrize("stages", ["1", "2"])
def test_affd_takes_the_access_flag_as_set_5_4(stages: str) -> None:
    unit = Unit(stages)
    unit.tree.set_fields(IOVA, 1, {"AF": 0})
    flag(unit, stages, "AFFD")
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.writes == ()


@pytest.mark.parametrize("stages", ["1", "2"])
def test_ha_sets_the_access_flag_and_ignores_affd_3_13_2(stages: str) -> None:
    unit = Unit(stages)
    unit.tree.set_fields(IOVA, 1, {"AF": 0})
    flag(unit, stages, "HA", "AFFD")
    at = unit.tree.entry_address(IOVA, 1)
    entry = unit.memory.read_u64(at)
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.writes == (MemoryWrite(at, (entry | AF).to_bytes(8, "little")),)
    outcome.writes[0].apply(unit.memory)
    again = unit.access()
    assert isinstance(again, Translated)
    assert again.writes == ()


@pytest.mark.parametrize("stages", ["1", "2"])
def test_hd_marks_a_writable_clean_page_dirty_when_it_is_written_3_13_3(stages: str) -> None:
    unit = Unit(stages)
    clean = {"AP": 0b11} if stages == "1" else {"S2AP": 0b01}
    unit.tree.set_fields(IOVA, 1, {**clean, "DBM": 1})
    assert_fault(unit.access(WRITE), Smmuv3EventType.F_PERMISSION, stage=int(stages))
    flag(unit, stages, "HA", "HD")
    at = unit.tree.entry_address(IOVA, 1)
    entry = unit.memory.read_u64(at)
    read = unit.access()
    assert isinstance(read, Translated)
    assert read.writes == ()
    assert Permissions.WRITE in read.permissions
    outcome = unit.access(WRITE)
    assert isinstance(outcome, Translated)
    assert outcome.writes == (MemoryWrite(at, (entry ^ 0x80).to_bytes(8, "little")),)


def test_hd_without_dbm_or_without_ha_marks_nothing_3_13_3() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11})
    flag(unit, "1", "HA", "HD")
    assert_fault(unit.access(WRITE), Smmuv3EventType.F_PERMISSION)
    unit.tree.set_fields(IOVA, 1, {"DBM": 1})
    unit.cd.set_fields(0, {"HA": 0})
    assert_fault(unit.access(WRITE), Smmuv3EventType.F_PERMISSION)


def test_dirty_state_is_not_set_where_aptable_forbids_writes_3_13_3() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11, "DBM": 1})
    unit.tree.set_fields(IOVA, 2, {"APTABLE": 0b10})
    flag(unit, "1", "HA", "HD")
    fault = assert_fault(unit.access(WRITE), Smmuv3EventType.F_PERMISSION)
    assert fault.writes == ()


def test_access_without_permission_sets_no_flag() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11, "AF": 0})
    flag(unit, "1", "HA")
    assert assert_fault(unit.access(WRITE), Smmuv3EventType.F_PERMISSION).writes == ()


def flag(unit: Unit, stages: str, *names: str) -> None:
    if stages == "1":
        unit.cd.set_fields(0, dict.fromkeys(names, 1))
    else:
        unit.tables.set_fields(SID, {f"S2{name}": 1 for name in names})


@pytest.mark.parametrize("stages", ["1", "2"])
def test_big_endian_tables_are_read_and_updated_so_5_4(stages: str) -> None:
    unit = Unit(stages, caps={"TTENDIAN": 0})
    unit.tree.set_fields(IOVA, 1, {"AF": 0})
    addresses = [unit.tree.entry_address(IOVA, level) for level in range(1, unit.tree.levels + 1)]
    for at in addresses:
        unit.memory.write(at, unit.memory.read(at, 8)[::-1])
    flag(unit, stages, "ENDI", "HA")
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT
    swapped = int.from_bytes(unit.memory.read(addresses[0], 8), "big") | AF
    assert outcome.writes == (MemoryWrite(addresses[0], swapped.to_bytes(8, "big")),)


# Permissions.


@pytest.mark.parametrize(
    ("ap", "kind", "privileged", "allowed"),
    [
        (0b00, READ, False, False),
        (0b00, WRITE, True, True),
        (0b01, WRITE, False, True),
        (0b01, READ, True, True),
        (0b10, READ, True, True),
        (0b10, WRITE, True, False),
        (0b10, READ, False, False),
        (0b11, READ, False, True),
        (0b11, WRITE, True, False),
    ],
)
def test_ap_says_who_may_do_what(ap: int, kind: AccessKind, privileged: bool, allowed: bool) -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"AP": ap})
    outcome = unit.access(kind, privileged=privileged)
    if allowed:
        assert isinstance(outcome, Translated)
    else:
        assert_fault(outcome, Smmuv3EventType.F_PERMISSION, stage=1, level=1)


@pytest.mark.parametrize(
    ("aptable", "kind", "privileged", "allowed"),
    [
        *((0b01, READ, False, False), (0b01, WRITE, True, True), (0b10, WRITE, True, False)),
        *((0b10, READ, False, True), (0b11, READ, True, True), (0b11, READ, False, False), (0b11, WRITE, True, False)),
    ],
)
@pytest.mark.parametrize("level", [2, 3, 4])
def test_aptable_takes_rights_away_below(
    level: int, aptable: int, kind: AccessKind, privileged: bool, allowed: bool
) -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, level, {"APTABLE": aptable})
    assert isinstance(unit.access(kind, privileged=privileged), Translated) is allowed
    unit.cd.set_fields(0, {"HAD0": 1})
    assert isinstance(unit.access(kind, privileged=privileged), Translated)
    unit.caps = {"HAD": 0}
    assert isinstance(unit.access(kind, privileged=privileged), Translated) is allowed


@pytest.mark.parametrize(("table", "leaf", "privileged"), [("UXNTABLE", "UXN", False), ("PXNTABLE", "PXN", True)])
def test_execute_never_bits_are_of_one_privilege_each(table: str, leaf: str, privileged: bool) -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"UXN": 0, "PXN": 0, "AP": 0b11})
    for who in (False, True):
        assert isinstance(unit.access(EXECUTE, privileged=who), Translated)
    unit.tree.set_fields(IOVA, 3, {table: 1})
    for who in (False, True):
        assert isinstance(unit.access(EXECUTE, privileged=who), Fault) is (who is privileged)
    unit.tree.set_fields(IOVA, 3, {table: 0})
    unit.tree.set_fields(IOVA, 1, {leaf: 1})
    for who in (False, True):
        assert isinstance(unit.access(EXECUTE, privileged=who), Fault) is (who is privileged)


def test_what_unprivileged_accesses_write_privileged_ones_never_execute() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"UXN": 0, "PXN": 0, "AP": 0b01})
    assert_fault(unit.access(EXECUTE, privileged=True), Smmuv3EventType.F_PERMISSION)
    assert isinstance(unit.access(EXECUTE), Translated)
    unit.cd.set_fields(0, {"WXN": 1})
    assert_fault(unit.access(EXECUTE), Smmuv3EventType.F_PERMISSION)


def test_wxn_forbids_to_execute_what_can_be_written_5_4() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"UXN": 0, "PXN": 0, "AP": 0b00})
    assert isinstance(unit.access(EXECUTE, privileged=True), Translated)
    unit.cd.set_fields(0, {"WXN": 1})
    assert_fault(unit.access(EXECUTE, privileged=True), Smmuv3EventType.F_PERMISSION)


def test_pan_keeps_privileged_data_accesses_from_unprivileged_pages_5_4() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"UXN": 0, "PXN": 0, "AP": 0b11})
    unit.cd.set_fields(0, {"PAN": 1})
    assert_fault(unit.access(READ, privileged=True), Smmuv3EventType.F_PERMISSION)
    assert isinstance(unit.access(READ), Translated)
    assert isinstance(unit.access(EXECUTE, privileged=True), Translated)
    # PAN looks at what is left after APTable.
    unit.tree.set_fields(IOVA, 2, {"APTABLE": 0b01})
    assert isinstance(unit.access(READ, privileged=True), Translated)


def test_epan_looks_at_unprivileged_execution_too_5_4() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"UXN": 0, "AP": 0b10})
    unit.cd.set_fields(0, {"PAN": 1, "EPAN": 1})
    assert isinstance(unit.access(READ, privileged=True), Translated)
    unit.caps = {"EPAN": 1}
    assert_fault(unit.access(READ, privileged=True), Smmuv3EventType.F_PERMISSION)


def test_e0pd_is_a_translation_fault_of_unprivileged_accesses_5_4() -> None:
    unit = Unit()
    unit.cd.set_fields(0, {"E0PD0": 1})
    assert isinstance(unit.access(), Translated)
    unit.caps = {"E0PD": 1}
    assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION, stage=1)
    assert isinstance(unit.access(privileged=True), Translated)
    assert list(unit.engine().iter_mappings(SID)) == []
    # 5.4: it has no meaning in the NS-EL2 regime.
    unit.caps = {"E0PD": 1, "HYP": 1}
    unit.tables.set_fields(SID, {"STRW": 0b10})
    assert isinstance(unit.access(), Translated)


def test_el2_regime_counts_all_accesses_as_privileged_13_4_1() -> None:
    unit = Unit(caps={"HYP": 1})
    unit.tables.set_fields(SID, {"STRW": 0b10})
    unit.tree.set_fields(IOVA, 1, {"AP": 0b00, "UXN": 0, "PXN": 1, "NG": 0})
    unit.tree.set_fields(IOVA, 2, {"APTABLE": 0b01, "PXNTABLE": 1})
    unit.cd.set_fields(0, {"PAN": 1})
    outcome = unit.access(WRITE)
    assert isinstance(outcome, Translated)
    assert outcome.permissions == Permissions(7)
    assert outcome.attributes is Attributes.NONE
    unit.tree.set_fields(IOVA, 1, {"UXN": 1})
    assert_fault(unit.access(EXECUTE), Smmuv3EventType.F_PERMISSION)
    unit.tree.set_fields(IOVA, 2, {"APTABLE": 0b10})
    assert_fault(unit.access(WRITE), Smmuv3EventType.F_PERMISSION)


@pytest.mark.parametrize(
    ("field", "value", "kind", "privileged", "record"),
    [
        ("PRIVCFG", 0b10, READ, True, (True, False, False)),
        ("PRIVCFG", 0b11, READ, False, (True, True, False)),
        ("PRIVCFG", 0b01, READ, True, (True, True, False)),
        ("INSTCFG", 0b10, EXECUTE, False, (True, False, False)),
        ("INSTCFG", 0b11, READ, False, (True, False, True)),
        ("INSTCFG", 0b11, WRITE, False, (False, False, False)),
        ("INSTCFG", 0b01, EXECUTE, False, (True, False, True)),
    ],
)
def test_ste_overrides_privilege_and_instruction_5_2(
    field: str, value: int, kind: AccessKind, privileged: bool, record: tuple[bool, bool, bool]
) -> None:
    unit = Unit()
    unit.tables.set_fields(SID, {field: value})
    event = record_of(unit.access(kind, iova=0x1000, privileged=privileged))
    assert (event.is_read, event.privileged, event.is_instruction) == record
    unit.caps = {"ATTR_PERMS_OVR": 0}
    event = record_of(unit.access(kind, iova=0x1000, privileged=privileged))
    assert (event.privileged, event.is_instruction) == (privileged, kind is EXECUTE)


def test_overrides_count_for_permissions_13_4() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"AP": 0b00})
    assert_fault(unit.access(), Smmuv3EventType.F_PERMISSION)
    unit.tables.set_fields(SID, {"PRIVCFG": 0b11})
    assert isinstance(unit.access(), Translated)
    unit.tables.set_fields(SID, {"INSTCFG": 0b11})
    assert_fault(unit.access(), Smmuv3EventType.F_PERMISSION)


@pytest.mark.parametrize(
    ("xn", "unprivileged", "privileged"),
    [(0b00, True, True), (0b01, True, False), (0b10, False, False), (0b11, False, True)],
)
def test_stage_2_execute_never_with_xnx(xn: int, unprivileged: bool, privileged: bool) -> None:
    unit = Unit("2")
    unit.tree.set_fields(IOVA, 1, {"XN": xn, "S2AP": 0})
    assert isinstance(unit.access(EXECUTE), Translated) is unprivileged
    assert isinstance(unit.access(EXECUTE, privileged=True), Translated) is privileged
    unit.caps = {"XNX": 0}
    for who in (False, True):
        assert isinstance(unit.access(EXECUTE, privileged=who), Translated) is (xn < 2)


@pytest.mark.parametrize(("s2ap", "kind"), [(0b00, READ), (0b10, READ), (0b00, WRITE), (0b01, WRITE)])
def test_s2ap_without_the_right_is_a_permission_fault(s2ap: int, kind: AccessKind) -> None:
    unit = Unit("2")
    unit.tree.set_fields(IOVA, 1, {"S2AP": s2ap})
    fault = assert_fault(unit.access(kind), Smmuv3EventType.F_PERMISSION, stage=2, level=1)
    record = record_of(fault)
    assert (record.ipa, record.event_class, record.table_read) == (IOVA, Smmuv3EventClass.IN, False)


def test_attributes_say_global_and_privileged() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"NG": 0, "AP": 0b00})
    outcome = unit.access(privileged=True)
    assert isinstance(outcome, Translated)
    assert outcome.attributes == Attributes.GLOBAL | Attributes.PRIVILEGED


def test_write_only_page_of_stage_2_stays_so_when_it_is_split() -> None:
    unit = Unit("2")
    unit.tree.map(1 << 30, OUTPUT, 1 << 21, Permissions.WRITE)
    unit.tree.split(1 << 30)
    assert_fault(unit.access(iova=1 << 30), Smmuv3EventType.F_PERMISSION, stage=2)
    assert unit.access(AccessKind.WRITE, iova=1 << 30) == Translated(OUTPUT, 0x1000, Permissions.WRITE)


def test_rights_by_index_are_those_of_the_architecture() -> None:
    every = stage1_rights(two_privileges=True, pan=False, enhanced_pan=False, write_execute_never=False)
    # Table of DDI 0487 D8: AP 0b01 with nothing else: read and write for both; privileged never executes it.
    assert (every[0][0b01], every[1][0b01]) == (7, 3)
    assert stage2_rights(by_privilege=False)[0][0b1011] == 3
