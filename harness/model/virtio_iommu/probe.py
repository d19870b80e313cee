"""The list of properties in the answer to a PROBE request (virtio 1.3, 5.13.6.7 and 5.13.6.8)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["RegionKind", "ReservedRegion", "decode_properties", "encode_properties"]

# struct virtio_iommu_probe_property: 12 bits of type and 4 reserved ones, and the length of what follows.
_HEAD = struct.Struct("<HH")
_T_RESV_MEM = 1
# What follows the head in struct virtio_iommu_probe_resv_mem.
_RESV_MEM = struct.Struct("<B3xQQ")


class RegionKind(IntEnum):
    """VIRTIO_IOMMU_RESV_MEM_T_* (5.13.6.8.1)."""

    RESERVED = 0
    MSI = 1


@dataclass(frozen=True, slots=True)
class ReservedRegion:
    """A RESV_MEM property: virtual addresses start..end (inclusive) that the driver cannot map (5.13.6.8.1)."""

    start: int
    end: int
    kind: RegionKind = RegionKind.RESERVED

    def overlaps(self, start: int, end: int) -> bool:
        """Whether it shares an address with start..end (inclusive)."""
        return self.start <= end and start <= self.end


def encode_properties(regions: Iterable[ReservedRegion]) -> bytes:
    """The properties as the device puts them, one straight after the other, reserved fields zero (5.13.6.7.2)."""
    head = _HEAD.pack(_T_RESV_MEM, _RESV_MEM.size)
    return b"".join(head + _RESV_MEM.pack(region.kind, region.start, region.end) for region in regions)


def decode_properties(properties: bytes) -> tuple[ReservedRegion, ...]:
    """What a driver makes of a list of properties (5.13.6.7.1, 5.13.6.8.1.1).

    It ends with the first of type 0, or with the bytes; one that is cut off is none. One of another type, or with a
    reserved bit set, is passed over; a subtype that is not known counts as RESERVED.
    """
    regions: list[ReservedRegion] = []
    at = 0
    while at + _HEAD.size <= len(properties):
        kind, length = _HEAD.unpack_from(properties, at)
        at += _HEAD.size
        if kind & 0xFFF == 0:
            break
        if kind == _T_RESV_MEM and length >= _RESV_MEM.size and at + length <= len(properties):
            subtype, start, end = _RESV_MEM.unpack_from(properties, at)
            regions.append(ReservedRegion(start, end, RegionKind(subtype == RegionKind.MSI)))
        at += length
    return tuple(regions)
