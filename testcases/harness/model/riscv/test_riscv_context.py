"""Device and process directories and contexts of the RISC-V IOMMU: found, or refused with the cause (3.1, 3.2, 3.3)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from riscv_unit import DEVICE, FILE, IOVA, NOWHERE, OUTPUT, PSCID, Unit, message_unit

from harness.errors import SpecError
from harness.model.access import AccessKind, AddressType, Bypassed, BypassReason, Fault, Permissions, Translated
from harness.model.riscv import RiscvIommuCause, RiscvIommuFaultRecord
from harness.model.riscv.device import DeviceContext
from harness.model.riscv.faults import TransactionType
from harness.model.riscv.registers import IommuMode

RW = Permissions.READ | Permissions.WRITE
BASE = frozenset({"MSI_FLAT", "MSI_MRIF"})
NOTHING: frozenset[str] = frozenset()
MISCONFIGURED = RiscvIommuCause.DDT_ENTRY_MISCONFIGURED


# ddtp.iommu_mode (3.3 steps 1, 2 and 5).


def test_off_disallows_every_transaction_with_cause_256_3_3_step_1() -> None:
    unit = Unit(ddtp=IommuMode.OFF)
    for address_type in AddressType:
        fault = assert_fault(
            unit.access(address_type=address_type), RiscvIommuCause.ALL_INBOUND_TRANSACTIONS_DISALLOWED
        )
        assert fault.record is not None


@pytest.mark.parametrize("mode", range(5, 16))
def test_a_reserved_mode_is_taken_for_off(mode: int) -> None:
    assert_fault(Unit(ddtp=mode).access(), RiscvIommuCause.ALL_INBOUND_TRANSACTIONS_DISALLOWED)


def test_bare_lets_untranslated_requests_through_3_3_step_2() -> None:
    unit = Unit(ddtp=IommuMode.BARE)
    assert unit.access() == Bypassed(IOVA, BypassReason.TRANSLATION_OFF)
    assert unit.access(pasid=7) == Bypassed(IOVA, BypassReason.TRANSLATION_OFF)


@pytest.mark.parametrize("address_type", [AddressType.TRANSLATED, AddressType.TRANSLATION_REQUEST])
def test_bare_disallows_ats_with_cause_260_3_3_step_2(address_type: AddressType) -> None:
    outcome = Unit(ddtp=IommuMode.BARE).access(address_type=address_type)
    assert_fault(outcome, RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED)


@pytest.mark.parametrize(
    ("levels", "without", "bits"), [(1, BASE, 7), (2, BASE, 16), (1, NOTHING, 6), (2, NOTHING, 15)]
)
def test_a_device_id_wider_than_the_mode_is_disallowed_with_cause_260_3_3_step_5(
    levels: int, without: frozenset[str], bits: int
) -> None:
    unit = Unit(levels=levels, without=without, device=(1 << bits) - 1)
    assert isinstance(unit.access(), Translated)
    assert_fault(unit.access(device=1 << bits), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED)


def test_bit_23_of_a_device_id_counts_for_its_width_in_the_extended_format_3_3_step_4() -> None:
    # DDI[2] has nine bits there: 0x800000 must not pass for 0 in a directory of two levels.
    assert_fault(Unit(levels=2).access(device=0x80_0000 | DEVICE), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED)


@pytest.mark.parametrize("without", [BASE, NOTHING])
def test_a_requester_of_more_than_24_bits_is_no_device_id(without: frozenset[str]) -> None:
    unit = Unit(levels=3, without=without, device=0xFF_FFFF)
    assert isinstance(unit.access(), Translated)
    assert_fault(unit.access(device=0x100_0000), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED)


def test_the_directory_indexes_are_cut_from_the_device_id_as_3_3_steps_3_and_4_say() -> None:
    # 0xABCDE5: base format 0x65, 0x19B, 0xAB; extended format 0x25, 0x137, 0x157.
    for without, entries in ((BASE, (0xAB, 0x19B, 0x65)), (NOTHING, (0x157, 0x137, 0x25))):
        unit = Unit(levels=3, without=without, device=0xAB_CDE5)
        steps = [step for step in unit.explain().steps if step.address is not None][:3]
        sizes = (8, 8, 32 if without else 64)
        found = tuple((step.address or 0) % 4096 // size for step, size in zip(steps, sizes, strict=True))
        assert found == entries


# Locating the device context (3.3.1).


@pytest.mark.parametrize(("levels", "level"), [(2, 2), (3, 2), (3, 3)])
def test_a_directory_entry_without_v_faults_with_cause_258_3_3_1_step_5(levels: int, level: int) -> None:
    unit = Unit(levels=levels)
    unit.tables.set_directory_fields(DEVICE, level, {"V": 0, "RSVD_1": 1})
    assert_fault(unit.access(), RiscvIommuCause.DDT_ENTRY_NOT_VALID)


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("fields", [{"RSVD_1": 1}, {"RSVD_1": 1 << 8}, {"RSVD_54": 1}, {"RSVD_54": 1 << 9}])
def test_a_reserved_bit_of_a_directory_entry_faults_with_cause_259_3_3_1_step_6(
    level: int, fields: dict[str, int]
) -> None:
    unit = Unit(levels=3)
    unit.tables.set_directory_fields(DEVICE, level, fields)
    assert_fault(unit.access(), MISCONFIGURED)


@pytest.mark.parametrize("level", [2, 3])
def test_a_directory_outside_of_memory_faults_with_cause_257_3_3_1(level: int) -> None:
    unit = Unit(levels=3)
    unit.tables.set_directory_fields(DEVICE, level, {"PPN": NOWHERE >> 12})
    assert_fault(unit.access(), RiscvIommuCause.DDT_ENTRY_LOAD_ACCESS_FAULT)


def test_a_root_directory_outside_of_memory_faults_with_cause_257_3_3_1() -> None:
    for mode in (IommuMode.ONE_LEVEL, IommuMode.THREE_LEVEL):
        unit = Unit(ddtp=mode | NOWHERE >> 12 << 10)
        assert_fault(unit.access(), RiscvIommuCause.DDT_ENTRY_LOAD_ACCESS_FAULT)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_directory_beyond_the_physical_addresses_faults_with_cause_257_6_3(levels: int) -> None:
    unit = Unit(levels=levels)
    narrow = unit.fields["capabilities"] & ~(0x3F << 32)
    unit.fields["capabilities"] = narrow | 16 << 32
    assert_fault(unit.access(), RiscvIommuCause.DDT_ENTRY_LOAD_ACCESS_FAULT)


def test_a_device_context_without_v_faults_with_cause_258_and_the_rest_is_ignored_3_1_3_1() -> None:
    unit = Unit()
    unit.tables.set_context_fields(DEVICE, {"tc.V": 0, "RSVD_tc_12": 1, "fsc.MODE": 15})
    assert_fault(unit.access(), RiscvIommuCause.DDT_ENTRY_NOT_VALID)


# Device-context configuration checks (3.1.4), rule by rule.


@pytest.mark.parametrize(
    "fields",
    [
        {"RSVD_tc_12": 1},
        {"RSVD_tc_12": 1 << 11},
        {"RSVD_tc_32": 1},
        {"RSVD_tc_32": 1 << 31},
        {"RSVD_ta_0": 1},
        {"RSVD_ta_0": 1 << 11},
        {"RSVD_ta_32": 1},
        {"RSVD_fsc_44": 1},
        {"RSVD_fsc_44": 1 << 15},
        {"RSVD_msiptp_44": 1},
        {"RSVD_msi_addr_mask_52": 1},
        {"RSVD_msi_addr_pattern_52": 1},
        {"RSVD_448": 1},
        {"RSVD_448": 1 << 63},
    ],
)
def test_a_reserved_bit_of_a_device_context_is_misconfigured_3_1_4_rule_1(fields: dict[str, int]) -> None:
    assert_fault(Unit(context=fields).access(), MISCONFIGURED)


def test_the_custom_field_is_ignored_3_1_3_1() -> None:
    assert isinstance(Unit(context={"IGN_tc_custom": 0xFF}).access(), Translated)


@pytest.mark.parametrize("name", ["msi_addr_mask.mask", "msi_addr_pattern.pattern"])
@pytest.mark.parametrize(
    ("without", "bits"),
    [(NOTHING, 59), (frozenset({"Sv57x4"}), 50), (frozenset({"Sv57x4", "Sv48x4"}), 41)],
)
def test_msi_address_bits_beyond_the_guest_address_width_are_reserved_3_1_3_6(
    name: str, without: frozenset[str], bits: int
) -> None:
    assert isinstance(Unit(without=without, context={name: 1 << bits - 13}).access(), Translated)
    if bits - 12 < 52:
        assert_fault(Unit(without=without, context={name: 1 << bits - 12}).access(), MISCONFIGURED)


def test_msi_address_bits_beyond_pas_are_reserved_without_a_second_stage_3_1_3_6() -> None:
    without = frozenset({"Sv57x4", "Sv48x4", "Sv39x4", "Sv32x4"})
    assert isinstance(Unit(without=without, context={"msi_addr_mask.mask": 1 << 43}).access(), Translated)
    assert_fault(Unit(without=without, context={"msi_addr_mask.mask": 1 << 44}).access(), MISCONFIGURED)


@pytest.mark.parametrize("name", ["ta.RCID", "ta.MCID"])
def test_qos_ids_are_reserved_without_qosid_and_limited_with_it_3_1_4(name: str) -> None:
    assert_fault(Unit(context={name: 1}).access(), MISCONFIGURED)
    qos = frozenset({"QOSID"})
    assert isinstance(Unit(features=qos, qos_id_bits=4, context={name: 15}).access(), Translated)
    assert_fault(Unit(features=qos, qos_id_bits=4, context={name: 16}).access(), MISCONFIGURED)


@pytest.mark.parametrize(
    "fields",
    [
        {"tc.EN_ATS": 1},
        {"tc.EN_ATS": 1, "tc.EN_PRI": 1},
        {"tc.EN_ATS": 1, "tc.EN_PRI": 1, "tc.PRPR": 1},
    ],
)
def test_ats_that_the_iommu_lacks_is_misconfigured_3_1_4_rule_2(fields: dict[str, int]) -> None:
    assert isinstance(Unit(context=fields).access(), Translated)
    assert_fault(Unit(without=frozenset({"ATS"}), context=fields).access(), MISCONFIGURED)


@pytest.mark.parametrize(
    "fields",
    [
        {"tc.T2GPA": 1},  # rule 3
        {"tc.EN_PRI": 1},  # rule 4
        {"tc.EN_ATS": 1, "tc.PRPR": 1},  # rule 5
    ],
)
def test_ats_bits_that_need_another_are_misconfigured_3_1_4_rules_3_to_5(fields: dict[str, int]) -> None:
    assert_fault(Unit(second="Sv39x4", context=fields).access(), MISCONFIGURED)


def test_t2gpa_needs_the_capability_and_a_second_stage_3_1_4_rules_6_and_7() -> None:
    fields = {"tc.EN_ATS": 1, "tc.T2GPA": 1}
    assert isinstance(Unit(second="Sv39x4", context=fields).access(), Translated)
    assert_fault(Unit(second="Sv39x4", without=frozenset({"T2GPA"}), context=fields).access(), MISCONFIGURED)
    assert_fault(Unit(context=fields).access(), MISCONFIGURED)


@pytest.mark.parametrize(("mode", "name"), [(1, "PD8"), (2, "PD17"), (3, "PD20")])
def test_a_process_directory_mode_needs_its_capability_3_1_4_rule_8(mode: int, name: str) -> None:
    assert isinstance(Unit(pdt_mode=mode).access(pasid=5), Translated)
    assert_fault(Unit(pdt_mode=mode, without=frozenset({name})).access(), MISCONFIGURED)


@pytest.mark.parametrize("mode", range(4, 16))
def test_a_reserved_process_directory_mode_is_misconfigured_3_1_4_rule_8(mode: int) -> None:
    assert_fault(Unit(pdt_mode=1, context={"fsc.MODE": mode}).access(), MISCONFIGURED)


@pytest.mark.parametrize(("scheme", "sxl"), [("Sv39", 0), ("Sv48", 0), ("Sv57", 0), ("Sv32", 1)])
def test_a_first_stage_mode_needs_its_capability_3_1_4_rules_9_to_11(scheme: str, sxl: int) -> None:
    assert isinstance(Unit(scheme).access(), Translated)
    assert_fault(Unit(scheme, without=frozenset({scheme})).access(), MISCONFIGURED)


@pytest.mark.parametrize(
    ("sxl", "mode"), [(0, 1), (0, 7), (0, 11), (0, 13), (0, 14), (0, 15), (1, 1), (1, 9), (1, 10), (1, 15)]
)
def test_a_reserved_first_stage_mode_is_misconfigured_3_1_4_rule_9(sxl: int, mode: int) -> None:
    unit = Unit("Sv32" if sxl else "Sv39", context={"fsc.MODE": mode})
    assert_fault(unit.access(), MISCONFIGURED)


def test_dpe_without_a_process_directory_is_misconfigured_3_1_4_rule_12() -> None:
    assert_fault(Unit(context={"tc.DPE": 1}).access(), MISCONFIGURED)


@pytest.mark.parametrize("scheme", ["Sv39x4", "Sv48x4", "Sv57x4", "Sv32x4"])
def test_a_second_stage_mode_needs_its_capability_3_1_4_rules_14_and_15(scheme: str) -> None:
    assert isinstance(Unit(None, scheme).access(), Translated)
    assert_fault(Unit(None, scheme, without=frozenset({scheme})).access(), MISCONFIGURED)


@pytest.mark.parametrize(
    ("scheme", "mode"),
    [("Sv39x4", 1), ("Sv39x4", 7), ("Sv39x4", 11), ("Sv39x4", 15), ("Sv32x4", 9), ("Sv32x4", 10), ("Sv32x4", 15)],
)
def test_a_reserved_second_stage_mode_is_misconfigured_3_1_4_rule_13(scheme: str, mode: int) -> None:
    assert_fault(Unit(None, scheme, context={"iohgatp.MODE": mode}).access(), MISCONFIGURED)


@pytest.mark.parametrize("mode", range(2, 16))
def test_a_reserved_msi_table_mode_is_misconfigured_3_1_4_rule_16(mode: int) -> None:
    assert_fault(Unit(None, "Sv39x4", context={"msiptp.MODE": mode}).access(), MISCONFIGURED)


@pytest.mark.parametrize("low_bits", [1, 2, 3])
def test_a_second_stage_root_that_is_not_aligned_is_misconfigured_3_1_4_rule_17(low_bits: int) -> None:
    unit = Unit(None, "Sv39x4")
    assert unit.second is not None
    unit.tables.set_context_fields(DEVICE, {"iohgatp.PPN": unit.second.root >> 12 | low_bits})
    assert_fault(unit.access(), MISCONFIGURED)


def test_the_address_of_a_bare_second_stage_is_ignored_3_1_3_2() -> None:
    assert isinstance(Unit(context={"iohgatp.PPN": 0xFFF_FFFF, "iohgatp.GSCID": 7}).access(), Translated)


@pytest.mark.parametrize("name", ["tc.SADE", "tc.GADE"])
def test_setting_of_flags_needs_amo_hwad_3_1_4_rule_18(name: str) -> None:
    assert isinstance(Unit(context={name: 1}).access(), Translated)
    assert_fault(Unit(without=frozenset({"AMO_HWAD"}), context={name: 1}).access(), MISCONFIGURED)


@pytest.mark.parametrize("big_endian", [0, 1])
def test_sbe_must_be_the_one_byte_order_there_is_3_1_4_rules_19_and_21(big_endian: int) -> None:
    unit = Unit(context={"tc.SBE": 1 - big_endian}, fctl=big_endian)
    outcome = unit.access()
    # With BE set the context is read the other way round, and its V is not there.
    if big_endian:
        assert_fault(outcome, RiscvIommuCause.DDT_ENTRY_NOT_VALID)
    else:
        assert_fault(outcome, MISCONFIGURED)


def test_sbe_may_differ_where_both_byte_orders_are_there_and_be_is_writable_3_1_4_rules_19_and_21() -> None:
    both = frozenset({"END"})
    # The first stage is then read big-endian, and nothing is found in it.
    assert_fault(Unit(features=both, context={"tc.SBE": 1}).access(), RiscvIommuCause.READ_PAGE_FAULT)
    fixed = Unit(features=both, context={"tc.SBE": 1}, be_writable=False)
    assert_fault(fixed.access(), MISCONFIGURED)


@pytest.mark.parametrize(
    ("gxl", "writable", "sxl", "legal"),
    [(1, 0, 0, False), (1, 1, 0, False), (1, 0, 1, True), (0, 1, 0, True), (0, 1, 1, True), (0, 0, 1, False)],
)
def test_sxl_must_be_legal_for_gxl_3_1_4_rule_20(gxl: int, writable: int, sxl: int, legal: bool) -> None:
    unit = Unit(None, context={"tc.SXL": sxl}, fctl=gxl << 2, gxl_writable=bool(writable))
    if legal:
        assert unit.access() == Bypassed(IOVA, BypassReason.PASS_THROUGH)
    else:
        assert_fault(unit.access(), MISCONFIGURED)


def test_msi_translation_without_a_second_stage_is_misconfigured_3_1_4() -> None:
    assert_fault(Unit(context={"msiptp.MODE": 1}).access(), MISCONFIGURED)


# Transactions that the device context does not allow (3.3 step 7).


@pytest.mark.parametrize("address_type", [AddressType.TRANSLATED, AddressType.TRANSLATION_REQUEST])
def test_ats_without_en_ats_is_disallowed_with_cause_260_3_3_step_7a(address_type: AddressType) -> None:
    assert_fault(Unit().access(address_type=address_type), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED)


def test_a_process_id_without_pdtv_is_disallowed_with_cause_260_3_3_step_7b() -> None:
    assert_fault(Unit().access(pasid=0), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED)


@pytest.mark.parametrize(("mode", "bits"), [(1, 8), (2, 17)])
def test_a_process_id_wider_than_pdtp_mode_is_disallowed_with_cause_260_3_3_step_7c(mode: int, bits: int) -> None:
    unit = Unit(pdt_mode=mode)
    assert_fault(unit.access(pasid=1 << bits), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED)
    assert_fault(unit.access(pasid=(1 << bits) - 1), RiscvIommuCause.PDT_ENTRY_NOT_VALID)


def test_translated_requests_pass_with_en_ats_and_without_t2gpa_3_3_step_8() -> None:
    outcome = Unit(context={"tc.EN_ATS": 1}).access(iova=0x1234, address_type=AddressType.TRANSLATED)
    assert outcome == Bypassed(0x1234, BypassReason.TRANSLATED_REQUEST)


@pytest.mark.parametrize("first", ["Sv39", None])
def test_translated_requests_with_t2gpa_take_the_second_stage_only_3_3_step_9(first: str | None) -> None:
    unit = Unit(first, "Sv39x4", context={"tc.EN_ATS": 1, "tc.T2GPA": 1})
    guest = 0x123_4008 if first else IOVA + 8
    outcome = unit.access(iova=guest, address_type=AddressType.TRANSLATED)
    assert outcome == Translated(OUTPUT + 8, 0x1000, RW)
    fault = unit.access(iova=0x9999_0000, address_type=AddressType.TRANSLATED)
    assert_fault(fault, RiscvIommuCause.READ_GUEST_PAGE_FAULT, stage=2)


# The process directory (3.2, 3.3.2, 3.3 steps 11 to 15).


@pytest.mark.parametrize("mode", [1, 2, 3])
@pytest.mark.parametrize("second", [None, "Sv39x4"])
def test_a_process_is_found_in_a_directory_of_every_depth_3_3_2(mode: int, second: str | None) -> None:
    unit = Unit(second=second, pdt_mode=mode)
    assert unit.access(pasid=5) == Translated(OUTPUT, 0x1000, RW)


def test_the_directory_indexes_are_cut_from_the_process_id_as_chapter_3_says() -> None:
    unit = Unit(pdt_mode=3)
    unit.tables.set_process(DEVICE, 0xABCDE, first=unit.first)
    steps = [step for step in unit.explain(pasid=0xABCDE).steps if step.what.startswith(("PDT", "process"))]
    assert [(step.address or 0) % 4096 // step.size for step in steps] == [0x5, 0xBC, 0xDE]


def test_without_a_process_id_and_without_dpe_there_is_no_first_stage_3_3_step_12() -> None:
    assert Unit(pdt_mode=3).access() == Bypassed(IOVA, BypassReason.PASS_THROUGH)


def test_dpe_has_process_0_stand_in_and_the_record_carries_none_3_3_step_11() -> None:
    unit = Unit(pdt_mode=3, context={"tc.DPE": 1})
    fault = assert_fault(unit.access(), RiscvIommuCause.PDT_ENTRY_NOT_VALID)
    assert isinstance(fault.record, RiscvIommuFaultRecord)
    assert fault.record.process_id is None
    unit.tables.set_process(DEVICE, 0, first=unit.first)
    assert unit.access() == Translated(OUTPUT, 0x1000, RW)


def test_a_bare_process_directory_has_no_first_stage_3_3_step_13() -> None:
    unit = Unit(pdt_mode=1, context={"fsc.MODE": 0})
    assert unit.access(pasid=0xF_FFFF) == Bypassed(IOVA, BypassReason.PASS_THROUGH)


def test_a_process_of_a_bare_first_stage_passes_3_3_step_16() -> None:
    unit = Unit(pdt_mode=1, process={"fsc.MODE": 0})
    assert unit.access(pasid=5) == Bypassed(IOVA, BypassReason.PASS_THROUGH)


def test_supervisor_privilege_needs_ens_else_cause_260_3_3_step_15() -> None:
    unit = Unit(pdt_mode=1, process={"ta.SUM": 1})
    assert_fault(unit.access(pasid=5, privileged=True), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED)
    unit = Unit(pdt_mode=1, process={"ta.ENS": 1, "ta.SUM": 1})
    assert isinstance(unit.access(pasid=5, privileged=True), Translated)


@pytest.mark.parametrize(("mode", "level"), [(2, 2), (3, 2), (3, 3)])
def test_a_process_directory_entry_without_v_faults_with_cause_266_3_3_2_step_7(mode: int, level: int) -> None:
    unit = Unit(pdt_mode=mode)
    unit.tables.set_process_directory_fields(DEVICE, 5, level, {"V": 0, "RSVD_1": 1})
    assert_fault(unit.access(pasid=5), RiscvIommuCause.PDT_ENTRY_NOT_VALID)


@pytest.mark.parametrize("fields", [{"RSVD_1": 1}, {"RSVD_54": 1 << 9}])
def test_a_reserved_bit_of_a_process_directory_entry_faults_with_cause_267_3_3_2_step_8(
    fields: dict[str, int],
) -> None:
    unit = Unit(pdt_mode=3)
    unit.tables.set_process_directory_fields(DEVICE, 5, 3, fields)
    assert_fault(unit.access(pasid=5), RiscvIommuCause.PDT_ENTRY_MISCONFIGURED)


def test_a_process_directory_outside_of_memory_faults_with_cause_265_3_3_2() -> None:
    for level in (2, 3):
        unit = Unit(pdt_mode=3)
        unit.tables.set_process_directory_fields(DEVICE, 5, level, {"PPN": NOWHERE >> 12})
        assert_fault(unit.access(pasid=5), RiscvIommuCause.PDT_ENTRY_LOAD_ACCESS_FAULT)


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_a_process_directory_beyond_the_physical_addresses_faults_with_cause_265_6_3(mode: int) -> None:
    unit = Unit(pdt_mode=mode)
    unit.tables.set_process(DEVICE, 0, first=unit.first)
    assert isinstance(unit.access(pasid=0), Translated)
    device = unit.engine().find_device(DEVICE)
    assert isinstance(device, DeviceContext)
    beyond = unit.limit_addresses(device.pdt_root)
    unit.set_context(fsc_PPN=beyond >> 12)
    assert_fault(unit.access(pasid=0), RiscvIommuCause.PDT_ENTRY_LOAD_ACCESS_FAULT)


@pytest.mark.parametrize(("level", "other"), [(2, 0x54321 & ~0x1FF00), (3, 0x14321)])
def test_each_entry_of_a_process_directory_serves_its_own_processes_3_3_2(level: int, other: int) -> None:
    unit = Unit(pdt_mode=3)
    for process in (0x54321, other):
        unit.tables.set_process(DEVICE, process, first=unit.first)
    unit.tables.set_process_directory_fields(DEVICE, 0x54321, level, {"V": 0})
    assert_fault(unit.access(pasid=0x54321), RiscvIommuCause.PDT_ENTRY_NOT_VALID)
    assert isinstance(unit.access(pasid=other), Translated)


@pytest.mark.parametrize("level", [2, 3])
def test_each_entry_of_a_device_directory_serves_its_own_devices_3_3_1(level: int) -> None:
    unit = Unit(levels=3, device=0x12_3456)
    other = 0x12_3456 ^ (1 << 6 if level == 2 else 1 << 15)
    unit.tables.attach(other, first=unit.first)
    unit.tables.set_directory_fields(0x12_3456, level, {"V": 0})
    assert_fault(unit.access(), RiscvIommuCause.DDT_ENTRY_NOT_VALID)
    assert isinstance(unit.access(device=other), Translated)


def test_contexts_of_processes_are_told_from_each_other_by_one_engine() -> None:
    unit = Unit(pdt_mode=1)
    other = unit.tables.new_page_table("Sv39")
    other.map(IOVA, OUTPUT + 0x5000, 0x1000)
    unit.tables.set_process(DEVICE, 6, first=other)
    engine = unit.engine()
    for _ in range(2):
        outcomes = [engine.translate(unit.request(pasid=pasid)) for pasid in (5, 6)]
        assert [outcome.address for outcome in outcomes if isinstance(outcome, Translated)] == [OUTPUT, OUTPUT + 0x5000]


def test_a_process_context_without_v_faults_with_cause_266_3_3_2_step_11() -> None:
    unit = Unit(pdt_mode=2, process={"ta.V": 0, "RSVD_ta_3": 1})
    assert_fault(unit.access(pasid=5), RiscvIommuCause.PDT_ENTRY_NOT_VALID)


@pytest.mark.parametrize(
    "fields",
    [
        {"RSVD_ta_3": 1},
        {"RSVD_ta_3": 1 << 8},
        {"RSVD_ta_32": 1},
        {"RSVD_ta_32": 1 << 31},
        {"RSVD_fsc_44": 1},
        {"fsc.MODE": 7},
        {"fsc.MODE": 11},
        {"fsc.MODE": 14},
    ],
)
def test_a_misconfigured_process_context_faults_with_cause_267_3_2_4(fields: dict[str, int]) -> None:
    unit = Unit(pdt_mode=2, process=fields)
    assert_fault(unit.access(pasid=5), RiscvIommuCause.PDT_ENTRY_MISCONFIGURED)


def test_a_process_mode_needs_its_capability_3_2_4_rules_3_and_4() -> None:
    for scheme in ("Sv39", "Sv48", "Sv57", "Sv32"):
        unit = Unit(scheme, pdt_mode=1, without=frozenset({scheme}))
        assert_fault(unit.access(pasid=5), RiscvIommuCause.PDT_ENTRY_MISCONFIGURED)


def test_a_guest_page_fault_of_the_process_directory_is_implicit_and_has_the_original_type_4_2() -> None:
    for kind, cause in (
        (AccessKind.EXECUTE, RiscvIommuCause.INSTRUCTION_GUEST_PAGE_FAULT),
        (AccessKind.READ, RiscvIommuCause.READ_GUEST_PAGE_FAULT),
        (AccessKind.WRITE, RiscvIommuCause.WRITE_GUEST_PAGE_FAULT),
    ):
        unit = Unit(second="Sv39x4", pdt_mode=2)
        unit.tables.set_process_directory_fields(DEVICE, 5, 2, {"PPN": 0x6000_0000 >> 12})
        fault = assert_fault(unit.access(kind, pasid=5), cause, stage=2)
        assert isinstance(fault.record, RiscvIommuFaultRecord)
        assert fault.record.iotval2 == 0x6000_0050 | 1


def test_an_access_fault_below_the_process_directory_faults_with_cause_265_3_3_2() -> None:
    unit = Unit(second="Sv39x4", pdt_mode=2)
    assert unit.second is not None
    unit.second.set_fields(0x5000_0000, 3, {"PPN": NOWHERE >> 12})
    assert_fault(unit.access(pasid=5), RiscvIommuCause.PDT_ENTRY_LOAD_ACCESS_FAULT)


# What the record says (4.2), and DTF.


def test_the_record_carries_the_transaction_4_2() -> None:
    unit = Unit(pdt_mode=3, process={"ta.ENS": 1}, context={"tc.EN_ATS": 1})
    outcome = unit.access(AccessKind.WRITE, iova=0x1234_5678, pasid=5, privileged=True)
    assert isinstance(outcome, Fault)
    assert outcome.record == RiscvIommuFaultRecord(
        cause=RiscvIommuCause.WRITE_PAGE_FAULT,
        transaction_type=TransactionType.UNTRANSLATED_WRITE,
        device_id=DEVICE,
        process_id=5,
        privileged=True,
        iotval=0x1234_5678,
    )
    assert (outcome.iova, outcome.is_write) == (0x1234_5000, True)


def test_process_0_is_a_process_in_the_record_4_2() -> None:
    outcome = Unit().access(pasid=0)
    assert isinstance(outcome, Fault)
    assert isinstance(outcome.record, RiscvIommuFaultRecord)
    assert outcome.record.process_id == 0
    assert outcome.record.encode()[4] & 1 == 1


def test_privilege_without_a_process_id_is_none_2_3() -> None:
    unit = Unit()
    assert isinstance(unit.access(privileged=True), Translated)
    outcome = unit.access(privileged=True, iova=0)
    assert isinstance(outcome, Fault)
    assert isinstance(outcome.record, RiscvIommuFaultRecord)
    assert not outcome.record.privileged


@pytest.mark.parametrize(
    ("kind", "address_type", "expected"),
    [
        (AccessKind.EXECUTE, AddressType.UNTRANSLATED, 1),
        (AccessKind.READ, AddressType.UNTRANSLATED, 2),
        (AccessKind.WRITE, AddressType.UNTRANSLATED, 3),
        (AccessKind.EXECUTE, AddressType.TRANSLATED, 5),
        (AccessKind.READ, AddressType.TRANSLATED, 6),
        (AccessKind.WRITE, AddressType.TRANSLATED, 7),
        (AccessKind.READ, AddressType.TRANSLATION_REQUEST, 8),
        (AccessKind.WRITE, AddressType.TRANSLATION_REQUEST, 8),
    ],
)
def test_ttyp_says_what_the_transaction_was_4_2(kind: AccessKind, address_type: AddressType, expected: int) -> None:
    outcome = Unit(context={"tc.V": 0}).access(kind, address_type=address_type)
    assert isinstance(outcome, Fault)
    assert isinstance(outcome.record, RiscvIommuFaultRecord)
    assert outcome.record.transaction_type == expected


def test_dtf_suppresses_the_record_of_a_translation_fault_not_the_fault_3_1_3_1() -> None:
    fault = assert_fault(Unit(context={"tc.DTF": 1}).access(iova=0), RiscvIommuCause.READ_PAGE_FAULT)
    assert fault.record is None
    fault = assert_fault(Unit(context={"tc.DTF": 1}).access(pasid=1), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED)
    assert fault.record is None


def test_dtf_suppresses_the_records_of_what_comes_behind_the_device_context_4_2() -> None:
    for unit, request, cause in (
        (Unit(pdt_mode=1), {"pasid": 6}, RiscvIommuCause.PDT_ENTRY_NOT_VALID),
        (Unit(), {"address_type": AddressType.TRANSLATED}, RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED),
        (Unit(None, "Sv39x4"), {"iova": 0}, RiscvIommuCause.READ_GUEST_PAGE_FAULT),
        (message_unit(), {"iova": FILE + 0xC000}, RiscvIommuCause.MSI_PTE_NOT_VALID),
        (message_unit(), {"iova": FILE, "kind": AccessKind.EXECUTE}, RiscvIommuCause.INSTRUCTION_ACCESS_FAULT),
    ):
        assert assert_fault(unit.access(**request), cause).record is not None
        unit.set_context(tc_DTF=1)
        assert assert_fault(unit.access(**request), cause).record is None


@pytest.mark.parametrize("fields", [{"tc.V": 0}, {"RSVD_tc_12": 1}])
def test_dtf_counts_as_0_where_no_device_context_is_found_4_2(fields: dict[str, int]) -> None:
    outcome = Unit(context={"tc.DTF": 1, **fields}).access()
    assert isinstance(outcome, Fault)
    assert outcome.record is not None


def test_a_context_is_read_anew_when_it_changes() -> None:
    unit = Unit()
    engine = unit.engine()
    request = unit.request()
    assert isinstance(engine.translate(request), Translated)
    unit.tables.set_context_fields(DEVICE, {"tc.V": 0})
    assert_fault(engine.translate(request), RiscvIommuCause.DDT_ENTRY_NOT_VALID)
    unit.tables.set_context_fields(DEVICE, {"tc.V": 1, "ta.PSCID": PSCID + 1})
    assert isinstance(engine.translate(request), Translated)


def test_the_builder_refuses_a_device_id_that_is_too_wide() -> None:
    with pytest.raises(SpecError, match="wider"):
        Unit(levels=2, device=1 << 15)
