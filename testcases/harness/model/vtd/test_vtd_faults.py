"""The fault reasons of VT-d legacy mode, each reached by a test that names it (VT-d 7.1.3)."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import SpecError
from harness.model.access import Access, AccessKind, AddressType, Bypassed, BypassReason, Fault, Permissions, Translated
from harness.model.engine import Interrupt, MsiWrite
from harness.model.memory import Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.vtd import VtdEngine, VtdFaultReason, VtdFaultRecord, VtdRegisters, VtdTables
from harness.model.vtd.context import TranslationType
from harness.model.vtd.faults import FRCD_REG, VtdBlocked, meaningful_bits
from harness.model.vtd.registers import capabilities

RID = 0x0128
IOVA = 0x40_0000
OUTPUT = 0x8000_0000
NOWHERE = 0x7000_0000
RAM = 0x100_0000
PT, DT, SC, PASID = 1 << 6, 1 << 2, 1 << 7, 1 << 40
TES = 1 << 31


class Unit:
    """A remapping unit with one requester, and one page of 4 KiB at IOVA mapped to OUTPUT."""

    def __init__(self, levels: int = 4) -> None:
        self.memory = SparseMemory((Region(0, RAM),))
        self.tables = VtdTables(self.memory, 0x1000)
        self.levels = levels
        self.table: RadixTable = self.tables.attach(RID, 1, levels)
        self.table.map(IOVA, OUTPUT, 0x1000)
        self.rtaddr = self.tables.root
        self.cap = capabilities()
        self.ecap = PT | DT | SC
        self.gsts = TES
        self.width = 46

    def engine(self) -> VtdEngine:
        registers = VtdRegisters(
            rtaddr=self.rtaddr, cap=self.cap, ecap=self.ecap, gsts=self.gsts, host_address_width=self.width
        )
        return VtdEngine(registers, self.memory)

    def access(
        self,
        kind: AccessKind = AccessKind.READ,
        *,
        iova: int = IOVA,
        length: int = 4,
        pasid: int | None = None,
        address_type: AddressType = AddressType.UNTRANSLATED,
    ) -> object:
        access = Access(requester=RID, iova=iova, length=length, kind=kind, pasid=pasid, address_type=address_type)
        outcome = self.engine().translate(access)
        assert self.engine().explain(access).outcome == outcome
        return outcome


@pytest.fixture
def unit() -> Unit:
    return Unit()


def assert_fault(outcome: object, reason: VtdFaultReason, level: int | None = None) -> Fault:
    assert isinstance(outcome, Fault), outcome
    assert outcome.code is reason
    assert outcome.level == level
    return outcome


# Reaching the page.


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_a_mapped_page_is_translated_at_every_depth(levels: int) -> None:
    expected = Translated(OUTPUT + 0x123, 0x1000, Permissions.READ | Permissions.WRITE)
    assert Unit(levels).access(iova=IOVA + 0x123) == expected


def test_translation_that_is_off_bypasses_11_4_4_2(unit: Unit) -> None:
    unit.gsts = 0
    assert unit.access() == Bypassed(IOVA, BypassReason.TRANSLATION_OFF)


def test_pass_through_bypasses_and_ignores_ssptptr_9_3(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"TT": TranslationType.PASS_THROUGH, "SSPTPTR": 1 << 60})
    assert unit.access() == Bypassed(IOVA, BypassReason.PASS_THROUGH)


def test_translation_type_01_translates_untranslated_requests_9_3(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"TT": TranslationType.SECOND_STAGE_DEVICE_TLB})
    assert isinstance(unit.access(), Translated)


def test_translation_type_01_lets_translated_requests_through_9_3(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"TT": TranslationType.SECOND_STAGE_DEVICE_TLB})
    outcome = unit.access(address_type=AddressType.TRANSLATED)
    assert outcome == Bypassed(IOVA, BypassReason.TRANSLATED_REQUEST)


# Fault reasons, in the order of their numbers.


def test_absent_root_entry_faults_with_reason_1(unit: Unit) -> None:
    unit.tables.set_root_fields(RID >> 8, {"P": 0})
    assert_fault(unit.access(), VtdFaultReason.ROOT_NOT_PRESENT)


def test_absent_root_entry_hides_its_reserved_fields_9_1(unit: Unit) -> None:
    unit.tables.set_root_fields(RID >> 8, {"P": 0, "RSVD": 1})
    assert_fault(unit.access(), VtdFaultReason.ROOT_NOT_PRESENT)


def test_absent_context_entry_faults_with_reason_2(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"P": 0, "RSVD": 1})
    assert_fault(unit.access(), VtdFaultReason.CONTEXT_NOT_PRESENT)


@pytest.mark.parametrize("aw", [0, 4, 7])
def test_reserved_address_width_faults_with_reason_3(unit: Unit, aw: int) -> None:
    unit.tables.set_context_fields(RID, {"AW": aw})
    assert_fault(unit.access(), VtdFaultReason.CONTEXT_INVALID)


def test_address_width_that_sagaw_lacks_faults_with_reason_3(unit: Unit) -> None:
    unit.cap = capabilities(levels=frozenset({3}))
    assert_fault(unit.access(), VtdFaultReason.CONTEXT_INVALID)


@pytest.mark.parametrize(
    ("translation_type", "ecap"),
    [
        (TranslationType.RESERVED, PT | DT),
        (TranslationType.PASS_THROUGH, DT),
        (TranslationType.SECOND_STAGE_DEVICE_TLB, PT),
    ],
)
def test_translation_type_that_ecap_lacks_faults_with_reason_3(
    unit: Unit, translation_type: TranslationType, ecap: int
) -> None:
    unit.ecap = ecap
    unit.tables.set_context_fields(RID, {"TT": translation_type})
    assert_fault(unit.access(), VtdFaultReason.CONTEXT_INVALID)


def test_topmost_table_outside_of_memory_faults_with_reason_3(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"SSPTPTR": NOWHERE})
    assert_fault(unit.access(), VtdFaultReason.CONTEXT_INVALID, level=4)


def test_address_beyond_the_context_width_faults_with_reason_4() -> None:
    assert_fault(Unit(3).access(iova=1 << 39), VtdFaultReason.ADDRESS_BEYOND_WIDTH)


def test_address_beyond_mgaw_faults_with_reason_4(unit: Unit) -> None:
    unit.cap = capabilities(guest_address_width=40)
    assert_fault(unit.access(iova=1 << 40), VtdFaultReason.ADDRESS_BEYOND_WIDTH)
    assert_fault(unit.access(iova=(1 << 40) - 0x1000), VtdFaultReason.READ_NOT_PERMITTED, level=4)


def test_pass_through_address_beyond_the_width_faults_with_reason_4() -> None:
    unit = Unit(3)
    unit.tables.set_context_fields(RID, {"TT": TranslationType.PASS_THROUGH})
    assert_fault(unit.access(iova=1 << 39), VtdFaultReason.ADDRESS_BEYOND_WIDTH)


def test_write_to_a_read_only_mapping_faults_with_reason_5(unit: Unit) -> None:
    unit.table.set_fields(IOVA, 1, {"W": 0})
    assert_fault(unit.access(AccessKind.WRITE), VtdFaultReason.WRITE_NOT_PERMITTED, level=1)
    assert unit.access() == Translated(OUTPUT, 0x1000, Permissions.READ)


def test_write_to_an_unmapped_page_faults_with_reason_5(unit: Unit) -> None:
    outcome = unit.access(AccessKind.WRITE, iova=IOVA + 0x1000)
    assert_fault(outcome, VtdFaultReason.WRITE_NOT_PERMITTED, level=1)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_write_without_w_at_any_level_faults_with_reason_5(unit: Unit, level: int) -> None:
    unit.table.set_fields(IOVA, level, {"W": 0})
    assert_fault(unit.access(AccessKind.WRITE), VtdFaultReason.WRITE_NOT_PERMITTED, level=level)


def test_read_of_a_write_only_mapping_faults_with_reason_6(unit: Unit) -> None:
    unit.table.set_fields(IOVA, 1, {"R": 0})
    assert_fault(unit.access(), VtdFaultReason.READ_NOT_PERMITTED, level=1)
    assert unit.access(AccessKind.WRITE) == Translated(OUTPUT, 0x1000, Permissions.WRITE)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_read_without_r_at_any_level_faults_with_reason_6(unit: Unit, level: int) -> None:
    unit.table.set_fields(IOVA, level, {"R": 0})
    assert_fault(unit.access(), VtdFaultReason.READ_NOT_PERMITTED, level=level)


def test_rights_of_different_levels_do_not_add_up_3_7(unit: Unit) -> None:
    unit.table.set_fields(IOVA, 2, {"R": 0})
    unit.table.set_fields(IOVA, 1, {"W": 0})
    assert_fault(unit.access(), VtdFaultReason.READ_NOT_PERMITTED, level=2)
    assert_fault(unit.access(AccessKind.WRITE), VtdFaultReason.WRITE_NOT_PERMITTED, level=1)


def test_execute_without_pasid_needs_the_right_to_read(unit: Unit) -> None:
    unit.table.set_fields(IOVA, 1, {"R": 0})
    assert_fault(unit.access(AccessKind.EXECUTE), VtdFaultReason.READ_NOT_PERMITTED, level=1)


@pytest.mark.parametrize("supported", [True, False])
def test_zero_length_read_of_a_write_only_page_goes_through_only_with_zlr_11_4_2(unit: Unit, supported: bool) -> None:
    unit.cap = capabilities(zero_length_reads=supported)
    unit.table.set_fields(IOVA, 1, {"R": 0})
    outcome = unit.access(length=0)
    if supported:
        assert outcome == Translated(OUTPUT, 0x1000, Permissions.WRITE)
    else:
        assert_fault(outcome, VtdFaultReason.READ_NOT_PERMITTED, level=1)


@pytest.mark.parametrize("level", [2, 3, 4])
def test_lower_table_outside_of_memory_faults_with_reason_7(unit: Unit, level: int) -> None:
    unit.table.set_fields(IOVA, level, {"ADDR": NOWHERE})
    assert_fault(unit.access(), VtdFaultReason.PAGING_ENTRY_ACCESS, level=level - 1)


def test_root_table_outside_of_memory_faults_with_reason_8(unit: Unit) -> None:
    unit.rtaddr = NOWHERE
    assert_fault(unit.access(), VtdFaultReason.ROOT_TABLE_ACCESS)


def test_context_table_outside_of_memory_faults_with_reason_9(unit: Unit) -> None:
    unit.tables.set_root_fields(RID >> 8, {"CTP": NOWHERE})
    assert_fault(unit.access(), VtdFaultReason.CONTEXT_TABLE_ACCESS)


@pytest.mark.parametrize("fields", [{"RSVD": 1}, {"RSVD": 1 << 10}, {"RSVD_HIGH": 1}, {"CTP": 1 << 46}])
def test_reserved_field_of_a_root_entry_faults_with_reason_10(unit: Unit, fields: dict[str, int]) -> None:
    unit.tables.set_root_fields(RID >> 8, fields)
    assert_fault(unit.access(), VtdFaultReason.ROOT_RESERVED)


@pytest.mark.parametrize(
    "fields",
    [{"RSVD": 1}, {"RSVD": 1 << 7}, {"RSVD_71": 1}, {"RSVD_HIGH": 1}, {"RSVD_HIGH": 1 << 39}, {"SSPTPTR": 1 << 46}],
)
def test_reserved_field_of_a_context_entry_faults_with_reason_11(unit: Unit, fields: dict[str, int]) -> None:
    unit.tables.set_context_fields(RID, fields)
    assert_fault(unit.access(), VtdFaultReason.CONTEXT_RESERVED)


def test_domain_id_wider_than_nd_faults_with_reason_11(unit: Unit) -> None:
    unit.cap = capabilities(domain_id_width=8)
    unit.tables.set_context_fields(RID, {"DID": 0xFF})
    assert isinstance(unit.access(), Translated)
    unit.tables.set_context_fields(RID, {"DID": 0x100})
    assert_fault(unit.access(), VtdFaultReason.CONTEXT_RESERVED)


def test_ignored_field_of_a_context_entry_is_ignored_9_3(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"IGN": 0xF})
    assert isinstance(unit.access(), Translated)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_bit_62_of_a_paging_entry_faults_with_reason_12(unit: Unit, level: int) -> None:
    unit.table.set_fields(IOVA, level, {"IW": 1})
    assert_fault(unit.access(), VtdFaultReason.PAGING_ENTRY_RESERVED, level=level)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_address_beyond_haw_in_a_paging_entry_faults_with_reason_12(unit: Unit, level: int) -> None:
    unit.table.set_fields(IOVA, level, {"ADDR": 1 << 46})
    assert_fault(unit.access(), VtdFaultReason.PAGING_ENTRY_RESERVED, level=level)


@pytest.mark.parametrize("level", [2, 3, 4])
def test_bit_11_of_a_table_reference_faults_with_reason_12(unit: Unit, level: int) -> None:
    unit.table.set_fields(IOVA, level, {"RSVD_11": 1})
    assert_fault(unit.access(), VtdFaultReason.PAGING_ENTRY_RESERVED, level=level)


def test_snoop_bit_faults_with_reason_12_only_without_snoop_control(unit: Unit) -> None:
    unit.table.set_fields(IOVA, 1, {"SNP": 1})
    assert isinstance(unit.access(), Translated)
    unit.ecap = PT
    assert_fault(unit.access(), VtdFaultReason.PAGING_ENTRY_RESERVED, level=1)


@pytest.mark.parametrize(("levels", "level"), [(4, 4), (5, 5)])
def test_page_size_bit_above_level_3_faults_with_reason_12(levels: int, level: int) -> None:
    unit = Unit(levels)
    unit.table.set_fields(IOVA, level, {"PS": 1})
    assert_fault(unit.access(), VtdFaultReason.PAGING_ENTRY_RESERVED, level=level)


@pytest.mark.parametrize("level", [2, 3])
def test_page_size_that_sslps_lacks_faults_with_reason_12(unit: Unit, level: int) -> None:
    unit.cap = capabilities(large_page_levels=frozenset({2, 3}) - {level})
    unit.table.set_fields(IOVA, level, {"PS": 1, "ADDR": OUTPUT})
    assert_fault(unit.access(), VtdFaultReason.PAGING_ENTRY_RESERVED, level=level)


@pytest.mark.parametrize(("level", "bit"), [(2, 12), (2, 20), (3, 12), (3, 29)])
def test_address_bits_below_a_large_page_fault_with_reason_12(unit: Unit, level: int, bit: int) -> None:
    unit.table.set_fields(IOVA, level, {"PS": 1, "ADDR": OUTPUT | 1 << bit})
    assert_fault(unit.access(), VtdFaultReason.PAGING_ENTRY_RESERVED, level=level)


def test_reserved_bits_of_an_entry_without_r_and_w_are_not_looked_at_3_7(unit: Unit) -> None:
    unit.table.set_fields(IOVA, 1, {"R": 0, "W": 0, "IW": 1})
    assert_fault(unit.access(), VtdFaultReason.READ_NOT_PERMITTED, level=1)


@pytest.mark.parametrize(
    "fields", [{"IGN_52": 0x1FF}, {"IR": 1}, {"IGN_63": 1}, {"IGN_10": 1}, {"EMT": 7}, {"IPAT": 1}, {"IGN_2": 1}]
)
def test_ignored_bits_of_a_leaf_are_ignored_9_8(unit: Unit, fields: dict[str, int]) -> None:
    unit.table.set_fields(IOVA, 1, fields)
    assert isinstance(unit.access(), Translated)


def test_page_size_bit_of_the_last_level_is_ignored_9_8(unit: Unit) -> None:
    unit.table.set_fields(IOVA, 1, {"PS": 1})
    assert isinstance(unit.access(), Translated)


@pytest.mark.parametrize("address_type", [AddressType.TRANSLATED, AddressType.TRANSLATION_REQUEST])
@pytest.mark.parametrize("translation_type", [TranslationType.SECOND_STAGE, TranslationType.PASS_THROUGH])
def test_device_tlb_request_without_type_01_faults_with_reason_13(
    unit: Unit, address_type: AddressType, translation_type: TranslationType
) -> None:
    unit.tables.set_context_fields(RID, {"TT": translation_type})
    assert_fault(unit.access(address_type=address_type), VtdFaultReason.TRANSLATION_TYPE_BLOCKS)


def test_output_in_the_interrupt_range_faults_with_reason_14(unit: Unit) -> None:
    unit.table.set_fields(IOVA, 1, {"ADDR": 0xFEE0_0000})
    assert_fault(unit.access(), VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE)


def test_large_page_faults_with_reason_14_only_where_it_leads_into_the_interrupt_range(unit: Unit) -> None:
    unit.table.map(1 << 30, 0xC000_0000, 1 << 30)
    assert isinstance(unit.access(iova=(1 << 30) + 0x3EDF_FFFC), Translated)
    assert_fault(unit.access(iova=(1 << 30) + 0x3EE0_0000), VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE)
    assert_fault(unit.access(iova=(1 << 30) + 0x3EEF_FFFC), VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE)
    assert isinstance(unit.access(iova=(1 << 30) + 0x3EF0_0000), Translated)


def test_request_with_pasid_faults_with_reason_0x31(unit: Unit) -> None:
    unit.ecap |= PASID
    outcome = assert_fault(unit.access(pasid=5), VtdFaultReason.PASID_IN_LEGACY_MODE)
    assert isinstance(outcome.record, VtdFaultRecord)
    assert outcome.record.pasid == 5


# Records.


def test_record_holds_requester_page_reason_and_type(unit: Unit) -> None:
    outcome = assert_fault(unit.access(AccessKind.WRITE, iova=IOVA + 0x1234), VtdFaultReason.WRITE_NOT_PERMITTED, 1)
    assert outcome.record == VtdFaultRecord(
        address=IOVA + 0x1000, source_id=RID, reason=VtdFaultReason.WRITE_NOT_PERMITTED, is_read=False
    )


def test_record_reads_back_from_its_register() -> None:
    record = VtdFaultRecord(address=0x1000, source_id=RID, reason=VtdFaultReason.READ_NOT_PERMITTED, is_read=True)
    assert record.encode() == 1 << 127 | 1 << 126 | 6 << 96 | RID << 64 | 0x1000
    assert VtdFaultRecord.decode(record.encode()) == record


def known_fields(**fields: int) -> set[str]:
    """The fields of a record that mean something as a whole."""
    known = meaningful_bits(FRCD_REG.encode({"F": 1, **fields}))
    return {field.name for field in FRCD_REG.fields if not field.mask & ~known}


OF_EVERY_FAULT = {"F", "FR", "SID"}
OF_TRANSLATION = {*OF_EVERY_FAULT, "FI", "T1", "T2", "PP", "AT"}


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ({}, OF_TRANSLATION),
        ({"T1": 1}, OF_TRANSLATION),
        ({"T2": 1}, OF_TRANSLATION - {"AT"}),
        ({"PP": 1}, {*OF_TRANSLATION, "PV", "PRIV"}),
        ({"PP": 1, "T1": 1}, {*OF_TRANSLATION, "PV", "PRIV", "EXE"}),
        ({"PP": 1, "T1": 1, "T2": 1}, {*OF_TRANSLATION, "PV", "PRIV"}),
    ],
)
def test_record_fields_mean_something_for_the_requests_that_have_them_11_4_7_6(
    kind: dict[str, int], known: set[str]
) -> None:
    assert known_fields(FR=VtdFaultReason.READ_NOT_PERMITTED, **kind) == known


@pytest.mark.parametrize("reason", [reason for reason in VtdFaultReason if 0x20 <= reason <= 0x2B])
def test_record_of_an_interrupt_fault_tells_no_request_type_and_no_pasid_11_4_7_6(reason: VtdFaultReason) -> None:
    without_index = reason in (0x20, 0x25, 0x29, 0x2A, 0x2B)
    known = OF_EVERY_FAULT if without_index else {*OF_EVERY_FAULT, "FI"}
    assert known_fields(FR=reason, T1=1, PP=1) == known


def test_register_without_f_holds_no_record() -> None:
    assert VtdFaultRecord.decode(FRCD_REG.encode({"FR": 5})) is None


def test_unknown_reason_in_a_register_is_kept_as_a_number() -> None:
    record = VtdFaultRecord.decode(FRCD_REG.encode({"FR": 0x77, "F": 1}))
    assert record is not None
    assert record.reason == 0x77


@pytest.mark.parametrize("fields", [{"P": 0}, {"AW": 0}, {"RSVD": 1}, {"SSPTPTR": NOWHERE}, {"SSPTPTR": 0xFF_F000}])
def test_fpd_keeps_qualified_faults_from_being_recorded(unit: Unit, fields: dict[str, int]) -> None:
    unit.tables.set_context_fields(RID, fields)
    outcome = unit.access()
    assert isinstance(outcome, Fault)
    assert outcome.record is not None
    unit.tables.set_context_fields(RID, {"FPD": 1})
    blocked = unit.access()
    assert isinstance(blocked, Fault)
    assert (blocked.code, blocked.record) == (outcome.code, None)


def test_fpd_does_not_keep_a_root_fault_from_being_recorded(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"FPD": 1})
    unit.tables.set_root_fields(RID >> 8, {"RSVD": 1})
    assert assert_fault(unit.access(), VtdFaultReason.ROOT_RESERVED).record is not None


# The interrupt address range, 3.15.


def test_doubleword_write_to_the_interrupt_range_is_no_dma_3_15(unit: Unit) -> None:
    unit.table.map(0xFEE0_0000, OUTPUT, 0x1000)
    assert unit.access(AccessKind.WRITE, iova=0xFEE0_0010) == Bypassed(0xFEE0_0010, BypassReason.INTERRUPT_RANGE)


def test_zero_length_read_of_the_interrupt_range_bypasses_3_15(unit: Unit) -> None:
    assert unit.access(iova=0xFEE0_0010, length=0) == Bypassed(0xFEE0_0010, BypassReason.INTERRUPT_RANGE)


ILLEGAL = [
    (AccessKind.READ, 0xFEE0_0000, 4),
    (AccessKind.WRITE, 0xFEE0_0000, 8),
    (AccessKind.WRITE, 0xFEEF_FFFE, 2),
    (AccessKind.WRITE, 0xFEE0_0002, 4),
]


@pytest.mark.parametrize(("kind", "iova", "length"), ILLEGAL)
def test_other_requests_to_the_interrupt_range_are_reported_as_dma_faults_3_15(
    unit: Unit, kind: AccessKind, iova: int, length: int
) -> None:
    unit.table.map(0xFEE0_0000, OUTPUT, 0x100000)
    outcome = assert_fault(unit.access(kind, iova=iova, length=length), VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE)
    assert outcome.record is not None


@pytest.mark.parametrize(("kind", "iova", "length"), ILLEGAL)
def test_other_requests_to_the_interrupt_range_are_blocked_unrecorded_while_translation_is_off_3_15(
    unit: Unit, kind: AccessKind, iova: int, length: int
) -> None:
    unit.gsts = 0
    outcome = unit.access(kind, iova=iova, length=length)
    assert isinstance(outcome, Fault)
    assert (outcome.code, outcome.record) == (VtdBlocked.INTERRUPT_RANGE, None)


@pytest.mark.parametrize("iova", [0xFEDF_F000, 0xFEF0_0000, 0x1_FEE0_0000])
def test_neighbours_of_the_interrupt_range_are_dma(unit: Unit, iova: int) -> None:
    assert_fault(unit.access(AccessKind.WRITE, iova=iova), VtdFaultReason.WRITE_NOT_PERMITTED, level=3)


def test_messages_go_through_without_interrupt_remapping_5_1(unit: Unit) -> None:
    message = MsiWrite(requester=RID, address=0xFEE0_0000, data=0x41)
    assert unit.engine().remap_msi(message) == Interrupt(0xFEE0_0000, 0x41, remapped=False)


@pytest.mark.parametrize("values", [{"rtaddr": 1 << 64}, {"gsts": 1 << 32}, {"cap": -1}, {"host_address_width": 64}])
def test_registers_that_do_not_fit_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        VtdRegisters(**{"rtaddr": 0, "cap": 0, "ecap": 0, "gsts": 0, **values})
