"""What goes wrong in a guest kernel, recognised in the text of its serial console.

A pattern is here only if the kernel prints it for nothing else: words like "error", "failed" or "fault" alone are not.
Sources are named beside each, as of Linux 5.10 to 7.2.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Problem", "ProblemKind", "ProblemWatch", "recognise"]


class ProblemKind(StrEnum):
    """Kinds of problem, by what the kernel calls them."""

    PANIC = "panic"
    OOPS = "oops"
    BUG = "BUG"
    KASAN = "KASAN"
    SANITIZER = "sanitizer"
    LOCKUP = "lockup"
    STALL = "RCU stall"
    HUNG_TASK = "hung task"
    OUT_OF_MEMORY = "out of memory"
    LOCKDEP = "lockdep"
    WARN = "WARN"

    @property
    def is_fatal(self) -> bool:
        """Whether the guest cannot be expected to go on: whoever waits for it is told at once."""
        return self not in (ProblemKind.WARN, ProblemKind.LOCKDEP, ProblemKind.SANITIZER, ProblemKind.OUT_OF_MEMORY)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        kind: what it is.
        line: the line that says so.
        text: that line with up to 40 that follow (call trace), and the two before it.
    """

    kind: ProblemKind
    line: str
    text: str


_STAMP = r"(?:^|\s|\])"  # a time stamp, a caller id or nothing stands before the message
_PATTERNS: tuple[tuple[ProblemKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(_STAMP + pattern))
    for kind, pattern in (
        (ProblemKind.PANIC, r"Kernel panic - not syncing"),  # kernel/panic.c, vpanic
        (ProblemKind.KASAN, r"BUG: (?:KASAN|KFENCE|KMSAN|KCSAN): "),  # mm/kasan/report.c and its like
        (ProblemKind.SANITIZER, r"UBSAN: "),  # lib/ubsan.c
        (ProblemKind.BUG, r"kernel BUG at \S+:\d+!"),  # lib/bug.c, report_bug
        (
            ProblemKind.OOPS,
            r"BUG: (?:unable to handle|kernel NULL pointer|scheduling while atomic)",
        ),  # arch/x86/mm/fault.c
        (ProblemKind.OOPS, r"(?:Oops|Internal error): \S+ \[#\d+\]|Oops: [0-9a-f]{4} "),  # arch/x86/kernel/dumpstack.c
        (ProblemKind.OOPS, r"(?:Oops: )?general protection fault\b.*(?:\[#\d+\]|: [0-9a-f]{4} )"),  # traps.c
        (ProblemKind.OOPS, r"Unable to handle kernel "),  # arch/arm64, arch/riscv
        (ProblemKind.LOCKUP, r"(?:watchdog: )?BUG: (?:soft|hard|workqueue) lockup"),  # kernel/watchdog.c, workqueue.c
        (ProblemKind.LOCKUP, r"(?:watchdog: )?Watchdog detected hard LOCKUP"),
        (ProblemKind.STALL, r"rcu: INFO: \S+ (?:self-)?detected (?:expedited )?stall"),  # kernel/rcu/tree_stall.h
        (ProblemKind.HUNG_TASK, r"INFO: task \S+ (?:<\S+> )?blocked (?:on|for more than|in I/O wait)"),  # hung_task.c
        (ProblemKind.OUT_OF_MEMORY, r"Out of memory: Killed process|oom-kill:constraint="),  # mm/oom_kill.c
        (
            ProblemKind.LOCKDEP,
            r"WARNING: (?:possible |inconsistent lock state|bad unlock balance|suspicious RCU usage)",
        ),
        (ProblemKind.LOCKDEP, r"INFO: possible (?:recursive|circular|irq lock)"),  # kernel/locking/lockdep.c
        (ProblemKind.LOCKDEP, r"WARNING: (?:HARDIRQ|SOFTIRQ|RECLAIM_FS)-\S+ .*lock order detected"),
        (ProblemKind.WARN, r"WARNING: CPU: \d+ PID: \d+ at "),  # kernel/panic.c, __warn, up to 6.17
        (ProblemKind.WARN, r"WARNING: (?:\S+:\d+ at )?\S+\+0x[0-9a-f]+/0x[0-9a-f]+.*, CPU#\d+: "),  # and since 6.18
        (ProblemKind.WARN, r"WARNING: \S+:\d+ at .*CPU#\d+: "),
    )
)

_BEFORE, _AFTER = 2, 40


def recognise(line: str) -> ProblemKind | None:
    """The kind of problem that a console line announces, or None."""
    # Every announcement has one of these words: most lines are done with here.
    if not any(
        word in line
        for word in (
            "BUG",
            "WARNING",
            "INFO: ",
            "panic",
            "ops: ",
            "SAN: ",
            "nable to",
            "Out of",
            "oom-",
            "fault",
            "rror: ",
            "LOCKUP",
        )
    ):
        return None
    return next((kind for kind, pattern in _PATTERNS if pattern.search(line)), None)


class ProblemWatch:
    """Collects the problems of a console, line by line.

    An oops says several such lines in a row: what follows within the lines of a problem belongs to it, except that a
    panic is always told.
    """

    def __init__(self) -> None:
        self._before: deque[str] = deque(maxlen=_BEFORE)
        self._open: list[tuple[ProblemKind, str, list[str]]] = []
        self._left = 0

    def feed(self, line: str) -> None:
        """Take the next line."""
        kind = recognise(line)
        if kind is not None and (self._left == 0 or kind is ProblemKind.PANIC):
            self._open.append((kind, line.strip(), [*self._before]))
            self._left = _AFTER
        if self._left > 0:
            self._open[-1][2].append(line)
            self._left -= 1
        self._before.append(line)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All so far, in order."""
        return tuple(Problem(kind, line, "\n".join(text)) for kind, line, text in self._open)

    @property
    def fatal(self) -> Problem | None:
        """The first from which the guest does not come back."""
        return next((problem for problem in self.problems if problem.kind.is_fatal), None)
