"""qtest: the host's hand on memory, device registers and I/O ports of a live guest.

The protocol is QEMU's system/qtest.c ("QTest Protocol"): one command a line, one `OK ...` or `FAIL ...` line for each,
in order, with `IRQ ...` lines between them at any time. It works beside TCG and KVM, while the guest runs.

Addresses are guest physical, as the first processor sees them; they go through no IOMMU.
"""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum

from harness.errors import HarnessError, SpecError, VmmError, VmmTimeout
from harness.vmm.qemu.process import QemuProcess

__all__ = ["Qtest", "QtestError", "Width"]

_BLOCK = 64 * 1024
# What may be under way at once. QEMU answers each command before it reads the next, and blocks when nobody takes its
# answers: so the commands of one batch must fit into the socket's buffer even if QEMU reads none of them.
_BATCH_BYTES = 32 * 1024


class Width(IntEnum):
    """Size of one access, bytes."""

    BYTE = 1
    WORD = 2
    LONG = 4
    QUAD = 8

    @property
    def letter(self) -> str:
        """The letter that qtest's commands end with."""
        return {1: "b", 2: "w", 4: "l", 8: "q"}[self.value]


class QtestError(VmmError):
    """QEMU answered `FAIL` to a qtest command."""


class Qtest:
    """The qtest channel of one process.

    Every call takes a `deadline`, seconds, and raises `VmmTimeout` when it passes, `VmmDied` when QEMU has ended, and
    `QtestError` when QEMU refuses the command.

    Attributes:
        tap: shown each batch of commands before it is sent; None where nobody looks.
        unanswered: the first command that had no answer when a call gave up; empty while none has.
    """

    def __init__(self, connection: socket.socket, process: QemuProcess) -> None:
        """Take over a connected socket."""
        self.tap: Callable[[Sequence[str]], None] | None = None
        self.unanswered = ""
        self._socket = connection
        self._process = process
        self._lock = threading.Lock()
        self._rest = b""  # of what was received, after the last whole line
        self._lines: list[str] = []  # answers that nobody has taken yet
        self._posted: list[str] = []
        self._owed = 0  # answers to commands whose caller has given up
        self._has_base64: bool | None = None

    def read(self, address: int, count: int, *, deadline: float = 10.0) -> bytes:
        """Read `count` bytes of guest memory."""
        blocks = [(address + offset, min(_BLOCK, count - offset)) for offset in range(0, count, _BLOCK)]
        return b"".join(self.read_pieces(blocks, deadline=deadline))

    def read_pieces(self, pieces: Sequence[tuple[int, int]], *, deadline: float = 10.0) -> list[bytes]:
        """Read guest memory in several places at once.

        Args:
            pieces: of each, its address and its bytes, up to 64 Ki.
            deadline: for all of them.
        """
        if not pieces:
            return []
        if self._base64(deadline):
            answers = self.batch([f"b64read {at:#x} {size:#x}" for at, size in pieces], deadline=deadline)
            return [base64.b64decode(answer) for answer in answers]
        answers = self.batch([f"read {at:#x} {size:#x}" for at, size in pieces], deadline=deadline)
        return [bytes.fromhex(answer.removeprefix("0x")) for answer in answers]

    def write(self, address: int, data: bytes, *, deadline: float = 10.0) -> None:
        """Write guest memory."""
        blocks = [(address + offset, data[offset : offset + _BLOCK]) for offset in range(0, len(data), _BLOCK)]
        if not blocks:
            return
        if self._base64(deadline):
            lines = [f"b64write {at:#x} {len(part):#x} {base64.b64encode(part).decode()}" for at, part in blocks]
        else:
            lines = [f"write {at:#x} {len(part):#x} 0x{part.hex()}" for at, part in blocks]
        self.batch(lines, deadline=deadline)

    def read_value(self, address: int, width: Width, *, deadline: float = 10.0) -> int:
        """One access of that width to memory or to a device's registers."""
        return int(self.command(f"read{width.letter} {address:#x}", deadline=deadline), 0)

    def write_value(self, address: int, value: int, width: Width, *, deadline: float = 10.0) -> None:
        """One access of that width to memory or to a device's registers."""
        self.command(f"write{width.letter} {address:#x} {value:#x}", deadline=deadline)

    def read_port(self, port: int, width: Width, *, deadline: float = 10.0) -> int:
        """Read an x86 I/O port (1, 2 or 4 bytes)."""
        return int(self.command(f"in{_port_letter(width)} {port:#x}", deadline=deadline), 0)

    def write_port(self, port: int, value: int, width: Width, *, deadline: float = 10.0) -> None:
        """Write an x86 I/O port (1, 2 or 4 bytes)."""
        self.command(f"out{_port_letter(width)} {port:#x} {value:#x}", deadline=deadline)

    def command(self, line: str, *, deadline: float = 10.0) -> str:
        """One command of the protocol; returns what follows `OK`."""
        return self.batch([line], deadline=deadline)[0]

    def batch(self, lines: Sequence[str], *, deadline: float = 10.0) -> list[str]:
        """Commands sent without waiting for each other's answers; returns what follows each `OK`.

        All are run, also after one that failed.

        Raises:
            QtestError: one or more failed; the message names the first.
        """
        self.post(lines, deadline=deadline)
        return self.collect(deadline=deadline)

    def post(self, lines: Sequence[str], *, deadline: float = 10.0) -> None:
        """Send commands, and leave their answers to `collect`, which takes those of everything that was posted.

        Where there are too many to be under way at once, it waits for the answers to those before.
        """
        if self.tap is not None:
            self.tap(lines)
        with self._lock:
            end = time.monotonic() + deadline
            try:
                for part in _parts(lines):
                    if self._posted:
                        self._receive(self._owed + len(self._posted), end)
                    self._posted += part
                    self._socket.settimeout(max(0.001, end - time.monotonic()))
                    self._socket.sendall(("\n".join(part) + "\n").encode())
            except TimeoutError:
                raise self._too_late(deadline) from None
            except (OSError, EOFError):
                raise self._died() from None

    def collect(self, *, deadline: float = 10.0) -> list[str]:
        """What follows the `OK` of each command that was posted.

        Raises:
            QtestError: one or more failed; the message names the first.
        """
        with self._lock:
            end = time.monotonic() + deadline
            try:
                self._receive(self._owed + len(self._posted), end)
            except TimeoutError:
                raise self._too_late(deadline) from None
            except (OSError, EOFError):
                raise self._died() from None
            posted, self._posted = self._posted, []
            answers = self._lines[self._owed :]
            self._owed, self._lines = 0, []
        if not all(answer.startswith("OK") for answer in answers):
            line, answer = next(pair for pair in zip(posted, answers, strict=True) if not pair[1].startswith("OK"))
            raise QtestError(f"qtest {line[:200]!r}: {answer}")
        return [answer[3:].rstrip() for answer in answers]

    def close(self) -> None:
        """Close the channel."""
        self._socket.close()

    def _base64(self, deadline: float) -> bool:
        if self._has_base64 is None:
            try:
                self.command("b64read 0x0 0x1", deadline=deadline)
                self._has_base64 = True
            except QtestError:
                self._has_base64 = False
        return self._has_base64

    def _died(self) -> HarnessError:
        """QEMU has ended, or closed the channel."""
        self._note_unanswered()
        return self._process.died(f"for qtest {self.unanswered[:80]!r}")

    def _too_late(self, deadline: float) -> VmmTimeout:
        """Whoever waited has given up: answers that still come belong to nobody."""
        self._note_unanswered()
        self._owed += len(self._posted)
        self._posted = []
        return self._process.timeout(f"qtest {self.unanswered[:80]!r}", deadline)

    def _note_unanswered(self) -> None:
        """Find the first command without an answer; where all have one, it is the last that QEMU was given."""
        answered = max(0, len(self._lines) - self._owed)
        self.unanswered = self._posted[min(answered, len(self._posted) - 1)] if self._posted else ""

    def _receive(self, count: int, end: float) -> None:
        """Take answers until there are so many of them."""
        while len(self._lines) < count:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            data = self._socket.recv(1 << 20)
            if not data:
                raise EOFError
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines += [line.decode(errors="replace") for line in lines if not line.startswith(b"IRQ ")]


def _port_letter(width: Width) -> str:
    if width is Width.QUAD:
        raise SpecError("an I/O port is accessed by 1, 2 or 4 bytes, not 8")
    return width.letter


def _parts(lines: Iterable[str]) -> Iterable[list[str]]:
    """The lines in groups that are safe to have under way at once."""
    part: list[str] = []
    size = 0
    for line in lines:
        if part and size + len(line) > _BATCH_BYTES:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    if part:
        yield part
