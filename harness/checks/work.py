"""Devices at work: bound to the driver they must have, and using the DMA path that their tag says."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from harness.guest.agent import Function
from harness.model.topology import PciFunction
from harness.report.record import Finding
from harness.spec import Device

__all__ = ["check_driver", "check_platform_access"]

_ACCESS_PLATFORM = 33  # VIRTIO_F_ACCESS_PLATFORM, virtio 1.3, 6


def check_driver(function: PciFunction, seen: Collection[Function], driver: str) -> Iterator[Finding]:
    """The function is held by that driver."""
    address = str(function.address)
    held = next((found.driver or "none" for found in seen if found.address == address), "not there at all")
    if held != driver:
        yield Finding(subject=f"driver of {address} ({function.what})", expected=driver, seen=held)


def check_platform_access(device: Device, features: frozenset[int]) -> Iterator[Finding]:
    """The driver negotiated VIRTIO_F_ACCESS_PLATFORM exactly where the device is tagged `iommu=on`.

    Args:
        device: a virtio device of the spec.
        features: numbers of the feature bits that were negotiated.
    """
    if (_ACCESS_PLATFORM in features) != device.iommu:
        yield Finding(
            subject=f"VIRTIO_F_ACCESS_PLATFORM of {device.id}",
            expected="negotiated" if device.iommu else "not negotiated",
            seen="negotiated" if _ACCESS_PLATFORM in features else "not negotiated",
            citation="virtio 1.3, section 6.1",
        )
