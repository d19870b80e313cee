"""The command buffer and the event log: rings in memory with head and tail registers (AMD-Vi 2.4 and 2.5).

Nothing is changed: each function says which registers there are afterwards, what is written to memory, and which
message tells of it. Commands are fetched one after the other; the head pointer goes on when a command has been fetched,
so that after an illegal one it stands behind it, and on one that could not be fetched. A ring length below 8, which is
reserved, is taken as it stands: 2^Len entries.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.model.access import MemoryWrite
from harness.model.amdvi.commands import COMMAND_SIZE, COMMANDS, AmdviCommands, AmdviOpcode, iommu_interrupt
from harness.model.amdvi.events import EVENT_SIZE, AmdviEvent, AmdviEventCode, HardwareErrorType
from harness.model.amdvi.register_fields import BUFFER_BASE, BUFFER_POINTER, STATUS
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.engine import CommandResult, MsiWrite, Sending
from harness.model.memory import Memory, OutsideMemory

__all__ = [
    "CommandBufferRun",
    "EventLogged",
    "LogEntry",
    "log_event",
    "next_log_entry",
    "own_message",
    "read_events",
    "ring",
    "run_command_buffer",
    "stores_to_come",
]

_EVENT_OVERFLOW, _EVENT_LOG_INT, _EVENT_LOG_RUN = (
    STATUS[name].mask for name in ("EventOverflow", "EventLogInt", "EventLogRun")
)
_POINTER = BUFFER_POINTER["Pointer"].mask


class LogEntry(NamedTuple):
    """Where the next event goes.

    Attributes:
        address: of the entry; None where the event is lost.
        tail: tail pointer afterwards.
        status: status register afterwards.
        interrupts: whether EventLogInt or EventOverflow becomes 1.
    """

    address: int | None
    tail: int
    status: int
    interrupts: bool

    def messages(self, message: MsiWrite | None, *, enabled: bool) -> tuple[MsiWrite, ...]:
        """What tells of it: the message of the IOMMU's own, as EventIntEn is; see `own_message`."""
        if self.address is None and not self.interrupts:
            return ()
        return own_message(message, enabled=enabled, is_told=not self.interrupts)


@dataclass(frozen=True, slots=True)
class EventLogged:
    """What writing an event down leads to.

    Attributes:
        registers: afterwards.
        writes: the entry; empty where it is lost.
        interrupts: that of the event log; empty where there is nothing to tell.
    """

    registers: AmdviRegisters
    writes: tuple[MemoryWrite, ...] = ()
    interrupts: tuple[MsiWrite, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandBufferRun:
    """What the commands between head and tail lead to.

    Attributes:
        registers: afterwards.
        commands: that were fetched, in order.
        results: of each command, in order; the last one may be an error, that of a fetch among them.
        events: that were caused, logged or not.
        writes: to memory, in order: completion stores and event log entries.
        interrupts: in order, with whether they are sent.
    """

    registers: AmdviRegisters
    commands: tuple[int, ...]
    results: tuple[CommandResult, ...]
    events: tuple[AmdviEvent, ...]
    writes: tuple[MemoryWrite, ...]
    interrupts: tuple[MsiWrite, ...]


def next_log_entry(base: int, head: int, tail: int, status: int) -> LogEntry:
    """Take room in the event log for one event (AMD-Vi 2.5).

    A log that is full loses it: EventOverflow is set and EventLogRun cleared.

    Args:
        base: event log base register.
        head: head pointer register.
        tail: tail pointer register.
        status: status register.
    """
    if status & (_EVENT_LOG_RUN | _EVENT_OVERFLOW) != _EVENT_LOG_RUN:
        return LogEntry(None, tail, status, False)
    start, size = ring(base, EVENT_SIZE)
    head, at = (head & _POINTER) % size, (tail & _POINTER) % size
    following = (at + EVENT_SIZE) % size
    if following == head:
        return LogEntry(None, tail, (status | _EVENT_OVERFLOW) & ~_EVENT_LOG_RUN, True)
    return LogEntry(start + at, following, status | _EVENT_LOG_INT, not status & _EVENT_LOG_INT)


def log_event(registers: AmdviRegisters, event: AmdviEvent) -> EventLogged:
    """Write an event into the event log: `next_log_entry`, and the interrupt where EventIntEn is set."""
    entry = next_log_entry(
        registers.event_log_base, registers.event_log_head, registers.event_log_tail, registers.status
    )
    if (entry.tail, entry.status) == (registers.event_log_tail, registers.status):
        return EventLogged(registers)
    after = replace(registers, event_log_tail=entry.tail, status=entry.status)
    writes = () if entry.address is None else (MemoryWrite(entry.address, event.encode()),)
    interrupts = entry.messages(iommu_interrupt(registers), enabled=bool(registers.controls("EventIntEn")))
    return EventLogged(after, writes, interrupts)


def own_message(message: MsiWrite | None, *, enabled: bool, is_told: bool) -> tuple[MsiWrite, ...]:
    """The message that tells of an event or a completed wait, with whether it is sent.

    An interrupt is generated when a bit of the status register and its enable are both 1 (AMD-Vi 3.4). How often, while
    both stay so, is not said: VirtualBox, openvmm and QEMU send one for each event, of hardware Linux says that a bit
    that is still set keeps the next one back (amd_iommu_handle_irq, erratum 1312). So that one is optional.

    Args:
        message: of the IOMMU's own; None where it cannot send any.
        enabled: by the control register.
        is_told: the bit was 1 before.
    """
    if message is None:
        return ()
    sending = Sending.DISABLED if not enabled else Sending.OPTIONAL if is_told else Sending.SENT
    return (replace(message, sending=sending),)


def read_events(registers: AmdviRegisters, memory: Memory) -> tuple[AmdviEvent, ...]:
    """The events between head and tail, oldest first, as a driver finds them.

    Raises:
        OutsideMemory: the log, or a part of it, is not in memory.
    """
    base, size = ring(registers.event_log_base, EVENT_SIZE)
    head, tail = (offset % size for offset in registers.event_log_offsets)
    count = (tail - head) % size // EVENT_SIZE
    return tuple(
        AmdviEvent.decode(memory.read(base + (head + number * EVENT_SIZE) % size, EVENT_SIZE))
        for number in range(count)
    )


def run_command_buffer(
    registers: AmdviRegisters, memory: Memory, *, silent: Container[int] = frozenset()
) -> CommandBufferRun:
    """Fetch and carry out every command from head to tail (AMD-Vi 2.4).

    It ends at the tail, or at the first error, which clears CmdBufRun. Without CmdBufRun nothing is fetched.

    Args:
        registers: as they are.
        memory: where buffer and log are; read only.
        silent: DeviceIDs that do not answer an invalidation of their IOTLB, so that it times out.
    """
    unit = AmdviCommands(registers, memory)
    commands: list[int] = []
    results: list[CommandResult] = []
    events: list[AmdviEvent] = []
    writes: list[MemoryWrite] = []
    interrupts: list[MsiWrite] = []
    base, size = ring(registers.command_buffer_base, COMMAND_SIZE)
    head, tail = (offset % size for offset in registers.command_buffer_offsets)
    while registers.is_set("CmdBufRun") and head != tail:
        address = base + head
        event: AmdviEvent | None = None
        try:
            command = int.from_bytes(memory.read(address, COMMAND_SIZE), "little")
        except OutsideMemory:
            result = CommandResult(error=AmdviEventCode.COMMAND_HARDWARE_ERROR)
            event = _error(AmdviEventCode.COMMAND_HARDWARE_ERROR, address)
        else:
            head = (head + COMMAND_SIZE) % size
            registers = replace(registers, command_buffer_head=head)
            commands.append(command)
            result = unit.submit(command)
            event = _event_of(command, result, address, silent)
        results.append(result)
        writes += result.writes
        if result.error is None and _raises_wait_interrupt(command):
            enabled, is_told = bool(registers.controls("ComWaitIntEn")), registers.is_set("ComWaitInt")
            interrupts += own_message(iommu_interrupt(registers), enabled=enabled, is_told=is_told)
            registers = replace(registers, status=_with(registers.status, ComWaitInt=1))
        if result.error is not None:
            registers = replace(registers, status=_with(registers.status, CmdBufRun=0))
        if event is not None:
            events.append(event)
            logged = log_event(registers, event)
            registers = logged.registers
            writes += logged.writes
            interrupts += logged.interrupts
    return CommandBufferRun(registers, tuple(commands), tuple(results), tuple(events), tuple(writes), tuple(interrupts))


def stores_to_come(base: int, head: int, tail: int, memory: Memory) -> frozenset[int]:
    """Where the commands would store that stand in the buffer and have not been fetched.

    Args:
        base: command buffer base register.
        head: head pointer register.
        tail: tail pointer register.
        memory: where the buffer is.
    """
    start, size = ring(base, COMMAND_SIZE)
    found: set[int] = set()
    while head != tail and head < size:
        try:
            command = int.from_bytes(memory.read(start + head, COMMAND_SIZE), "little")
        except OutsideMemory:
            break
        fields = dict(COMMANDS[AmdviOpcode.COMPLETION_WAIT].decode(command))
        if fields["Opcode"] == AmdviOpcode.COMPLETION_WAIT and fields["s"]:
            found.add(fields["StoreAddress"])
        head = (head + COMMAND_SIZE) % size
    return frozenset(found)


def _event_of(command: int, result: CommandResult, address: int, silent: Container[int]) -> AmdviEvent | None:
    if isinstance(result.error, AmdviEventCode):
        if result.error is AmdviEventCode.COMMAND_HARDWARE_ERROR:
            # The access that failed is the store, not the fetch.
            address = COMMANDS[AmdviOpcode.COMPLETION_WAIT]["StoreAddress"].get(command)
        return _error(result.error, address)
    if _opcode(command) == AmdviOpcode.INVALIDATE_IOTLB_PAGES and (device := command & 0xFFFF) in silent:
        return AmdviEvent.make(AmdviEventCode.IOTLB_INV_TIMEOUT, {"DeviceID": device, "Address": address})
    return None


def _error(code: AmdviEventCode, address: int) -> AmdviEvent:
    return AmdviEvent.make_known(code, {"Address": address, "Type": HardwareErrorType.MASTER_ABORT})


def _raises_wait_interrupt(command: int) -> bool:
    """COMPLETION_WAIT with i sets ComWaitInt, whether ComWaitIntEn lets an interrupt out or not (AMD-Vi 2.4.1)."""
    return _opcode(command) == AmdviOpcode.COMPLETION_WAIT and bool(command & 2)


def _opcode(command: int) -> int:
    return command >> 60 & 0xF


def ring(base: int, entry_size: int) -> tuple[int, int]:
    """Physical address of a ring, and its bytes, from its base register and the bytes of an entry."""
    return BUFFER_BASE["Base"].get(base), entry_size << BUFFER_BASE["Len"].get(base)


def _with(status: int, **bits: int) -> int:
    for name, value in bits.items():
        mask = STATUS[name].mask
        status = status | mask if value else status & ~mask
    return status
