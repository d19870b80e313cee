"""The in-memory queues: faults that are reported, commands that are fetched, and the interrupts of both (4, 6.18).

Nothing is changed here: a `QueueStep` says what the registers become and what the IOMMU writes. Apply the writes to
memory before the next step.

An interrupt of the IOMMU itself is a write of msi_cfg_tbl's data to its address, untranslated; where this address is
beyond the physical ones, that is a fault of cause 273 of its own (6.29).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.model.access import MemoryWrite
from harness.model.bits import Layout
from harness.model.engine import CommandResult, Interrupt
from harness.model.memory import Memory, OutsideMemory
from harness.model.riscv.commands import (
    COMMAND_SIZE,
    RiscvIommuCommandError,
    execute,
    is_fence,
    raises_wired_interrupt,
)
from harness.model.riscv.faults import RECORD_SIZE, RiscvIommuCause, RiscvIommuFaultRecord, TransactionType
from harness.model.riscv.register_fields import CQCSR, FQCSR, ICVEC, IPSR, PQCSR, QUEUE_BASE
from harness.model.riscv.registers import RiscvIommuRegisters

__all__ = [
    "FAULT_QUEUE",
    "PAGE_REQUEST_QUEUE",
    "CommandQueue",
    "QueueStep",
    "RecordQueue",
    "Slot",
    "Taken",
    "append_record",
    "is_there",
    "message_fault",
    "next_slot",
    "report_fault",
    "ring",
    "run_commands",
    "step_command",
    "take_command",
    "waiting_writes",
]

_MSI_ADDRESS = (1 << 56) - 4  # 6.29: bits 55:2
_STOPPED = CQCSR["cqmf"].mask | CQCSR["cmd_to"].mask | CQCSR["cmd_ill"].mask
_CQON = CQCSR["cqon"].mask


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStep:
    """What an event at a queue leads to.

    Attributes:
        registers: as they are afterwards.
        writes: records and status that the IOMMU stores.
        interrupts: messages that it sends.
        result: of the command that was fetched; None for other events.
    """

    registers: RiscvIommuRegisters
    writes: tuple[MemoryWrite, ...] = ()
    interrupts: tuple[Interrupt, ...] = ()
    result: CommandResult | None = None


class RecordQueue(NamedTuple):
    """What the fault queue and the page-request queue differ in: names of registers and bits.

    Attributes:
        prefix: of its registers' names.
        csr: layout of its control and status register.
        active: that it is on.
        overflow, memory_fault: that it has stopped.
        enable, pending, vector: names of its interrupt's fields in csr, ipsr and icvec.
        entry_size: bytes.
    """

    prefix: str
    csr: Layout
    active: int
    overflow: int
    memory_fault: int
    enable: str
    pending: str
    vector: str
    entry_size: int


def _record_queue(letter: str, csr: Layout, entry_size: int) -> RecordQueue:
    on, overflow, fault = (csr[f"{letter}q{name}"].mask for name in ("on", "of", "mf"))
    return RecordQueue(f"{letter}q", csr, on, overflow, fault, f"{letter}ie", f"{letter}ip", f"{letter}iv", entry_size)


FAULT_QUEUE = _record_queue("f", FQCSR, RECORD_SIZE)
PAGE_REQUEST_QUEUE = _record_queue("p", PQCSR, 16)


class Slot(NamedTuple):
    """Where a queue takes its next record.

    Attributes:
        csr: its control and status register afterwards.
        tail: likewise.
        address: of the record; None where the queue is full.
    """

    csr: int
    tail: int
    address: int | None


class CommandQueue(NamedTuple):
    """The registers of the command queue: cqb, cqh, cqt, cqcsr."""

    base: int
    head: int
    tail: int
    csr: int


class Taken(NamedTuple):
    """A command that was fetched and carried out, or at which the queue stopped.

    Attributes:
        command: its bytes; empty where it could not be fetched.
        result: of it.
        head: cqh afterwards.
        csr: cqcsr afterwards.
        interrupts: whether the queue has something to tell of it: cqcsr.cie says whether it may.
    """

    command: bytes
    result: CommandResult
    head: int
    csr: int
    interrupts: bool


def ring(base: int) -> tuple[int, int]:
    """Address of a queue, and the mask of its indexes, from cqb, fqb or pqb (6.6)."""
    return QUEUE_BASE["PPN"].get(base) << 12, (2 << QUEUE_BASE["LOG2SZ-1"].get(base)) - 1


def next_slot(queue: RecordQueue, base: int, head: int, tail: int, csr: int) -> Slot | None:
    """Where the next record goes, given the registers of the queue; None while it takes nothing (6.16, 6.17)."""
    if csr & (queue.active | queue.overflow | queue.memory_fault) != queue.active:
        return None
    start, mask = ring(base)
    tail &= mask
    if tail + 1 & mask == head & mask:
        return Slot(csr | queue.overflow, tail, None)
    return Slot(csr, tail + 1 & mask, start + tail * queue.entry_size)


def is_there(registers: RiscvIommuRegisters, memory: Memory, address: int, size: int) -> bool:
    """Whether the IOMMU can access memory."""
    if address + size > 1 << registers.physical_address_size:
        return False
    try:
        memory.read(address, size)
    except OutsideMemory:
        return False
    return True


def message_fault(address: int) -> RiscvIommuFaultRecord:
    """The record of an interrupt message of the IOMMU itself that could not be written (6.29)."""
    return RiscvIommuFaultRecord(
        cause=RiscvIommuCause.IOMMU_MSI_WRITE_ACCESS_FAULT,
        transaction_type=TransactionType.NONE,
        device_id=0,
        iotval=address,
    )


def report_fault(registers: RiscvIommuRegisters, memory: Memory, record: RiscvIommuFaultRecord) -> QueueStep:
    """Queue a fault record, as far as the fault queue takes it (4.2, 6.16)."""
    return append_record(registers, memory, record.encode(big_endian=registers.big_endian))


def append_record(registers: RiscvIommuRegisters, memory: Memory, record: bytes) -> QueueStep:
    """Queue the bytes of a fault record (32) or of a page request (16), which tell the two queues apart.

    A queue that is off, or has an error bit set, takes nothing. A full one sets its overflow bit, memory that does not
    answer its memory-fault bit, and the record is lost. Each of these, and a new record, is an interrupt.
    """
    queue = FAULT_QUEUE if len(record) == RECORD_SIZE else PAGE_REQUEST_QUEUE
    base, head, tail, csr = (getattr(registers, f"{queue.prefix}{name}") for name in ("b", "h", "t", "csr"))
    slot = next_slot(queue, base, head, tail, csr)
    if slot is None:
        return QueueStep(registers=registers)
    if slot.address is None:
        return _interrupt(_with(registers, f"{queue.prefix}csr", slot.csr), memory, queue)
    if not is_there(registers, memory, slot.address, queue.entry_size):
        return _interrupt(_with(registers, f"{queue.prefix}csr", csr | queue.memory_fault), memory, queue)
    step = _interrupt(_with(registers, f"{queue.prefix}t", slot.tail), memory, queue)
    return replace(step, writes=(MemoryWrite(slot.address, record), *step.writes))


def take_command(
    registers: RiscvIommuRegisters, memory: Memory, queue: CommandQueue, *, timed_out: bool = False
) -> Taken | None:
    """Fetch and carry out the command at the head of the queue (4.1, 6.15). What it writes is in its result.

    None where the queue is empty, is off, or stands still because of an error bit.

    Args:
        registers: capabilities, fctl and ddtp of them.
        memory: where the queue is.
        queue: its registers.
        timed_out: a device did not answer an ATS.INVAL: the next IOFENCE.C says so.
    """
    base, mask = ring(queue.base)
    head, csr = queue.head & mask, queue.csr
    if csr & (_CQON | _STOPPED) != _CQON or head == queue.tail & mask:
        return None
    try:
        address = base + head * COMMAND_SIZE
        command = memory.read(address, COMMAND_SIZE) if not address >> registers.physical_address_size else b""
    except OutsideMemory:
        command = b""
    if not command:
        result = CommandResult(error=RiscvIommuCommandError.MEMORY_FAULT)
    elif timed_out and is_fence(registers, command):
        result = CommandResult(error=RiscvIommuCommandError.TIMEOUT)
    else:
        result = execute(registers, memory, command)
    if result.error is not None:
        # cqh stays at a command that could not be fetched, is illegal, or did not complete.
        assert isinstance(result.error, RiscvIommuCommandError)
        return Taken(command, result, queue.head, csr | CQCSR[result.error.value].mask, True)
    wired = raises_wired_interrupt(registers, command)
    return Taken(command, result, head + 1 & mask, csr | (CQCSR["fence_w_ip"].mask if wired else 0), wired)


def waiting_writes(registers: RiscvIommuRegisters, memory: Memory, queue: CommandQueue) -> Iterator[MemoryWrite]:
    """What the commands in the ring would write, but for the one at which the queue stands still."""
    _, mask = ring(queue.base)
    for count in range(1, mask + 1):
        taken = take_command(registers, memory, queue._replace(head=queue.head + count, tail=queue.head, csr=_CQON))
        if taken is not None:
            yield from taken.result.writes


def step_command(registers: RiscvIommuRegisters, memory: Memory, *, timed_out: bool = False) -> QueueStep | None:
    """Fetch and carry out the command at cqh; see `take_command`."""
    queue = CommandQueue(registers.cqb, registers.cqh, registers.cqt, registers.cqcsr)
    taken = take_command(registers, memory, queue, timed_out=timed_out)
    if taken is None:
        return None
    step = QueueStep(registers=replace(registers, cqh=taken.head, cqcsr=taken.csr))
    if taken.interrupts:
        step = _command_interrupt(step.registers, memory)
    return replace(step, writes=(*taken.result.writes, *step.writes), result=taken.result)


def run_commands(
    registers: RiscvIommuRegisters, memory: Memory, apply: Callable[[MemoryWrite], None], *, timed_out: bool = False
) -> Iterator[QueueStep]:
    """Every step until the queue is empty or stops.

    Args:
        registers: as they are at first.
        memory: where the queue is.
        apply: does the writes of a step, before the next.
        timed_out: see `step_command`.
    """
    while (step := step_command(registers, memory, timed_out=timed_out)) is not None:
        for write in step.writes:
            apply(write)
        yield step
        registers = step.registers


def _command_interrupt(registers: RiscvIommuRegisters, memory: Memory) -> QueueStep:
    if not CQCSR["cie"].get(registers.cqcsr):
        return QueueStep(registers=registers)
    return _pend(registers, memory, "cip", "civ")


def _interrupt(registers: RiscvIommuRegisters, memory: Memory, queue: RecordQueue) -> QueueStep:
    if not queue.csr[queue.enable].get(getattr(registers, f"{queue.prefix}csr")):
        return QueueStep(registers=registers)
    return _pend(registers, memory, queue.pending, queue.vector)


def _pend(registers: RiscvIommuRegisters, memory: Memory, pending: str, vector: str) -> QueueStep:
    """Set a bit of ipsr; where it was 0 and interrupts are messages, send one (6.18)."""
    bit = IPSR[pending].mask
    if registers.ipsr & bit:
        return QueueStep(registers=registers)
    registers = replace(registers, ipsr=registers.ipsr | bit)
    number = ICVEC[vector].get(registers.icvec)
    if registers.wired_interrupts or number >= len(registers.msi_cfg_tbl):
        return QueueStep(registers=registers)
    entry = registers.msi_cfg_tbl[number]
    # 6.29: bit 0 of the vector control masks it.
    if entry.control & 1:
        return QueueStep(registers=registers)
    address = entry.address & _MSI_ADDRESS
    if not address >> registers.physical_address_size:
        return QueueStep(registers=registers, interrupts=(Interrupt(address, entry.data, remapped=False),))
    return report_fault(registers, memory, message_fault(address))


def _with(registers: RiscvIommuRegisters, name: str, value: int) -> RiscvIommuRegisters:
    return replace(registers, **{name: value})  # type: ignore[arg-type]
