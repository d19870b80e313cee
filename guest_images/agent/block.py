"""Using a block device past the page cache, so that every byte is a DMA."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable

from files import wait_for


def block_device(address: str) -> str:
    """Device node of the disk of a virtio-blk or virtio-scsi at a PCI address, which may come a moment later."""
    base = f"/sys/bus/pci/devices/{address}/virtio*"
    (disk,) = wait_for(f"{base}/block/*", f"{base}/host*/target*/*/block/*")
    return f"/dev/{os.path.basename(disk)}"


def block_write(device: str, offset: int, seed: int, size: int) -> str:
    """Write `size` bytes that follow from `seed` at `offset`, O_DIRECT; their SHA-256."""
    buffer = mmap.mmap(-1, size)
    data = hashlib.shake_128(seed.to_bytes(8, "little")).digest(size)
    buffer[:] = data
    fd = os.open(device, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
    try:
        written = os.pwrite(fd, buffer, offset)
    finally:
        os.close(fd)
    if written != size:
        raise OSError(f"{device}: {written} of {size} bytes were written")
    return hashlib.sha256(data).hexdigest()


def block_read(device: str, offset: int, size: int) -> str:
    """SHA-256 of `size` bytes at `offset`, read with O_DIRECT."""
    buffer = mmap.mmap(-1, size)
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        read = os.preadv(fd, [buffer], offset)
    finally:
        os.close(fd)
    if read != size:
        raise OSError(f"{device}: {read} of {size} bytes were read")
    return hashlib.sha256(buffer).hexdigest()


OPERATIONS: dict[str, Callable[..., object]] = {f.__name__: f for f in (block_device, block_write, block_read)}
