"""How entries of host and guest tables are built: the mirror image of the two walks."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass, field

from harness.errors import SpecError
from harness.model.access import PERMISSIONS, Permissions
from harness.model.amdvi.guest_entries import GUEST_LEAF_ENTRY, GUEST_TABLE_ENTRY
from harness.model.amdvi.host_tables import PDE, PTE, host_level_shift, page_shift
from harness.model.bits import Layout
from harness.model.radix import Entry, LeafEntry, PageSize, TableEntry

__all__ = ["GuestFormat", "HostFormat"]

# Larger ones can be encoded, and leave no bit for an address.
_WIDEST_HOST_PAGE = 51
_READ_WRITE = Permissions.READ | Permissions.WRITE


@dataclass(frozen=True, slots=True)
class HostFormat:
    """Entries of host tables (AMD-Vi 2.2.3).

    Attributes:
        every_size: pages of every power of two, with NextLevel 7 and several entries where it takes them; else only
            the sizes of the levels.
        skips: NextLevel of table entries, by their level, where levels are to be skipped. Of the addresses that are
            mapped, the bits of those levels must be zero.
    """

    every_size: bool = True
    skips: NamedValues[int, int] = field(default_factory=dict)

    @property
    def entry_size(self) -> int:
        """See `TableFormat`."""
        return 8

    @property
    def page_sizes(self) -> tuple[PageSize, ...]:
        """See `TableFormat`: level 6 holds no pages."""
        extra = 9 if self.every_size else 1
        return tuple(
            PageSize(shift, level)
            for level in range(1, 6)
            for shift in range(host_level_shift(level), host_level_shift(level) + extra)
            if shift <= _WIDEST_HOST_PAGE
        )

    def level_shift(self, level: int) -> int:
        """See `TableFormat`."""
        return host_level_shift(level)

    def index_bits(self, level: int, levels: int) -> int:
        """See `TableFormat`: a page of entries, of which level 6 uses the first quarter."""
        return 9

    def table_entry(self, address: int, level: int) -> int:
        """See `TableFormat`."""
        following = self.skips.get(level, level - 1)
        return PDE.encode({"PR": 1, "NextLevel": following, "Address": address, "IR": 1, "IW": 1})

    def leaf_entry(self, address: int, page: PageSize, part: int, permissions: Permissions) -> int:
        """See `TableFormat`: the entries of one page are all the same."""
        if permissions & ~_READ_WRITE:
            raise SpecError(f"host tables cannot say {permissions}")
        fields = {"PR": 1, "Address": address}
        if page.shift > host_level_shift(page.level):
            ones = (1 << page.shift - 1) - 1 & PTE["Address"].mask
            fields |= {"NextLevel": 7, "Address": address | ones}
        read, write = int(Permissions.READ in permissions), int(Permissions.WRITE in permissions)
        return PTE.encode({**fields, "IR": read, "IW": write})

    def decode(self, entry: int, level: int) -> Entry:
        """See `TableFormat`."""
        if not PTE["PR"].get(entry):
            return None
        following = PTE["NextLevel"].get(entry)
        address = PTE["Address"].get(entry)
        if following not in (0, 7):
            return TableEntry(address, following)
        shift = page_shift(entry, level) or host_level_shift(level)
        return LeafEntry(address & -(1 << shift), PageSize(shift, level), PERMISSIONS[entry >> 61 & 3])

    def layout(self, level: int, *, is_leaf: bool) -> Layout:
        """See `TableFormat`."""
        return PTE if is_leaf else PDE


@dataclass(frozen=True, slots=True)
class GuestFormat:
    """Entries of guest tables, x86 long mode (AMD-Vi 2.2.6).

    Attributes:
        flags_set: A, and D of what may be written, are set from the start, as Linux does.
    """

    flags_set: bool = True

    @property
    def entry_size(self) -> int:
        """See `TableFormat`."""
        return 8

    @property
    def page_sizes(self) -> tuple[PageSize, ...]:
        """See `TableFormat`."""
        return (PageSize(12, 1), PageSize(21, 2), PageSize(30, 3))

    def level_shift(self, level: int) -> int:
        """See `TableFormat`."""
        return host_level_shift(level)

    def index_bits(self, level: int, levels: int) -> int:
        """See `TableFormat`: 512 entries."""
        return 9

    def table_entry(self, address: int, level: int) -> int:
        """See `TableFormat`."""
        return GUEST_TABLE_ENTRY.encode({"P": 1, "RW": 1, "US": 1, "A": int(self.flags_set), "Address": address})

    def leaf_entry(self, address: int, page: PageSize, part: int, permissions: Permissions) -> int:
        """See `TableFormat`."""
        if Permissions.READ not in permissions:
            raise SpecError(f"guest tables cannot say {permissions}: what is present can be read")
        writable = int(Permissions.WRITE in permissions)
        return GUEST_LEAF_ENTRY.encode(
            {
                "P": 1,
                "RW": writable,
                "US": 1,
                "A": int(self.flags_set),
                "D": int(self.flags_set) & writable,
                "PS": int(page.level > 1),
                "Address": address,
                "NX": int(Permissions.EXECUTE not in permissions),
            }
        )

    def decode(self, entry: int, level: int) -> Entry:
        """See `TableFormat`."""
        fields = dict(GUEST_LEAF_ENTRY.decode(entry))
        if not fields["P"]:
            return None
        if level > 3 or (level > 1 and not fields["PS"]):
            return TableEntry(fields["Address"], level - 1)
        page = self.page_sizes[level - 1]
        rights = 1 | fields["RW"] << 1 | (1 - fields["NX"]) << 2
        return LeafEntry(fields["Address"] & -(1 << page.shift), page, PERMISSIONS[rights])

    def layout(self, level: int, *, is_leaf: bool) -> Layout:
        """See `TableFormat`."""
        return GUEST_LEAF_ENTRY if is_leaf else GUEST_TABLE_ENTRY
