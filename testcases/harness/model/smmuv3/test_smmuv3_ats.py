"""ATS Translation Requests and Translated transactions (IHI 0070 3.9.1, 13.6, 13.7)."""

from __future__ import annotations

from typing import Any

import pytest
from reasons import assert_fault
from smmuv3_unit import (
    ATSCHK,
    ENABLED,
    EXECUTE,
    IOVA,
    IPA,
    NOWHERE,
    OUTPUT,
    READ,
    SID,
    WRITE,
    Unit,
    record_of,
)

from harness.model.access import (
    Access,
    AccessKind,
    AddressType,
    Bypassed,
    BypassReason,
    Completion,
    Fault,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.smmuv3 import Smmuv3EventClass, Smmuv3EventType, Smmuv3Terminated
from harness.model.smmuv3.registers import CR2

RW = Permissions.READ | Permissions.WRITE
REC_CFG_ATS = CR2["REC_CFG_ATS"].mask
RECINVSID = CR2["RECINVSID"].mask


def make(stages: str = "1", eats: int = 0b01, **settings: Any) -> Unit:
    unit = Unit(stages, **settings)
    unit.caps = {"ATS": 1, **unit.caps}
    if "cr0" not in unit.registers:
        unit.registers["cr0"] = ENABLED | ATSCHK
    unit.tables.set_fields(SID, {"EATS": eats})
    return unit


def request(unit: Unit, kind: AccessKind = READ, **fields: Any) -> Outcome:
    return unit.access(kind, address_type=AddressType.TRANSLATION_REQUEST, **fields)


def translated(unit: Unit, kind: AccessKind = READ, **fields: Any) -> Outcome:
    return unit.access(kind, address_type=AddressType.TRANSLATED, **fields)


def assert_answer(outcome: Outcome, code: Smmuv3EventType, completion: Completion | None) -> Fault:
    fault = assert_fault(outcome, code)
    assert fault.completion is completion
    return fault


# Without ATS, and disabled.


def test_ats_request_to_an_smmu_without_ats_is_unsupported_and_not_recorded_3_9_1_3_7_3_22() -> None:
    unit = Unit()
    fault = assert_answer(request(unit), Smmuv3EventType.F_UUT, Completion.UNSUPPORTED_REQUEST)
    assert fault.record is None
    assert assert_answer(translated(unit), Smmuv3EventType.F_UUT, None).record is None


def test_disabled_smmu_refuses_translation_requests_7_3_6() -> None:
    unit = make(registers={"cr0": 0})
    outcome = request(unit, WRITE, iova=IOVA + 0x128)
    record = record_of(assert_answer(outcome, Smmuv3EventType.F_BAD_ATS_TREQ, Completion.UNSUPPORTED_REQUEST))
    # InputAddr is that of a page.
    assert (record.requested, record.input_address) == (0b011, IOVA)


def test_disabled_smmu_refuses_translated_transactions_7_3_8() -> None:
    unit = make(registers={"cr0": 0})
    record = record_of(assert_answer(translated(unit, WRITE), Smmuv3EventType.F_TRANSL_FORBIDDEN, None))
    assert (record.is_read, record.input_address, record.substream_id) == (False, IOVA, None)


# Translation Requests.


@pytest.mark.parametrize(("stages", "size"), [("1", 0x1000), ("2", 0x1000), ("12", 0x1000)])
def test_translation_request_gives_the_translation_of_all_stages_3_9_1(stages: str, size: int) -> None:
    assert request(make(stages)) == Translated(OUTPUT, size, RW)


@pytest.mark.parametrize(
    ("stages", "eats", "cr0"), [("1", 0b00, ENABLED), ("", 0b01, ENABLED), ("12", 0b10, ENABLED), ("1", 0b11, ENABLED)]
)
def test_translation_request_that_eats_does_not_allow_is_refused_and_recorded_7_3_6(
    stages: str, eats: int, cr0: int
) -> None:
    unit = make(stages, eats, registers={"cr0": cr0})
    fault = assert_answer(
        request(unit, EXECUTE, pasid=5, privileged=True),
        Smmuv3EventType.F_BAD_ATS_TREQ,
        Completion.UNSUPPORTED_REQUEST,
    )
    record = record_of(fault)
    assert (record.requested, record.privileged, record.span, record.substream_id) == (0b101, True, 1, 5)


def test_translation_request_of_a_stream_that_aborts_is_refused_silently_5_2() -> None:
    unit = make()
    unit.tables.set_fields(SID, {"CONFIG": 0})
    fault = assert_fault(request(unit), Smmuv3Terminated.STREAM_ABORT)
    assert (fault.completion, fault.record) == (Completion.UNSUPPORTED_REQUEST, None)


def spoil(unit: Unit, event: Smmuv3EventType) -> dict[str, Any]:
    """Make a configuration error of the unit; what the access needs for it comes back."""
    match event:
        case Smmuv3EventType.C_BAD_STREAMID:
            return {"requester": 0x1000}
        case Smmuv3EventType.F_STE_FETCH:
            unit.registers["strtab_base"] = NOWHERE
        case Smmuv3EventType.C_BAD_STE:
            unit.tables.set_fields(SID, {"V": 0})
        case Smmuv3EventType.C_BAD_SUBSTREAMID:
            return {"pasid": 7}
        case Smmuv3EventType.F_STREAM_DISABLED:
            unit.tables.set_fields(SID, {"S1CDMAX": 1, "S1DSS": 0})
        case Smmuv3EventType.F_CD_FETCH:
            unit.tables.set_fields(SID, {"S1CONTEXTPTR": NOWHERE})
        case Smmuv3EventType.C_BAD_CD:
            unit.cd.set_fields(0, {"V": 0})
        case Smmuv3EventType.F_WALK_EABT:
            unit.tree.set_fields(IOVA, 2, {"ADDR": NOWHERE})
    return {}


CONFIGURATION = [
    Smmuv3EventType.C_BAD_STREAMID,
    Smmuv3EventType.F_STE_FETCH,
    Smmuv3EventType.C_BAD_STE,
    Smmuv3EventType.C_BAD_SUBSTREAMID,
    Smmuv3EventType.F_STREAM_DISABLED,
    Smmuv3EventType.F_CD_FETCH,
    Smmuv3EventType.C_BAD_CD,
    Smmuv3EventType.F_WALK_EABT,
]


@pytest.mark.parametrize("event", CONFIGURATION)
def test_configuration_error_of_a_translation_request_is_a_completer_abort_3_9_1_2(event: Smmuv3EventType) -> None:
    unit = make()
    fields = spoil(unit, event)
    fault = assert_answer(request(unit, **fields), event, Completion.COMPLETER_ABORT)
    assert fault.record is None
    unit.registers["cr2"] = REC_CFG_ATS
    recorded = request(unit, **fields)
    assert isinstance(recorded, Fault)
    if event is Smmuv3EventType.C_BAD_STREAMID:
        assert recorded.record is None
        unit.registers["cr2"] = REC_CFG_ATS | RECINVSID
        recorded = request(unit, **fields)
    assert record_of(recorded).type == event


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (Smmuv3EventType.F_TRANSLATION, {"VALID": 0}),
        (Smmuv3EventType.F_ACCESS, {"AF": 0}),
        (Smmuv3EventType.F_ADDR_SIZE, {"ADDR": 1 << 47}),
    ],
)
def test_fault_of_the_page_answers_a_translation_request_with_no_permission_3_9_1_2(
    event: Smmuv3EventType, fields: dict[str, int]
) -> None:
    unit = make(caps={"address_bits": 44}, registers={"cr2": REC_CFG_ATS})
    unit.cd.set_fields(0, {"S": 1})
    unit.tree.set_fields(IOVA, 1, fields)
    assert assert_answer(request(unit), event, Completion.NO_PERMISSION).record is None


@pytest.mark.parametrize("event_class", [Smmuv3EventClass.CD, Smmuv3EventClass.TT])
def test_stage_2_fault_of_a_cd_or_table_answers_with_no_permission_too_3_9_1_2(event_class: Smmuv3EventClass) -> None:
    unit = make("12", registers={"cr0": ENABLED | ATSCHK, "cr2": REC_CFG_ATS})
    if event_class is Smmuv3EventClass.CD:
        unit.tables.set_fields(SID, {"S1CONTEXTPTR": 0x7000_0000})
    else:
        unit.cd.set_fields(0, {"TTB0": 0x7000_0000 >> 4})
    assert record_of(unit.access()).event_class == event_class
    fault = assert_answer(request(unit), Smmuv3EventType.F_TRANSLATION, Completion.NO_PERMISSION)
    assert fault.record is None


def test_page_without_any_right_answers_with_no_permission_13_7() -> None:
    unit = make()
    unit.tree.set_fields(IOVA, 1, {"AP": 0b10})
    assert_answer(request(unit), Smmuv3EventType.F_PERMISSION, Completion.NO_PERMISSION)
    # Stage 2 is not looked at where stage 1 grants nothing (3.9.1.2).
    unit = make("12")
    unit.tree.set_fields(IOVA, 1, {"AP": 0b10})
    unit.outer.unmap(IPA, 0x1000)
    assert_fault(request(unit), Smmuv3EventType.F_PERMISSION, stage=1)
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11})
    assert_fault(request(unit), Smmuv3EventType.F_TRANSLATION, stage=2)


def test_execute_only_page_of_stage_1_grants_nothing_and_does_not_reach_stage_2_3_9_1_2() -> None:
    unit = make("12")
    unit.tree.set_fields(IOVA, 1, {"AP": 0b10, "UXN": 0})
    unit.outer.set_fields(IPA, 2, {"ADDR": NOWHERE})
    fault = assert_answer(request(unit), Smmuv3EventType.F_PERMISSION, Completion.NO_PERMISSION)
    assert fault.stage == 1


@pytest.mark.parametrize(("s2ap", "ap"), [(0b00, 0b01), (0b10, 0b11)])
def test_rights_that_the_two_stages_do_not_share_are_none_13_7(s2ap: int, ap: int) -> None:
    unit = make("12")
    unit.tree.set_fields(IOVA, 1, {"AP": ap})
    unit.outer.set_fields(IPA, 1, {"S2AP": s2ap})
    fault = assert_answer(request(unit, WRITE), Smmuv3EventType.F_PERMISSION, Completion.NO_PERMISSION)
    assert (fault.stage, fault.record) == (2, None)


def test_walk_abort_on_the_way_to_a_cd_is_recorded_with_the_attributes_of_the_request_7_3_12() -> None:
    unit = make("12", registers={"cr0": ENABLED | ATSCHK, "cr2": REC_CFG_ATS})
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": 0x7000_0000})
    unit.outer.map(0x7000_0000, OUTPUT, 0x1000)
    unit.outer.set_fields(0x7000_0000, 2, {"ADDR": NOWHERE})
    for kind in (READ, WRITE):
        fault = assert_answer(request(unit, kind), Smmuv3EventType.F_WALK_EABT, Completion.COMPLETER_ABORT)
        record = record_of(fault)
        assert (record.event_class, record.stage2, record.is_read) == (Smmuv3EventClass.CD, True, kind is READ)


def test_explanation_of_a_translation_request_shows_the_tables_that_a_transaction_reads() -> None:
    unit = make("12")
    asked, plain = (
        [
            (step.address, step.value)
            for step in unit.engine()
            .explain(Access(requester=SID, iova=IOVA, length=4, kind=READ, address_type=address_type))
            .steps
            if step.address is not None
        ]
        for address_type in (AddressType.TRANSLATION_REQUEST, AddressType.UNTRANSLATED)
    )
    assert asked == plain


def with_substream() -> Unit:
    """SubstreamID 1 has the same tables as what comes without one."""
    unit = make(substream_bits=1)
    unit.cd.describe(1, unit.tree)
    return unit


# The examples of 13.7, with a PASID: (asked, privileged), (AP, UXN, PXN), granted.
EXAMPLES = [
    ((READ, False), (0b11, 0, 0), "r-"),
    ((WRITE, False), (0b01, 0, 0), "rw"),
    ((WRITE, False), (0b11, 0, 0), "r-"),
    ((WRITE, True), (0b00, 0, 0), "rw"),
    ((EXECUTE, False), (0b01, 1, 0), "rw"),
    ((WRITE, False), (0b01, 1, 0), "rw"),
    ((EXECUTE, False), (0b01, 0, 0), "rwx"),
    ((EXECUTE, False), (0b00, 0, 0), None),
]


@pytest.mark.parametrize(("asked", "page", "granted"), EXAMPLES)
def test_completion_grants_what_13_7_says(
    asked: tuple[AccessKind, bool], page: tuple[int, int, int], granted: str | None
) -> None:
    unit = with_substream()
    unit.tree.set_fields(IOVA, 1, dict(zip(("AP", "UXN", "PXN"), page, strict=True)))
    outcome = request(unit, asked[0], privileged=asked[1], pasid=1)
    if granted is None:
        assert_answer(outcome, Smmuv3EventType.F_PERMISSION, Completion.NO_PERMISSION)
    else:
        assert isinstance(outcome, Translated)
        assert str(outcome.permissions) == granted


@pytest.mark.parametrize(
    ("instcfg", "kind", "page", "granted"),
    [
        (0b11, READ, {"AP": 0b00, "UXN": 0}, "r-"),
        (0b11, EXECUTE, {"AP": 0b00, "UXN": 0}, "r-x"),
        (0b11, READ, {"AP": 0b11, "UXN": 1}, None),
        (0b10, EXECUTE, {"AP": 0b11, "UXN": 1}, "r-x"),
        (0b10, READ, {"AP": 0b11, "UXN": 0}, "r-"),
    ],
)
def test_instcfg_says_what_reading_means_in_a_completion_13_7_1(
    instcfg: int, kind: AccessKind, page: dict[str, int], granted: str | None
) -> None:
    unit = with_substream()
    unit.tables.set_fields(SID, {"INSTCFG": instcfg})
    unit.tree.set_fields(IOVA, 1, page)
    outcome = request(unit, kind, pasid=1)
    assert (str(outcome.permissions) if isinstance(outcome, Translated) else None) == granted


@pytest.mark.parametrize(("instcfg", "page", "s2ap"), [(0b11, {"UXN": 1}, 0b11), (0b10, {"UXN": 0}, 0b10)])
def test_completion_grants_execution_only_of_what_instcfg_lets_read_13_7_1(
    instcfg: int, page: dict[str, int], s2ap: int
) -> None:
    unit = make("12", substream_bits=1)
    unit.cd.describe(1, unit.tree)
    unit.tables.set_fields(SID, {"INSTCFG": instcfg})
    unit.tree.set_fields(IOVA, 1, {"AP": 0b01, **page})
    unit.outer.set_fields(IPA, 1, {"S2AP": s2ap, "XN": 0})
    outcome = request(unit, EXECUTE, pasid=1)
    assert isinstance(outcome, Translated)
    assert outcome.permissions == Permissions.WRITE


def test_translation_request_without_a_pasid_asks_for_neither_execution_nor_privilege_13_7() -> None:
    unit = with_substream()
    unit.tree.set_fields(IOVA, 1, {"AP": 0b01, "UXN": 0})
    without, given = (request(unit, EXECUTE, pasid=pasid) for pasid in (None, 1))
    assert isinstance(without, Translated)
    assert isinstance(given, Translated)
    assert (str(without.permissions), str(given.permissions)) == ("rw", "rwx")
    unit.tree.set_fields(IOVA, 1, {"AP": 0b00})
    assert_answer(request(unit, privileged=True), Smmuv3EventType.F_PERMISSION, Completion.NO_PERMISSION)
    assert isinstance(request(unit, privileged=True, pasid=1), Translated)
    unit.tables.set_fields(SID, {"EATS": 0})
    record = record_of(request(unit, EXECUTE, privileged=True))
    assert (record.requested, record.privileged) == (0b001, False)


def test_translation_request_for_a_write_marks_a_page_dirty_and_one_for_a_read_does_not_3_13_7() -> None:
    unit = make()
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11, "DBM": 1, "AF": 0})
    unit.cd.set_fields(0, {"HA": 1, "HD": 1})
    read, write = request(unit, READ), request(unit, WRITE)
    assert isinstance(read, Translated)
    assert isinstance(write, Translated)
    assert (str(read.permissions), str(write.permissions)) == ("r-", "rw")
    entry = unit.memory.read_u64(unit.tree.entry_address(IOVA, 1)) | 1 << 10
    assert [int.from_bytes(w.data, "little") for w in read.writes] == [entry]
    assert [int.from_bytes(w.data, "little") for w in write.writes] == [entry & ~0x80]


def test_translation_request_does_not_mark_dirty_what_aptable_forbids_to_write_3_13_3() -> None:
    unit = make()
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11, "DBM": 1})
    unit.tree.set_fields(IOVA, 2, {"APTABLE": 0b10})
    unit.cd.set_fields(0, {"HA": 1, "HD": 1})
    outcome = request(unit, WRITE)
    assert isinstance(outcome, Translated)
    assert (str(outcome.permissions), outcome.writes) == ("r-", ())


def test_page_read_only_at_stage_1_is_not_made_dirty_at_stage_2_3_13_7_1() -> None:
    unit = make("12")
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11})
    unit.tables.set_fields(SID, {"S2HA": 1, "S2HD": 1})
    unit.outer.set_fields(IPA, 1, {"S2AP": 0b01, "DBM": 1})
    outcome = request(unit, WRITE)
    assert isinstance(outcome, Translated)
    assert (str(outcome.permissions), outcome.writes) == ("r-", ())


def test_translation_request_that_skips_stage_1_is_answered_with_identity_13_6_4() -> None:
    unit = make(substream_bits=1)
    unit.tables.set_fields(SID, {"S1DSS": 0b01})
    assert request(unit, iova=0x5000) == Translated(0x5000, 0x1000, RW)


# Translated transactions.


def test_translated_transaction_passes_unchecked_without_atschk_3_9_1() -> None:
    unit = make(eats=0, registers={"cr0": ENABLED})
    assert translated(unit, iova=0x9000) == Bypassed(0x9000, BypassReason.TRANSLATED_REQUEST)


def test_translated_transaction_passes_where_eats_says_so_5_2() -> None:
    assert translated(make(), iova=0x9000) == Bypassed(0x9000, BypassReason.TRANSLATED_REQUEST)


@pytest.mark.parametrize("cr0", [ENABLED, ENABLED | ATSCHK])
def test_translated_address_beyond_the_oas_is_aborted_silently_3_9_1_1(cr0: int) -> None:
    unit = make(registers={"cr0": cr0})
    assert assert_fault(translated(unit, iova=1 << 48), Smmuv3Terminated.ADDRESS_SIZE).record is None


@pytest.mark.parametrize(("stages", "eats"), [("1", 0b00), ("1", 0b11), ("", 0b01)])
def test_translated_transaction_that_eats_does_not_allow_is_forbidden_7_3_8(stages: str, eats: int) -> None:
    record = record_of(assert_answer(translated(make(stages, eats)), Smmuv3EventType.F_TRANSL_FORBIDDEN, None))
    assert record.is_read


def test_translated_transaction_of_a_stream_that_aborts_is_aborted_silently_3_9_1_3() -> None:
    unit = make()
    unit.tables.set_fields(SID, {"CONFIG": 0})
    assert assert_fault(translated(unit), Smmuv3Terminated.STREAM_ABORT).record is None


@pytest.mark.parametrize("event", CONFIGURATION[:3])
def test_configuration_error_of_a_translated_transaction_is_recorded_with_rec_cfg_ats_3_9_1_3(
    event: Smmuv3EventType,
) -> None:
    unit = make()
    fields = spoil(unit, event)
    assert assert_answer(translated(unit, **fields), event, None).record is None
    # RECINVSID has no say here.
    unit.registers["cr2"] = REC_CFG_ATS
    assert record_of(translated(unit, **fields)).type == event


# Split-stage ATS.


def test_split_stage_request_gives_the_ipa_13_6_3() -> None:
    assert request(make("12", 0b10)) == Translated(IPA, 0x1000, RW)


def test_split_stage_request_has_the_rights_of_both_stages_13_6_3() -> None:
    unit = make("12", 0b10)
    unit.outer.set_fields(IPA, 1, {"S2AP": 0b01})
    outcome = request(unit, WRITE)
    assert isinstance(outcome, Translated)
    assert str(outcome.permissions) == "r-"


def test_split_stage_request_that_skips_stage_1_gives_its_own_address_13_6_5() -> None:
    unit = make("12", 0b10, substream_bits=1)
    unit.tables.set_fields(SID, {"S1DSS": 0b01})
    assert request(unit, iova=IPA) == Translated(IPA, 0x1000, RW)


def test_split_stage_translated_transaction_goes_through_stage_2_13_6_3() -> None:
    unit = make("12", 0b10)
    assert translated(unit, iova=IPA + 0x10) == Translated(OUTPUT + 0x10, 0x1000, RW)
    fault = assert_fault(translated(unit, WRITE, iova=0x6000, pasid=3), Smmuv3EventType.F_TRANSLATION, stage=2)
    record = record_of(fault)
    assert (record.event_class, record.ipa, record.substream_id) == (Smmuv3EventClass.IN, 0x6000, None)
    assert_fault(translated(unit, iova=1 << 48), Smmuv3EventType.F_ADDR_SIZE, stage=1)


def test_split_stage_translated_transaction_is_unprivileged_data_3_9_1_3() -> None:
    unit = make("12", 0b10)
    unit.outer.set_fields(IPA, 1, {"XN": 0b10})
    assert isinstance(translated(unit, EXECUTE, iova=IPA, privileged=True), Translated)
    record = record_of(translated(unit, EXECUTE, iova=0x6000, privileged=True))
    assert (record.is_instruction, record.privileged, record.is_read) == (False, False, True)
