"""Fault reports on a virtio-iommu's event queue (virtio 1.3, 5.13.6.9)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Self

from harness.errors import SpecError
from harness.model.access import format_requester

__all__ = ["FaultFlags", "FaultReason", "VirtioIommuFaultRecord"]

# struct virtio_iommu_fault: reason, reserved[3], flags, endpoint, reserved1, address.
_FAULT = struct.Struct("<B3sIIIQ")


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


_KNOWN_FLAGS = int(FaultFlags.READ | FaultFlags.WRITE | FaultFlags.ADDRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioIommuFaultRecord:
    """struct virtio_iommu_fault. A device may leave out ADDRESS and `address`; the model always gives them.

    Attributes:
        reason: why.
        flags: of what kind the access was, and whether `address` counts.
        endpoint: whose.
        address: of the access; 0 where ADDRESS is not among the flags.
    """

    reason: FaultReason
    flags: FaultFlags
    endpoint: int
    address: int

    def encode(self) -> bytes:
        """The bytes of the report, reserved fields zero."""
        return _FAULT.pack(self.reason, bytes(3), self.flags, self.endpoint, 0, self.address)

    def report(self, buffer_size: int) -> bytes:
        """What the device writes into a buffer of the event queue: nothing into one that is too small.

        There is one format of reports, so that no older one could be fallen back to, and a report must not be spread
        over several buffers: it is dropped, as it is where there is no buffer at all.
        """
        encoded = self.encode()
        return encoded if buffer_size >= len(encoded) else b""

    @classmethod
    def decode(cls, report: bytes) -> Self | None:
        """What a driver makes of a report (5.13.6.9.1); None for one that it must ignore: `reserved` is not zero.

        `reserved1` and undefined flags are ignored, and a reason that is not known counts as UNKNOWN.

        Raises:
            SpecError: these are not as many bytes as a report has.
        """
        if len(report) < _FAULT.size:
            raise SpecError(f"a fault report of {len(report)} bytes; struct virtio_iommu_fault has {_FAULT.size}")
        reason, reserved, bits, endpoint, _, address = _FAULT.unpack_from(report)
        if any(reserved):
            return None
        flags = FaultFlags(bits & _KNOWN_FLAGS)
        return cls(
            reason=FaultReason(reason) if reason in FaultReason.__members__.values() else FaultReason.UNKNOWN,
            flags=flags,
            endpoint=endpoint,
            address=address if FaultFlags.ADDRESS in flags else 0,
        )

    def __str__(self) -> str:
        kind = {FaultFlags.READ: "read", FaultFlags.WRITE: "write"}.get(self.flags & ~FaultFlags.ADDRESS, "access")
        where = f" at {self.address:#x}" if FaultFlags.ADDRESS in self.flags else ""
        return f"{kind} by endpoint {format_requester(self.endpoint)}{where}, reason {self.reason.name}"
