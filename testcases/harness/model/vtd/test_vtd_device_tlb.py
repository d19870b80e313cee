"""Translation and translated requests of device TLBs, in both modes (VT-d 4.1, 4.2, 7.1.3)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from vtd_units import EVERYTHING, HAW, IOVA, OUTPUT, PASID, RID, TES, Unit

from harness.model.access import (
    Access,
    AccessKind,
    AddressType,
    Attributes,
    Bypassed,
    BypassReason,
    Completion,
    Fault,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.memory import Region, SparseMemory
from harness.model.vtd import VtdEngine, VtdFaultReason, VtdFaultRecord, VtdRegisters, VtdTables
from harness.model.vtd.context import TranslationType
from harness.model.vtd.faults import VtdBlocked
from harness.model.vtd.registers import capabilities

R, W = Permissions.READ, Permissions.WRITE
RW = R | W
READ, WRITE = AccessKind.READ, AccessKind.WRITE
ASK, TRANSLATED = AddressType.TRANSLATION_REQUEST, AddressType.TRANSLATED
INTERRUPTS = 0xFEE0_0000


class Legacy:
    """A unit in legacy mode whose requester may use a device TLB."""

    def __init__(self) -> None:
        self.memory = SparseMemory((Region(0, 1 << 24),))
        self.tables = VtdTables(self.memory, 0x1000)
        self.table = self.tables.attach(RID, 1, 4, translation_type=TranslationType.SECOND_STAGE_DEVICE_TLB)
        self.table.map(IOVA, OUTPUT, 0x1000)
        self.ecap = EVERYTHING.encode()
        self.cap = capabilities()

    def access(self, kind: AccessKind = WRITE, *, iova: int = IOVA, address_type: AddressType = ASK) -> Outcome:
        registers = VtdRegisters(
            rtaddr=self.tables.root, cap=self.cap, ecap=self.ecap, gsts=TES, host_address_width=HAW
        )
        engine = VtdEngine(registers, self.memory)
        access = Access(requester=RID, iova=iova, length=8, kind=kind, address_type=address_type)
        outcome = engine.translate(access)
        assert engine.explain(access).outcome == outcome
        return outcome


@pytest.fixture
def legacy() -> Legacy:
    return Legacy()


def unreported(outcome: Outcome, reason: VtdFaultReason) -> None:
    """A recoverable fault: success without permission, and no record (VT-d 7.1.2)."""
    fault = assert_fault(outcome, reason)
    assert (fault.completion, fault.record) == (Completion.NO_PERMISSION, None)


def answered(outcome: Outcome, reason: VtdFaultReason, completion: Completion) -> VtdFaultRecord:
    """A fault that is reported as well."""
    fault = assert_fault(outcome, reason)
    assert fault.completion is completion
    assert isinstance(fault.record, VtdFaultRecord)
    assert (fault.record.address_type, fault.record.is_read) == (ASK, True)
    return fault.record


# Legacy mode.


def test_translation_request_gets_the_rights_that_there_are_4_2_3(legacy: Legacy) -> None:
    assert legacy.access() == Translated(OUTPUT, 0x1000, RW)
    legacy.table.set_fields(IOVA, 1, {"W": 0})
    assert legacy.access() == Translated(OUTPUT, 0x1000, R)
    legacy.table.set_fields(IOVA, 1, {"W": 1, "R": 0})
    assert legacy.access() == Translated(OUTPUT, 0x1000, W)


def test_translation_request_for_reading_gets_no_right_to_write_with_nwfs_4_2_3(legacy: Legacy) -> None:
    assert legacy.access(READ) == Translated(OUTPUT, 0x1000, R)
    legacy.ecap &= ~(1 << 33)
    assert legacy.access(READ) == Translated(OUTPUT, 0x1000, RW)


def test_translation_request_without_any_right_is_recoverable_lgn_3(legacy: Legacy) -> None:
    unreported(legacy.access(iova=IOVA + 0x1000), VtdFaultReason.READ_NOT_PERMITTED)
    legacy.table.set_fields(IOVA, 1, {"R": 0})
    unreported(legacy.access(READ), VtdFaultReason.READ_NOT_PERMITTED)


def test_translation_request_returns_snp_as_n_table_10(legacy: Legacy) -> None:
    legacy.table.set_fields(IOVA, 1, {"SNP": 1})
    assert legacy.access() == Translated(OUTPUT, 0x1000, RW, Attributes.SNOOP)


def test_translation_request_beyond_the_width_is_recoverable_lgn_1(legacy: Legacy) -> None:
    unreported(legacy.access(iova=1 << 48), VtdFaultReason.ADDRESS_BEYOND_WIDTH)


def test_translation_request_that_meets_a_broken_table_is_aborted_lss_2(legacy: Legacy) -> None:
    legacy.table.set_fields(IOVA, 2, {"RSVD_11": 1})
    answered(legacy.access(), VtdFaultReason.PAGING_ENTRY_RESERVED, Completion.COMPLETER_ABORT)


def test_translation_request_of_an_absent_context_is_unsupported_lct_2(legacy: Legacy) -> None:
    legacy.tables.set_context_fields(RID, {"P": 0})
    answered(legacy.access(), VtdFaultReason.CONTEXT_NOT_PRESENT, Completion.UNSUPPORTED_REQUEST)


def test_translation_request_that_type_00_blocks_is_unsupported_lct_5(legacy: Legacy) -> None:
    legacy.tables.set_context_fields(RID, {"TT": TranslationType.SECOND_STAGE})
    answered(legacy.access(), VtdFaultReason.TRANSLATION_TYPE_BLOCKS, Completion.UNSUPPORTED_REQUEST)


def test_translation_request_that_leads_into_the_interrupt_range_is_aborted_lgn_4(legacy: Legacy) -> None:
    legacy.table.set_fields(IOVA, 1, {"ADDR": INTERRUPTS})
    answered(legacy.access(), VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE, Completion.COMPLETER_ABORT)


def test_translated_request_is_not_answered_as_a_translation_request_is(legacy: Legacy) -> None:
    legacy.tables.set_context_fields(RID, {"TT": TranslationType.SECOND_STAGE})
    outcome = assert_fault(legacy.access(address_type=TRANSLATED), VtdFaultReason.TRANSLATION_TYPE_BLOCKS)
    assert outcome.completion is None
    assert isinstance(outcome.record, VtdFaultRecord)
    assert (outcome.record.address_type, outcome.record.is_read) == (TRANSLATED, False)


def test_translated_request_keeps_its_address_4_2_5(legacy: Legacy) -> None:
    assert legacy.access(iova=0x1234, address_type=TRANSLATED) == Bypassed(0x1234, BypassReason.TRANSLATED_REQUEST)


def test_translated_request_beyond_the_host_width_faults_with_reason_4_lgn_1_2(legacy: Legacy) -> None:
    assert_fault(legacy.access(iova=1 << HAW, address_type=TRANSLATED), VtdFaultReason.ADDRESS_BEYOND_WIDTH)


def test_translated_request_to_the_interrupt_range_faults_with_reason_14_lgn_4(legacy: Legacy) -> None:
    outcome = legacy.access(iova=INTERRUPTS, address_type=TRANSLATED)
    assert_fault(outcome, VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE)


def test_pass_through_beyond_the_host_width_faults_with_reason_4_lgn_1_3(legacy: Legacy) -> None:
    legacy.tables.set_context_fields(RID, {"TT": TranslationType.PASS_THROUGH, "AW": 3})
    outcome = legacy.access(iova=1 << HAW, address_type=AddressType.UNTRANSLATED)
    assert_fault(outcome, VtdFaultReason.ADDRESS_BEYOND_WIDTH)


@pytest.mark.parametrize(
    ("iova", "reason"),
    [(1 << HAW, VtdFaultReason.ADDRESS_BEYOND_WIDTH), (INTERRUPTS, VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE)],
)
def test_fpd_keeps_a_fault_of_a_translated_request_from_being_reported_7_1_1(
    legacy: Legacy, iova: int, reason: VtdFaultReason
) -> None:
    assert assert_fault(legacy.access(iova=iova, address_type=TRANSLATED), reason).record is not None
    legacy.tables.set_context_fields(RID, {"FPD": 1})
    assert assert_fault(legacy.access(iova=iova, address_type=TRANSLATED), reason).record is None


# The interrupt range as input, in both modes.


def ask_in_range(unit: Legacy | Unit, kind: AccessKind) -> Outcome:
    return unit.access(kind, iova=INTERRUPTS) if isinstance(unit, Legacy) else unit.ask(kind, iova=INTERRUPTS)


@pytest.mark.parametrize("stages", ["legacy", "", "first", "second", "nested"])
def test_translation_request_for_the_interrupt_range_lets_the_device_write_there_s_1(stages: str) -> None:
    unit = Legacy() if stages == "legacy" else Unit(stages)
    assert ask_in_range(unit, WRITE) == Bypassed(INTERRUPTS, BypassReason.INTERRUPT_RANGE)


@pytest.mark.parametrize("stages", ["legacy", "", "first", "second", "nested"])
def test_translation_request_to_read_the_interrupt_range_gets_no_permission_s_2(stages: str) -> None:
    unit = Legacy() if stages == "legacy" else Unit(stages)
    outcome = assert_fault(ask_in_range(unit, READ), VtdBlocked.INTERRUPT_RANGE)
    assert (outcome.completion, outcome.record) == (Completion.NO_PERMISSION, None)


def test_translation_request_with_pasid_for_the_interrupt_range_is_translated_4_2_3() -> None:
    unit = Unit("first")
    unit.attach("first", PASID)
    unit.first.map(INTERRUPTS, 0x9000_0000, 0x1000)
    assert unit.ask(iova=INTERRUPTS, pasid=PASID) == Translated(0x9000_0000, 0x1000, RW)


# Scalable mode.


@pytest.mark.parametrize("stages", ["first", "second", "nested"])
def test_scalable_translation_request_gets_the_rights_that_there_are_4_2_3(stages: str) -> None:
    unit = Unit(stages)
    assert unit.ask() == Translated(OUTPUT, 0x1000, RW)
    assert unit.ask(READ) == Translated(OUTPUT, 0x1000, R)
    unit.lacks("no_write_flag")
    assert unit.ask(READ) == Translated(OUTPUT, 0x1000, RW)


@pytest.mark.parametrize(
    ("stages", "first", "second"), [("first", 1, 0), ("second", 0, 1), ("nested", 1, 0), ("nested", 0, 1)]
)
def test_scalable_translation_request_without_the_right_to_write_gets_the_rest_sgn_6(
    stages: str, first: int, second: int
) -> None:
    unit = Unit(stages)
    unit.first.set_fields(IOVA, 1, {"RW": 1 - first})
    if stages != "first":
        unit.second.set_fields(IOVA if stages == "second" else 0x180_0000, 1, {"W": 1 - second})
    assert unit.ask() == Translated(OUTPUT, 0x1000, R)


def test_rights_that_the_two_stages_do_not_share_are_none_sgn_7() -> None:
    unit = Unit("nested")
    unit.first.set_fields(IOVA, 1, {"RW": 0})
    unit.second.set_fields(0x180_0000, 1, {"R": 0})
    unreported(unit.ask(), VtdFaultReason.SCALABLE_READ_NOT_PERMITTED)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"P": 0}, VtdFaultReason.FIRST_STAGE_NOT_PRESENT),
        ({"US": 0}, VtdFaultReason.USER_NOT_PERMITTED),
        ({"ADDR": 1 << HAW}, VtdFaultReason.FIRST_STAGE_RESERVED),
        ({"A": 0}, VtdFaultReason.FIRST_STAGE_FLAGS_NOT_SNOOPED),
    ],
)
def test_first_stage_faults_of_a_translation_request_are_recoverable_7_1_3(
    fields: dict[str, int], reason: VtdFaultReason
) -> None:
    unit = Unit("first")
    unit.first.set_fields(IOVA, 1, fields)
    unreported(unit.ask(), reason)


def test_flag_that_memory_refuses_is_answered_with_success_and_reported_sfs_10() -> None:
    unit = Unit("first", PWSNP=1)
    unit.first.set_fields(IOVA, 1, {"A": 0})
    unit.read_only = (Region(0, 1 << 40),)
    answered(unit.ask(), VtdFaultReason.FIRST_STAGE_FLAGS_FAILED, Completion.NO_PERMISSION)


@pytest.mark.parametrize(
    ("fields", "reason", "completion"),
    [
        ({"R": 0, "W": 0}, VtdFaultReason.SECOND_STAGE_NOT_PRESENT, Completion.NO_PERMISSION),
        ({"IW": 1}, VtdFaultReason.SECOND_STAGE_RESERVED, Completion.COMPLETER_ABORT),
    ],
)
def test_second_stage_faults_of_a_translation_request_7_1_3(
    fields: dict[str, int], reason: VtdFaultReason, completion: Completion
) -> None:
    unit = Unit("second")
    unit.second.set_fields(IOVA, 1, fields)
    if completion is Completion.NO_PERMISSION:
        unreported(unit.ask(), reason)
    else:
        answered(unit.ask(), reason, completion)


def test_translation_request_not_canonical_or_beyond_the_width_is_recoverable_sgn_1_sgn_5() -> None:
    unreported(Unit("first").ask(iova=1 << 50), VtdFaultReason.NOT_CANONICAL)
    unreported(Unit("second").ask(iova=1 << 50), VtdFaultReason.SCALABLE_ADDRESS_BEYOND_WIDTH)
    unreported(Unit("").ask(iova=1 << HAW), VtdFaultReason.BEYOND_HOST_WIDTH)


def test_privileged_translation_request_without_sre_gets_no_permission_spt_6() -> None:
    unit = Unit("first")
    unit.attach("first", PASID)
    outcome = unit.access(WRITE, pasid=PASID, privileged=True, address_type=ASK)
    unreported(outcome, VtdFaultReason.SUPERVISOR_DISABLED)


def test_translation_whose_page_overlaps_the_interrupt_range_is_aborted_sgn_8_2() -> None:
    unit = Unit("second")
    unit.second.map(1 << 30, 0xC000_0000, 1 << 30)
    outcome = unit.ask(iova=1 << 30)
    answered(outcome, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE, Completion.COMPLETER_ABORT)
    assert isinstance(unit.access(iova=1 << 30), Translated)


@pytest.mark.parametrize(
    ("iova", "size"), [(0x1234, 1 << 30), (0xC000_0000, 1 << 21), (0xFED0_0000, 1 << 21), (0xFEF0_0000, 1 << 12)]
)
def test_pass_through_translation_is_as_large_as_the_interrupt_range_allows_4_2_3(iova: int, size: int) -> None:
    assert Unit("").ask(iova=iova) == Translated(iova, size, RW)


def test_pass_through_translation_is_no_larger_than_the_pages_that_there_are_4_2_3() -> None:
    unit = Unit("", PGSNP=1)
    unit.cap = capabilities(large_page_levels=frozenset(), first_stage_1g_pages=False)
    assert unit.ask() == Translated(IOVA, 1 << 21, RW, Attributes.SNOOP)
    unit.lacks("first_stage", "nested")
    assert unit.ask(READ) == Translated(IOVA, 1 << 12, R, Attributes.SNOOP)


@pytest.mark.parametrize("kind", [READ, WRITE])
def test_dirty_flag_is_set_for_the_right_to_write_4_2_3_1(kind: AccessKind) -> None:
    unit = Unit("first", PWSNP=1)
    unit.first.set_fields(IOVA, 1, {"D": 0})
    outcome = unit.ask(kind)
    assert isinstance(outcome, Translated)
    assert [write.address for write in outcome.writes] == ([unit.first.entry_address(IOVA, 1)] if kind is WRITE else [])


def test_dirty_flag_is_not_set_where_the_right_to_write_is_not_granted_4_2_3_1() -> None:
    unit = Unit("first", PWSNP=1)
    unit.first.set_fields(IOVA, 1, {"D": 0, "RW": 0})
    assert unit.ask() == Translated(OUTPUT, 0x1000, R)


def test_scalable_translated_request_keeps_its_address_whatever_its_pasid_entry_says_4_2_5() -> None:
    unit = Unit("second")
    unit.tables.set_pasid_fields(RID, {"P": 0})
    assert unit.access(iova=0x1234, address_type=TRANSLATED) == Bypassed(0x1234, BypassReason.TRANSLATED_REQUEST)


def test_scalable_translated_request_beyond_the_host_width_faults_with_reason_0x83_sgn_4_1() -> None:
    outcome = Unit("second").access(iova=1 << HAW, address_type=TRANSLATED)
    assert_fault(outcome, VtdFaultReason.BEYOND_HOST_WIDTH)


def test_scalable_translated_request_to_the_interrupt_range_faults_with_reason_0x87_sgn_8_3() -> None:
    outcome = Unit("second").access(WRITE, iova=INTERRUPTS, address_type=TRANSLATED)
    assert_fault(outcome, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE)


@pytest.mark.parametrize(
    ("iova", "reason"),
    [(1 << HAW, VtdFaultReason.BEYOND_HOST_WIDTH), (INTERRUPTS, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE)],
)
def test_fpd_of_the_context_entry_keeps_a_fault_of_a_scalable_translated_request_from_being_reported_7_1_1(
    iova: int, reason: VtdFaultReason
) -> None:
    unit = Unit("second")
    assert assert_fault(unit.access(WRITE, iova=iova, address_type=TRANSLATED), reason).record is not None
    unit.tables.set_context_fields(RID, {"FPD": 1})
    assert assert_fault(unit.access(WRITE, iova=iova, address_type=TRANSLATED), reason).record is None


def test_answer_is_given_to_translation_requests_alone() -> None:
    outcome = Unit("second").access(iova=0)
    assert isinstance(outcome, Fault)
    assert outcome.completion is None
