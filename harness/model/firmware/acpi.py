"""What every ACPI table has: its header, its checksum, and bounds that nothing in it may lie outside of.

Source: ACPI 6.5, 5.2.6 (system description table header).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from harness.errors import HarnessError
from harness.model.firmware.structures import Structure, fits, raw, u8, u32
from harness.verdict import Verdict

__all__ = [
    "HARNESS_HEADER",
    "HEADER_BYTES",
    "BadTable",
    "Span",
    "TableHeader",
    "close_table",
    "open_table",
    "path_name",
]

_StructureT = TypeVar("_StructureT", bound=Structure)


class BadTable(HarnessError):
    """A table that is broken: nothing that stands in it can be relied on. A finding about what is tested.

    Attributes:
        signature: of the table.
        offset: where in it, bytes.
    """

    verdict = Verdict.FAIL

    def __init__(self, signature: str, offset: int, what: str) -> None:
        super().__init__(f"{signature} at offset {offset:#x}: {what}")
        self.signature = signature
        self.offset = offset


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHeader(Structure):
    """The header without what the rest of the table decides: signature, length, checksum."""

    revision: int = u8(1)
    oem_id: bytes = raw(6, b"HARNES")
    oem_table_id: bytes = raw(8, b"VIOMMU  ")
    oem_revision: int = u32(1)
    creator_id: bytes = raw(4, b"VIOM")
    creator_revision: int = u32(1)


HARNESS_HEADER = TableHeader()
HEADER_BYTES = 36
_CHECKSUM = 9


@dataclass(frozen=True, slots=True)
class Span:
    """A run of a table's bytes that nothing is read outside of.

    Attributes:
        signature: of the table.
        data: the whole table.
        start: offset of the first byte of the run.
        end: offset behind its last.
    """

    signature: str
    data: bytes
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def bad(self, what: str, at: int = 0) -> BadTable:
        """The error that names a place, `at` bytes from the start."""
        return BadTable(self.signature, self.start + at, what)

    def bytes_at(self, at: int, size: int, what: str) -> bytes:
        """`size` bytes, `at` bytes from the start.

        Raises:
            BadTable: they are not all there.
        """
        if not 0 <= at <= at + size <= len(self):
            place = f"{what} of {size} bytes at {self.start + at:#x} ends behind {self.end:#x}"
            raise self.bad(place, min(at, len(self)))
        return self.data[self.start + at : self.start + at + size]

    def number(self, at: int, size: int, what: str) -> int:
        """A little-endian number. Raises as `bytes_at` does."""
        return int.from_bytes(self.bytes_at(at, size, what), "little")

    def structure(self, cls: type[_StructureT], at: int = 0, **others: object) -> _StructureT:
        """The structure at that place. Raises as `bytes_at` does."""
        return cls.decode(self.bytes_at(at, cls.fixed_size(), cls.__name__), **others)

    def part(self, at: int, size: int, what: str) -> Span:
        """A part of the run. Raises as `bytes_at` does."""
        self.bytes_at(at, size, what)
        return Span(self.signature, self.data, self.start + at, self.start + at + size)


def open_table(data: bytes, signature: str) -> tuple[TableHeader, Span]:
    """The header of a table, and the whole table to read from.

    Raises:
        BadTable: another table, one that is cut short or too long, or its checksum is wrong.
    """
    whole = Span(signature, data, 0, len(data))
    if (found := whole.bytes_at(0, 4, "signature")) != signature.encode():
        raise whole.bad(f"the signature is {found!r}")
    length = whole.number(4, 4, "length")
    if length != len(data) or length < HEADER_BYTES:
        raise whole.bad(f"the table says that it has {length} bytes, and has {len(data)}", 4)
    if total := sum(data) & 0xFF:
        raise whole.bad(f"the bytes add up to {total:#x} and not to 0: the checksum is wrong", _CHECKSUM)
    return TableHeader.decode(data[8:_CHECKSUM] + data[_CHECKSUM + 1 : HEADER_BYTES]), whole


def close_table(signature: str, header: TableHeader, body: bytes) -> bytes:
    """The whole table, with its length and checksum."""
    length = fits(HEADER_BYTES + len(body), 4, "length")
    fields = header.encode()
    table = bytearray(signature.encode() + length + fields[:1] + b"\0" + fields[1:] + body)
    table[_CHECKSUM] = -sum(table) & 0xFF
    return bytes(table)


def path_name(span: Span, at: int) -> str:
    """A name that a zero byte ends.

    Raises:
        BadTable: no zero byte, or not ASCII.
    """
    text, found, _ = span.bytes_at(at, max(0, len(span) - at), "name").partition(b"\0")
    if not found:
        raise span.bad("no zero byte ends the name", at)
    if not text.isascii():
        raise span.bad(f"the name is not ASCII: {text!r}", at)
    return text.decode("ascii")
