"""The fields of a virtio device's queues on PCI: selected, set up, enabled, reset (virtio 1.3, 2.6, 4.1.4.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.model.engine import NotModelled
from harness.model.memory import WritableMemory
from harness.model.unit import Readout
from harness.model.virtio.negotiation import TransportFeatures
from harness.model.virtio.pci_registers import NO_VECTOR, CommonField, PciIdentity
from harness.model.virtio.virtqueue import ALIGNMENTS, QueueState, Rings, SplitQueue

__all__ = ["PciQueues", "breach"]

_RING_FIELDS = ("queue_desc", "queue_driver", "queue_device")
_NOTHING = Readout(0, 0)
_HALF = (1 << 32) - 1


@dataclass(slots=True)
class _Queue:
    """The fields of one queue; of `rings` both halves of each part, where they were written."""

    size: int
    rings: dict[tuple[str, bool], int] = field(default_factory=dict)
    vector: int = NO_VECTOR
    live: SplitQueue | None = None


class PciQueues:
    """The queues of one device.

    Args:
        identity: what the device says of them.
        memory: that they are in.
        advises: see `SplitQueue`.
        signal: see `SplitQueue`.
    """

    def __init__(
        self, identity: PciIdentity, memory: WritableMemory, *, advises: bool, signal: Callable[[bool], None]
    ) -> None:
        self._identity = identity
        self._memory = memory
        self._advises = advises
        self._signal = signal
        self._selected: int | None = None
        self._queues: list[_Queue] = []
        self.reset()

    def reset(self) -> None:
        """The device is reset: no queue is enabled, and which one is selected is not said."""
        self._selected = None
        self._queues = [self._fresh(number) for number in range(len(self._identity.queues))]

    def save(self) -> tuple[QueueState | None, ...]:
        """A point to come back to after requests of endpoints."""
        return tuple(None if queue.live is None else queue.live.save() for queue in self._queues)

    def restore(self, states: tuple[QueueState | None, ...]) -> None:
        """Be as at `save`."""
        for queue, saved in zip(self._queues, states, strict=True):
            if queue.live is not None and saved is not None:
                queue.live.restore(saved)

    def live(self, number: int) -> SplitQueue | None:
        """A queue, where it is enabled."""
        return self._queues[number].live

    def select(self, number: int) -> None:
        """The driver writes `queue_select`."""
        self._selected = number

    def read(self, entry: CommonField, features: int) -> Readout:
        """`queue_select`, or a field of the selected queue; of one that there is not its size is known (4.1.4.3.1).

        Args:
            entry: which field.
            features: that are negotiated.
        """
        number = self._selected
        if number is None:
            return _NOTHING
        if entry.name == "queue_select":
            return Readout(number, 0xFFFF)
        if number >= len(self._queues):
            return Readout(0, 0xFFFF if entry.name == "queue_size" else 0)
        queue = self._queues[number]
        match entry.name:
            case "queue_size":
                return Readout(queue.size, 0xFFFF)
            case "queue_msix_vector":
                return Readout(queue.vector, NO_VECTOR if self._identity.vectors else 0)
            case "queue_enable":
                return Readout(int(queue.live is not None), 0xFFFF)
            case "queue_notify_off":
                return Readout(self._identity.queues[number].notify_off, 0xFFFF)
            case "queue_reset":
                return Readout(0, 0xFFFF if features & TransportFeatures.RING_RESET else 0)
            case name:
                written = queue.rings.get((name, entry.high))
                return _NOTHING if written is None else Readout(written, _HALF)

    def write(self, entry: CommonField, value: int, features: int) -> None:
        """The driver writes a field of the selected queue.

        Args:
            entry: which field.
            value: what is written.
            features: that are negotiated.

        Raises:
            NotModelled: the driver must not do this.
        """
        number, name = self._selected, entry.name
        if number is None or number >= len(self._queues):
            raise breach(f"{name} of a queue that there is not", "4.1.5.1.3")
        queue = self._queues[number]
        if name == "queue_msix_vector":
            queue.vector = value if value < self._identity.vectors else NO_VECTOR
        elif name == "queue_reset":
            if not features & TransportFeatures.RING_RESET or value != 1:
                raise breach(f"queue_reset {value:#x}", "4.1.4.3.2")
            self._queues[number] = self._fresh(number)
        elif queue.live is not None:
            raise breach(f"{name} of a queue that is enabled", "4.1.4.3.2")
        elif name == "queue_size":
            if value & value - 1 or not 0 < value <= self._identity.queues[number].size:
                raise breach(f"queue_size {value:#x}", "4.1.4.3.2")
            queue.size = value
        elif name == "queue_enable":
            if value != 1:
                raise breach(f"queue_enable {value:#x}", "4.1.4.3.2")
            self._enable(queue, features)
        else:
            queue.rings[name, entry.high] = value

    def _enable(self, queue: _Queue, features: int) -> None:
        places = []
        for name, alignment in zip(_RING_FIELDS, ALIGNMENTS, strict=True):
            low, high = (queue.rings.get((name, half)) for half in (False, True))
            if low is None or high is None or low % alignment:
                raise breach(f"a queue is enabled with {name} not set, or not aligned", "2.7.1")
            places.append(high << 32 | low)
        queue.live = SplitQueue(
            self._memory,
            Rings(queue.size, *places),
            indirect=bool(features & TransportFeatures.INDIRECT_DESC),
            event_idx=bool(features & TransportFeatures.EVENT_IDX),
            advises=self._advises,
            signal=self._signal,
        )

    def _fresh(self, number: int) -> _Queue:
        return _Queue(self._identity.queues[number].size)


def breach(what: str, section: str) -> NotModelled:
    """A driver has done what it must not."""
    return NotModelled(f"a driver must not do this, and what follows is not said: {what} (virtio {section})")
