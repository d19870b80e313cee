"""How entries of second-stage and first-stage page tables look to a builder (VT-d 9.7, 9.8)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import SpecError
from harness.model.access import PERMISSIONS, Permissions
from harness.model.bits import Layout
from harness.model.radix import Entry, LeafEntry, PageSize, TableEntry
from harness.model.vtd import first_stage_entries, second_stage

__all__ = ["FirstStageFormat", "SecondStageFormat"]

_PAGE_SIZES = (PageSize(12, 1), PageSize(21, 2), PageSize(30, 3))
_PS = second_stage.LEAF_ENTRY["PS"]
_ADDR = second_stage.LEAF_ENTRY["ADDR"]
_LARGEST_PAGE_LEVEL = 3


@dataclass(frozen=True, slots=True)
class SecondStageFormat:
    """Second-stage entries (VT-d 9.8).

    Attributes:
        io_permissions: rights stand in IR and IW, as RTADDR_REG.SSIRWE has it.
    """

    io_permissions: bool = False
    entry_size = 8
    page_sizes = _PAGE_SIZES

    def level_shift(self, level: int) -> int:
        """See `TableFormat`."""
        return second_stage.level_shift(level)

    def index_bits(self, level: int, levels: int) -> int:
        """See `TableFormat`: 512 entries."""
        return 9

    def table_entry(self, address: int, level: int) -> int:
        """See `TableFormat`."""
        read, write = self._rights
        return second_stage.TABLE_ENTRY.encode({read: 1, write: 1, "ADDR": address})

    def leaf_entry(self, address: int, page: PageSize, part: int, permissions: Permissions) -> int:
        """See `TableFormat`."""
        read, write = self._rights
        return second_stage.LEAF_ENTRY.encode(
            {
                read: int(Permissions.READ in permissions),
                write: int(Permissions.WRITE in permissions),
                "PS": int(page.level > 1),
                "ADDR": address,
            }
        )

    def decode(self, entry: int, level: int) -> Entry:
        """See `TableFormat`."""
        rights = entry >> second_stage.LEAF_ENTRY[self._rights[0]].low & 3
        if not rights:
            return None
        address = _ADDR.get(entry)
        if level == 1 or (level <= _LARGEST_PAGE_LEVEL and _PS.get(entry)):
            return LeafEntry(address, self.page_sizes[level - 1], PERMISSIONS[rights])
        return TableEntry(address, level - 1)

    def layout(self, level: int, *, is_leaf: bool) -> Layout:
        """See `TableFormat`."""
        return second_stage.LEAF_ENTRY if is_leaf else second_stage.TABLE_ENTRY

    @property
    def _rights(self) -> tuple[str, str]:
        return ("IR", "IW") if self.io_permissions else ("R", "W")


@dataclass(frozen=True, slots=True)
class FirstStageFormat:
    """First-stage entries (VT-d 9.7).

    Attributes:
        user: U/S of leaves; tables have it set.
        preset_flags: A is set in every entry and D in leaves, as software must where the walk cannot (VT-d 3.10).
    """

    user: bool = True
    preset_flags: bool = True
    entry_size = 8
    page_sizes = _PAGE_SIZES

    def level_shift(self, level: int) -> int:
        """See `TableFormat`."""
        return second_stage.level_shift(level)

    def index_bits(self, level: int, levels: int) -> int:
        """See `TableFormat`: 512 entries."""
        return 9

    def table_entry(self, address: int, level: int) -> int:
        """See `TableFormat`."""
        fields = {"P": 1, "RW": 1, "US": 1, "A": int(self.preset_flags), "ADDR": address}
        return first_stage_entries.TABLE_ENTRY.encode(fields)

    def leaf_entry(self, address: int, page: PageSize, part: int, permissions: Permissions) -> int:
        """See `TableFormat`.

        Raises:
            SpecError: pages that may not be read: P is the right to read.
        """
        if Permissions.READ not in permissions:
            raise SpecError(f"first-stage pages can be read, and cannot have permissions {permissions}")
        flag = int(self.preset_flags)
        fields = {"P": 1, "RW": int(Permissions.WRITE in permissions), "US": int(self.user), "A": flag, "D": flag}
        if page.level > 1:
            fields["PS"] = 1
        return self.layout(page.level, is_leaf=True).encode({**fields, "ADDR": address})

    def decode(self, entry: int, level: int) -> Entry:
        """See `TableFormat`."""
        if not first_stage_entries.TABLE_ENTRY["P"].get(entry):
            return None
        if level == 1 or (level <= _LARGEST_PAGE_LEVEL and _PS.get(entry)):
            layout = self.layout(level, is_leaf=True)
            permissions = Permissions.READ | Permissions.WRITE if layout["RW"].get(entry) else Permissions.READ
            return LeafEntry(layout["ADDR"].get(entry), self.page_sizes[level - 1], permissions)
        return TableEntry(_ADDR.get(entry), level - 1)

    def layout(self, level: int, *, is_leaf: bool) -> Layout:
        """See `TableFormat`."""
        return first_stage_entries.layout_of(level, is_leaf=is_leaf)
