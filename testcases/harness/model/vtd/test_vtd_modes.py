"""RTADDR_REG.TTM, GSTS_REG.TES, and what lies before any table (VT-d 3.4.4, 4.2.1, 7.1.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from reasons import assert_fault
from vtd_units import EVERYTHING, IOVA, OUTPUT, PASID, RID, TES, Unit

from harness.errors import SpecError
from harness.model.access import (
    Access,
    AccessKind,
    AddressType,
    Bypassed,
    BypassReason,
    Completion,
    Fault,
    Mapping,
    Permissions,
    Translated,
)
from harness.model.memory import Region, SparseMemory
from harness.model.vtd import ExtendedCapabilities, VtdEngine, VtdFaultReason, VtdFaultRecord, VtdRegisters, VtdTables
from harness.model.vtd.faults import VtdBlocked
from harness.model.vtd.register_layouts import RTADDR_REG
from harness.model.vtd.registers import capabilities

RW = Permissions.READ | Permissions.WRITE
ASK = AddressType.TRANSLATION_REQUEST
TRANSLATED = AddressType.TRANSLATED


def unit_in_mode(mode: int, *lacking: str, **fields: int) -> Unit:
    unit = Unit("second")
    unit.lacks(*lacking)
    unit.rtaddr = RTADDR_REG.encode({"RTA": unit.tables.root, "TTM": mode, **fields})
    return unit


@pytest.mark.parametrize(
    ("mode", "lacking"), [(0b10, ()), (0b11, ("abort_mode",)), (0b01, ("scalable_mode",))], ids=["10b", "11b", "01b"]
)
@pytest.mark.parametrize("pasid", [None, PASID])
def test_mode_that_the_hardware_lacks_faults_with_reason_0x30_rta_1(
    mode: int, lacking: tuple[str, ...], pasid: int | None
) -> None:
    outcome = unit_in_mode(mode, *lacking).access(pasid=pasid)
    assert assert_fault(outcome, VtdFaultReason.ROOT_POINTER_INVALID).record is not None


def test_io_permissions_in_legacy_mode_fault_with_reason_0x30_rta_1_4() -> None:
    unit = unit_in_mode(0, SSIRWE=1)
    assert_fault(unit.access(), VtdFaultReason.ROOT_POINTER_INVALID)
    assert_fault(unit.access(pasid=PASID), VtdFaultReason.PASID_IN_LEGACY_MODE)


def test_ssirwe_is_ignored_by_hardware_without_it_11_4_5() -> None:
    memory = SparseMemory((Region(0, 1 << 24),))
    tables = VtdTables(memory, 0x1000)
    tables.attach(RID, 1, 4).map(IOVA, OUTPUT, 0x1000)
    registers = VtdRegisters(rtaddr=tables.root | 1 << 7, cap=capabilities(), ecap=0, gsts=TES)
    access = Access(requester=RID, iova=IOVA, length=4, kind=AccessKind.READ)
    assert VtdEngine(registers, memory).translate(access) == Translated(OUTPUT, 0x1000, RW)


@pytest.mark.parametrize("pasid", [None, PASID])
@pytest.mark.parametrize("kind", [AccessKind.READ, AccessKind.WRITE])
def test_abort_mode_faults_with_reason_0x33_rta_4(pasid: int | None, kind: AccessKind) -> None:
    outcome = unit_in_mode(0b11).access(kind, pasid=pasid)
    assert assert_fault(outcome, VtdFaultReason.ABORT_MODE).record is not None


def test_abort_mode_answers_a_translation_request_with_ur_rta_4() -> None:
    outcome = assert_fault(unit_in_mode(0b11).ask(), VtdFaultReason.ABORT_MODE)
    assert outcome.completion is Completion.UNSUPPORTED_REQUEST


def test_abort_mode_lets_interrupt_requests_through_3_15() -> None:
    outcome = unit_in_mode(0b11).access(AccessKind.WRITE, iova=0xFEE0_0000)
    assert outcome == Bypassed(0xFEE0_0000, BypassReason.INTERRUPT_RANGE)


@pytest.mark.parametrize(("mode", "lacking"), [(0b10, ()), (0b11, ()), (0b01, ("scalable_mode",))])
def test_modes_that_block_everything_map_nothing(mode: int, lacking: tuple[str, ...]) -> None:
    assert list(unit_in_mode(mode, *lacking).engine.iter_mappings(RID)) == []


def test_execute_request_with_pasid_faults_with_reason_0x34_from_version_8_on_rta_5() -> None:
    unit = Unit("second")
    unit.attach("second", PASID)
    unit.ver = 0x80
    outcome = assert_fault(unit.access(AccessKind.EXECUTE, pasid=PASID), VtdFaultReason.EXECUTE_REQUESTED)
    assert isinstance(outcome.record, VtdFaultRecord)
    assert (outcome.record.execute, outcome.record.is_read, outcome.record.pasid) == (True, True, PASID)
    assert isinstance(unit.access(pasid=PASID), Translated)


@pytest.mark.parametrize("version", [0x10, 0x7F])
def test_execute_request_with_pasid_faults_with_reason_0x5c_before_version_8_spt_5(version: int) -> None:
    unit = Unit("second")
    unit.attach("second", PASID)
    unit.ver = version
    assert_fault(unit.access(AccessKind.EXECUTE, pasid=PASID), VtdFaultReason.EXECUTE_NOT_SUPPORTED)


def test_execute_request_without_pasid_is_a_read_3_1() -> None:
    assert Unit("second").access(AccessKind.EXECUTE) == Translated(OUTPUT, 0x1000, RW)


@pytest.mark.parametrize("address_type", [ASK, TRANSLATED])
def test_device_tlb_requests_are_unsupported_while_translation_is_off_4_2_1(address_type: AddressType) -> None:
    unit = Unit("second")
    unit.gsts = 0
    outcome = assert_fault(unit.access(address_type=address_type), VtdBlocked.DEVICE_TLB_REQUEST)
    assert outcome.record is None
    assert outcome.completion is (Completion.UNSUPPORTED_REQUEST if address_type is ASK else None)


def test_pasid_is_ignored_while_translation_is_off_3_1() -> None:
    unit = Unit("second")
    unit.gsts = 0
    assert unit.access(pasid=PASID) == Bypassed(IOVA, BypassReason.TRANSLATION_OFF)
    outcome = unit.access(AccessKind.WRITE, iova=0xFEE0_0000, pasid=PASID)
    assert outcome == Bypassed(0xFEE0_0000, BypassReason.INTERRUPT_RANGE)


def test_nothing_is_looked_up_while_translation_is_off() -> None:
    unit = unit_in_mode(0b10)
    unit.gsts = 0
    assert isinstance(unit.access(), Bypassed)
    assert list(unit.engine.iter_mappings(RID)) == [Mapping(0, 0, 1 << 46, RW)]


def test_translated_request_with_pasid_is_unsupported_without_ptrs_4_2_1() -> None:
    unit = Unit("second")
    unit.lacks("translated_with_pasid")
    outcome = assert_fault(unit.access(pasid=PASID, address_type=TRANSLATED), VtdBlocked.TRANSLATED_WITH_PASID)
    assert outcome.record is None


def test_extended_capabilities_read_back_from_their_register() -> None:
    some = replace(EVERYTHING, nested=False, pasid_width=8)
    assert ExtendedCapabilities.decode(some.encode()) == some
    # VT-d 11.4.3: SMTS bit 43, PSS bits 39:35, FSTS bit 47, NEST bit 26.
    assert ExtendedCapabilities(scalable_mode=True, pasid_width=8).encode() == 1 << 43 | 7 << 35
    assert ExtendedCapabilities(first_stage=True, nested=True).encode() == 1 << 47 | 1 << 26


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ({"interrupt_remapping": True, "extended_interrupts": True}, 1 << 3 | 1 << 4),
        ({"extended_interrupts_required": True, "interrupt_remapping_required": True}, 1 << 61 | 1 << 62),
        ({"device_tlb_throttling": True, "page_request_drain": True}, 1 << 41 | 1 << 42),
        ({"max_index_mask": 15, "iotlb_registers": 0x510}, 15 << 20 | 0x51 << 8),
    ],
)
def test_extended_capabilities_stand_where_11_4_3_has_them(values: dict[str, Any], bits: int) -> None:
    some = ExtendedCapabilities(**values)
    assert some.encode() == bits
    assert ExtendedCapabilities.decode(bits) == some


def test_iotlb_registers_at_an_odd_offset_are_refused() -> None:
    with pytest.raises(SpecError, match="multiple of 16"):
        ExtendedCapabilities(iotlb_registers=8).encode()


def test_requester_of_another_segment_uses_the_tables_by_its_16_bits() -> None:
    outcome = Unit("second").access(requester=3 << 16 | RID)
    assert isinstance(outcome, Translated)
    fault = Unit("second").access(requester=3 << 16 | RID, iova=0)
    assert isinstance(fault, Fault)
    assert isinstance(fault.record, VtdFaultRecord)
    assert (fault.requester, fault.record.source_id) == (3 << 16 | RID, RID)
