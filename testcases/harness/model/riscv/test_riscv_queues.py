"""The queues of the RISC-V IOMMU: fault records, commands, page requests, interrupts (3.7, 4, 6.15 to 6.18)."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reasons import assert_fault
from riscv_unit import DEVICE, NOWHERE, BigEndianMemory, MemoryBeyond, Unit

from harness.model.access import MemoryWrite
from harness.model.engine import CommandResult, Interrupt
from harness.model.memory import Region, SparseMemory
from harness.model.riscv import (
    RiscvIommuCause,
    RiscvIommuCommandError,
    RiscvIommuFaultRecord,
    RiscvIommuRegisters,
    RiscvIommuTables,
)
from harness.model.riscv.commands import encode_command
from harness.model.riscv.faults import TransactionType
from harness.model.riscv.page_requests import PageRequest, PageRequestResponse, ResponseCode, request_page
from harness.model.riscv.queues import QueueStep, report_fault, run_commands, step_command
from harness.model.riscv.register_fields import CQCSR, FQCSR, ICVEC, IPSR, PQCSR, QUEUE_BASE
from harness.model.riscv.registers import MsiTableEntry, capabilities

BASE = 0x4000
QUEUE = QUEUE_BASE.encode({"LOG2SZ-1": 1, "PPN": BASE >> 12})
"""Four entries."""
RECORD = RiscvIommuFaultRecord(cause=RiscvIommuCause.READ_PAGE_FAULT, transaction_type=2, device_id=DEVICE)
FQON = FQCSR.encode({"fqon": 1, "fqen": 1})
CQON = CQCSR.encode({"cqon": 1, "cqen": 1})
PQON = PQCSR.encode({"pqon": 1, "pqen": 1})
MESSAGES = (MsiTableEntry(0x2800_0000, 11), MsiTableEntry(0x2800_1000, 22), MsiTableEntry(0x2800_2000, 33))
VECTORS = ICVEC.encode({"civ": 0, "fiv": 1, "piv": 2})
RAM = SparseMemory((Region(0, 0x10000),))


def registers(**values: object) -> RiscvIommuRegisters:
    fields = {"capabilities": capabilities(), "msi_cfg_tbl": MESSAGES, "icvec": VECTORS, **values}
    return RiscvIommuRegisters(**fields)  # type: ignore[arg-type]


def changed(before: RiscvIommuRegisters, after: RiscvIommuRegisters) -> set[str]:
    return {
        field.name for field in dataclasses.fields(before) if getattr(before, field.name) != getattr(after, field.name)
    }


# Fault queue (4.2, 6.16).


def test_a_record_goes_to_the_tail_which_moves_on_4_2() -> None:
    before = registers(fqb=QUEUE, fqcsr=FQON, fqt=2, fqh=1)
    step = report_fault(before, RAM, RECORD)
    assert step.writes == (MemoryWrite(BASE + 64, RECORD.encode()),)
    assert (step.registers.fqt, step.registers.fqcsr) == (3, FQON)
    assert step.interrupts == ()


def test_the_tail_wraps_around_4() -> None:
    step = report_fault(registers(fqb=QUEUE, fqcsr=FQON, fqt=3, fqh=2), RAM, RECORD)
    assert (step.registers.fqt, step.writes[0].address) == (0, BASE + 96)


def test_a_full_queue_overflows_and_loses_the_record_6_16() -> None:
    step = report_fault(registers(fqb=QUEUE, fqcsr=FQON, fqt=1, fqh=2), RAM, RECORD)
    assert step.writes == ()
    assert (step.registers.fqcsr, step.registers.fqt) == (FQON | FQCSR["fqof"].mask, 1)


def test_memory_that_does_not_answer_sets_fqmf_6_16() -> None:
    elsewhere = QUEUE_BASE.encode({"LOG2SZ-1": 1, "PPN": NOWHERE >> 12})
    step = report_fault(registers(fqb=elsewhere, fqcsr=FQON), RAM, RECORD)
    assert step.writes == ()
    assert (step.registers.fqcsr, step.registers.fqt) == (FQON | FQCSR["fqmf"].mask, 0)


@pytest.mark.parametrize("csr", [0, FQON | FQCSR["fqof"].mask, FQON | FQCSR["fqmf"].mask])
def test_a_queue_that_is_off_or_in_error_takes_nothing_6_16(csr: int) -> None:
    before = registers(fqb=QUEUE, fqcsr=csr)
    step = report_fault(before, RAM, RECORD)
    assert (step.registers, step.writes, step.interrupts) == (before, (), ())


@pytest.mark.parametrize(
    ("fqt", "fqh", "fqb"), [(0, 0, QUEUE), (1, 2, QUEUE), (0, 0, QUEUE_BASE.encode({"PPN": NOWHERE >> 12}))]
)
def test_each_event_of_the_fault_queue_interrupts_with_fie_6_18(fqt: int, fqh: int, fqb: int) -> None:
    csr = FQON | FQCSR["fie"].mask
    step = report_fault(registers(fqb=fqb, fqcsr=csr, fqt=fqt, fqh=fqh), RAM, RECORD)
    assert step.registers.ipsr == IPSR["fip"].mask
    assert step.interrupts == (Interrupt(0x2800_1000, 22, remapped=False),)


def test_an_interrupt_that_is_pending_sends_no_message_6_18() -> None:
    csr = FQON | FQCSR["fie"].mask
    step = report_fault(registers(fqb=QUEUE, fqcsr=csr, ipsr=IPSR["fip"].mask), RAM, RECORD)
    assert (len(step.writes), step.interrupts) == (1, ())
    assert (step.registers.fqt, step.registers.ipsr) == (1, IPSR["fip"].mask)


def test_wired_and_masked_interrupts_send_no_message_6_18_6_29() -> None:
    csr = FQON | FQCSR["fie"].mask
    masked = (MESSAGES[0], MsiTableEntry(0x2800_1000, 22, 1))
    for values in ({"fctl": 2}, {"msi_cfg_tbl": masked}, {"msi_cfg_tbl": ()}):
        step = report_fault(registers(fqb=QUEUE, fqcsr=csr, **values), RAM, RECORD)
        assert (step.registers.ipsr, step.interrupts) == (IPSR["fip"].mask, ())


def test_a_message_beyond_the_physical_addresses_is_reported_with_cause_273_6_29() -> None:
    caps = capabilities(physical_address_size=40)
    table = (MsiTableEntry(0xFF00_0000_0000_0000 | 1 << 41 | 3, 1),)
    before = registers(
        capabilities=caps,
        cqb=QUEUE,
        cqcsr=CQON | CQCSR["cie"].mask,
        cqt=1,
        fqb=QUEUE_BASE.encode({"LOG2SZ-1": 1, "PPN": 5}),
        fqcsr=FQON,
        msi_cfg_tbl=table,
    )
    memory = SparseMemory((Region(0, 0x10000),))
    step = step_command(before, memory)
    assert step is not None
    assert step.interrupts == ()
    record = RiscvIommuFaultRecord.decode(step.writes[0].data)
    assert record == RiscvIommuFaultRecord(
        cause=RiscvIommuCause.IOMMU_MSI_WRITE_ACCESS_FAULT,
        transaction_type=TransactionType.NONE,
        device_id=0,
        iotval=1 << 41,
    )
    assert step.registers.fqt == 1


MESSAGES_BEYOND = (MsiTableEntry(1 << 41, 1),) * 3
NARROW = capabilities(physical_address_size=40)
FAULTS = QUEUE_BASE.encode({"LOG2SZ-1": 1, "PPN": 5})


def assert_message_is_reported(step: QueueStep | None) -> None:
    """The last write is the record of a message that could not be sent."""
    assert step is not None
    assert step.interrupts == ()
    record = RiscvIommuFaultRecord.decode(step.writes[-1].data)
    assert record is not None
    assert (record.cause, record.iotval) == (RiscvIommuCause.IOMMU_MSI_WRITE_ACCESS_FAULT, 1 << 41)


@pytest.mark.parametrize(
    ("pqt", "pqb"),
    [(0, QUEUE), (3, QUEUE), (0, QUEUE_BASE.encode({"PPN": NOWHERE >> 12}))],
    ids=["queued", "full", "no memory"],
)
def test_a_message_of_the_page_request_queue_that_cannot_be_sent_is_reported_6_29(pqt: int, pqb: int) -> None:
    unit = page_unit(PRI, pqt=pqt, pqb=pqb, pqcsr=PQON | PQCSR["pie"].mask, fqb=FAULTS, fqcsr=FQON, icvec=VECTORS)
    before = dataclasses.replace(unit.registers(), msi_cfg_tbl=MESSAGES_BEYOND, capabilities=NARROW)
    assert_message_is_reported(request_page(before, unit.memory, REQUEST).step)


@pytest.mark.parametrize("event", ["no memory", "time-out"])
def test_a_message_of_a_stopped_command_queue_that_cannot_be_sent_is_reported_6_29(event: str) -> None:
    before, memory = command_queue(
        encode_command("IOFENCE.C"),
        cqcsr=CQON | CQCSR["cie"].mask,
        fqb=FAULTS,
        fqcsr=FQON,
        msi_cfg_tbl=MESSAGES_BEYOND,
        capabilities=NARROW,
    )
    if event == "no memory":
        before = dataclasses.replace(before, cqb=QUEUE_BASE.encode({"PPN": NOWHERE >> 12}))
    assert_message_is_reported(step_command(before, memory, timed_out=event == "time-out"))


def test_memory_that_answers_beyond_the_physical_addresses_holds_no_queue_6_3() -> None:
    before = registers(capabilities=NARROW, fqb=QUEUE_BASE.encode({"LOG2SZ-1": 1, "PPN": 1 << 28}), fqcsr=FQON)
    step = report_fault(before, MemoryBeyond(RAM, 1 << 40, 0), RECORD)
    assert (step.writes, step.registers.fqcsr) == ((), FQON | FQCSR["fqmf"].mask)


def test_the_last_record_below_the_end_of_the_physical_addresses_is_queued_6_3() -> None:
    # 128 records of 32 bytes in the last page of 16 bits of address.
    base = QUEUE_BASE.encode({"LOG2SZ-1": 6, "PPN": 0xF})
    before = registers(capabilities=capabilities(physical_address_size=16), fqb=base, fqcsr=FQON, fqt=127, fqh=1)
    step = report_fault(before, RAM, RECORD)
    assert [write.address for write in step.writes] == [0xFFE0]


def test_a_fault_of_the_engine_is_queued_as_its_bytes() -> None:
    unit = Unit()
    fault = assert_fault(unit.access(iova=0), RiscvIommuCause.READ_PAGE_FAULT)
    assert isinstance(fault.record, RiscvIommuFaultRecord)
    for fctl in (0, 1):
        step = report_fault(registers(fqb=QUEUE, fqcsr=FQON, fctl=fctl), RAM, fault.record)
        data = step.writes[0].data
        assert RiscvIommuFaultRecord.decode(data, big_endian=bool(fctl)) == fault.record


# Command queue (4.1, 6.15).


def command_queue(*commands: bytes, **values: object) -> tuple[RiscvIommuRegisters, SparseMemory]:
    memory = SparseMemory((Region(0, 0x10000),))
    memory.write(BASE, b"".join(commands))
    return registers(**{"cqb": QUEUE, "cqcsr": CQON, "cqt": len(commands), **values}), memory


def test_commands_are_fetched_in_order_until_the_queue_is_empty_4_1() -> None:
    before, memory = command_queue(
        encode_command("IODIR.INVAL_DDT"),
        encode_command("IOTINVAL.VMA"),
        encode_command("IOFENCE.C", AV=1, ADDR=0x8000 >> 2, DATA=7),
    )
    steps = list(run_commands(before, memory, lambda write: write.apply(memory)))
    assert [step.registers.cqh for step in steps] == [1, 2, 3]
    assert all(step.result is not None and step.result.error is None for step in steps)
    assert memory.read(0x8000, 4) == b"\x07\0\0\0"
    assert step_command(steps[-1].registers, memory) is None


def test_the_head_wraps_around_4() -> None:
    before, memory = command_queue(*[encode_command("IOTINVAL.VMA")] * 4, cqh=3, cqt=0)
    step = step_command(before, memory)
    assert step is not None
    assert step.registers.cqh == 0


def test_an_illegal_command_stops_the_queue_at_it_6_15() -> None:
    before, memory = command_queue(encode_command("IOTINVAL.VMA"), bytes(16), encode_command("IOTINVAL.VMA"))
    steps = list(run_commands(before, memory, lambda write: write.apply(memory)))
    assert steps[-1].result == CommandResult(error=RiscvIommuCommandError.ILLEGAL)
    assert (steps[-1].registers.cqh, steps[-1].registers.cqcsr) == (1, CQON | CQCSR["cmd_ill"].mask)


def test_a_command_that_cannot_be_fetched_sets_cqmf_6_15() -> None:
    elsewhere = QUEUE_BASE.encode({"PPN": NOWHERE >> 12})
    for values in ({"cqb": elsewhere}, {"capabilities": capabilities(physical_address_size=13)}):
        before, memory = command_queue(encode_command("IOTINVAL.VMA"), **values)
        step = step_command(before, memory)
        assert step is not None
        assert step.result == CommandResult(error=RiscvIommuCommandError.MEMORY_FAULT)
        assert (step.registers.cqh, step.registers.cqcsr) == (0, CQON | CQCSR["cqmf"].mask)


def test_a_fence_that_cannot_write_sets_cqmf_and_stays_at_the_head_4_1_2() -> None:
    before, memory = command_queue(encode_command("IOFENCE.C", AV=1, ADDR=NOWHERE >> 2))
    step = step_command(before, memory)
    assert step is not None
    assert (step.registers.cqh, step.registers.cqcsr) == (0, CQON | CQCSR["cqmf"].mask)


def test_a_timeout_is_told_at_the_next_fence_4_1_2() -> None:
    before, memory = command_queue(
        encode_command("ATS.INVAL", RID=DEVICE), encode_command("IOFENCE.C", AV=1, ADDR=0x8000 >> 2, DATA=1)
    )
    steps = list(run_commands(before, memory, lambda write: write.apply(memory), timed_out=True))
    assert [step.registers.cqh for step in steps] == [1, 1]
    assert steps[-1].result == CommandResult(error=RiscvIommuCommandError.TIMEOUT)
    assert steps[-1].registers.cqcsr == CQON | CQCSR["cmd_to"].mask
    assert memory.read(0x8000, 4) == bytes(4)


@pytest.mark.parametrize("csr", [0, *(CQON | CQCSR[name].mask for name in ("cqmf", "cmd_to", "cmd_ill"))])
def test_a_queue_that_is_off_or_in_error_fetches_nothing_6_15(csr: int) -> None:
    before, memory = command_queue(encode_command("IOTINVAL.VMA"), cqcsr=csr)
    assert step_command(before, memory) is None


def test_fence_w_ip_does_not_stop_the_queue_6_15() -> None:
    before, memory = command_queue(encode_command("IOTINVAL.VMA"), cqcsr=CQON | CQCSR["fence_w_ip"].mask)
    assert step_command(before, memory) is not None


def test_a_fence_with_wsi_sets_fence_w_ip_and_interrupts_4_1_2() -> None:
    before, memory = command_queue(encode_command("IOFENCE.C", WSI=1), fctl=2, cqcsr=CQON | CQCSR["cie"].mask)
    step = step_command(before, memory)
    assert step is not None
    assert step.registers.cqcsr & CQCSR["fence_w_ip"].mask
    assert (step.registers.cqh, step.registers.ipsr) == (1, IPSR["cip"].mask)
    before, memory = command_queue(encode_command("IOFENCE.C"), fctl=2, cqcsr=CQON | CQCSR["cie"].mask)
    step = step_command(before, memory)
    assert step is not None
    assert (step.registers.cqcsr, step.registers.ipsr) == (before.cqcsr, 0)


def test_an_error_interrupts_with_cie_only_6_18() -> None:
    for enabled, expected in ((0, ()), (CQCSR["cie"].mask, (Interrupt(0x2800_0000, 11, remapped=False),))):
        before, memory = command_queue(bytes(16), cqcsr=CQON | enabled)
        step = step_command(before, memory)
        assert step is not None
        assert step.interrupts == expected


def test_big_endian_commands_are_read_so_4_1() -> None:
    before, memory = command_queue(encode_command("IODIR.INVAL_DDT", big_endian=True), fctl=1)
    step = step_command(before, memory)
    assert step is not None
    assert step.result is not None
    assert step.result.error is None


@given(
    st.fixed_dictionaries(dict.fromkeys(("cqh", "cqt", "cqcsr", "fqcsr", "fctl"), st.integers(0, (1 << 32) - 1))),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 31),
    st.binary(min_size=64, max_size=64),
)
def test_any_registers_step_and_change_no_others(values: dict[str, int], caps: int, size: int, data: bytes) -> None:
    before, memory = command_queue(data, **values, capabilities=caps, fqb=QUEUE, cqb=QUEUE & ~0x1F | size)
    faults = {"fqt", "fqcsr", "ipsr"}
    assert changed(before, report_fault(before, memory, RECORD).registers) <= faults
    assert changed(before, request_page(before, memory, REQUEST).step.registers) <= faults | {"pqt", "pqcsr"}
    step = step_command(before, memory)
    if step is not None:
        assert changed(before, step.registers) <= faults | {"cqh", "cqcsr"}
        assert step.result is not None
        stopped = step.result.error is not None
        assert step.registers.cqh == (before.cqh if stopped else before.cqh + 1 & (2 << size) - 1)


# Page requests (3.7, 4.3).

REQUEST = PageRequest(requester=DEVICE, address=0x1234_5000, read=True, write=False, last=True, group=0x155, pasid=5)
PRI = {"tc.EN_ATS": 1, "tc.EN_PRI": 1}


def page_unit(context: dict[str, int], **fields: int) -> Unit:
    queue = QUEUE_BASE.encode({"LOG2SZ-1": 1, "PPN": 1})
    return Unit(context=context, registers={"pqb": queue, "pqcsr": PQON, **fields})


def test_a_page_request_is_queued_as_4_3_has_it() -> None:
    unit = page_unit(PRI)
    step = request_page(unit.registers(), unit.memory, REQUEST)
    assert (step.response, step.record) == (None, None)
    assert step.step.registers.pqt == 1
    (write,) = step.step.writes
    assert write.address == 0x1000
    assert write.data == (5 << 12 | 1 << 32 | DEVICE << 40).to_bytes(8, "little") + (
        0x1234_5000 | 0x155 << 3 | 0b101
    ).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("fields", "cause", "code"),
    [
        ({"ddtp": 0}, RiscvIommuCause.ALL_INBOUND_TRANSACTIONS_DISALLOWED, ResponseCode.RESPONSE_FAILURE),
        ({"ddtp": 1}, RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED, ResponseCode.INVALID_REQUEST),
        (
            {"ddtp": 2 | NOWHERE >> 2},
            RiscvIommuCause.DDT_ENTRY_LOAD_ACCESS_FAULT,
            ResponseCode.RESPONSE_FAILURE,
        ),
    ],
)
def test_a_page_request_without_a_device_context_is_answered_and_reported_3_7(
    fields: dict[str, int], cause: RiscvIommuCause, code: ResponseCode
) -> None:
    unit = page_unit(PRI, fqb=QUEUE, fqcsr=FQON, **fields)
    step = request_page(unit.registers(), unit.memory, REQUEST)
    pasid = 5 if code is ResponseCode.RESPONSE_FAILURE else None
    assert step.response == PageRequestResponse(DEVICE, 0x155, code, pasid)
    assert step.record == RiscvIommuFaultRecord(
        cause=cause,
        transaction_type=TransactionType.MESSAGE_REQUEST,
        device_id=DEVICE,
        process_id=5,
        iotval=0x04,
    )
    assert RiscvIommuFaultRecord.decode(step.step.writes[0].data) == step.record


@pytest.mark.parametrize(
    ("context", "cause"),
    [
        ({"tc.V": 0}, RiscvIommuCause.DDT_ENTRY_NOT_VALID),
        ({"RSVD_tc_12": 1}, RiscvIommuCause.DDT_ENTRY_MISCONFIGURED),
    ],
)
def test_a_bad_device_context_is_a_response_failure_3_7(context: dict[str, int], cause: RiscvIommuCause) -> None:
    unit = page_unit(context)
    step = request_page(unit.registers(), unit.memory, REQUEST)
    assert step.response is not None
    assert step.record is not None
    assert (step.response.code, step.record.cause) == (ResponseCode.RESPONSE_FAILURE, cause)


@pytest.mark.parametrize("dtf", [0, 1])
def test_without_en_pri_it_is_an_invalid_request_3_7(dtf: int) -> None:
    unit = page_unit({"tc.EN_ATS": 1, "tc.DTF": dtf})
    step = request_page(unit.registers(), unit.memory, REQUEST)
    assert step.response is not None
    assert step.response.code is ResponseCode.INVALID_REQUEST
    assert (step.record is None) == bool(dtf)


def test_the_record_of_a_refused_page_request_is_queued_with_its_privilege_3_7() -> None:
    unit = page_unit({"tc.EN_ATS": 1}, fqb=FAULTS, fqcsr=FQON)
    for pasid in (5, None):
        request = dataclasses.replace(REQUEST, pasid=pasid, privileged=True)
        step = request_page(unit.registers(), unit.memory, request)
        assert step.record is not None
        # 4.2: privilege is that of a request with a process_id.
        assert (step.record.process_id, step.record.privileged) == (pasid, pasid is not None)
        assert [RiscvIommuFaultRecord.decode(write.data) for write in step.step.writes] == [step.record]


def test_a_big_endian_page_request_has_each_doubleword_the_other_way_round_4_3_6_4() -> None:
    plain = REQUEST.encode()
    expected = plain[:8][::-1] + plain[8:][::-1]
    assert REQUEST.encode(big_endian=True) == expected
    memory = SparseMemory((Region(0, 0x10_0000),))
    tables = RiscvIommuTables(BigEndianMemory(memory), 0x1_0000)
    tables.attach(DEVICE, overrides={**PRI, "tc.SBE": 1})
    caps = capabilities() | capabilities(features=frozenset({"END"}))
    before = registers(capabilities=caps, ddtp=tables.ddtp, fctl=1, pqb=QUEUE, pqcsr=PQON)
    assert [write.data for write in request_page(before, memory, REQUEST).step.writes] == [expected]


def test_a_page_request_without_pasid_has_no_pid_4_3() -> None:
    low = int.from_bytes(dataclasses.replace(REQUEST, pasid=None).encode()[:8], "little")
    assert low == DEVICE << 40


@pytest.mark.parametrize("prpr", [0, 1])
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"pqcsr": 0}, ResponseCode.RESPONSE_FAILURE),
        ({"pqcsr": PQON | PQCSR["pqmf"].mask}, ResponseCode.RESPONSE_FAILURE),
        ({"pqcsr": PQON | PQCSR["pqof"].mask}, ResponseCode.SUCCESS),
        ({"pqt": 3, "pqh": 0}, ResponseCode.SUCCESS),
        ({"pqb": QUEUE_BASE.encode({"PPN": NOWHERE >> 12})}, ResponseCode.RESPONSE_FAILURE),
    ],
)
def test_a_page_request_that_cannot_be_queued_is_answered_and_not_reported_3_7(
    fields: dict[str, int], code: ResponseCode, prpr: int
) -> None:
    unit = page_unit({**PRI, "tc.PRPR": prpr}, **fields)
    step = request_page(unit.registers(), unit.memory, REQUEST)
    pasid = 5 if prpr or code is ResponseCode.RESPONSE_FAILURE else None
    assert step.response == PageRequestResponse(DEVICE, 0x155, code, pasid)
    assert (step.record, step.step.writes) == (None, ())


def test_only_the_last_of_a_group_is_answered_and_a_stop_marker_never_3_7() -> None:
    unit = page_unit(PRI, pqcsr=0)
    for values in ({"last": False}, {"read": False, "write": False}):
        request = PageRequest(
            **{  # type: ignore[arg-type]
                "requester": DEVICE,
                "address": 0,
                "read": True,
                "write": True,
                "last": True,
                "group": 1,
                "pasid": 5,
                **values,
            }
        )
        assert request_page(unit.registers(), unit.memory, request).response is None


def test_a_full_queue_sets_pqof_and_interrupts_6_17() -> None:
    unit = page_unit(PRI, pqt=3, pqh=0, pqcsr=PQON | PQCSR["pie"].mask)
    step = request_page(unit.registers(), unit.memory, REQUEST)
    assert step.step.registers.pqcsr & PQCSR["pqof"].mask
    assert step.step.registers.ipsr == IPSR["pip"].mask


def test_privilege_and_execution_are_of_requests_with_pasid_only_4_3() -> None:
    for pasid, expected in ((5, 0b111), (None, 0)):
        request = PageRequest(
            requester=DEVICE, address=0, read=True, write=False, last=False, group=0,
            pasid=pasid, privileged=True, execute=True,
        )  # fmt: skip
        assert request.encode()[4] & 7 == expected
        assert request.encode(big_endian=True)[3] & 7 == expected
