"""The registers of QEMU's amd-iommu: those in memory, and those of its PCI function."""

from __future__ import annotations

from dataclasses import replace

from harness.errors import VmmError
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.topology import AMDVI_REGISTERS
from harness.vmm.qemu.pci import PciFunction
from harness.vmm.qemu.qtest import Width

__all__ = ["read_interrupt", "read_registers", "write_interrupt"]

_MSI, _SECURE_DEVICE = 0x05, 0x0F
_AMD, _IOMMU_CLASS = 0x1022, 0x0806
_CLASS = 0x0A
# The MSI capability of a function with 64 bits of address: header, address, and data (PCI 3.0, 6.8.1).
_MSI_REGISTERS = ((0x0, Width.LONG), (0x4, Width.LONG), (0x8, Width.LONG), (0xC, Width.WORD))


def read_registers(function: PciFunction) -> AmdviRegisters:
    """Read them all. QEMU shows the MSI registers in configuration space alone.

    Args:
        function: the IOMMU's own.

    Raises:
        VmmError: it is not there, or has not the capabilities that an IOMMU has.
    """
    vendor, _ = function.vendor_and_device
    if vendor != _AMD or function.read(_CLASS, Width.WORD) != _IOMMU_CLASS:
        raise VmmError(f"there is no AMD IOMMU at {function}")
    registers = AmdviRegisters.read(
        lambda offset, size: function.qtest.read_value(AMDVI_REGISTERS + offset, Width(size)),
        capability_header=function.read(_capability(function, _SECURE_DEVICE), Width.LONG),
        device_id=function.address.requester,
    )
    header, low, high, data = read_interrupt(function)
    return replace(registers, msi_header=header, msi_address_low=low, msi_address_high=high, msi_data=data)


def read_interrupt(function: PciFunction) -> tuple[int, ...]:
    """The MSI registers of its function, by which it tells the guest of events."""
    at = _capability(function, _MSI)
    return tuple(function.read(at + offset, width) for offset, width in _MSI_REGISTERS)


def write_interrupt(function: PciFunction, registers: tuple[int, ...]) -> None:
    """Give the function what `read_interrupt` has read: QEMU does not save it (hw/i386/amd_iommu.c, `amdvi_pci`)."""
    at = _capability(function, _MSI)
    for (offset, width), value in reversed(list(zip(_MSI_REGISTERS, registers, strict=True))):  # the enable bit last
        function.write(at + offset, value, width)


def _capability(function: PciFunction, wanted: int) -> int:
    """Where a capability stands. There are two of MSI, the second one without registers: the first one counts."""
    for id, at in function.capabilities():
        if id == wanted:
            return at
    raise VmmError(f"the function {function} of the IOMMU has no capability {wanted:#x}")
