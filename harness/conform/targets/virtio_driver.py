"""A driver of a virtio-iommu on PCI for programs: negotiation, virtqueues, requests, and looks."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from harness.conform.memory import QUEUES
from harness.conform.writer import ProgramWriter
from harness.model.virtio.negotiation import DeviceStatus, TransportFeatures
from harness.model.virtio.pci_registers import PciIdentity, PciLayout
from harness.model.virtio.virtqueue import DescriptorFlags
from harness.model.virtio_iommu.device import EVENT_QUEUE, REQUEST_QUEUE

__all__ = ["Driver", "Message"]

_STARTED = (DeviceStatus.ACKNOWLEDGE, DeviceStatus.DRIVER, DeviceStatus.FEATURES_OK, DeviceStatus.DRIVER_OK)
_DESCRIPTOR = struct.Struct("<QIHH")
_INDIRECT_DESC, _EVENT_IDX = int(TransportFeatures.INDIRECT_DESC), int(TransportFeatures.EVENT_IDX)
_NEXT, _WRITE, _INDIRECT = int(DescriptorFlags.NEXT), int(DescriptorFlags.WRITE), int(DescriptorFlags.INDIRECT)
_MOST_DESCRIPTORS = 256  # that there is room for
# From the start of memory on: of each queue the descriptors, the available ring and the used ring, whose elements then
# are words of memory. Of what differs the first is told: answers to requests stand before reports, which they lead to,
# and what is in buffers before how many of them were used.
_RINGS = {
    REQUEST_QUEUE: tuple(QUEUES.start + at for at in (0x0, 0x1000, 0x3_E004)),
    EVENT_QUEUE: tuple(QUEUES.start + at for at in (0x4000, 0x5000, 0x3_F004)),
}
_MARK = QUEUES.start + 0x8000
_SLOTS = range(QUEUES.start + 0x1_0000, QUEUES.start + 0x3_C000, 0x400)
_EVENT_BUFFERS = QUEUES.start + 0x3_C000
_EVENT_BUFFER_SIZE = 32
_EVENT_RING = b"".join(number.to_bytes(2, "little") for number in range(_MOST_DESCRIPTORS))
_REPORT_SIZE = 24
# Within a slot: what the device reads, what it writes, and an indirect table.
_WRITABLE, _TABLE = 0x80, 0x380
_LONGEST_CHAIN = 5
_MOST_WAITING = 12
_FAR_QUEUES = (1023, 1024, 0xFFFF)
_INDEX_MASK = 0xFFFF
_CONFIG_READS = (*((at, 4) for at in range(0, 36, 4)), (36, 1))


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it is put into the queue.

    Attributes:
        readable: bytes that the device reads.
        writable: how many it may write.
    """

    readable: bytes
    writable: int


class Driver:
    """Writes the registers and queues of one device, and keeps what it has written in mind.

    Args:
        writer: of the program.
        random: to choose by.
        layout: where the registers are.
        identity: what the device offers.

    Attributes:
        features: that are negotiated.
    """

    def __init__(self, writer: ProgramWriter, random: Random, layout: PciLayout, identity: PciIdentity) -> None:
        self._writer = writer
        self._random = random
        self._layout = layout
        self._identity = identity
        self.features = 0
        self._sizes = {REQUEST_QUEUE: 0, EVENT_QUEUE: 0}
        self._available = 0
        self._descriptor = 0
        self._event_descriptors = 0  # that are in memory, where nothing changes them
        self._slot = 0
        self._marks = 0
        self._waiting: list[Message] = []

    # Setting up.

    def start(self, features: int) -> None:
        """Reset the device and set it up (3.1.1)."""
        self.reset()
        status = 0
        for bit in _STARTED:
            if bit is DeviceStatus.FEATURES_OK:
                self._accept(features)
            if bit is DeviceStatus.DRIVER_OK:
                self._enable_requests()
                self.refill()
            status |= bit
            self._write("device_status", 1, status)
            if self._random.random() < 0.3:
                self.read_field("device_status", 1)

    def reset(self) -> None:
        """Reset the device (2.4); what it has answered so far is looked at before."""
        self.settle()
        self.forget()
        self._write("device_status", 1, 0)
        self.read_field("device_status", 1)

    def forget(self) -> None:
        """The device was reset: nothing is negotiated or enabled, and what waits is dropped."""
        self.features = 0
        self._sizes = dict.fromkeys(self._sizes, 0)
        self._waiting.clear()

    def refill(self) -> None:
        """Give the event queue new buffers: the queue is reset where it was in use, and begins anew."""
        random = self._random
        self._write("queue_select", 2, EVENT_QUEUE)
        if self._sizes[EVENT_QUEUE]:
            self._write("queue_reset", 2, 1)
        most = self._most(EVENT_QUEUE)
        size = random.choice((2, 4, 16)) if random.random() < 0.05 else most
        descriptors, available, _ = self._places(EVENT_QUEUE)
        for number in range(self._event_descriptors, size):
            buffer = self._writer.ram + _EVENT_BUFFERS + number * _EVENT_BUFFER_SIZE
            self._store_descriptor(descriptors, number, buffer, _REPORT_SIZE, _WRITE)
        self._event_descriptors = max(self._event_descriptors, size)
        self._writer.memory.write(available + 4, _EVENT_RING[: 2 * size])
        self._writer.memory.write(available, (size << 16).to_bytes(4, "little"))
        self._enable(EVENT_QUEUE, size)
        if random.random() < 0.3:
            self._notify(EVENT_QUEUE)

    def _accept(self, features: int) -> None:
        self.features = features
        for window in self._random.sample(range(2), 2):
            self._write("device_feature_select", 4, window)
            self.read_field("device_feature", 4)
            self._write("driver_feature_select", 4, window)
            self._write("driver_feature", 4, features >> 32 * window & (1 << 32) - 1)
            if self._random.random() < 0.3:
                self.read_field("driver_feature", 4)

    def _enable_requests(self) -> None:
        most = self._most(REQUEST_QUEUE)
        self._write("queue_select", 2, REQUEST_QUEUE)
        self._available = self._descriptor = 0
        self._set_available()
        self._enable(REQUEST_QUEUE, self._random.choice((most, most, 64, 16, 8)))

    def _most(self, queue: int) -> int:
        """How many descriptors a queue may have here."""
        return min(self._identity.queues[queue].size, _MOST_DESCRIPTORS)

    def _enable(self, queue: int, size: int) -> None:
        """The selected queue gets its place, and is enabled."""
        self._sizes[queue] = size
        self._write("queue_size", 2, size)
        for name, at in zip(("queue_desc", "queue_driver", "queue_device"), self._places(queue), strict=True):
            offset = self._layout.common_field(name)
            self._writer.write(offset, 4, at)
            self._writer.write(offset + 4, 4, 0)
        self._write("queue_enable", 2, 1)

    # Requests.

    def queue(self, message: Message) -> None:
        """Put a request into the queue, to be told of later."""
        self._waiting.append(message)

    def submit(self) -> None:
        """Tell the device of the requests that wait, a few at once."""
        while self._waiting:
            most = min(_MOST_WAITING, len(self._waiting))
            count = self._random.randint(1, most) if self._random.random() < 0.3 else most
            some, self._waiting = self._waiting[:count], self._waiting[count:]
            left = self._sizes[REQUEST_QUEUE]
            for number, message in enumerate(some):
                if left < _LONGEST_CHAIN:
                    self._waiting = [*some[number:], *self._waiting]
                    break
                left -= self._put(message)
            self._set_available()
            self._notify(REQUEST_QUEUE)

    def settle(self) -> None:
        """Store what means nothing, so that answers are looked at before the DMA that follows."""
        self._marks += 1
        self._writer.memory.write(self._writer.ram + _MARK, self._marks.to_bytes(8, "little"))

    def submit_raw(self, descriptors: Sequence[tuple[int, int, int, int]]) -> None:
        """Make a chain available whose descriptors are said: address, length, flags, and the next one's number."""
        self.submit()
        table, available, _ = self._places(REQUEST_QUEUE)
        for number, (address, length, flags, following) in enumerate(descriptors):
            self._writer.memory.write(table + 16 * number, _DESCRIPTOR.pack(address, length, flags, following))
        self._make_available(available, 0)
        self._set_available()
        self._notify(REQUEST_QUEUE)

    @property
    def slot(self) -> int:
        """Physical address of memory for the buffers of a request."""
        return self._writer.ram + _SLOTS[self._slot]

    def _put(self, message: Message) -> int:
        """Write a chain and make it available; how many descriptors of the queue it has."""
        random = self._random
        self._slot = (self._slot + 1) % len(_SLOTS)
        memory, slot = self._writer.memory, self.slot
        memory.write(slot, message.readable)
        memory.write(slot + _WRITABLE, random.randbytes(1) * message.writable)
        elements = [(at, size, 0) for at, size in self._cut(slot, len(message.readable), 3)]
        elements += [(at, size, _WRITE) for at, size in self._cut(slot + _WRITABLE, message.writable, 2)]
        table, available, _ = self._places(REQUEST_QUEUE)
        count = self._sizes[REQUEST_QUEUE]
        head = self._descriptor
        if self.features & _INDIRECT_DESC and random.random() < 0.3:
            self._store_chain(slot + _TABLE, range(len(elements)), elements)
            self._store_descriptor(table, head, slot + _TABLE, 16 * len(elements), _INDIRECT)
            taken = 1
        else:
            taken = len(elements)
            self._store_chain(table, [(head + number) % count for number in range(taken)], elements)
        self._descriptor = (head + taken) % count
        self._make_available(available, head)
        return taken

    def _cut(self, address: int, size: int, most: int) -> list[tuple[int, int]]:
        """Address and length of the parts of a buffer: one for the most part."""
        random = self._random
        if random.random() >= 0.15 or size < most:
            return [(address, size)] if size else []
        parts = random.randint(2, most)
        cuts = [0, *sorted(random.sample(range(1, size), parts - 1)), size]
        return [(address + first, end - first) for first, end in pairwise(cuts) if end > first]

    def _store_chain(self, table: int, numbers: Sequence[int], elements: Sequence[tuple[int, int, int]]) -> None:
        *before, last = zip(numbers, elements, strict=True)
        for place, (number, (address, size, flags)) in enumerate(before, 1):
            following = numbers[place]
            self._store_descriptor(table, number, address, size, flags | _NEXT, following)
        number, (address, size, flags) = last
        self._store_descriptor(table, number, address, size, flags)

    def _store_descriptor(
        self, table: int, number: int, address: int, size: int, flags: int, following: int = 0
    ) -> None:
        self._writer.memory.write(table + 16 * number, _DESCRIPTOR.pack(address, size, flags, following))

    def _make_available(self, ring: int, head: int) -> None:
        at = self._available % self._sizes[REQUEST_QUEUE]
        self._writer.memory.write(ring + 4 + 2 * at, head.to_bytes(2, "little"))
        self._available = self._available + 1 & _INDEX_MASK

    def _set_available(self) -> None:
        """The index of the available ring, and whether the device is to tell of what it has used (2.7.7)."""
        _, available, _ = self._places(REQUEST_QUEUE)
        event_idx = self.features & _EVENT_IDX
        flags = int(not event_idx and self._random.random() < 0.2)
        self._writer.memory.write(available, (self._available << 16 | flags).to_bytes(4, "little"))
        if event_idx and self._sizes[REQUEST_QUEUE]:
            used_event = self._available - self._random.randint(0, 2) & _INDEX_MASK
            place = available + 4 + 2 * self._sizes[REQUEST_QUEUE]
            self._writer.memory.write(place, used_event.to_bytes(2, "little"))

    def _places(self, queue: int) -> tuple[int, int, int]:
        descriptors, available, used = _RINGS[queue]
        ram = self._writer.ram
        return ram + descriptors, ram + available, ram + used

    def _notify(self, queue: int) -> None:
        self._writer.write(self._layout.notification(self._identity.queues[queue].notify_off), 2, queue)

    # Looks.

    def write_bypass(self, value: int) -> None:
        """The config field `bypass`, which takes BYPASS_CONFIG."""
        self._writer.write(self._layout.device.offset + 36, 1, value)
        if self._random.random() < 0.5:
            self._writer.read(self._layout.device.offset + 36, 1)

    def look(self) -> None:
        """Read what there is to see of the device."""
        random = self._random
        if random.random() < 0.5:
            self._writer.read(self._layout.isr.offset, 1)
        if random.random() < 0.5:
            self.read_field("device_status", 1)
        if random.random() < 0.3:
            at, size = random.choice(_CONFIG_READS)
            self._writer.read(self._layout.device.offset + at, size)

    def poke(self, *, far: bool) -> None:
        """Fields of queues, of none, and what cannot be written.

        Args:
            far: whether the queue may also be one whose number no device could have.
        """
        random = self._random
        self._write("queue_select", 2, random.choice((0, 1, 1, 2, *(_FAR_QUEUES if far else ()))))
        for name in random.sample(("queue_size", "queue_enable", "queue_notify_off", "queue_reset"), 2):
            self.read_field(name, 2)
        self.read_field(random.choice(("queue_desc", "queue_driver", "queue_device")), 4)
        window = random.choice((0, 1, 2, 0xFFFF_FFFF))
        self._write("device_feature_select", 4, window)
        self.read_field("device_feature", 4)
        name, size = random.choice((("num_queues", 2), ("device_feature", 4), ("queue_notify_off", 2)))
        self._write(name, size, random.getrandbits(8 * size))
        self.read_field("num_queues", 2)

    def read_field(self, name: str, size: int) -> None:
        """Read a field of the common configuration."""
        self._writer.read(self._layout.common_field(name), size)

    def _write(self, name: str, size: int, value: int) -> None:
        self._writer.write(self._layout.common_field(name), size, int(value))
