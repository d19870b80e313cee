"""Structures of ACPI tables as dataclasses: the fields in the order of their bytes, each with its width.

>>> @dataclass(frozen=True, slots=True, kw_only=True)
... class Pair(Structure):
...     first: int = u16()
...     second: int = u8()
>>> Pair(first=0x0102).encode().hex()
'020100'
>>> Pair.decode(bytes.fromhex("020107"))
Pair(first=258, second=7)

A field is a little-endian number, or bytes as they stand (`raw`). What has no width is no field of the fixed part: the
class that has it reads and writes it itself. A structure of a type that nobody knows, and what a later revision may
have put behind the fields known here, is kept as it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from harness.errors import SpecError

__all__ = ["Structure", "fits", "raw", "u8", "u16", "u32", "u64"]

_BYTES = "bytes"
_RAW = "raw"


def _number(size: int, default: int) -> Any:
    return dataclasses.field(default=default, metadata={_BYTES: size})


def u8(default: int = 0) -> Any:
    """A field of one byte."""
    return _number(1, default)


def u16(default: int = 0) -> Any:
    """A field of two bytes."""
    return _number(2, default)


def u32(default: int = 0) -> Any:
    """A field of four bytes."""
    return _number(4, default)


def u64(default: int = 0) -> Any:
    """A field of eight bytes."""
    return _number(8, default)


def raw(size: int, default: bytes | None = None) -> Any:
    """A field of bytes; zeroes unless something else is said."""
    return dataclasses.field(default=bytes(size) if default is None else default, metadata={_BYTES: size, _RAW: True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What all of them can do with the fields of their fixed part."""

    @classmethod
    def fixed_size(cls) -> int:
        """Bytes of the fixed part."""
        return sum(field.metadata.get(_BYTES, 0) for field in dataclasses.fields(cls))

    @classmethod
    def decode(cls, data: bytes, **others: object) -> Self:
        """From the bytes of the fixed part, which must all be there; `others` are the fields that are not of it."""
        values: dict[str, Any] = dict(others)
        at = 0
        for field in dataclasses.fields(cls):
            if (size := field.metadata.get(_BYTES)) is not None:
                part = data[at : at + size]
                values[field.name] = part if _RAW in field.metadata else int.from_bytes(part, "little")
                at += size
        return cls(**values)

    def encode(self) -> bytes:
        """The bytes of the fixed part.

        Raises:
            SpecError: a value that does not fit its field.
        """
        parts = []
        for field in dataclasses.fields(self):
            if (size := field.metadata.get(_BYTES)) is not None:
                value = getattr(self, field.name)
                if _RAW in field.metadata:
                    if len(value) != size:
                        raise SpecError(f"{type(self).__name__}.{field.name} is {len(value)} bytes, and has {size}")
                    parts.append(value)
                else:
                    parts.append(fits(value, size, f"{type(self).__name__}.{field.name}"))
        return b"".join(parts)


def fits(value: int, size: int, what: str) -> bytes:
    """A number as little-endian bytes.

    Raises:
        SpecError: it does not fit; the message names what it is.
    """
    if not 0 <= value < 1 << 8 * size:
        raise SpecError(f"{what}={value:#x} does not fit {size} bytes")
    return value.to_bytes(size, "little")
