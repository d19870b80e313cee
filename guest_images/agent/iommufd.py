"""Address spaces of iommufd, and devices in VFIO's hands that are attached to them.

Linux, include/uapi/linux/iommufd.h and vfio.h, Documentation/userspace-api/iommufd.rst.
"""

from __future__ import annotations

import array
import fcntl
import functools
import os
import struct
from collections.abc import Callable

import memory

_BIND, _ATTACH, _DETACH = (0x3B76 + n for n in range(3))  # of a device's own file
_DESTROY, _IOAS_ALLOC = 0x3B80, 0x3B81
_IOVA_RANGES, _MAP, _UNMAP = (0x3B84 + n for n in range(3))
_FIXED_IOVA = 1
_MAP_FLAG = {"r": 4, "w": 2, "rw": 6}
_MOST_RANGES = 64

devices: dict[str, int] = {}


@functools.cache
def _iommufd() -> int:
    """The one that all address spaces of this process are in."""
    return os.open("/dev/iommu", os.O_RDWR)


def iommufd_ioas() -> int:
    """The number of a new address space (an IOAS), in which nothing is mapped."""
    request = bytearray(struct.pack("<III", 12, 0, 0))
    fcntl.ioctl(_iommufd(), _IOAS_ALLOC, request)
    return int(struct.unpack("<III", request)[2])


def iommufd_destroy(ioas: int) -> None:
    """Destroy an address space, with what is mapped in it."""
    fcntl.ioctl(_iommufd(), _DESTROY, struct.pack("<II", 8, ioas))


def iommufd_attach(address: str, ioas: int) -> None:
    """Attach a function that is bound to vfio-pci to an address space, which takes the place of the one it has.

    It is opened for that, and stays so where it is refused.
    """
    if address not in devices:
        devices[address] = _bind(address)
    fcntl.ioctl(devices[address], _ATTACH, struct.pack("<III", 12, 0, ioas))


def _bind(address: str) -> int:
    (name,) = os.listdir(f"/sys/bus/pci/devices/{address}/vfio-dev")
    device = os.open(f"/dev/vfio/devices/{name}", os.O_RDWR)
    try:
        fcntl.ioctl(device, _BIND, struct.pack("<IIiI", 16, 0, _iommufd(), 0))
    except BaseException:
        os.close(device)
        raise
    return device


def iommufd_detach(address: str) -> None:
    """Detach a function from its address space; it stays open."""
    fcntl.ioctl(devices[address], _DETACH, struct.pack("<II", 8, 0))


def iommufd_close(address: str) -> None:
    """Close a function; the address space stays, with what is mapped in it."""
    os.close(devices.pop(address))


def iommufd_map(ioas: int, handle: int, iova: int, permission: str, offset: int, size: int) -> None:
    """Map some of the pages of a handle, from `offset` on, at an IOVA (bytes): "r", "w" or "rw" for devices."""
    flags, virtual = _FIXED_IOVA | _MAP_FLAG[permission], memory.allocated[handle].address + offset
    fcntl.ioctl(_iommufd(), _MAP, struct.pack("<IIIIQQQ", 40, flags, ioas, 0, virtual, size, iova))


def iommufd_unmap(ioas: int, iova: int, size: int) -> int:
    """Unmap a range; the bytes that were mapped there."""
    request = bytearray(struct.pack("<IIQQ", 24, ioas, iova, size))
    fcntl.ioctl(_iommufd(), _UNMAP, request)
    return int(struct.unpack("<IIQQ", request)[3])


def iommufd_ranges(ioas: int) -> list[tuple[int, int]]:
    """Ranges of IOVAs that can be mapped for all devices that are attached: first and last byte."""
    found = array.array("Q", bytes(16 * _MOST_RANGES))
    request = bytearray(struct.pack("<IIIIQQ", 32, ioas, _MOST_RANGES, 0, found.buffer_info()[0], 0))
    fcntl.ioctl(_iommufd(), _IOVA_RANGES, request)
    (count,) = struct.unpack_from("<I", request, 8)
    return list(zip(found[: 2 * count : 2], found[1 : 2 * count : 2], strict=True))


OPERATIONS: dict[str, Callable[..., object]] = {
    f.__name__: f
    for f in (
        iommufd_ioas,
        iommufd_destroy,
        iommufd_attach,
        iommufd_detach,
        iommufd_close,
        iommufd_map,
        iommufd_unmap,
        iommufd_ranges,
    )
}
