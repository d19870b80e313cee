"""The harness's end of a virtio-serial port in the guest: lines of bytes, either way."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

from harness.errors import GuestUnreachable, HarnessError
from harness.vmm.qemu.process import QemuProcess

__all__ = ["SerialPort"]

_POLL_SECONDS = 0.05
_BLOCK = 1 << 16
_LINE_BYTES = 16 << 20


class SerialPort:
    """One port. It is there as long as QEMU is, whether or not anybody in the guest has opened it."""

    def __init__(self, connection: socket.socket, process: QemuProcess) -> None:
        """Take over a connected socket.

        Args:
            connection: the socket; it is this object's from now on.
            process: who is at the other end.
        """
        self._socket = connection
        self._socket.setblocking(False)
        self._process = process
        self._pending = bytearray()

    def send(self, data: bytes, deadline_seconds: float, check: Callable[[], None]) -> None:
        """Send bytes to the guest.

        Args:
            data: what is sent.
            deadline_seconds: for all of it.
            check: called while it lasts; raises when there is no more point in waiting (the guest panicked).

        Raises:
            GuestUnreachable: the guest did not take it in time.
            VmmError: nor did QEMU answer, or it does not run the guest.
            GuestCrashed, VmmCrashed, VmmDied: QEMU has ended.
        """
        end = time.monotonic() + deadline_seconds
        rest = memoryview(data)
        while rest:
            self._wait(select.POLLOUT, end, check, f"took none of {len(rest)} bytes within {deadline_seconds:g} s")
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._died(check) from None

    def read_line(self, deadline_seconds: float, check: Callable[[], None]) -> bytes:
        """The next line from the guest, without its newline.

        Args:
            deadline_seconds: for the whole line.
            check: as in `send`.

        Raises:
            GuestUnreachable: no whole line in time, or one of more than 16 MiB.
            VmmError: QEMU did not answer either, or does not run the guest.
            GuestCrashed, VmmCrashed, VmmDied: QEMU has ended.
        """
        end = time.monotonic() + deadline_seconds
        seen = 0
        while (newline := self._pending.find(b"\n", seen)) < 0:
            seen = len(self._pending)
            if seen > _LINE_BYTES:
                raise GuestUnreachable(f"the guest sent a line of over {_LINE_BYTES} bytes without an end")
            self._wait(select.POLLIN, end, check, f"sent no answer within {deadline_seconds:g} s")
            try:
                data = self._socket.recv(_BLOCK)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                raise self._died(check)
            self._pending += data
        line = bytes(self._pending[:newline])
        del self._pending[: newline + 1]
        return line

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _died(self, check: Callable[[], None]) -> HarnessError:
        """QEMU has ended; where the guest has said why, `check` raises that."""
        error = self._process.died("for a port of its guest")
        check()
        return error

    def _wait(self, event: int, end: float, check: Callable[[], None], otherwise: str) -> None:
        """Wait until the socket is ready, looking after the machine while it lasts."""
        poll = select.poll()
        poll.register(self._socket, event)
        while True:
            ready = poll.poll(_POLL_SECONDS * 1000)
            if time.monotonic() > end:
                raise self._process.blame(GuestUnreachable(f"the guest {otherwise}"))
            if ready:
                return
            check()
