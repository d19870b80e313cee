"""Picks the lines of a guest's console that a reader wants first.

This only chooses what to show; whether a line makes a case fail was judged before the record was written.
"""

from __future__ import annotations

from harness.guest.faults import is_fault_line
from harness.guest.problems import recognise

__all__ = ["excerpt", "is_notable"]


def is_notable(line: str) -> bool:
    """Whether a console line announces a problem of the kernel, or a fault of DMA or of an interrupt."""
    return recognise(line) is not None or is_fault_line(line)


def excerpt(console: str, limit: int) -> list[str]:
    """At most `limit` (3 or more) lines: the notable ones, or the last ones where none is.

    Of too many notable lines the first is kept, because what follows it is often its consequence, and the last.
    """
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    notable = [line for line in lines if is_notable(line)]
    if not notable:
        return lines[-limit:]
    if len(notable) <= limit:
        return notable
    left_out = len(notable) - (limit - 1)
    return [notable[0], f"... {left_out} more such lines ...", *notable[-(limit - 2) :]]
