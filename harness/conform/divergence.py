"""Where QEMU and the model differ: what was seen, and a signature by which the same difference is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from harness.model.bits import Layout
from harness.model.unit import Place

__all__ = ["Divergence", "Kind", "Probe", "Told", "differing_fields"]

# A field of at most so many bits holds a code or a flag, whose value tells differences apart; a wider one holds an
# address or an id, whose value does not.
_CODE_BITS = 8


class Kind(StrEnum):
    """What kind of difference it is."""

    DMA = "dma"
    """Data went where they must not, or did not go where they must."""
    MEMORY = "memory"
    """Something else in memory changed, or did not."""
    REGISTER = "register"
    """A register reads as it must not."""
    INTERRUPT = "interrupt"
    """An interrupt arrived that must not, or did not."""
    CRASH = "crash"
    """QEMU ended."""
    HANG = "hang"
    """QEMU does not answer."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A look at the machine that shows a divergence.

    Attributes:
        command: of qtest.
        wanted: what it must give,
        known: in these bits.
        seen: what it gave.
    """

    command: str
    wanted: int
    known: int
    seen: int


@dataclass(frozen=True, slots=True)
class Told:
    """What QEMU's trace tells of an interrupt that shows a divergence.

    Attributes:
        wanted: the line that must be there; empty where there must be none.
        seen: the one that is there; empty where there is none.
    """

    wanted: str
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One.

    Attributes:
        kind: of it.
        signature: what differs, without addresses and ids: the same for the same difference in any program.
        section: of the specification that says what must be, as far as it is known.
        step: number of the program's step after which it was seen.
        detail: both sides, for a person.
        probe: what shows it; None where QEMU itself is gone, and for an interrupt.
        told: of an interrupt, what shows it.
    """

    kind: Kind
    signature: str
    step: int
    section: str = ""
    detail: str = ""
    probe: Probe | None = None
    told: Told | None = None

    @property
    def id(self) -> str:
        """A short name made from the signature."""
        return hashlib.sha256(self.signature.encode()).hexdigest()[:8]


def differing_fields(
    place: Place, offset: int, expected: int, seen: int, known: int, address: int = 0
) -> Iterator[str]:
    """The fields that differ in a part of a register or structure.

    Args:
        place: whose part.
        offset: of the part, from the start of the register space or of memory.
        expected: bits of the part that must be,
        seen: and those that are.
        known: which of them must be so.
        address: that a request asked for, which a record is of; a field that is reserved may have low bits of it.
    """
    shift = 8 * (offset - place.start)
    if shift < 0:  # the part begins before the place does
        expected, seen, known, shift = expected >> -shift, seen >> -shift, known >> -shift, 0
    different = ((expected ^ seen) & known) << shift
    for name, mask, low, width in _fields(place.layout, 8 * place.size):
        if different & mask:
            wanted, found = (expected << shift & mask) >> low, (seen << shift & mask) >> low
            if width <= _CODE_BITS:
                yield f"{name} is {found:#x} for {wanted:#x}"
            elif found and name.startswith("RSVD") and found == address & (1 << width) - 1:
                yield f"{name} has low bits of the address"
            else:
                yield f"{name} differs"


def _fields(layout: Layout | None, bits: int) -> Iterator[tuple[str, int, int, int]]:
    if layout is None:
        yield "value", (1 << bits) - 1, 0, bits
        return
    for field in layout.fields:
        yield field.name, field.mask, field.low, field.width
