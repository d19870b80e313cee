"""A virtio-iommu that a driver has set up, for tests: registers, both queues, requests, reports."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.model.access import Access, AccessKind, Outcome
from harness.model.memory import SparseMemory
from harness.model.unit import Coverage, Readout
from harness.model.virtio.negotiation import DeviceStatus, TransportFeatures
from harness.model.virtio.pci_registers import PciIdentity, PciLayout, QueueIdentity, Structure
from harness.model.virtio.virtqueue import DescriptorFlags
from harness.model.virtio_iommu import Features, RegionKind, Request, ReservedRegion, encode_request
from harness.model.virtio_iommu.device import EVENT_QUEUE, REQUEST_QUEUE
from harness.model.virtio_iommu.unit import VirtioIommuUnit
from harness.model.virtio_iommu.wire import TAIL_SIZE

__all__ = ["EP", "EVENTS", "LAYOUT", "MSI", "OFFERED", "READY", "Alive"]

EP = 0x08
MSI = ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, RegionKind.MSI)
LAYOUT = PciLayout(4, Structure(0, 0x40), Structure(0x3000, 0x1000), Structure(0x1000, 4), Structure(0x2000, 0x40), 4)
OWN = Features.INPUT_RANGE | Features.DOMAIN_RANGE | Features.MAP_UNMAP | Features.PROBE | Features.BYPASS_CONFIG
OFFERED = int(OWN) | int(TransportFeatures.VERSION_1 | TransportFeatures.INDIRECT_DESC | TransportFeatures.RING_RESET)
READY = int(DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK)
PROBE_SIZE = 64
SIZE = 16
_SPACE = struct.pack("<QQQIIIB3x", 0xFFFF_FFFF_FFFF_F000, 0, (1 << 48) - 1, 0, 0xFF, PROBE_SIZE, 1)
# Of each queue: descriptors, available ring, used ring.
_RINGS = {REQUEST_QUEUE: (0x1_0000, 0x1_1000, 0x1_2000), EVENT_QUEUE: (0x2_0000, 0x2_1000, 0x2_2000)}
_BUFFER, _ANSWER = 0x3_0000, 0x3_1000
EVENTS = 0x4_0000
"""Where the buffers of the event queue are, 32 bytes apart."""


@dataclass(frozen=True, slots=True)
class Used:
    """The newest element of a used ring, and its number."""

    index: int
    head: int
    length: int


class Alive:
    """A unit with a driver; `start` has been called unless told otherwise."""

    def __init__(self, *, started: bool = True) -> None:
        self.memory = SparseMemory()
        self.coverage = Coverage()
        self.identity = PciIdentity(OFFERED, (QueueIdentity(SIZE, 0), QueueIdentity(SIZE, 1)))
        self.unit = VirtioIommuUnit(
            LAYOUT, self.identity, _SPACE, self.memory, coverage=self.coverage, endpoints={EP: (MSI,)}
        )
        self._count = {REQUEST_QUEUE: 0, EVENT_QUEUE: 0}
        self.unit.reset()
        if started:
            self.start()

    def write(self, name: str, value: int, size: int = 4) -> None:
        self.unit.write(LAYOUT.common_field(name), size, value)

    def read(self, name: str, size: int = 4) -> int | None:
        """A field of the common configuration; None where not all of it is known."""
        readout = self.unit.read(LAYOUT.common_field(name), size)
        return readout.value if readout.known == (1 << 8 * size) - 1 else None

    def status(self) -> Readout:
        return self.unit.read(LAYOUT.common_field("device_status"), 1)

    def isr(self) -> int:
        return self.unit.read(LAYOUT.isr.offset, 1).value

    def accept(self, features: int) -> None:
        for window in range(2):
            self.write("driver_feature_select", window)
            self.write("driver_feature", features >> 32 * window & 0xFFFF_FFFF)

    def enable(self, number: int) -> None:
        self._count[number] = 0
        self.write("queue_select", number, 2)
        for name, at in zip(("queue_desc", "queue_driver", "queue_device"), _RINGS[number], strict=True):
            self.write(name, at)
            self.unit.write(LAYOUT.common_field(name) + 4, 4, 0)
        self.write("queue_enable", 1, 2)

    def start(self, features: int = OFFERED, *, bypass: int | None = 0) -> None:
        self.write("device_status", 0, 1)
        self.accept(features)
        self.write("device_status", READY & ~int(DeviceStatus.DRIVER_OK), 1)
        for number in _RINGS:
            self.memory.write(_RINGS[number][1], bytes(4))
            self.memory.write(_RINGS[number][2], bytes(4))
            self.enable(number)
        self.write("device_status", READY, 1)
        if bypass is not None:
            self.unit.write(LAYOUT.device.offset + 36, 1, bypass)

    def chain(self, number: int, *elements: tuple[int, int, int]) -> None:
        """Make a chain available, by address, length and flags of its elements."""
        descriptors, available, _ = _RINGS[number]
        head = self._count[number] * 4 % SIZE
        for place, (address, length, flags) in enumerate(elements):
            last = place == len(elements) - 1
            more = 0 if last else DescriptorFlags.NEXT
            following = 0 if last else head + place + 1
            descriptor = struct.pack("<QIHH", address, length, flags | more, following)
            self.unit.store(descriptors + 16 * (head + place), descriptor)
        self.unit.store(available + 4 + 2 * (self._count[number] % SIZE), struct.pack("<H", head))
        self._count[number] += 1
        self.unit.store(available + 2, struct.pack("<H", self._count[number]))

    def notify(self, number: int) -> None:
        self.unit.write(LAYOUT.notification(self.identity.queues[number].notify_off), 2, number)

    def send(self, request: Request | bytes, room: int = TAIL_SIZE) -> bytes:
        """Have a request carried out; what the device has written."""
        readable = request if isinstance(request, bytes) else encode_request(request)
        self.unit.store(_BUFFER, readable)
        self.unit.store(_ANSWER, b"\xee" * room)
        self.chain(REQUEST_QUEUE, (_BUFFER, len(readable), 0), (_ANSWER, room, DescriptorFlags.WRITE))
        self.notify(REQUEST_QUEUE)
        return self.memory.read(_ANSWER, self.used(REQUEST_QUEUE).length)

    def offer_event_buffer(self, length: int = 24) -> None:
        place = EVENTS + 32 * self._count[EVENT_QUEUE]
        self.chain(EVENT_QUEUE, (place, length, DescriptorFlags.WRITE))

    def used(self, number: int) -> Used:
        ring = _RINGS[number][2]
        (index,) = struct.unpack("<H", self.memory.read(ring + 2, 2))
        head, length = struct.unpack("<II", self.memory.read(ring + 4 + 8 * ((index - 1) % SIZE), 8))
        return Used(index, head, length)

    def used_ring(self, number: int) -> int:
        return _RINGS[number][2]

    def access(self, iova: int, kind: AccessKind = AccessKind.READ, requester: int = EP) -> Outcome:
        """The first outcome, settled."""
        access = Access(requester=requester, iova=iova, length=4, kind=kind)
        outcome = self.unit.outcomes(access)[0]
        self.unit.settle(access, outcome)
        return outcome
