"""The harness's end of the cable in a guest's NIC: `-netdev socket` on a socket pair, nothing of the host's network.

QEMU's stream format (net/socket.c): each Ethernet frame preceded by its length, 4 bytes, big-endian.
"""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self

from harness.errors import GuestError, SpecError
from harness.vmm.qemu.process import QemuProcess

__all__ = ["NetworkCable"]

_FRAME_MIN = 14
_FRAME_MAX = 68 * 1024  # QEMU, NET_BUFSIZE: 4096 + 64 KiB


class NetworkCable:
    """One cable: `guest_end` goes to QEMU, the other stays here."""

    def __init__(self, device_id: str) -> None:
        """Make both ends."""
        self._device_id = device_id
        self._here, self._there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._process: QemuProcess | None = None
        self._buffer = bytearray()
        self._sending = threading.Lock()
        self._receiving = threading.Lock()

    @property
    def guest_end(self) -> int:
        """File descriptor of QEMU's end."""
        return self._there.fileno()

    def attach(self, process: QemuProcess) -> None:
        """QEMU has inherited its end: give up ours of it, so that its death is seen here."""
        self._process = process
        self._there.close()

    def send(self, frame: bytes, *, deadline: float = 5.0) -> None:
        """Send one Ethernet frame, from the destination address on, without its checksum.

        Raises:
            SpecError: shorter than its header, or longer than QEMU takes.
            VmmTimeout: QEMU did not take it in time.
            VmmDied: QEMU has ended.
        """
        if not _FRAME_MIN <= len(frame) <= _FRAME_MAX:
            raise SpecError(f"an Ethernet frame of {len(frame)} bytes", hint=f"{_FRAME_MIN} to {_FRAME_MAX} bytes")
        with self._sending:
            self._here.settimeout(deadline)
            try:
                self._here.sendall(len(frame).to_bytes(4, "big") + frame)
            except TimeoutError:
                raise self._qemu.timeout(f"to take a frame for {self._device_id}", deadline) from None
            except OSError:
                raise self._qemu.died(f"for the network of {self._device_id}") from None

    def receive(self, *, deadline: float) -> bytes:
        """The next Ethernet frame that the guest sent, from the destination address on, without its checksum.

        Raises:
            GuestError: it sent none in time.
            VmmDied: QEMU has ended.
        """
        end = time.monotonic() + deadline
        with self._receiving:
            try:
                self._fill(4, end)
                size = int.from_bytes(self._buffer[:4], "big")
                self._fill(4 + size, end)
            except TimeoutError:
                late = GuestError(f"no Ethernet frame came from {self._device_id} within {deadline:g} s")
                raise self._qemu.blame(late) from None
            except (OSError, EOFError):
                raise self._qemu.died(f"for the network of {self._device_id}") from None
            frame = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            return frame

    def close(self) -> None:
        """Close both ends."""
        self._here.close()
        self._there.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _qemu(self) -> QemuProcess:
        assert self._process is not None, "attach() comes first"
        return self._process

    def _fill(self, count: int, end: float) -> None:
        while len(self._buffer) < count:
            self._here.settimeout(max(0.001, end - time.monotonic()))
            data = self._here.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data
