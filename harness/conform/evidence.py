"""The registers that tell, beside records in memory, which faults there were: what they must say, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from harness.conform.comparison import LETTERS
from harness.conform.divergence import Probe
from harness.conform.request import Request
from harness.model.access import Fault
from harness.model.unit import Readout, Unit

__all__ = ["Evidence"]


class Evidence:
    """The evidence of one unit.

    Args:
        unit: of the model.
        registers: physical address of offset 0 of the IOMMU's registers.
        is_known: whether a register, by its offset and size, that must read as the one and was seen to read as the
            other differs in nothing but what is known to.

    Attributes:
        places: offset and size of each register.
        lines: qtest commands that read them.
    """

    def __init__(self, unit: Unit, registers: int, is_known: Callable[[int, int, Readout, int], bool]) -> None:
        self._unit = unit
        self._is_known = is_known
        self.places = tuple(unit.evidence)
        self.lines = [f"read{LETTERS[size]} {registers + offset:#x}" for offset, size in self.places]

    def has(self, offset: int, size: int) -> bool:
        """Whether such an access is to one of them."""
        return any(offset < at + width and at < offset + size for at, width in self.places)

    def wanted(self) -> list[Readout]:
        """What they must say now."""
        return [self._unit.read(offset, size) for offset, size in self.places]

    def wanted_with(self, silent: Sequence[Request]) -> list[Readout]:
        """The same had these requests been recorded as well; nothing that follows may come back to a point before."""
        state = self._unit.save()
        for request in silent:
            faults = (each for each in self._unit.outcomes(request.access) if isinstance(each, Fault))
            for outcome in islice((each for each in faults if each.record is not None), 1):
                self._unit.settle(request.access, outcome)
        wanted = self.wanted()
        self._unit.restore(state)
        return wanted

    def agrees(self, seen: Sequence[int]) -> bool:
        """Whether they say what they must.

        What is known to be otherwise counts as the same: it would hide which faults there were.
        """
        return all(
            (wanted := self._unit.read(offset, size)).agrees(value) or self._is_known(offset, size, wanted, value)
            for (offset, size), value in zip(self.places, seen, strict=True)
        )

    def probe(self, wanted: Sequence[Readout], seen: Sequence[int]) -> Probe | None:
        """A look at the first of them that is not as wanted."""
        for line, must, value in zip(self.lines, wanted, seen, strict=True):
            if not must.agrees(value):
                return Probe(line, must.value, must.known, value)
        return None
