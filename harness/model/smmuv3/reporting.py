"""What an SMMU tells software: events in the Event queue, global errors, messages (IHI 0070 3.18, 7.2 to 7.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.model.access import MemoryWrite
from harness.model.engine import MsiWrite, NotModelled
from harness.model.memory import OutsideMemory, WritableMemory
from harness.model.smmuv3.events import EVENT_SIZE, Smmuv3Event
from harness.model.smmuv3.queues import next_producer
from harness.model.smmuv3.register_file import RegisterFile
from harness.model.smmuv3.register_map import REGISTERS
from harness.model.smmuv3.register_writes import RegisterWrites
from harness.model.smmuv3.registers import CR0, GERROR, QUEUE_BASE, QUEUE_PROD, Queue, Smmuv3Registers

__all__ = ["Reporter", "Reports", "queue_of"]


def _start(name: str) -> int:
    return REGISTERS[f"SMMU_{name}"].start


_CR0, _IRQ_CTRL, _GERROR = _start("CR0"), _start("IRQ_CTRL"), _start("GERROR")
_EVENTQ_BASE, _EVENTQ_PROD, _EVENTQ_CONS = _start("EVENTQ_BASE"), _start("EVENTQ_PROD"), _start("EVENTQ_CONS")
_GERROR_IRQ_CFG0, _GERROR_IRQ_CFG1 = _start("GERROR_IRQ_CFG0"), _start("GERROR_IRQ_CFG1")
_EVENTQ_IRQ_CFG0, _EVENTQ_IRQ_CFG1 = _start("EVENTQ_IRQ_CFG0"), _start("EVENTQ_IRQ_CFG1")
_IRQ_CFG = {"gerror": (_GERROR_IRQ_CFG0, _GERROR_IRQ_CFG1), "eventq": (_EVENTQ_IRQ_CFG0, _EVENTQ_IRQ_CFG1)}
_EVENTQEN = CR0["EVENTQEN"].mask
_OVFLG, _INDEX = QUEUE_PROD["OVFLG"].mask, QUEUE_PROD["WR"].mask
_QUEUE_BASE = QUEUE_BASE["ADDR"].mask | QUEUE_BASE["LOG2SIZE"].mask


@dataclass(frozen=True, slots=True)
class Reports:
    """What recording an event changes, but for memory.

    Attributes:
        eventq_prod: the register.
        gerror: the register.
        lost: of `RegisterWrites`.
        messages: that were sent.
        last: the last event that was recorded.
    """

    eventq_prod: tuple[int, int]
    gerror: tuple[int, int]
    lost: str | None
    messages: tuple[MsiWrite, ...]
    last: Smmuv3Event | None


def queue_of(
    file: RegisterFile,
    base: int,
    prod: int,
    cons: int,
    *,
    entry_size: int,
    most: int,
    address_bits: int,
    flags: int = 0,
) -> Queue | None:
    """A queue as its registers have it; None where it is not known.

    Args:
        file: of the registers.
        base: offset of its base register,
        prod: of its write index,
        cons: and of its read index.
        entry_size: bytes.
        most: log2 of the largest number of entries (IDR1).
        address_bits: OAS.
        flags: bits of the indexes that have to be known too.
    """
    if _QUEUE_BASE & ~file.known64(base):
        return None
    queue = Queue.of(file.value64(base), file.value(prod), file.value(cons), entry_size, most, address_bits)
    needed = (2 << queue.bits) - 1 | flags
    return queue if not needed & ~(file.known(prod) & file.known(cons)) else None


class Reporter:
    """Records events and errors, and sends messages of them.

    Args:
        file: of the registers.
        writes: of the same.
        memory: where the queue is, and where messages may go.
        registers: with the capabilities.

    Attributes:
        messages: that were sent, but not to memory.
        last: the last event that was recorded, since a reset.
    """

    def __init__(
        self, file: RegisterFile, writes: RegisterWrites, memory: WritableMemory, registers: Smmuv3Registers
    ) -> None:
        self._file = file
        self._writes = writes
        self._memory = memory
        self._registers = registers
        self._capabilities = registers.capabilities
        self.reset()

    def reset(self) -> None:
        """As after a reset."""
        self.messages: list[MsiWrite] = []
        self.last: Smmuv3Event | None = None

    def save(self) -> Reports:
        """For `restore`."""
        file = self._file
        return Reports(file.save(_EVENTQ_PROD), file.save(_GERROR), self._writes.lost, tuple(self.messages), self.last)

    def restore(self, reports: Reports) -> None:
        """As it was at `save`."""
        self._file.restore(_EVENTQ_PROD, reports.eventq_prod)
        self._file.restore(_GERROR, reports.gerror)
        self._writes.lost = reports.lost
        self.messages = list(reports.messages)
        self.last = reports.last

    def event_queue(self) -> Queue | None:
        """The Event queue; None where it is not known."""
        return queue_of(
            self._file,
            _EVENTQ_BASE,
            _EVENTQ_PROD,
            _EVENTQ_CONS,
            entry_size=EVENT_SIZE,
            most=self._capabilities.event_queue_bits,
            address_bits=self._capabilities.address_bits,
            flags=_OVFLG,
        )

    def check(self) -> None:
        """See that it is known what becomes of an event.

        Raises:
            NotModelled: it is not known whether, or where, it is recorded.
        """
        if not self._file.value(_CR0) & _EVENTQEN:
            return
        queue = self.event_queue()
        aborted = self._writes.is_active("EVENTQ_ABT_ERR")
        if queue is None or queue.used > queue.size or aborted is None:
            raise NotModelled(
                "where the next event is recorded, if it is, is not known (IHI 0070 3.5.1)",
                hint="set SMMU_EVENTQ_BASE, PROD and CONS to a consistent state before EVENTQEN",
            )

    def record(self, event: Smmuv3Event) -> None:
        """Put an event into the Event queue, if it is writable (7.2.1)."""
        file = self._file
        if not file.value(_CR0) & _EVENTQEN or self._writes.is_active("EVENTQ_ABT_ERR"):
            return
        queue = self.event_queue()
        if queue is None:
            return
        prod = file.value(_EVENTQ_PROD)
        if queue.used >= queue.size:
            # 7.4: toggled, unless an overflow waits to be acknowledged already.
            if not (prod ^ file.value(_EVENTQ_CONS)) & _OVFLG:
                file.put(_EVENTQ_PROD, prod ^ _OVFLG, _OVFLG)
            return
        address = queue.base + (queue.producer & queue.size - 1) * EVENT_SIZE
        try:
            self._memory.write(address, event.encode())
        except OutsideMemory:
            # 7.2.2: PROD does not move.
            self.activate("EVENTQ_ABT_ERR")
            return
        self.last = event
        file.put(_EVENTQ_PROD, next_producer(prod, queue), _INDEX)
        if not queue.used:
            # 3.18.2: the interrupt is sent when the queue stops being empty.
            self._interrupt("eventq")

    def activate(self, error: str) -> None:
        """Make a global error active, and tell of it (7.5)."""
        mask = GERROR[error].mask
        active = self._writes.is_active(error)
        if active is None:
            self._file.forget(_GERROR, mask)
        elif not active:
            self._file.put(_GERROR, self._file.value(_GERROR) ^ mask, mask)
            self._interrupt("gerror")

    def send(self, message: MemoryWrite) -> None:
        """A message: a write of 32 bits to memory, or else to whatever takes interrupts (3.18)."""
        try:
            message.apply(self._memory)
        except OutsideMemory:
            data = int.from_bytes(message.data, "little")
            # Which requester an SMMU is to the interrupt controller is not its own to say.
            self.messages.append(MsiWrite(requester=0, address=message.address, data=data))

    def _interrupt(self, source: str) -> None:
        """Send the message of an interrupt source, where it has one (3.18.1)."""
        if not self._capabilities.msi:
            return
        file = self._file
        registers = replace(
            self._registers,
            irq_ctrl=file.value(_IRQ_CTRL),
            gerror_irq_cfg0=file.value64(_GERROR_IRQ_CFG0),
            gerror_irq_cfg1=file.value(_GERROR_IRQ_CFG1),
            eventq_irq_cfg0=file.value64(_EVENTQ_IRQ_CFG0),
            eventq_irq_cfg1=file.value(_EVENTQ_IRQ_CFG1),
        )
        message = registers.message(source)
        if message is None:
            return
        address, data = _IRQ_CFG[source]
        if (file.fields64(address) & ~file.known64(address)) or (file.fields(data) & ~file.known(data)):
            self._writes.lose(f"the message of {source} goes to an UNKNOWN address, or says something UNKNOWN")
            return
        self.send(message)
