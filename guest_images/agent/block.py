"""Using a block device past the page cache, so that every byte is a DMA."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
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
    data = _data(seed, size)
    buffer[:] = data
    fd = os.open(device, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
    try:
        _write(fd, buffer, offset)
    finally:
        os.close(fd)
    return hashlib.sha256(data).hexdigest()


def _data(seed: int, size: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(8, "little")).digest(size)


def _write(fd: int, buffer: mmap.mmap, offset: int) -> None:
    written = os.pwrite(fd, buffer, offset)
    if written != len(buffer):
        raise OSError(f"{written} of {len(buffer)} bytes were written")


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


class _Writer(threading.Thread):
    """Writes without end: number n puts what follows from n, as a seed, into slot n % slots of the disk."""

    def __init__(self, device: str, size: int, slots: int) -> None:
        super().__init__(daemon=True)
        self._device, self._size, self._slots = device, size, slots
        self._stop_asked = threading.Event()
        self.done = 0
        self.error: OSError | None = None

    def run(self) -> None:
        buffer = mmap.mmap(-1, self._size)
        fd = os.open(self._device, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        try:
            while not self._stop_asked.is_set():
                buffer[:] = _data(self.done, self._size)
                _write(fd, buffer, self.done % self._slots * self._size)
                self.done += 1
        except OSError as error:
            self.error = error
        finally:
            os.close(fd)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


_writers: dict[str, _Writer] = {}


def block_writer_start(device: str, size: int, slots: int) -> None:
    """Begin to write to a disk, `size` bytes at a time, O_DIRECT, until `block_writer_stop`."""
    _writers[device] = _Writer(device, size, slots)
    _writers[device].start()


def block_writer_done(device: str) -> int:
    """Number of writes that have ended.

    Raises:
        OSError: one has failed.
    """
    writer = _writers[device]
    if writer.error:
        raise writer.error
    return writer.done


def block_writer_stop(device: str) -> int:
    """End, and the number of writes that have; raises as `block_writer_done`."""
    _writers[device].stop()
    return block_writer_done(device)


OPERATIONS: dict[str, Callable[..., object]] = {
    f.__name__: f
    for f in (block_device, block_write, block_read, block_writer_start, block_writer_done, block_writer_stop)
}
