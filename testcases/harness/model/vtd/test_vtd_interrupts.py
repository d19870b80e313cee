"""Interrupt remapping and posting: messages, sources, entries, and every fault reason (VT-d 5.1.4, 5.2.3, 9.9-9.11)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.access import Fault, MemoryWrite
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite, PostedInterrupt
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Region, SparseMemory
from harness.model.vtd import VtdEngine
from harness.model.vtd.faults import VtdFaultReason, VtdFaultRecord
from harness.model.vtd.interrupts.entries import IRTA_REG, SourceQualifier, SourceValidation
from harness.model.vtd.interrupts.remapping import InterruptRemapping
from harness.model.vtd.interrupts.tables import InterruptTable, remappable_message
from harness.model.vtd.register_layouts import CAP_REG, ECAP_REG
from harness.model.vtd.registers import VtdRegisters
from harness.model.x86_message import DeliveryMode, X86Message

RID = 0x0128
INDEX = 5
BASE = 0x1_0000
DESCRIPTOR = 0x4_0040
RAM = 0x10_0000
INTERRUPT_PAGES = range(0xFEE0_0000, 0xFEF0_0000, 0x1000)
CFIS, IRES = 1 << 23, 1 << 25
COMPATIBILITY = X86Message(destination=3, vector=0x41).encode()
ALL = {"QI": 1, "IR": 1, "EIM": 1}


class Unit:
    """A unit that remaps interrupts, with an entry at INDEX for RID."""

    def __init__(self, *, extended: bool = False, entries: int = 256, posted: bool = False) -> None:
        self.memory = SparseMemory((Region(0, RAM),))
        self.table = InterruptTable(self.memory, BASE, entries, extended)
        self.registers = VtdRegisters(
            rtaddr=0,
            cap=CAP_REG.encode({"PI": 1}),
            ecap=ECAP_REG.encode(ALL),
            gsts=IRES,
            host_address_width=46,
            irta=self.table.irta,
        )
        if posted:
            self.table.post(INDEX, vector=0x35, descriptor=DESCRIPTOR, requester=RID)
            self.table.write_descriptor(DESCRIPTOR, vector=0xF2, destination=7)
        else:
            self.table.remap(INDEX, vector=0x41, destination=3, requester=RID)

    def set(self, **values: Any) -> None:
        self.registers = replace(self.registers, **values)

    def ecap(self, **values: int) -> None:
        self.set(ecap=ECAP_REG.encode({**ALL, **values}))

    def write(self, index: int = INDEX, subhandle: int | None = None, *, requester: int = RID) -> MsiOutcome:
        return self.message(*remappable_message(index, subhandle), requester=requester)

    def message(self, address: int, data: int, *, requester: int = RID) -> MsiOutcome:
        remapping = InterruptRemapping(self.registers)
        write = MsiWrite(requester=requester, address=address, data=data)
        outcome = remapping.remap(self.memory, write, None)
        assert remapping.remap(self.memory, write, []) == outcome
        return outcome

    def steps(self) -> list[Step]:
        steps: list[Step] = []
        address, data = remappable_message(INDEX)
        write = MsiWrite(requester=RID, address=address, data=data)
        InterruptRemapping(self.registers).remap(self.memory, write, steps)
        return steps


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.fixture
def posting() -> Unit:
    return Unit(posted=True)


def assert_fault(outcome: object, reason: VtdFaultReason, index: int | None = INDEX) -> Fault:
    """A fault whose record holds the source id and the index; index None where FI is undefined."""
    assert isinstance(outcome, Fault), outcome
    assert outcome.code is reason
    assert outcome.is_write
    assert outcome.iova in INTERRUPT_PAGES
    record = VtdFaultRecord(
        address=0, source_id=outcome.requester & 0xFFFF, reason=reason, is_read=False, interrupt_index=index
    )
    assert outcome.record == record
    assert VtdFaultRecord.decode(record.encode()) == record
    return outcome


def assert_remapped(outcome: object, message: X86Message) -> None:
    assert outcome == Interrupt(*message.encode(), remapped=True)


# The bits, written down by hand from the figures of 9.9, 9.10 and 5.1.2.2.


def test_entry_in_remapped_format_has_its_fields_where_figure_9_9_has_them() -> None:
    unit = Unit(extended=True)
    unit.table.remap(
        1,
        vector=0x41,
        destination=0xAABB_CCDD,
        requester=0x5A5B,
        delivery_mode=DeliveryMode.EXT_INT,
        logical=True,
        redirection_hint=True,
        level_triggered=True,
        overrides={"FPD": 1, "AVAIL": 9, "SQ": 2},
    )
    assert unit.memory.read(BASE + 16, 16) == bytes.fromhex("ff094100ddccbbaa") + bytes.fromhex("5b5a060000000000")


def test_entry_in_posted_format_has_its_fields_where_figure_9_10_has_them(unit: Unit) -> None:
    unit.table.post(1, vector=0x35, descriptor=0x12_3456_7FC0, urgent=True, overrides={"SVT": 2, "SID": 0x5A5B})
    assert unit.memory.read_u64(BASE + 16) == 0x3456_7FC0 << 32 | 0x35_0000 | 1 << 15 | 1 << 14 | 1
    assert unit.memory.read_u64(BASE + 24) == 0x12 << 32 | 0b10 << 18 | 0x5A5B


def test_posted_descriptor_has_its_fields_where_figure_9_11_has_them() -> None:
    unit = Unit(extended=True)
    unit.table.write_descriptor(
        DESCRIPTOR, vector=0xF2, destination=0xAABB_CCDD, overrides={"PIR": 1 << 255 | 1, "ON": 1, "SN": 1}
    )
    data = b"\x01" + bytes(30) + b"\x80" + b"\x03\x00\xf2\x00" + b"\xdd\xcc\xbb\xaa" + bytes(24)
    assert unit.memory.read(DESCRIPTOR, 64) == data


def test_message_in_remappable_format_has_its_fields_where_figure_5_2_has_them() -> None:
    assert remappable_message(0x8001) == (0xFEE0_0034, 0)
    assert remappable_message(0x7FFF, 0xABCD) == (0xFEEF_FFF8, 0xABCD)


@pytest.mark.parametrize(("entries", "size"), [(2, 0), (256, 7), (65536, 15)])
def test_size_field_is_one_less_than_log2_of_the_entries_11_4_10(entries: int, size: int) -> None:
    assert InterruptTable(SparseMemory(), BASE, entries).irta == BASE | size
    assert InterruptTable(SparseMemory(), BASE, entries, extended=True).irta == BASE | 1 << 11 | size


def test_table_of_another_size_is_refused() -> None:
    with pytest.raises(SpecError, match="power of two"):
        InterruptTable(SparseMemory(), BASE, 3)


# Remapping (5.1.4, 9.9).


def test_remapped_interrupt_is_what_the_entry_says(unit: Unit) -> None:
    assert_remapped(unit.write(), X86Message(destination=3, vector=0x41))


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("delivery_mode", DeliveryMode)
def test_every_attribute_of_the_message_comes_from_the_entry_9_9(delivery_mode: DeliveryMode, extended: bool) -> None:
    unit = Unit(extended=extended)
    for logical, hint, level in ((True, False, True), (False, True, False)):
        unit.table.remap(
            INDEX,
            vector=0x99,
            destination=0xFE,
            delivery_mode=delivery_mode,
            logical=logical,
            redirection_hint=hint,
            level_triggered=level,
        )
        message = X86Message(
            destination=0xFE,
            vector=0x99,
            delivery_mode=delivery_mode,
            logical=logical,
            redirection_hint=hint,
            level_triggered=level,
        )
        assert_remapped(unit.write(), message)


def test_x2apic_mode_has_destinations_of_32_bits_9_9() -> None:
    unit = Unit(extended=True)
    unit.table.remap(INDEX, vector=0x41, destination=0x8000_0103)
    assert_remapped(unit.write(), X86Message(destination=0x8000_0103, vector=0x41))


def test_xapic_mode_takes_the_destination_from_bits_47_to_40_9_9(unit: Unit) -> None:
    unit.table.set_fields(INDEX, {"DST": 0xFE00})
    assert_remapped(unit.write(), X86Message(destination=0xFE, vector=0x41))


def test_level_of_a_remapped_interrupt_is_always_asserted_5_1_4(unit: Unit) -> None:
    outcome = unit.write()
    assert isinstance(outcome, Interrupt)
    assert X86Message.decode(outcome.address, outcome.data).asserted


@pytest.mark.parametrize(("handle", "subhandle"), [(5, None), (5, 0), (0, 5), (3, 2)])
def test_index_is_handle_plus_subhandle_5_1_3(unit: Unit, handle: int, subhandle: int | None) -> None:
    assert_remapped(unit.write(handle, subhandle), X86Message(destination=3, vector=0x41))


def test_handle_bit_15_is_address_bit_2_5_1_2_2() -> None:
    unit = Unit(entries=65536)
    unit.table.remap(0x8005, vector=0x42, destination=4)
    assert_remapped(unit.write(0x8005), X86Message(destination=4, vector=0x42))
    assert_remapped(unit.write(5), X86Message(destination=3, vector=0x41))


@pytest.mark.parametrize("low", [1, 2, 3])
def test_address_bits_1_and_0_are_ignored_5_1_2_2(unit: Unit, low: int) -> None:
    assert_remapped(unit.message(remappable_message(INDEX)[0] | low, 0), X86Message(destination=3, vector=0x41))


def test_data_is_ignored_without_shv_5_1_2_2(unit: Unit) -> None:
    assert_remapped(unit.message(remappable_message(INDEX)[0], 0xFFFF_FFFF), X86Message(destination=3, vector=0x41))


@pytest.mark.parametrize("fields", [{"AVAIL": 0xF}, {"SQ": 3, "SVT": 0}, {"SID": 0xFFFF, "SVT": 0}])
def test_fields_without_a_meaning_are_ignored_9_9(unit: Unit, fields: dict[str, int]) -> None:
    unit.table.set_fields(INDEX, fields)
    assert_remapped(unit.write(), X86Message(destination=3, vector=0x41))


@pytest.mark.parametrize("entries", [2, 4, 256])
def test_table_has_two_to_the_s_plus_1_entries_11_4_10(entries: int) -> None:
    unit = Unit(entries=entries)
    unit.table.remap(entries - 1, vector=0x42, destination=4)
    unit.table.remap(entries, vector=0x43, destination=5)
    assert_remapped(unit.write(entries - 1), X86Message(destination=4, vector=0x42))
    assert_fault(unit.write(entries), VtdFaultReason.INTERRUPT_INDEX_BEYOND_TABLE, entries)


def test_table_address_bits_above_the_host_address_width_are_ignored_11_4_10(unit: Unit) -> None:
    unit.set(irta=unit.table.irta | 1 << 60)
    assert_remapped(unit.write(), X86Message(destination=3, vector=0x41))


def test_requester_of_any_segment_matches_its_source_id(unit: Unit) -> None:
    assert_remapped(unit.write(requester=2 << 16 | RID), X86Message(destination=3, vector=0x41))


# Source validation (9.9).


def accepted(unit: Unit, requesters: range) -> set[int]:
    return {rid for rid in requesters if isinstance(unit.write(requester=rid), Interrupt)}


def test_svt_00_lets_every_requester_in(unit: Unit) -> None:
    unit.table.set_fields(INDEX, {"SVT": SourceValidation.NONE})
    assert accepted(unit, range(0, 1 << 16, 0x101)) == set(range(0, 1 << 16, 0x101))


@pytest.mark.parametrize(
    ("qualifier", "requesters"),
    [
        (SourceQualifier.ALL_BITS, {0x12B}),
        (SourceQualifier.IGNORE_BIT_2, {0x12B, 0x12F}),
        (SourceQualifier.IGNORE_BITS_2_1, {0x129, 0x12B, 0x12D, 0x12F}),
        (SourceQualifier.IGNORE_BITS_2_0, set(range(0x128, 0x130))),
    ],
)
def test_svt_01_compares_the_bits_that_sq_says(unit: Unit, qualifier: int, requesters: set[int]) -> None:
    unit.table.set_fields(INDEX, {"SVT": SourceValidation.SOURCE_ID, "SID": 0x12B, "SQ": qualifier})
    assert accepted(unit, range(0x100, 0x200)) == requesters


def test_svt_10_lets_the_buses_from_the_upper_to_the_lower_byte_of_sid_in(unit: Unit) -> None:
    unit.table.set_fields(INDEX, {"SVT": SourceValidation.BUS_RANGE, "SID": 0x0305})
    assert accepted(unit, range(0x27, 0x1000, 0x100)) == {0x327, 0x427, 0x527}
    unit.table.set_fields(INDEX, {"SID": 0x0404})
    assert accepted(unit, range(0x27, 0x1000, 0x100)) == {0x427}
    unit.table.set_fields(INDEX, {"SID": 0x0503})
    assert accepted(unit, range(0x27, 0x1000, 0x100)) == set()


def test_source_id_of_an_io_apic_is_checked_like_any_other(unit: Unit) -> None:
    unit.table.set_fields(INDEX, {"SID": 0xF0F8})
    assert accepted(unit, range(0xF000, 0xF100)) == {0xF0F8}


# Compatibility format (5.1.4).


def test_everything_goes_through_while_remapping_is_off(unit: Unit) -> None:
    unit.set(gsts=0)
    for address, data in (COMPATIBILITY, remappable_message(INDEX)):
        assert unit.message(address, data) == Interrupt(address, data, remapped=False)


def test_compatibility_format_goes_through_only_with_cfis(unit: Unit) -> None:
    unit.set(gsts=IRES | CFIS)
    assert unit.message(*COMPATIBILITY) == Interrupt(*COMPATIBILITY, remapped=False)
    assert_remapped(unit.write(), X86Message(destination=3, vector=0x41))


def test_eime_is_not_there_without_ecap_eim_11_4_10() -> None:
    unit = Unit(extended=True)
    unit.set(gsts=IRES | CFIS)
    unit.ecap(EIM=0)
    assert unit.message(*COMPATIBILITY) == Interrupt(*COMPATIBILITY, remapped=False)


# Fault reasons (5.1.4.1), in the order of their numbers.


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


# Posting (5.2.3).


def posted_line(unit: Unit) -> int:
    outcome = unit.write()
    assert isinstance(outcome, PostedInterrupt)
    ((write),) = outcome.writes
    assert (write.address, len(write.data)) == (DESCRIPTOR, 64)
    return int.from_bytes(write.data, "little")


def test_posted_interrupt_sets_its_bit_and_notifies_the_processor_once(posting: Unit) -> None:
    before = int.from_bytes(posting.memory.read(DESCRIPTOR, 64), "little")
    outcome = posting.write()
    stored = MemoryWrite(DESCRIPTOR, (before | 1 << 256 | 1 << 0x35).to_bytes(64, "little"))
    notify = Interrupt(*X86Message(destination=7, vector=0xF2).encode(), remapped=True)
    assert outcome == PostedInterrupt(DESCRIPTOR, 0x35, notify, (stored,))
    stored.apply(posting.memory)
    again = posting.write()
    assert again == PostedInterrupt(DESCRIPTOR, 0x35, None, (stored,))


@pytest.mark.parametrize("outstanding", [0, 1])
@pytest.mark.parametrize("suppressed", [0, 1])
@pytest.mark.parametrize("urgent", [0, 1])
def test_notification_follows_on_sn_and_urg_5_2_3(
    posting: Unit, outstanding: int, suppressed: int, urgent: int
) -> None:
    posting.table.write_descriptor(
        DESCRIPTOR, vector=0xF2, destination=7, overrides={"ON": outstanding, "SN": suppressed}
    )
    posting.table.set_fields(INDEX, {"URG": urgent})
    outcome = posting.write()
    assert isinstance(outcome, PostedInterrupt)
    notified = not outstanding and bool(urgent or not suppressed)
    assert (outcome.notify is not None) == notified
    line = posted_line(posting)
    assert line >> 256 & 1 == (outstanding or notified)
    assert line >> 257 & 1 == suppressed


def test_notification_in_x2apic_mode_has_a_destination_of_32_bits_9_11() -> None:
    unit = Unit(extended=True, posted=True)
    unit.table.write_descriptor(DESCRIPTOR, vector=0xF2, destination=0x8000_0103)
    outcome = unit.write()
    assert isinstance(outcome, PostedInterrupt)
    assert outcome.notify == Interrupt(*X86Message(destination=0x8000_0103, vector=0xF2).encode(), remapped=True)


def test_bits_posted_before_stay(posting: Unit) -> None:
    posting.table.write_descriptor(DESCRIPTOR, vector=0xF2, destination=7, overrides={"PIR": 1 << 255 | 1})
    assert posted_line(posting) & (1 << 256) - 1 == 1 << 255 | 1 | 1 << 0x35


def test_descriptor_address_comes_from_both_halves_9_10() -> None:
    unit = Unit()
    unit.memory = SparseMemory((Region(0, RAM), Region(0x12_3456_7000, 0x1000)))
    unit.table = InterruptTable(unit.memory, BASE)
    unit.table.post(INDEX, vector=1, descriptor=0x12_3456_7FC0)
    outcome = unit.write()
    assert isinstance(outcome, PostedInterrupt)
    assert outcome.address == 0x12_3456_7FC0


def test_descriptor_above_4_gib_gives_each_half_its_own_bits_9_10() -> None:
    unit = Unit()
    unit.table.post(INDEX, vector=1, descriptor=0x3_0000_0040)
    entry = int.from_bytes(unit.memory.read(BASE + 16 * INDEX, 16), "little")
    # P, IM, VV; PDAL in bits 63:38, PDAH in bits 127:96; URG stays clear.
    assert entry == 3 << 96 | 1 << 38 | 1 << 16 | 1 << 15 | 1


def test_writing_an_entry_or_a_descriptor_leaves_its_neighbour_alone(posting: Unit) -> None:
    posting.table.remap(INDEX + 1, vector=0x42, destination=4)
    posting.memory.write(DESCRIPTOR + 64, b"\x55" * 64)
    neighbour = posting.memory.read(BASE + 16 * (INDEX + 1), 16)
    posting.table.set_fields(INDEX, {"URG": 1})
    posting.table.write_descriptor(DESCRIPTOR, vector=0xF3, destination=7)
    assert posting.memory.read(BASE + 16 * (INDEX + 1), 16) == neighbour
    assert posting.memory.read(DESCRIPTOR + 64, 64) == b"\x55" * 64


# Steps.


def test_steps_show_registers_and_the_tagged_entry(unit: Unit) -> None:
    gsts, irta, entry = unit.steps()
    assert (gsts.what, irta.what) == ("GSTS_REG", "IRTA_REG")
    assert (entry.address, entry.size) == (BASE + 16 * INDEX, 16)
    assert entry.value == int.from_bytes(unit.memory.read(BASE + 16 * INDEX, 16), "little")
    assert entry.cached == CachedEntry(kind=EntryKind.INTERRUPT, index=INDEX)
    assert ("V", 0x41) in entry.fields
    assert (gsts.value, irta.value) == (unit.registers.gsts, unit.registers.irta)
    assert (gsts.address, irta.address) == (None, None)


def test_steps_of_posting_end_with_the_descriptor_which_is_not_cached(posting: Unit) -> None:
    entry, descriptor = posting.steps()[-2:]
    assert ("VV", 0x35) in entry.fields
    assert (descriptor.address, descriptor.size, descriptor.cached) == (DESCRIPTOR, 64, None)
    assert descriptor.value == int.from_bytes(posting.memory.read(DESCRIPTOR, 64), "little")
    assert ("NV", 0xF2) in descriptor.fields


def test_step_of_what_lies_outside_of_memory_says_where_it_was_looked_for(unit: Unit, posting: Unit) -> None:
    unit.set(irta=IRTA_REG.encode({"IRTA": 0x7000_0000, "S": 7}))
    entry = unit.steps()[-1]
    assert (entry.address, entry.size, entry.value) == (0x7000_0000 + 16 * INDEX, 16, None)
    posting.table.post(INDEX, vector=1, descriptor=0x7000_0040)
    descriptor = posting.steps()[-1]
    assert (descriptor.address, descriptor.size, descriptor.value) == (0x7000_0040, 64, None)


def test_entry_is_read_in_one_piece_5_1_4(unit: Unit) -> None:
    reads: list[tuple[int, int]] = []

    class Watched(SparseMemory):
        def read(self, address: int, size: int) -> bytes:
            reads.append((address, size))
            return super().read(address, size)

    watched = Watched((Region(0, RAM),))
    watched.write(BASE, unit.memory.read(BASE, 16 * 256))
    address, data = remappable_message(INDEX)
    InterruptRemapping(unit.registers).remap(watched, MsiWrite(requester=RID, address=address, data=data), None)
    assert reads == [(BASE + 16 * INDEX, 16)]


def test_engine_remaps_and_explains(unit: Unit) -> None:
    engine = VtdEngine(unit.registers, unit.memory)
    address, data = remappable_message(INDEX)
    write = MsiWrite(requester=RID, address=address, data=data)
    assert engine.remap_msi(write) == unit.write()
    assert engine.explain_msi(write) == (tuple(unit.steps()), unit.write())


# Whatever comes.


@pytest.mark.parametrize("address", [0, 0xFEDF_FFFC, 0xFEF0_0000, 0x1_FEE0_0000])
def test_write_to_another_address_is_no_interrupt(unit: Unit, address: int) -> None:
    with pytest.raises(SpecError, match="no interrupt address"):
        unit.message(address, 0)


@settings(deadline=None, max_examples=300)
@given(
    address=st.integers(0, 0xF_FFFF),
    data=st.one_of(st.integers(0, 0xFF), st.integers(0, (1 << 32) - 1)),
    requester=st.integers(0, (1 << 32) - 1),
    entry=st.integers(0, (1 << 128) - 1),
    present=st.booleans(),
    line=st.binary(min_size=64, max_size=64),
    gsts=st.sampled_from([IRES, IRES | CFIS, 0]),
    ecap=st.integers(0, (1 << 64) - 1),
    irta=st.integers(0, (1 << 64) - 1),
)
def test_no_tables_whatever_lead_to_anything_but_an_outcome(
    address: int,
    data: int,
    requester: int,
    entry: int,
    present: bool,
    line: bytes,
    gsts: int,
    ecap: int,
    irta: int,
) -> None:
    unit = Unit()
    for index in range(0x100):
        unit.memory.write(BASE + 16 * index, (entry & ~1 | int(present)).to_bytes(16, "little"))
    unit.memory.write((entry >> 32 & 0xFFFC0) % RAM, line)
    for table in (irta, BASE | irta & 0x80F):
        unit.set(gsts=gsts, ecap=ecap, irta=table)
        outcome = unit.message(0xFEE0_0000 | address, data, requester=requester)
        assert isinstance(outcome, Interrupt | PostedInterrupt | Fault)
        if isinstance(outcome, Fault) and isinstance(outcome.record, VtdFaultRecord):
            assert VtdFaultRecord.decode(outcome.record.encode()) == outcome.record


@settings(deadline=None, max_examples=100)
@given(
    index=st.integers(0, 255),
    vector=st.integers(0, 255),
    destination=st.integers(0, (1 << 32) - 1),
    delivery_mode=st.sampled_from(DeliveryMode),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    requester=st.integers(0, 0xFFFF),
    other=st.integers(0, 0xFFFF),
    extended=st.booleans(),
)
def test_table_and_remapping_are_inverse(
    index: int,
    vector: int,
    destination: int,
    delivery_mode: DeliveryMode,
    flags: tuple[bool, bool, bool],
    requester: int,
    other: int,
    extended: bool,
) -> None:
    unit = Unit(extended=extended)
    message = X86Message(
        destination=destination if extended else destination & 0xFF,
        vector=vector,
        delivery_mode=delivery_mode,
        logical=flags[0],
        redirection_hint=flags[1],
        level_triggered=flags[2],
    )
    unit.table.remap(
        index,
        vector=message.vector,
        destination=message.destination,
        requester=requester,
        delivery_mode=message.delivery_mode,
        logical=message.logical,
        redirection_hint=message.redirection_hint,
        level_triggered=message.level_triggered,
    )
    assert_remapped(unit.write(index, requester=requester), message)
    # Another entry changes nothing, and another requester gets nothing.
    unit.table.remap(index ^ 1, vector=1, destination=1)
    assert_remapped(unit.write(index, requester=requester), message)
    if other != requester:
        assert_fault(unit.write(index, requester=other), VtdFaultReason.INTERRUPT_SOURCE_REFUSED, index)
