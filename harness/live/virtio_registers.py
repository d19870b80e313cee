"""Registers of a virtio device on PCI in a running machine, read from the host.

Source: virtio 1.3, 4.1.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.vmm.qemu.pci import PciFunction
from harness.vmm.qemu.qtest import Width

__all__ = ["VirtioRegisters", "Virtqueue"]

_VENDOR_CAPABILITY = 0x09
_COMMON, _DEVICE = 1, 4


@dataclass(frozen=True, slots=True)
class Virtqueue:
    """Where a split virtqueue is in guest memory (2.7).

    Attributes:
        descriptors: queue_desc.
        available: queue_driver, what the driver has made available.
        used: queue_device, what the device has used.
    """

    descriptors: int
    available: int
    used: int


@dataclass(frozen=True, slots=True)
class VirtioRegisters:
    """The two structures that tell of a device.

    Attributes:
        function: its PCI function.
        device: guest physical address of the device-specific configuration.
        common: of the common configuration.
    """

    function: PciFunction
    device: int
    common: int

    @classmethod
    def find(cls, function: PciFunction) -> VirtioRegisters:
        """Follow the list of PCI capabilities to the two structures."""
        found: dict[int, int] = {}
        for kind, at in function.capabilities():
            if kind == _VENDOR_CAPABILITY:
                structure = function.read(at + 3, Width.BYTE)
                bar = function.read(at + 4, Width.BYTE)
                offset = function.read(at + 8, Width.LONG)
                if structure in (_COMMON, _DEVICE):
                    found.setdefault(structure, function.bar(bar) + offset)
        return cls(function, found[_DEVICE], found[_COMMON])

    @property
    def offered(self) -> int:
        """The low 32 feature bits that the device offers; for who may move a selector, see `queue`."""
        return self._features(0)

    @property
    def accepted(self) -> int:
        """The low 32 feature bits that its driver has accepted."""
        return self._features(8)

    def _features(self, register: int) -> int:
        self.function.qtest.write_value(self.common + register, 0, Width.LONG)
        return self.function.qtest.read_value(self.common + register + 4, Width.LONG)

    def queue(self, number: int) -> Virtqueue:
        """Where a virtqueue is.

        It shows behind a selector, queue_select (4.1.4.3), that a driver has no use for once its device is set up.
        """
        qtest = self.function.qtest
        qtest.write_value(self.common + 0x16, number, Width.WORD)
        return Virtqueue(*(qtest.read_value(self.common + at, Width.QUAD) for at in (0x20, 0x28, 0x30)))
