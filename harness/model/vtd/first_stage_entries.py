"""Entries of first-stage tables, bit by bit (VT-d 9.7)."""

from __future__ import annotations

from harness.model.bits import Field, Layout

__all__ = ["LARGE_PAGE_ENTRY", "PAGE_ENTRY", "TABLE_ENTRY", "layout_of"]

# VT-d 9.7: an entry that references another table. EA is ignored without EAFE.
TABLE_ENTRY = Layout(
    "first-stage entry",
    "VT-d 9.7",
    (
        Field("P", 0, 1),
        Field("RW", 1, 1),
        Field("US", 2, 1),
        Field("IGN_3", 3, 2),
        Field("A", 5, 1),
        Field("IGN_6", 6, 1),
        Field("PS", 7, 1),
        Field("IGN_8", 8, 2),
        Field("EA", 10, 1),
        Field("IGN_11", 11, 1),
        Field("ADDR", 12, 40, in_place=True),
        Field("IGN_52", 52, 12),
    ),
)

# VT-d 9.7: an entry of the last level. PWT, PCD and PAT say which memory type accesses of processor graphics have.
PAGE_ENTRY = Layout(
    "first-stage entry",
    "VT-d 9.7",
    (
        Field("P", 0, 1),
        Field("RW", 1, 1),
        Field("US", 2, 1),
        Field("PWT", 3, 1),
        Field("PCD", 4, 1),
        Field("A", 5, 1),
        Field("D", 6, 1),
        Field("PAT", 7, 1),
        Field("G", 8, 1),
        Field("IGN_9", 9, 1),
        Field("EA", 10, 1),
        Field("IGN_11", 11, 1),
        Field("ADDR", 12, 40, in_place=True),
        Field("IGN_52", 52, 12),
    ),
)

# VT-d 9.7: an entry that maps 2 MiB or 1 GiB. The address has zeros below that, from bit 13 on.
LARGE_PAGE_ENTRY = Layout(
    "first-stage entry",
    "VT-d 9.7",
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
        Field("IGN_9", 9, 1),
        Field("EA", 10, 1),
        Field("IGN_11", 11, 1),
        Field("PAT", 12, 1),
        Field("ADDR", 13, 39, in_place=True),
        Field("IGN_52", 52, 12),
    ),
)


def layout_of(level: int, *, is_leaf: bool) -> Layout:
    """Field names of an entry of a level."""
    if not is_leaf:
        return TABLE_ENTRY
    return PAGE_ENTRY if level == 1 else LARGE_PAGE_ENTRY
