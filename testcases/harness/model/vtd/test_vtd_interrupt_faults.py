"""Which interrupts are blocked, with which fault reason, and what of it is recorded (VT-d 5.1.4.1)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from vtd_interrupt_unit import (
    CFIS,
    COMPATIBILITY,
    DESCRIPTOR,
    INDEX,
    IRES,
    RAM,
    RID,
    Unit,
    assert_fault,
    assert_remapped,
)

from harness.model.access import Fault
from harness.model.engine import Interrupt
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.interrupts.entries import IRTA_REG, SourceValidation
from harness.model.vtd.interrupts.tables import remappable_message
from harness.model.x86_message import X86Message


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.fixture
def posting() -> Unit:
    return Unit(posted=True)


@pytest.mark.parametrize("data", [0x1_0000, 0x8000_0005, 0xFFFF_0005])
def test_reserved_data_with_shv_faults_with_reason_0x20(unit: Unit, data: int) -> None:
    outcome = unit.message(remappable_message(INDEX, 0)[0], data)
    assert_fault(outcome, VtdFaultReason.INTERRUPT_REQUEST_RESERVED, None)


@pytest.mark.parametrize(("handle", "subhandle", "index"), [(256, None, 256), (255, 1, 256), (0xFFFF, None, 0xFFFF)])
def test_index_beyond_the_table_faults_with_reason_0x21(
    unit: Unit, handle: int, subhandle: int | None, index: int
) -> None:
    assert_fault(unit.write(handle, subhandle), VtdFaultReason.INTERRUPT_INDEX_BEYOND_TABLE, index)


def test_index_does_not_wrap_at_65536_and_faults_with_reason_0x21() -> None:
    unit = Unit(entries=65536)
    unit.table.remap(0, vector=0x42, destination=4)
    outcome = unit.write(0xFFFF, 1)
    assert_fault(outcome, VtdFaultReason.INTERRUPT_INDEX_BEYOND_TABLE, 0)


def test_entry_above_the_host_address_width_faults_with_reason_0x21(unit: Unit) -> None:
    unit.set(host_address_width=32, irta=IRTA_REG.encode({"IRTA": 0xFFFF_F000, "S": 15}))
    assert_fault(unit.write(0x100), VtdFaultReason.INTERRUPT_INDEX_BEYOND_TABLE, 0x100)
    assert_fault(unit.write(0xFF), VtdFaultReason.INTERRUPT_TABLE_ACCESS, 0xFF)


def test_absent_entry_faults_with_reason_0x22(unit: Unit) -> None:
    unit.table.set_fields(INDEX, {"P": 0, "RSVD_12": 1, "SID": 0})
    assert_fault(unit.write(), VtdFaultReason.INTERRUPT_ENTRY_NOT_PRESENT)
    assert_fault(unit.write(INDEX + 1), VtdFaultReason.INTERRUPT_ENTRY_NOT_PRESENT, INDEX + 1)


def test_table_outside_of_memory_faults_with_reason_0x23(unit: Unit) -> None:
    unit.set(irta=RAM | 7)
    assert_fault(unit.write(), VtdFaultReason.INTERRUPT_TABLE_ACCESS)
    assert unit.steps()[-1].note == "no memory there"


@pytest.mark.parametrize(
    "fields",
    [
        {"RSVD_12": 1},
        {"RSVD_12": 0b100},
        {"RSVD_24": 1},
        {"RSVD_24": 0x80},
        {"RSVD_84": 1},
        {"RSVD_84": 1 << 43},
        {"SVT": SourceValidation.RESERVED},
    ],
)
@pytest.mark.parametrize("extended", [False, True])
def test_reserved_field_of_a_remapped_entry_faults_with_reason_0x24(fields: dict[str, int], extended: bool) -> None:
    unit = Unit(extended=extended)
    unit.table.set_fields(INDEX, fields)
    assert_fault(unit.write(), VtdFaultReason.INTERRUPT_ENTRY_RESERVED)


@pytest.mark.parametrize("bit", [0, 7, 16, 31])
def test_destination_bits_that_xapic_mode_lacks_fault_with_reason_0x24(bit: int) -> None:
    for extended in (False, True):
        unit = Unit(extended=extended)
        unit.table.set_fields(INDEX, {"DST": 1 << bit})
        if extended:
            assert_remapped(unit.write(), X86Message(destination=1 << bit, vector=0x41))
        else:
            assert_fault(unit.write(), VtdFaultReason.INTERRUPT_ENTRY_RESERVED)


@pytest.mark.parametrize(
    "fields",
    [
        {"RSVD_2": 1},
        {"RSVD_2": 1 << 5},
        {"RSVD_12": 0b11},
        {"RSVD_24": 1},
        {"RSVD_24": 1 << 13},
        {"RSVD_84": 1},
        {"RSVD_84": 1 << 11},
        {"PDAH": 1 << 14},
        {"SVT": SourceValidation.RESERVED},
    ],
)
def test_reserved_field_of_a_posted_entry_faults_with_reason_0x24(posting: Unit, fields: dict[str, int]) -> None:
    posting.table.set_fields(INDEX, fields)
    assert_fault(posting.write(), VtdFaultReason.INTERRUPT_ENTRY_RESERVED)


def test_posted_format_without_posting_faults_with_reason_0x24_9_10(posting: Unit) -> None:
    posting.set(cap=0)
    assert_fault(posting.write(), VtdFaultReason.INTERRUPT_ENTRY_RESERVED)


def test_compatibility_format_without_cfis_faults_with_reason_0x25(unit: Unit) -> None:
    assert_fault(unit.message(*COMPATIBILITY), VtdFaultReason.INTERRUPT_COMPATIBILITY_BLOCKED, None)


def test_compatibility_format_in_x2apic_mode_faults_with_reason_0x25() -> None:
    unit = Unit(extended=True)
    unit.set(gsts=IRES | CFIS)
    assert_fault(unit.message(*COMPATIBILITY), VtdFaultReason.INTERRUPT_COMPATIBILITY_BLOCKED, None)


@pytest.mark.parametrize("posted", [False, True])
def test_another_requester_faults_with_reason_0x26(posted: bool) -> None:
    assert_fault(Unit(posted=posted).write(requester=RID + 1), VtdFaultReason.INTERRUPT_SOURCE_REFUSED)


def test_requester_is_checked_before_reserved_fields_5_1_4(unit: Unit) -> None:
    unit.table.set_fields(INDEX, {"RSVD_12": 1})
    assert_fault(unit.write(requester=RID + 1), VtdFaultReason.INTERRUPT_SOURCE_REFUSED)


def test_posted_descriptor_outside_of_memory_faults_with_reason_0x27(posting: Unit) -> None:
    posting.table.post(INDEX, vector=0x35, descriptor=RAM)
    assert_fault(posting.write(), VtdFaultReason.POSTED_DESCRIPTOR_ACCESS)
    assert posting.steps()[-1].note == "no memory there"


@pytest.mark.parametrize(
    "fields",
    [{"RSVD_258": 1}, {"RSVD_258": 1 << 13}, {"RSVD_280": 1}, {"RSVD_320": 1}, {"RSVD_320": 1 << 191}, {"NDST": 1}],
)
def test_reserved_field_of_a_posted_descriptor_faults_with_reason_0x28(posting: Unit, fields: dict[str, int]) -> None:
    posting.table.write_descriptor(DESCRIPTOR, vector=0xF2, destination=7, overrides=fields)
    assert_fault(posting.write(), VtdFaultReason.POSTED_DESCRIPTOR_RESERVED)


def test_xapic_mode_on_hardware_that_needs_x2apic_mode_faults_with_reason_0x2a(unit: Unit) -> None:
    unit.ecap(EIMER=1)
    unit.set(gsts=IRES | CFIS)
    for address, data in (COMPATIBILITY, remappable_message(INDEX)):
        assert_fault(unit.message(address, data), VtdFaultReason.INTERRUPT_MODE_REQUIRED, None)
    extended = Unit(extended=True)
    extended.ecap(EIMER=1)
    assert isinstance(extended.write(), Interrupt)


def test_remapping_that_is_off_on_hardware_that_needs_it_faults_with_reason_0x2b(unit: Unit) -> None:
    unit.ecap(IRREQ=1)
    assert isinstance(unit.write(), Interrupt)
    unit.set(gsts=0)
    for address, data in (COMPATIBILITY, remappable_message(INDEX)):
        assert_fault(unit.message(address, data), VtdFaultReason.INTERRUPT_REMAPPING_REQUIRED, None)


def test_every_interrupt_fault_reason_is_named_by_a_test() -> None:
    text = Path(__file__).read_text()
    named = {int(number, 0) for number in re.findall(r"^def test_\w*reason_(0x2[0-9a-f])", text, re.MULTILINE)}
    # 29h is one of requests that are no interrupts, and never comes here.
    assert named == {reason.value for reason in VtdFaultReason if 0x20 <= reason <= 0x2B and reason != 0x29}


@pytest.mark.parametrize(
    ("posted", "fields"),
    [
        (False, {"P": 0}),
        (False, {"RSVD_12": 1}),
        (False, {"SID": 0}),
        (True, {"RSVD_12": 1}),
        (True, {"PDAL": RAM >> 6}),
        (True, {"PDAL": 0x8000 >> 6}),
    ],
)
def test_fpd_keeps_qualified_faults_from_being_recorded_5_1_4_1(posted: bool, fields: dict[str, int]) -> None:
    unit = Unit(posted=posted)
    unit.memory.write_u64(0x8000 + 40, 1)  # a descriptor with a reserved field set
    unit.table.set_fields(INDEX, fields)
    reported = unit.write()
    unit.table.set_fields(INDEX, {"FPD": 1})
    hidden = unit.write()
    assert isinstance(reported, Fault)
    assert isinstance(hidden, Fault)
    assert reported.record is not None
    assert hidden == replace(reported, record=None)


def test_fpd_does_not_keep_other_faults_from_being_recorded_5_1_4_1(unit: Unit) -> None:
    unit.table.set_fields(INDEX, {"FPD": 1})
    assert_fault(unit.message(*COMPATIBILITY), VtdFaultReason.INTERRUPT_COMPATIBILITY_BLOCKED, None)
