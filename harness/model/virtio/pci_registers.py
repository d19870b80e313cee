"""The registers of a virtio device on PCI: where they are, their fields, and what a device says of itself in them.

All structures are taken to lie in one BAR; the capabilities in configuration space say where (virtio 1.3, 4.1.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from harness.errors import SpecError
from harness.model.bits import Field, Layout
from harness.model.unit import Place

__all__ = ["COMMON_FIELDS", "NO_VECTOR", "CommonField", "PciIdentity", "PciLayout", "QueueIdentity", "Structure"]

NO_VECTOR = 0xFFFF
"""VIRTIO_MSI_NO_VECTOR (4.1.5.1.2)."""

_CAPABILITY_SIZE = 16
_VENDOR_SPECIFIC = 0x09
_COMMON, _NOTIFY, _ISR, _DEVICE = 1, 2, 3, 4

_STATUS = Layout(
    "device_status",
    "virtio 2.1",
    (
        Field("ACKNOWLEDGE", 0, 1),
        Field("DRIVER", 1, 1),
        Field("DRIVER_OK", 2, 1),
        Field("FEATURES_OK", 3, 1),
        Field("RSVD_4", 4, 2),
        Field("DEVICE_NEEDS_RESET", 6, 1),
        Field("FAILED", 7, 1),
    ),
)
_ISR_STATUS = Layout(
    "ISR status",
    "virtio 4.1.4.5",
    (Field("Queue Interrupt", 0, 1), Field("Device Configuration Interrupt", 1, 1), Field("RSVD_2", 2, 6)),
)


class CommonField(NamedTuple):
    """A field of struct virtio_pci_common_cfg (4.1.4.3), or one half of a 64-bit one.

    Attributes:
        name: of the field.
        offset: from the start of the structure, bytes.
        size: bytes; accesses are exactly as wide (4.1.3.1).
        high: whether it is the upper half.
    """

    name: str
    offset: int
    size: int
    high: bool = False


def _fields() -> Mapping[int, CommonField]:
    found: dict[int, CommonField] = {}
    at = 0
    for name, size in (
        ("device_feature_select", 4),
        ("device_feature", 4),
        ("driver_feature_select", 4),
        ("driver_feature", 4),
        ("config_msix_vector", 2),
        ("num_queues", 2),
        ("device_status", 1),
        ("config_generation", 1),
        ("queue_select", 2),
        ("queue_size", 2),
        ("queue_msix_vector", 2),
        ("queue_enable", 2),
        ("queue_notify_off", 2),
        ("queue_desc", 8),
        ("queue_driver", 8),
        ("queue_device", 8),
        ("queue_notif_config_data", 2),
        ("queue_reset", 2),
        ("admin_queue_index", 2),
        ("admin_queue_num", 2),
    ):
        found[at] = CommonField(name, at, min(size, 4))
        if size == 8:
            found[at + 4] = CommonField(name, at + 4, 4, high=True)
        at += size
    return found


COMMON_FIELDS: Mapping[int, CommonField] = _fields()
"""By offset."""
_BY_NAME = {entry.name: entry for entry in COMMON_FIELDS.values() if not entry.high}


class Structure(NamedTuple):
    """Where one of the structures lies in the BAR, bytes."""

    offset: int
    size: int

    def __contains__(self, offset: object) -> bool:
        return isinstance(offset, int) and self.offset <= offset < self.offset + self.size


@dataclass(frozen=True, slots=True)
class PciLayout:
    """The structures of one device, in one BAR.

    Attributes:
        bar: number of the BAR.
        common: common configuration (4.1.4.3).
        notify: notifications (4.1.4.4).
        isr: ISR status (4.1.4.5).
        device: device-specific configuration (4.1.4.6).
        notify_multiplier: bytes between the places of two notifications.
    """

    bar: int
    common: Structure
    notify: Structure
    isr: Structure
    device: Structure
    notify_multiplier: int

    @classmethod
    def read(cls, space: bytes) -> PciLayout:
        """From the capabilities in configuration space, of which the first of each type counts (4.1.4.1).

        Args:
            space: its first 256 bytes.

        Raises:
            SpecError: a structure is missing, or they are not in one BAR.
        """
        found: dict[int, tuple[int, Structure]] = {}
        multiplier = 0
        at = space[0x34] & ~3
        for _ in range(len(space) // 4):  # the list may run in a circle
            if not at:
                break
            kind = space[at + 3]
            if space[at] == _VENDOR_SPECIFIC and kind in (_COMMON, _NOTIFY, _ISR, _DEVICE) and kind not in found:
                offset, size = (int.from_bytes(space[at + word : at + word + 4], "little") for word in (8, 12))
                found[kind] = (space[at + 4], Structure(offset, size))
                if kind == _NOTIFY:
                    multiplier = int.from_bytes(space[at + _CAPABILITY_SIZE : at + _CAPABILITY_SIZE + 4], "little")
            at = space[at + 1] & ~3
        bars = {bar for bar, _ in found.values()}
        if len(found) < 4 or len(bars) > 1:
            raise SpecError(
                f"structures {sorted(found)} of a virtio device in BARs {sorted(bars)}: four, in one, are read"
            )
        common, notify, isr, device = (found[kind][1] for kind in (_COMMON, _NOTIFY, _ISR, _DEVICE))
        return cls(bars.pop(), common, notify, isr, device, multiplier)

    def common_field(self, name: str) -> int:
        """Offset in the BAR of a field of the common configuration."""
        return self.common.offset + _BY_NAME[name].offset

    def notification(self, notify_off: int) -> int:
        """Offset in the BAR where a queue with that `queue_notify_off` is notified."""
        return self.notify.offset + notify_off * self.notify_multiplier

    def place_at(self, offset: int) -> Place | None:
        """The register of the transport that a byte belongs to; None for device-specific configuration."""
        if offset in self.isr:
            return Place("ISR status", self.isr.offset, 1, _ISR_STATUS) if offset == self.isr.offset else None
        if offset in self.notify:
            return Place("Queue Notify", offset & ~1, 2)
        if offset in self.common:
            for entry in COMMON_FIELDS.values():
                start = self.common.offset + entry.offset
                if start <= offset < start + entry.size:
                    return Place(entry.name, start, entry.size, _STATUS if entry.name == "device_status" else None)
        return None


@dataclass(frozen=True, slots=True)
class QueueIdentity:
    """What the device says of a queue.

    Attributes:
        size: the largest Queue Size.
        notify_off: `queue_notify_off`.
    """

    size: int
    notify_off: int


@dataclass(frozen=True, slots=True)
class PciIdentity:
    """What the transport says of the device, right after a reset.

    Attributes:
        features: that it offers, 64 bits.
        queues: those that there are.
        vectors: entries of its MSI-X table; 0 without the capability.
    """

    features: int
    queues: tuple[QueueIdentity, ...]
    vectors: int = 0

    @classmethod
    def read(
        cls,
        layout: PciLayout,
        read: Callable[[int, int], int],
        write: Callable[[int, int, int], None],
        *,
        vectors: int = 0,
    ) -> PciIdentity:
        """Ask a device.

        Args:
            layout: where its registers are.
            read: gives a register, by offset in the BAR and bytes.
            write: sets one, by offset, bytes and value: only selectors are written.
            vectors: as the attribute.
        """

        def field(name: str) -> int:
            return read(layout.common_field(name), _BY_NAME[name].size)

        def select(name: str, value: int) -> None:
            write(layout.common_field(name), _BY_NAME[name].size, value)

        features = 0
        for window in range(2):
            select("device_feature_select", window)
            features |= field("device_feature") << 32 * window
        queues = []
        for number in range(field("num_queues")):
            select("queue_select", number)
            queues.append(QueueIdentity(field("queue_size"), field("queue_notify_off")))
        return cls(features, tuple(queues), vectors)
