"""Fault reports on a virtio-iommu's event queue (virtio 1.3, 5.13.6.9)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from harness.model.access import format_requester

__all__ = ["FaultFlags", "FaultReason", "VirtioIommuFaultRecord"]

_FAULT = struct.Struct("<B3xIIIQ")


class FaultReason(IntEnum):
    """VIRTIO_IOMMU_FAULT_R_*."""

    UNKNOWN = 0
    """An error that the other reasons do not describe."""
    DOMAIN = 1
    """The endpoint is not attached to a domain, and not in bypass mode."""
    MAPPING = 2
    """The address is not mapped in the domain, or not for this kind of access."""


class FaultFlags(IntFlag):
    """VIRTIO_IOMMU_FAULT_F_*."""

    READ = 1 << 0
    WRITE = 1 << 1
    ADDRESS = 1 << 8


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioIommuFaultRecord:
    """struct virtio_iommu_fault. A device may leave out ADDRESS and `address`; the model always gives them."""

    reason: FaultReason
    flags: FaultFlags
    endpoint: int
    address: int

    def encode(self) -> bytes:
        """The bytes that the device writes into the buffer."""
        return _FAULT.pack(self.reason, self.flags, self.endpoint, 0, self.address)

    def __str__(self) -> str:
        kind = "write" if FaultFlags.WRITE in self.flags else "read"
        return f"{kind} by endpoint {format_requester(self.endpoint)} at {self.address:#x}, reason {self.reason.name}"
