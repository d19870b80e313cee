"""Tables that are an array of nodes which point at each other by offset: IORT, VIOT and RIMT.

Read, a reference is the index of the node that it points at; written, it becomes its offset again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Generic, Self, TypeVar

from harness.errors import SpecError
from harness.model.firmware.acpi import HARNESS_HEADER, HEADER_BYTES, Span, TableHeader, close_table, open_table
from harness.model.firmware.structures import Structure, fits
from harness.model.firmware.table import NamesUnitsOnly

__all__ = ["NodeTable", "array_part", "offset_of", "resolve", "structures"]

_NodeT = TypeVar("_NodeT")
_StructureT = TypeVar("_StructureT", bound=Structure)
_HEAD_BYTES = 12
_FIRST_NODE = HEADER_BYTES + _HEAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTable(NamesUnitsOnly, ABC, Generic[_NodeT]):
    """A table that is an array of nodes.

    Between the ACPI header and the nodes stand twelve bytes: how many nodes there are, the offset of the first one, and
    zeroes.

    Attributes:
        SIGNATURE: of the table.
        NUMBER_BYTES: how wide these two numbers are.
        NODE_HEAD_BYTES: what every node starts with.
        LENGTH_AT: offset within a node of its length, two bytes.
        nodes: in their order.
        header: of the table.
    """

    SIGNATURE: ClassVar[str]
    NUMBER_BYTES: ClassVar[int]
    NODE_HEAD_BYTES: ClassVar[int]
    LENGTH_AT: ClassVar[int]

    nodes: tuple[_NodeT, ...] = ()
    header: TableHeader = HARNESS_HEADER

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the table.

        Raises:
            BadTable: it is broken; the message says where.
        """
        header, whole = open_table(data, cls.SIGNATURE)
        head = whole.part(HEADER_BYTES, _HEAD_BYTES, "head")
        count = head.number(0, cls.NUMBER_BYTES, "number of nodes")
        first = head.number(cls.NUMBER_BYTES, cls.NUMBER_BYTES, "offset of the nodes")
        if count and first < _FIRST_NODE:
            raise whole.bad(f"the nodes start at {first:#x}, within the {_FIRST_NODE:#x} bytes before them")
        spans = tuple(cls._spans(whole, first, count))
        index = {span.start: number for number, span in enumerate(spans)}
        return cls(nodes=tuple(cls._read_node(span, index) for span in spans), header=header)

    def encode(self) -> bytes:
        """The whole table.

        Raises:
            SpecError: a value does not fit its field, or a reference leads to no node.
        """
        numbers = (fits(number, self.NUMBER_BYTES, "number of nodes") for number in (len(self.nodes), _FIRST_NODE))
        head = b"".join(numbers).ljust(_HEAD_BYTES, b"\0")
        # How long a node is does not depend on where the others are.
        lengths = [len(self._node_bytes(node, [0] * len(self.nodes))) for node in self.nodes]
        offsets = list(accumulate(lengths, initial=_FIRST_NODE))[:-1]
        return close_table(
            self.SIGNATURE, self.header, head + b"".join(self._node_bytes(node, offsets) for node in self.nodes)
        )

    @staticmethod
    @abstractmethod
    def _read_node(span: Span, index: Mapping[int, int]) -> _NodeT:
        """One node from its bytes; `index` is that of every node by its offset."""

    @staticmethod
    @abstractmethod
    def _node_bytes(node: _NodeT, offsets: Sequence[int]) -> bytes:
        """The bytes of one node, given the offsets of all; how many they are must not depend on these."""

    @classmethod
    def _spans(cls, whole: Span, first: int, count: int) -> Iterator[Span]:
        """The bytes of each node: exactly as many as it says that it has."""
        at = first
        for _ in range(count):
            length = whole.number(at + cls.LENGTH_AT, 2, "node length")
            if length < cls.NODE_HEAD_BYTES:
                raise whole.bad(f"a node of {length} bytes: its header alone has {cls.NODE_HEAD_BYTES}", at)
            yield whole.part(at, length, "node")
            at += length


def resolve(nodes: Mapping[int, int], offset: int, span: Span, at: int) -> int:
    """The index of the node that a reference points at.

    Args:
        nodes: index of each node by its offset.
        offset: the reference.
        span: where it stands, for the message.
        at: offset within that.

    Raises:
        BadTable: no node starts there.
    """
    try:
        return nodes[offset]
    except KeyError:
        raise span.bad(f"points at {offset:#x}, where no node starts", at) from None


def array_part(span: Span, at: int, count: int, each: int, fixed: int, what: str) -> Span:
    """The bytes of an array within a node.

    Raises:
        BadTable: it lies outside of the node, or over the fields before it.
    """
    if not count:
        return span.part(len(span), 0, what)
    if at < fixed:
        raise span.bad(f"{what} at {at:#x} of a node whose fields take {fixed:#x} bytes")
    return span.part(at, count * each, what)


def structures(part: Span, cls: type[_StructureT]) -> tuple[_StructureT, ...]:
    """What an array of structures holds."""
    return tuple(part.structure(cls, at) for at in range(0, len(part), cls.fixed_size()))


def offset_of(offsets: Sequence[int], reference: int) -> int:
    """The offset of the node with that index.

    Raises:
        SpecError: there is no such node.
    """
    if not 0 <= reference < len(offsets):
        raise SpecError(f"a reference to node {reference} of {len(offsets)}")
    return offsets[reference]
