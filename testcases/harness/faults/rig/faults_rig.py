"""How a fault is made, and how what the harness says of it is judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.errors import HarnessError
from harness.live.machine import LiveMachine
from harness.spec import Iommu, IommuKind, Machine
from harness.verdict import Verdict

Start = Callable[[], LiveMachine]

PLAIN = Machine(iommu=Iommu(kind=IommuKind.VIRTIO))

LONG = 60.0
"""Deadline, in seconds, of what is not to be waited for."""
SOON = LONG / 3
"""Seconds within which is told what can be known at once: far from a deadline, and a busy host takes its time."""


class Told:
    """What the harness said of a fault, there once the block has ended."""

    error: HarnessError
    seconds: float


@contextmanager
def told(
    kind: type[HarnessError], verdict: Verdict, *says: str, evidence: str = "", within: float = SOON
) -> Iterator[Told]:
    """Fail unless the block raises exactly that, in time.

    Args:
        kind: of the error, no other and none derived from it.
        verdict: that a case gets by it.
        says: texts, each in the error's message.
        evidence: text in its evidence.
        within: seconds.
    """
    told = Told()
    begin = time.monotonic()
    try:
        yield told
    except HarnessError as raised:
        told.error, told.seconds = raised, time.monotonic() - begin
    else:
        raise AssertionError(f"nothing was said of it, in {time.monotonic() - begin:.1f} s")
    error = told.error
    assert (type(error), error.verdict) == (kind, verdict), repr(error)
    for text in says:
        assert text in error.message
    assert evidence in error.evidence
    assert told.seconds < within, f"told after {told.seconds:.1f} s: {error.message}"
    error.__traceback__ = None
