"""Every fault reason of VT-d 7.1.3 has a row in the table of conditions, and a test that reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reasons import assert_every_code_is_reached
from vtd_units import IOVA, PASID, Unit

from harness.model.access import AddressType, Completion, Fault
from harness.model.vtd import VtdFaultReason, VtdFaultRecord
from harness.model.vtd.fault_conditions import FAULT_CONDITIONS
from harness.model.vtd.faults import FRCD_REG, VtdBlocked
from harness.model.vtd.registers import capabilities

TESTS = sorted(Path(__file__).parent.glob("test_*.py"))
NO_PERMISSION, UR, CA = Completion.NO_PERMISSION, Completion.UNSUPPORTED_REQUEST, Completion.COMPLETER_ABORT

# By number, from the table: the answer to a translation request, and the reasons that FPD does not suppress.
ANSWERS = {
    UR: {0x1, 0x2, 0xD, 0x31, 0x33, 0x34, 0x39, 0x41, 0x44, 0x45, 0x46, 0x48, 0x89},
    CA: {0x3, 0x7, 0x8, 0x9, 0xA, 0xB, 0xC, 0xE, 0x30, 0x38, 0x3A, 0x40, 0x42, 0x43, 0x50, 0x52, 0x58, 0x5A, 0x5B}
    | {0x78, 0x7A, 0x7B, 0x7C, 0x7D, 0x87},
    NO_PERMISSION: {0x4, 0x5, 0x6, 0x51, 0x59, 0x5C, 0x5D, *range(0x70, 0x78), 0x79, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86}
    | {0x90, 0x91},
    None: {0x32, 0x47, 0x49, 0x60, *range(0xA0, 0xA6)},
}
NOT_QUALIFIED = {0x1, 0x8, 0x9, 0xA, 0x30, 0x31, 0x32, 0x33, 0x34, 0x38, 0x39, 0x3A, 0x40, 0x50, 0x58}


@pytest.mark.parametrize("codes", [VtdFaultReason, VtdBlocked])
def test_every_code_is_reached_by_a_test(codes: type[VtdFaultReason] | type[VtdBlocked]) -> None:
    assert_every_code_is_reached(codes, TESTS)


def test_every_dma_remapping_reason_has_a_row_of_the_table_7_1_3() -> None:
    assert set(FAULT_CONDITIONS) == {reason for reason in VtdFaultReason if not 0x20 <= reason <= 0x2B}


def test_rows_are_those_of_the_table_7_1_3() -> None:
    for completion, numbers in ANSWERS.items():
        assert {int(reason) for reason, row in FAULT_CONDITIONS.items() if row.completion is completion} == numbers
    assert {int(reason) for reason, row in FAULT_CONDITIONS.items() if not row.qualified} == NOT_QUALIFIED
    assert {int(reason) for reason, row in FAULT_CONDITIONS.items() if row.always_reported} == {0x91}


@pytest.mark.parametrize(
    ("is_read", "is_other", "bits", "name"),
    [
        (False, False, 0, "write"),
        (True, False, 1 << 126, "read"),
        (False, True, 1 << 92, "page request"),
        (True, True, 1 << 126 | 1 << 92, "AtomicOp"),
    ],
)
def test_type_of_a_record_is_t1_and_t2_11_4_7_6(is_read: bool, is_other: bool, bits: int, name: str) -> None:
    record = VtdFaultRecord(address=0x1000, source_id=8, reason=5, is_read=is_read, is_other=is_other)
    assert record.encode() == 1 << 127 | 5 << 96 | 8 << 64 | 0x1000 | bits
    assert VtdFaultRecord.decode(record.encode()) == record
    assert str(record).startswith(name)


def test_every_field_of_a_record_reads_back_11_4_7_6() -> None:
    record = VtdFaultRecord(
        address=0x123_4567_8000,
        source_id=0xABCD,
        reason=VtdFaultReason.SUPERVISOR_DISABLED,
        is_read=True,
        address_type=1,
        pasid=0xFEDCB,
        execute=True,
        privileged=True,
    )
    high = 1 << 63 | 1 << 62 | 1 << 60 | 0xFEDCB << 40 | 0x5D << 32 | 1 << 31 | 1 << 30 | 1 << 29 | 0xABCD
    assert record.encode() == high << 64 | 0x123_4567_8000
    assert VtdFaultRecord.decode(record.encode()) == record
    assert FRCD_REG["FR"].get(record.encode()) == 0x5D


@pytest.mark.parametrize(
    ("reason", "index", "text"),
    [
        (VtdFaultReason.INTERRUPT_ENTRY_NOT_PRESENT, 0x12, "interrupt 0x12 by 00:01.0, reason 0x22"),
        # FI says nothing of these: neither an index nor an address is shown.
        (VtdFaultReason.INTERRUPT_REQUEST_INVALID, None, "interrupt by 00:01.0, reason 0x29"),
    ],
)
def test_record_of_an_interrupt_shows_what_fi_says_11_4_7_6(
    reason: VtdFaultReason, index: int | None, text: str
) -> None:
    record = VtdFaultRecord(address=0, source_id=8, reason=reason, is_read=False, interrupt_index=index)
    assert str(record) == text


def record_of(unit: Unit, **fields: Any) -> VtdFaultRecord:
    outcome = unit.access(**fields)
    assert isinstance(outcome, Fault)
    assert isinstance(outcome.record, VtdFaultRecord)
    return outcome.record


def test_address_of_a_record_has_no_bits_above_the_largest_width_11_4_7_6() -> None:
    unit = Unit("first")
    assert record_of(unit, iova=(1 << 63) | IOVA | 1 << 56).address == 1 << 56 | IOVA
    unit.cap = capabilities(levels=frozenset({3, 4}))
    assert record_of(unit, iova=(1 << 63) | IOVA | 1 << 48).address == IOVA
    unit.cap = capabilities(levels=frozenset())
    assert record_of(unit, iova=(1 << 63) | IOVA).address == 1 << 63 | IOVA


def test_fields_of_what_the_hardware_lacks_are_clear_in_a_record_11_4_7_6() -> None:
    unit = Unit("second")
    fields: dict[str, Any] = {"pasid": PASID, "privileged": True, "address_type": AddressType.TRANSLATION_REQUEST}
    unit.rtaddr = unit.tables.root
    whole = record_of(unit, **fields)
    assert (whole.pasid, whole.privileged, whole.address_type) == (PASID, True, 1)
    unit.lacks("pasid")
    without = record_of(unit, **fields)
    assert (without.pasid, without.privileged, without.address_type) == (None, False, 1)
    unit.lacks("device_tlbs")
    assert record_of(unit, **fields).address_type == 0
