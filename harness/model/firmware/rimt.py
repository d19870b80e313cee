"""RIMT, the table of RISC-V IOMMUs (RISC-V IO Mapping Table specification 1.0, chapter 2).

What the specification leaves open, and what is taken here: source id ranges of one segment must not overlap; where two
do, each is taken at its word. `Number of IDs` is the number of ids, as it says, and not one less as in Arm's table;
Linux takes one id more (drivers/acpi/riscv/rimt.c, `rimt_id_map`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from harness.model.firmware.acpi import Span, path_name
from harness.model.firmware.nodes import NodeTable, array_part, offset_of, resolve, structures
from harness.model.firmware.structures import Structure, raw, u8, u16, u32, u64
from harness.model.firmware.table import Behind, collect
from harness.model.pci.aliases import requester_ids
from harness.model.pci.functions import Function
from harness.model.pci.platform import UnitPlace
from harness.model.pci.tree import PciTree
from harness.pci import Address

__all__ = [
    "IdMapping",
    "InterruptWire",
    "Rimt",
    "RimtIommu",
    "RimtNode",
    "RimtPcieRootComplex",
    "RimtPlatformDevice",
    "UnknownNode",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptWire(Structure):
    """Interrupt wire structure (RIMT 2.1.1)."""

    interrupt_number: int = u32()
    flags: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMapping(Structure):
    """ID mapping structure (RIMT 2.1.2).

    Attributes:
        source_id_base: first id as the device puts it on its bus: for PCIe the requester id.
        number_of_ids: how many.
        destination_device_id_base: the `device_id` of the first one at the IOMMU.
        destination_iommu: index of the node of the IOMMU; in the table it is an offset.
        flags: whether ATS and PRI must be on for the device to work.
    """

    source_id_base: int = u32()
    number_of_ids: int = u32()
    destination_device_id_base: int = u32()
    destination_iommu: int = u32()
    flags: int = u32()

    def device_id(self, source: int) -> int | None:
        """What a source id becomes; None where it is not in the range."""
        place = source - self.source_id_base
        return self.destination_device_id_base + place if 0 <= place < self.number_of_ids else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RimtIommu(Structure):
    """IOMMU node (RIMT 2.1.1)."""

    TYPE: ClassVar[int] = 0
    revision: int = 1
    id: int = 0
    hardware_id: bytes = raw(8)
    base_address: int = u64()
    flags: int = u32()
    proximity_domain: int = u32()
    pcie_segment_number: int = u16()
    pcie_bdf: int = u16()
    interrupt_wires: tuple[InterruptWire, ...] = ()

    @property
    def is_pcie(self) -> bool:
        """Whether it is a PCIe function; a platform device otherwise."""
        return bool(self.flags & 1)

    @property
    def place(self) -> UnitPlace:
        """Which IOMMU it is."""
        if self.is_pcie:
            return UnitPlace(function=Address.of_requester(self.pcie_bdf, self.pcie_segment_number))
        return UnitPlace(registers=self.base_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class RimtPcieRootComplex(Structure):
    """PCIe root complex node (RIMT 2.1.2)."""

    TYPE: ClassVar[int] = 1
    revision: int = 1
    id: int = 0
    flags: int = u32()
    reserved: int = u16()
    pcie_segment_number: int = u16()
    id_mappings: tuple[IdMapping, ...] = ()

    @property
    def ats_supported(self) -> bool:
        """Whether the root complex supports ATS."""
        return bool(self.flags & 1)

    @property
    def pri_supported(self) -> bool:
        """Whether the root complex supports page requests."""
        return bool(self.flags & 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RimtPlatformDevice(Structure):
    """Platform device node (RIMT 2.1.3), by the device's path in the ACPI name space."""

    TYPE: ClassVar[int] = 2
    revision: int = 1
    id: int = 0
    device_object_name: str = ""
    id_mappings: tuple[IdMapping, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownNode:
    """A node of another type, which software passes over."""

    type: int
    revision: int
    id: int
    data: bytes


RimtNode: TypeAlias = RimtIommu | RimtPcieRootComplex | RimtPlatformDevice | UnknownNode

_Known: TypeAlias = RimtIommu | RimtPcieRootComplex | RimtPlatformDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeHead(Structure):
    type: int = u8()
    revision: int = u8()
    length: int = u16()
    reserved: int = u16()
    id: int = u16()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wires(Structure):
    """Where an IOMMU node has its interrupt wires, behind its other fields."""

    number: int = u16()
    offset: int = u16()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mappings(Structure):
    """Where another node has its ID mappings."""

    offset: int = u16()
    number: int = u16()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rimt(NodeTable[RimtNode]):
    """RISC-V IO mapping table: IOMMUs, root complexes and platform devices."""

    SIGNATURE = "RIMT"
    NUMBER_BYTES = 4
    NODE_HEAD_BYTES = _NodeHead.fixed_size()
    LENGTH_AT = 2

    @property
    def units(self) -> tuple[UnitPlace, ...]:
        """The IOMMUs that it describes."""
        return tuple(node.place for node in self.nodes if isinstance(node, RimtIommu))

    def behind(self, tree: PciTree, function: Function) -> tuple[Behind, ...]:
        """The IOMMUs that it puts the function behind: none or one, more where it contradicts itself."""
        return collect(function, self._device_ids(function.address.segment, requester_ids(tree, function)))

    def behind_platform(self, name: str) -> tuple[tuple[UnitPlace, IdMapping], ...]:
        """The IOMMUs of a platform device, by its path in the name space, and how its source ids become device ids."""
        return tuple(
            (unit.place, mapping)
            for node in self.nodes
            if isinstance(node, RimtPlatformDevice) and node.device_object_name == name
            for mapping in node.id_mappings
            if isinstance(unit := self.nodes[mapping.destination_iommu], RimtIommu)
        )

    def _device_ids(self, segment: int, requesters: tuple[int, ...]) -> Iterator[tuple[UnitPlace, int]]:
        for requester in requesters:
            for node in self.nodes:
                if isinstance(node, RimtPcieRootComplex) and node.pcie_segment_number == segment:
                    for mapping in node.id_mappings:
                        unit = self.nodes[mapping.destination_iommu]
                        device_id = mapping.device_id(requester)
                        if device_id is not None and isinstance(unit, RimtIommu):
                            yield unit.place, device_id

    @staticmethod
    def _read_node(span: Span, index: Mapping[int, int]) -> RimtNode:
        """One node; the span is exactly as long as it says that it is."""
        head = span.structure(_NodeHead)
        at = _NodeHead.fixed_size()
        match head.type:
            case RimtIommu.TYPE:
                at += RimtIommu.fixed_size()
                wires = span.structure(_Wires, at)
                part = array_part(
                    span,
                    wires.offset,
                    wires.number,
                    InterruptWire.fixed_size(),
                    at + _Wires.fixed_size(),
                    "interrupt wires",
                )
                return span.structure(
                    RimtIommu,
                    _NodeHead.fixed_size(),
                    revision=head.revision,
                    id=head.id,
                    interrupt_wires=structures(part, InterruptWire),
                )
            case RimtPcieRootComplex.TYPE:
                mappings = _read_mappings(span, at + RimtPcieRootComplex.fixed_size(), 0, index)
                return span.structure(RimtPcieRootComplex, at, revision=head.revision, id=head.id, id_mappings=mappings)
            case RimtPlatformDevice.TYPE:
                name = path_name(span, at + _Mappings.fixed_size())
                mappings = _read_mappings(span, at, len(name) + 1, index)
                return RimtPlatformDevice(
                    revision=head.revision, id=head.id, device_object_name=name, id_mappings=mappings
                )
            case _:
                data = span.bytes_at(at, len(span) - at, "node")
                return UnknownNode(type=head.type, revision=head.revision, id=head.id, data=data)

    @staticmethod
    def _node_bytes(node: RimtNode, offsets: Sequence[int]) -> bytes:
        match node:
            case UnknownNode(type=type, data=body):
                pass
            case RimtIommu(TYPE=type, interrupt_wires=wires):
                at = _NodeHead.fixed_size() + RimtIommu.fixed_size() + _Wires.fixed_size()
                body = node.encode() + _Wires(number=len(wires), offset=at).encode()
                body += b"".join(wire.encode() for wire in wires)
            case RimtPcieRootComplex(TYPE=type, id_mappings=mappings):
                body = node.encode()
                body += _mapping_bytes(_NodeHead.fixed_size() + len(body), b"", mappings, offsets)
            case RimtPlatformDevice(TYPE=type, id_mappings=mappings):
                name = node.device_object_name.encode("ascii") + b"\0"
                name += bytes(-len(name) % 4)  # the array is aligned
                body = _mapping_bytes(_NodeHead.fixed_size(), name, mappings, offsets)
        head = _NodeHead(type=type, revision=node.revision, length=_NodeHead.fixed_size() + len(body), id=node.id)
        return head.encode() + body


def _read_mappings(span: Span, at: int, between: int, index: Mapping[int, int]) -> tuple[IdMapping, ...]:
    """The ID mappings that the two fields at that place lead to; `between` bytes follow those before the array."""
    where = span.structure(_Mappings, at)
    fixed = at + _Mappings.fixed_size() + between
    part = array_part(span, where.offset, where.number, IdMapping.fixed_size(), fixed, "ID mappings")
    return tuple(
        replace(
            mapping, destination_iommu=resolve(index, mapping.destination_iommu, part, number * IdMapping.fixed_size())
        )
        for number, mapping in enumerate(structures(part, IdMapping))
    )


def _mapping_bytes(at: int, between: bytes, mappings: Sequence[IdMapping], offsets: Sequence[int]) -> bytes:
    """The two fields that lead to the array, what stands between, and the array."""
    where = _Mappings(offset=at + _Mappings.fixed_size() + len(between), number=len(mappings))
    array = (
        replace(mapping, destination_iommu=offset_of(offsets, mapping.destination_iommu)).encode()
        for mapping in mappings
    )
    return where.encode() + between + b"".join(array)
