"""DMAR, the table of VT-d remapping units (VT-d chapter 8, BIOS considerations).

What the specification leaves open, and what is taken here: where a function is named by more than one unit, as its own
device scope and as part of a sub-hierarchy, the nearest scope decides; INCLUDE_PCI_ALL comes last (8.3). A path starts
on a bus of a host bridge (8.3.1); Linux's way of putting up with one that starts elsewhere (drivers/iommu/intel/dmar.c,
`dmar_match_pci_path`) is not followed. Virtual functions are where their physical function is (8.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from harness.model.firmware.acpi import (
    HARNESS_HEADER,
    HEADER_BYTES,
    TableHeader,
    close_table,
    open_table,
)
from harness.model.firmware.dmar_structures import (
    Andd,
    Atsr,
    DeviceScope,
    DmarStructure,
    Drhd,
    Rhsa,
    Rmrr,
    Satc,
    Scoped,
    ScopeType,
    read_structure,
    structure_bytes,
)
from harness.model.firmware.structures import Structure, raw, u8
from harness.model.firmware.table import Behind
from harness.model.pci.aliases import requester_ids
from harness.model.pci.functions import Function, PortType
from harness.model.pci.platform import ReservedRegion, UnitPlace
from harness.model.pci.tree import PciTree

__all__ = ["Dmar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head(Structure):
    """What stands between the ACPI header and the remapping structures (VT-d 8.1)."""

    host_address_width: int = u8()
    flags: int = u8()
    reserved: bytes = raw(10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dmar:
    """DMA remapping reporting structure (VT-d 8.1).

    Attributes:
        host_address_width: one less than the bits of a physical address.
        flags: INTR_REMAP, X2APIC_OPT_OUT, DMA_CTRL_PLATFORM_OPT_IN_FLAG.
        structures: the remapping structures, in their order.
        reserved_bytes: what stands behind the flags.
        header: of the table.
    """

    SIGNATURE: ClassVar[str] = "DMAR"

    host_address_width: int
    flags: int = 0
    structures: tuple[DmarStructure, ...] = ()
    reserved_bytes: bytes = bytes(10)
    header: TableHeader = HARNESS_HEADER

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the table.

        Raises:
            BadTable: it is broken; the message says where.
        """
        header, whole = open_table(data, cls.SIGNATURE)
        head = whole.structure(_Head, HEADER_BYTES)
        structures = []
        at = HEADER_BYTES + _Head.fixed_size()
        while at < len(whole):
            type = whole.number(at, 2, "remapping structure type")
            length = whole.number(at + 2, 2, "remapping structure length")
            if length < 4:
                raise whole.bad(f"a remapping structure of {length} bytes: type and length alone take 4", at)
            structures.append(read_structure(type, whole.part(at, length, "remapping structure")))
            at += length
        return cls(
            host_address_width=head.host_address_width,
            flags=head.flags,
            structures=tuple(structures),
            reserved_bytes=head.reserved,
            header=header,
        )

    def encode(self) -> bytes:
        """The whole table.

        Raises:
            SpecError: a value does not fit its field.
        """
        head = _Head(host_address_width=self.host_address_width, flags=self.flags, reserved=self.reserved_bytes)
        return close_table(self.SIGNATURE, self.header, head.encode() + b"".join(map(structure_bytes, self.structures)))

    @property
    def units(self) -> tuple[UnitPlace, ...]:
        """The IOMMUs that it describes."""
        return tuple(unit.place for unit in self.drhds)

    @property
    def drhds(self) -> tuple[Drhd, ...]:
        """The structures that describe IOMMUs."""
        return tuple(structure for structure in self.structures if isinstance(structure, Drhd))

    @property
    def interrupt_remapping(self) -> bool:
        """INTR_REMAP: the platform can remap interrupts."""
        return bool(self.flags & 1)

    @property
    def x2apic_opt_out(self) -> bool:
        """X2APIC_OPT_OUT: the firmware asks that x2APIC mode is left off."""
        return bool(self.flags & 2)

    @property
    def dma_ctrl_platform_opt_in(self) -> bool:
        """DMA_CTRL_PLATFORM_OPT_IN_FLAG: the firmware keeps devices from memory until software takes over."""
        return bool(self.flags & 4)

    @property
    def physical_address_bits(self) -> int:
        """Bits of a physical address; the field holds one less."""
        return self.host_address_width + 1

    @property
    def ioapics(self) -> frozenset[int]:
        """I/O APIC ids in the scopes of units. With INTR_REMAP every I/O APIC must be among them (VT-d 8.3.1.1)."""
        return frozenset(self.sources(ScopeType.IOAPIC))

    def sources(self, type: ScopeType) -> Mapping[int, tuple[UnitPlace, int | None]]:
        """I/O APICs, HPETs or name-space devices by number: the unit, and the source id that their requests carry.

        An I/O APIC or HPET need not be a function that anybody can find, so a path of one step is taken as it stands.
        The source id is None for a longer one, which only a tree could follow.
        """
        return {
            scope.enumeration_id: (unit.place, _source_id(scope))
            for unit in self.drhds
            for scope in unit.device_scopes
            if scope.type == type
        }

    def namespace_devices(self) -> Mapping[str, tuple[UnitPlace, int | None]]:
        """ACPI devices that make requests without being PCI functions, by their path in the name space (VT-d 8.7)."""
        sources = self.sources(ScopeType.ACPI_NAMESPACE_DEVICE)
        return {
            declared.acpi_object_name: sources[declared.acpi_device_number]
            for declared in self.structures
            if isinstance(declared, Andd) and declared.acpi_device_number in sources
        }

    def proximity_domain(self, unit: UnitPlace) -> int | None:
        """The memory that is near to a unit; None where the table does not say."""
        for structure in self.structures:
            if isinstance(structure, Rhsa) and structure.register_base_address == unit.registers:
                return structure.proximity_domain
        return None

    def behind(self, tree: PciTree, function: Function) -> tuple[Behind, ...]:
        """The units that it puts the function behind: none or one, more where it contradicts itself."""
        ids = frozenset(requester_ids(tree, function))
        physical = _physical(tree, function)
        units = [unit for unit in self.drhds if unit.segment_number == function.address.segment]
        for place in (physical, *tree.bridges_above(physical)):
            named = [unit for unit in units if _names(tree, unit, place, below=place is not physical)]
            if named:
                break
        else:
            named = [unit for unit in units if unit.include_pci_all]
        return tuple(Behind(unit, ids) for unit in dict.fromkeys(unit.place for unit in named))

    def reserved(self, tree: PciTree) -> frozenset[ReservedRegion]:
        """The regions of RMRR structures, for each function in their scopes (VT-d 8.4)."""
        return frozenset(
            ReservedRegion(
                function=function.address,
                base=region.reserved_memory_region_base_address,
                last=region.reserved_memory_region_limit_address,
            )
            for region in self.structures
            if isinstance(region, Rmrr)
            for function in tree
            if _in_scope(tree, region, function)
        )

    def may_use_ats(self, tree: PciTree, function: Function) -> bool:
        """Whether the platform lets the function cache translations.

        A function of the root complex may. One below a root port may where the port is listed, or all are (VT-d 8.5).
        What is below a bridge to conventional PCI has no ATS (PCIe 5.0, 10.1).
        """
        physical = _physical(tree, function)
        for bridge in tree.bridges_above(physical):
            if bridge.port_type in (None, PortType.PCIE_TO_PCI_BRIDGE):
                return False
            if bridge.port_type is PortType.ROOT_PORT:
                return any(
                    listing.all_ports or _names(tree, listing, bridge, below=False)
                    for listing in self.structures
                    if isinstance(listing, Atsr) and listing.segment_number == function.address.segment
                )
        return True

    def needs_ats(self, tree: PciTree, function: Function) -> bool:
        """Whether the function only works with its address translation cache (VT-d 8.8, ATC_REQUIRED)."""
        return any(
            listing.atc_required and _in_scope(tree, listing, function)
            for listing in self.structures
            if isinstance(listing, Satc)
        )


def _source_id(scope: DeviceScope) -> int | None:
    if len(scope.path) != 1:
        return None
    device, function = scope.path[0]
    return scope.start_bus_number << 8 | (device & 0x1F) << 3 | function & 7


def _physical(tree: PciTree, function: Function) -> Function:
    return function if function.physical is None else tree.function(function.physical)


def _names(tree: PciTree, structure: Scoped, place: Function, *, below: bool) -> bool:
    """Whether a scope names that place: with `below`, so that what is below it is named too."""
    return any(
        tree.follow(structure.segment_number, scope.start_bus_number, scope.path) == place
        for scope in structure.device_scopes
        if scope.type == ScopeType.PCI_SUB_HIERARCHY or (scope.type == ScopeType.PCI_ENDPOINT_DEVICE and not below)
    )


def _in_scope(tree: PciTree, structure: Scoped, function: Function) -> bool:
    if structure.segment_number != function.address.segment:
        return False
    physical = _physical(tree, function)
    places = (physical, *tree.bridges_above(physical))
    return any(_names(tree, structure, place, below=place is not physical) for place in places)
