"""The invalidation queue: what is taken, what stops it, and what software sees of that (VT-d 6.5.2, revision 5.10)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reasons import assert_every_code_is_reached

from harness.model.access import MemoryWrite
from harness.model.engine import CommandResult, MsiWrite
from harness.model.memory import Region, SparseMemory
from harness.model.vtd.invalidation.commands import IQA_REG, VtdQueueError
from harness.model.vtd.invalidation.descriptors import DescriptorType, Granularity, build_descriptor
from harness.model.vtd.invalidation.queue import (
    DeviceTlbFailure,
    QueueRun,
    process_queue,
    queue_size,
    report_device_tlb,
)
from harness.model.vtd.register_layouts import CAP_REG, ECAP_REG, RTADDR_REG, TranslationTableMode
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.events import write_fectl, write_fsts, write_ics, write_iectl

QUEUE = 0x4000
RAM = 0x10_0000
QIES = 1 << 26
PFO, PPF, IQE, ICE, ITE = 1 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 6
IP, IM = 1 << 30, 1 << 31
SID = 0x0128
FAULT_EVENT = MsiWrite(requester=0, address=0xFEE0_3000, data=0x42)
INVALIDATION_EVENT = MsiWrite(requester=0, address=0xFEE0_5000, data=0x43)
GLOBAL_IOTLB = build_descriptor(DescriptorType.IOTLB, {"G": Granularity.GLOBAL})
DEVICE_TLB = build_descriptor(DescriptorType.DEVICE_TLB, {"SID": SID})
RESERVED = GLOBAL_IOTLB | 1 << 8
UNKNOWN = 0xF


def wait(number: int = 1, *, event: bool = False) -> int:
    return build_descriptor(DescriptorType.WAIT, {"SW": 1, "IF": int(event), "DATA": number, "ADDR": 0x8000 >> 2})


class Queue:
    """A queue, filled from its head on."""

    def __init__(self, *, wide: bool = False, pages: int = 0, head: int = 0) -> None:
        self.memory = SparseMemory((Region(0, RAM),))
        self.width = 32 if wide else 16
        self.registers = VtdRegisters(
            rtaddr=0,
            cap=CAP_REG.encode({"ND": 6, "PSI": 1, "MAMV": 18, "MGAW": 47, "SAGAW": 0b100}),
            ecap=ECAP_REG.encode({"QI": 1, "DT": 1, "IR": 1, "SMTS": 1, "ADMS": 1}),
            gsts=QIES,
            host_address_width=46,
            iqa=IQA_REG.encode({"IQA": QUEUE, "DW": int(wide), "QS": pages}),
            iqh=head,
            iqt=head,
            fedata=FAULT_EVENT.data,
            feaddr=FAULT_EVENT.address,
            iedata=INVALIDATION_EVENT.data,
            ieaddr=INVALIDATION_EVENT.address,
        )

    def push(self, *descriptors: int) -> None:
        tail = self.registers.iqt
        for bits in descriptors:
            self.memory.write(QUEUE + tail, bits.to_bytes(self.width, "little"))
            tail = (tail + self.width) % queue_size(self.registers)
        self.set(iqt=tail)

    def set(self, **values: Any) -> None:
        self.registers = replace(self.registers, **values)

    def run(self, *silent: int) -> QueueRun:
        """Process, and keep the registers as hardware would."""
        run = process_queue(self.registers, self.memory, silent=silent)
        self.registers = run.registers
        return run

    @property
    def error_info(self) -> int:
        return self.registers.iqercd & 0xF


def assert_stopped(queue: Queue, run: QueueRun, error: VtdQueueError, *, head: int) -> None:
    """IQE with its reason, the head at the descriptor, and one fault event."""
    assert run.steps[-1].result == CommandResult(error=error)
    assert queue.registers.fsts == IQE
    assert queue.error_info == error
    assert queue.registers.iqh == head
    assert run.interrupts == (FAULT_EVENT,)


# Taking descriptors.


@pytest.mark.parametrize("wide", [False, True])
def test_descriptors_are_taken_in_order_up_to_the_tail(wide: bool) -> None:
    queue = Queue(wide=wide)
    queue.push(GLOBAL_IOTLB, wait(7))
    run = queue.run()
    assert [(step.head, step.descriptor) for step in run.steps] == [(0, GLOBAL_IOTLB), (queue.width, wait(7))]
    assert len(run.steps[0].result.invalidations) == 1
    assert run.steps[1].result.writes == (MemoryWrite(0x8000, b"\x07\0\0\0"),)
    assert queue.registers.iqh == queue.registers.iqt == 2 * queue.width
    assert run.interrupts == ()


def test_nothing_is_written_by_processing() -> None:
    queue = Queue()
    queue.push(wait(7))
    before = dict(queue.memory.words())
    queue.run()
    assert dict(queue.memory.words()) == before


def test_an_empty_queue_gives_nothing() -> None:
    queue = Queue(head=0x40)
    assert queue.run() == QueueRun(queue.registers, (), ())


def test_nothing_is_taken_while_the_queue_is_off() -> None:
    queue = Queue()
    queue.push(GLOBAL_IOTLB)
    queue.set(gsts=0)
    assert queue.run() == QueueRun(queue.registers, (), ())


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("pages", [0, 1, 7])
def test_head_wraps_at_the_end_of_2_to_the_qs_pages(wide: bool, pages: int) -> None:
    size = 4096 << pages
    queue = Queue(wide=wide, pages=pages)
    last = size - queue.width
    queue.set(iqh=last, iqt=last)
    queue.push(GLOBAL_IOTLB, wait())
    assert [step.head for step in queue.run().steps] == [last, 0]
    assert queue.registers.iqh == queue.width


def test_the_queue_holds_all_entries_but_one() -> None:
    queue = Queue(head=0x100)
    queue.push(*[GLOBAL_IOTLB] * 255)
    assert len(queue.run().steps) == 255


def test_queue_address_bits_above_the_host_address_width_are_ignored() -> None:
    queue = Queue()
    for bit in (46, 50):
        queue.push(GLOBAL_IOTLB)
        queue.set(iqa=queue.registers.iqa | 1 << bit)
        assert [step.result.error for step in queue.run().steps] == [None]


def test_head_outside_of_a_queue_made_smaller_comes_back_into_it() -> None:
    queue = Queue(head=0x2FF0)
    queue.set(iqt=0x10)
    for offset in (0x2FF0, 0):
        queue.memory.write(QUEUE + offset, GLOBAL_IOTLB.to_bytes(16, "little"))
    assert [step.head for step in queue.run().steps] == [0x2FF0, 0]
    assert queue.registers.iqh == 0x10


def test_bit_4_of_the_head_is_reserved_with_256_bit_descriptors_11_4_9_1() -> None:
    queue = Queue(wide=True)
    queue.push(GLOBAL_IOTLB)
    queue.set(iqh=0x10)
    assert [step.head for step in queue.run().steps] == [0]


# Errors (6.5.2.11 and IQEI in 11.4.9.9), in the order of their numbers.


@pytest.mark.parametrize("tail", [0x1000, 0x7FFF0])
def test_tail_outside_of_the_queue_is_error_1(tail: int) -> None:
    queue = Queue()
    queue.set(iqt=tail)
    assert_stopped(queue, queue.run(), VtdQueueError.INVALID_TAIL, head=0)


def test_queue_outside_of_memory_is_error_2() -> None:
    queue = Queue()
    queue.push(GLOBAL_IOTLB)
    queue.set(iqa=IQA_REG.encode({"IQA": RAM}))
    assert_stopped(queue, queue.run(), VtdQueueError.FETCH, head=0)


def test_queue_that_ends_outside_of_memory_is_processed_up_to_there() -> None:
    queue = Queue(pages=1)
    queue.set(iqa=IQA_REG.encode({"IQA": RAM - 0x1000, "QS": 1}), iqh=0xFF0, iqt=0x1010)
    queue.memory.write(RAM - 16, GLOBAL_IOTLB.to_bytes(16, "little"))
    run = queue.run()
    assert run.steps[0].result.error is None
    assert_stopped(queue, run, VtdQueueError.FETCH, head=0x1000)


def test_unknown_type_is_error_3_and_what_is_before_it_is_carried_out() -> None:
    queue = Queue()
    queue.push(GLOBAL_IOTLB, UNKNOWN, wait())
    run = queue.run()
    assert [step.result.error for step in run.steps] == [None, VtdQueueError.INVALID_TYPE]
    assert_stopped(queue, run, VtdQueueError.INVALID_TYPE, head=0x10)
    assert run.steps[-1].descriptor == UNKNOWN


def test_reserved_field_is_error_4() -> None:
    queue = Queue()
    queue.push(RESERVED)
    assert_stopped(queue, queue.run(), VtdQueueError.RESERVED_FIELD, head=0)


def test_upper_half_of_a_padded_descriptor_is_a_reserved_field() -> None:
    queue = Queue(wide=True)
    queue.push(GLOBAL_IOTLB | 1 << 128)
    assert_stopped(queue, queue.run(), VtdQueueError.RESERVED_FIELD, head=0)


def test_128_bit_descriptors_in_scalable_mode_are_error_5() -> None:
    queue = Queue()
    queue.push(GLOBAL_IOTLB)
    queue.set(rtaddr=RTADDR_REG.encode({"TTM": TranslationTableMode.SCALABLE}))
    assert_stopped(queue, queue.run(), VtdQueueError.INVALID_WIDTH, head=0)


def test_tail_between_256_bit_descriptors_is_error_6() -> None:
    queue = Queue(wide=True)
    queue.set(iqt=0x30)
    assert_stopped(queue, queue.run(), VtdQueueError.UNALIGNED_TAIL, head=0)


def test_reserved_translation_table_mode_is_error_7() -> None:
    queue = Queue()
    queue.push(GLOBAL_IOTLB)
    queue.set(rtaddr=RTADDR_REG.encode({"TTM": TranslationTableMode.RESERVED}))
    assert_stopped(queue, queue.run(), VtdQueueError.INVALID_MODE, head=0)


def test_error_numbers_are_those_of_iqei_11_4_9_9() -> None:
    names = (
        "INVALID_TAIL",
        "FETCH",
        "INVALID_TYPE",
        "RESERVED_FIELD",
        "INVALID_WIDTH",
        "UNALIGNED_TAIL",
        "INVALID_MODE",
    )
    assert {error.name: error.value for error in VtdQueueError} == dict(zip(names, range(1, 8), strict=True))


def test_every_queue_error_is_reached() -> None:
    assert_every_code_is_reached(VtdQueueError, [Path(__file__)])


@pytest.mark.parametrize("flag", [IQE, ITE])
def test_the_queue_stands_still_until_software_clears_iqe_or_ite(flag: int) -> None:
    queue = Queue()
    queue.push(GLOBAL_IOTLB)
    queue.set(fsts=flag)
    assert queue.run() == QueueRun(queue.registers, (), ())
    queue.registers = write_fsts(queue.registers, flag).registers
    assert len(queue.run().steps) == 1


def test_processing_goes_on_at_the_same_place_once_software_has_mended_it() -> None:
    queue = Queue()
    queue.push(GLOBAL_IOTLB, UNKNOWN, wait())
    queue.run()
    queue.memory.write(QUEUE + 0x10, GLOBAL_IOTLB.to_bytes(16, "little"))
    queue.registers = write_fsts(queue.registers, IQE).registers
    assert [step.head for step in queue.run().steps] == [0x10, 0x20]


# Device TLBs that do not answer, or answer wrongly (6.5.2.11).


def test_device_that_does_not_answer_stops_the_queue_with_ite_and_its_source_id() -> None:
    queue = Queue()
    queue.push(GLOBAL_IOTLB, DEVICE_TLB, wait())
    run = queue.run(SID)
    assert [step.result for step in run.steps[1:]] == [CommandResult(error=DeviceTlbFailure.TIME_OUT)]
    assert queue.registers.fsts == ITE
    assert queue.registers.iqercd == SID << 32
    assert queue.registers.iqh == 0x20
    assert run.interrupts == (FAULT_EVENT,)


def test_another_device_that_does_not_answer_stops_nothing() -> None:
    queue = Queue()
    queue.push(DEVICE_TLB, wait())
    run = queue.run(SID + 1)
    assert [step.result.error for step in run.steps] == [None, None]


def test_pasid_based_device_tlb_invalidation_can_time_out_too() -> None:
    queue = Queue(wide=True)
    queue.set(rtaddr=RTADDR_REG.encode({"TTM": TranslationTableMode.SCALABLE}))
    queue.push(build_descriptor(DescriptorType.PASID_DEVICE_TLB, {"SID": SID}), wait())
    assert [step.result.error for step in queue.run(SID).steps] == [DeviceTlbFailure.TIME_OUT]


def test_invalid_completion_sets_ice_and_the_queue_goes_on() -> None:
    queue = Queue()
    queue.push(GLOBAL_IOTLB)
    after = replace(queue.registers, fsts=ICE, iqercd=SID << 48)
    assert report_device_tlb(queue.registers, DeviceTlbFailure.INVALID_COMPLETION, SID) == (after, FAULT_EVENT)
    queue.registers = after
    assert len(queue.run().steps) == 1


def test_source_id_of_the_first_failure_stays_until_software_clears_it() -> None:
    first = report_device_tlb(Queue().registers, DeviceTlbFailure.INVALID_COMPLETION, SID).registers
    second = report_device_tlb(first, DeviceTlbFailure.INVALID_COMPLETION, SID + 1)
    assert second.registers == first
    assert second.interrupt is None


def test_every_device_tlb_failure_is_reached() -> None:
    assert_every_code_is_reached(DeviceTlbFailure, [Path(__file__)])


# The fault event of an error (7.3).


@pytest.mark.parametrize("pending", [PFO, PPF, ICE])
def test_no_fault_event_while_another_condition_is_pending_7_3(pending: int) -> None:
    queue = Queue()
    queue.push(UNKNOWN)
    queue.set(fsts=pending)
    assert queue.run().interrupts == ()
    assert queue.registers.fsts == pending | IQE
    assert queue.registers.fectl == 0


def test_masked_fault_event_is_pending_and_goes_out_when_the_mask_is_cleared_7_3() -> None:
    queue = Queue()
    queue.push(UNKNOWN)
    queue.set(fectl=IM)
    assert queue.run().interrupts == ()
    assert queue.registers.fectl == IM | IP
    event = write_fectl(queue.registers, 0)
    assert event.interrupt == FAULT_EVENT
    assert event.registers.fectl == 0


def test_pending_fault_event_is_gone_when_software_has_cleared_the_status_7_3() -> None:
    queue = Queue()
    queue.push(UNKNOWN)
    queue.set(fectl=IM)
    queue.run()
    registers = write_fsts(queue.registers, IQE).registers
    assert (registers.fsts, registers.fectl) == (0, IM)
    assert write_fectl(registers, 0).interrupt is None


def test_writing_zeros_to_fsts_clears_nothing() -> None:
    registers = replace(Queue().registers, fsts=PFO | PPF | IQE | ICE | ITE)
    assert write_fsts(registers, 0).registers == registers
    assert write_fsts(registers, 0xFFFF_FFFF).registers.fsts == PPF


def test_software_cannot_write_the_pending_bit() -> None:
    registers = Queue().registers
    assert write_fectl(registers, IP) == (registers, None)
    assert write_iectl(registers, IP) == (registers, None)


# The invalidation event (6.5.2.10).


def test_wait_descriptors_with_if_raise_one_event_until_software_clears_iwc() -> None:
    queue = Queue()
    queue.push(wait(event=True), wait(event=True))
    assert queue.run().interrupts == (INVALIDATION_EVENT,)
    assert queue.registers.ics == 1
    queue.registers = write_ics(queue.registers, 1).registers
    queue.push(wait(event=True))
    assert queue.run().interrupts == (INVALIDATION_EVENT,)


def test_masked_invalidation_event_is_pending_and_goes_out_when_the_mask_is_cleared() -> None:
    queue = Queue()
    queue.push(wait(event=True))
    queue.set(iectl=IM)
    assert queue.run().interrupts == ()
    assert queue.registers.iectl == IM | IP
    event = write_iectl(queue.registers, 0)
    assert event == (replace(queue.registers, iectl=0), INVALIDATION_EVENT)


def test_pending_invalidation_event_is_gone_when_software_has_cleared_iwc() -> None:
    queue = Queue()
    queue.push(wait(event=True))
    queue.set(iectl=IM)
    queue.run()
    registers = write_ics(queue.registers, 1).registers
    assert (registers.ics, registers.iectl) == (0, IM)
    assert write_ics(queue.registers, 0).registers == queue.registers


# Whatever the registers.


@settings(deadline=None, max_examples=200)
@given(
    head=st.integers(0, (1 << 64) - 1),
    tail=st.integers(0, (1 << 64) - 1),
    iqa=st.integers(0, (1 << 64) - 1),
    ecap=st.integers(0, (1 << 64) - 1),
    mode=st.integers(0, 3),
    words=st.lists(st.integers(0, (1 << 64) - 1), max_size=16),
)
def test_no_registers_whatever_lead_to_anything_but_a_run_that_ends(
    head: int, tail: int, iqa: int, ecap: int, mode: int, words: list[int]
) -> None:
    memory = SparseMemory((Region(0, RAM),))
    for index, word in enumerate(words):
        memory.write_u64((iqa & 0xFF000) + 8 * index, word)
    registers = replace(Queue().registers, iqh=head, iqt=tail, iqa=iqa & 0xFFFFF, ecap=ecap, rtaddr=mode << 10)
    run = process_queue(registers, memory)
    assert len(run.steps) <= queue_size(registers) // 16 + 1
    assert all(step.result.error is None for step in run.steps[:-1])
    again = process_queue(run.registers, memory)
    assert not again.steps
