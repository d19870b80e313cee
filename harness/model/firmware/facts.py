"""What the firmware's table of a platform must state, read off the platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.model.pci.aliases import requester_ids, seen_as
from harness.model.pci.platform import Platform, ReservedRegion, UnitPlace
from harness.pci import Address

__all__ = ["Facts", "MustBeBehind", "expected"]


@dataclass(frozen=True, slots=True)
class MustBeBehind:
    """An IOMMU that stands before a function.

    Attributes:
        unit: which one.
        id: under which id the function's requests come to it. The table must give this one.
        ids: under which ids they may come, on other ways through the same bridges: the table may give these.
    """

    unit: UnitPlace
    id: int
    ids: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What must be stated, by one table or by several.

    Attributes:
        tables: the signatures of the tables that there must be, and no other of the five, with their IOMMUs.
        behind: for every function the IOMMU that stands before it, or None.
        interrupt_remapping: whether interrupts are remapped; None where nothing may be said of it.
        address_width: bits of an address that reaches all memory: no fewer must be stated.
        reserved: regions that devices use from the start.
        ioapics: ids of the I/O APICs. Where interrupts are remapped all of them must be told of.
    """

    tables: Mapping[str, tuple[UnitPlace, ...]]
    behind: Mapping[Address, MustBeBehind | None]
    interrupt_remapping: bool | None
    address_width: int
    reserved: frozenset[ReservedRegion]
    ioapics: frozenset[int]


def expected(platform: Platform) -> Facts:
    """The facts of a platform."""
    tables: dict[str, tuple[UnitPlace, ...]] = {}
    for unit in platform.units:
        tables[unit.table] = (*tables.get(unit.table, ()), unit.place)
    behind: dict[Address, MustBeBehind | None] = {}
    for function in platform.tree:
        owner = platform.unit_of(function)
        if owner is None:
            behind[function.address] = None
        else:
            ids = frozenset(owner.id_base + id for id in requester_ids(platform.tree, function))
            arrives = owner.id_base + seen_as(platform.tree, function).requester
            behind[function.address] = MustBeBehind(owner.place, arrives, ids)
    return Facts(
        tables=tables,
        behind=behind,
        interrupt_remapping=platform.interrupt_remapping,
        address_width=platform.address_width,
        reserved=platform.reserved,
        ioapics=platform.ioapics,
    )
