"""A TOML table from which fields are taken one by one; whatever is wrong is told with its place in the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from harness.errors import SpecError

__all__ = ["HINT", "Table", "number", "of_type"]

HINT = "docs/reference/formats.md shows a state file"
"""Where to look for what a state file holds."""

_T = TypeVar("_T")


class Table:
    """One table.

    Attributes:
        where: its file, and its place in it.

    Args:
        data: what the TOML reader gave.
    """

    def __init__(self, where: str, data: Mapping[str, Any]) -> None:
        self.where = where
        self._data = dict(data)
        self._known: list[str] = []

    def find(self, name: str) -> Any:
        """A field of any type; None where it is left out, which TOML has no value for."""
        self._known.append(name)
        return self._data.pop(name, None)

    def take(self, name: str, type: type[_T], default: _T | None = None) -> _T:
        """A field of that type.

        Raises:
            SpecError: it is of another, or is not there and has no default.
        """
        value = self.find(name)
        if value is not None:
            return of_type(self.place(name), value, type)
        return self._or(name, default)

    def number(self, name: str, default: int | None = None) -> int:
        """A number: an integer, or a string that holds one where TOML's integers are too narrow."""
        value = self.find(name)
        return self._or(name, default) if value is None else number(self.place(name), value)

    def place(self, name: str) -> str:
        """Where a field stands, for a message."""
        return f"{self.where}, {name!r}"

    def _or(self, name: str, default: _T | None) -> _T:
        if default is None:
            raise SpecError(f"{self.where} has no {name!r}", hint=HINT)
        return default

    def table(self, name: str) -> Table:
        """A table below it."""
        return Table(f"{self.where}, [{name}]", self.take(name, dict))

    def tables(self, name: str) -> list[Table]:
        """A list of tables below it; none where it is left out."""
        rows = self.take(name, list, [])
        return [
            Table(f"{self.where}, [[{name}]] number {index}", of_type(self.place(name), row, dict))
            for index, row in enumerate(rows, 1)
        ]

    def end(self) -> None:
        """Refuse what is left.

        Raises:
            SpecError: a field that nothing asks for.
        """
        if self._data:
            unknown = ", ".join(map(repr, self._data))
            raise SpecError(f"{self.where} has no field {unknown}", hint=f"there are: {', '.join(self._known)}")


def of_type(where: str, value: object, type: type[_T]) -> _T:
    """The value, which must be of that type; a truth value is no number.

    Raises:
        SpecError: it is not.
    """
    if not isinstance(value, type) or (type is int and isinstance(value, bool)):
        raise SpecError(f"{where} is {value!r}, not of type {type.__name__}", hint=HINT)
    return value


def number(where: str, value: object) -> int:
    """An integer, or what a string holds.

    Raises:
        SpecError: neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(value, 0) if isinstance(value, str) else int(of_type(where, value, int))
    except ValueError:
        raise SpecError(f"{where} is {value!r}, which is no number", hint='write 0x1000, or "0x1000"') from None
