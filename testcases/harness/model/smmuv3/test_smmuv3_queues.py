"""The Command queue and the Event queue (IHI 0070 3.5, 7.1, 7.2, 7.4, 7.5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smmuv3_unit import ENABLED, NOWHERE, SID, Unit, record_of

from harness.model.access import MemoryWrite
from harness.model.memory import SparseMemory
from harness.model.smmuv3 import (
    Smmuv3CommandError,
    Smmuv3Engine,
    Smmuv3Event,
    Smmuv3Opcode,
    Smmuv3Registers,
    consume_commands,
    record_event,
)
from harness.model.smmuv3.commands import command_bits
from harness.model.smmuv3.queues import ConsumedCommands

QUEUE = 0x30_0000
OVFLG = 1 << 31
CMDQ_ERR, EVENTQ_ABT_ERR = 1 << 0, 1 << 2
SYNC = command_bits(Smmuv3Opcode.CMD_SYNC)
FLUSH = command_bits(Smmuv3Opcode.CMD_TLBI_NSNH_ALL)
ATC_INV = command_bits(Smmuv3Opcode.CMD_ATC_INV, STREAMID=SID)


def changed(registers: Smmuv3Registers, **values: int) -> Smmuv3Registers:
    return replace(registers, **values)  # type: ignore[arg-type]


def make(commands: list[int], *, start: int = 0, bits: int = 2, **values: int) -> tuple[Smmuv3Registers, SparseMemory]:
    """A Command queue of 2^bits entries with these commands in it, from an index with wrap flag on."""
    unit = Unit("", caps={"MSI": 1, "ATS": 1})
    for number, command in enumerate(commands):
        at = QUEUE + (start + number) % (1 << bits) * 16
        unit.memory.write(at, command.to_bytes(16, "little"))
    registers = changed(
        unit.all_registers(),
        cmdq_base=QUEUE | bits,
        cmdq_prod=(start + len(commands)) % (2 << bits),
        cmdq_cons=start,
        eventq_base=QUEUE | bits,
        **values,
    )
    return registers, unit.memory


def consume(registers: Smmuv3Registers, memory: SparseMemory, *, endpoints_answer: bool = True) -> ConsumedCommands:
    return consume_commands(
        registers, memory, Smmuv3Engine(registers, memory).submit, endpoints_answer=endpoints_answer
    )


@pytest.mark.parametrize("start", range(8))
def test_commands_are_taken_in_order_and_the_index_wraps_3_5_1(start: int) -> None:
    registers, memory = make([FLUSH, SYNC, FLUSH, SYNC], start=start)
    result = consume(registers, memory)
    assert [bool(each.invalidations) for each in result.results] == [True, False, True, False]
    assert result.registers.cmdq_cons == registers.cmdq_prod
    assert consume(result.registers, memory).results == ()


def test_queue_of_one_entry_has_only_a_wrap_flag_3_5_1() -> None:
    registers, memory = make([FLUSH], start=1, bits=0)
    assert consume(registers, memory).registers.cmdq_cons == 0


def test_illegal_command_stops_the_queue_at_itself_7_1() -> None:
    registers, memory = make([FLUSH, 0xFF, FLUSH], start=3)
    result = consume(registers, memory)
    assert result.results[-1].error is Smmuv3CommandError.CERROR_ILL
    assert len(result.results) == 2
    assert result.registers.cmdq_cons == 1 << 24 | 4
    assert result.registers.gerror == CMDQ_ERR
    # 7.1: nothing is taken until the error is acknowledged; then from the same command on.
    assert consume(result.registers, memory).results == ()
    memory.write(QUEUE, FLUSH.to_bytes(16, "little"))
    after = consume(replace(result.registers, gerrorn=CMDQ_ERR), memory)
    assert len(after.results) == 2
    assert after.registers.cmdq_cons & 0xF == registers.cmdq_prod


def test_unreadable_command_is_an_abort_7_1() -> None:
    registers, memory = make([FLUSH])
    result = consume(replace(registers, cmdq_base=NOWHERE | 2), memory)
    assert [each.error for each in result.results] == [Smmuv3CommandError.CERROR_ABT]
    assert result.registers.cmdq_cons == 2 << 24


def test_sync_after_an_unanswered_device_tlb_invalidation_fails_3_9_1_4() -> None:
    registers, memory = make([ATC_INV, FLUSH, SYNC])
    result = consume(registers, memory, endpoints_answer=False)
    assert result.results[-1].error is Smmuv3CommandError.CERROR_ATC_INV_SYNC
    assert result.registers.cmdq_cons == 3 << 24 | 2
    assert consume(registers, memory).registers.cmdq_cons == 3
    # Endpoints answer unless it is said that they do not.
    submit = Smmuv3Engine(registers, memory).submit
    assert consume_commands(registers, memory, submit).registers.cmdq_cons == 3
    registers, memory = make([FLUSH, SYNC])
    assert consume(registers, memory, endpoints_answer=False).registers.cmdq_cons == 2
    # 4.5.1: with SMMUEN 0 nothing is sent, and nothing waits for an answer.
    registers, memory = make([ATC_INV, SYNC], cr0=ENABLED & ~1)
    assert consume(registers, memory, endpoints_answer=False).registers.cmdq_cons == 2


@pytest.mark.parametrize("values", [{"cr0": 1}, {"gerror": CMDQ_ERR}, {"cmdq_cons": 2}])
def test_queue_that_is_off_in_error_or_inconsistent_is_left_alone_4_1_2(values: dict[str, int]) -> None:
    registers, memory = make([FLUSH])
    registers = changed(registers, **values)
    assert consume(registers, memory) == ConsumedCommands(registers=registers, results=())


def test_error_is_told_by_a_message_7_5_1() -> None:
    registers, memory = make([0xFF], irq_ctrl=1, gerror_irq_cfg0=0x0808_0040, gerror_irq_cfg1=9)
    assert consume(registers, memory).messages == (MemoryWrite(0x0808_0040, b"\x09\0\0\0"),)
    assert consume(replace(registers, irq_ctrl=0), memory).messages == ()


# The Event queue.


def event() -> Smmuv3Event:
    return record_of(Unit().access(iova=0x1000))


@pytest.mark.parametrize("start", range(8))
def test_event_is_written_and_the_index_moves_7_2(start: int) -> None:
    registers, memory = make([], eventq_prod=start, eventq_cons=start)
    result = record_event(registers, memory, event())
    assert result.recorded
    assert result.writes == (MemoryWrite(QUEUE + start % 4 * 32, event().encode()),)
    assert result.registers == replace(registers, eventq_prod=(start + 1) % 8)


def test_full_queue_overflows_once_until_it_is_acknowledged_7_4() -> None:
    registers, memory = make([], eventq_prod=4, eventq_cons=0)
    result = record_event(registers, memory, event())
    assert not result.recorded
    assert result.writes == ()
    assert result.registers.eventq_prod == OVFLG | 4
    assert record_event(result.registers, memory, event()).registers == result.registers
    acknowledged = replace(result.registers, eventq_cons=OVFLG)
    assert record_event(acknowledged, memory, event()).registers.eventq_prod == 4
    # 7.4: with room again events are recorded, acknowledged or not, and OVFLG stays.
    room = record_event(replace(result.registers, eventq_cons=2), memory, event())
    assert room.recorded
    assert room.registers.eventq_prod == OVFLG | 5


def test_stall_record_is_not_discarded_and_makes_no_overflow_7_4() -> None:
    registers, memory = make([], eventq_prod=4, eventq_cons=0)
    result = record_event(registers, memory, replace(event(), stall=True))
    assert not result.recorded
    assert result.registers == registers


@pytest.mark.parametrize("values", [{"cr0": ENABLED & ~4, "eventq_prod": 4}, {"gerror": EVENTQ_ABT_ERR}])
def test_queue_that_is_off_or_aborted_takes_nothing_and_does_not_overflow_7_2_1(values: dict[str, int]) -> None:
    registers, memory = make([])
    registers = changed(registers, **values)
    result = record_event(registers, memory, event())
    assert not result.recorded
    assert result.registers == registers


def test_unwritable_memory_is_a_global_error_7_2_2() -> None:
    registers, memory = make([], irq_ctrl=5, gerror_irq_cfg0=0x40, eventq_irq_cfg0=0x80)
    result = record_event(replace(registers, eventq_base=NOWHERE | 2), memory, event())
    assert result.registers.gerror == EVENTQ_ABT_ERR
    assert result.registers.eventq_prod == 0
    assert (result.recorded, result.writes) == (False, ())
    assert [message.address for message in result.messages] == [0x40]


def test_interrupt_comes_when_the_queue_stops_being_empty_3_18_2() -> None:
    registers, memory = make([], irq_ctrl=4, eventq_irq_cfg0=0x80, eventq_irq_cfg1=7)
    first = record_event(registers, memory, event())
    assert first.messages == (MemoryWrite(0x80, b"\x07\0\0\0"),)
    assert record_event(first.registers, memory, event()).messages == ()


@given(
    prod=st.integers(0, (1 << 32) - 1),
    cons=st.integers(0, (1 << 32) - 1),
    base=st.integers(0, (1 << 64) - 1),
    gerror=st.integers(0, (1 << 32) - 1),
    bits=st.integers(0, 5),
)
def test_any_queue_registers_lead_to_a_result(prod: int, cons: int, base: int, gerror: int, bits: int) -> None:
    registers, memory = make([])
    base = base & ~31 | bits
    values = {"cmdq_prod": prod, "cmdq_cons": cons, "cmdq_base": base, "gerror": gerror}
    values |= {"eventq_prod": prod, "eventq_cons": cons, "eventq_base": base}
    registers = changed(registers, **values)
    assert len(consume(registers, memory).results) <= 32
    assert record_event(registers, memory, event()).registers.eventq_base == base
