"""What a virtio-iommu offers: feature bits, configuration space, endpoints (virtio 1.3, 5.13.3, 5.13.4, 5.13.6.8)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from harness.errors import SpecError

__all__ = ["Features", "RegionKind", "ReservedRegion", "VirtioIommuConfig"]

_RESV_MEM = struct.Struct("<HHB3xQQ")
_T_RESV_MEM = 1
_U32_MAX = (1 << 32) - 1
_U64_MAX = (1 << 64) - 1


class Features(IntFlag):
    """VIRTIO_IOMMU_F_*, as bits of the feature word (5.13.3)."""

    INPUT_RANGE = 1 << 0
    DOMAIN_RANGE = 1 << 1
    MAP_UNMAP = 1 << 2
    BYPASS = 1 << 3
    PROBE = 1 << 4
    MMIO = 1 << 5
    BYPASS_CONFIG = 1 << 6


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

    def encode(self) -> bytes:
        """The property as PROBE gives it, with its header."""
        return _RESV_MEM.pack(_T_RESV_MEM, _RESV_MEM.size - 4, self.kind, self.start, self.end)


_DEFAULT_FEATURES = (
    Features.INPUT_RANGE
    | Features.DOMAIN_RANGE
    | Features.MAP_UNMAP
    | Features.PROBE
    | Features.MMIO
    | Features.BYPASS_CONFIG
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioIommuConfig:
    """One virtio-iommu device.

    Attributes:
        endpoints: endpoint id (for PCI: segment << 16 | requester id) to its reserved regions; those that are not
            here do not exist for the device.
        offered: feature bits that the device offers.
        negotiated: those of them that the driver accepted; all of them when left out.
        page_size_mask: the lowest bit is the granule (5.13.6).
        input_range: first and last virtual address; all of them count unless INPUT_RANGE is offered.
        domain_range: first and last domain id; all of them count unless DOMAIN_RANGE is offered.
        probe_size: bytes of properties that a PROBE request has room for.
        bypass: initial value of the config field; counts when BYPASS_CONFIG is offered.

    Raises:
        SpecError: a configuration that a device must not present.
    """

    endpoints: Mapping[int, tuple[ReservedRegion, ...]]
    offered: Features = _DEFAULT_FEATURES
    negotiated: Features | None = None
    page_size_mask: int = _U64_MAX & ~0xFFF
    input_range: tuple[int, int] = (0, _U64_MAX)
    domain_range: tuple[int, int] = (0, _U32_MAX)
    probe_size: int = 512
    bypass: bool = False
    granule: int = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.page_size_mask <= _U64_MAX:
            raise SpecError(f"page_size_mask={self.page_size_mask:#x}: at least one bit must be set (5.13.4.2)")
        object.__setattr__(self, "granule", self.page_size_mask & -self.page_size_mask)
        if self.negotiated is None:
            object.__setattr__(self, "negotiated", self.offered)
        elif self.negotiated & ~int(self.offered):
            raise SpecError(f"features {self.negotiated & ~int(self.offered):#x} were negotiated but not offered")
        if not self.offered & Features.INPUT_RANGE:
            object.__setattr__(self, "input_range", (0, _U64_MAX))
        if not self.offered & Features.DOMAIN_RANGE:
            object.__setattr__(self, "domain_range", (0, _U32_MAX))

    def has(self, feature: Features) -> bool:
        """Whether the feature was negotiated."""
        assert self.negotiated is not None
        return bool(self.negotiated & feature)
