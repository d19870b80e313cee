"""A virtio device on PCI as a running machine has it, with the host's hand on its registers: where its queues lie.

The selectors that this moves (virtio 1.3, 4.1.4.3) are of no use to a driver once it has set its device up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from harness.errors import VmmError, VmmTimeout
from harness.model.virtio.negotiation import DeviceStatus
from harness.model.virtio.pci_registers import COMMON_FIELDS, PciLayout
from harness.model.virtio.virtqueue import Rings
from harness.vmm.qemu.pci import PciFunction
from harness.vmm.qemu.qtest import Width

__all__ = ["VirtioFunction"]

_RESET_SECONDS = 5.0
_PARTS, _HALF = ("queue_desc", "queue_driver", "queue_device"), 0xFFFF_FFFF
_SIZES = {field.name: field.size for field in COMMON_FIELDS.values() if not field.high}


@dataclass(frozen=True, slots=True)
class VirtioFunction:
    """One device with the modern interface.

    Attributes:
        function: its PCI function.
        layout: where its structures are.
        base: guest physical address of the BAR that they are in.
    """

    function: PciFunction
    layout: PciLayout
    base: int

    @classmethod
    def find(cls, function: PciFunction) -> Self:
        """Follow the capabilities in configuration space (virtio 1.3, 4.1.4).

        Raises:
            SpecError: it is no such device, or its BAR has no address.
        """
        words = (function.read(at, Width.LONG) for at in range(0, 256, 4))
        layout = PciLayout.read(b"".join(word.to_bytes(4, "little") for word in words))
        return cls(function, layout, function.bar(layout.bar))

    def read(self, name: str) -> int:
        """A field of the common configuration, by its name; of one of 64 bits, the lower half."""
        return self.function.qtest.read_value(self._field(name), Width(_SIZES[name]))

    def write(self, name: str, value: int) -> None:
        """Set such a field."""
        self.function.qtest.write_value(self._field(name), value, Width(_SIZES[name]))

    def queue(self, number: int) -> Rings:
        """Where a queue lies, as its driver has told the device: addresses as the device puts them on the bus."""
        self.write("queue_select", number)
        return Rings(
            size=self.read("queue_size"),
            descriptors=self._address("queue_desc"),
            driver=self._address("queue_driver"),
            device=self._address("queue_device"),
        )

    @property
    def offered(self) -> int:
        """The features that it offers, 64 bits."""
        found = 0
        for window in range(2):
            self.write("device_feature_select", window)
            found |= self.read("device_feature") << 32 * window
        return found

    def start(self, features: int, queues: Mapping[int, Rings]) -> None:
        """Set the device up as a driver does, from a reset on (virtio 1.3, 3.1.1).

        Args:
            features: to accept, 64 bits.
            queues: of those that are to be enabled, by number, where they lie.

        Raises:
            VmmError: it does not agree to the features.
            VmmTimeout: it is not reset.
        """
        status = 0
        self.write("device_status", status)
        end = time.monotonic() + _RESET_SECONDS
        while self.read("device_status"):
            if time.monotonic() > end:
                raise VmmTimeout(f"the virtio device at {self.function} is not reset within {_RESET_SECONDS:g} s")
        for step in (DeviceStatus.ACKNOWLEDGE, DeviceStatus.DRIVER):
            status |= step
            self.write("device_status", status)
        for window in range(2):
            self.write("driver_feature_select", window)
            self.write("driver_feature", features >> 32 * window & _HALF)
        status |= DeviceStatus.FEATURES_OK
        self.write("device_status", status)
        if not self.read("device_status") & DeviceStatus.FEATURES_OK:
            raise VmmError(f"the virtio device at {self.function} does not agree to features {features:#x}")
        for number, rings in queues.items():
            self.enable_queue(number, rings)
        self.write("device_status", status | DeviceStatus.DRIVER_OK)

    def enable_queue(self, number: int, rings: Rings) -> None:
        """Tell the device where a queue lies, and that it may use it (virtio 1.3, 4.1.5.1.3)."""
        self.write("queue_select", number)
        self.write("queue_size", rings.size)
        for name, address in zip(_PARTS, (rings.descriptors, rings.driver, rings.device), strict=True):
            self.write(name, address & _HALF)
            self.function.qtest.write_value(self._field(name) + Width.LONG, address >> 32, Width.LONG)
        self.write("queue_enable", 1)

    def notify(self, number: int) -> None:
        """Tell the device that something is available in a queue (virtio 1.3, 4.1.5.2)."""
        self.write("queue_select", number)
        place = self.base + self.layout.notification(self.read("queue_notify_off"))
        self.function.qtest.write_value(place, number, Width.WORD)

    def _address(self, name: str) -> int:
        return self.function.qtest.read_value(self._field(name), Width.QUAD)

    def _field(self, name: str) -> int:
        return self.base + self.layout.common_field(name)
