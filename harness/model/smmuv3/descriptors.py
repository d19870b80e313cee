"""VMSAv8-64 translation table descriptors (Arm DDI 0487, chapter D8, "VMSAv8-64 translation table format descriptors").

Arm numbers lookup levels downwards to level 3, the last; in this project level 1 is the last. `arm_level` gives the
former of the latter.
"""

from __future__ import annotations

from harness.model.bits import Field, Layout

__all__ = [
    "BLOCK_LEVELS",
    "CONTIGUOUS",
    "STAGE1_LEAF",
    "STAGE1_TABLE",
    "STAGE2_LEAF",
    "STAGE2_TABLE",
    "address_mask",
    "arm_level",
    "descriptor_address",
    "level_shift",
    "put_descriptor_address",
    "wide_bits",
]

_SECTION = "DDI 0487 D8.3"

# Bits 15:12 hold bits 51:48 of the address with a 64 KB granule and 52-bit addresses; bits 9:8 hold bits 51:50 with
# DS, where bits 49:48 of the address stand in place.
_ADDRESS = (Field("ADDR", 12, 36, in_place=True), Field("ADDR_49_48", 48, 2))

STAGE1_TABLE = Layout(
    "stage 1 Table descriptor",
    _SECTION,
    (
        Field("VALID", 0, 1),
        Field("TABLE", 1, 1),
        Field("IGN_2", 2, 6),
        Field("ADDR_51_50", 8, 2),
        Field("AF", 10, 1),
        Field("IGN_11", 11, 1),
        *_ADDRESS,
        Field("IGN_50", 50, 9),
        Field("PXNTABLE", 59, 1),
        Field("UXNTABLE", 60, 1),
        Field("APTABLE", 61, 2),
        Field("NSTABLE", 63, 1),
    ),
)

STAGE1_LEAF = Layout(
    "stage 1 Block or Page descriptor",
    _SECTION,
    (
        Field("VALID", 0, 1),
        Field("PAGE", 1, 1),
        Field("ATTRINDX", 2, 3),
        Field("NS", 5, 1),
        Field("AP", 6, 2),
        Field("SH", 8, 2),
        Field("AF", 10, 1),
        Field("NG", 11, 1),
        *_ADDRESS,
        Field("GP", 50, 1),
        Field("DBM", 51, 1),
        Field("CONTIGUOUS", 52, 1),
        Field("PXN", 53, 1),
        Field("UXN", 54, 1),
        Field("IGN_55", 55, 4),
        Field("PBHA", 59, 4),
        Field("IGN_63", 63, 1),
    ),
)
"""AP is AP[2:1]: bit 1 forbids writes, bit 0 lets unprivileged accesses in. UXN is XN in the NS-EL2 regime."""

STAGE2_TABLE = Layout(
    "stage 2 Table descriptor",
    _SECTION,
    (
        Field("VALID", 0, 1),
        Field("TABLE", 1, 1),
        Field("IGN_2", 2, 6),
        Field("ADDR_51_50", 8, 2),
        Field("AF", 10, 1),
        Field("IGN_11", 11, 1),
        *_ADDRESS,
        Field("IGN_50", 50, 14),
    ),
)

STAGE2_LEAF = Layout(
    "stage 2 Block or Page descriptor",
    _SECTION,
    (
        Field("VALID", 0, 1),
        Field("PAGE", 1, 1),
        Field("MEMATTR", 2, 4),
        Field("S2AP", 6, 2),
        Field("SH", 8, 2),
        Field("AF", 10, 1),
        Field("IGN_11", 11, 1),
        *_ADDRESS,
        Field("IGN_50", 50, 1),
        Field("DBM", 51, 1),
        Field("CONTIGUOUS", 52, 1),
        Field("XN", 53, 2),
        Field("IGN_55", 55, 4),
        Field("PBHA", 59, 4),
        Field("IGN_63", 63, 1),
    ),
)
"""S2AP is bit 0 read, bit 1 write. XN is XN[1:0]; without IDR3.XNX only its bit 1 is looked at."""

BLOCK_LEVELS = {12: (2, 3), 14: (2,), 16: (2,)}
"""Levels (1 the last) whose entries can be blocks, by log2 of the granule; 52-bit addresses add one on top."""

CONTIGUOUS = {12: {1: 4, 2: 4, 3: 4}, 14: {1: 7, 2: 5}, 16: {1: 5, 2: 5}}
"""log2 of how many entries a contiguous set has, by log2 of the granule and level."""


def arm_level(level: int) -> int:
    """The number that Arm gives a level: 3 for the last."""
    return 4 - level


def level_shift(granule: int, level: int) -> int:
    """log2 of the bytes that an entry of a level covers; `granule` is log2 of the granule."""
    return granule + (level - 1) * (granule - 3)


def wide_bits(granule: int, *, large: bool, wide: bool) -> tuple[int, int]:
    """Bits of a descriptor that hold address bits above its ordinary ones, and how far up they move.

    Args:
        granule: log2 of the granule.
        large: the SMMU has 52-bit addresses.
        wide: CD.DS or STE.S2DS.
    """
    if granule == 16:
        return (0xF000, 36) if large else (0, 0)
    return (0x300, 42) if wide else (0, 0)


def address_mask(granule: int, *, wide: bool) -> int:
    """Bits of a descriptor that hold the address of a table or of the smallest page in place."""
    top = 50 if wide and granule != 16 else 48
    return (1 << top) - (1 << granule)


def descriptor_address(entry: int, granule: int, *, large: bool = False, wide: bool = False) -> int:
    """The address in a descriptor (see `wide_bits`); what lies below the page it maps is not taken out."""
    mask, shift = wide_bits(granule, large=large, wide=wide)
    return entry & address_mask(granule, wide=wide) | (entry & mask) << shift


def put_descriptor_address(address: int, granule: int, *, large: bool = False, wide: bool = False) -> int:
    """The bits of a descriptor that hold an address."""
    mask, shift = wide_bits(granule, large=large, wide=wide)
    return address & address_mask(granule, wide=wide) | address >> shift & mask
