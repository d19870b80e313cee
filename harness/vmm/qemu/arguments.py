"""A QEMU command line with each option beside its value, and one device's properties in both of QEMU's notations."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

__all__ = ["Arguments", "Properties", "Value"]

Value = str | int | bool


@dataclass(frozen=True, slots=True)
class Properties:
    """One `-device`, or one `device_add`: the same thing in two notations.

    A value is typed as QEMU's property is: QMP takes `true` for a boolean property and `"on"` for one of type
    OnOffAuto, and refuses either in the other's place.

    Attributes:
        driver: name of the device type.
        id: its id.
        values: all other properties, in order.
    """

    driver: str
    id: str
    values: Mapping[str, Value]

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same, with properties by other names."""
        return replace(self, values={names.get(key, key): value for key, value in self.values.items()})

    def text(self) -> str:
        """As `-device` takes it."""
        words = [self.driver, f"id={self.id}"]
        words += [f"{key}={_option(value)}" for key, value in self.values.items()]
        return ",".join(words)

    def json(self) -> dict[str, Value]:
        """As `device_add` takes it."""
        return {"driver": self.driver, "id": self.id, **self.values}


@dataclass(frozen=True, slots=True)
class Arguments:
    """The options of a command line, without the program.

    Attributes:
        pairs: each option and its value, or an option alone.
    """

    pairs: tuple[tuple[str, ...], ...]

    def __iter__(self) -> Iterator[str]:
        return (word for pair in self.pairs for word in pair)

    def shell(self, program: Sequence[str], env: Mapping[str, str]) -> str:
        """The command for a shell, one pair a line.

        Args:
            program: the words that come before the options.
            env: environment variables to set for it.
        """
        start = " ".join([*(f"{name}={shlex.quote(value)}" for name, value in env.items()), shlex.join(program)])
        return " \\\n    ".join([start, *(shlex.join(pair) for pair in self.pairs)])


def _option(value: Value) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case int():
            return str(value) if value < 100 else hex(value)  # counts and widths as people write them, and masks
        case str():
            return value.replace(",", ",,")  # QemuOpts: a comma in a value is doubled
