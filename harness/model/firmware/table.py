"""What the five tables have in common, for whoever asks them and does not care which it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from harness.model.pci.functions import Function
from harness.model.pci.platform import ReservedRegion, UnitPlace
from harness.model.pci.tree import PciTree

__all__ = ["Behind", "FirmwareTable", "NamesUnitsOnly", "collect"]


@dataclass(frozen=True, slots=True)
class Behind:
    """A table's word that an IOMMU stands before a function.

    Attributes:
        unit: which one.
        ids: under which ids that one knows the requests of the function: source ids, device ids, stream ids, endpoint
            ids.
    """

    unit: UnitPlace
    ids: frozenset[int]


class FirmwareTable(Protocol):
    """One table, read. Where a property is None it is not for that kind of table to say."""

    @property
    def units(self) -> tuple[UnitPlace, ...]:
        """The IOMMUs that it describes."""
        ...

    @property
    def interrupt_remapping(self) -> bool | None:
        """Whether it says that interrupts are remapped."""
        ...

    @property
    def physical_address_bits(self) -> int | None:
        """Bits of a physical address, as it gives them."""
        ...

    @property
    def ioapics(self) -> frozenset[int] | None:
        """Ids of the I/O APICs that it puts behind an IOMMU."""
        ...

    def behind(self, tree: PciTree, function: Function) -> tuple[Behind, ...]:
        """The IOMMUs that it puts the function behind: none or one, more where it contradicts itself.

        No IOMMU is behind itself, also where a range includes it: software does not translate for it (Linux,
        drivers/acpi/viot.c, `viot_dev_iommu_init`; drivers/iommu/amd/init.c, `init_iommu_one`).
        """
        ...

    def reserved(self, tree: PciTree) -> frozenset[ReservedRegion] | None:
        """The regions that functions use from the start; None: it is not for this kind of table to say."""
        ...

    def encode(self) -> bytes:
        """The whole table."""
        ...


class NamesUnitsOnly:
    """What a table says that tells IOMMUs and what they stand before, and nothing of the platform as a whole."""

    __slots__ = ()

    @property
    def interrupt_remapping(self) -> bool | None:
        """Nothing is said."""
        return None

    @property
    def physical_address_bits(self) -> int | None:
        """Nothing is said."""
        return None

    @property
    def ioapics(self) -> frozenset[int] | None:
        """Nothing is said."""
        return None

    def reserved(self, tree: PciTree) -> frozenset[ReservedRegion] | None:
        """Nothing is said."""
        return None


def collect(function: Function, found: Iterable[tuple[UnitPlace, int]]) -> tuple[Behind, ...]:
    """Ids gathered by unit, in the order in which the units come, without the one that is the function itself."""
    ids: dict[UnitPlace, set[int]] = {}
    for unit, id in found:
        if unit.function != function.address:
            ids.setdefault(unit, set()).add(id)
    return tuple(Behind(unit, frozenset(known)) for unit, known in ids.items())
