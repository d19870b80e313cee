"""The kernel's log, of which each look reads what has come since the one before.

A thousand records take a twentieth of a second to read under emulation.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable

_KEPT = 4096

Record = tuple[int, int, float, str]


class Log:
    """/dev/kmsg, from its first record on. Linux, Documentation/ABI/testing/dev-kmsg."""

    def __init__(self) -> None:
        self.records: deque[Record] = deque(maxlen=_KEPT)
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)

    def read_on(self) -> None:
        while True:
            try:
                raw = os.read(self._fd, 8192)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten while nobody read: the next read goes on behind the gap
                    continue
                raise
            head, _, text = raw.decode(errors="replace").partition(";")
            level, sequence, microseconds = head.split(",")[:3]
            self.records.append((int(sequence), int(level) & 7, int(microseconds) / 1e6, text.split("\n")[0]))


_logs: list[Log] = []


def _log() -> Log:
    """The log, with what interrupts have made the kernel say that were raised before this was asked."""
    _visit_processors()
    if not _logs:
        _logs.append(Log())
    _logs[0].read_on()
    return _logs[0]


def _visit_processors() -> None:
    """Run on each of them: it takes the interrupts that wait for it before it comes back to a program."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) > 1:
        for processor in allowed:
            os.sched_setaffinity(0, {processor})
        os.sched_setaffinity(0, allowed)


def kernel_log(after: int = -1) -> list[Record]:
    """Records above the sequence number `after`: (sequence, level, seconds since boot, text)."""
    found = []
    for record in reversed(_log().records):
        if record[0] <= after:
            break
        found.append(record)
    return found[::-1]


def kernel_log_mark() -> int:
    """Sequence number of the last record; -1 where there is none."""
    records = _log().records
    return records[-1][0] if records else -1


OPERATIONS: dict[str, Callable[..., object]] = {f.__name__: f for f in (kernel_log, kernel_log_mark)}
