"""Page-table entries and paging schemes: Sv32, Sv39, Sv48, Sv57 and their second-stage forms (Privileged Architecture).

The second-stage forms, named x4, widen the input address by two bits: their root table has four times the entries,
16 KiB (Privileged Architecture, hypervisor extension, guest physical address translation).
"""

from __future__ import annotations

from typing import NamedTuple

from harness.errors import SpecError
from harness.model.access import PERMISSIONS, Permissions
from harness.model.bits import Field, Layout
from harness.model.radix import Entry, LeafEntry, PageSize, TableEntry

__all__ = ["FIRST_STAGE_SCHEMES", "PTE", "PTE_SV32", "SCHEMES", "SECOND_STAGE_SCHEMES", "PagingScheme", "PteFormat"]

# Privileged Architecture, Sv39 page-table entry; Sv48 and Sv57 have the same. N is of Svnapot, PBMT of Svpbmt, and
# RSW_59 of Svrsw60t59b (9.4).
PTE = Layout(
    "PTE",
    "Privileged, Sv39",
    (
        Field("V", 0, 1),
        Field("R", 1, 1),
        Field("W", 2, 1),
        Field("X", 3, 1),
        Field("U", 4, 1),
        Field("G", 5, 1),
        Field("A", 6, 1),
        Field("D", 7, 1),
        Field("RSW", 8, 2),
        Field("PPN", 10, 44),
        Field("RSVD_54", 54, 5),
        Field("RSW_59", 59, 2),
        Field("PBMT", 61, 2),
        Field("N", 63, 1),
    ),
)

# Privileged Architecture, Sv32 page-table entry, 32 bits.
PTE_SV32 = Layout("PTE", "Privileged, Sv32", (*PTE.fields[:9], Field("PPN", 10, 22)))

_NAPOT_SHIFT = 16  # The one Svnapot size: 64 KiB, PPN[3:0] = 1000b.


class PagingScheme(NamedTuple):
    """How an input address is cut into table indexes.

    Attributes:
        name: as in the specification.
        levels: tables on the way.
        entry_size: bytes of an entry.
        index_bits: log2 of the entries of a table,
        root_bits: and of the root table.
    """

    name: str
    levels: int
    entry_size: int
    index_bits: int
    root_bits: int

    @property
    def width(self) -> int:
        """Bits of input address."""
        return self.level_shift(self.levels) + self.root_bits

    def level_shift(self, level: int) -> int:
        """log2 of the bytes that one entry of a level covers; level 1 is the last."""
        return 12 + self.index_bits * (level - 1)

    @property
    def layout(self) -> Layout:
        """Fields of an entry."""
        return PTE_SV32 if self.entry_size == 4 else PTE


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        PagingScheme("Sv32", 2, 4, 10, 10),
        PagingScheme("Sv39", 3, 8, 9, 9),
        PagingScheme("Sv48", 4, 8, 9, 9),
        PagingScheme("Sv57", 5, 8, 9, 9),
        PagingScheme("Sv32x4", 2, 4, 10, 12),
        PagingScheme("Sv39x4", 3, 8, 9, 11),
        PagingScheme("Sv48x4", 4, 8, 9, 11),
        PagingScheme("Sv57x4", 5, 8, 9, 11),
    )
}
"""By name; capabilities has a bit of each of these names."""

# iosatp.MODE by DC.tc.SXL (3.1.3.4), iohgatp.MODE by fctl.GXL (3.1.3.2). Mode 0 is Bare.
FIRST_STAGE_SCHEMES = {0: {8: "Sv39", 9: "Sv48", 10: "Sv57"}, 1: {8: "Sv32"}}
SECOND_STAGE_SCHEMES = {0: {8: "Sv39x4", 9: "Sv48x4", 10: "Sv57x4"}, 1: {8: "Sv32x4"}}


class PteFormat:
    """Entries of one scheme, as `RadixTable` builds them: user pages, accessed and dirty already.

    Attributes:
        scheme: whose entries.
        entry_size: bytes.
        page_sizes: every size, 64 KiB of Svnapot among them.
    """

    def __init__(self, scheme: PagingScheme) -> None:
        self.scheme = scheme
        self.entry_size = scheme.entry_size
        sizes = [PageSize(scheme.level_shift(level), level) for level in range(1, scheme.levels + 1)]
        if scheme.layout is PTE:
            sizes.insert(1, PageSize(_NAPOT_SHIFT, 1))
        self.page_sizes = tuple(sizes)

    def level_shift(self, level: int) -> int:
        """See `TableFormat`."""
        return self.scheme.level_shift(level)

    def index_bits(self, level: int, levels: int) -> int:
        """See `TableFormat`."""
        return self.scheme.root_bits if level == levels else self.scheme.index_bits

    def table_entry(self, address: int, level: int) -> int:
        """See `TableFormat`."""
        return self.scheme.layout.encode({"V": 1, "PPN": address >> 12})

    def leaf_entry(self, address: int, page: PageSize, part: int, permissions: Permissions) -> int:
        """See `TableFormat`. All parts of a 64 KiB page are the same.

        Raises:
            SpecError: no permission, or one to write without one to read: no leaf says so.
        """
        rights = permissions.value
        if not rights & 0b101 or rights & 0b011 == 0b010:
            raise SpecError(
                f"no page-table entry says {permissions}: without R and X it leads to a table, W without R is reserved",
                hint="use overrides of R, W and X for an illegal one",
            )
        values = {"V": 1, "U": 1, "A": 1, "D": 1, "PPN": address >> 12}
        if page.shift == _NAPOT_SHIFT:
            values |= {"PPN": address >> 12 & ~0xF | 0x8, "N": 1}
        return self.scheme.layout.encode(values) | rights << 1

    def decode(self, entry: int, level: int) -> Entry:
        """See `TableFormat`."""
        if not entry & 1:
            return None
        address = self.scheme.layout["PPN"].get(entry) << 12
        rights = entry >> 1 & 7
        if not rights and level > 1:
            return TableEntry(address, level - 1)
        page = PageSize(self.scheme.level_shift(level), level)
        if level == 1 and entry >> 63:
            page = PageSize(_NAPOT_SHIFT, 1)
        return LeafEntry(address & -(1 << page.shift), page, PERMISSIONS[rights])

    def layout(self, level: int, *, is_leaf: bool) -> Layout:
        """See `TableFormat`: tables and leaves have the same fields."""
        return self.scheme.layout
