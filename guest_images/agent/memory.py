"""Pages of guest RAM with a known guest physical address, for devices to reach or not to reach.

A page stays where it is unless the kernel migrates it: `page_frames` says if that happened.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable

PAGE = 4096
_HUGE_SHIFT = 26  # Linux, include/uapi/asm-generic/hugetlb_encode.h


class Pages:
    """A populated shared mapping.

    Args:
        fd: a memfd.
        name: of that.
        count: its pages.
        size: bytes of each.
    """

    def __init__(self, fd: int, name: str, count: int, size: int) -> None:
        self.fd, self.count, self.size = fd, count, size
        self.map = mmap.mmap(fd, count * size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        (self.address,) = addresses_of(f"/memfd:{name} ")

    def frames(self) -> list[int]:
        """Guest physical address of each page. Linux, Documentation/admin-guide/mm/pagemap.rst."""
        step = self.size // PAGE
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
        try:
            data = os.pread(pagemap, ((self.count - 1) * step + 1) * 8, self.address // PAGE * 8)
        finally:
            os.close(pagemap)
        entries = struct.unpack(f"<{len(data) // 8}Q", data)[::step]
        if not all(entry >> 63 for entry in entries):
            raise RuntimeError("a page that was populated is not present")
        return [(entry & ((1 << 55) - 1)) * PAGE for entry in entries]


allocated: dict[int, Pages] = {}


def addresses_of(name: str) -> set[int]:
    """Where what /proc/self/maps shows under that name is mapped, which Python's mmap does not tell."""
    with open("/proc/self/maps") as maps:
        return {int(line.split("-")[0], 16) for line in maps if name in line}


def page_allocate(count: int, fill: str) -> dict[str, object]:
    """Allocate pages and fill them with the hex bytes `fill`, repeated. Their handle and physical addresses."""
    pages = _allocate(count, PAGE, 0)
    pattern = bytes.fromhex(fill)
    pages.map[:] = (pattern * (count * PAGE // len(pattern) + 1))[: count * PAGE]
    return _hold(pages)


def page_allocate_huge(shift: int) -> dict[str, object]:
    """Allocate one huge page of 2**shift bytes, all zeroes."""
    return _hold(_allocate(1, 1 << shift, os.MFD_HUGETLB | shift << _HUGE_SHIFT))


def _allocate(count: int, size: int, flags: int) -> Pages:
    name = f"viommu-{os.getpid()}-{len(allocated) + 1}"
    fd = os.memfd_create(name, os.MFD_CLOEXEC | flags)
    os.ftruncate(fd, count * size)
    return Pages(fd, name, count, size)


def page_adopt(pid: int, fd: int, name: str, count: int) -> dict[str, object]:
    """Share the pages that another agent holds, as `page_holder` there tells of them."""
    return _hold(Pages(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC), name, count, PAGE))


def page_holder(handle: int) -> dict[str, object]:
    """What another agent needs to share pages."""
    fd = allocated[handle].fd
    name = os.readlink(f"/proc/self/fd/{fd}").removeprefix("/memfd:").removesuffix(" (deleted)")
    return {"pid": os.getpid(), "fd": fd, "name": name, "count": allocated[handle].count}


def _hold(pages: Pages) -> dict[str, object]:
    handle = len(allocated) + 1
    allocated[handle] = pages
    return {"handle": handle, "frames": pages.frames(), "size": pages.size}


def page_read(handle: int, offset: int, size: int) -> str:
    """Bytes of the pages, in hex."""
    return allocated[handle].map[offset : offset + size].hex()


def page_write(handle: int, offset: int, data: str) -> None:
    """Write hex bytes into the pages."""
    raw = bytes.fromhex(data)
    allocated[handle].map[offset : offset + len(raw)] = raw


def page_frames(handle: int) -> list[int]:
    """Where the pages are now: an expectation about an address holds only if this did not change."""
    return allocated[handle].frames()


OPERATIONS: dict[str, Callable[..., object]] = {
    f.__name__: f
    for f in (page_allocate, page_allocate_huge, page_adopt, page_holder, page_read, page_write, page_frames)
}
