"""The registers of one RISC-V IOMMU as they stand: their bits, and which of these are known (chapter 6).

An access is of 4 bytes, or of 8 at a register of 8, aligned to its size. What any other does is not specified (6): it
reads as anything. Space without a register reads as zero, and so does that of an optional one that is not there.
"""

from __future__ import annotations

from typing import NamedTuple

from harness.model.riscv.register_map import Register, register_map
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.unit import Readout

__all__ = ["RegisterFile", "RegisterWrite"]

_NOTHING = Readout(0, 0)
_LENGTH = 4096


class RegisterWrite(NamedTuple):
    """A write to one register.

    Attributes:
        register: which one.
        mask: its bits that are written.
        bits: what is written to them.
    """

    register: Register
    mask: int
    bits: int


class RegisterFile:
    """The registers of an IOMMU.

    Args:
        registers: right after a reset.
        vectors: how many interrupt vectors there are.

    Attributes:
        values: of each register its bits, by key.
        known: of each register the bits that are known to be so.
    """

    def __init__(self, registers: RiscvIommuRegisters, vectors: int) -> None:
        entries = register_map(registers, vectors)
        self._by_word = {entry.offset + at: entry for entry in entries for at in range(0, entry.size, 4)}
        self._by_key = {entry.key: entry for entry in entries}
        self.values: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self._first_values = {entry.key: getattr(registers, entry.key, 0) & entry.reset for entry in entries}
        self._first_known = {entry.key: entry.reset | entry.zeros for entry in entries}
        self.reset()

    def reset(self) -> None:
        """As a reset leaves them (6.2): most of what software writes is not known then."""
        self.values.update(self._first_values)
        self.known.update(self._first_known)

    def at(self, offset: int) -> Register | None:
        """The register that a byte belongs to."""
        return self._by_word.get(offset & ~3)

    def is_specified(self, offset: int, size: int) -> bool:
        """Whether the specification says what an access does: its size, its alignment, one register at most."""
        if size not in (4, 8) or offset % size:
            return False
        return size == 4 or self.at(offset) is self.at(offset + 4)

    def read(self, offset: int, size: int) -> Readout:
        """What an access of `size` bytes reads."""
        if not self.is_specified(offset, size) or offset + size > _LENGTH:
            return _NOTHING
        everything = (1 << 8 * size) - 1
        register = self._by_word.get(offset)
        if register is None:
            return Readout(0, everything)
        shift = 8 * (offset - register.offset)
        known = self.known[register.key] >> shift & everything
        return Readout(self.values[register.key] >> shift & known, known)

    def touched(self, offset: int, size: int) -> Register | None:
        """The first register of which an access reaches a byte; space for custom use does not count."""
        for word in range(offset & ~3, offset + size, 4):
            register = self._by_word.get(word)
            if register is not None and register.layout is not None:
                return register
        return None

    def part(self, offset: int, size: int, value: int) -> RegisterWrite | None:
        """A write that is specified, as the one register that gets it; None where none is there."""
        register = self._by_word.get(offset)
        if register is None or register.layout is None:
            return None
        shift = 8 * (offset - register.offset)
        mask = (1 << 8 * size) - 1 << shift
        return RegisterWrite(register, mask, value << shift & mask)

    def store(self, key: str, mask: int, bits: int) -> None:
        """Put bits there, which are known from then on."""
        self.values[key] = self.values[key] & ~mask | bits & mask
        self.known[key] |= mask

    def forget(self, key: str, mask: int) -> None:
        """What stands in these bits is not known any more."""
        self.known[key] &= ~mask

    def unknown(self, key: str) -> int:
        """The bits that software sets or clears and of which nothing is known: those that it has not, since a reset."""
        register = self._by_key[key]
        return (register.writable | register.clears) & ~self.known[key]

    def is_known(self, key: str, mask: int) -> bool:
        """Whether all of these bits are known."""
        return not mask & ~self.known[key]
