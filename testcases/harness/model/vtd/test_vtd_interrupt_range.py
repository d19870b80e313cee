"""Requests to 0xFEEx_xxxx that are no interrupt requests: who reports them, and as what (VT-d 3.15, 5.1.4.1)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from vtd_units import HAW, OUTPUT, PASID, RID, TES, Unit

from harness.model.access import Access, AccessKind, AddressType, Bypassed, BypassReason, Outcome, Translated
from harness.model.memory import Region, SparseMemory
from harness.model.vtd import VtdEngine, VtdFaultReason, VtdFaultRecord, VtdRegisters, VtdTables
from harness.model.vtd.context import TranslationType
from harness.model.vtd.faults import VtdBlocked
from harness.model.vtd.registers import capabilities

READ, WRITE = AccessKind.READ, AccessKind.WRITE
IRES, IRREQ, DT = 1 << 25, 1 << 62, 1 << 2
RANGE = 0xFEE0_0000
# Kind, address, length.
ILLEGAL = [(READ, RANGE, 4), (WRITE, RANGE, 8), (WRITE, RANGE | 0xFFFFE, 2), (WRITE, RANGE | 2, 4)]


def access(
    gsts: int, ecap: int = 0, kind: AccessKind = READ, iova: int = RANGE, length: int = 4, rtaddr: int | None = None
) -> Outcome:
    """What becomes of an untranslated request in legacy mode, its context-entry with FPD."""
    memory = SparseMemory((Region(0, 1 << 24),))
    tables = VtdTables(memory, 0x1000)
    tables.attach(RID, 1, 4).map(RANGE, OUTPUT, 0x10_0000)
    tables.set_context_fields(RID, {"FPD": 1})
    registers = VtdRegisters(rtaddr=tables.root if rtaddr is None else rtaddr, cap=capabilities(), ecap=ecap, gsts=gsts)
    request = Access(requester=RID, iova=iova, length=length, kind=kind)
    outcome = VtdEngine(registers, memory).translate(request)
    assert VtdEngine(registers, memory).explain(request).outcome == outcome
    return outcome


@pytest.mark.parametrize("gsts", [TES | IRES, IRES])
@pytest.mark.parametrize(("kind", "iova", "length"), ILLEGAL)
def test_invalid_interrupt_faults_with_reason_0x29_where_interrupts_are_remapped_5_1_4_1(
    gsts: int, kind: AccessKind, iova: int, length: int
) -> None:
    fault = assert_fault(access(gsts, 0, kind, iova, length), VtdFaultReason.INTERRUPT_REQUEST_INVALID)
    # Not qualified: FPD does not suppress it. FI is undefined, and zero here.
    assert isinstance(fault.record, VtdFaultRecord)
    assert fault.record.encode() == 1 << 127 | 0x29 << 96 | RID << 64
    assert VtdFaultRecord.decode(fault.record.encode()) == fault.record
    assert (fault.requester, fault.iova, fault.is_write) == (RID, iova & ~0xFFF, kind is WRITE)


@pytest.mark.parametrize("gsts", [TES, 0])
def test_invalid_interrupt_faults_with_reason_0x29_where_interrupts_have_to_be_remapped_11_4_3(gsts: int) -> None:
    assert_fault(access(gsts, IRREQ), VtdFaultReason.INTERRUPT_REQUEST_INVALID)


def test_invalid_interrupt_is_found_before_any_table_5_1_4_1() -> None:
    assert_fault(access(TES | IRES, rtaddr=0x7000_0000), VtdFaultReason.INTERRUPT_REQUEST_INVALID)
    assert_fault(access(TES, rtaddr=0x7000_0000), VtdFaultReason.ROOT_TABLE_ACCESS)


def test_invalid_interrupt_is_a_dma_fault_where_interrupts_are_not_remapped_3_15() -> None:
    assert_fault(access(TES), VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE)
    assert_fault(access(0), VtdBlocked.INTERRUPT_RANGE)


@pytest.mark.parametrize("gsts", [TES | IRES, IRES, TES, 0])
def test_interrupt_requests_and_zero_length_reads_are_never_dma_3_15(gsts: int) -> None:
    passed = Bypassed(RANGE, BypassReason.INTERRUPT_RANGE)
    assert access(gsts, kind=WRITE) == passed
    assert access(gsts, length=0) == passed


def test_request_with_pasid_is_translated_also_where_interrupts_are_remapped_3_15() -> None:
    unit = Unit("first")
    unit.attach("first", PASID)
    unit.first.map(RANGE, 0x9000_0000, 0x1000)
    unit.gsts = TES | IRES
    assert isinstance(unit.access(iova=RANGE, pasid=PASID), Translated)
    assert_fault(unit.access(iova=RANGE), VtdFaultReason.INTERRUPT_REQUEST_INVALID)
    # 3.1: with translation off there are no PASIDs.
    unit.gsts = IRES
    assert_fault(unit.access(iova=RANGE, pasid=PASID), VtdFaultReason.INTERRUPT_REQUEST_INVALID)


@pytest.mark.parametrize("address_type", [AddressType.TRANSLATED, AddressType.TRANSLATION_REQUEST])
def test_device_tlb_requests_are_no_invalid_interrupts_4_2(address_type: AddressType) -> None:
    unit = Unit("second")
    unit.gsts = TES | IRES
    outcome = unit.access(WRITE, iova=RANGE, address_type=address_type)
    if address_type is AddressType.TRANSLATED:
        assert_fault(outcome, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE)
    else:
        assert outcome == Bypassed(RANGE, BypassReason.INTERRUPT_RANGE)


@pytest.mark.parametrize("size", [0x1000, 1 << 21])
def test_legacy_translation_request_is_refused_a_page_that_overlaps_the_interrupt_range_lgn_4(size: int) -> None:
    memory = SparseMemory((Region(0, 1 << 24),))
    tables = VtdTables(memory, 0x1000)
    table = tables.attach(RID, 1, 4, translation_type=TranslationType.SECOND_STAGE_DEVICE_TLB)
    # The page of 2 MiB begins at 0xFEE0_0000; the address that is asked about lies behind the range.
    table.map(1 << 30, 0xFEE0_0000 if size > 0x1000 else 0xFEF0_0000, size)
    iova = (1 << 30) + (0x10_0000 if size > 0x1000 else 0)
    registers = VtdRegisters(rtaddr=tables.root, cap=capabilities(), ecap=DT, gsts=TES, host_address_width=HAW)
    engine = VtdEngine(registers, memory)
    request = Access(requester=RID, iova=iova, length=8, kind=WRITE, address_type=AddressType.TRANSLATION_REQUEST)
    untranslated = Access(requester=RID, iova=iova, length=4, kind=WRITE)
    assert isinstance(engine.translate(untranslated), Translated)
    if size > 0x1000:
        assert_fault(engine.translate(request), VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE, stage=2)
    else:
        assert isinstance(engine.translate(request), Translated)


@pytest.mark.parametrize("iova", [0xFEDF_F000, 0xFEF0_0000, 0x1_FEE0_0000])
def test_neighbours_of_the_range_are_dma_where_interrupts_are_remapped(iova: int) -> None:
    unit = Unit("second")
    unit.gsts = TES | IRES
    assert_fault(unit.access(iova=iova), VtdFaultReason.SECOND_STAGE_NOT_PRESENT)
