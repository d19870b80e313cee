"""What interrupt remapping reads, bit by bit: messages, IRTA_REG, table entries, the posted-interrupt descriptor."""

from __future__ import annotations

from enum import IntEnum

from harness.model.bits import Field, Layout

__all__ = [
    "IRTA_REG",
    "POSTED_DESCRIPTOR",
    "POSTED_ENTRY",
    "REMAPPABLE_ADDRESS",
    "REMAPPABLE_DATA",
    "REMAPPED_ENTRY",
    "SourceQualifier",
    "SourceValidation",
    "destination_field",
    "interrupt_entry_address",
]

REMAPPABLE_ADDRESS = Layout(
    "remappable interrupt address",
    "VT-d 5.1.2.2",
    (
        Field("IGN", 0, 2),
        Field("HANDLE_15", 2, 1),
        Field("SHV", 3, 1),
        Field("FORMAT", 4, 1),
        Field("HANDLE", 5, 15),
        Field("FEE", 20, 12),
    ),
)

# Both are ignored unless SHV is set.
REMAPPABLE_DATA = Layout(
    "remappable interrupt data", "VT-d 5.1.2.2", (Field("SUBHANDLE", 0, 16), Field("RSVD", 16, 16))
)

# The table has 2^(S + 1) entries.
IRTA_REG = Layout(
    "IRTA_REG",
    "VT-d 11.4.10",
    (Field("S", 0, 4), Field("RSVD", 4, 7), Field("EIME", 11, 1), Field("IRTA", 12, 52, in_place=True)),
)

REMAPPED_ENTRY = Layout(
    "IRTE, remapped",
    "VT-d 9.9",
    (
        Field("P", 0, 1),
        Field("FPD", 1, 1),
        Field("DM", 2, 1),
        Field("RH", 3, 1),
        Field("TM", 4, 1),
        Field("DLM", 5, 3),
        Field("AVAIL", 8, 4),
        Field("RSVD_12", 12, 3),
        Field("IM", 15, 1),
        Field("V", 16, 8),
        Field("RSVD_24", 24, 8),
        Field("DST", 32, 32),
        Field("SID", 64, 16),
        Field("SQ", 80, 2),
        Field("SVT", 82, 2),
        Field("RSVD_84", 84, 44),
    ),
)

POSTED_ENTRY = Layout(
    "IRTE, posted",
    "VT-d 9.10",
    (
        Field("P", 0, 1),
        Field("FPD", 1, 1),
        Field("RSVD_2", 2, 6),
        Field("AVAIL", 8, 4),
        Field("RSVD_12", 12, 2),
        Field("URG", 14, 1),
        Field("IM", 15, 1),
        Field("VV", 16, 8),
        Field("RSVD_24", 24, 14),
        Field("PDAL", 38, 26),
        Field("SID", 64, 16),
        Field("SQ", 80, 2),
        Field("SVT", 82, 2),
        Field("RSVD_84", 84, 12),
        Field("PDAH", 96, 32),
    ),
)

POSTED_DESCRIPTOR = Layout(
    "posted-interrupt descriptor",
    "VT-d 9.11",
    (
        Field("PIR", 0, 256),
        Field("ON", 256, 1),
        Field("SN", 257, 1),
        Field("RSVD_258", 258, 14),
        Field("NV", 272, 8),
        Field("RSVD_280", 280, 8),
        Field("NDST", 288, 32),
        Field("RSVD_320", 320, 192),
    ),
)


class SourceValidation(IntEnum):
    """SVT: how the requester of an interrupt is checked (VT-d 9.9)."""

    NONE = 0b00
    SOURCE_ID = 0b01
    """Against SID, in the bits that SQ says."""
    BUS_RANGE = 0b10
    """SID holds the first bus in its upper byte, and the last one in its lower byte."""
    RESERVED = 0b11


class SourceQualifier(IntEnum):
    """SQ: which bits of SID are not compared, for phantom functions (VT-d 9.9)."""

    ALL_BITS = 0b00
    IGNORE_BIT_2 = 0b01
    IGNORE_BITS_2_1 = 0b10
    IGNORE_BITS_2_0 = 0b11


def destination_field(destination: int, *, extended: bool) -> int:
    """DST of an entry, or NDST of a descriptor, for an APIC id: xAPIC mode has it in bits 15:8 (VT-d 9.9, 9.11)."""
    return destination if extended else destination << 8


def interrupt_entry_address(table: int, index: int) -> int:
    """Where an entry is: 16 bytes each."""
    return table + 16 * index
