"""The device entries of an IVHD block and their bytes (AMD 48882, 5.2). Their meaning is in `Ivhd.source_id`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from harness.model.firmware.acpi import Span
from harness.model.firmware.structures import Structure, fits, raw, u8, u16, u32

__all__ = [
    "AcpiDeviceEntry",
    "AliasEntry",
    "DeviceEntry",
    "EntryType",
    "ExtendedEntry",
    "IvhdEntry",
    "SpecialEntry",
    "UnknownEntry",
    "Variety",
    "entry_bytes",
    "read_entries",
]


class EntryType(IntEnum):
    """Type of an IVHD device entry (AMD 48882, 5.2)."""

    PAD_4 = 0
    ALL = 1
    SELECT = 2
    START_OF_RANGE = 3
    END_OF_RANGE = 4
    PAD_8 = 64
    ALIAS_SELECT = 66
    ALIAS_START_OF_RANGE = 67
    EXTENDED_SELECT = 70
    EXTENDED_START_OF_RANGE = 71
    SPECIAL_DEVICE = 72
    ACPI_HID_DEVICE = 240


class Variety(IntEnum):
    """What a special device is (AMD 48882, 5.2)."""

    IOAPIC = 1
    HPET = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry(Structure):
    """An entry of four bytes: all, select, start and end of a range, padding."""

    type: int = u8()
    device_id: int = u16()
    dte_setting: int = u8()


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasEntry(Structure):
    """Alias select, and alias start of range: the devices' requests carry the id of another."""

    type: int = u8()
    device_id: int = u16()
    dte_setting: int = u8()
    reserved_1: int = u8()
    source_device_id: int = u16()
    reserved_2: int = u8()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedEntry(Structure):
    """Extended select, and extended start of range."""

    type: int = u8()
    device_id: int = u16()
    dte_setting: int = u8()
    extended_dte_setting: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialEntry(Structure):
    """A special device: an I/O APIC or HPET, which makes requests with the id of another."""

    type: int = u8(EntryType.SPECIAL_DEVICE)
    device_id: int = u16()
    dte_setting: int = u8()
    handle: int = u8()
    source_device_id: int = u16()
    variety: int = u8()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpiDeviceEntry(Structure):
    """A device of the ACPI name space, by hardware and unique id. In a block of type 40h only."""

    type: int = u8(EntryType.ACPI_HID_DEVICE)
    device_id: int = u16()
    dte_setting: int = u8()
    hardware_id: bytes = raw(8)
    extended_dte_setting: bytes = raw(8)
    unique_id_format: int = u8()
    unique_id: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEntry:
    """An entry of another type, whose length its type gives."""

    type: int
    data: bytes


IvhdEntry: TypeAlias = DeviceEntry | AliasEntry | ExtendedEntry | SpecialEntry | AcpiDeviceEntry | UnknownEntry

_EIGHT_BYTES: Mapping[int, type[AliasEntry] | type[ExtendedEntry] | type[SpecialEntry]] = {
    EntryType.ALIAS_SELECT: AliasEntry,
    EntryType.ALIAS_START_OF_RANGE: AliasEntry,
    EntryType.EXTENDED_SELECT: ExtendedEntry,
    EntryType.EXTENDED_START_OF_RANGE: ExtendedEntry,
    EntryType.SPECIAL_DEVICE: SpecialEntry,
}
_FOUR_BYTES = (
    EntryType.PAD_4,
    EntryType.ALL,
    EntryType.SELECT,
    EntryType.START_OF_RANGE,
    EntryType.END_OF_RANGE,
)
_FIRST_VARIABLE = 240


def read_entries(span: Span, at: int) -> Iterator[IvhdEntry]:
    """All entries from that place to the end.

    Raises:
        BadTable: one that is cut short.
    """
    while at < len(span):
        type = span.number(at, 1, "device entry type")
        length = _entry_length(span, at, type)
        data = span.bytes_at(at, length, "device entry")
        if type in _FOUR_BYTES:
            yield DeviceEntry.decode(data)
        elif (cls := _EIGHT_BYTES.get(type)) is not None:
            yield cls.decode(data)
        elif type == EntryType.ACPI_HID_DEVICE:
            yield AcpiDeviceEntry.decode(data, unique_id=data[_UNIQUE_ID:])
        else:
            yield UnknownEntry(type=type, data=data[1:])
        at += length


# The length of the unique id stands before it.
_UNIQUE_ID = AcpiDeviceEntry.fixed_size() + 1


def _entry_length(span: Span, at: int, type: int) -> int:
    """Bits 7:6 of the type give the length, but for entries of variable length (AMD 48882, 5.2)."""
    if type < _FIRST_VARIABLE:
        return 4 << (type >> 6)
    return _UNIQUE_ID + span.number(at + _UNIQUE_ID - 1, 1, "unique id length")


def entry_bytes(entry: IvhdEntry) -> bytes:
    """One entry.

    Raises:
        SpecError: a value does not fit its field.
    """
    match entry:
        case UnknownEntry(type=type, data=data):
            return fits(type, 1, "type") + data
        case AcpiDeviceEntry(unique_id=unique):
            return entry.encode() + fits(len(unique), 1, "unique id length") + unique
        case _:
            return entry.encode()
