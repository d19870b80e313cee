"""IORT, the table of Arm's SMMUs and interrupt translation services (Arm DEN 0049, IO Remapping Table).

Ids are mapped from node to node: a root complex or a named component to an SMMU, which makes stream ids of them, or to
an ITS group past all SMMUs; an SMMU to an ITS group, which makes device ids of them.

What the specification leaves open, and what is taken here:

- More than one root complex node may have the same segment; one whose mappings have the id counts.
- Ranges must not overlap; where two do, the first counts. Linux takes the second where an id is the last of one range
  and the first of another, for tables whose `Number of IDs` is not one less as it must be
  (drivers/acpi/arm64/iort.c, `iort_id_map`); that is not followed.
- Nodes that map to each other in a circle lead nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.model.firmware.iort_nodes import (
    NODE_HEAD_BYTES,
    IortNode,
    ItsGroup,
    NamedComponent,
    ReservedMemoryRange,
    RootComplex,
    SmmuV3,
    node_bytes,
    read_node,
)
from harness.model.firmware.nodes import NodeTable
from harness.model.firmware.table import Behind, collect
from harness.model.pci.aliases import requester_ids
from harness.model.pci.functions import Function
from harness.model.pci.platform import ReservedRegion, UnitPlace
from harness.model.pci.tree import PciTree

__all__ = ["Iort"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Iort(NodeTable[IortNode]):
    """IO remapping table."""

    SIGNATURE = "IORT"
    NUMBER_BYTES = 4
    NODE_HEAD_BYTES = NODE_HEAD_BYTES
    LENGTH_AT = 1
    _read_node = staticmethod(read_node)
    _node_bytes = staticmethod(node_bytes)

    @property
    def units(self) -> tuple[UnitPlace, ...]:
        """The SMMUs that it describes."""
        return tuple(node.place for node in self.nodes if isinstance(node, SmmuV3))

    def behind(self, tree: PciTree, function: Function) -> tuple[Behind, ...]:
        """The SMMUs that it puts the function behind: none or one, more where it contradicts itself."""
        return collect(function, self._stream_ids(function.address.segment, requester_ids(tree, function)))

    def reserved(self, tree: PciTree) -> frozenset[ReservedRegion]:
        """The memory of RMR nodes, for each function whose stream ids they have."""
        return frozenset(
            ReservedRegion(
                function=function.address,
                base=memory.physical_range_offset,
                last=memory.physical_range_offset + memory.physical_range_length - 1,
            )
            for function in tree
            for place, stream in self._stream_ids(function.address.segment, requester_ids(tree, function))
            for node in self.nodes
            if isinstance(node, ReservedMemoryRange) and self._has_stream(node, place, stream)
            for memory in node.memory_ranges
        )

    def interrupts_of(self, segment: int, requester: int) -> tuple[ItsGroup, int] | None:
        """The ITS group that a PCI requester's MSIs go to, and its device id there; None where there is none."""
        for node in self.nodes:
            if isinstance(node, RootComplex) and node.pci_segment_number == segment:
                found = self._map(node, requester, lambda node: isinstance(node, ItsGroup))
                if found is not None and isinstance(found[0], ItsGroup):
                    return found[0], found[1]
        return None

    def behind_component(self, name: str) -> tuple[tuple[UnitPlace, int], ...]:
        """The SMMUs of a platform device, by its path in the name space, and its stream ids there.

        A component with single mappings has one id for each (DEN 0049, named component node).
        """
        return tuple(
            (unit.place, mapping.output_base)
            for node in self.nodes
            if isinstance(node, NamedComponent) and node.device_object_name == name
            for mapping in node.mappings
            if mapping.single and isinstance(unit := self.nodes[mapping.output_reference], SmmuV3)
        )

    def _stream_ids(self, segment: int, requesters: tuple[int, ...]) -> Iterator[tuple[UnitPlace, int]]:
        for requester in requesters:
            for node in self.nodes:
                if isinstance(node, RootComplex) and node.pci_segment_number == segment:
                    found = self._map(node, requester, lambda node: isinstance(node, SmmuV3))
                    if found is not None and isinstance(found[0], SmmuV3):
                        yield found[0].place, found[1]

    def _map(self, node: IortNode, id: int, wanted: Callable[[IortNode], bool]) -> tuple[IortNode, int] | None:
        """Follow the mappings from a node until one of the wanted kind."""
        for _ in self.nodes:  # a way that is longer goes in a circle
            if wanted(node):
                return node, id
            own = node.own_mapping if isinstance(node, SmmuV3) else None
            for number, mapping in enumerate(node.mappings):
                if number != own and not (mapping.single and isinstance(node, SmmuV3)):
                    output = mapping.output(id)
                    if output is not None:
                        node, id = self.nodes[mapping.output_reference], output
                        break
            else:
                return None
        return (node, id) if wanted(node) else None

    def _has_stream(self, node: ReservedMemoryRange, place: UnitPlace, stream: int) -> bool:
        """Whether the memory is for that stream of that SMMU."""
        return any(
            isinstance(unit := self.nodes[mapping.output_reference], SmmuV3)
            and unit.place == place
            and 0 <= stream - mapping.output_base <= mapping.number_of_ids
            for mapping in node.mappings
        )
