"""virtio-net on PCI, with the modern interface: one queue each way, no interrupts, no offloads (virtio 1.3, 5.1).

It is told of frames and buffers by the host, which keeps the virtqueues in the guest's memory (2.7). What the card does
of it is in QEMU, hw/net/virtio-net.c and hw/virtio/virtio.c: it looks at a queue a moment after it was notified.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.errors import SpecError
from harness.model.virtio.negotiation import TransportFeatures
from harness.model.virtio.virtqueue import DescriptorFlags, Rings
from harness.vmm.protocol import GuestMemory
from harness.vmm.qemu.nic.protocol import QUEUE_BYTES, QueuePage, wait_until
from harness.vmm.qemu.pci import COMMAND_BUS_MASTER, COMMAND_MEMORY, PciFunction
from harness.vmm.qemu.virtio import VirtioFunction

__all__ = ["VirtioNet"]

_PCI_ID = (0x1AF4, 0x1041)
_RECEIVE_QUEUE, _SEND_QUEUE = 0, 1  # receiveq1 and transmitq1 (5.1.2)
_HEADER_BYTES = 12  # of struct virtio_net_hdr, which stands before each frame (5.1.6)
# Within the page of a queue. The header has a descriptor of its own, so that a buffer holds a frame and nothing else.
_TABLE, _AVAILABLE, _USED, _HEADER = 0x000, 0x400, 0x800, 0xC00
_SIZE = 16  # descriptors
_DESCRIPTOR = struct.Struct("<QIHH")
_HALF = struct.Struct("<H")
_NO_INTERRUPT = 1  # of the available ring's flags (2.7.7)
_ACCEPTED = TransportFeatures.VERSION_1 | TransportFeatures.ACCESS_PLATFORM  # those that cannot be declined (6.1)


@dataclass(slots=True)
class _Queue:
    """A virtqueue.

    Attributes:
        number: of it.
        page: its memory.
        put: how many frames or buffers were put into it.
        following: the descriptor that is used next.
    """

    number: int
    page: QueuePage
    put: int = 0
    following: int = 0

    @property
    def rings(self) -> Rings:
        """Where it lies, for the card."""
        start = self.page.iova
        return Rings(_SIZE, descriptors=start + _TABLE, driver=start + _AVAILABLE, device=start + _USED)


class VirtioNet:
    """One card; see `Nic`.

    Args:
        function: where it is.
        memory: of its guest.
    """

    def __init__(self, function: PciFunction, memory: GuestMemory) -> None:
        self._function = function
        self._memory = memory
        self._device: VirtioFunction | None = None
        self._queues: dict[int, _Queue] = {}

    def start(self, sending: QueuePage, receiving: QueuePage) -> None:
        """See `Nic`; the order is that of virtio 1.3, 3.1.1."""
        found = self._function.vendor_and_device
        if found != _PCI_ID:
            raise SpecError(f"at {self._function} is {found[0]:04x}:{found[1]:04x}, not a modern virtio-net")
        self._function.enable(COMMAND_MEMORY | COMMAND_BUS_MASTER)
        self._device = VirtioFunction.find(self._function)
        self._queues = {
            number: _Queue(number, page) for number, page in ((_SEND_QUEUE, sending), (_RECEIVE_QUEUE, receiving))
        }
        for queue in self._queues.values():
            self._memory.write(queue.page.address, bytes(QUEUE_BYTES))
            self._memory.write(queue.page.address + _AVAILABLE, _HALF.pack(_NO_INTERRUPT))
        rings = {number: queue.rings for number, queue in self._queues.items()}
        self._device.start(self._device.offered & _ACCEPTED, rings)

    def send(self, *pieces: tuple[int, int]) -> None:
        """See `Nic`."""
        self._put(self._queues[_SEND_QUEUE], 0, *pieces)

    def offer(self, iova: int, count: int) -> None:
        """See `Nic`."""
        self._put(self._queues[_RECEIVE_QUEUE], DescriptorFlags.WRITE, (iova, count))

    def wait_sent(self, *, deadline: float = 5.0) -> None:
        """See `Nic`."""
        wait_until(lambda: self._is_done(_SEND_QUEUE), f"{self} has not sent all frames", deadline)

    def wait_received(self, *, deadline: float = 5.0) -> None:
        """See `Nic`."""
        wait_until(lambda: self._is_done(_RECEIVE_QUEUE), f"{self} has not filled all buffers", deadline)

    def __str__(self) -> str:
        return f"the virtio-net at {self._function}"

    def _put(self, queue: _Queue, flags: int, *pieces: tuple[int, int]) -> None:
        assert self._device is not None, "start() comes first"
        address, head = queue.page.address, queue.following
        chain = ((queue.page.iova + _HEADER, _HEADER_BYTES), *pieces)
        for n, (iova, count) in enumerate(chain):
            at, following = queue.following, (queue.following + 1) % _SIZE
            more = DescriptorFlags.NEXT if n < len(pieces) else 0
            descriptor = _DESCRIPTOR.pack(iova, count, flags | more, following if more else 0)
            self._memory.write(address + _TABLE + at * _DESCRIPTOR.size, descriptor)
            queue.following = following
        self._memory.write(address + _AVAILABLE + 4 + 2 * (queue.put % _SIZE), _HALF.pack(head))
        queue.put += 1
        self._memory.write(address + _AVAILABLE + 2, _HALF.pack(queue.put))
        self._device.notify(queue.number)

    def _is_done(self, number: int) -> bool:
        queue = self._queues[number]
        (used,) = _HALF.unpack(self._memory.read(queue.page.address + _USED + 2, _HALF.size))
        return bool(used == queue.put)
