"""User-space DMA mappings through VFIO type 1. Linux, include/uapi/linux/vfio.h, Documentation/driver-api/vfio.rst."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable

import memory

_GET_API_VERSION, _CHECK_EXTENSION, _SET_IOMMU = (0x3B64 + n for n in range(3))
_GROUP_GET_STATUS, _GROUP_SET_CONTAINER, _, _GROUP_GET_DEVICE_FD = (0x3B67 + n for n in range(4))
_MAP_DMA, _UNMAP_DMA = 0x3B71, 0x3B72
_TYPE1V2_IOMMU = 3
_GROUP_FLAGS_VIABLE = 1
_DMA_MAP_FLAG = {"r": 1, "w": 2, "rw": 3}


class Container:
    """One container with one group and one device in it."""

    def __init__(self, address: str) -> None:
        group = os.path.basename(os.readlink(f"/sys/bus/pci/devices/{address}/iommu_group"))
        self.fd = os.open("/dev/vfio/vfio", os.O_RDWR)
        if not fcntl.ioctl(self.fd, _CHECK_EXTENSION, _TYPE1V2_IOMMU):
            raise RuntimeError("VFIO has no type 1 (v2) IOMMU")
        self.group = os.open(f"/dev/vfio/{group}", os.O_RDWR)
        status = bytearray(struct.pack("<II", 8, 0))
        fcntl.ioctl(self.group, _GROUP_GET_STATUS, status)
        if not struct.unpack("<II", status)[1] & _GROUP_FLAGS_VIABLE:
            raise RuntimeError(f"group {group} is not viable: another of its devices is bound to a host driver")
        fcntl.ioctl(self.group, _GROUP_SET_CONTAINER, struct.pack("<i", self.fd))
        fcntl.ioctl(self.fd, _SET_IOMMU, _TYPE1V2_IOMMU)
        # A mutable buffer makes fcntl.ioctl return the call's result, the new descriptor, and not the buffer.
        self.device = fcntl.ioctl(self.group, _GROUP_GET_DEVICE_FD, bytearray(address.encode() + b"\0"))

    def map(self, virtual: int, iova: int, size: int, permission: str) -> None:
        """VFIO_IOMMU_MAP_DMA."""
        request = struct.pack("<IIQQQ", 32, _DMA_MAP_FLAG[permission], virtual, iova, size)
        fcntl.ioctl(self.fd, _MAP_DMA, request)

    def unmap(self, iova: int, size: int) -> int:
        """VFIO_IOMMU_UNMAP_DMA; the bytes that were unmapped."""
        request = bytearray(struct.pack("<IIQQ", 24, 0, iova, size))
        fcntl.ioctl(self.fd, _UNMAP_DMA, request)
        return int(struct.unpack("<IIQQ", request)[3])


containers: dict[str, Container] = {}


def vfio_open(address: str) -> None:
    """Put a function that is bound to vfio-pci, with its group, into a container of its own."""
    containers[address] = Container(address)


def vfio_map(address: str, handle: int, iova: int, permission: str) -> None:
    """Map the pages of a handle at an IOVA (bytes), for reading, writing or both by the device ("r", "w", "rw")."""
    pages = memory.allocated[handle]
    containers[address].map(pages.address, iova, pages.count * memory.PAGE, permission)


def vfio_unmap(address: str, iova: int, size: int) -> int:
    """Unmap a range; the bytes that were mapped there."""
    return containers[address].unmap(iova, size)


def vfio_close(address: str) -> None:
    """Close device, group and container: the kernel then takes every mapping away."""
    container = containers.pop(address)
    for fd in (container.device, container.group, container.fd):
        os.close(fd)


OPERATIONS: dict[str, Callable[..., object]] = {f.__name__: f for f in (vfio_open, vfio_map, vfio_unmap, vfio_close)}
