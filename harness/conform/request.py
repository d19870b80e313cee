"""A request that a DMA was cut into, and what must become of it."""

from __future__ import annotations

from typing import NamedTuple

from harness.conform.program import Dma
from harness.model.access import Access, Fault, Outcome
from harness.model.engine import MsiOutcome, MsiWrite

__all__ = ["Request"]


class Request(NamedTuple):
    """One request.

    Attributes:
        dma: which it is of.
        access: the request.
        outcome: of it; for an interrupt that of the interrupt.
        address: where data were written; None where they were not, or where no memory is.
        message: the same as an interrupt request, where it is one.
        passing: for one that is blocked, the outcome with which it might as well have passed; None where there is none.
    """

    dma: Dma
    access: Access
    outcome: Outcome | MsiOutcome
    address: int | None = None
    message: MsiWrite | None = None
    passing: Outcome | None = None

    @property
    def offset(self) -> int:
        """Where in the device's buffer its data begin."""
        return self.dma.offset + self.access.iova - self.dma.iova

    @property
    def is_recorded(self) -> bool:
        """Whether it is blocked, and hardware has to write that down."""
        return isinstance(self.outcome, Fault) and self.outcome.record is not None
