"""A virtqueue of a device at work, as the host finds it in guest memory, and has it say something else.

Its addresses are the device's. A split queue is meant (virtio 1.3, 2.7), and a device that uses buffers in the order in
which they were made available, as QEMU's NICs do.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Self

from harness.errors import HarnessError
from harness.guest.answers import PAGE
from harness.live.machine import LiveMachine
from harness.model.access import AccessKind
from harness.model.virtio.virtqueue import Buffer, DescriptorFlags
from harness.vmm.protocol import GuestMemory
from harness.vmm.qemu.virtio import VirtioFunction

__all__ = ["LiveQueue"]

_DESCRIPTOR = struct.Struct("<QIHH")
_U16 = struct.Struct("<H")
_INDEX_MASK = 0xFFFF
_POLL_SECONDS = 0.01


class LiveQueue:
    """One queue.

    Args:
        device: whose driver has set it up.
        number: of the queue.
        translate: guest physical address where an address of the device leads. It is asked once for each page: the
            driver leaves a queue where it is.

    Attributes:
        rings: where it lies, in addresses as the device puts them on the bus.
    """

    def __init__(self, device: VirtioFunction, number: int, translate: Callable[[int], int]) -> None:
        self._device = device
        self._number = number
        self._page = cache(translate)
        self._memory: GuestMemory = device.function.qtest
        self.rings = device.queue(number)

    @classmethod
    def of(cls, live: LiveMachine, id: str, number: int) -> Self:
        """That of a device of a running machine, whose addresses are put through the model's walk of its tables.

        Its calls raise HarnessError where a part of the queue is not mapped.
        """
        device = VirtioFunction.find(live.config_space(live.function(id).address))
        return cls(device, number, lambda address: live.leads_to(id, address))

    def iter_places(self) -> Iterator[tuple[str, int, AccessKind]]:
        """Start of each of its three parts, with the way in which the device uses it."""
        yield "descriptor table", self.rings.descriptors, AccessKind.READ
        yield "available ring", self.rings.driver, AccessKind.READ
        yield "used ring", self.rings.device, AccessKind.WRITE

    def next_buffer(self) -> Buffer:
        """The first element of the buffer that the device takes next.

        Raises:
            HarnessError: none is available.
        """
        return self._first_element(self._next())

    def iter_waiting(self) -> Iterator[Buffer]:
        """The first element of each buffer that is available and that the device has not used."""
        available, used = self._indices()
        for number in range(available - used & _INDEX_MASK):
            yield self._first_element(self._head(used + number))

    def redirect(self, iova: int) -> None:
        """Have the buffer that the device takes next begin at an address of the device.

        Raises:
            HarnessError: none is available.
        """
        self._memory.write(self._next(), iova.to_bytes(8, "little"))

    def write(self, address: int, data: bytes) -> None:
        """Write what stands at an address of the device; it does not cross a page."""
        self._memory.write(self._translate(address), data)

    @property
    def used(self) -> int:
        """How many buffers the device has used, of 16 bits."""
        return self._indices()[1]

    def wait_used(self, before: int, seconds: float) -> bool:
        """Whether the device has used more buffers than before, as soon as that is so or when the time is over."""
        end = time.monotonic() + seconds
        while self.used == before:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def offer(self, *readable: Buffer) -> None:
        """Make a buffer of device-readable elements available, and tell the device, as if the driver had.

        The driver must not go on with the queue afterwards: it knows nothing of that.

        Raises:
            HarnessError: the device has not used all that the driver gave it.
        """
        available, used = self._indices()
        if available != used:
            raise HarnessError(
                f"queue {self._number} of {self._device.function} is not idle: {available} made available, {used} used"
            )
        for index, (address, length) in enumerate(readable):
            last = index + 1 == len(readable)
            flags = 0 if last else DescriptorFlags.NEXT
            self.write(
                self.rings.descriptors + _DESCRIPTOR.size * index,
                _DESCRIPTOR.pack(address, length, flags, 0 if last else index + 1),
            )
        self.write(self.rings.driver + 4 + 2 * (available % self.rings.size), _U16.pack(0))
        self.write(self.rings.driver + 2, _U16.pack(available + 1 & _INDEX_MASK))
        self._device.notify(self._number)

    def _next(self) -> int:
        """Guest physical address of the first descriptor that the device takes next."""
        available, used = self._indices()
        if available == used:
            raise HarnessError(f"queue {self._number} of {self._device.function} has no buffer for the device")
        return self._head(used)

    def _head(self, number: int) -> int:
        """Guest physical address of the first descriptor of a buffer, by its number in the available ring."""
        head = self._read_u16(self.rings.driver + 4 + 2 * (number % self.rings.size))
        return self._translate(self.rings.descriptors + _DESCRIPTOR.size * head)

    def _first_element(self, descriptor: int) -> Buffer:
        address, length, flags, _ = _DESCRIPTOR.unpack(self._memory.read(descriptor, _DESCRIPTOR.size))
        if flags & DescriptorFlags.INDIRECT:
            return self._first_element(self._translate(address))
        return Buffer(address, length)

    def _translate(self, address: int) -> int:
        return self._page(address & -PAGE) + address % PAGE

    def _indices(self) -> tuple[int, int]:
        """How many buffers were made available, and used: of 16 bits each."""
        return self._read_u16(self.rings.driver + 2), self._read_u16(self.rings.device + 2)

    def _read_u16(self, address: int) -> int:
        (value,) = _U16.unpack(self._memory.read(self._translate(address), _U16.size))
        return int(value)
