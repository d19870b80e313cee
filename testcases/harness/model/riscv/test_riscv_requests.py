"""ATS translation requests to the RISC-V IOMMU: how each is answered, and with what (3.6)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from riscv_unit import DEVICE, FILE, GUEST, IOVA, MRIF, NOWHERE, OUTPUT, REAL, Unit, message_unit

from harness.model.access import (
    AccessKind,
    AddressType,
    Attributes,
    Completion,
    Fault,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.riscv import RiscvIommuCause

READ = Permissions.READ
RW = READ | Permissions.WRITE
RX = READ | Permissions.EXECUTE
ATS = {"tc.EN_ATS": 1}


def ask(
    unit: Unit,
    kind: AccessKind = AccessKind.WRITE,
    *,
    iova: int = IOVA,
    pasid: int | None = None,
    privileged: bool = False,
) -> Outcome:
    return unit.access(
        kind, iova=iova, pasid=pasid, privileged=privileged, address_type=AddressType.TRANSLATION_REQUEST
    )


def assert_answer(outcome: Outcome, code: RiscvIommuCause, completion: Completion) -> Fault:
    fault = assert_fault(outcome, code)
    assert fault.completion is completion
    # 3.6: what is answered with success is not reported, what is answered with an error is.
    assert (fault.record is None) == (completion is Completion.NO_PERMISSION)
    return fault


# Errors.


def test_permanent_errors_are_answered_with_unsupported_request_3_6() -> None:
    unsupported = Completion.UNSUPPORTED_REQUEST
    assert_answer(ask(Unit(ddtp=0)), RiscvIommuCause.ALL_INBOUND_TRANSACTIONS_DISALLOWED, unsupported)
    assert_answer(ask(Unit(ddtp=1)), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED, unsupported)
    assert_answer(ask(Unit()), RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED, unsupported)
    assert_answer(ask(Unit(context={"tc.V": 0})), RiscvIommuCause.DDT_ENTRY_NOT_VALID, unsupported)
    assert_answer(ask(Unit(context={"RSVD_tc_12": 1})), RiscvIommuCause.DDT_ENTRY_MISCONFIGURED, unsupported)
    nowhere = Unit(ddtp=2 | NOWHERE >> 12 << 10)
    assert_answer(ask(nowhere), RiscvIommuCause.DDT_ENTRY_LOAD_ACCESS_FAULT, unsupported)


def test_configuration_errors_are_answered_with_completer_abort_3_6() -> None:
    abort = Completion.COMPLETER_ABORT
    unit = Unit(context=ATS)
    assert unit.first is not None
    unit.first.set_fields(IOVA, 3, {"PPN": NOWHERE >> 12})
    assert_answer(ask(unit), RiscvIommuCause.READ_ACCESS_FAULT, abort)
    assert_answer(ask(unit, AccessKind.EXECUTE), RiscvIommuCause.INSTRUCTION_ACCESS_FAULT, abort)
    unit = Unit(context=ATS, pdt_mode=2, process={"RSVD_ta_3": 1})
    assert_answer(ask(unit, pasid=5), RiscvIommuCause.PDT_ENTRY_MISCONFIGURED, abort)
    unit.tables.set_process_directory_fields(DEVICE, 5, 2, {"PPN": NOWHERE >> 12})
    assert_answer(ask(unit, pasid=5), RiscvIommuCause.PDT_ENTRY_LOAD_ACCESS_FAULT, abort)
    unit = message_unit()
    unit.tables.set_context_fields(DEVICE, ATS)
    unit.tables.set_interrupt_file(DEVICE, 0, REAL, overrides={"M": 2})
    assert_answer(ask(unit, iova=FILE), RiscvIommuCause.MSI_PTE_MISCONFIGURED, abort)
    unit.tables.set_context_fields(DEVICE, {"msiptp.PPN": NOWHERE >> 12})
    assert_answer(ask(unit, iova=FILE), RiscvIommuCause.MSI_PTE_LOAD_ACCESS_FAULT, abort)


def test_what_is_not_there_is_answered_with_success_without_r_and_w_3_6() -> None:
    nothing = Completion.NO_PERMISSION
    assert_answer(ask(Unit(context=ATS), iova=0), RiscvIommuCause.READ_PAGE_FAULT, nothing)
    assert_answer(ask(Unit(context=ATS), AccessKind.EXECUTE, iova=0), RiscvIommuCause.INSTRUCTION_PAGE_FAULT, nothing)
    unit = Unit(None, "Sv39x4", context=ATS)
    assert_answer(ask(unit, iova=0), RiscvIommuCause.READ_GUEST_PAGE_FAULT, nothing)
    assert_answer(ask(unit, AccessKind.EXECUTE, iova=0), RiscvIommuCause.INSTRUCTION_GUEST_PAGE_FAULT, nothing)
    assert_answer(ask(Unit(context=ATS, pdt_mode=1), pasid=6), RiscvIommuCause.PDT_ENTRY_NOT_VALID, nothing)
    unit = message_unit()
    unit.tables.set_context_fields(DEVICE, ATS)
    assert_answer(ask(unit, iova=FILE + 0xC000), RiscvIommuCause.MSI_PTE_NOT_VALID, nothing)


def test_dtf_suppresses_the_record_of_a_completer_abort_4_2() -> None:
    unit = Unit(context={**ATS, "tc.DTF": 1})
    assert unit.first is not None
    unit.first.set_fields(IOVA, 3, {"PPN": NOWHERE >> 12})
    fault = assert_fault(ask(unit), RiscvIommuCause.READ_ACCESS_FAULT)
    assert (fault.completion, fault.record) == (Completion.COMPLETER_ABORT, None)


# What is granted.


@pytest.mark.parametrize(
    ("rights", "kind", "granted"),
    [
        (0b001, AccessKind.READ, READ),
        (0b001, AccessKind.WRITE, READ),
        (0b011, AccessKind.READ, RW),
        (0b011, AccessKind.WRITE, RW),
        (0b101, AccessKind.READ, READ),
        (0b101, AccessKind.EXECUTE, RX),
        (0b111, AccessKind.WRITE, RW),
        (0b111, AccessKind.EXECUTE, RW | Permissions.EXECUTE),
        (0b011, AccessKind.EXECUTE, RW),
    ],
)
@pytest.mark.parametrize("stage", [1, 2])
def test_the_rights_of_the_tables_are_granted_and_x_where_asked_for_3_6(
    rights: int, kind: AccessKind, granted: Permissions, stage: int
) -> None:
    unit = Unit(None, "Sv39x4", context=ATS) if stage == 2 else Unit(context=ATS)
    table = unit.second or unit.first
    assert table is not None
    table.set_fields(IOVA, 1, {"R": rights & 1, "W": rights >> 1 & 1, "X": rights >> 2})
    assert ask(unit, kind) == Translated(OUTPUT, 0x1000, granted)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_page_that_is_only_executable_grants_nothing_3_6(stage: int) -> None:
    unit = Unit(None, "Sv39x4", context=ATS) if stage == 2 else Unit(context=ATS)
    table = unit.second or unit.first
    assert table is not None
    table.set_fields(IOVA, 1, {"R": 0, "W": 0, "X": 1})
    fault = ask(unit, AccessKind.EXECUTE)
    assert isinstance(fault, Fault)
    assert fault.completion is Completion.NO_PERMISSION


def test_two_stages_grant_what_both_do_3_6() -> None:
    unit = Unit(second="Sv39x4", context=ATS)
    assert unit.second is not None
    unit.second.set_fields(GUEST, 1, {"W": 0})
    assert ask(unit) == Translated(OUTPUT, 0x1000, READ)


def test_write_is_granted_only_where_d_is_set_or_gets_set() -> None:
    unit = Unit(context=ATS)
    assert unit.first is not None
    unit.first.set_fields(IOVA, 1, {"D": 0})
    assert ask(unit, AccessKind.READ) == Translated(OUTPUT, 0x1000, READ)
    assert_answer(ask(unit), RiscvIommuCause.READ_PAGE_FAULT, Completion.NO_PERMISSION)
    unit.tables.set_context_fields(DEVICE, {"tc.SADE": 1})
    assert ask(unit, AccessKind.READ) == Translated(OUTPUT, 0x1000, READ)
    outcome = ask(unit)
    assert isinstance(outcome, Translated)
    assert (outcome.permissions, len(outcome.writes)) == (RW, 1)


def test_a_page_that_is_read_only_needs_no_d_though_write_is_asked_for() -> None:
    unit = Unit(context=ATS)
    assert unit.first is not None
    unit.first.set_fields(IOVA, 1, {"W": 0, "D": 0})
    assert ask(unit) == Translated(OUTPUT, 0x1000, READ)


def test_privilege_decides_what_is_reached_3_6() -> None:
    unit = Unit(context=ATS, pdt_mode=1, process={"ta.ENS": 1})
    # U=1 and SUM=0: nothing for a privileged request.
    assert_answer(ask(unit, pasid=5, privileged=True), RiscvIommuCause.READ_PAGE_FAULT, Completion.NO_PERMISSION)
    unit.tables.set_process_fields(DEVICE, 5, {"ta.SUM": 1})
    assert ask(unit, pasid=5, privileged=True) == Translated(OUTPUT, 0x1000, RW)
    # U=0: nothing for one of user privilege.
    assert unit.first is not None
    unit.first.set_fields(IOVA, 1, {"U": 0})
    assert_answer(ask(unit, pasid=5), RiscvIommuCause.READ_PAGE_FAULT, Completion.NO_PERMISSION)


def test_a_privileged_request_is_not_granted_x_of_a_user_page() -> None:
    unit = Unit(context=ATS, pdt_mode=1, process={"ta.ENS": 1, "ta.SUM": 1})
    assert unit.first is not None
    unit.first.set_fields(IOVA, 1, {"X": 1})
    assert ask(unit, AccessKind.EXECUTE, pasid=5, privileged=True) == Translated(OUTPUT, 0x1000, RW)


def test_global_is_given_with_a_process_id_only_3_6() -> None:
    unit = Unit(context={**ATS, "tc.DPE": 1}, pdt_mode=1)
    assert unit.first is not None
    unit.tables.set_process(DEVICE, 0, first=unit.first)
    unit.first.set_fields(IOVA, 1, {"G": 1})
    assert ask(unit, pasid=5) == Translated(OUTPUT, 0x1000, RW, Attributes.GLOBAL)
    assert ask(unit) == Translated(OUTPUT, 0x1000, RW)


def test_with_t2gpa_the_device_is_given_the_guest_address_3_1_3_1() -> None:
    unit = Unit(second="Sv39x4", context={**ATS, "tc.T2GPA": 1})
    assert unit.second is not None
    unit.second.set_fields(GUEST, 1, {"W": 0})
    assert ask(unit, iova=IOVA + 8) == Translated(GUEST + 8, 0x1000, READ)


def test_two_bare_stages_grant_everything_for_2_mib() -> None:
    unit = Unit(None, context=ATS)
    assert ask(unit) == Translated(IOVA, 1 << 21, RW)


# Interrupt files.


def test_an_interrupt_file_is_granted_r_and_w_and_is_not_global_3_6() -> None:
    unit = message_unit("Sv39")
    unit.tables.set_context_fields(DEVICE, ATS)
    assert unit.first is not None
    unit.first.map(0x80_0000, FILE, 0x1000, Permissions(7), overrides={"G": 1})
    assert ask(unit, AccessKind.EXECUTE, iova=0x80_0000) == Translated(REAL, 0x1000, RW)


def test_a_resident_interrupt_file_is_for_untranslated_access_only_3_6() -> None:
    unit = message_unit()
    unit.tables.set_context_fields(DEVICE, ATS)
    assert ask(unit, iova=FILE + 0x8001) == Translated(MRIF, 0x1000, RW, Attributes.MRIF)
