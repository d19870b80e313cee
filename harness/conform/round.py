"""What is sent to QEMU at once, and what of it is for whom."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.conform.program import Dma, Read, Write

__all__ = ["Round"]


@dataclass
class Round:
    """One round of a program.

    Attributes:
        lines: qtest commands.
        accesses: to registers, in their order: number of the line, number of the step, and the step.
        dmas: in their order; they come after the accesses.
        busy: devices of those.
        counts: registers are read that tell of faults, as records do; no DMA follows in the same round.
    """

    lines: list[str] = field(default_factory=list)
    accesses: list[tuple[int, int, Read | Write]] = field(default_factory=list)
    dmas: list[Dma] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    counts: bool = False
