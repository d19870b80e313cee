"""User-space DMA mappings through VFIO type 1, and devices that VFIO gives away without an IOMMU.

Linux, include/uapi/linux/vfio.h, Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import select
import struct
from collections.abc import Callable

import memory

_GET_API_VERSION, _CHECK_EXTENSION, _SET_IOMMU = (0x3B64 + n for n in range(3))
_GROUP_GET_STATUS, _GROUP_SET_CONTAINER, _, _GROUP_GET_DEVICE_FD = (0x3B67 + n for n in range(4))
_SET_IRQS, _DEVICE_RESET = 0x3B6E, 0x3B6F
_GET_INFO, _MAP_DMA, _UNMAP_DMA = 0x3B70, 0x3B71, 0x3B72
_DIRTY_PAGES, _DIRTY_START, _DIRTY_STOP, _DIRTY_GET = 0x3B75, 1, 2, 4
_TYPE1V2_IOMMU, _NO_IOMMU = 3, 8
_GROUP_NAMES = {_TYPE1V2_IOMMU: "/dev/vfio/", _NO_IOMMU: "/dev/vfio/noiommu-"}
_GROUP_FLAGS_VIABLE = 1
_DMA_MAP_FLAG = {"r": 1, "w": 2, "rw": 3}
_CAP_IOVA_RANGE, _CAP_AVAILABLE = 1, 3
_MSI_INDEX, _EVENTFD_TRIGGER = 1, 1 << 2 | 1 << 5
_WINDOW = "[vfio-device]"  # what /proc/self/maps calls a BAR
_BAR_SHIFT = 40  # drivers/vfio/pci: VFIO_PCI_INDEX_TO_OFFSET; a BAR's index is its number


class Container:
    """A container, with the groups and devices that are in it, by group number and by address.

    Args:
        iommu: kind of its IOMMU: type 1, or none.
    """

    def __init__(self, iommu: int) -> None:
        self.fd, self.iommu = os.open("/dev/vfio/vfio", os.O_RDWR), iommu
        if not fcntl.ioctl(self.fd, _CHECK_EXTENSION, iommu):
            raise RuntimeError(f"VFIO has no IOMMU of kind {iommu}")
        self.groups: dict[str, int] = {}
        self.devices: dict[str, int] = {}

    def add(self, address: str) -> None:
        """Put a function, with its group, in."""
        number = os.path.basename(os.readlink(f"/sys/bus/pci/devices/{address}/iommu_group"))
        if number not in self.groups:
            self.groups[number] = self._join(number)
        # A mutable buffer makes fcntl.ioctl return the call's result, the new descriptor, and not the buffer.
        name = bytearray(address.encode() + b"\0")
        self.devices[address] = fcntl.ioctl(self.groups[number], _GROUP_GET_DEVICE_FD, name)

    def _join(self, number: str) -> int:
        group = os.open(f"{_GROUP_NAMES[self.iommu]}{number}", os.O_RDWR)
        try:
            _see_viable(group, number)
            fcntl.ioctl(group, _GROUP_SET_CONTAINER, struct.pack("<i", self.fd))
            if not self.groups:
                fcntl.ioctl(self.fd, _SET_IOMMU, self.iommu)
        except BaseException:
            os.close(group)
            raise
        return group

    def remove(self, address: str) -> None:
        """Take a function out; with the last one everything is closed."""
        os.close(self.devices.pop(address))
        if not self.devices:
            for fd in (*self.groups.values(), self.fd):
                os.close(fd)


def _see_viable(group: int, number: str) -> None:
    status = bytearray(struct.pack("<II", 8, 0))
    fcntl.ioctl(group, _GROUP_GET_STATUS, status)
    if not struct.unpack("<II", status)[1] & _GROUP_FLAGS_VIABLE:
        raise RuntimeError(f"group {number} is not viable: another of its devices is bound to a host driver")


containers: dict[str, Container] = {}


def vfio_open(address: str, beside: str | None) -> None:
    """Put a function that is bound to vfio-pci, with its group, into a container: its own, or that of another one."""
    _open(address, containers[beside] if beside else Container(_TYPE1V2_IOMMU))


def vfio_open_without_iommu(address: str) -> None:
    """Open a function that is bound to vfio-pci and has no IOMMU; nothing can be mapped for it."""
    _open(address, Container(_NO_IOMMU))


def _open(address: str, container: Container) -> None:
    try:
        container.add(address)
    except BaseException:
        if not container.groups:
            os.close(container.fd)
        raise
    containers[address] = container


def vfio_map(address: str, handle: int, iova: int, permission: str, offset: int, size: int) -> None:
    """Map some of the pages of a handle, from `offset` on, at an IOVA (bytes): "r", "w" or "rw" for the device."""
    _map(address, memory.allocated[handle].address + offset, iova, permission, size)


def vfio_map_bar(address: str, owner: str, bar: int, iova: int, size: int) -> None:
    """Map the start of a BAR of another device in VFIO's hands: DMA from peer to peer."""
    device, before = containers[owner].devices[owner], memory.addresses_of(_WINDOW)
    windows.setdefault(owner, []).append(mmap.mmap(device, size, mmap.MAP_SHARED, offset=bar << _BAR_SHIFT))
    (virtual,) = memory.addresses_of(_WINDOW) - before
    _map(address, virtual, iova, "rw", size)


windows: dict[str, list[mmap.mmap]] = {}


def _map(address: str, virtual: int, iova: int, permission: str, size: int) -> None:
    request = struct.pack("<IIQQQ", 32, _DMA_MAP_FLAG[permission], virtual, iova, size)
    fcntl.ioctl(containers[address].fd, _MAP_DMA, request)


def vfio_unmap(address: str, iova: int, size: int) -> int:
    """Unmap a range; the bytes that were mapped there."""
    request = bytearray(struct.pack("<IIQQ", 24, 0, iova, size))
    fcntl.ioctl(containers[address].fd, _UNMAP_DMA, request)
    return int(struct.unpack("<IIQQ", request)[3])


def vfio_reset(address: str) -> None:
    """Reset a device."""
    fcntl.ioctl(containers[address].devices[address], _DEVICE_RESET)


def vfio_msi(address: str) -> None:
    """Have a device's MSI interrupts counted."""
    counters[address] = os.eventfd(0, os.EFD_NONBLOCK)
    request = struct.pack("<IIIIIi", 24, _EVENTFD_TRIGGER, _MSI_INDEX, 0, 1, counters[address])
    fcntl.ioctl(containers[address].devices[address], _SET_IRQS, request)


def vfio_msi_count(address: str, seconds: float) -> int:
    """MSI interrupts of a device since the last call; waits up to that long for the first."""
    ready, _, _ = select.select([counters[address]], [], [], seconds)
    return os.eventfd_read(counters[address]) if ready else 0


counters: dict[str, int] = {}


def vfio_limits(address: str) -> dict[str, object]:
    """What a container can map: page sizes (a mask), ranges of IOVAs (first and last byte), mappings still allowed."""
    size = 4096
    info = bytearray(struct.pack("<II", size, 0) + bytes(size - 8))
    fcntl.ioctl(containers[address].fd, _GET_INFO, info)
    _, _, page_sizes, at = struct.unpack_from("<IIQI", info)
    found: dict[str, object] = {"page_sizes": page_sizes, "ranges": [], "mappings": 0}
    while at:
        kind, _, following = struct.unpack_from("<HHI", info, at)
        if kind == _CAP_IOVA_RANGE:
            (count,) = struct.unpack_from("<I", info, at + 8)
            found["ranges"] = [struct.unpack_from("<QQ", info, at + 16 + 16 * n) for n in range(count)]
        elif kind == _CAP_AVAILABLE:
            (found["mappings"],) = struct.unpack_from("<I", info, at + 8)
        at = following
    return found


def vfio_dirty_log(address: str, on: bool) -> None:
    """Have a container take note of pages that may have been written, or stop it."""
    request = struct.pack("<II", 8, _DIRTY_START if on else _DIRTY_STOP)
    fcntl.ioctl(containers[address].fd, _DIRTY_PAGES, request)


def vfio_dirty_pages(address: str, iova: int, size: int) -> list[int]:
    """Numbers of the pages, from `iova` on, that were noted since the last call, of whole mappings."""
    pages = size // memory.PAGE
    words = array.array("Q", bytes(8 * (pages // 64 + 1)))
    at, length = words.buffer_info()
    request = struct.pack("<IIQQQQQ", 48, _DIRTY_GET, iova, size, memory.PAGE, 8 * length, at)
    fcntl.ioctl(containers[address].fd, _DIRTY_PAGES, request)
    return [number for number in range(pages) if words[number // 64] >> number % 64 & 1]


def vfio_close(address: str) -> None:
    """Close a device; with the last one of a container the kernel takes every mapping of that away."""
    for window in windows.pop(address, []):
        window.close()
    if address in counters:
        os.close(counters.pop(address))
    containers.pop(address).remove(address)


OPERATIONS: dict[str, Callable[..., object]] = {
    f.__name__: f
    for f in (
        vfio_open,
        vfio_open_without_iommu,
        vfio_map,
        vfio_map_bar,
        vfio_unmap,
        vfio_reset,
        vfio_msi,
        vfio_msi_count,
        vfio_limits,
        vfio_dirty_log,
        vfio_dirty_pages,
        vfio_close,
    )
}
