"""Tables that are an array of nodes which point at each other by offset: IORT, VIOT and RIMT.

Read, a reference is the index of the node that it points at; written, it becomes its offset again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from harness.errors import SpecError
from harness.model.firmware.acpi import Span

__all__ = ["array_part", "offset_of", "read_nodes", "resolve", "write_nodes"]

_NodeT = TypeVar("_NodeT")


def read_nodes(whole: Span, *, count: int, first: int, head: int, smallest: int, length_at: int) -> tuple[Span, ...]:
    """The bytes of each node.

    Args:
        whole: the table.
        count: how many nodes there are.
        first: offset of the first one.
        head: offset before which there is none.
        smallest: bytes that each has at least.
        length_at: offset within a node of its length, two bytes.

    Raises:
        BadTable: nodes outside of the table, or shorter than their header.
    """
    if count and first < head:
        raise whole.bad(f"the nodes start at {first:#x}, within the {head:#x} bytes before them")
    nodes = []
    at = first
    for _ in range(count):
        length = whole.number(at + length_at, 2, "node length")
        if length < smallest:
            raise whole.bad(f"a node of {length} bytes: its header alone has {smallest}", at)
        nodes.append(whole.part(at, length, "node"))
        at += length
    return tuple(nodes)


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


def write_nodes(nodes: Sequence[_NodeT], first: int, encode: Callable[[_NodeT, Sequence[int]], bytes]) -> bytes:
    """All nodes, one behind the other.

    Args:
        nodes: what to write.
        first: offset of the first one.
        encode: writes one, given the offsets of all; its length must not depend on them.
    """
    lengths = [len(encode(node, [0] * len(nodes))) for node in nodes]
    offsets = list(accumulate(lengths, initial=first))[:-1]
    return b"".join(encode(node, offsets) for node in nodes)


def offset_of(offsets: Sequence[int], reference: int) -> int:
    """The offset of the node with that index.

    Raises:
        SpecError: there is no such node.
    """
    if not 0 <= reference < len(offsets):
        raise SpecError(f"a reference to node {reference} of {len(offsets)}")
    return offsets[reference]
