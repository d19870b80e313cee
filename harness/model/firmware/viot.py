"""VIOT, the table of paravirtual IOMMUs (ACPI 6.5, Virtual I/O Translation table).

What the specification leaves open, and what is taken here: ranges must not overlap; where two do, each is taken at its
word. A range whose end lies before its start names nothing, and neither does one whose output node is no IOMMU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from harness.model.firmware.acpi import Span
from harness.model.firmware.nodes import NodeTable, offset_of, resolve
from harness.model.firmware.structures import Structure, raw, u8, u16, u32, u64
from harness.model.firmware.table import Behind, collect
from harness.model.pci.aliases import requester_ids
from harness.model.pci.functions import Function
from harness.model.pci.platform import UnitPlace
from harness.model.pci.tree import PciTree
from harness.pci import Address

__all__ = ["MmioEndpoint", "PciRange", "UnknownNode", "Viot", "ViotNode", "VirtioIommuMmio", "VirtioIommuPci"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PciRange(Structure):
    """PCI range node: every function with segment and BDF in the ranges is an endpoint.

    Attributes:
        endpoint_start: endpoint id of the first function of the first segment.
        pci_segment_start: first segment.
        pci_segment_end: last segment.
        pci_bdf_start: first requester id in each segment.
        pci_bdf_end: last requester id in each segment.
        output_node: index of the node of the IOMMU; in the table it is an offset.
    """

    TYPE: ClassVar[int] = 1
    endpoint_start: int = u32()
    pci_segment_start: int = u16()
    pci_segment_end: int = u16()
    pci_bdf_start: int = u16()
    pci_bdf_end: int = u16()
    output_node: int = u16()
    reserved: bytes = raw(6)

    def endpoint(self, segment: int, requester: int) -> int | None:
        """The endpoint id of a requester; None where it is not in the range."""
        if not self.pci_segment_start <= segment <= self.pci_segment_end:
            return None
        if not self.pci_bdf_start <= requester <= self.pci_bdf_end:
            return None
        return (segment - self.pci_segment_start << 16) + requester - self.pci_bdf_start + self.endpoint_start


@dataclass(frozen=True, slots=True, kw_only=True)
class MmioEndpoint(Structure):
    """Single MMIO endpoint node: a platform device, by the base address of its registers."""

    TYPE: ClassVar[int] = 2
    endpoint: int = u32()
    base_address: int = u64()
    output_node: int = u16()
    reserved: bytes = raw(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioIommuPci(Structure):
    """The node of a virtio-iommu that is a PCI function."""

    TYPE: ClassVar[int] = 3
    pci_segment: int = u16()
    pci_bdf: int = u16()
    reserved: bytes = raw(8)

    @property
    def place(self) -> UnitPlace:
        """Which IOMMU it is."""
        return UnitPlace(function=Address.of_requester(self.pci_bdf, self.pci_segment))


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioIommuMmio(Structure):
    """The node of a virtio-iommu on the MMIO transport."""

    TYPE: ClassVar[int] = 4
    reserved: bytes = raw(4)
    base_address: int = u64()

    @property
    def place(self) -> UnitPlace:
        """Which IOMMU it is."""
        return UnitPlace(registers=self.base_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownNode:
    """A node of another type, which software passes over."""

    type: int
    data: bytes


ViotNode: TypeAlias = PciRange | MmioEndpoint | VirtioIommuPci | VirtioIommuMmio | UnknownNode

_Known: TypeAlias = PciRange | MmioEndpoint | VirtioIommuPci | VirtioIommuMmio
_KNOWN: Mapping[int, type[_Known]] = {
    cls.TYPE: cls for cls in (PciRange, MmioEndpoint, VirtioIommuPci, VirtioIommuMmio)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeHead(Structure):
    type: int = u8()
    reserved: int = u8()
    length: int = u16()


@dataclass(frozen=True, slots=True, kw_only=True)
class Viot(NodeTable[ViotNode]):
    """Virtual I/O translation table: endpoints and IOMMUs."""

    SIGNATURE = "VIOT"
    NUMBER_BYTES = 2
    NODE_HEAD_BYTES = _NodeHead.fixed_size()
    LENGTH_AT = 2

    @property
    def units(self) -> tuple[UnitPlace, ...]:
        """The IOMMUs that it describes."""
        return tuple(node.place for node in self.nodes if isinstance(node, VirtioIommuPci | VirtioIommuMmio))

    def behind(self, tree: PciTree, function: Function) -> tuple[Behind, ...]:
        """The IOMMUs that it puts the function behind: none or one, more where it contradicts itself."""
        return collect(function, self._endpoints(function.address.segment, requester_ids(tree, function)))

    def behind_mmio(self, base_address: int) -> tuple[UnitPlace, int] | None:
        """The IOMMU of a platform device, and its endpoint id; None where it is behind none."""
        for node in self.nodes:
            if isinstance(node, MmioEndpoint) and node.base_address == base_address:
                unit = self._unit(node.output_node)
                return None if unit is None else (unit, node.endpoint)
        return None

    def _endpoints(self, segment: int, requesters: tuple[int, ...]) -> Iterator[tuple[UnitPlace, int]]:
        for requester in requesters:
            for node in self.nodes:
                if isinstance(node, PciRange):
                    endpoint = node.endpoint(segment, requester)
                    unit = self._unit(node.output_node)
                    if endpoint is not None and unit is not None:
                        yield unit, endpoint

    def _unit(self, reference: int) -> UnitPlace | None:
        node = self.nodes[reference]
        return node.place if isinstance(node, VirtioIommuPci | VirtioIommuMmio) else None

    @staticmethod
    def _read_node(span: Span, index: Mapping[int, int]) -> ViotNode:
        """One node; the span is exactly as long as it says that it is."""
        type = span.number(0, 1, "node type")
        at = _NodeHead.fixed_size()
        cls = _KNOWN.get(type)
        if cls is None:
            return UnknownNode(type=type, data=span.bytes_at(at, len(span) - at, "node"))
        if len(span) != at + cls.fixed_size():
            raise span.bad(f"a node of type {type} with {len(span)} bytes: it has {at + cls.fixed_size()}")
        node = span.structure(cls, at)
        if isinstance(node, PciRange | MmioEndpoint):
            return replace(node, output_node=resolve(index, node.output_node, span, at))
        return node

    @staticmethod
    def _node_bytes(node: ViotNode, offsets: Sequence[int]) -> bytes:
        match node:
            case UnknownNode(type=type, data=body):
                pass
            case PciRange(TYPE=type) | MmioEndpoint(TYPE=type):
                body = replace(node, output_node=offset_of(offsets, node.output_node)).encode()
            case _:
                type = node.TYPE
                body = node.encode()
        return _NodeHead(type=type, length=_NodeHead.fixed_size() + len(body)).encode() + body
