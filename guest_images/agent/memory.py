"""Pages of guest RAM with a known guest physical address, for devices to reach or not to reach.

A page stays where it is unless the kernel migrates it: `page_frames` says if that happened.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable

PAGE = 4096


class Pages:
    """A populated shared mapping, found in /proc/self/maps by the name of its memfd (the agent has no ctypes)."""

    def __init__(self, name: str, count: int) -> None:
        self.count = count
        self.fd = os.memfd_create(name)
        os.ftruncate(self.fd, count * PAGE)
        self.map = mmap.mmap(self.fd, count * PAGE, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        with open("/proc/self/maps") as maps:
            self.address = next(int(line.split("-")[0], 16) for line in maps if f"/memfd:{name} " in line)

    def frames(self) -> list[int]:
        """Guest physical address of each page. Linux, Documentation/admin-guide/mm/pagemap.rst."""
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(self.address // PAGE * 8)
            entries = struct.unpack(f"<{self.count}Q", pagemap.read(8 * self.count))
        if not all(entry >> 63 for entry in entries):
            raise RuntimeError("a page that was populated is not present")
        return [(entry & ((1 << 55) - 1)) * PAGE for entry in entries]


allocated: dict[int, Pages] = {}


def page_allocate(count: int, fill: str) -> dict[str, object]:
    """Allocate pages and fill them with the hex bytes `fill`, repeated. Their handle and physical addresses."""
    handle = len(allocated) + 1
    pages = Pages(f"viommu-{handle}", count)
    pattern = bytes.fromhex(fill)
    pages.map[:] = (pattern * (count * PAGE // len(pattern) + 1))[: count * PAGE]
    allocated[handle] = pages
    return {"handle": handle, "frames": pages.frames()}


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
    f.__name__: f for f in (page_allocate, page_read, page_write, page_frames)
}
