"""The MMIO registers of one AMD IOMMU as they stand: their bits, and which of these are known (AMD-Vi 3.4).

Accesses are of 1, 2, 4 or 8 bytes, aligned to their size. What another access reads is not known, and neither is what
stands afterwards in the bytes that another one writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from harness.model.amdvi.register_map import MmioRegister, register_map, segment_key
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.unit import Readout

__all__ = ["RegisterFile", "RegisterWrite"]

_SIZES = (1, 2, 4, 8)
_SEGMENTS = range(1, 8)


class RegisterWrite(NamedTuple):
    """The part of a write that one register gets.

    Attributes:
        register: which one.
        mask: its bits that are written.
        bits: what is written to them.
    """

    register: MmioRegister
    mask: int
    bits: int


class RegisterFile:
    """The registers of an IOMMU.

    Args:
        registers: right after a reset.

    Attributes:
        values: of each register its bits, by key; 0 in bits that are not settled but for what a reset leaves there.
        known: of each register the bits of which it is known that `values` has them.
    """

    def __init__(self, registers: AmdviRegisters) -> None:
        self._at_reset = registers
        self._map = register_map(registers)
        # Every register begins at a multiple of 4 and has 4 or 8 bytes.
        self._by_word = {entry.offset + at: entry for entry in self._map for at in range(0, entry.size, 4)}
        self._settled = {entry.key: entry.settled for entry in self._map}
        self.values: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """As at first. Of what `AmdviRegisters` does not have nothing is known."""
        for entry in self._map:
            value = getattr(self._at_reset, entry.key, None)
            self.values[entry.key] = value or 0
            self.known[entry.key] = 0 if value is None else entry.settled
        for number, value in zip(_SEGMENTS, self._at_reset.device_table_segments, strict=True):
            self.values[segment_key(number)] = value
            self.known[segment_key(number)] = self._settled[segment_key(number)]

    def at(self, offset: int) -> MmioRegister | None:
        """The register that a byte belongs to."""
        return self._by_word.get(offset & ~3)

    def read(self, offset: int, size: int) -> Readout:
        """What an access of `size` bytes reads."""
        value = known = 0
        if not is_defined(offset, size):
            return Readout(0, 0)
        for register, shift in self._touched(offset, size):
            part = _shift(self.values[register.key], shift)
            value |= part
            known |= _shift(self.known[register.key], shift)
        everything = (1 << 8 * size) - 1
        return Readout(value & known & everything, known & everything)

    def split(self, offset: int, size: int, value: int) -> Iterator[RegisterWrite]:
        """The parts of a write of `size` bytes, from the lowest register on."""
        for register, shift in self._touched(offset, size):
            everything = (1 << 8 * register.size) - 1
            mask = _shift((1 << 8 * size) - 1, -shift) & everything
            yield RegisterWrite(register, mask, _shift(value, -shift) & mask)

    def store(self, key: str, mask: int, bits: int) -> None:
        """Put bits there, those that are settled, which are known from then on."""
        mask &= self._settled[key]
        self.values[key] = self.values[key] & ~mask | bits & mask
        self.known[key] |= mask

    def forget(self, key: str, mask: int = -1) -> None:
        """What stands in these bits is not known any more."""
        self.known[key] &= ~mask

    def is_known(self, *keys: str) -> bool:
        """Whether everything settled of some registers is known."""
        return all(self.known[key] == self._settled[key] for key in keys)

    def snapshot(self) -> AmdviRegisters:
        """All of them as they are."""
        return self._registers(self.values)

    def translation(self) -> AmdviRegisters:
        """Those that a request or an interrupt depends on; the others are zero, and so are reserved bits."""
        settled = {
            entry.key: self.values[entry.key] & entry.settled
            for entry in self._map
            if entry.key not in _NOT_OF_TRANSLATION
        }
        return self._registers({**dict.fromkeys(_NOT_OF_TRANSLATION, 0), **settled})

    def _registers(self, values: dict[str, int]) -> AmdviRegisters:
        at_reset = self._at_reset
        named = {entry.key: values[entry.key] for entry in self._map if hasattr(at_reset, entry.key)}
        return AmdviRegisters(
            **named,
            device_table_segments=tuple(values[segment_key(number)] for number in _SEGMENTS),
            capability_header=at_reset.capability_header,
            device_id=at_reset.device_id,
        )

    def _touched(self, offset: int, size: int) -> Iterator[tuple[MmioRegister, int]]:
        """Each register that an access reaches, and how far left of the access's lowest bit it begins, in bits."""
        seen = None
        for word in range(offset & ~3, offset + size, 4):
            register = self._by_word.get(word)
            if register is not None and register is not seen:
                seen = register
                yield register, 8 * (register.offset - offset)


_NOT_OF_TRANSLATION = frozenset(
    {
        *("command_buffer_base", "command_buffer_head", "command_buffer_tail"),
        *("event_log_base", "event_log_head", "event_log_tail", "status"),
        *("ppr_log_base", "ppr_log_head", "ppr_log_tail"),
        *("msi_header", "msi_address_low", "msi_address_high", "msi_data", "xt_interrupt"),
    }
)
"""Registers that no outcome of a request depends on."""


def is_defined(offset: int, size: int) -> bool:
    """Whether the specification says what an access does (AMD-Vi 3.4): a power of two up to 8 bytes, and aligned."""
    return size in _SIZES and not offset % size


def _shift(bits: int, left: int) -> int:
    return bits << left if left >= 0 else bits >> -left
