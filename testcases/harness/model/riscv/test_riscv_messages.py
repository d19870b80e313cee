"""Messages of devices of a guest: interrupt files, MSI page tables, memory-resident interrupt files (3.3.3, AIA)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from riscv_unit import DEVICE, FILE, IOVA, MRIF, NOTICE, NOWHERE, OUTPUT, PATTERN, REAL, Unit, message_unit

from harness.model.access import (
    AccessKind,
    AddressType,
    Attributes,
    Bypassed,
    BypassReason,
    Fault,
    MemoryWrite,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite, PostedInterrupt
from harness.model.riscv import RiscvIommuBlocked, RiscvIommuCause, RiscvIommuFaultRecord
from harness.model.riscv.device import DeviceContext
from harness.model.riscv.msi import interrupt_file_number

RW = Permissions.READ | Permissions.WRITE


def write(unit: Unit, number: int, offset: int = 0) -> Outcome:
    return unit.access(AccessKind.WRITE, iova=FILE + number * 0x4000 + offset)


def send(unit: Unit, number: int, data: int, offset: int = 0) -> MsiOutcome:
    return unit.engine().remap_msi(MsiWrite(requester=DEVICE, address=FILE + number * 0x4000 + offset, data=data))


def entry_fields(unit: Unit, number: int, **fields: int) -> None:
    unit.tables.set_interrupt_file(DEVICE, number, REAL, overrides=fields)


# Which pages.


def test_extract_packs_the_bits_under_the_mask_3_3_3_step_5() -> None:
    # The specification's example: bits a c f g of a b c d e f g h.
    for x in range(256):
        a, c, f, g = (x >> bit & 1 for bit in (7, 5, 2, 1))
        assert interrupt_file_number(x, 0b1010_0110) == a << 3 | c << 2 | f << 1 | g


def test_a_write_to_an_interrupt_file_goes_to_the_page_of_its_entry_3_3_3_step_13() -> None:
    unit = message_unit()
    assert write(unit, 0, 0x10) == Translated(REAL + 0x10, 0x1000, RW)
    assert write(unit, 1) == Translated(REAL + 0x1000, 0x1000, RW)


def test_a_read_of_an_interrupt_file_is_translated_as_a_write_is_3_1_3_6() -> None:
    assert message_unit().access(iova=FILE + 8) == Translated(REAL + 8, 0x1000, RW)


@pytest.mark.parametrize("page", [FILE - 0x1000, FILE + 0x1000, FILE + 0x1_0000, FILE | 1 << 40])
def test_neighbours_of_the_interrupt_files_take_the_second_stage_3_3_3_step_4(page: int) -> None:
    assert_fault(message_unit().access(iova=page), RiscvIommuCause.READ_GUEST_PAGE_FAULT, stage=2)


def test_the_second_stage_is_not_asked_for_an_interrupt_file_3_3_step_18() -> None:
    unit = message_unit()
    assert unit.second is not None
    unit.second.map(FILE, OUTPUT, 0x1000)
    assert write(unit, 0) == Translated(REAL, 0x1000, RW)


def test_with_msiptp_off_there_are_no_interrupt_files_3_1_3_5() -> None:
    unit = message_unit()
    unit.tables.set_context_fields(DEVICE, {"msiptp.MODE": 0})
    assert_fault(write(unit, 0), RiscvIommuCause.WRITE_GUEST_PAGE_FAULT, stage=2)


def test_what_the_first_stage_gives_is_what_is_matched_3_3_step_18() -> None:
    unit = message_unit("Sv39")
    assert unit.first is not None
    unit.first.map(0x80_0000, FILE + 0x4000, 0x1000)
    assert unit.access(AccessKind.WRITE, iova=0x80_0004) == Translated(REAL + 0x1004, 0x1000, RW)
    unit.first.set_fields(0x80_0000, 1, {"W": 0})
    outcome = unit.access(AccessKind.WRITE, iova=0x80_0004)
    assert_fault(outcome, RiscvIommuCause.WRITE_PAGE_FAULT, stage=1, level=1)
    assert unit.access(iova=0x80_0004) == Translated(REAL + 0x1004, 0x1000, Permissions.READ)


def test_translated_requests_with_t2gpa_reach_interrupt_files_3_3_step_9() -> None:
    unit = message_unit()
    unit.tables.set_context_fields(DEVICE, {"tc.EN_ATS": 1, "tc.T2GPA": 1})
    outcome = unit.access(AccessKind.WRITE, iova=FILE, address_type=AddressType.TRANSLATED)
    assert outcome == Translated(REAL, 0x1000, RW)


# Faults.


def test_a_table_outside_of_memory_faults_with_cause_261_3_3_3_step_7() -> None:
    unit = message_unit()
    unit.tables.set_context_fields(DEVICE, {"msiptp.PPN": NOWHERE >> 12})
    assert_fault(write(unit, 0), RiscvIommuCause.MSI_PTE_LOAD_ACCESS_FAULT)


def test_a_table_beyond_the_physical_addresses_faults_with_cause_261_6_3() -> None:
    unit = message_unit()
    unit.tables.set_context_fields(DEVICE, {"msiptp.PPN": (1 << 44) - 1})
    unit.fields["capabilities"] = unit.fields["capabilities"] & ~(0x3F << 32) | 40 << 32
    assert_fault(write(unit, 0), RiscvIommuCause.MSI_PTE_LOAD_ACCESS_FAULT)


def test_memory_that_answers_beyond_the_physical_addresses_is_not_asked_for_an_entry_6_3() -> None:
    unit = message_unit()
    device = unit.engine().find_device(DEVICE)
    assert isinstance(device, DeviceContext)
    assert device.msi_table is not None
    beyond = unit.limit_addresses(device.msi_table)
    assert isinstance(write(unit, 0), Translated)
    unit.tables.set_context_fields(DEVICE, {"msiptp.PPN": beyond >> 12})
    assert_fault(write(unit, 0), RiscvIommuCause.MSI_PTE_LOAD_ACCESS_FAULT)


def test_memory_that_answers_beyond_the_physical_addresses_holds_no_interrupt_file_6_3() -> None:
    unit = message_unit()
    beyond = unit.limit_addresses(MRIF)
    assert isinstance(send(unit, 2, 5), PostedInterrupt)
    unit.tables.set_resident_interrupt_file(DEVICE, 2, beyond, NOTICE, 0)
    assert_fault(send(unit, 2, 5), RiscvIommuCause.MRIF_ACCESS_FAULT)


def test_an_msi_page_table_has_room_for_all_files_of_its_mask_3_1_3_5() -> None:
    unit = message_unit()
    # Nine bits: 512 entries of 16 bytes.
    unit.tables.set_interrupt_files(DEVICE, 0x1FF, PATTERN & ~0x1FF)
    behind = unit.tables.pages.take()
    device = unit.engine().find_device(DEVICE)
    assert isinstance(device, DeviceContext)
    assert device.msi_table is not None
    assert behind >= device.msi_table + 0x2000
    unit.tables.set_interrupt_file(DEVICE, 0x1FF, REAL)
    outcome = unit.access(AccessKind.WRITE, iova=(PATTERN & ~0x1FF | 0x1FF) << 12)
    assert outcome == Translated(REAL, 0x1000, RW)


def test_an_entry_without_v_faults_with_cause_262_3_3_3_step_9() -> None:
    unit = message_unit()
    assert_fault(write(unit, 3), RiscvIommuCause.MSI_PTE_NOT_VALID)
    entry_fields(unit, 3, V=0, RSVD_3=1, M=0)
    assert_fault(write(unit, 3), RiscvIommuCause.MSI_PTE_NOT_VALID)


@pytest.mark.parametrize("fields", [{"M": 0}, {"M": 2}, {"C": 1}])
def test_a_reserved_mode_or_a_custom_entry_faults_with_cause_263_3_3_3_step_12(fields: dict[str, int]) -> None:
    unit = message_unit()
    entry_fields(unit, 0, **fields)
    assert_fault(write(unit, 0), RiscvIommuCause.MSI_PTE_MISCONFIGURED)


@pytest.mark.parametrize("fields", [{"RSVD_3": 1}, {"RSVD_3": 1 << 6}, {"RSVD_54": 1}, {"RSVD_54": 1 << 8}])
def test_a_reserved_bit_of_a_basic_entry_faults_with_cause_263_3_3_3_step_13(fields: dict[str, int]) -> None:
    unit = message_unit()
    entry_fields(unit, 0, **fields)
    assert_fault(write(unit, 0), RiscvIommuCause.MSI_PTE_MISCONFIGURED)


def test_the_second_doubleword_of_a_basic_entry_is_ignored_aia() -> None:
    unit = message_unit()
    entry_fields(unit, 0, IGN_64=(1 << 64) - 1)
    assert isinstance(write(unit, 0), Translated)


@pytest.mark.parametrize(
    "fields",
    [{"RSVD_3": 1}, {"RSVD_3": 8}, {"RSVD_54": 1}, {"RSVD_118": 1}, {"RSVD_118": 32}, {"RSVD_125": 1}, {"RSVD_125": 4}],
)
def test_a_reserved_bit_of_an_mrif_entry_faults_with_cause_263_3_3_3_step_14(fields: dict[str, int]) -> None:
    unit = message_unit()
    unit.tables.set_resident_interrupt_file(DEVICE, 2, MRIF, NOTICE, 0, overrides=fields)
    assert_fault(write(unit, 2), RiscvIommuCause.MSI_PTE_MISCONFIGURED)


def test_mrif_mode_needs_msi_mrif_3_3_3_step_14() -> None:
    unit = message_unit()
    unit.fields["capabilities"] &= ~(1 << 23)
    assert_fault(write(unit, 2), RiscvIommuCause.MSI_PTE_MISCONFIGURED)


@pytest.mark.parametrize("number", [0, 2])
def test_a_read_for_execute_faults_with_cause_1_3_3_3_step_15(number: int) -> None:
    outcome = message_unit().access(AccessKind.EXECUTE, iova=FILE + number * 0x4000)
    assert_fault(outcome, RiscvIommuCause.INSTRUCTION_ACCESS_FAULT)


# Entries as bytes.


def test_entries_written_by_hand() -> None:
    unit = message_unit()
    table = unit.engine().find_device(DEVICE).msi_table  # type: ignore[union-attr]
    assert table is not None
    # MRIF at 0xAB_CDEF_0200: bits 55:9 at bit 7. Notice: page 0x12345, identity 0x401 (bit 10 apart, bit 60).
    low = 0xAB_CDEF_0200 >> 2 | 1 << 1 | 1
    high = 1 << 60 | 0x12345 << 10 | 1
    unit.memory.write(table, low.to_bytes(8, "little") + high.to_bytes(8, "little"))
    assert write(unit, 0) == Translated(0xAB_CDEF_0200, 0x1000, RW, Attributes.MRIF)
    # Basic translate mode is an entry of Sv39 with R and W.
    unit.memory.write(table, (0x4_0000_0000 >> 2 | 0b111).to_bytes(16, "little"))
    assert write(unit, 0) == Translated(0x4_0000_0000, 0x1000, RW)


# Memory-resident interrupt files.


def test_a_write_to_a_resident_interrupt_file_is_translated_to_it() -> None:
    assert write(message_unit(), 2) == Translated(MRIF, 0x1000, RW, Attributes.MRIF)


@pytest.mark.parametrize(("length", "offset"), [(1, 0), (2, 0), (8, 0), (4, 1), (4, 2), (0, 0)])
def test_an_access_there_that_is_not_32_bits_and_aligned_is_unsupported_aia(length: int, offset: int) -> None:
    outcome = message_unit().access(AccessKind.WRITE, iova=FILE + 0x8000 + offset, length=length)
    fault = assert_fault(outcome, RiscvIommuBlocked.MRIF_ACCESS_UNSUPPORTED)
    assert fault.record is None


# remap_msi.


def test_a_message_to_a_real_interrupt_file_goes_through_remapped() -> None:
    assert send(message_unit(), 1, 0x77) == Interrupt(REAL + 0x1000, 0x77, remapped=True)


@pytest.mark.parametrize(
    ("identity", "offset", "bit"), [(0, 0, 0), (1, 0, 1), (63, 0, 63), (64, 0x10, 0), (130, 0x20, 2), (2047, 0x1F0, 63)]
)
def test_a_message_to_a_resident_interrupt_file_sets_its_pending_bit_and_is_always_noticed_aia(
    identity: int, offset: int, bit: int
) -> None:
    unit = message_unit()
    unit.memory.write_u64(MRIF + offset, 1 << 7)
    notice = Interrupt(NOTICE, 0x5A5, remapped=True)
    pending = MemoryWrite(MRIF + offset, (1 << 7 | 1 << bit).to_bytes(8, "little"))
    assert send(unit, 2, identity) == PostedInterrupt(MRIF, identity, notice, (pending,))


@pytest.mark.parametrize(("data", "offset"), [(2048, 0), (1 << 31, 0), (1, 8), (1, 0x800), (1, 4)])
def test_what_is_no_message_is_accepted_and_discarded_aia(data: int, offset: int) -> None:
    outcome = send(message_unit(), 2, data, offset)
    fault = assert_fault(outcome, RiscvIommuBlocked.MSI_DISCARDED)
    assert fault.record is None


def test_a_big_endian_message_is_posted_where_these_are_supported_aia() -> None:
    outcome = send(message_unit(big_endian_msis=True), 2, 0x0506_0000, 4)
    assert isinstance(outcome, PostedInterrupt)
    assert outcome.number == 0x605


@pytest.mark.parametrize("disabled", [0, 1])
def test_a_resident_interrupt_file_outside_of_memory_faults_with_cause_264_4_2(disabled: int) -> None:
    unit = message_unit()
    unit.tables.set_context_fields(DEVICE, {"tc.DTF": disabled})
    for address in (NOWHERE, (1 << 56) - 512):
        unit.tables.set_resident_interrupt_file(DEVICE, 2, address, NOTICE, 0)
        fault = assert_fault(send(unit, 2, 5), RiscvIommuCause.MRIF_ACCESS_FAULT)
        assert (fault.record is None) == bool(disabled)
    unit.fields["capabilities"] = unit.fields["capabilities"] & ~(0x3F << 32) | 30 << 32
    unit.tables.set_resident_interrupt_file(DEVICE, 2, 1 << 40, NOTICE, 0)
    assert_fault(send(unit, 2, 5), RiscvIommuCause.MRIF_ACCESS_FAULT)


def test_a_message_that_is_dma_goes_where_dma_goes() -> None:
    unit = Unit()
    message = MsiWrite(requester=DEVICE, address=IOVA + 4, data=9)
    assert unit.engine().remap_msi(message) == Interrupt(OUTPUT + 4, 9, remapped=True)
    unit = Unit(None)
    assert unit.engine().remap_msi(message) == Interrupt(IOVA + 4, 9, remapped=False)
    assert unit.access() == Bypassed(IOVA, BypassReason.PASS_THROUGH)


def test_a_message_that_is_not_allowed_faults_as_a_write_does() -> None:
    outcome = send(Unit(), 0, 1)
    assert isinstance(outcome, Fault)
    fault = assert_fault(outcome, RiscvIommuCause.WRITE_PAGE_FAULT, stage=1)
    assert isinstance(fault.record, RiscvIommuFaultRecord)
