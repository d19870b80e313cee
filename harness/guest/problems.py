"""What goes wrong in a guest kernel, recognised in the text of its serial console.

A pattern is here only if the kernel prints it for nothing else: words like "error", "failed" or "fault" alone are not.
Sources are named beside each, as of Linux 5.10 to 7.2.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from harness.guest.kernel_line import LINE_LIMIT, MESSAGE_START

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
        return self not in _GOES_ON


# A stall comes from a host that is too busy as well, and such a guest goes on. Each of these fails its case at the end.
_GOES_ON = frozenset(
    {
        ProblemKind.WARN,
        ProblemKind.LOCKDEP,
        ProblemKind.SANITIZER,
        ProblemKind.OUT_OF_MEMORY,
        ProblemKind.STALL,
    }
)


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


_PATTERNS: tuple[tuple[ProblemKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(MESSAGE_START + pattern))
    for kind, pattern in (
        # kernel/panic.c, vpanic. A prompt without a newline may stand before it; its last line repeats it.
        (ProblemKind.PANIC, r".*(?<!---\[ end )Kernel panic - not syncing"),
        (ProblemKind.PANIC, r"PANIC: early exception 0x"),  # arch/x86/mm/extable.c: it halts after that
        (ProblemKind.KASAN, r"BUG: (?:KASAN|KFENCE|KMSAN|KCSAN): "),  # mm/kasan/report.c and its like
        (ProblemKind.SANITIZER, r"UBSAN: [\w -]+ in \S+:\d+"),  # lib/ubsan.c
        # lib/bug.c, report_bug; the second without CONFIG_DEBUG_BUGVERBOSE.
        (ProblemKind.BUG, r"[Kk]ernel BUG at (?:\S+:\d+!|\S+ (?:\[\w+\] )?\[verbose debug info unavailable\])"),
        (ProblemKind.OOPS, r"BUG: (?:unable to handle |kernel NULL pointer dereference)"),  # arch/x86/mm/fault.c
        # __die in arch/x86/kernel/dumpstack.c and arch/arm64/kernel/traps.c: what died, the error code, the count.
        (ProblemKind.OOPS, r"\S.{0,160}: [0-9a-f]{4,16} \[#\d+\]"),
        (ProblemKind.OOPS, r"(?:Oops(?: - [\w -]+)?|[Kk]ernel BUG) \[#\d+\]"),  # arch/riscv/kernel/traps.c, die
        (ProblemKind.OOPS, r"Unable to handle kernel "),  # arch/arm64/mm/fault.c, arch/riscv/mm/fault.c
        (ProblemKind.OOPS, r"(?:traps: )?PANIC: double fault"),  # arch/x86/kernel/traps.c
        (ProblemKind.LOCKUP, r"(?:watchdog: )?BUG: (?:soft|workqueue) lockup"),  # kernel/watchdog.c, workqueue.c
        (ProblemKind.LOCKUP, r"(?:NMI )?watchdog: (?:CPU\d+: )?Watchdog detected hard LOCKUP"),
        # kernel/rcu/tree_stall.h, tree_exp.h; tasks.h, which has no prefix.
        (ProblemKind.STALL, r"(?:rcu: )?INFO: rcu\S* (?:self-)?detected (?:expedited )?stall"),
        (
            ProblemKind.HUNG_TASK,
            r"INFO: task \S.{0,20}:\d+ (?:<\w+> )?(?:is )?blocked (?:on|for|in) ",
        ),  # kernel/hung_task.c
        (
            ProblemKind.OUT_OF_MEMORY,
            r"(?:Memory cgroup o|O)ut of memory\b.{0,40}: Kill(?:ed)? process",
        ),  # mm/oom_kill.c
        (ProblemKind.OUT_OF_MEMORY, r"oom-kill:constraint=|\S.{0,20} invoked oom-killer: "),
        (ProblemKind.OUT_OF_MEMORY, r"\S.{0,20}: page allocation failure: order:"),  # mm/page_alloc.c, warn_alloc
        # kernel/locking/lockdep.c, include/linux/rcupdate.h
        (ProblemKind.LOCKDEP, r"WARNING: possible (?:recursive locking|circular locking|irq lock inversion)"),
        (ProblemKind.LOCKDEP, r"WARNING: (?:HARDIRQ|SOFTIRQ|RECLAIM_FS|FS_RECLAIM)-\S+ .*lock order detected"),
        (ProblemKind.LOCKDEP, r"WARNING: (?:inconsistent lock state|bad (?:unlock balance|contention) detected)"),
        (ProblemKind.LOCKDEP, r"WARNING: (?:held lock freed!|lock held when returning to user space!)"),
        (ProblemKind.LOCKDEP, r"WARNING: (?:\S.{0,20}/\d+ still has locks held!|Nested lock was not taken)"),
        (ProblemKind.LOCKDEP, r"WARNING: suspicious RCU usage"),
        (ProblemKind.LOCKDEP, r"\[ BUG: Invalid wait context \]|INFO: trying to register non-static key"),
        # All others with BUG at the start: page, rss-counter and dentry accounting, spinlocks, sleeping or
        # preemption where there must be none.
        (ProblemKind.BUG, r"BUG: "),
        (ProblemKind.WARN, r"WARNING: CPU: \d+ PID: \d+ at "),  # kernel/panic.c, __warn, up to 6.18
        # and since 6.19, where the condition may stand before the file.
        (ProblemKind.WARN, r"WARNING: (?:\S.{0,300} )?at \S+(?: \[\w+\])?, CPU#\d+: "),
    )
)
# Every announcement has one of these: most lines are done with after looking for them.
_WORDS = (
    "BUG", "WARNING: ", "INFO: ", "anic - ", "PANIC: ", "SAN: ", " [#", "nable to handle", "of memory", "oom-kill",
    "LOCKUP", "allocation failure",
)  # fmt: skip

_BEFORE, _AFTER = 2, 40
_MOST = 100


def recognise(line: str) -> ProblemKind | None:
    """The kind of problem that a console line announces, or None."""
    line = line[:LINE_LIMIT]
    if not any(word in line for word in _WORDS):
        return None
    return next((kind for kind, pattern in _PATTERNS if pattern.search(line)), None)


class ProblemWatch:
    """Collects the problems of a console, line by line.

    An oops says several such lines in a row: what follows within the lines of a problem belongs to it, except that a
    panic is always told, and so is what is fatal after what is not. The first 100 problems are kept, and of those that
    come later the first that is fatal.
    """

    def __init__(self) -> None:
        self._before: deque[str] = deque(maxlen=_BEFORE)
        self._open: list[tuple[ProblemKind, str, list[str]]] = []
        self._left = 0

    def feed(self, line: str) -> None:
        """Take the next line; of a very long one its start."""
        line = line[:LINE_LIMIT]
        kind = recognise(line)
        if kind is not None and self._is_new(kind):
            self._open.append((kind, line.strip(), [*self._before]))
            self._left = _AFTER
        if self._left > 0:
            self._open[-1][2].append(line)
            self._left -= 1
        self._before.append(line)

    def _is_new(self, kind: ProblemKind) -> bool:
        if len(self._open) >= _MOST:
            return kind.is_fatal and not any(earlier.is_fatal for earlier, _, _ in self._open)
        if self._left == 0 or kind is ProblemKind.PANIC:
            return True
        return kind.is_fatal and not self._open[-1][0].is_fatal

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All so far, in order."""
        return tuple(Problem(kind, line, "\n".join(text)) for kind, line, text in self._open)

    @property
    def fatal(self) -> Problem | None:
        """The first from which the guest does not come back."""
        return next((problem for problem in self.problems if problem.kind.is_fatal), None)
