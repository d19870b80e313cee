"""The page-table walks of both stages of the RISC-V IOMMU (Privileged Architecture; 3.3 steps 17 and 19, 3.4)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from riscv_unit import (
    DEVICE,
    GUEST,
    GUEST_SHIFT,
    GUEST_TABLES,
    IOVA,
    NOWHERE,
    OUTPUT,
    RAM,
    BigEndianMemory,
    Unit,
)

from harness.model.access import (
    AccessKind,
    Attributes,
    Fault,
    MemoryWrite,
    Permissions,
    Translated,
)
from harness.model.memory import Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.riscv import (
    SCHEMES,
    RiscvIommuCause,
    RiscvIommuEngine,
    RiscvIommuFaultRecord,
    RiscvIommuRegisters,
    RiscvIommuTables,
)
from harness.model.riscv.registers import capabilities

RW = Permissions.READ | Permissions.WRITE
FIRST = ["Sv32", "Sv39", "Sv48", "Sv57"]
SECOND = ["Sv32x4", "Sv39x4", "Sv48x4", "Sv57x4"]
LEVELS = [(name, level) for name in FIRST for level in range(1, SCHEMES[name].levels + 1)]
WIDE = ["Sv39", "Sv48", "Sv57"]
PAGE_FAULTS = {
    AccessKind.READ: RiscvIommuCause.READ_PAGE_FAULT,
    AccessKind.WRITE: RiscvIommuCause.WRITE_PAGE_FAULT,
    AccessKind.EXECUTE: RiscvIommuCause.INSTRUCTION_PAGE_FAULT,
}
GUEST_FAULTS = {
    AccessKind.READ: RiscvIommuCause.READ_GUEST_PAGE_FAULT,
    AccessKind.WRITE: RiscvIommuCause.WRITE_GUEST_PAGE_FAULT,
    AccessKind.EXECUTE: RiscvIommuCause.INSTRUCTION_GUEST_PAGE_FAULT,
}
ACCESS_FAULTS = {
    AccessKind.READ: RiscvIommuCause.READ_ACCESS_FAULT,
    AccessKind.WRITE: RiscvIommuCause.WRITE_ACCESS_FAULT,
    AccessKind.EXECUTE: RiscvIommuCause.INSTRUCTION_ACCESS_FAULT,
}


def first_of(unit: Unit) -> RadixTable:
    assert unit.first is not None
    return unit.first


def second_of(unit: Unit) -> RadixTable:
    assert unit.second is not None
    return unit.second


def iotval2(outcome: object) -> int:
    assert isinstance(outcome, Fault)
    assert isinstance(outcome.record, RiscvIommuFaultRecord)
    return outcome.record.iotval2


# Reaching the page.


@pytest.mark.parametrize("scheme", FIRST)
def test_a_page_is_translated_by_every_first_stage(scheme: str) -> None:
    assert Unit(scheme).access(iova=IOVA + 0x123) == Translated(OUTPUT + 0x123, 0x1000, RW)


@pytest.mark.parametrize("scheme", SECOND)
def test_a_page_is_translated_by_every_second_stage(scheme: str) -> None:
    assert Unit(None, scheme).access(iova=IOVA + 0x123) == Translated(OUTPUT + 0x123, 0x1000, RW)


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", SECOND)
def test_a_page_is_translated_by_two_stages(first: str, second: str) -> None:
    if second == "Sv32x4" and first != "Sv32":
        return  # GXL=1 takes SXL=1 with it (3.1.4)
    assert Unit(first, second).access(iova=IOVA + 0x123) == Translated(OUTPUT + 0x123, 0x1000, RW)


def test_an_entry_written_by_hand_maps_its_page() -> None:
    # Sv39, IOVA 0x40_0000: indexes 0, 2, 0. PPN 0x80000 at bit 10, and D A U W R V.
    memory = SparseMemory((Region(0, RAM),))
    memory.write_u64(0x1000 + 0x28 * 64, 0x1)  # tc: V
    memory.write_u64(0x1000 + 0x28 * 64 + 24, 0x8000_0000_0000_0002)  # fsc: Sv39, PPN 2
    memory.write_u64(0x2000, 0x0C01)
    memory.write_u64(0x3010, 0x1001)
    memory.write_u64(0x4000, 0x2000_00D7)
    registers = RiscvIommuRegisters(capabilities=0x38_0040_0E10, ddtp=0x402)
    outcome = RiscvIommuEngine(registers, memory).translate(Unit().request(iova=IOVA + 0x10))
    assert outcome == Translated(OUTPUT + 0x10, 0x1000, RW)


def test_entries_of_sv32_written_by_hand_map_34_bits() -> None:
    # Sv32, IOVA 0xFFC0_1000: indexes 0x3FF, 1. PPN 0x3F_FFFF fills bits 31:10.
    memory = SparseMemory((Region(0, RAM),))
    memory.write_u64(0x1000 + 0x28 * 64, 0x801)  # tc: V, SXL
    memory.write_u64(0x1000 + 0x28 * 64 + 24, 0x8000_0000_0000_0002)  # fsc: Sv32, PPN 2
    memory.write(0x2FFC, (0x0C01).to_bytes(4, "little"))
    memory.write(0x3004, (0xFFFF_FCD3).to_bytes(4, "little"))
    registers = RiscvIommuRegisters(capabilities=0x38_0040_0110, ddtp=0x402, gxl_writable=True)
    outcome = RiscvIommuEngine(registers, memory).translate(Unit().request(iova=0xFFC0_1004))
    assert outcome == Translated(0x3_FFFF_F004, 0x1000, Permissions.READ)


@pytest.mark.parametrize("scheme", WIDE)
def test_the_upper_half_is_reached_and_the_gap_faults_canonical(scheme: str) -> None:
    unit = Unit(scheme)
    table, width = first_of(unit), SCHEMES[scheme].width
    table.map((1 << 64) - 0x1000, OUTPUT, 0x1000)
    assert unit.access(iova=(1 << 64) - 8) == Translated(OUTPUT + 0xFF8, 0x1000, RW)
    for iova in (1 << width - 1, 1 << width, (1 << 64) - (1 << width - 1) - 8, 1 << 63):
        fault = assert_fault(unit.access(iova=iova), RiscvIommuCause.READ_PAGE_FAULT, stage=1)
        assert fault.level is None


def test_sv32_takes_no_bits_beyond_31_3_1_3_1() -> None:
    unit = Unit("Sv32")
    first_of(unit).map(0xFFFF_F000, OUTPUT, 0x1000)
    assert isinstance(unit.access(iova=0xFFFF_FFF8), Translated)
    for iova in (0x1_0000_0000 + IOVA, 0xFFFF_FFFF_FFFF_F000):
        assert_fault(unit.access(iova=iova), RiscvIommuCause.READ_PAGE_FAULT, stage=1)


@pytest.mark.parametrize("scheme", SECOND)
def test_the_second_stage_is_two_bits_wider_and_zero_extended(scheme: str) -> None:
    unit = Unit(None, scheme)
    last = 1 << SCHEMES[scheme].width
    assert SCHEMES[scheme].width == {"Sv32x4": 34, "Sv39x4": 41, "Sv48x4": 50, "Sv57x4": 59}[scheme]
    second_of(unit).map(last - 0x1000, OUTPUT, 0x1000)
    assert unit.access(iova=last - 8) == Translated(OUTPUT + 0xFF8, 0x1000, RW)
    for iova in (last, last | IOVA, (1 << 64) - 8):
        outcome = unit.access(iova=iova)
        assert_fault(outcome, RiscvIommuCause.READ_GUEST_PAGE_FAULT, stage=2)
        assert iotval2(outcome) == iova


def test_with_sxl_a_guest_address_has_no_bits_beyond_33_3_1_3_1() -> None:
    unit = Unit(None, "Sv39x4", context={"tc.SXL": 1}, gxl_writable=True)
    for guest in (0x3_FFFF_F000, 0x4_0000_0000):
        second_of(unit).map(guest, OUTPUT, 0x1000)
    assert isinstance(unit.access(iova=0x3_FFFF_F000), Translated)
    assert_fault(unit.access(iova=0x4_0000_0000), RiscvIommuCause.READ_GUEST_PAGE_FAULT, stage=2)


def test_the_smaller_page_of_two_stages_counts() -> None:
    unit = Unit(second="Sv39x4")
    first_of(unit).map(1 << 21, 1 << 33, 1 << 21)
    second_of(unit).map(1 << 33, 1 << 40, 1 << 16)
    assert unit.access(iova=(1 << 21) + 0x5678) == Translated((1 << 40) + 0x5678, 1 << 16, RW)
    second_of(unit).map((1 << 33) + (1 << 30), 1 << 42, 1 << 30)
    first_of(unit).map(1 << 22 | 1 << 25, (1 << 33) + (1 << 30), 1 << 12)
    assert unit.access(iova=(1 << 22 | 1 << 25) + 4) == Translated((1 << 42) + 4, 1 << 12, RW)


# Entries that map nothing, are reserved, or are out of place: page faults of the access's own type.


@pytest.mark.parametrize("kind", list(AccessKind))
@pytest.mark.parametrize(("scheme", "level"), LEVELS)
def test_an_entry_without_v_is_a_page_fault(scheme: str, level: int, kind: AccessKind) -> None:
    unit = Unit(scheme)
    first_of(unit).set_fields(IOVA, level, {"V": 0})
    assert_fault(unit.access(kind), PAGE_FAULTS[kind], stage=1, level=level)


@pytest.mark.parametrize("kind", list(AccessKind))
@pytest.mark.parametrize("level", [1, 2, 3])
def test_an_entry_without_v_in_the_second_stage_is_a_guest_page_fault_4_2(level: int, kind: AccessKind) -> None:
    unit = Unit(None, "Sv39x4")
    second_of(unit).set_fields(IOVA, level, {"V": 0})
    outcome = unit.access(kind, iova=IOVA + 7)
    assert_fault(outcome, GUEST_FAULTS[kind], stage=2, level=level)
    assert iotval2(outcome) == IOVA + 4


@pytest.mark.parametrize("kind", list(AccessKind))
@pytest.mark.parametrize(("scheme", "level"), [pair for pair in LEVELS if pair[1] > 1])
def test_a_table_outside_of_memory_is_an_access_fault(scheme: str, level: int, kind: AccessKind) -> None:
    unit = Unit(scheme)
    first_of(unit).set_fields(IOVA, level, {"PPN": NOWHERE >> 12})
    assert_fault(unit.access(kind), ACCESS_FAULTS[kind], stage=1, level=level - 1)


def test_a_table_beyond_the_physical_addresses_is_an_access_fault_6_3() -> None:
    unit = Unit()
    unit.memory = SparseMemory()
    unit.fields["capabilities"] = capabilities(physical_address_size=30)
    tables = unit.tables = RiscvIommuTables(unit.memory, 0x1_0000, 1)
    table = tables.new_page_table("Sv39")
    table.map(IOVA, 1 << 40, 0x1000)
    tables.attach(DEVICE, first=table)
    # The page itself may lie anywhere: the bus, not the IOMMU, refuses it (2.3).
    assert isinstance(unit.access(), Translated)
    table.set_fields(IOVA, 2, {"PPN": 1 << 18})
    assert_fault(unit.access(), RiscvIommuCause.READ_ACCESS_FAULT, stage=1, level=1)


@pytest.mark.parametrize("rights", [{"R": 0, "W": 1, "X": 0}, {"R": 0, "W": 1, "X": 1}])
@pytest.mark.parametrize("stage", [1, 2])
def test_write_without_read_is_reserved(rights: dict[str, int], stage: int) -> None:
    unit = Unit(None, "Sv39x4") if stage == 2 else Unit()
    (unit.second or first_of(unit)).set_fields(IOVA, 1, rights)
    for kind in AccessKind:
        assert_fault(unit.access(kind), (GUEST_FAULTS if stage == 2 else PAGE_FAULTS)[kind], stage=stage, level=1)


@pytest.mark.parametrize("scheme", FIRST)
def test_a_pointer_in_the_last_level_is_a_page_fault(scheme: str) -> None:
    unit = Unit(scheme)
    first_of(unit).set_fields(IOVA, 1, {"R": 0, "W": 0, "X": 0, "U": 0, "A": 0, "D": 0})
    assert_fault(unit.access(), RiscvIommuCause.READ_PAGE_FAULT, stage=1, level=1)


@pytest.mark.parametrize("name", ["D", "A", "U"])
@pytest.mark.parametrize(("scheme", "level"), [pair for pair in LEVELS if pair[1] > 1])
def test_d_a_and_u_of_a_pointer_are_reserved(scheme: str, level: int, name: str) -> None:
    unit = Unit(scheme)
    first_of(unit).set_fields(IOVA, level, {name: 1})
    assert_fault(unit.access(), RiscvIommuCause.READ_PAGE_FAULT, stage=1, level=level)


@pytest.mark.parametrize("fields", [{"N": 1}, {"PBMT": 1}, {"PBMT": 2}, {"RSVD_54": 1}, {"RSVD_54": 16}, {"RSW_59": 1}])
@pytest.mark.parametrize("level", [2, 3])
def test_upper_bits_of_a_pointer_are_reserved(level: int, fields: dict[str, int]) -> None:
    unit = Unit()
    first_of(unit).set_fields(IOVA, level, fields)
    assert_fault(unit.access(), RiscvIommuCause.READ_PAGE_FAULT, stage=1, level=level)


@pytest.mark.parametrize("bit", range(5))
def test_bits_58_to_54_of_a_leaf_are_reserved(bit: int) -> None:
    for unit in (Unit(), Unit(None, "Sv39x4")):
        (unit.second or first_of(unit)).set_fields(IOVA, 1, {"RSVD_54": 1 << bit})
        assert isinstance(unit.access(), Fault)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_bits_60_and_59_are_softwares_only_with_svrsw60t59b_9_4(level: int) -> None:
    for bits in (1, 2, 3):
        with_it = Unit(features=frozenset({"Svrsw60t59b"}))
        first_of(with_it).set_fields(IOVA, level, {"RSW_59": bits})
        assert isinstance(with_it.access(), Translated)
        without = Unit()
        first_of(without).set_fields(IOVA, level, {"RSW_59": bits})
        assert_fault(without.access(), RiscvIommuCause.READ_PAGE_FAULT, level=level)


def test_software_bits_9_and_8_are_ignored() -> None:
    unit = Unit()
    for level in (1, 2, 3):
        first_of(unit).set_fields(IOVA, level, {"RSW": 3})
    assert isinstance(unit.access(), Translated)


@pytest.mark.parametrize("stage", [1, 2])
def test_memory_types_need_svpbmt_and_3_is_reserved(stage: int) -> None:
    for without, values in ((frozenset[str](), {0, 1, 2}), (frozenset({"Svpbmt"}), {0})):
        for value in range(4):
            unit = Unit(None if stage == 2 else "Sv39", "Sv39x4" if stage == 2 else None, without=without)
            (unit.second or first_of(unit)).set_fields(IOVA, 1, {"PBMT": value})
            assert isinstance(unit.access(), Translated) == (value in values)


@pytest.mark.parametrize(("scheme", "level"), [pair for pair in LEVELS if pair[1] > 1])
def test_a_misaligned_superpage_is_a_page_fault(scheme: str, level: int) -> None:
    unit = Unit(scheme)
    size = 1 << SCHEMES[scheme].level_shift(level)
    table = first_of(unit)
    iova = 8 * size
    table.map(iova, 0, size)
    assert unit.access(iova=iova + 4) == Translated(4, size, RW)
    for bit in range(SCHEMES[scheme].level_shift(level) - 12):
        table.set_fields(iova, level, {"PPN": 1 << bit})
        assert_fault(unit.access(iova=iova), RiscvIommuCause.READ_PAGE_FAULT, stage=1, level=level)


# Svnapot.


@pytest.mark.parametrize("stage", [1, 2])
def test_a_napot_page_takes_the_low_bits_of_its_number_from_the_address(stage: int) -> None:
    unit = Unit(None, "Sv39x4") if stage == 2 else Unit()
    table = unit.second or first_of(unit)
    table.map(0x80_0000, OUTPUT, 0x1_0000)
    for part in range(16):
        outcome = unit.access(iova=0x80_0000 + part * 0x1000 + 0x34)
        assert outcome == Translated(OUTPUT + part * 0x1000 + 0x34, 0x1_0000, RW)


@pytest.mark.parametrize("low", [0, 1, 2, 4, 7, 9, 10, 12, 15])
def test_other_napot_encodings_are_reserved(low: int) -> None:
    for unit in (Unit(), Unit(None, "Sv39x4")):
        (unit.second or first_of(unit)).set_fields(IOVA, 1, {"N": 1, "PPN": OUTPUT >> 12 | low})
        assert isinstance(unit.access(), Fault)


@pytest.mark.parametrize("level", [2, 3])
def test_napot_above_the_last_level_is_reserved(level: int) -> None:
    unit = Unit()
    size = 1 << SCHEMES["Sv39"].level_shift(level)
    first_of(unit).map(8 * size, 0, size, overrides={"N": 1})
    assert_fault(unit.access(iova=8 * size), RiscvIommuCause.READ_PAGE_FAULT, stage=1, level=level)


# Permissions.


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("rights", [1, 3, 4, 5, 7])
def test_each_access_needs_its_own_right(rights: int, stage: int) -> None:
    unit = Unit(None, "Sv39x4") if stage == 2 else Unit()
    table = unit.second or first_of(unit)
    table.set_fields(IOVA, 1, {"R": rights & 1, "W": rights >> 1 & 1, "X": rights >> 2})
    for bit, kind in enumerate((AccessKind.READ, AccessKind.WRITE, AccessKind.EXECUTE)):
        if rights >> bit & 1:
            assert unit.access(kind) == Translated(OUTPUT, 0x1000, Permissions(rights))
        else:
            causes = GUEST_FAULTS if stage == 2 else PAGE_FAULTS
            assert_fault(unit.access(kind), causes[kind], stage=stage, level=1)


def test_two_stages_allow_what_both_allow() -> None:
    unit = Unit(second="Sv39x4")
    first_of(unit).set_fields(IOVA, 1, {"X": 1})
    second_of(unit).set_fields(GUEST, 1, {"W": 0, "X": 1})
    assert unit.access() == Translated(OUTPUT, 0x1000, Permissions.READ | Permissions.EXECUTE)
    outcome = unit.access(AccessKind.WRITE, iova=IOVA + 0x21)
    assert_fault(outcome, RiscvIommuCause.WRITE_GUEST_PAGE_FAULT, stage=2, level=1)
    assert iotval2(outcome) == GUEST + 0x20
    first_of(unit).set_fields(IOVA, 1, {"W": 0})
    assert_fault(unit.access(AccessKind.WRITE), RiscvIommuCause.WRITE_PAGE_FAULT, stage=1, level=1)


def test_user_privilege_does_not_reach_supervisor_pages() -> None:
    for unit, pasid in ((Unit(), None), (Unit(pdt_mode=1, process={"ta.ENS": 1}), 5)):
        first_of(unit).set_fields(IOVA, 1, {"U": 0})
        assert_fault(unit.access(pasid=pasid), RiscvIommuCause.READ_PAGE_FAULT, stage=1, level=1)


@pytest.mark.parametrize("reaches_user", [0, 1])
def test_supervisor_privilege_reaches_user_pages_with_sum_and_never_to_execute_3_2_3_1(reaches_user: int) -> None:
    unit = Unit(pdt_mode=1, process={"ta.ENS": 1, "ta.SUM": reaches_user})
    first_of(unit).set_fields(IOVA, 1, {"X": 1})
    for kind in (AccessKind.READ, AccessKind.WRITE):
        assert isinstance(unit.access(kind, pasid=5, privileged=True), Translated if reaches_user else Fault)
    outcome = unit.access(AccessKind.EXECUTE, pasid=5, privileged=True)
    assert_fault(outcome, RiscvIommuCause.INSTRUCTION_PAGE_FAULT, stage=1, level=1)


def test_supervisor_privilege_reaches_supervisor_pages_whatever_sum_says_3_2_3_1() -> None:
    unit = Unit(pdt_mode=1, process={"ta.ENS": 1})
    first_of(unit).set_fields(IOVA, 1, {"U": 0, "X": 1})
    for kind in AccessKind:
        outcome = unit.access(kind, pasid=5, privileged=True)
        assert outcome == Translated(OUTPUT, 0x1000, RW | Permissions.EXECUTE, Attributes.PRIVILEGED)


def test_the_second_stage_takes_every_request_for_one_of_user_privilege_3_3() -> None:
    unit = Unit(second="Sv39x4", pdt_mode=1, process={"ta.ENS": 1})
    first_of(unit).set_fields(IOVA, 1, {"U": 0})
    assert isinstance(unit.access(pasid=5, privileged=True), Translated)
    second_of(unit).set_fields(GUEST, 1, {"U": 0})
    assert_fault(unit.access(pasid=5, privileged=True), RiscvIommuCause.READ_GUEST_PAGE_FAULT, stage=2, level=1)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_page_is_global_where_g_is_set_on_the_way_to_it(level: int) -> None:
    unit = Unit()
    first_of(unit).set_fields(IOVA, level, {"G": 1})
    assert unit.access() == Translated(OUTPUT, 0x1000, RW, Attributes.GLOBAL)


def test_g_of_the_second_stage_is_ignored() -> None:
    unit = Unit(None, "Sv39x4")
    for level in (1, 2, 3):
        second_of(unit).set_fields(IOVA, level, {"G": 1})
    assert unit.access() == Translated(OUTPUT, 0x1000, RW)


# Accessed and dirty (3.1.3.1, 3.4).


@pytest.mark.parametrize("kind", list(AccessKind))
@pytest.mark.parametrize("stage", [1, 2])
def test_without_hardware_updates_a_page_without_a_faults_3_1_3_1(stage: int, kind: AccessKind) -> None:
    unit = Unit(None, "Sv39x4") if stage == 2 else Unit()
    (unit.second or first_of(unit)).set_fields(IOVA, 1, {"A": 0, "X": 1})
    assert_fault(unit.access(kind), (GUEST_FAULTS if stage == 2 else PAGE_FAULTS)[kind], stage=stage, level=1)


@pytest.mark.parametrize("stage", [1, 2])
def test_without_hardware_updates_only_a_write_needs_d_3_1_3_1(stage: int) -> None:
    unit = Unit(None, "Sv39x4") if stage == 2 else Unit()
    (unit.second or first_of(unit)).set_fields(IOVA, 1, {"D": 0})
    assert isinstance(unit.access(), Translated)
    cause = RiscvIommuCause.WRITE_GUEST_PAGE_FAULT if stage == 2 else RiscvIommuCause.WRITE_PAGE_FAULT
    assert_fault(unit.access(AccessKind.WRITE), cause, stage=stage, level=1)


@pytest.mark.parametrize(
    ("scheme", "stage"), [("Sv39", 1), ("Sv32", 1), ("Sv57", 1), ("Sv39x4", 2), ("Sv32x4", 2), ("Sv57x4", 2)]
)
def test_hardware_sets_a_for_a_read_and_d_as_well_for_a_write_3_4(scheme: str, stage: int) -> None:
    name = "tc.SADE" if stage == 1 else "tc.GADE"
    unit = Unit(*(scheme, None) if stage == 1 else (None, scheme), context={name: 1})
    table = unit.second or first_of(unit)
    table.set_fields(IOVA, 1, {"A": 0, "D": 0})
    address, size = table.entry_address(IOVA, 1), table.format.entry_size
    entry = int.from_bytes(unit.memory.read(address, size), "little")
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.writes == (MemoryWrite(address, (entry | 1 << 6).to_bytes(size, "little")),)
    outcome = unit.access(AccessKind.WRITE)
    assert isinstance(outcome, Translated)
    assert outcome.writes == (MemoryWrite(address, (entry | 3 << 6).to_bytes(size, "little")),)
    for write in outcome.writes:
        write.apply(unit.memory)
    outcome = unit.access(AccessKind.WRITE)
    assert isinstance(outcome, Translated)
    assert outcome.writes == ()


def test_sade_and_gade_are_for_their_own_stage_only_3_1_3_1() -> None:
    unit = Unit(context={"tc.GADE": 1})
    first_of(unit).set_fields(IOVA, 1, {"A": 0})
    assert_fault(unit.access(), RiscvIommuCause.READ_PAGE_FAULT, stage=1)
    unit = Unit(None, "Sv39x4", context={"tc.SADE": 1})
    second_of(unit).set_fields(IOVA, 1, {"A": 0})
    assert_fault(unit.access(), RiscvIommuCause.READ_GUEST_PAGE_FAULT, stage=2)


def test_no_flag_is_set_for_an_access_that_is_not_allowed_3_4() -> None:
    unit = Unit(context={"tc.SADE": 1})
    first_of(unit).set_fields(IOVA, 1, {"A": 0, "W": 0})
    fault = assert_fault(unit.access(AccessKind.WRITE), RiscvIommuCause.WRITE_PAGE_FAULT)
    assert fault.writes == ()


def test_flags_that_were_set_before_a_fault_stay_set_3_4() -> None:
    unit = Unit(second="Sv39x4", context={"tc.SADE": 1})
    first_of(unit).set_fields(IOVA, 1, {"A": 0})
    second_of(unit).set_fields(GUEST, 1, {"V": 0})
    fault = assert_fault(unit.access(), RiscvIommuCause.READ_GUEST_PAGE_FAULT, stage=2)
    assert [write.address for write in fault.writes] == [first_of(unit).entry_address(IOVA, 1) - GUEST_SHIFT]


def test_flags_are_set_in_the_order_of_the_walk() -> None:
    unit = Unit(second="Sv39x4", context={"tc.SADE": 1, "tc.GADE": 1})
    first, second = first_of(unit), second_of(unit)
    first.set_fields(IOVA, 1, {"A": 0, "D": 0})
    for guest in (GUEST, first.root):
        second.set_fields(guest, 1, {"A": 0, "D": 0})
    outcome = unit.access(AccessKind.WRITE)
    assert isinstance(outcome, Translated)
    assert [write.address for write in outcome.writes] == [
        second.entry_address(first.root, 1),
        first.entry_address(IOVA, 1) - GUEST_SHIFT,
        second.entry_address(GUEST, 1),
    ]
    # The root was only read: A without D. The page was written: both.
    assert outcome.writes[0].data[0] >> 6 == 0b01
    assert outcome.writes[2].data[0] >> 6 == 0b11


def test_a_flag_that_the_walk_set_before_is_still_set_when_the_entry_is_met_again_3_4() -> None:
    # The page that is read is the last first-stage table itself, which was written for the sake of its A flags.
    unit = Unit(second="Sv39x4", context={"tc.SADE": 1, "tc.GADE": 1})
    first, second = first_of(unit), second_of(unit)
    table = first.entry_address(IOVA, 1) & ~0xFFF
    first.map(IOVA + 0x1000, table, 0x1000, overrides={"A": 0})
    second.set_fields(table, 1, {"A": 0, "D": 0})
    outcome = unit.access(iova=IOVA + 0x1000)
    assert isinstance(outcome, Translated)
    assert [(write.address, write.data[0] >> 6) for write in outcome.writes] == [
        (second.entry_address(table, 1), 0b11),
        (first.entry_address(IOVA + 0x1000, 1) - GUEST_SHIFT, 0b11),
    ]


# Implicit accesses of the first stage (4.2, iotval2).


@pytest.mark.parametrize("kind", list(AccessKind))
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_first_stage_table_that_the_guest_lacks_is_an_implicit_guest_page_fault_4_2(
    level: int, kind: AccessKind
) -> None:
    unit = Unit(second="Sv39x4")
    entry = first_of(unit).entry_address(IOVA, level)
    second_of(unit).set_fields(entry, 1, {"V": 0})
    outcome = unit.access(kind)
    assert_fault(outcome, GUEST_FAULTS[kind], stage=2, level=1)
    assert iotval2(outcome) == entry | 1


def test_an_implicit_read_needs_r_and_not_the_right_of_the_access() -> None:
    unit = Unit(second="Sv39x4")
    root = first_of(unit).root
    second_of(unit).set_fields(root, 1, {"W": 0})
    assert isinstance(unit.access(AccessKind.WRITE), Translated)
    second_of(unit).set_fields(root, 1, {"R": 0, "W": 0, "X": 1})
    outcome = unit.access(AccessKind.EXECUTE)
    assert_fault(outcome, RiscvIommuCause.INSTRUCTION_GUEST_PAGE_FAULT, stage=2, level=1)
    assert iotval2(outcome) & 3 == 1


def test_setting_a_flag_in_a_page_that_the_guest_may_not_write_is_an_implicit_write_fault_4_2() -> None:
    unit = Unit(second="Sv39x4", context={"tc.SADE": 1, "tc.GADE": 1})
    entry = first_of(unit).entry_address(IOVA, 1)
    first_of(unit).set_fields(IOVA, 1, {"A": 0})
    second_of(unit).set_fields(entry, 1, {"W": 0})
    outcome = unit.access()
    assert_fault(outcome, RiscvIommuCause.READ_GUEST_PAGE_FAULT, stage=2, level=1)
    assert iotval2(outcome) == entry | 3


def test_setting_a_flag_makes_the_guests_page_dirty_or_faults_4_2() -> None:
    for sets, expected in ((1, Translated), (0, Fault)):
        unit = Unit(second="Sv39x4", context={"tc.SADE": 1, "tc.GADE": sets})
        entry = first_of(unit).entry_address(IOVA, 1)
        first_of(unit).set_fields(IOVA, 1, {"A": 0})
        second_of(unit).set_fields(entry, 1, {"D": 0})
        outcome = unit.access()
        assert isinstance(outcome, expected)
        if isinstance(outcome, Translated):
            where = second_of(unit).entry_address(entry, 1)
            assert [write.address for write in outcome.writes] == [where, entry - GUEST_SHIFT]
        else:
            assert iotval2(outcome) & 3 == 3


def test_an_access_fault_below_an_implicit_access_is_one_of_the_access() -> None:
    unit = Unit(second="Sv39x4")
    second_of(unit).set_fields(GUEST_TABLES, 2, {"PPN": NOWHERE >> 12})
    assert_fault(unit.access(AccessKind.WRITE), RiscvIommuCause.WRITE_ACCESS_FAULT, stage=2, level=1)


def test_a_first_stage_page_outside_of_what_the_second_maps_is_a_guest_page_fault_4_2() -> None:
    unit = Unit(second="Sv39x4")
    first_of(unit).map(0x80_0000, 1 << 45, 0x1000)
    outcome = unit.access(iova=0x80_0FFF, length=1)
    assert_fault(outcome, RiscvIommuCause.READ_GUEST_PAGE_FAULT, stage=2)
    assert iotval2(outcome) == (1 << 45) + 0xFFC


def test_a_table_that_is_its_own_ancestor_still_translates_to_an_end() -> None:
    unit = Unit()
    table = first_of(unit)
    for level in (3, 2):
        table.set_fields(IOVA, level, {"PPN": table.root >> 12})
        assert isinstance(unit.access(), Fault | Translated)


# Byte order (3.10, 6.4).


@pytest.mark.parametrize(("be", "sbe"), [(0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("second", [None, "Sv39x4"])
def test_tables_are_read_in_the_byte_order_that_be_and_sbe_say_3_10(be: int, sbe: int, second: str | None) -> None:
    memory = SparseMemory((Region(0, RAM),))
    orders = (memory, BigEndianMemory(memory))
    outer = RiscvIommuTables(orders[be], 0x1_0000, 3)
    inner = RiscvIommuTables(orders[sbe], 0x10_0000)
    guest = None
    if second is not None:
        guest = outer.new_page_table(second)
        guest.map(0, 0, RAM, largest_page=0x1000)
    first = inner.new_page_table("Sv39")
    first.map(IOVA, 0x9000, 0x1000, overrides={"A": 0, "D": 0})
    outer.attach_processes(
        DEVICE, 3, second=guest, guest_pages=inner.pages, overrides={"tc.SBE": sbe, "tc.SADE": 1, "tc.GADE": 1}
    )
    outer.set_process(DEVICE, 5, first=first)
    caps = capabilities() | capabilities(features=frozenset({"END"}))
    registers = RiscvIommuRegisters(capabilities=caps, ddtp=outer.ddtp, fctl=be)
    request = Unit().request(AccessKind.WRITE, pasid=5)
    outcome = RiscvIommuEngine(registers, memory).translate(request)
    assert isinstance(outcome, Translated)
    assert (outcome.address, outcome.permissions) == (0x9000, RW)
    # The flags are written in that order too: D and A are in the last of the eight bytes where it is big-endian.
    assert len(outcome.writes) == 1
    assert outcome.writes[0].data[7 if sbe else 0] == 0xD7
    other = RiscvIommuRegisters(capabilities=caps, ddtp=outer.ddtp, fctl=1 - be)
    assert isinstance(RiscvIommuEngine(other, memory).translate(request), Fault)
