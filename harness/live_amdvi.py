"""The registers of QEMU's amd-iommu, as they are now: those in memory, and those of its PCI function."""

from __future__ import annotations

from dataclasses import replace

from harness.errors import VmmError
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.topology import AMDVI_REGISTERS
from harness.vmm.qemu.pci import PciFunction
from harness.vmm.qemu.qtest import Width

__all__ = ["read_registers"]

_MSI, _SECURE_DEVICE = 0x05, 0x0F
_AMD, _IOMMU_CLASS = 0x1022, 0x0806
_CLASS = 0x0A


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
    places: dict[int, int] = {}
    for id, at in function.capabilities():
        places.setdefault(id, at)  # there are two MSI capabilities, the second one without registers
    if not places.keys() >= {_MSI, _SECURE_DEVICE}:
        raise VmmError("the IOMMU's function has not the capabilities that are expected", evidence=str(places))
    msi = places[_MSI]
    registers = AmdviRegisters.read(
        lambda offset, size: function.qtest.read_value(AMDVI_REGISTERS + offset, Width(size)),
        capability_header=function.read(places[_SECURE_DEVICE], Width.LONG),
        device_id=function.address.requester,
    )
    return replace(
        registers,
        msi_header=function.read(msi, Width.LONG),
        msi_address_low=function.read(msi + 0x4, Width.LONG),
        msi_address_high=function.read(msi + 0x8, Width.LONG),
        msi_data=function.read(msi + 0xC, Width.WORD),
    )
