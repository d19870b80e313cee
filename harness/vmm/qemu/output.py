"""What QEMU writes to stdout and stderr, of which a guest can have it write more: bounded, with its end at hand.

QEMU reports some mistakes of a guest each time that they are made, so a driver that breaks its device and resets it in
a loop has it write without end (hw/virtio/virtio.c, virtio_error).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from harness.vmm import background

__all__ = ["Output"]

_FILE_BYTES = 16 << 20
_TAIL_BYTES = 16 * 1024
_PIPE_BYTES = 1 << 16  # all that a pipe holds: pipe(7)


class Output:
    """The two streams of one process, as they come: a file takes their first 16 MiB, memory their last 16 KiB.

    Attributes:
        writer: descriptor that the process is to be given for both.

    Args:
        log: the file.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, log: Path) -> None:
        self._file = log.open("wb", buffering=0)
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._lock = threading.Lock()
        self._tail = b""
        self._total = 0
        self._room = _FILE_BYTES
        self._closed = False

    def listen(self) -> None:
        """In the loop's thread: the process has its end, or will never be; what comes is read from now on."""
        os.close(self.writer)
        background.loop().add_reader(self._reader, self._ready)

    @property
    def tail(self) -> str:
        """The last 16 KiB of what has been written so far; a line before them says how much is left out."""
        self._read()
        with self._lock:
            text = self._tail.decode(errors="replace")
            left_out = self._total - len(self._tail)
        return f"({left_out} bytes before this are left out)\n{text}" if left_out else text

    def close(self) -> None:
        """In the loop's thread: take what is still there, and read no more."""
        self._read()
        background.loop().remove_reader(self._reader)
        with self._lock:
            self._closed = True
            os.close(self._reader)
            self._file.close()

    def _ready(self) -> None:
        if not self._read():
            background.loop().remove_reader(self._reader)

    def _read(self) -> bool:
        """Take all that is there; whether more may come."""
        with self._lock:
            if self._closed:
                return False
            try:
                data = os.read(self._reader, _PIPE_BYTES)
            except BlockingIOError:
                return True
            self._take(data)
        return bool(data)

    def _take(self, data: bytes) -> None:
        self._total += len(data)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        if self._room <= 0:
            return
        part = data[: self._room]
        self._room -= len(part)
        if self._room <= 0:
            part += b"\nthe log is full: what follows is not kept\n"
        try:
            self._file.write(part)
        except OSError:
            self._room = 0  # a full disk costs the file, not the run; the tail in memory goes on
