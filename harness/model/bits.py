"""Structures of named bit fields, read and written by the names that a specification gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import SpecError

__all__ = ["Field", "Layout", "changed"]

_MOST_DESCRIBED = 4096  # values of a layout whose fields are kept


@dataclass(frozen=True, slots=True)
class Field:
    """A run of bits.

    Attributes:
        name: as in the specification.
        low: number of the lowest bit.
        width: bits.
        in_place: the value keeps its position (an address field: bits below `low` read as zero).
        mask: the bits of the field within the structure.
    """

    name: str
    low: int
    width: int
    in_place: bool = False
    mask: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", ((1 << self.width) - 1) << self.low)

    def get(self, value: int) -> int:
        """The field's value in a structure's bits."""
        bits = value & self.mask
        return bits if self.in_place else bits >> self.low

    def put(self, value: int) -> int:
        """The field's value as bits of the structure.

        Raises:
            SpecError: the value does not fit the field.
        """
        bits = value if self.in_place else value << self.low
        if bits & ~self.mask or value < 0:
            raise SpecError(f"{self.name}={value:#x} does not fit bits {self.low + self.width - 1}:{self.low}")
        return bits


@dataclass(frozen=True)
class Layout:
    """A structure: its name, the section that defines it, and its fields in ascending order of bits.

    Reserved and ignored bits are fields too, named `RSVD...` and `IGN...`, so that a builder can set them on purpose.
    """

    name: str
    section: str
    fields: tuple[Field, ...]
    _by_name: dict[str, Field] = field(init=False, repr=False, compare=False)
    _places: list[tuple[str, int, int]] = field(init=False, repr=False, compare=False)
    _described: dict[int, tuple[tuple[str, int], ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {entry.name: entry for entry in self.fields})
        places = [(entry.name, entry.mask, 0 if entry.in_place else entry.low) for entry in self.fields]
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_described", {})

    def __getitem__(self, name: str) -> Field:
        try:
            return self._by_name[name]
        except KeyError:
            raise SpecError(f"{self.name} has no field {name!r}", hint=f"it has {', '.join(self._by_name)}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def reserved(self) -> int:
        """The bits of all fields that are named `RSVD...`."""
        return sum(entry.mask for entry in self.fields if entry.name.startswith("RSVD"))

    def decode(self, value: int) -> tuple[tuple[str, int], ...]:
        """Every field with its value."""
        return tuple([(name, (value & mask) >> low) for name, mask, low in self._places])

    def describe(self, value: int) -> tuple[tuple[str, int], ...]:
        """Every field with its value, for a person: reserved and ignored ones only where they are not zero.

        Answers are kept: walks over the past of memory ask for the same ones again and again.
        """
        described = self._described.get(value)
        if described is None:
            if len(self._described) >= _MOST_DESCRIBED:
                self._described.clear()
            pairs = self.decode(value)
            described = tuple([pair for pair in pairs if pair[1] or not pair[0].startswith(("RSVD", "IGN"))])
            self._described[value] = described
        return described

    def encode(self, values: Mapping[str, int]) -> int:
        """The structure's bits; fields that are not named are zero.

        Raises:
            SpecError: no such field, or a value that does not fit.
        """
        bits = 0
        for name, value in values.items():
            bits |= self[name].put(value)
        return bits


def changed(layout: Layout, bits: int, values: Mapping[str, int]) -> int:
    """A structure's bits with some fields set otherwise.

    Raises:
        SpecError: no such field, or a value that does not fit.
    """
    for name, value in values.items():
        entry = layout[name]
        bits = bits & ~entry.mask | entry.put(value)
    return bits
