"""Fault conditions of the scalable-mode root, context and PASID structures (VT-d 7.1.3: SRT, SCT, SPD, SPT, SGN.10)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from vtd_units import HAW, IOVA, NOWHERE, OUTPUT, PASID, RID, Unit

from harness.model.access import (
    AccessKind,
    AddressType,
    Bypassed,
    BypassReason,
    Completion,
    Fault,
    Permissions,
    Translated,
)
from harness.model.vtd import VtdFaultReason
from harness.model.vtd.registers import capabilities

RW = Permissions.READ | Permissions.WRITE
PAGE = Translated(OUTPUT, 0x1000, RW)
TRANSLATED = AddressType.TRANSLATED
BEYOND_HAW = 1 << HAW


@pytest.fixture
def unit() -> Unit:
    return Unit("second")


# The way to the PASID table entry.


def test_request_without_pasid_uses_rid_pasid_3_4_3(unit: Unit) -> None:
    assert unit.access() == PAGE
    unit.attach("second", 0x1234)
    unit.tables.set_context_fields(RID, {"RID_PASID": 0x1234})
    unit.tables.set_pasid_fields(RID, {"P": 0}, 0)
    assert unit.access() == PAGE
    unit.tables.set_pasid_fields(RID, {"P": 0}, 0x1234)
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_NOT_PRESENT)


@pytest.mark.parametrize("pasid", [1, 63, 64, 65, 0x1FFF])
def test_each_pasid_has_an_entry_of_its_own_3_4_3(unit: Unit, pasid: int) -> None:
    other = unit.new_table(4, second=True)
    other.map(IOVA, 0x9000_0000, 0x1000)
    unit.tables.attach_pasid(RID, 8, pasid=pasid, second_stage=other)
    assert unit.access(pasid=pasid) == Translated(0x9000_0000, 0x1000, RW)
    assert unit.access() == PAGE


def test_directory_entry_serves_64_pasids_3_4_3(unit: Unit) -> None:
    unit.attach("second", 0x1FFF)
    unit.tables.set_directory_fields(RID, {"P": 0}, 0x1FFF)
    assert_fault(unit.access(pasid=0x1FFF), VtdFaultReason.PASID_DIRECTORY_NOT_PRESENT)
    assert unit.access() == PAGE


@pytest.mark.parametrize("requester", [0x0100, 0x017F, 0x0180, 0x01FF, 0x0080])
def test_devices_below_and_from_16_on_have_their_own_halves_of_the_root_entry_9_2(unit: Unit, requester: int) -> None:
    unit.tables.attach(requester)
    other = unit.new_table(4, second=True)
    other.map(IOVA, 0x9000_0000, 0x1000)
    unit.tables.attach_pasid(requester, 8, second_stage=other)
    assert unit.access(requester=requester) == Translated(0x9000_0000, 0x1000, RW)
    assert unit.access() == PAGE


def test_pass_through_entry_bypasses_3_9() -> None:
    assert Unit("").access() == Bypassed(IOVA, BypassReason.PASS_THROUGH)


# Root-entries.


def test_root_table_outside_of_memory_faults_with_reason_0x38_srt_1(unit: Unit) -> None:
    unit.rtaddr = NOWHERE | 1 << 10
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_ROOT_ACCESS)


def test_absent_half_of_a_root_entry_faults_with_reason_0x39_srt_2(unit: Unit) -> None:
    assert_fault(unit.access(requester=RID | 0x80), VtdFaultReason.SCALABLE_ROOT_NOT_PRESENT)
    unit.tables.set_root_fields(RID >> 8, {"LP": 0, "RSVD_LOW": 1})
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_ROOT_NOT_PRESENT)


@pytest.mark.parametrize("fields", [{"RSVD_LOW": 1}, {"RSVD_LOW": 1 << 10}, {"LCTP": BEYOND_HAW}])
def test_reserved_field_of_the_lower_half_faults_with_reason_0x3a_srt_3(unit: Unit, fields: dict[str, int]) -> None:
    unit.tables.set_root_fields(RID >> 8, fields)
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_ROOT_RESERVED)


@pytest.mark.parametrize("fields", [{"RSVD_HIGH": 1}, {"UCTP": BEYOND_HAW << 64}])
def test_reserved_field_of_the_upper_half_faults_with_reason_0x3a_only_there_srt_3(
    unit: Unit, fields: dict[str, int]
) -> None:
    unit.tables.attach(RID | 0x80)
    unit.tables.attach_pasid(RID | 0x80, 7, second_stage=unit.second)
    unit.tables.set_root_fields(RID >> 8, fields)
    assert_fault(unit.access(requester=RID | 0x80), VtdFaultReason.SCALABLE_ROOT_RESERVED)
    assert unit.access() == PAGE


# Context-entries.


def test_context_table_outside_of_memory_faults_with_reason_0x40_sct_1(unit: Unit) -> None:
    unit.tables.set_root_fields(RID >> 8, {"LCTP": NOWHERE})
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_CONTEXT_ACCESS)


def test_absent_context_entry_faults_with_reason_0x41_sct_2(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"P": 0, "RSVD_7": 1})
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_CONTEXT_NOT_PRESENT)


@pytest.mark.parametrize(
    "fields", [{"RSVD_7": 1}, {"RSVD_7": 2}, {"RSVD_85": 1}, {"RSVD_85": 1 << 170}, {"PASIDDIRPTR": BEYOND_HAW}]
)
def test_reserved_field_of_a_context_entry_faults_with_reason_0x42_sct_3(unit: Unit, fields: dict[str, int]) -> None:
    unit.tables.set_context_fields(RID, fields)
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_CONTEXT_RESERVED)


@pytest.mark.parametrize(
    ("capability", "fields"),
    [
        ("device_tlbs", {"DTE": 1}),
        ("pasid", {"PASIDE": 1}),
        ("page_requests", {"PRE": 1, "DTE": 1}),
        ("host_permissions", {"HPTE": 1}),
        ("translated_with_pasid", {"EPTR": 1, "PASIDE": 1}),
        ("rid_pasid", {"RID_PASID": 1}),
        ("rid_privilege", {"RID_PRIV": 1}),
    ],
)
def test_context_field_of_what_the_hardware_lacks_faults_with_reason_0x42_sct_3(
    unit: Unit, capability: str, fields: dict[str, int]
) -> None:
    unit.attach("second", 1)
    unit.attach("second", 0, SRE=1)
    unit.attach("second", 1, SRE=1)
    unit.tables.set_context_fields(RID, {"DTE": 0, "PASIDE": 0, **fields})
    assert unit.access() == PAGE
    unit.lacks(capability)
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_CONTEXT_RESERVED)


def test_page_requests_without_device_tlb_fault_with_reason_0x43_sct_4_1(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"PRE": 1, "DTE": 0})
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_CONTEXT_INVALID)


def test_rid_pasid_beyond_the_directory_faults_with_reason_0x43_sct_4_2(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"RID_PASID": 1 << 13})
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_CONTEXT_INVALID)
    unit.tables.set_context_fields(RID, {"PDTS": 1})
    assert_fault(unit.access(), VtdFaultReason.PASID_DIRECTORY_NOT_PRESENT)


def test_translated_pasids_without_pasids_fault_with_reason_0x43_sct_4_3(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"EPTR": 1, "PASIDE": 0})
    assert_fault(unit.access(), VtdFaultReason.SCALABLE_CONTEXT_INVALID)
    assert_fault(unit.ask(), VtdFaultReason.SCALABLE_CONTEXT_INVALID)
    assert_fault(unit.access(pasid=PASID, address_type=TRANSLATED), VtdFaultReason.SCALABLE_CONTEXT_INVALID)
    # The table has no SCT.4.3 for other requests with PASID.
    assert_fault(unit.access(pasid=PASID), VtdFaultReason.PASID_DISABLED)


def test_device_tlb_requests_without_dte_fault_with_reason_0x44_sct_5(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"DTE": 0})
    assert_fault(unit.ask(), VtdFaultReason.DEVICE_TLB_DISABLED)
    assert_fault(unit.access(address_type=TRANSLATED), VtdFaultReason.DEVICE_TLB_DISABLED)
    assert unit.access() == PAGE


def test_request_with_pasid_without_paside_faults_with_reason_0x45_sct_6(unit: Unit) -> None:
    unit.attach("second", PASID)
    assert unit.access(pasid=PASID) == PAGE
    unit.tables.set_context_fields(RID, {"PASIDE": 0})
    assert_fault(unit.access(pasid=PASID), VtdFaultReason.PASID_DISABLED)
    assert_fault(unit.ask(pasid=PASID), VtdFaultReason.PASID_DISABLED)
    assert unit.access() == PAGE


@pytest.mark.parametrize("size", [0, 1, 6])
def test_pasid_beyond_the_directory_faults_with_reason_0x46_sct_7(size: int) -> None:
    unit = Unit("second")
    unit.tables.attach(RID, directory_size=size, pasid=True)
    limit = 1 << 13 + size
    assert_fault(unit.access(pasid=limit), VtdFaultReason.PASID_BEYOND_DIRECTORY)
    assert_fault(unit.access(pasid=limit - 1), VtdFaultReason.PASID_DIRECTORY_NOT_PRESENT)


def test_request_with_the_pasid_of_rid_pasid_faults_with_reason_0x48_sct_9(unit: Unit) -> None:
    unit.attach("second", PASID)
    assert unit.access(pasid=PASID) == PAGE
    unit.tables.set_context_fields(RID, {"RID_PASID": PASID})
    assert_fault(unit.access(pasid=PASID), VtdFaultReason.PASID_IS_RID_PASID)
    assert unit.access() == PAGE


def test_translated_request_with_pasid_without_eptr_faults_with_reason_0x49_sct_10(unit: Unit) -> None:
    outcome = unit.access(pasid=PASID, address_type=TRANSLATED)
    assert_fault(outcome, VtdFaultReason.TRANSLATED_PASID_DISABLED)
    unit.tables.set_context_fields(RID, {"EPTR": 1})
    outcome = unit.access(pasid=PASID, address_type=TRANSLATED)
    assert outcome == Bypassed(IOVA, BypassReason.TRANSLATED_REQUEST)


def test_pasid_with_more_bits_than_pss_faults_with_reason_0x89_sgn_10(unit: Unit) -> None:
    unit.attach("second", 0x100)
    assert unit.access(pasid=0x100) == PAGE
    unit.capabilities = type(unit.capabilities).decode(unit.capabilities.encode() & ~(0x1F << 35) | 7 << 35)
    assert_fault(unit.access(pasid=0x100), VtdFaultReason.PASID_BEYOND_SIZE)


# PASID directory entries.


def test_directory_outside_of_memory_faults_with_reason_0x50_spd_1(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"PASIDDIRPTR": NOWHERE})
    assert_fault(unit.access(), VtdFaultReason.PASID_DIRECTORY_ACCESS)


def test_absent_directory_entry_faults_with_reason_0x51_spd_2(unit: Unit) -> None:
    unit.tables.set_directory_fields(RID, {"P": 0, "RSVD": 1})
    assert_fault(unit.access(), VtdFaultReason.PASID_DIRECTORY_NOT_PRESENT)


@pytest.mark.parametrize("fields", [{"RSVD": 1}, {"RSVD": 1 << 9}, {"SMPTBLPTR": BEYOND_HAW}])
def test_reserved_field_of_a_directory_entry_faults_with_reason_0x52_spd_3(unit: Unit, fields: dict[str, int]) -> None:
    unit.tables.set_directory_fields(RID, fields)
    assert_fault(unit.access(), VtdFaultReason.PASID_DIRECTORY_RESERVED)


# PASID table entries.


def test_pasid_table_outside_of_memory_faults_with_reason_0x58_spt_1(unit: Unit) -> None:
    unit.tables.set_directory_fields(RID, {"SMPTBLPTR": NOWHERE})
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_ACCESS)


def test_absent_pasid_entry_faults_with_reason_0x59_spt_2(unit: Unit) -> None:
    unit.tables.set_pasid_fields(RID, {"P": 0, "RSVD_5": 1})
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_NOT_PRESENT)


RESERVED = {
    "RSVD_5": 1,
    "RSVD_10": 1,
    "SSPTPTR": BEYOND_HAW,
    "RSVD_80": 1,
    "RSVD_91": 1 << 4,
    "RSVD_129": 1,
    "RSVD_136": 1,
    "FSPTPTR": BEYOND_HAW << 128,
    "RSVD_192": 1 << 63,
    "RSVD_259": 1,
    "HPTPTR": BEYOND_HAW << 256,
    "RSVD_336": 1 << 175,
}


@pytest.mark.parametrize("field", RESERVED)
def test_reserved_field_of_a_pasid_entry_faults_with_reason_0x5a_spt_3(unit: Unit, field: str) -> None:
    unit.tables.set_pasid_fields(RID, {field: RESERVED[field]})
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_RESERVED)


@pytest.mark.parametrize(
    ("capability", "fields"),
    [
        ("second_stage_flags", {"SSADE": 1}),
        ("walk_coherency", {"PWSNP": 1}),
        ("snoop_control", {"PGSNP": 1}),
        ("memory_types", {"CD": 1}),
        ("memory_types", {"EMTE": 1}),
        ("memory_types", {"PAT": 6}),
        ("supervisor_requests", {"SRE": 1}),
        ("first_stage", {"FSPM": 1}),
        ("first_stage", {"WPE": 1}),
        ("first_stage", {"FSPTPTR": 0x1000 << 128}),
        ("extended_accessed", {"EAFE": 1}),
        ("host_permissions", {"HPTSZ": 1}),
        ("host_permissions", {"HPTPFD": 1}),
        ("host_permissions", {"HPTPTR": 0x1000 << 256}),
        ("host_permissions", {"HPTDID": 1}),
    ],
)
def test_pasid_field_of_what_the_hardware_lacks_faults_with_reason_0x5a_spt_3(
    capability: str, fields: dict[str, int]
) -> None:
    unit = Unit("")
    unit.tables.set_pasid_fields(RID, fields)
    assert isinstance(unit.access(), Bypassed)
    unit.lacks(capability)
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_RESERVED)


@pytest.mark.parametrize("fields", [{"AW": 2}, {"SSPTPTR": 0x1000}, {"SSADE": 1}])
def test_second_stage_fields_without_second_stage_fault_with_reason_0x5a_spt_3(fields: dict[str, int]) -> None:
    unit = Unit("")
    unit.tables.set_pasid_fields(RID, fields)
    assert isinstance(unit.access(), Bypassed)
    unit.lacks("second_stage")
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_RESERVED)


@pytest.mark.parametrize("field", ["DID", "HPTDID"])
def test_domain_id_wider_than_nd_faults_with_reason_0x5a_spt_3(unit: Unit, field: str) -> None:
    unit.cap = capabilities(domain_id_width=8)
    unit.tables.set_pasid_fields(RID, {field: 0xFF})
    assert unit.access() == PAGE
    unit.tables.set_pasid_fields(RID, {field: 0x100})
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_RESERVED)


@pytest.mark.parametrize("aw", [0, 4, 7])
def test_reserved_address_width_faults_with_reason_0x5b_spt_4_1(unit: Unit, aw: int) -> None:
    unit.tables.set_pasid_fields(RID, {"AW": aw})
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_INVALID)


def test_address_width_that_sagaw_lacks_faults_with_reason_0x5b_spt_4_1(unit: Unit) -> None:
    unit.cap = capabilities(levels=frozenset({3}))
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_INVALID)


@pytest.mark.parametrize("translation", [0b000, 0b101, 0b110, 0b111])
def test_reserved_translation_type_faults_with_reason_0x5b_spt_4_2(unit: Unit, translation: int) -> None:
    unit.tables.set_pasid_fields(RID, {"PGTT": translation})
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_INVALID)


@pytest.mark.parametrize(
    ("translation", "capability"),
    [(0b001, "first_stage"), (0b010, "second_stage"), (0b011, "nested"), (0b100, "pass_through")],
)
def test_translation_type_that_ecap_lacks_faults_with_reason_0x5b_spt_4_2(translation: int, capability: str) -> None:
    unit = Unit("")
    unit.tables.set_pasid_fields(RID, {"PGTT": translation})
    unit.lacks(capability)
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_INVALID)


@pytest.mark.parametrize("mode", [0b10, 0b11])
def test_reserved_first_stage_paging_mode_faults_with_reason_0x5b_spt_4_3(mode: int) -> None:
    unit = Unit("first", FSPM=mode)
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_INVALID)


def test_five_level_paging_that_fs5lp_lacks_faults_with_reason_0x5b_spt_4_3() -> None:
    unit = Unit("first", 5)
    assert unit.access() == PAGE
    unit.cap = capabilities(first_stage_5_levels=False)
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_INVALID)


def test_nested_first_stage_pointer_beyond_the_second_stages_width_faults_with_reason_0x5b_spt_4_4() -> None:
    unit = Unit("nested", 3)
    assert unit.access() == PAGE
    unit.tables.set_pasid_fields(RID, {"FSPTPTR": 1 << 39 + 128})
    assert_fault(unit.access(), VtdFaultReason.PASID_TABLE_INVALID)
    unit.tables.set_pasid_fields(RID, {"FSPTPTR": 1 << 38 + 128})
    assert_fault(unit.access(), VtdFaultReason.SECOND_STAGE_NOT_PRESENT, stage=2)


@pytest.mark.parametrize("fields", [{"AW": 7}, {"SSADE": 1}, {"IGN_133": 3}])
def test_fields_without_use_are_ignored_for_first_stage_and_pass_through_9_6(fields: dict[str, int]) -> None:
    assert Unit("first", **fields).access() == PAGE
    assert isinstance(Unit("", **fields).access(), Bypassed)


@pytest.mark.parametrize("fields", [{"FSPM": 3}, {"EAFE": 1}, {"WPE": 1}, {"FSPTPTR": NOWHERE << 128}])
def test_fields_without_use_are_ignored_for_second_stage_9_6(fields: dict[str, int]) -> None:
    assert Unit("second", **fields).access() == PAGE


# Privilege.


def test_privileged_request_without_sre_faults_with_reason_0x5d_spt_6(unit: Unit) -> None:
    unit.attach("second", PASID)
    outcome = assert_fault(unit.access(pasid=PASID, privileged=True), VtdFaultReason.SUPERVISOR_DISABLED)
    assert "privileged read" in str(outcome.record)
    unit.tables.set_pasid_fields(RID, {"SRE": 1}, PASID)
    assert unit.access(pasid=PASID, privileged=True) == PAGE


def test_rid_priv_without_sre_faults_with_reason_0x5d_spt_6(unit: Unit) -> None:
    unit.tables.set_context_fields(RID, {"RID_PRIV": 1})
    assert_fault(unit.access(), VtdFaultReason.SUPERVISOR_DISABLED)
    unit.tables.set_pasid_fields(RID, {"SRE": 1})
    assert unit.access() == PAGE


def test_privilege_of_a_request_without_pasid_is_that_of_rid_priv_9_4(unit: Unit) -> None:
    assert unit.access(privileged=True) == PAGE


# Reports and answers.

QUALIFIED = [
    ("context", {"P": 0}, VtdFaultReason.SCALABLE_CONTEXT_NOT_PRESENT),
    ("context", {"RSVD_7": 1}, VtdFaultReason.SCALABLE_CONTEXT_RESERVED),
    ("context", {"PRE": 1, "DTE": 0}, VtdFaultReason.SCALABLE_CONTEXT_INVALID),
    ("directory", {"P": 0}, VtdFaultReason.PASID_DIRECTORY_NOT_PRESENT),
    ("directory", {"RSVD": 1}, VtdFaultReason.PASID_DIRECTORY_RESERVED),
    ("pasid", {"P": 0}, VtdFaultReason.PASID_TABLE_NOT_PRESENT),
    ("pasid", {"RSVD_5": 1}, VtdFaultReason.PASID_TABLE_RESERVED),
    ("pasid", {"PGTT": 0}, VtdFaultReason.PASID_TABLE_INVALID),
    ("pasid", {"SSPTPTR": NOWHERE}, VtdFaultReason.SECOND_STAGE_ROOT_ACCESS),
]
ENTRIES = ["context", "directory", "pasid"]


def set_fields(unit: Unit, entry: str, fields: dict[str, int]) -> None:
    setters = {
        "context": unit.tables.set_context_fields,
        "directory": unit.tables.set_directory_fields,
        "pasid": unit.tables.set_pasid_fields,
    }
    setters[entry](RID, fields)


@pytest.mark.parametrize(("entry", "fields", "reason"), QUALIFIED)
@pytest.mark.parametrize("suppressor", ENTRIES)
def test_fpd_of_any_entry_that_was_read_keeps_a_qualified_fault_from_being_reported_7_1_1(
    unit: Unit, entry: str, fields: dict[str, int], reason: VtdFaultReason, suppressor: str
) -> None:
    set_fields(unit, suppressor, {"FPD": 1})
    set_fields(unit, entry, fields)
    outcome = assert_fault(unit.access(), reason)
    was_read = ENTRIES.index(suppressor) <= ENTRIES.index(entry)
    assert (outcome.record is None) == was_read


@pytest.mark.parametrize(
    ("entry", "fields", "reason"),
    [
        ("context", {"PASIDDIRPTR": NOWHERE}, VtdFaultReason.PASID_DIRECTORY_ACCESS),
        ("directory", {"SMPTBLPTR": NOWHERE}, VtdFaultReason.PASID_TABLE_ACCESS),
    ],
)
def test_fpd_does_not_keep_an_unqualified_fault_from_being_reported_7_1_3(
    unit: Unit, entry: str, fields: dict[str, int], reason: VtdFaultReason
) -> None:
    set_fields(unit, entry, {"FPD": 1, **fields})
    assert assert_fault(unit.access(), reason).record is not None


@pytest.mark.parametrize("suppressor", ENTRIES)
@pytest.mark.parametrize(
    ("stages", "iova", "reason"),
    [
        ("first", 1 << 50, VtdFaultReason.NOT_CANONICAL),
        ("second", 1 << 50, VtdFaultReason.SCALABLE_ADDRESS_BEYOND_WIDTH),
        ("", 1 << HAW, VtdFaultReason.BEYOND_HOST_WIDTH),
        ("", 0xFEE0_0000, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE),
    ],
)
def test_fpd_keeps_a_general_fault_from_being_reported_7_1_3(
    stages: str, iova: int, reason: VtdFaultReason, suppressor: str
) -> None:
    unit = Unit(stages)
    assert assert_fault(unit.access(iova=iova), reason).record is not None
    set_fields(unit, suppressor, {"FPD": 1})
    assert assert_fault(unit.access(iova=iova), reason).record is None


@pytest.mark.parametrize(
    ("entry", "fields", "reason", "completion"),
    [
        ("context", {"P": 0}, VtdFaultReason.SCALABLE_CONTEXT_NOT_PRESENT, Completion.UNSUPPORTED_REQUEST),
        ("context", {"RSVD_7": 1}, VtdFaultReason.SCALABLE_CONTEXT_RESERVED, Completion.COMPLETER_ABORT),
        ("context", {"DTE": 0}, VtdFaultReason.DEVICE_TLB_DISABLED, Completion.UNSUPPORTED_REQUEST),
        ("directory", {"P": 0}, VtdFaultReason.PASID_DIRECTORY_NOT_PRESENT, Completion.NO_PERMISSION),
        ("directory", {"RSVD": 1}, VtdFaultReason.PASID_DIRECTORY_RESERVED, Completion.COMPLETER_ABORT),
        ("pasid", {"P": 0}, VtdFaultReason.PASID_TABLE_NOT_PRESENT, Completion.NO_PERMISSION),
        ("pasid", {"PGTT": 0}, VtdFaultReason.PASID_TABLE_INVALID, Completion.COMPLETER_ABORT),
    ],
)
def test_translation_request_is_answered_as_the_table_has_it_7_1_3(
    unit: Unit, entry: str, fields: dict[str, int], reason: VtdFaultReason, completion: Completion
) -> None:
    set_fields(unit, entry, fields)
    outcome = assert_fault(unit.ask(), reason)
    assert outcome.completion is completion
    # VT-d 7.1.2: what is answered with success is not reported.
    assert (outcome.record is None) == (completion is Completion.NO_PERMISSION)


def test_record_has_the_pasid_of_the_request_and_not_rid_pasid_11_4_7_6(unit: Unit) -> None:
    unit.attach("second", PASID)
    with_pasid = unit.access(AccessKind.WRITE, iova=0, pasid=PASID)
    without = unit.access(AccessKind.WRITE, iova=0)
    assert isinstance(with_pasid, Fault)
    assert isinstance(without, Fault)
    assert f"pasid {PASID:#x}" in str(with_pasid.record)
    assert "pasid" not in str(without.record)
