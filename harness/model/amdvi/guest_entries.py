"""The entries of GCR3 tables and guest page tables (AMD-Vi 2.2.6, AMD64 manual volume 2, long-mode translation)."""

from __future__ import annotations

from harness.model.bits import Field, Layout

__all__ = ["GCR3_ENTRY", "GUEST_LEAF_ENTRY", "GUEST_TABLE_ENTRY"]

GCR3_ENTRY = Layout(
    "GCR3 table entry",
    "AMD-Vi 2.2.6",
    (Field("V", 0, 1), Field("RSVD_1", 1, 11), Field("Address", 12, 40, in_place=True), Field("RSVD_52", 52, 12)),
)

# An entry that leads to another table. PS and the bit beside it must be zero in levels 4 and 5.
GUEST_TABLE_ENTRY = Layout(
    "guest table entry",
    "AMD-Vi 2.2.6",
    (
        Field("P", 0, 1),
        Field("RW", 1, 1),
        Field("US", 2, 1),
        Field("PWT", 3, 1),
        Field("PCD", 4, 1),
        Field("A", 5, 1),
        Field("IGN_6", 6, 1),
        Field("PS", 7, 1),
        Field("IGN_8", 8, 4),
        Field("Address", 12, 40, in_place=True),
        Field("IGN_52", 52, 11),
        Field("NX", 63, 1),
    ),
)

# An entry that maps a page. In level 1, bit 7 is PAT; above, PS, and bit 12 is PAT.
GUEST_LEAF_ENTRY = Layout(
    "guest page entry",
    "AMD-Vi 2.2.6",
    (
        Field("P", 0, 1),
        Field("RW", 1, 1),
        Field("US", 2, 1),
        Field("PWT", 3, 1),
        Field("PCD", 4, 1),
        Field("A", 5, 1),
        Field("D", 6, 1),
        Field("PS", 7, 1),
        Field("G", 8, 1),
        Field("IGN_9", 9, 3),
        Field("Address", 12, 40, in_place=True),
        Field("IGN_52", 52, 11),
        Field("NX", 63, 1),
    ),
)
