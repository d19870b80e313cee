"""The guest's serial console: everything it says is kept, and told line by line to whoever listens."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import GuestUnreachable, HostError
from harness.vmm.qemu.process import QemuProcess

__all__ = ["SerialConsole"]

_LINE_BYTES = 4096
_KEPT_CHARACTERS = 8 * 1024 * 1024
_LINE_COST = 64  # characters that a line counts for beside its own: an empty one takes room too
_FILE_BYTES = 64 * 1024 * 1024
_TAIL_LINES = 60


class SerialConsole:
    """The console of one process.

    A line ends at a line feed, or after 4096 bytes: a guest may write one that never ends. Bytes that are not UTF-8
    come out as U+FFFD, carriage returns are dropped. Of a guest that says more than 8 Mi characters the oldest lines
    go; each line counts as 64 more.
    """

    def __init__(self, connection: socket.socket, process: QemuProcess, log: Path, earlier: bytes = b"") -> None:
        """Take over a connected socket.

        Args:
            connection: the socket; it is this object's from now on.
            process: who is at the other end.
            log: file that the raw bytes are written to, up to 64 MiB.
            earlier: what the console of the machine that it goes on from had said.

        Raises:
            HostError: the log cannot be written.
        """
        self._socket = connection
        self._process = process
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._first = 0  # number of the line at _lines[0]
        self._kept = 0
        self._partial = b""
        self._listeners: list[Callable[[str], None]] = []
        self._ended = False
        self._room = _FILE_BYTES
        try:
            self._file = log.open("wb", buffering=0)
        except OSError as error:
            raise HostError(f"{log} cannot be written: {error.strerror}", hint="free space there") from error
        self._keep(earlier)
        self._take(earlier)
        self._thread = threading.Thread(target=self._read, name="viommu-console", daemon=True)
        self._thread.start()

    @property
    def line_count(self) -> int:
        """How many lines have come; the mark to give as `since`."""
        return self._first + len(self._lines)

    @property
    def text(self) -> str:
        """All that was kept, with the line that is not finished yet."""
        with self._changed:
            return "\n".join([*self._lines, _decoded(self._partial)])

    def lines_since(self, mark: int = 0) -> tuple[str, ...]:
        """The finished lines after the mark that were kept."""
        with self._changed:
            return tuple(self._since(mark))

    def tail(self, count: int = _TAIL_LINES) -> str:
        """The last lines."""
        return "\n".join(self.text.splitlines()[-count:])

    def listen(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with every line, those already there first.

        It is called in the console's own thread, one line at a time and in order; it must be quick, and must not raise.
        """
        with self._changed:
            for line in self._lines:
                listener(line)
            self._listeners.append(listener)

    def write(self, data: bytes) -> None:
        """Type into the console.

        Raises:
            VmmDied: QEMU has ended.
        """
        try:
            self._socket.sendall(data)
        except OSError:
            raise self._process.died("for its serial console") from None

    def wait_for(self, text: str, *, deadline: float, since: int = 0) -> str:
        """The first line after the mark that has `text` in it; waits for it.

        Args:
            text: to look for.
            deadline: seconds.
            since: `line_count` at the moment from which lines count.

        Raises:
            GuestUnreachable: no such line in time; the console's tail is the evidence.
            VmmError: QEMU did not answer either, or does not run the guest.
            VmmDied: QEMU ended first.
        """
        end = time.monotonic() + deadline
        position = since
        with self._changed:
            while True:
                for line in self._since(position):
                    if text in line:
                        return line
                position = self.line_count
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    break
                self._changed.wait(left)
        if self._ended:
            raise self._process.died(f"for {text!r} on the console")
        raise self._process.blame(
            GuestUnreachable(f"the guest's console did not say {text!r} within {deadline:g} s", evidence=self.tail())
        )

    def close(self) -> None:
        """Stop reading. What was read stays readable."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the thread's recv, which close() alone does not
        self._thread.join(5)
        self._socket.close()
        self._file.close()

    def _since(self, mark: int) -> Iterator[str]:
        return itertools.islice(self._lines, max(0, mark - self._first), None)

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            self._keep(data)
            with self._changed:
                self._take(data)
                self._ended = not data
                self._changed.notify_all()
            if not data:
                return

    def _keep(self, data: bytes) -> None:
        part = data[: max(0, self._room)]
        self._room -= len(part)
        try:
            self._file.write(part)
        except OSError:
            self._room = 0  # a full disk costs the file, not the run; what is in memory goes on

    def _take(self, data: bytes) -> None:
        *lines, rest = bytes(self._partial + data).split(b"\n")
        for line in lines:
            for start in range(0, max(1, len(line)), _LINE_BYTES):
                self._add(_decoded(line[start : start + _LINE_BYTES]))
        while len(rest) >= _LINE_BYTES or (rest and not data):
            self._add(_decoded(rest[:_LINE_BYTES]))
            rest = rest[_LINE_BYTES:]
        self._partial = rest

    def _add(self, line: str) -> None:
        self._lines.append(line)
        self._kept += len(line) + _LINE_COST
        while self._kept > _KEPT_CHARACTERS:
            self._kept -= len(self._lines.popleft()) + _LINE_COST
            self._first += 1
        for listener in self._listeners:
            listener(line)


def _decoded(line: bytes) -> str:
    return line.decode(errors="replace").replace("\r", "")
