"""The requests that a driver sends to a virtio-iommu, and the statuses it gets (virtio 1.3, 5.13.6).

Ranges are inclusive at both ends, as in the specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TypeAlias

__all__ = ["Attach", "AttachFlags", "Detach", "Map", "MapFlags", "Probe", "Request", "Status", "Unmap"]


class Status(IntEnum):
    """VIRTIO_IOMMU_S_* (5.13.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
    DEVERR = 3
    INVAL = 4
    RANGE = 5
    NOENT = 6
    FAULT = 7
    NOMEM = 8


class AttachFlags(IntFlag):
    """VIRTIO_IOMMU_ATTACH_F_* (5.13.6.3)."""

    NONE = 0
    BYPASS = 1


class MapFlags(IntFlag):
    """VIRTIO_IOMMU_MAP_F_* (5.13.6.5)."""

    NONE = 0
    READ = 1
    WRITE = 2
    MMIO = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """VIRTIO_IOMMU_T_ATTACH (5.13.6.3): put an endpoint into a domain, which is made if it is not there."""

    domain: int
    endpoint: int
    flags: int = 0
    reserved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach:
    """VIRTIO_IOMMU_T_DETACH (5.13.6.4): take an endpoint out of a domain."""

    domain: int
    endpoint: int
    reserved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """VIRTIO_IOMMU_T_MAP (5.13.6.5): map virt_start..virt_end to phys_start and on."""

    domain: int
    virt_start: int
    virt_end: int
    phys_start: int
    flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmap:
    """VIRTIO_IOMMU_T_UNMAP (5.13.6.6): remove the mappings that lie in virt_start..virt_end."""

    domain: int
    virt_start: int
    virt_end: int
    reserved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """VIRTIO_IOMMU_T_PROBE (5.13.6.7): ask for an endpoint's properties; its reserved field is ignored."""

    endpoint: int


Request: TypeAlias = Attach | Detach | Map | Unmap | Probe
