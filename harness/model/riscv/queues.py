"""The in-memory queues: faults that are reported, commands that are fetched, and the interrupts of both (4, 6.18).

Nothing is changed here: a `QueueStep` says what the registers become and what the IOMMU writes. Apply the writes to
memory before the next step.

An interrupt of the IOMMU itself is a write of msi_cfg_tbl's data to its address, untranslated; where this address is
beyond the physical ones, that is a fault of cause 273 of its own (6.29).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

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

__all__ = ["QueueStep", "append_record", "report_fault", "run_commands", "step_command"]

_MSI_ADDRESS = (1 << 56) - 4  # 6.29: bits 55:2


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


@dataclass(frozen=True, slots=True)
class _Queue:
    """What the fault queue and the page-request queue differ in: names of registers and bits."""

    prefix: str
    csr: Layout
    enable: str
    pending: str
    vector: str
    entry_size: int


_FAULTS = _Queue("fq", FQCSR, "fie", "fip", "fiv", RECORD_SIZE)
_PAGE_REQUESTS = _Queue("pq", PQCSR, "pie", "pip", "piv", 16)


def report_fault(registers: RiscvIommuRegisters, memory: Memory, record: RiscvIommuFaultRecord) -> QueueStep:
    """Queue a fault record, as far as the fault queue takes it (4.2, 6.16)."""
    return append_record(registers, memory, record.encode(big_endian=registers.big_endian))


def append_record(registers: RiscvIommuRegisters, memory: Memory, record: bytes) -> QueueStep:
    """Queue the bytes of a fault record (32) or of a page request (16), which tell the two queues apart.

    A queue that is off, or has an error bit set, takes nothing. A full one sets its overflow bit, memory that does not
    answer its memory-fault bit, and the record is lost. Each of these, and a new record, is an interrupt.
    """
    queue = _FAULTS if len(record) == RECORD_SIZE else _PAGE_REQUESTS
    csr = getattr(registers, f"{queue.prefix}csr")
    if not queue.csr[f"{queue.prefix}on"].get(csr) or _error_bits(queue.csr) & csr:
        return QueueStep(registers=registers)
    base, mask = _ring(getattr(registers, f"{queue.prefix}b"))
    tail = getattr(registers, f"{queue.prefix}t") & mask
    if tail + 1 & mask == getattr(registers, f"{queue.prefix}h") & mask:
        full = csr | queue.csr[f"{queue.prefix}of"].mask
        return _interrupt(_with(registers, f"{queue.prefix}csr", full), memory, queue)
    address = base + tail * queue.entry_size
    if not _is_there(registers, memory, address, queue.entry_size):
        lost = csr | queue.csr[f"{queue.prefix}mf"].mask
        return _interrupt(_with(registers, f"{queue.prefix}csr", lost), memory, queue)
    step = _interrupt(_with(registers, f"{queue.prefix}t", tail + 1 & mask), memory, queue)
    return replace(step, writes=(MemoryWrite(address, record), *step.writes))


def step_command(registers: RiscvIommuRegisters, memory: Memory, *, timed_out: bool = False) -> QueueStep | None:
    """Fetch and carry out the command at cqh (4.1, 6.15).

    None where the queue is empty, is off, or stands still because of an error bit.

    Args:
        registers: as they are.
        memory: where the queue is.
        timed_out: a device did not answer an ATS.INVAL: the next IOFENCE.C says so.
    """
    stopped = CQCSR["cqmf"].mask | CQCSR["cmd_to"].mask | CQCSR["cmd_ill"].mask
    base, mask = _ring(registers.cqb)
    head = registers.cqh & mask
    if not CQCSR["cqon"].get(registers.cqcsr) or registers.cqcsr & stopped or head == registers.cqt & mask:
        return None
    try:
        address = base + head * COMMAND_SIZE
        command = memory.read(address, COMMAND_SIZE) if not address >> registers.physical_address_size else b""
    except OutsideMemory:
        command = b""
    # cqh stays at a command that could not be fetched, is illegal, or did not complete.
    if not command:
        return _stop(registers, memory, CommandResult(error=RiscvIommuCommandError.MEMORY_FAULT))
    if timed_out and is_fence(registers, command):
        return _stop(registers, memory, CommandResult(error=RiscvIommuCommandError.TIMEOUT))
    result = execute(registers, memory, command)
    if result.error is not None:
        return _stop(registers, memory, result)
    after = replace(registers, cqh=head + 1 & mask)
    step = QueueStep(registers=after)
    if raises_wired_interrupt(registers, command):
        after = replace(after, cqcsr=after.cqcsr | CQCSR["fence_w_ip"].mask)
        step = _command_interrupt(after, memory)
    return replace(step, writes=(*result.writes, *step.writes), result=result)


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


def _stop(registers: RiscvIommuRegisters, memory: Memory, result: CommandResult) -> QueueStep:
    assert isinstance(result.error, RiscvIommuCommandError)
    stopped = replace(registers, cqcsr=registers.cqcsr | CQCSR[result.error.value].mask)
    return replace(_command_interrupt(stopped, memory), result=result)


def _command_interrupt(registers: RiscvIommuRegisters, memory: Memory) -> QueueStep:
    if not CQCSR["cie"].get(registers.cqcsr):
        return QueueStep(registers=registers)
    return _pend(registers, memory, "cip", "civ")


def _interrupt(registers: RiscvIommuRegisters, memory: Memory, queue: _Queue) -> QueueStep:
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
    record = RiscvIommuFaultRecord(
        cause=RiscvIommuCause.IOMMU_MSI_WRITE_ACCESS_FAULT,
        transaction_type=TransactionType.NONE,
        device_id=0,
        iotval=address,
    )
    return report_fault(registers, memory, record)


def _ring(base: int) -> tuple[int, int]:
    """Address of a queue, and the mask of its indexes (6.6)."""
    return QUEUE_BASE["PPN"].get(base) << 12, (2 << QUEUE_BASE["LOG2SZ-1"].get(base)) - 1


def _error_bits(csr: Layout) -> int:
    return sum(field.mask for field in csr.fields if field.name.endswith(("mf", "of")))


def _is_there(registers: RiscvIommuRegisters, memory: Memory, address: int, size: int) -> bool:
    if address + size > 1 << registers.physical_address_size:
        return False
    try:
        memory.read(address, size)
    except OutsideMemory:
        return False
    return True


def _with(registers: RiscvIommuRegisters, name: str, value: int) -> RiscvIommuRegisters:
    return replace(registers, **{name: value})  # type: ignore[arg-type]
