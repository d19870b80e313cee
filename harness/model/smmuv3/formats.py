"""How entries of VMSAv8-64 translation tables are built: the mirror image of the walk, for `RadixTable`.

Levels are counted from 1, the last (see `harness.model.smmuv3.descriptors`). A `RadixTable` of either format has as
many levels as its `levels` says, and a root as wide as its input needs: at stage 2 up to 16 tables side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, cached_property

from harness.errors import SpecError
from harness.model.access import PERMISSIONS, Permissions
from harness.model.bits import Layout
from harness.model.radix import Entry, LeafEntry, PageSize, TableEntry
from harness.model.smmuv3.descriptors import (
    BLOCK_LEVELS,
    CONTIGUOUS,
    STAGE1_LEAF,
    STAGE1_TABLE,
    STAGE2_LEAF,
    STAGE2_TABLE,
    descriptor_address,
    level_shift,
    put_descriptor_address,
)

__all__ = ["Stage1Format", "Stage2Format"]

_READ, _WRITE, _EXECUTE = Permissions.READ, Permissions.WRITE, Permissions.EXECUTE
_TABLE = STAGE1_TABLE.encode({"VALID": 1, "TABLE": 1})  # of both stages


@dataclass(frozen=True)
class _Format(ABC):
    """What both stages share.

    Attributes:
        granule: log2 of the granule: 12, 14 or 16.
        input_bits: bits of input address, 64 - TxSZ.
        address_bits: 48, or 52 for descriptors with 52-bit addresses (with DS where the granule is not 64 KB).
        contiguous: use contiguous sets of entries where they fit.

    Raises:
        SpecError: no such granule.
    """

    granule: int = 12
    input_bits: int = 48
    address_bits: int = 48
    contiguous: bool = False
    entry_size = 8

    def __post_init__(self) -> None:
        if self.granule not in BLOCK_LEVELS:
            raise SpecError(f"a granule of 2^{self.granule} bytes", hint="it is 12, 14 or 16")

    @property
    def levels(self) -> int:
        """Levels that the input takes without tables side by side."""
        return 1 + (self.input_bits - 1 - self.granule) // (self.granule - 3)

    @cached_property
    def page_sizes(self) -> tuple[PageSize, ...]:
        """See `TableFormat`."""
        levels = [1, *BLOCK_LEVELS[self.granule]]
        if self.address_bits == 52:
            levels.append(levels[-1] + 1)
        sizes = [PageSize(level_shift(self.granule, level), level) for level in levels]
        if self.contiguous:
            sets = CONTIGUOUS[self.granule]
            sizes += [PageSize(size.shift + sets[size.level], size.level) for size in sizes if size.level in sets]
        return tuple(sorted(sizes, key=lambda size: size.shift))

    def level_shift(self, level: int) -> int:
        """See `TableFormat`."""
        return level_shift(self.granule, level)

    def index_bits(self, level: int, levels: int) -> int:
        """See `TableFormat`."""
        return self.input_bits - self.level_shift(level) if level == levels else self.granule - 3

    def table_entry(self, address: int, level: int) -> int:
        """See `TableFormat`."""
        return _TABLE | self._put_address(address)

    def decode(self, entry: int, level: int) -> Entry:
        """See `TableFormat`."""
        kind = entry & 0b11
        if not kind & 1 or (kind == 0b01 and level == 1):
            return None
        large, wide = self._wide
        address = descriptor_address(entry, self.granule, large=large, wide=wide)
        if kind == 0b11 and level > 1:
            return TableEntry(address, level - 1)
        is_set = self.contiguous and entry >> 52 & 1
        shift = self.level_shift(level) + (CONTIGUOUS[self.granule].get(level, 0) if is_set else 0)
        return LeafEntry(address >> shift << shift, PageSize(shift, level), self._permissions(entry))

    @cached_property
    def _wide(self) -> tuple[bool, bool]:
        return self.address_bits == 52, self.address_bits == 52 and self.granule != 16

    @property
    def _shareability(self) -> int:
        """SH: Inner Shareable; with DS those bits belong to the address, and CD.SHx or STE.S2SH0 says it."""
        return 0b00 if self._wide[1] else 0b11

    def _put_address(self, address: int) -> int:
        large, wide = self._wide
        if address >> self.address_bits:
            raise SpecError(f"{address:#x} is no address of {self.address_bits} bits")
        return put_descriptor_address(address, self.granule, large=large, wide=wide)

    def _leaf(self, address: int, page: PageSize, part: int) -> int:
        """A Block or Page descriptor without attributes; each entry of a contiguous set has an address of its own."""
        shift = self.level_shift(page.level)
        kind = 0b11 if page.level == 1 else 0b01
        return self._put_address(address + (part << shift)) | kind | (1 << 52 if page.shift > shift else 0)

    @abstractmethod
    def _permissions(self, entry: int) -> Permissions:
        """What a Block or Page descriptor allows."""


@dataclass(frozen=True)
class Stage1Format(_Format):
    """Stage 1 descriptors of pages for unprivileged accesses; privileged ones can read and write them likewise."""

    def leaf_entry(self, address: int, page: PageSize, part: int, permissions: Permissions) -> int:
        """See `TableFormat`. Stage 1 has no pages that can be written but not read, and none without any right."""
        return _stage1_attributes(permissions, self._shareability) | self._leaf(address, page, part)

    def layout(self, level: int, *, is_leaf: bool) -> Layout:
        """See `TableFormat`."""
        return STAGE1_LEAF if is_leaf else STAGE1_TABLE

    def _permissions(self, entry: int) -> Permissions:
        access = STAGE1_LEAF["AP"].get(entry)
        read = access & 1
        bits = read | (2 if read and not access & 0b10 else 0) | (0 if STAGE1_LEAF["UXN"].get(entry) else 4)
        return PERMISSIONS[bits]


@dataclass(frozen=True)
class Stage2Format(_Format):
    """Stage 2 descriptors, of Normal Write-Back memory."""

    def leaf_entry(self, address: int, page: PageSize, part: int, permissions: Permissions) -> int:
        """See `TableFormat`."""
        return _stage2_attributes(permissions, self._shareability) | self._leaf(address, page, part)

    def layout(self, level: int, *, is_leaf: bool) -> Layout:
        """See `TableFormat`."""
        return STAGE2_LEAF if is_leaf else STAGE2_TABLE

    def _permissions(self, entry: int) -> Permissions:
        execute = 0 if STAGE2_LEAF["XN"].get(entry) else 4
        return PERMISSIONS[STAGE2_LEAF["S2AP"].get(entry) | execute]


@cache
def _stage1_attributes(permissions: Permissions, shareability: int) -> int:
    """Everything of a Block or Page descriptor of stage 1 but its kind and its address."""
    if not permissions or (_WRITE in permissions and _READ not in permissions):
        raise SpecError(f"stage 1 descriptors cannot say {permissions}")
    fields = {
        # AP[1] lets unprivileged accesses in, AP[2] forbids writes: what can only be executed is privileged data.
        "AP": int(_READ in permissions) | (0 if _WRITE in permissions else 0b10),
        "UXN": int(_EXECUTE not in permissions),
        "PXN": 1,
        "SH": shareability,
        "AF": 1,
        "NG": 1,
    }
    return STAGE1_LEAF.encode(fields)


@cache
def _stage2_attributes(permissions: Permissions, shareability: int) -> int:
    """The same of stage 2."""
    fields = {
        "MEMATTR": 0b1111,
        "S2AP": int(_READ in permissions) | int(_WRITE in permissions) << 1,
        "XN": 0b00 if _EXECUTE in permissions else 0b10,
        "SH": shareability,
        "AF": 1,
    }
    return STAGE2_LEAF.encode(fields)
