"""Address spaces of programs, whatever the architecture: their pages, and how these change while devices use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from harness.errors import HarnessError
from harness.model.memory import WritableMemory
from harness.model.radix import RadixTable

__all__ = ["AddressSpace", "Before", "Mapped", "PageChanges", "Spoil", "set_fields"]

_SPOILS, _MENDS, _MAPS, _FORGETS = 0.65, 0.7, 0.3, 0.7


@dataclass(frozen=True, slots=True)
class Mapped:
    """A page of an address space.

    Attributes:
        input: its first address.
        size: bytes.
        level: of its entry, 1 for the last.
        inside: the part of it that is worth going to: first input address and size.
    """

    input: int
    size: int
    level: int
    inside: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Before:
    """An entry of a table as it was.

    Attributes:
        memory: that it is in,
        address: and where.
        bits: that it had.
    """

    memory: WritableMemory
    address: int
    bits: int

    def restore(self) -> None:
        """Write it as it was."""
        self.memory.write_u64(self.address, self.bits)


Spoil: TypeAlias = Callable[[RadixTable, Mapped, float], Before | None]
"""Makes an entry on the way to a page wrong, given a number below 1 to choose by; what the entry was, or None."""


def set_fields(table: RadixTable, address: int, level: int, values: dict[str, int]) -> Before | None:
    """Set fields of an entry on the way to an address; what it was before, None where it is not there."""
    address &= (1 << table.width) - 1
    memory = table.pages.memory
    try:
        at = table.entry_address(address, level)
        before = memory.read_u64(at)
        table.set_fields(address, level, values)
    except HarnessError:
        return None
    return Before(memory, at, before)


@dataclass(eq=False, slots=True, kw_only=True)
class AddressSpace:
    """What a table maps.

    Attributes:
        table: its tables.
        mapped: its pages, with sign-extended addresses where the architecture has such.
    """

    table: RadixTable
    mapped: list[Mapped] = field(default_factory=list)

    def table_of(self, page: Mapped) -> RadixTable:
        """The tables that map one of its pages."""
        return self.table


class PageChanges:
    """Changes pages: maps, unmaps, spoils and mends them. Of each address space one page at most is spoiled.

    Args:
        random: to choose by.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._spoiled: dict[AddressSpace, tuple[Mapped, Before]] = {}

    def change(
        self,
        space: AddressSpace,
        *,
        map_one: Callable[[], None],
        spoil: Spoil,
    ) -> Mapped | None:
        """Change a page of an address space; which one, None where there is none.

        Args:
            space: whose.
            map_one: maps a page of it, if there is room.
            spoil: makes an entry on the way to a page of it wrong.
        """
        random = self._random
        spoiled = self._spoiled.get(space)
        if spoiled is not None and random.random() < _MENDS:
            del self._spoiled[space]
            page, before = spoiled
            before.restore()
            return page
        if not space.mapped or random.random() < _MAPS:
            map_one()
            return space.mapped[-1] if space.mapped else None
        page = random.choice(space.mapped)
        table = space.table_of(page)
        draw = random.random()
        if draw < _SPOILS and spoiled is None:
            entry = spoil(table, page, draw / _SPOILS)
            if entry is not None:
                self._spoiled[space] = page, entry
            return page
        try:
            table.unmap(page.input & (1 << table.width) - 1, page.size)
        except HarnessError:
            return page
        if random.random() < _FORGETS:
            space.mapped.remove(page)
        return page
