"""The seven verdicts that a case can get, and the exit code that a run of cases gets from them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

__all__ = ["INTERRUPTED", "Verdict", "exit_code"]

INTERRUPTED = 130
"""Exit code of what Ctrl-C has ended: 128 + SIGINT, as shells have it."""


class Verdict(StrEnum):
    """What is said of one case. See `docs/reference/verdicts.md` for how each is decided."""

    PASS = "pass"
    """Everything that was expected was seen, and nothing else."""
    FAIL = "fail"
    """What is tested (guest kernel, QEMU, the IOMMU) is wrong."""
    ERROR = "error"
    """The test case itself is wrong."""
    MISS = "miss"
    """The harness, the host or the launch of the VMM failed: nothing can be said of what is tested."""
    SKIP = "skip"
    """A named feature is absent from this build or kernel."""
    KNOWN = "known"
    """A failure listed in the known issues, still there."""
    FIXED = "fixed"
    """A failure listed in the known issues that did not show: the entry should go."""


_WRONG = frozenset({Verdict.FAIL, Verdict.FIXED})
_UNJUDGED = frozenset({Verdict.ERROR, Verdict.MISS})


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """0: all is as it should be; 1: something tested is wrong; 2: something could not be judged.

    A run that judged nothing at all (no verdict, or only skips) is a 2: unknown is not pass. Where some
    cases failed and others could not be judged, what is known to be wrong wins: 1.
    """
    seen = set(verdicts)
    if seen & _WRONG:
        return 1
    if seen & _UNJUDGED or not seen - {Verdict.SKIP}:
        return 2
    return 0
