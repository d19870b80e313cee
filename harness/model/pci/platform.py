"""A machine's IOMMUs and the functions that each of them stands before: what the firmware's tables have to tell.

This is what *is*, whoever asks: on hardware the wiring, on a virtual machine what the VMM does with a device's DMA.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import SpecError
from harness.model.pci.functions import Function
from harness.model.pci.tree import PciTree
from harness.pci import Address

__all__ = ["Platform", "ReservedRegion", "Unit", "UnitPlace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPlace:
    """Which IOMMU: by where its registers are, or by the PCI function that it is; some tables give both.

    Attributes:
        registers: physical address of its registers; None where they are found through its function's BARs.
        function: its own PCI function; None where it has none.
    """

    registers: int | None = None
    function: Address | None = None

    def is_same(self, other: UnitPlace) -> bool:
        """Whether both may name one IOMMU: nothing that both say differs, and there is something that both say."""
        both = [(self.registers, other.registers), (self.function, other.function)]
        said = [(here, there) for here, there in both if here is not None and there is not None]
        return bool(said) and all(here == there for here, there in said)

    def __str__(self) -> str:
        at = [] if self.registers is None else [f"with registers at {self.registers:#x}"]
        at += [] if self.function is None else [f"that is function {self.function}"]
        return f"the IOMMU {' and '.join(at)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One IOMMU, and what it stands before.

    Attributes:
        place: which one it is.
        table: signature of the ACPI table that describes its kind.
        segment: the PCI segment of everything that it stands before.
        root_buses: numbers of root buses: it stands before all that is on them and below.
        functions: functions: it stands before them, and before all that is below those that are bridges.
        rest: whether it stands before everything in the segment that neither another unit nor `Platform.bypass` claims.
        id_base: what is added to a requester id to make the id under which it knows the requester (an SMMU's stream
            ids, a virtio-iommu's endpoint ids).
    """

    place: UnitPlace
    table: str
    segment: int = 0
    root_buses: frozenset[int] = frozenset()
    functions: frozenset[Address] = frozenset()
    rest: bool = False
    id_base: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedRegion:
    """Memory that a device uses from the start, so that an operating system must map it one to one.

    Attributes:
        function: whose.
        base: first byte, guest physical address.
        last: last byte.
    """

    function: Address
    base: int
    last: int

    def __str__(self) -> str:
        return f"{self.base:#x}..{self.last:#x} for {self.function}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The functions, the IOMMUs, and what else their tables speak of.

    Attributes:
        tree: all PCI functions.
        units: all IOMMUs.
        bypass: root buses (segment, number) that no unit stands before, whatever it says of the rest.
        interrupt_remapping: whether interrupts are remapped; None where their kind of IOMMU has no say in it.
        address_width: bits of an address that reaches all of memory.
        reserved: regions that devices use from the start.
        ioapics: ids of the I/O APICs (MADT, I/O APIC ID).

    Raises:
        SpecError: two units claim one root bus, one function, or the rest of one segment.
    """

    tree: PciTree
    units: tuple[Unit, ...] = ()
    bypass: frozenset[tuple[int, int]] = frozenset()
    interrupt_remapping: bool | None = None
    address_width: int = 32
    reserved: frozenset[ReservedRegion] = frozenset()
    ioapics: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        claims: set[object] = {("bus", *bus) for bus in self.bypass}
        for unit in self.units:
            claimed: list[object] = [("bus", unit.segment, number) for number in unit.root_buses]
            claimed += unit.functions
            claimed += [("rest", unit.segment)] if unit.rest else []
            for claim in claimed:
                if claim in claims:
                    raise SpecError(f"{unit.place} claims what is another's, or nobody's: {claim}")
                claims.add(claim)

    def unit_of(self, function: Function) -> Unit | None:
        """The IOMMU that its DMA goes through; None for one that goes around all of them.

        The nearest claim decides: on itself (a virtual function is where its physical one is), on a bridge above it, on
        its root bus, on the rest of the segment. No IOMMU stands before itself.
        """
        unit = self._claimant(function)
        return None if unit is None or unit.place.function == function.address else unit

    def behind(self) -> frozenset[Address]:
        """Every function that some IOMMU stands before."""
        return frozenset(function.address for function in self.tree if self.unit_of(function) is not None)

    def _claimant(self, function: Function) -> Unit | None:
        units = [unit for unit in self.units if unit.segment == function.address.segment]
        own = function if function.physical is None else self.tree.function(function.physical)
        for place in (own, *self.tree.bridges_above(own)):
            for unit in units:
                if place.address in unit.functions:
                    return unit
        root = self.tree.root_of(function)
        if (root.segment, root.number) in self.bypass:
            return None
        by_bus = (unit for unit in units if root.number in unit.root_buses)
        return next(by_bus, None) or next((unit for unit in units if unit.rest), None)
