"""A virtio device on PCI as its driver meets it: status, features, queues, notifications (virtio 1.3, 2.1 to 2.4, 4.1).

MSI-X is taken to be disabled, so that notifications of the driver show in ISR status (4.1.4.5). The device looks at a
queue when it is notified of it, and has done everything when the notification returns.

A driver that breaks a rule may meet any device. Two kinds of such breaches are judged: what software finds in read-only
fields, and malformed chains. A device that finds one of these takes nothing more from its queues until it is reset, and
says so with DEVICE_NEEDS_RESET (2.1.2). Others are not modelled, and `write` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from harness.model.engine import NotModelled
from harness.model.memory import WritableMemory
from harness.model.unit import Coverage, Place, Readout
from harness.model.virtio.negotiation import DeviceStatus, TransportFeatures
from harness.model.virtio.pci_queues import PciQueues, breach
from harness.model.virtio.pci_registers import COMMON_FIELDS, NO_VECTOR, CommonField, PciIdentity, PciLayout
from harness.model.virtio.virtqueue import MalformedChain, QueueState, SplitQueue

__all__ = ["PciTransport", "TransportState", "VirtioDevice"]

_TRANSPORT = TransportFeatures(sum(TransportFeatures))
_SUPPORTED = (
    TransportFeatures.INDIRECT_DESC
    | TransportFeatures.EVENT_IDX
    | TransportFeatures.VERSION_1
    | TransportFeatures.ACCESS_PLATFORM
    | TransportFeatures.ORDER_PLATFORM
    | TransportFeatures.RING_RESET
)
# A device may fail without these, where it offers them (chapter 6).
_EXPECTED = TransportFeatures.VERSION_1 | TransportFeatures.ACCESS_PLATFORM | TransportFeatures.ORDER_PLATFORM
_WINDOW = (1 << 32) - 1
_SETTLED_STATUS = int(DeviceStatus(sum(DeviceStatus)))
_QUEUE_INTERRUPT, _CONFIGURATION_INTERRUPT = 1, 2
_ISR_BITS = _QUEUE_INTERRUPT | _CONFIGURATION_INTERRUPT
_NOTHING = Readout(0, 0)


class VirtioDevice(Protocol):
    """What stands behind the transport."""

    def reset(self) -> None:
        """The driver has reset the device."""
        ...

    def accept(self, features: int) -> None:
        """Features are negotiated: those that the driver accepts, of those that are offered."""
        ...

    def serve(self, number: int, queue: SplitQueue) -> None:
        """The driver has notified the device of a queue.

        Raises:
            MalformedChain, NotModelled: see `SplitQueue.take`.
        """
        ...

    def read_config(self, offset: int, size: int) -> Readout:
        """Device-specific configuration."""
        ...

    def write_config(self, offset: int, size: int, value: int) -> None:
        """The same.

        Raises:
            NotModelled: the driver must not do this.
        """
        ...


class TransportState(NamedTuple):
    """What requests of endpoints may change."""

    queues: tuple[QueueState | None, ...]
    status: int
    isr: int
    isr_known: int


class PciTransport:
    """The registers of one device.

    Args:
        layout: where they are.
        identity: what the device says of itself.
        memory: that its queues are in.
        device: what stands behind.
        coverage: where to note fields that software sets.
        advises: see `SplitQueue`.
    """

    def __init__(
        self,
        layout: PciLayout,
        identity: PciIdentity,
        memory: WritableMemory,
        device: VirtioDevice,
        coverage: Coverage,
        *,
        advises: bool,
    ) -> None:
        self._layout = layout
        self._identity = identity
        self._device = device
        self._coverage = coverage
        self._queues = PciQueues(identity, memory, advises=advises, signal=self._interrupt)
        # What is selected is not settled before the driver has said it.
        self._device_window: int | None = None
        self._driver_window: int | None = None
        self._written: dict[int, int] = {}
        self._reset_state()

    def reset(self) -> None:
        """The device is reset (2.4)."""
        self._reset_state()
        self._device.reset()

    def save(self) -> TransportState:
        """A point to come back to after requests of endpoints."""
        return TransportState(self._queues.save(), self._status, self._isr, self._isr_known)

    def restore(self, state: TransportState) -> None:
        """Be as at `save`."""
        states, self._status, self._isr, self._isr_known = state
        self._queues.restore(states)

    def use(self, number: int, work: Callable[[SplitQueue], None]) -> None:
        """Have something done with a queue, if the device may take from it now (2.1.2, 4.1.4.3).

        Raises:
            NotModelled: a part of it is not in memory.
        """
        queue = self._queues.live(number)
        if queue is None or self._status & (_DRIVER_OK | _NEEDS_RESET) != _DRIVER_OK:
            return
        try:
            work(queue)
        except MalformedChain:
            self._coverage.note("format", "malformed chain")
            self._fail()

    def queue(self, number: int) -> SplitQueue | None:
        """A queue, where it is enabled."""
        return self._queues.live(number)

    def place_at(self, offset: int) -> Place | None:
        """See `PciLayout.place_at`."""
        return self._layout.place_at(offset)

    # --- reading ---

    def read(self, offset: int, size: int) -> Readout:
        """See `Unit`; offsets count from the start of the BAR."""
        layout = self._layout
        if offset in layout.common:
            entry = COMMON_FIELDS.get(offset - layout.common.offset)
            return self._read_common(entry) if entry is not None and entry.size == size else _NOTHING
        if offset == layout.isr.offset:
            return self._read_isr(size)
        if offset in layout.device:
            return self._device.read_config(offset - layout.device.offset, size)
        return _NOTHING

    def _read_common(self, entry: CommonField) -> Readout:
        identity = self._identity
        match entry.name:
            case "device_feature_select":
                return _known(self._device_window)
            case "driver_feature_select":
                return _known(self._driver_window)
            case "device_feature":
                window = self._device_window
                return _NOTHING if window is None else Readout(_windowed(identity.features, window), _WINDOW)
            case "driver_feature":
                window = self._driver_window
                if window is None or window not in self._written:
                    return _NOTHING
                # 4.1.4.3.1: bits that were not offered may be shown or not.
                written = self._written[window]
                offered = _windowed(identity.features, window)
                return Readout(written & offered, _WINDOW & ~(written & ~offered))
            case "config_msix_vector":
                return Readout(self._vector, NO_VECTOR if identity.vectors else 0)
            case "num_queues":
                return Readout(len(identity.queues), 0xFFFF)
            case "device_status":
                return Readout(self._status, _SETTLED_STATUS & ~(_FEATURES_OK if self._doubt else 0))
            case "config_generation" | "queue_notif_config_data" | "admin_queue_index" | "admin_queue_num":
                return _NOTHING  # any number, or of features that are not modelled
            case _:
                return self._queues.read(entry, self._features)

    def _read_isr(self, size: int) -> Readout:
        # 4.1.4.5: 8 bits, of which the reserved ones say nothing; another width is none that a driver may use.
        seen = Readout(self._isr, self._isr_known) if size == 1 else _NOTHING
        self._isr, self._isr_known = 0, _ISR_BITS if size == 1 else 0
        return seen

    # --- writing ---

    def write(self, offset: int, size: int, value: int) -> None:
        """See `Unit`.

        Raises:
            NotModelled: the driver must not do this, and what comes of it is not said.
        """
        layout = self._layout
        if offset in layout.common:
            entry = COMMON_FIELDS.get(offset - layout.common.offset)
            if entry is None or entry.size != size:
                raise breach(f"{size} bytes written at {offset:#x}, which are no field", "4.1.3.1")
            self._write_common(entry, value)
        elif offset in layout.notify:
            self._notify(offset, size, value)
        elif offset in layout.device:
            self._device.write_config(offset - layout.device.offset, size, value)

    def _write_common(self, entry: CommonField, value: int) -> None:
        name = entry.name
        if name != "device_status":
            self._coverage.note("register", name)
        match name:
            case "device_feature_select":
                self._device_window = value
            case "driver_feature_select":
                self._driver_window = value
            case "driver_feature":
                if self._driver_window is None or self._status & _FEATURES_OK:
                    raise breach("features are accepted without a selector, or behind FEATURES_OK", "3.1.1")
                self._written[self._driver_window] = value
            case "config_msix_vector":
                self._vector = value if value < self._identity.vectors else NO_VECTOR
            case "device_status":
                self._write_status(value)
            case "queue_select":
                self._queues.select(value)
            case "device_feature" | "num_queues" | "config_generation" | "queue_notify_off":
                pass  # read-only
            case "queue_notif_config_data" | "admin_queue_index" | "admin_queue_num":
                pass  # read-only
            case _:
                self._queues.write(entry, value, self._features)

    def _write_status(self, value: int) -> None:
        if value == 0:
            self._coverage.note("register", "device_status.reset")
            self.reset()
            return
        fresh = value & ~self._status
        if self._status & ~value & ~(_FEATURES_OK if self._doubt else 0):
            raise breach(f"device_status {value:#x} clears bits of {self._status:#x}", "2.1.1")
        if fresh & ~_SETTLED_STATUS or fresh & _NEEDS_RESET:
            raise breach(f"device_status {value:#x} sets bits that are not the driver's", "2.1")
        for bit in DeviceStatus(fresh):
            self._coverage.note("register", f"device_status.{bit.name}")
        if fresh & _FEATURES_OK:
            self._negotiate()
        if fresh & _DRIVER_OK:
            if not value & _FEATURES_OK:
                raise breach("DRIVER_OK without FEATURES_OK", "3.1.1")
            if self._doubt:
                raise NotModelled(f"DRIVER_OK, though {self._doubt}")
        self._status = value

    # 2.2.2, 4.1.4.3.1: a device that keeps bits which it did not offer must refuse them here; one may drop them.
    def _negotiate(self) -> None:
        offered = self._identity.features
        written = sum(bits << 32 * window for window, bits in self._written.items() if window < 2)
        accepted = written & offered
        missing = TransportFeatures(offered & int(_EXPECTED) & ~accepted)
        foreign = TransportFeatures(accepted & int(_TRANSPORT & ~_SUPPORTED))
        if written & ~offered or any(bits for window, bits in self._written.items() if window >= 2):
            self._doubt = "features were accepted that are not offered (2.2.1)"
        elif missing:
            self._doubt = f"{missing.name} was not accepted, without which a device may fail (6.2)"
        elif foreign:
            self._doubt = f"{foreign.name} is not modelled"
        for feature in TransportFeatures(accepted & int(_TRANSPORT)):
            self._coverage.note("register", f"driver_feature.{feature.name}")
        self._features = accepted
        self._device.accept(accepted)

    def _notify(self, offset: int, size: int, value: int) -> None:
        for number, queue in enumerate(self._identity.queues):
            if self._layout.notification(queue.notify_off) == offset and number == value and size == 2:
                self._coverage.note("register", f"Queue Notify {number}")
                self.use(number, partial(self._device.serve, number))
                return
        raise breach(f"{size} bytes with {value:#x} written at {offset:#x} notify of no queue", "4.1.5.2.1")

    # --- state ---

    def _reset_state(self) -> None:
        self._status = 0
        self._doubt = ""
        self._features = 0
        self._device_window = self._driver_window = None
        self._written.clear()
        self._vector = NO_VECTOR
        self._isr, self._isr_known = 0, _ISR_BITS
        self._queues.reset()

    def _interrupt(self, must: bool) -> None:
        """A buffer was used: the driver must be told, or need not."""
        if must:
            self._isr |= _QUEUE_INTERRUPT
            self._isr_known |= _QUEUE_INTERRUPT
        elif not self._isr & _QUEUE_INTERRUPT:
            self._isr_known &= ~_QUEUE_INTERRUPT

    def _fail(self) -> None:
        """The error state of 2.1.2: a configuration change notification goes out, and maybe others with it."""
        self._status |= _NEEDS_RESET
        self._interrupt(must=False)
        self._isr |= _CONFIGURATION_INTERRUPT
        self._isr_known |= _CONFIGURATION_INTERRUPT


_DRIVER_OK, _FEATURES_OK, _NEEDS_RESET = (
    int(bit) for bit in (DeviceStatus.DRIVER_OK, DeviceStatus.FEATURES_OK, DeviceStatus.DEVICE_NEEDS_RESET)
)


def _known(value: int | None) -> Readout:
    return _NOTHING if value is None else Readout(value, _WINDOW)


def _windowed(features: int, window: int) -> int:
    return features >> 32 * window & _WINDOW if window < 2 else 0
