"""The event log as it fills: where events go, what they may look like, and the messages that tell of them (AMD-Vi 2.5).

A message goes out when EventLogInt or EventOverflow becomes 1 while EventIntEn is set; one may go out for another
event, and when EventIntEn is set later on (`own_message`). An entry that no memory answers for is lost, and the log
goes on behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache

from harness.model.access import MemoryWrite
from harness.model.amdvi.commands import iommu_interrupt
from harness.model.amdvi.events import EVENT_SIZE, AmdviEvent, AmdviEventCode
from harness.model.amdvi.queues import next_log_entry, own_message, ring
from harness.model.amdvi.register_fields import CONTROL, STATUS
from harness.model.amdvi.register_file import RegisterFile
from harness.model.engine import MsiWrite, NotModelled
from harness.model.memory import Memory, OutsideMemory, WritableMemory
from harness.model.unit import Place

__all__ = ["EventLog", "EventLogState"]

_EVENT_INT_EN = CONTROL["EventIntEn"].mask
_EVENT_LOG_RUN, _EVENT_OVERFLOW = STATUS["EventLogRun"].mask, STATUS["EventOverflow"].mask
_ALL_BITS = -1
# Every bit of an event that may be meaningless stands in this byte.
_FREE_BYTE = 6


@dataclass(frozen=True, slots=True)
class EventLogState:
    """What events change, beside memory."""

    status: int
    status_known: int
    tail: int
    tail_known: int
    messages: tuple[MsiWrite, ...]
    reported: frozenset[int]


class EventLog:
    """Writes events down.

    Args:
        file: has the registers of the log.
        memory: has its entries.

    Attributes:
        messages: what tells of events, in order, and of completed waits.
        reported: DeviceIDs that have had a page fault.
        offered: address of the byte of the last event that may look otherwise.
    """

    def __init__(self, file: RegisterFile, memory: WritableMemory) -> None:
        self._file = file
        self._memory = memory
        self.messages: list[MsiWrite] = []
        self.reported: set[int] = set()
        self.offered: int | None = None
        self._causes: dict[int, str] = {}
        self.take_message()

    def reset(self) -> None:
        """Nothing has happened."""
        self.messages.clear()
        self.reported.clear()
        self._causes.clear()
        self.take_message()

    def take_message(self) -> None:
        """The registers that say what message is sent have changed."""
        self._message = iommu_interrupt(self._file.snapshot())

    def offer_message(self) -> None:
        """An interrupt has been enabled whose status bit is set."""
        self.messages += own_message(self._message, enabled=True, is_told=True)

    def add(self, event: AmdviEvent, cause: Enum) -> tuple[MemoryWrite, ...]:
        """Write an event down.

        Args:
            event: what is written.
            cause: why; entries are named after it.

        Returns:
            What may stand in its place instead, a write each: it differs in bits that have no meaning.

        Raises:
            NotModelled: of where the log is something is not known.
        """
        file = self._file
        if not file.is_known("event_log_base", "event_log_head", "event_log_tail"):
            raise NotModelled("what an event does is undefined: the registers of the event log are not as they should")
        values = file.values
        status = values["status"]
        entry = next_log_entry(values["event_log_base"], values["event_log_head"], values["event_log_tail"], status)
        if event.code == AmdviEventCode.IO_PAGE_FAULT:
            self.reported.add(event["DeviceID"])
        if entry.status != status:
            file.store("status", entry.status ^ status, entry.status)
        self.messages += entry.messages(self._message, enabled=bool(values["control"] & _EVENT_INT_EN))
        if entry.address is None:
            return ()
        file.store("event_log_tail", _ALL_BITS, entry.tail)
        self._causes[entry.address] = cause.name
        data = event.encode()
        try:
            self._memory.write(entry.address, data)
        except OutsideMemory:
            return ()
        free = event.meaningless >> 8 * _FREE_BYTE
        self.offered = place = entry.address + _FREE_BYTE
        return tuple(MemoryWrite(place, other) for other in _other_bytes(data[_FREE_BYTE], free)) if free else ()

    def save(self) -> EventLogState:
        """A point to come back to."""
        values, known = self._file.values, self._file.known
        return EventLogState(
            status=values["status"],
            status_known=known["status"],
            tail=values["event_log_tail"],
            tail_known=known["event_log_tail"],
            messages=tuple(self.messages),
            reported=frozenset(self.reported),
        )

    def restore(self, state: EventLogState) -> None:
        """Be as at `save`, but for memory."""
        self._file.values |= {"status": state.status, "event_log_tail": state.tail}
        self._file.known |= {"status": state.status_known, "event_log_tail": state.tail_known}
        self.messages = list(state.messages)
        self.reported = set(state.reported)

    @property
    def is_running(self) -> bool:
        """Whether the next event is written down, or lost to an overflow."""
        return self._file.values["status"] & (_EVENT_LOG_RUN | _EVENT_OVERFLOW) == _EVENT_LOG_RUN

    def holds(self, address: int) -> bool:
        """Whether the log is there."""
        base, size = ring(self._file.values["event_log_base"], EVENT_SIZE)
        return base <= address < base + size

    def place_at(self, address: int, memory: Memory) -> Place | None:
        """The entry at an address, with its fields, and by the cause of the event that is written there, if one is."""
        if not self.holds(address):
            return None
        start = address - address % EVENT_SIZE
        try:
            data = memory.read(start, EVENT_SIZE)
        except OutsideMemory:
            return None
        event = AmdviEvent.decode(data)
        cause = self._causes.get(start) if any(data) else None
        name = "event log entry" if cause is None else f"event log entry of {cause}"
        return Place(name, start, EVENT_SIZE, event.layout)


@cache
def _other_bytes(byte: int, free: int) -> tuple[bytes, ...]:
    """A byte with every other value of its free bits."""
    settled = byte & ~free
    values = (settled | bits for bits in range(256) if not bits & ~free)
    return tuple(bytes((value,)) for value in values if value != byte)
