"""The Command queue and the Event queue: what an SMMU takes from one and puts into the other (IHI 0070 3.5, 7).

Nothing is changed: results hold the registers as they are afterwards, and the writes to memory. Choices that IHI 0070
leaves open: queues whose indexes are inconsistent are left alone (3.5.1), and an aborted write of an event is
seen at once, so that PROD does not move (7.2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.model.access import MemoryWrite
from harness.model.engine import CommandResult
from harness.model.memory import Memory, OutsideMemory
from harness.model.smmuv3.commands import COMMAND_SIZE, Smmuv3CommandError, Smmuv3Opcode
from harness.model.smmuv3.events import EVENT_SIZE, Smmuv3Event
from harness.model.smmuv3.registers import GERROR, QUEUE_CONS, QUEUE_PROD, Queue, Smmuv3Registers

__all__ = ["ConsumedCommands", "RecordedEvent", "consume_commands", "next_producer", "record_event", "take_commands"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumedCommands:
    """What became of the commands that waited in the queue.

    Attributes:
        registers: afterwards: CMDQ_CONS, and GERROR after an error.
        results: of each command, in order; the last one holds the error that stopped the queue, if any did.
        messages: interrupts of the SMMU itself: writes of 32 bits to physical addresses. (Those of CMD_SYNC are in the
            results.)
    """

    registers: Smmuv3Registers
    results: tuple[CommandResult, ...]
    messages: tuple[MemoryWrite, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """What became of an event.

    Attributes:
        registers: afterwards: EVENTQ_PROD, and GERROR after an abort.
        recorded: whether it is in the queue. One of a stalled transaction that is not waits to be put again.
        writes: the record.
        messages: interrupts, as of `ConsumedCommands`.
    """

    registers: Smmuv3Registers
    recorded: bool
    writes: tuple[MemoryWrite, ...] = ()
    messages: tuple[MemoryWrite, ...] = ()


def consume_commands(
    registers: Smmuv3Registers,
    memory: Memory,
    submit: Callable[[int], CommandResult],
    *,
    endpoints_answer: bool = True,
) -> ConsumedCommands:
    """Take commands until the queue is empty or one is refused (4.1.2, 7.1).

    Args:
        registers: with the queue; nothing is taken unless CR0.CMDQEN is set and no CMDQ_ERR is active.
        memory: where the queue is.
        submit: `Smmuv3Engine.submit`.
        endpoints_answer: false where a device does not answer an invalidation of its TLB: the next CMD_SYNC fails.
    """
    queue = registers.command_queue
    if not registers.commands_enabled or registers.error_is_active("CMDQ_ERR") or queue.used > queue.size:
        return ConsumedCommands(registers=registers, results=())
    consumer, results = take_commands(queue, memory, submit, endpoints_answer=endpoints_answer)
    return _consumed(registers, consumer, results)


def take_commands(
    queue: Queue,
    memory: Memory,
    submit: Callable[[int], CommandResult],
    *,
    endpoints_answer: bool = True,
) -> tuple[int, list[CommandResult]]:
    """The read index afterwards, and the result of each command; the last one may be an error, that stopped the queue.

    Args:
        queue: whose indexes are consistent.
        memory: where it is.
        submit: takes one command, after the effects of those before it.
        endpoints_answer: see `consume_commands`.
    """
    results: list[CommandResult] = []
    consumer = queue.consumer
    unanswered = False
    for _ in range(queue.used):
        try:
            data = memory.read(queue.base + (consumer & queue.size - 1) * COMMAND_SIZE, COMMAND_SIZE)
        except OutsideMemory:
            results.append(CommandResult(error=Smmuv3CommandError.CERROR_ABT))
            break
        result = submit(int.from_bytes(data, "little"))
        if data[0] == Smmuv3Opcode.CMD_SYNC and unanswered and result.error is None:
            # 3.9.1.4: the CMD_SYNC that waits for an invalidation which timed out.
            result = CommandResult(error=Smmuv3CommandError.CERROR_ATC_INV_SYNC)
        results.append(result)
        if result.error is not None:
            break
        if data[0] == Smmuv3Opcode.CMD_ATC_INV:
            unanswered = not endpoints_answer and bool(result.invalidations)
        consumer = consumer + 1 & (2 * queue.size - 1)
    return consumer, results


def _consumed(registers: Smmuv3Registers, consumer: int, results: list[CommandResult]) -> ConsumedCommands:
    error = results[-1].error if results else None
    if error is None:
        # The ERR field is unknown while no error is active; it is left as it was.
        cons = registers.cmdq_cons & ~QUEUE_CONS["RD"].mask | consumer
        return ConsumedCommands(registers=replace(registers, cmdq_cons=cons), results=tuple(results))
    # 7.1: RD stays at the command, ERR says why, and CMDQ_ERR becomes active.
    cons = QUEUE_CONS.encode({"RD": consumer, "ERR": int(error.value)})
    after, messages = _activate(replace(registers, cmdq_cons=cons), "CMDQ_ERR")
    return ConsumedCommands(registers=after, results=tuple(results), messages=messages)


def record_event(registers: Smmuv3Registers, memory: Memory, event: Smmuv3Event) -> RecordedEvent:
    """Put an event into the Event queue, if it is writable (7.2.1).

    Args:
        registers: with the queue.
        memory: asked whether the entry is there; it is not written.
        event: a `Fault.record`.
    """
    queue = registers.event_queue
    if not registers.events_enabled or registers.error_is_active("EVENTQ_ABT_ERR"):
        return RecordedEvent(registers=registers, recorded=False)
    if queue.used >= queue.size:
        # 7.4: an event that is discarded makes an overflow; that of a stalled transaction is not discarded.
        after = registers if event.stall else _overflowed(registers)
        return RecordedEvent(registers=after, recorded=False)
    address = queue.base + (queue.producer & queue.size - 1) * EVENT_SIZE
    try:
        memory.read(address, EVENT_SIZE)
    except OutsideMemory:
        # 7.2.2: the abort is a global error, and PROD does not move.
        after, messages = _activate(registers, "EVENTQ_ABT_ERR")
        return RecordedEvent(registers=after, recorded=False, messages=messages)
    after = replace(registers, eventq_prod=next_producer(registers.eventq_prod, queue))
    # 3.18.2: the interrupt is sent when the queue stops being empty.
    message = registers.message("eventq") if not queue.used else None
    return RecordedEvent(
        registers=after,
        recorded=True,
        writes=(MemoryWrite(address, event.encode()),),
        messages=(message,) if message else (),
    )


def next_producer(prod: int, queue: Queue) -> int:
    """EVENTQ_PROD after one more entry: the index wraps into its flag, OVFLG stays."""
    return prod & ~QUEUE_PROD["WR"].mask | queue.producer + 1 & (2 * queue.size - 1)


def _overflowed(registers: Smmuv3Registers) -> Smmuv3Registers:
    """OVFLG toggled, unless an overflow waits to be acknowledged already (7.4)."""
    flag = QUEUE_PROD["OVFLG"].mask
    if (registers.eventq_prod ^ registers.eventq_cons) & flag:
        return registers
    return replace(registers, eventq_prod=registers.eventq_prod ^ flag)


def _activate(registers: Smmuv3Registers, error: str) -> tuple[Smmuv3Registers, tuple[MemoryWrite, ...]]:
    """GERROR with an error made active, and the interrupt that tells of it (7.5)."""
    message = registers.message("gerror")
    after = replace(registers, gerror=registers.gerror ^ GERROR[error].mask)
    return after, (message,) if message else ()
