"""The nodes of an IORT and their bytes (Arm DEN 0049). Their meaning is in `harness.model.firmware.iort`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from harness.model.firmware.acpi import Span, path_name
from harness.model.firmware.nodes import array_part, offset_of, resolve, structures
from harness.model.firmware.structures import Structure, fits, u8, u16, u32, u64
from harness.model.pci.platform import UnitPlace

__all__ = [
    "NODE_HEAD_BYTES",
    "IdMapping",
    "IortNode",
    "ItsGroup",
    "MemoryRange",
    "NamedComponent",
    "OtherNode",
    "Pmcg",
    "ReservedMemoryRange",
    "RootComplex",
    "SmmuV3",
    "node_bytes",
    "read_node",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMapping(Structure):
    """ID mapping (DEN 0049, ID mapping format).

    Attributes:
        input_base: first id of the range.
        number_of_ids: ids in the range less one.
        output_base: what the first one becomes.
        output_reference: index of the node that it goes to; in the table it is an offset.
        flags: bit 0, single mapping: the one id of the component becomes `output_base`, whatever it is.
    """

    input_base: int = u32()
    number_of_ids: int = u32()
    output_base: int = u32()
    output_reference: int = u32()
    flags: int = u32()

    @property
    def single(self) -> bool:
        """The single mapping flag."""
        return bool(self.flags & 1)

    def output(self, id: int) -> int | None:
        """What an id becomes; None where it is not in the range."""
        if self.single:
            return self.output_base
        place = id - self.input_base
        return self.output_base + place if 0 <= place <= self.number_of_ids else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What every node has beside its own fields.

    Attributes:
        revision: of the node.
        identifier: of the node, unique.
        mappings: its ID mappings.
        rest: what a later revision has put behind the fields that are known here.
    """

    revision: int = 0
    identifier: int = 0
    mappings: tuple[IdMapping, ...] = ()
    rest: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItsGroup(_Common):
    """ITS group node: interrupt translation services, by their ids in the MADT."""

    TYPE: ClassVar[int] = 0
    its_identifiers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedComponent(_Common, Structure):
    """Named component node: a platform device, by its path in the ACPI name space."""

    TYPE: ClassVar[int] = 1
    node_flags: int = u32()
    memory_access_properties: int = u64()
    device_memory_address_size_limit: int = u8()
    device_object_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootComplex(_Common, Structure):
    """Root complex node: everything in a PCI segment whose ids it maps."""

    TYPE: ClassVar[int] = 2
    memory_access_properties: int = u64()
    ats_attribute: int = u32()
    pci_segment_number: int = u32()
    memory_address_size_limit: int = u8()
    pasid_capabilities: int = u16()
    reserved: int = u8()

    @property
    def ats_supported(self) -> bool:
        """Whether the root complex supports ATS."""
        return bool(self.ats_attribute & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmmuV3(_Common, Structure):
    """SMMUv3 node."""

    TYPE: ClassVar[int] = 4
    base_address: int = u64()
    flags: int = u32()
    reserved: int = u32()
    vatos_address: int = u64()
    model: int = u32()
    event: int = u32()
    pri: int = u32()
    gerr: int = u32()
    sync: int = u32()
    proximity_domain: int = u32()
    device_id_mapping_index: int = u32()

    @property
    def place(self) -> UnitPlace:
        """Which IOMMU it is."""
        return UnitPlace(registers=self.base_address)

    @property
    def own_mapping(self) -> int | None:
        """Index of the mapping that is for the SMMU's own MSIs and no stream's; None where it makes none.

        From node revision 5 on a flag says whether the field is valid; before that it was where not all four interrupts
        are wired, and in revision 0 there was no such field.
        """
        if self.revision >= 5:
            return self.device_id_mapping_index if self.flags >> 4 & 1 else None
        wired = all((self.event, self.pri, self.gerr, self.sync))
        return self.device_id_mapping_index if self.revision >= 1 and not wired else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pmcg(_Common, Structure):
    """PMCG node: performance counters.

    Attributes:
        page_0_base_address: of its registers.
        overflow_interrupt_gsiv: its interrupt.
        node_reference: index of the node that it counts for; in the table it is an offset.
        page_1_base_address: of its registers.
    """

    TYPE: ClassVar[int] = 5
    page_0_base_address: int = u64()
    overflow_interrupt_gsiv: int = u32()
    node_reference: int = u32()
    page_1_base_address: int = u64()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRange(Structure):
    """Memory range descriptor of an RMR node: base and length in bytes."""

    physical_range_offset: int = u64()
    physical_range_length: int = u64()
    reserved: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedMemoryRange(_Common):
    """RMR node: memory that the streams which it maps use from the start.

    Attributes:
        flags: remapping permitted, access privilege, access attributes.
        memory_ranges: the memory.
    """

    TYPE: ClassVar[int] = 6
    flags: int = 0
    memory_ranges: tuple[MemoryRange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherNode(_Common):
    """A node of a type that is not looked into: SMMUv1 and v2 (3), IWB (7), what is to come. `rest` has its fields."""

    type: int


IortNode: TypeAlias = ItsGroup | NamedComponent | RootComplex | SmmuV3 | Pmcg | ReservedMemoryRange | OtherNode


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeHead(Structure):
    type: int = u8()
    length: int = u16()
    revision: int = u8()
    identifier: int = u32()
    number_of_id_mappings: int = u32()
    reference_to_id_array: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True)
class _RmrHead(Structure):
    flags: int = u32()
    number_of_ranges: int = u32()
    reference_to_ranges: int = u32()


NODE_HEAD_BYTES = _NodeHead.fixed_size()


def read_node(span: Span, index: Mapping[int, int]) -> IortNode:
    """One node.

    Args:
        span: its bytes, exactly as long as it says that it is.
        index: of every node by its offset.

    Raises:
        BadTable: it is broken.
    """
    head = span.structure(_NodeHead)
    mappings = array_part(
        span,
        head.reference_to_id_array,
        head.number_of_id_mappings,
        IdMapping.fixed_size(),
        NODE_HEAD_BYTES,
        "ID mappings",
    )
    # Whatever the node has of its own stands before its ID mappings, or has the whole node.
    own = span.part(0, mappings.start - span.start, "fields")
    common: dict[str, Any] = {
        "revision": head.revision,
        "identifier": head.identifier,
        "mappings": tuple(_read_mapping(mappings, at, index) for at in range(0, len(mappings), IdMapping.fixed_size())),
    }

    def rest(at: int) -> bytes:
        return own.bytes_at(at, len(own) - at, "node")

    match head.type:
        case ItsGroup.TYPE:
            count = own.number(NODE_HEAD_BYTES, 4, "number of ITSs")
            part = own.part(NODE_HEAD_BYTES + 4, 4 * count, "ITS identifiers")
            its = tuple(part.number(at, 4, "ITS identifier") for at in range(0, len(part), 4))
            return ItsGroup(**common, its_identifiers=its, rest=rest(NODE_HEAD_BYTES + 4 + len(part)))
        case NamedComponent.TYPE:
            end = NODE_HEAD_BYTES + NamedComponent.fixed_size()
            name = path_name(own, end)
            node = own.structure(NamedComponent, NODE_HEAD_BYTES, **common, device_object_name=name)
            return replace(node, rest=rest(end + len(name) + 1))
        case RootComplex.TYPE:
            root = own.structure(RootComplex, NODE_HEAD_BYTES, **common)
            return replace(root, rest=rest(NODE_HEAD_BYTES + RootComplex.fixed_size()))
        case SmmuV3.TYPE:
            smmu = own.structure(SmmuV3, NODE_HEAD_BYTES, **common)
            return replace(smmu, rest=rest(NODE_HEAD_BYTES + SmmuV3.fixed_size()))
        case Pmcg.TYPE:
            pmcg = own.structure(Pmcg, NODE_HEAD_BYTES, **common)
            counts_for = resolve(index, pmcg.node_reference, own, NODE_HEAD_BYTES)
            return replace(pmcg, node_reference=counts_for, rest=rest(NODE_HEAD_BYTES + Pmcg.fixed_size()))
        case ReservedMemoryRange.TYPE:
            return _read_rmr(own, common)
        case _:
            return OtherNode(**common, type=head.type, rest=rest(NODE_HEAD_BYTES))


def _read_rmr(own: Span, common: dict[str, Any]) -> ReservedMemoryRange:
    head = own.structure(_RmrHead, NODE_HEAD_BYTES)
    fixed = NODE_HEAD_BYTES + _RmrHead.fixed_size()
    part = array_part(
        own, head.reference_to_ranges, head.number_of_ranges, MemoryRange.fixed_size(), fixed, "memory ranges"
    )
    between = own.bytes_at(fixed, part.start - own.start - fixed, "node")
    return ReservedMemoryRange(**common, flags=head.flags, memory_ranges=structures(part, MemoryRange), rest=between)


def _read_mapping(mappings: Span, at: int, index: Mapping[int, int]) -> IdMapping:
    mapping = mappings.structure(IdMapping, at)
    return replace(mapping, output_reference=resolve(index, mapping.output_reference, mappings, at))


def node_bytes(node: IortNode, offsets: Sequence[int]) -> bytes:
    """One node, given the offsets of all.

    Raises:
        SpecError: a value does not fit its field, or a reference leads to no node.
    """
    match node:
        case ItsGroup(TYPE=type, its_identifiers=identifiers):
            own = b"".join(fits(number, 4, "its_identifiers") for number in (len(identifiers), *identifiers))
        case NamedComponent(TYPE=type, device_object_name=name):
            own = node.encode() + name.encode("ascii") + b"\0"
        case Pmcg(TYPE=type):
            own = replace(node, node_reference=offset_of(offsets, node.node_reference)).encode()
        case ReservedMemoryRange(TYPE=type, memory_ranges=ranges):
            at = NODE_HEAD_BYTES + _RmrHead.fixed_size() + len(node.rest)
            own = _RmrHead(flags=node.flags, number_of_ranges=len(ranges), reference_to_ranges=at).encode()
        case OtherNode(type=type):
            own = b""
        case _:
            type = node.TYPE
            own = node.encode()
    own += node.rest
    if isinstance(node, ReservedMemoryRange):
        own += b"".join(memory.encode() for memory in node.memory_ranges)
    mappings = b"".join(
        replace(mapping, output_reference=offset_of(offsets, mapping.output_reference)).encode()
        for mapping in node.mappings
    )
    head = _NodeHead(
        type=type,
        length=NODE_HEAD_BYTES + len(own) + len(mappings),
        revision=node.revision,
        identifier=node.identifier,
        number_of_id_mappings=len(node.mappings),
        reference_to_id_array=NODE_HEAD_BYTES + len(own) if mappings else 0,
    )
    return head.encode() + own + mappings
