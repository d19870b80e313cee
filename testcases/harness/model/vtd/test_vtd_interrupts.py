"""Interrupt remapping: messages, sources, entries, and the steps of it (VT-d 5.1.4, 9.9, 9.10)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vtd_interrupt_unit import (
    BASE,
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

from harness.errors import SpecError
from harness.model.access import Fault
from harness.model.engine import Interrupt, MsiWrite, PostedInterrupt
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import CallableMemory, Region, SparseMemory
from harness.model.vtd import VtdEngine
from harness.model.vtd.faults import VtdFaultReason, VtdFaultRecord
from harness.model.vtd.interrupts.entries import IRTA_REG, SourceQualifier, SourceValidation
from harness.model.vtd.interrupts.remapping import InterruptRemapping
from harness.model.vtd.interrupts.tables import InterruptTable, remappable_message
from harness.model.x86_message import DeliveryMode, X86Message


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.fixture
def posting() -> Unit:
    return Unit(posted=True)


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

    def read(address: int, size: int) -> bytes:
        reads.append((address, size))
        return unit.memory.read(address, size)

    watched = CallableMemory(read, (Region(0, RAM),))
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
