"""Builds page tables of any format: the mirror image of the walks, legal by default, any field overridable.

What all formats share is here: finding the way down, taking pages for tables, choosing the largest pages that fit,
taking away, splitting a page, adding a level on top. What an entry looks like is a `TableFormat`'s to say; each engine
has one beside each of its walkers.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as NamedValues
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from harness.errors import HarnessError, SpecError
from harness.model.access import Permissions
from harness.model.bits import Layout, changed
from harness.model.memory import WritableMemory

__all__ = ["NO_OVERRIDES", "Entry", "LeafEntry", "PageAllocator", "PageSize", "RadixTable", "TableEntry", "TableFormat"]

NO_OVERRIDES: NamedValues[str, int] = {}
_READ_WRITE = Permissions.READ | Permissions.WRITE


@dataclass(slots=True)
class PageAllocator:
    """Hands out zeroed memory for tables, one piece after the other.

    Attributes:
        memory: what the pages are in.
        next_page: physical address of the next one.
    """

    memory: WritableMemory
    next_page: int

    def take(self, size: int = 4096) -> int:
        """The address of a new table of `size` bytes (a power of two), aligned to its size.

        Raises:
            OutsideMemory: there is no memory left.
        """
        page = -(-self.next_page // size) * size
        self.memory.write(page, bytes(size))
        self.next_page = page + size
        return page


@dataclass(frozen=True, slots=True)
class PageSize:
    """A size of page that a format has.

    Attributes:
        shift: log2 of its bytes.
        level: level of the entries that map it, 1 for the last. Where one entry covers less than the page, as many as
            it takes stand side by side.
    """

    shift: int
    level: int


@dataclass(frozen=True, slots=True)
class TableEntry:
    """An entry that leads to another table.

    Attributes:
        address: physical address of that table.
        level: of its entries; the level of this entry less one, except where levels are skipped.
    """

    address: int
    level: int


@dataclass(frozen=True, slots=True)
class LeafEntry:
    """An entry that maps a page.

    Attributes:
        address: physical address of the page's first byte.
        page: its size.
        permissions: what the entry allows.
    """

    address: int
    page: PageSize
    permissions: Permissions


Entry: TypeAlias = TableEntry | LeafEntry | None


class TableFormat(Protocol):
    """How the entries of one kind of page table look."""

    @property
    def entry_size(self) -> int:
        """Bytes of an entry: 4 or 8."""
        ...

    @property
    def page_sizes(self) -> tuple[PageSize, ...]:
        """Every size, in ascending order."""
        ...

    def level_shift(self, level: int) -> int:
        """log2 of the bytes of input address that an entry of a level covers."""
        ...

    def index_bits(self, level: int, levels: int) -> int:
        """log2 of the number of entries in a table of a level, in a tree of `levels` (its root may be wider)."""
        ...

    def table_entry(self, address: int, level: int) -> int:
        """The bits of an entry of `level` that leads to a table of the level below."""
        ...

    def leaf_entry(self, address: int, page: PageSize, part: int, permissions: Permissions) -> int:
        """The bits of entry number `part` of those that map the page at `address`.

        Raises:
            SpecError: permissions or an address that the format cannot say.
        """
        ...

    def decode(self, entry: int, level: int) -> Entry:
        """What an entry of a level is; None where it is not present."""
        ...

    def layout(self, level: int, *, is_leaf: bool) -> Layout:
        """Field names of an entry."""
        ...


@dataclass(slots=True)
class RadixTable:
    """A tree of page tables.

    Attributes:
        pages: where tables come from.
        format: of its entries.
        levels: how many.
        root: physical address of the topmost table; a new one when left out.
        sign_extended: the upper half of the input addresses stands at the top of the 64-bit address space.
    """

    pages: PageAllocator
    format: TableFormat
    levels: int
    root: int = -1
    sign_extended: bool = False

    def __post_init__(self) -> None:
        if self.root < 0:
            self.root = self.pages.take(self._table_size(self.levels))

    @property
    def width(self) -> int:
        """Bits of input address."""
        return self.format.level_shift(self.levels) + self.format.index_bits(self.levels, self.levels)

    @property
    def granule(self) -> int:
        """Smallest page, bytes."""
        return 1 << self.format.page_sizes[0].shift

    def map(
        self,
        iova: int,
        address: int,
        size: int,
        permissions: Permissions = _READ_WRITE,
        *,
        largest_page: int = 1 << 64,
        smallest_page: int = 1,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Map `size` bytes from `iova` on to `address` on, with the largest pages that fit.

        Args:
            iova: first input address, a multiple of the smallest page.
            address: first output address, likewise.
            size: bytes, likewise.
            permissions: of the leaves; tables above them allow everything.
            largest_page: bytes.
            smallest_page: bytes; where it is the largest one too, the page is mapped as one or not at all.
            overrides: fields of the leaf to set otherwise, by their names, for illegal ones.

        Raises:
            SpecError: not whole pages, beyond the width of the tables, or something is mapped there already.
        """
        start = self._input(iova)
        end = start + size
        if size <= 0 or (iova | address | size) % self.granule or end > 1 << self.width:
            raise SpecError(f"{size:#x} bytes at iova {iova:#x} to {address:#x} are not whole pages within the tables")
        at = start
        table, level = self.root, self.levels
        try:
            while at < end:
                target = address + at - start
                page, entry_address = self._free_slot(
                    at, target, end - at, range(smallest_page, largest_page + 1), table, level
                )
                self._write_leaf(entry_address, target, page, permissions, overrides)
                at += 1 << page.shift
                table, level = self._behind(at, page, entry_address)
        except HarnessError:
            self._clear(start, at)
            raise

    def unmap(self, iova: int, size: int, *, split: bool = False) -> None:
        """Clear the leaves of a range; tables stay where they are.

        Args:
            iova: first input address.
            size: bytes.
            split: split pages that lie in the range in part only, as often as it takes.

        Raises:
            SpecError: a page of the range is not mapped, or only a part of it is in the range; nothing is cleared then.
        """
        start = self._input(iova)
        end = start + size
        at = start
        while at < end:
            leaf, _ = self._leaf(at, self.root, self.levels)
            length = 1 << leaf.page.shift
            if not at % length and at + length <= end:
                at += length
            elif split and leaf.page.shift > self.format.page_sizes[0].shift:
                self.split(at)
            else:
                raise SpecError(f"unmapping up to {end:#x} would split the page of {length:#x} bytes at {at:#x}")
        self._clear(start, end)

    def split(self, iova: int) -> None:
        """Put a table of the next smaller pages in the place of the page that maps an address.

        Raises:
            SpecError: nothing is mapped there, or it is a page of the smallest size.
        """
        at = self._input(iova)
        leaf, entry_address = self._leaf(at, self.root, self.levels)
        smaller = [page for page in self.format.page_sizes if page.shift < leaf.page.shift]
        if not smaller:
            raise SpecError(f"the page at {iova:#x} is of the smallest size")
        page = smaller[-1]
        if page.level == leaf.page.level:
            self._write_pages(entry_address, leaf.address, 1 << leaf.page.shift, page, leaf.permissions)
            return
        # The smallest page of a level takes one entry, which a table of the level below replaces.
        table = self.pages.take(self._table_size(leaf.page.level - 1))
        self._write_pages(table, leaf.address, 1 << leaf.page.shift, page, leaf.permissions)
        self._write(entry_address, self.format.table_entry(table, leaf.page.level))

    def grow(self) -> None:
        """Add a level on top, whose first entry leads to what was the root."""
        old = self.root
        self.levels += 1
        self.root = self.pages.take(self._table_size(self.levels))
        self._write(self.root, self.format.table_entry(old, self.levels))

    def leaves(self) -> Iterator[tuple[int, LeafEntry]]:
        """Every page that is mapped, with its input address (without sign extension), in ascending order."""
        return self._leaves_below(self.root, self.levels, 0)

    def _leaves_below(self, table: int, level: int, base: int) -> Iterator[tuple[int, LeafEntry]]:
        shift = self.format.level_shift(level)
        step = self.format.entry_size
        index = 0
        while index < 1 << self.format.index_bits(level, self.levels):
            entry = self.format.decode(self._read(table + index * step), level)
            if isinstance(entry, LeafEntry):
                yield base + (index << shift), entry
                index += self._parts(entry.page)
                continue
            if isinstance(entry, TableEntry):
                yield from self._leaves_below(entry.address, entry.level, base + (index << shift))
            index += 1

    def entry_address(self, iova: int, level: int) -> int:
        """Physical address of the entry that an address uses at a level (1 for the last).

        Raises:
            SpecError: no table leads there.
        """
        for current, address, _ in self._path(self._input(iova), self.root, self.levels):
            if current == level:
                return address
        raise SpecError(f"no table leads iova {iova:#x} to level {level}")

    def set_fields(self, iova: int, level: int, values: NamedValues[str, int]) -> None:
        """Set fields of the entry that an address uses at a level, by their names.

        Raises:
            SpecError: no table leads there, no such field, or a value that does not fit.
        """
        address = self.entry_address(iova, level)
        bits = self._read(address)
        is_leaf = not isinstance(self.format.decode(bits, level), TableEntry)
        own, other = (self.format.layout(level, is_leaf=which) for which in (is_leaf, not is_leaf))
        layout = other if any(name not in own for name in values) and all(name in other for name in values) else own
        self._write(address, changed(layout, bits, values))

    def _input(self, iova: int) -> int:
        """The bits of an input address that the tables look at.

        Raises:
            SpecError: it is none of theirs.
        """
        low = iova & ((1 << self.width) - 1)
        extended = iova - low == (1 << 64) - (1 << self.width) and bool(low >> self.width - 1)
        if low != iova and not (self.sign_extended and extended):
            raise SpecError(f"iova {iova:#x} does not lie in a table of {self.width} bits")
        return low

    def _slot(self, table: int, at: int, level: int) -> int:
        """Physical address of the entry of a table that an input address uses."""
        index = at >> self.format.level_shift(level) & ((1 << self.format.index_bits(level, self.levels)) - 1)
        return table + index * self.format.entry_size

    def _behind(self, at: int, page: PageSize, entry_address: int) -> tuple[int, int]:
        """Where to begin to look for the address behind a page: the table that maps both and its level, or the root."""
        index = at >> self.format.level_shift(page.level) & (1 << self.format.index_bits(page.level, self.levels)) - 1
        if not index:
            return self.root, self.levels
        return entry_address + (self._parts(page) - index) * self.format.entry_size, page.level

    def _path(self, at: int, table: int, level: int) -> list[tuple[int, int, Entry]]:
        """Level, address and meaning of each entry on the way from a table of a level to an address."""
        path: list[tuple[int, int, Entry]] = []
        while True:
            address = self._slot(table, at, level)
            entry = self.format.decode(self._read(address), level)
            path.append((level, address, entry))
            if not isinstance(entry, TableEntry) or not 0 < entry.level < level:
                return path
            table, level = entry.address, entry.level

    def _leaf(self, at: int, table: int, level: int) -> tuple[LeafEntry, int]:
        """The page that maps an address, found from a table of a level on, and the address of its first entry."""
        _, address, entry = self._path(at, table, level)[-1]
        if not isinstance(entry, LeafEntry):
            raise SpecError(f"nothing is mapped at {at:#x}")
        return entry, address & -(self._parts(entry.page) * self.format.entry_size)

    def _free_slot(
        self, at: int, address: int, left: int, bounds: range, table: int, level: int
    ) -> tuple[PageSize, int]:
        """The largest page that can be mapped next, and where its entries go; makes the tables above them.

        Args:
            at: its input address,
            address: and its output address.
            left: bytes that are still to be mapped.
            bounds: of its size, bytes.
            table: where to begin to look,
            level: and its level.
        """
        fitting = [
            page
            for page in self.format.page_sizes
            if page.level <= self.levels
            and 1 << page.shift in bounds
            and 1 << page.shift <= left
            and not (at | address) % (1 << page.shift)
        ]
        if not fitting:
            raise SpecError(
                f"no page of this format maps {left:#x} bytes at {at:#x} with {bounds[0]:#x} to {bounds[-1]:#x} each"
            )
        while True:
            entry_address = self._slot(table, at, level)
            for page in reversed(fitting):
                if page.level == level and self._is_free(entry_address, self._parts(page), level):
                    return page, entry_address
            entry = self.format.decode(self._read(entry_address), level)
            if entry is None and level > fitting[0].level:
                bits = self.format.table_entry(self.pages.take(self._table_size(level - 1)), level)
                self._write(entry_address, bits)
                entry = self.format.decode(bits, level)
            if not isinstance(entry, TableEntry) or not fitting[0].level <= entry.level < level:
                raise SpecError(f"iova {at:#x} is mapped already", hint="unmap it first")
            table, level = entry.address, entry.level

    def _is_free(self, address: int, parts: int, level: int) -> bool:
        """Whether nothing is mapped by some entries: they are absent, or lead to tables where nothing is."""
        for entry in range(address, address + parts * self.format.entry_size, self.format.entry_size):
            match self.format.decode(self._read(entry), level):
                case LeafEntry():
                    return False
                case TableEntry(address=table, level=below):
                    if not 0 < below < level or next(self._leaves_below(table, below, 0), None) is not None:
                        return False
        return True

    def _clear(self, start: int, end: int) -> None:
        """Clear the pages of a range, all of which are mapped and lie in it whole."""
        table, level = self.root, self.levels
        while start < end:
            leaf, entry_address = self._leaf(start, table, level)
            for part in range(self._parts(leaf.page)):
                self._write(entry_address + part * self.format.entry_size, 0)
            start += 1 << leaf.page.shift
            table, level = self._behind(start, leaf.page, entry_address)

    def _write_pages(self, entries: int, address: int, size: int, page: PageSize, permissions: Permissions) -> None:
        """Fill `size` bytes' worth of entries with pages of one size."""
        stride = self._parts(page) * self.format.entry_size
        for number in range(size >> page.shift):
            self._write_leaf(entries + number * stride, address + (number << page.shift), page, permissions)

    def _write_leaf(
        self,
        entry_address: int,
        address: int,
        page: PageSize,
        permissions: Permissions,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        for part in range(self._parts(page)):
            bits = self.format.leaf_entry(address, page, part, permissions)
            if overrides:
                bits = changed(self.format.layout(page.level, is_leaf=True), bits, overrides)
            self._write(entry_address + part * self.format.entry_size, bits)

    def _parts(self, page: PageSize) -> int:
        return 1 << page.shift - self.format.level_shift(page.level)

    def _table_size(self, level: int) -> int:
        return self.format.entry_size << self.format.index_bits(level, self.levels)

    def _read(self, address: int) -> int:
        return int.from_bytes(self.pages.memory.read(address, self.format.entry_size), "little")

    def _write(self, address: int, bits: int) -> None:
        self.pages.memory.write(address, bits.to_bytes(self.format.entry_size, "little"))
