"""PCI functions of a live guest, reached from the host over qtest.

Configuration space is reached through the enhanced configuration mechanism (PCI Express Base Specification 5.0, 7.2.2):
memory accesses, which any number of parties can make at once. The ports cf8 and cfc are a pair that the guest uses
itself: an access of the host between its two would go astray, or lead the guest's astray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import GuestError, SpecError
from harness.pci import Address
from harness.vmm.qemu.qmp import Qmp
from harness.vmm.qemu.qtest import Qtest, Width

__all__ = ["COMMAND_BUS_MASTER", "COMMAND_MEMORY", "PciFunction", "ecam_base"]

COMMAND_MEMORY = 1 << 1
"""Command register: the function answers memory accesses (PCI Local Bus 3.0, 6.2.2)."""
COMMAND_BUS_MASTER = 1 << 2
"""Command register: the function may make accesses itself, MSIs among them."""

_HOST_BRIDGE = "/machine/q35"
_NOWHERE = (1 << 64) - 1  # QEMU, include/hw/pci/pcie_host.h, PCIE_BASE_ADDR_UNMAPPED
_COMMAND = 0x04
_BAR0 = 0x10
_BARS = 6
_CAPABILITIES = 0x34


def ecam_base(qmp: Qmp) -> int:
    """Guest physical address of configuration space, as the guest's firmware has set it in the host bridge's PCIEXBAR.

    QEMU is asked, and not the guest, which may be no more than firmware: its property is what the MCFG table is made
    from (QEMU, include/hw/pci/pcie_host.h, PCIE_HOST_MCFG_BASE).

    Raises:
        GuestError: it is switched off.
    """
    base: int = qmp.execute("qom-get", {"path": _HOST_BRIDGE, "property": "MCFG"})
    if base == _NOWHERE:
        raise GuestError("the guest's firmware has not switched the ECAM on", hint="wait until it has")
    return base


@dataclass(frozen=True, slots=True)
class PciFunction:
    """One function.

    Attributes:
        qtest: the channel to its guest.
        ecam: guest physical address of configuration space (MCFG table, bus 0), as the guest's firmware has set it.
        address: where it is, with its bus as the guest has numbered it.
    """

    qtest: Qtest
    ecam: int
    address: Address

    def __str__(self) -> str:
        return str(self.address)

    @property
    def vendor_and_device(self) -> tuple[int, int]:
        """Vendor id and device id; ffff and ffff where no function answers."""
        word = self.read(0, Width.LONG)
        return word & 0xFFFF, word >> 16

    def read(self, offset: int, width: Width) -> int:
        """Read configuration space."""
        return self.qtest.read_value(self._place(offset, width), width)

    def write(self, offset: int, value: int, width: Width) -> None:
        """Write configuration space."""
        self.qtest.write_value(self._place(offset, width), value, width)

    def bar(self, index: int) -> int:
        """Base address that the guest gave to a memory BAR.

        Raises:
            SpecError: it is an I/O BAR, or has no address yet.
        """
        offset = _BAR0 + 4 * index
        low = self.read(offset, Width.LONG)
        if low & 1:
            raise SpecError(f"BAR {index} of {self} is an I/O BAR ({low:#x})", hint="ask for a memory BAR")
        base = low & ~0xF
        if low >> 1 & 3 == 2 and index + 1 < _BARS:  # 64-bit
            base |= self.read(offset + 4, Width.LONG) << 32
        if base == 0:
            raise SpecError(f"the guest has given BAR {index} of {self} no address", hint="wait until it has booted")
        return base

    def capabilities(self) -> Iterator[tuple[int, int]]:
        """Id of each capability, and where in configuration space it stands, in their order (PCI 3.0, 6.7)."""
        at = self.read(_CAPABILITIES, Width.BYTE)
        while at:
            yield self.read(at, Width.BYTE), at
            at = self.read(at + 1, Width.BYTE)

    def enable(self, bits: int) -> None:
        """Set bits of the command register, leaving the others as the guest has them."""
        self.write(_COMMAND, self.read(_COMMAND, Width.WORD) | bits, Width.WORD)

    def disable(self, bits: int) -> None:
        """Clear bits of the command register, leaving the others as the guest has them."""
        self.write(_COMMAND, self.read(_COMMAND, Width.WORD) & ~bits, Width.WORD)

    def _place(self, offset: int, width: Width) -> int:
        if not 0 <= offset < 4096 or offset % width:
            raise SpecError(f"configuration space of {self}: {width} bytes at {offset:#x}", hint="0 to fff, aligned")
        return self.ecam + (self.address.requester << 12) + offset
