"""Command buffer and event log: rings, head and tail, overflow, errors (AMD-Vi 2.4 and 2.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.access import MemoryWrite
from harness.model.amdvi import (
    AmdviEvent,
    AmdviEventCode,
    AmdviOpcode,
    AmdviRegisters,
    log_event,
    make_command,
    read_events,
    run_command_buffer,
)
from harness.model.amdvi.queues import CommandBufferRun
from harness.model.amdvi.register_fields import CONTROL, STATUS
from harness.model.amdvi.registers import extended_features
from harness.model.engine import MsiWrite, Sending
from harness.model.memory import Region, SparseMemory

COMMANDS = 0x1_0000
EVENTS = 0x2_0000
SIZE = 256 * 16
RUNNING = STATUS.encode({"CmdBufRun": 1, "EventLogRun": 1})
MESSAGE = MsiWrite(requester=2, address=0xFEE0_1000, data=0x41)
EVENT = AmdviEvent.make(AmdviEventCode.IO_PAGE_FAULT, {"DeviceID": 5, "Address": 0x1000})


def registers(**values: Any) -> AmdviRegisters:
    control = {"IommuEn": 1, "CmdBufEn": 1, "EventLogEn": 1, "EventIntEn": 1, "ComWaitIntEn": 1}
    fixed = {
        "control": CONTROL.encode(control),
        "status": RUNNING,
        "command_buffer_base": COMMANDS | 8 << 56,
        "event_log_base": EVENTS | 8 << 56,
        "msi_header": 1 << 16,
        "msi_address_low": MESSAGE.address,
        "msi_data": MESSAGE.data,
        "device_id": MESSAGE.requester,
    }
    return AmdviRegisters(device_table_base=0, extended_feature=extended_features(), **{**fixed, **values})


def status_of(state: AmdviRegisters) -> set[str]:
    return {name for name, value in STATUS.decode(state.status) if value}


def run(*commands: int, head: int = 0, silent: frozenset[int] = frozenset(), **values: Any) -> CommandBufferRun:
    """Put commands into the ring from head on, and run it."""
    memory = SparseMemory((Region(0, 1 << 20),))
    for number, command in enumerate(commands):
        memory.write(COMMANDS + (head + number * 16) % SIZE, command.to_bytes(16, "little"))
    tail = (head + len(commands) * 16) % SIZE
    state = registers(command_buffer_head=head, command_buffer_tail=tail, **values)
    return run_command_buffer(state, memory, silent=silent)


def store(number: int) -> int:
    fields = {"s": 1, "StoreAddress": 0x8000 + 8 * number, "StoreData": number}
    return make_command(AmdviOpcode.COMPLETION_WAIT, fields)


# Event log


def test_an_event_goes_to_the_tail_which_moves_on() -> None:
    logged = log_event(registers(event_log_tail=0x30), EVENT)
    assert logged.writes == (MemoryWrite(EVENTS + 0x30, EVENT.encode()),)
    assert logged.registers.event_log_tail == 0x40
    assert status_of(logged.registers) == {"CmdBufRun", "EventLogRun", "EventLogInt"}


def test_an_interrupt_goes_out_when_eventlogint_becomes_1() -> None:
    first = log_event(registers(), EVENT)
    assert first.interrupts == (MESSAGE,)
    assert log_event(first.registers, EVENT).interrupts == (replace(MESSAGE, sending=Sending.OPTIONAL),)
    off = registers(control=CONTROL.encode({"EventLogEn": 1}))
    assert log_event(off, EVENT).interrupts == (replace(MESSAGE, sending=Sending.DISABLED),)


def test_the_tail_wraps() -> None:
    logged = log_event(registers(event_log_head=0x10, event_log_tail=SIZE - 16), EVENT)
    assert logged.registers.event_log_tail == 0


def test_pointers_beyond_the_ring_are_taken_within_it() -> None:
    logged = log_event(registers(event_log_head=SIZE, event_log_tail=2 * SIZE + 0x20), EVENT)
    assert logged.writes == (MemoryWrite(EVENTS + 0x20, EVENT.encode()),)
    assert logged.registers.event_log_tail == 0x30
    full = log_event(registers(event_log_head=SIZE, event_log_tail=SIZE - 16), EVENT)
    assert "EventOverflow" in status_of(full.registers)


@pytest.mark.parametrize(("head", "tail"), [(0, SIZE - 16), (0x20, 0x10)])
def test_a_full_log_overflows_and_stops(head: int, tail: int) -> None:
    logged = log_event(registers(event_log_head=head, event_log_tail=tail), EVENT)
    assert logged.writes == ()
    assert logged.interrupts == (MESSAGE,)
    assert status_of(logged.registers) == {"CmdBufRun", "EventOverflow"}
    assert log_event(logged.registers, EVENT).registers == logged.registers


@pytest.mark.parametrize("status", [0, RUNNING | STATUS.encode({"EventOverflow": 1})])
def test_a_log_that_does_not_run_takes_nothing(status: int) -> None:
    state = registers(status=status)
    logged = log_event(state, EVENT)
    assert (logged.registers, logged.writes, logged.interrupts) == (state, (), ())


@settings(deadline=None)
@given(st.integers(0, 255), st.lists(st.integers(1, 0xFFFF), max_size=300))
def test_what_was_logged_is_what_is_read(start: int, devices: list[int]) -> None:
    memory = SparseMemory()
    state = registers(event_log_head=16 * start, event_log_tail=16 * start)
    for device in devices:
        logged = log_event(state, AmdviEvent.make(AmdviEventCode.IOTLB_INV_TIMEOUT, {"DeviceID": device}))
        state = logged.registers
        for write in logged.writes:
            write.apply(memory)
    # One entry stays free, so that full and empty differ.
    assert [event["DeviceID"] for event in read_events(state, memory)] == devices[:255]
    assert state.is_set("EventOverflow") is (len(devices) > 255)


# Command buffer


def test_commands_run_from_head_to_tail_in_order() -> None:
    done = run(store(1), make_command(AmdviOpcode.INVALIDATE_DEVTAB_ENTRY, {"DeviceID": 5}), store(2))
    assert done.registers.command_buffer_offsets == (48, 48)
    assert [write.data[0] for write in done.writes] == [1, 2]
    assert [len(result.invalidations) for result in done.results] == [0, 1, 0]
    assert (done.events, done.interrupts) == ((), ())


@pytest.mark.parametrize("length", [8, 9, 15])
def test_the_ring_wraps_at_its_length(length: int) -> None:
    size = 16 << length
    memory = SparseMemory((Region(0, 1 << 20),))
    memory.write(COMMANDS + size - 16, store(1).to_bytes(16, "little"))
    memory.write(COMMANDS, store(2).to_bytes(16, "little"))
    state = registers(
        command_buffer_base=COMMANDS | length << 56, command_buffer_head=size - 16, command_buffer_tail=16
    )
    done = run_command_buffer(state, memory)
    assert [write.data[0] for write in done.writes] == [1, 2]
    assert done.registers.command_buffer_head == 16


def test_without_cmdbufrun_nothing_is_fetched() -> None:
    done = run(store(1), status=0)
    assert (done.results, done.registers.command_buffer_head) == ((), 0)


def test_an_illegal_command_stops_the_buffer_and_is_logged_2_5_6() -> None:
    done = run(store(1), 0xF << 60, store(2))
    assert [result.error for result in done.results] == [None, AmdviEventCode.ILLEGAL_COMMAND_ERROR]
    event = AmdviEvent.make(AmdviEventCode.ILLEGAL_COMMAND_ERROR, {"Address": COMMANDS + 16})
    assert done.events == (event,)
    assert done.writes[1:] == (MemoryWrite(EVENTS, event.encode()),)
    assert done.interrupts == (MESSAGE,)
    assert status_of(done.registers) == {"EventLogRun", "EventLogInt"}
    # It was fetched, so that head stands behind it.
    assert done.registers.command_buffer_head == 32


def test_a_store_that_fails_names_its_own_address_2_5_7() -> None:
    done = run(make_command(AmdviOpcode.COMPLETION_WAIT, {"s": 1, "StoreAddress": 0x7000_0000}))
    event = AmdviEvent.make(AmdviEventCode.COMMAND_HARDWARE_ERROR, {"Type": 1, "Address": 0x7000_0000})
    assert done.events == (event,)
    assert "CmdBufRun" not in status_of(done.registers)


def test_a_store_to_the_last_quadword_of_memory_is_done_2_4_1() -> None:
    last = (1 << 20) - 8
    done = run(make_command(AmdviOpcode.COMPLETION_WAIT, {"s": 1, "StoreAddress": last, "StoreData": 3}))
    assert done.writes == (MemoryWrite(last, (3).to_bytes(8, "little")),)


def test_a_command_that_cannot_be_fetched_leaves_head_where_it_is() -> None:
    done = run(0, command_buffer_base=0x7000_0000 | 8 << 56)
    event = AmdviEvent.make(AmdviEventCode.COMMAND_HARDWARE_ERROR, {"Type": 1, "Address": 0x7000_0000})
    assert done.events == (event,)
    assert done.registers.command_buffer_head == 0
    assert "CmdBufRun" not in status_of(done.registers)


def test_a_device_that_does_not_answer_times_out_and_the_buffer_goes_on_2_5_8() -> None:
    command = make_command(AmdviOpcode.INVALIDATE_IOTLB_PAGES, {"DeviceID": 5})
    done = run(command, store(1), silent=frozenset({5}))
    fields = {"DeviceID": 5, "Address": COMMANDS}
    assert done.events == (AmdviEvent.make(AmdviEventCode.IOTLB_INV_TIMEOUT, fields),)
    assert len(done.results) == 2
    assert run(command, silent=frozenset({6})).events == ()


@pytest.mark.parametrize("enabled", [False, True])
def test_completion_wait_with_i_sets_comwaitint(enabled: bool) -> None:
    control = CONTROL.encode({"ComWaitIntEn": int(enabled)})
    done = run(make_command(AmdviOpcode.COMPLETION_WAIT, {"i": 1}), control=control)
    assert "ComWaitInt" in status_of(done.registers)
    assert done.interrupts == (replace(MESSAGE, sending=Sending.SENT if enabled else Sending.DISABLED),)
    assert "ComWaitInt" not in status_of(run(store(1)).registers)


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16), st.integers(0, 15), st.integers(0, (1 << 64) - 1))
def test_any_ring_comes_to_its_tail_or_to_an_error(command: bytes, length: int, pointer: int) -> None:
    memory = SparseMemory((Region(0, 1 << 20),))
    size = 16 << length
    for number in range(4):
        memory.write(COMMANDS + ((pointer & 0x7FFF0) + 16 * number) % size, command)
    state = registers(
        command_buffer_base=COMMANDS | length << 56, command_buffer_head=pointer, command_buffer_tail=pointer >> 3
    )
    done = run_command_buffer(state, memory)
    head, tail = (offset % size for offset in done.registers.command_buffer_offsets)
    assert head == tail or not done.registers.is_set("CmdBufRun")
    assert done.registers.is_set("CmdBufRun") is (not done.results or done.results[-1].error is None)
