"""What table code is asked for, whatever the format: map and unmap, levels, page-size boundaries, splitting.

The list follows the properties that Linux asks of its own page-table code (drivers/iommu/generic_pt, its KUnit tests).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest

from harness.errors import HarnessError, SpecError
from harness.model.access import Permissions
from harness.model.amdvi import GuestFormat, HostFormat
from harness.model.memory import OutsideMemory, Region, SparseMemory
from harness.model.radix import LeafEntry, PageAllocator, RadixTable, TableEntry, TableFormat
from harness.model.riscv.pages import SCHEMES, PteFormat
from harness.model.smmuv3.formats import Stage1Format, Stage2Format
from harness.model.vtd.build.page_formats import FirstStageFormat, SecondStageFormat

RW = Permissions.READ | Permissions.WRITE
_WINDOW = 1 << 26


@dataclass(frozen=True)
class Kind:
    """A format, with the numbers of levels that it has.

    Attributes:
        grows: a level can be put on top of tables in use, since the root's level is told by what points to it.
    """

    name: str
    format: TableFormat
    levels: tuple[int, ...]
    sign_extended: bool = False
    grows: bool = True

    def table(self, levels: int | None = None, ram: int = 1 << 52) -> RadixTable:
        pages = PageAllocator(SparseMemory((Region(0, ram),)), 0x10000)
        return RadixTable(pages, self.format, levels or self.levels[-1], sign_extended=self.sign_extended)


def _arm(stage: type[Stage1Format] | type[Stage2Format], granule: int, bits: int, *, contiguous: bool = False) -> Kind:
    form = stage(granule=granule, input_bits=bits, contiguous=contiguous)
    name = f"Arm {stage.__name__} {1 << granule - 10}K{' contiguous' if contiguous else ''}"
    return Kind(name, form, (form.levels,), grows=False)


KINDS = [
    Kind("VT-d second stage", SecondStageFormat(), (3, 4, 5)),
    Kind("VT-d first stage", FirstStageFormat(), (4, 5), sign_extended=True),
    Kind("AMD-Vi host", HostFormat(), (2, 3, 4)),
    Kind("AMD-Vi host, default sizes", HostFormat(every_size=False), (3, 4, 5)),
    Kind("AMD-Vi guest", GuestFormat(), (4, 5), sign_extended=True),
    *(_arm(Stage1Format, granule, 48) for granule in (12, 14, 16)),
    *(_arm(Stage1Format, granule, 48, contiguous=True) for granule in (12, 14, 16)),
    *(_arm(Stage2Format, granule, 40) for granule in (12, 14, 16)),
    *(
        Kind(
            f"RISC-V {name}",
            PteFormat(scheme),
            (scheme.levels,),
            sign_extended=name in ("Sv39", "Sv48", "Sv57"),
            grows=False,
        )
        for name, scheme in SCHEMES.items()
    ),
]


def of(kinds: list[Kind]) -> pytest.MarkDecorator:
    """A test of some of the formats only: the others do not have what it asks for."""
    return pytest.mark.parametrize("kind", kinds, indirect=True, ids=lambda kind: kind.name)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def mapped(table: RadixTable) -> list[tuple[int, int, int]]:
    """Input address, output address and size of each page."""
    return [(iova, leaf.address, 1 << leaf.page.shift) for iova, leaf in table.leaves()]


def sizes_of(kind: Kind, levels: int, most: int = 1 << 64) -> list[int]:
    return [1 << page.shift for page in kind.format.page_sizes if page.level <= levels and 1 << page.shift <= most]


def test_every_page_size_is_mapped_with_one_leaf_and_unmapped_again(kind: Kind) -> None:
    for levels in kind.levels:
        table = kind.table(levels)
        sizes = [size for size in sizes_of(kind, levels) if 4 * size <= 1 << table.width]
        wanted = []
        at = 256 * sizes[0]
        for size in sizes:
            at = -(-at // size) * size
            table.map(at, 5 * size, size)
            wanted.append((at, 5 * size, size))
            at += size
        assert mapped(table) == wanted
        for iova, _, size in wanted:
            table.unmap(iova, size)
        assert mapped(table) == []


def test_a_leaf_says_what_was_asked_for(kind: Kind) -> None:
    for size in sizes_of(kind, kind.levels[-1]):
        for permissions in (RW, Permissions.READ):
            table = kind.table()
            table.map(0, 3 * size, size, permissions)
            (_, leaf), *rest = table.leaves()
            assert (leaf.address, 1 << leaf.page.shift, rest) == (3 * size, size, [])
            assert leaf.permissions & RW == permissions


def test_small_pages_that_were_unmapped_give_way_to_a_large_one(kind: Kind) -> None:
    sizes = sizes_of(kind, kind.levels[-1], 1 << 22)
    largest = sizes[-1]
    for size in sizes:
        if largest // size > 4096:
            continue
        table = kind.table()
        table.map(largest, 7 * largest, largest, largest_page=size)
        assert {length for _, _, length in mapped(table)} == {size}
        table.unmap(largest, largest // 2 if size < largest else largest)
        if size < largest:
            table.unmap(largest + largest // 2, largest - largest // 2)
        table.map(largest, 7 * largest, largest)
        assert mapped(table) == [(largest, 7 * largest, largest)]


def test_a_range_takes_the_largest_pages_that_fit_at_each_place(kind: Kind) -> None:
    table = kind.table()
    sizes = sizes_of(kind, kind.levels[-1], 1 << 40)
    small, large = sizes[0], sizes[-1]
    start = large - small
    table.map(start, start, large + 2 * small)
    assert mapped(table) == [(start, start, small), (large, large, large), (2 * large, 2 * large, small)]


def test_an_output_address_that_is_not_aligned_takes_small_pages(kind: Kind) -> None:
    sizes = sizes_of(kind, kind.levels[-1])
    small, next_size = sizes[0], sizes[1]
    table = kind.table()
    table.map(0, small, next_size)
    assert {size for _, _, size in mapped(table)} == {small}


def test_a_part_of_a_large_page_is_unmapped_only_by_splitting_it(kind: Kind) -> None:
    sizes = sizes_of(kind, kind.levels[-1], 1 << 32)
    for large in sizes[1:]:
        for small in (sizes[0], sizes[sizes.index(large) - 1]):
            table = kind.table()
            table.map(large, 5 * large, 2 * large, largest_page=large)
            before = mapped(table)
            with pytest.raises(SpecError, match="split"):
                table.unmap(large, small)
            assert mapped(table) == before
            table.unmap(large + small, small, split=True)
            after = mapped(table)
            assert sum(size for _, _, size in after) == 2 * large - small
            assert all(address - iova == 4 * large for iova, address, _ in after)
            assert not any(iova < large + 2 * small and large + small < iova + size for iova, _, size in after)
            assert (2 * large, 6 * large, large) in after


def test_splitting_keeps_permissions_and_addresses(kind: Kind) -> None:
    for large in sizes_of(kind, kind.levels[-1], 1 << 32)[1:]:
        table = kind.table()
        table.map(0, 3 * large, large, Permissions.READ)
        table.split(large // 2)
        leaves = list(table.leaves())
        assert len(leaves) > 1
        assert all(leaf.address - iova == 3 * large for iova, leaf in leaves)
        assert all(leaf.permissions & RW == Permissions.READ for _, leaf in leaves)
        assert sum(1 << leaf.page.shift for _, leaf in leaves) == large
        memory = table.pages.memory
        assert isinstance(memory, SparseMemory)
        assert max(address for address, value in memory.words() if value) < table.pages.next_page


def test_the_smallest_page_cannot_be_split(kind: Kind) -> None:
    table = kind.table()
    table.map(0, 0, table.granule)
    with pytest.raises(SpecError, match="smallest"):
        table.split(0)


@of([kind for kind in KINDS if kind.grows])
def test_a_level_on_top_keeps_what_is_mapped_and_makes_room_for_more(kind: Kind) -> None:
    table = kind.table(kind.levels[0])
    top = 1 << table.width
    table.map(top - table.granule, 0x40000000, table.granule)
    for levels in kind.levels[1:]:
        beyond = 1 << table.width
        with pytest.raises(SpecError):
            table.map(beyond, 0, table.granule)
        table.grow()
        assert table.levels == levels
        table.map(beyond, 0, table.granule)
    assert mapped(table)[0] == (top - table.granule, 0x40000000, table.granule)
    assert len(mapped(table)) == len(kind.levels)


def test_nothing_is_mapped_twice_and_a_refused_range_leaves_nothing_behind(kind: Kind) -> None:
    for size in sizes_of(kind, kind.levels[-1], 1 << 32):
        table = kind.table()
        table.map(4 * size, 0, size)
        before = mapped(table)
        with pytest.raises(SpecError, match="already"):
            table.map(2 * size, 0, 4 * size)
        assert mapped(table) == before


def test_a_page_that_must_not_be_smaller_is_mapped_as_one_or_not_at_all(kind: Kind) -> None:
    for size in sizes_of(kind, kind.levels[-1], 1 << 32)[1:]:
        table = kind.table()
        table.map(0, size, size, smallest_page=size)
        assert mapped(table) == [(0, size, size)]
        table.map(8 * size, 0, table.granule)
        before, memory = mapped(table), table.pages.memory
        assert isinstance(memory, SparseMemory)
        words = dict(memory.words())
        with pytest.raises(SpecError):  # there is a table, with room for smaller ones
            table.map(8 * size, 8 * size, size, smallest_page=size, largest_page=size)
        with pytest.raises(SpecError):  # smaller ones would fit
            table.map(16 * size, 16 * size + table.granule, size, smallest_page=size)
        assert mapped(table) == before
        assert dict(memory.words()) == words


def test_memory_that_runs_out_leaves_nothing_mapped(kind: Kind) -> None:
    probe = kind.table()
    probe.map(0, 0, probe.granule)
    table = kind.table(ram=probe.pages.next_page)
    with pytest.raises(OutsideMemory):
        table.map(0, 0, 2 << table.format.level_shift(2), largest_page=table.granule)
    assert mapped(table) == []


@pytest.mark.parametrize("bad", ["iova", "address", "size", "end"])
def test_what_are_not_whole_pages_within_the_tables_is_refused(kind: Kind, bad: str) -> None:
    table = kind.table()
    page = table.granule
    iova, address, size = {
        "iova": (1, 0, page),
        "address": (0, page // 2, page),
        "size": (0, 0, page + 8),
        "end": ((1 << table.width) - page, 0, 2 * page),
    }[bad]
    with pytest.raises(SpecError):
        table.map(iova, address, size)
    assert mapped(table) == []


def test_a_range_that_ends_below_4_gib_at_no_page_boundary_is_mapped_whole(kind: Kind) -> None:
    table = kind.table()
    page = table.granule
    first, last = 0xFEF80000 // page * page, 0xFEFA0000
    table.map(first, 0x208B95D000 % (1 << 34) // page * page, (last - first) // page * page or page)
    pages = mapped(table)
    assert pages[0][0] == first
    assert all(a[0] + a[2] == b[0] and a[1] + a[2] == b[1] for a, b in pairwise(pages))


@of([kind for kind in KINDS if kind.table().width >= 35])
def test_a_range_of_every_page_size_is_mapped_whole(kind: Kind) -> None:
    table = kind.table()
    page = max(table.granule, 1 << 21)
    first, last = 0x3FE400000 // page * page, 0x4C0600000 // page * page
    table.map(first, first, last - first)
    pages = mapped(table)
    assert (pages[0][0], pages[-1][0] + pages[-1][2]) == (first, last)
    assert all(a[0] + a[2] == b[0] for a, b in pairwise(pages))
    assert all(iova == address for iova, address, _ in pages)


@pytest.mark.parametrize("seed", range(2))
def test_random_rounds_of_map_and_unmap_agree_with_a_dict(kind: Kind, seed: int) -> None:
    rng = random.Random(seed)
    table = kind.table()
    page = table.granule
    window = min(_WINDOW, 1 << table.width - 1)
    model: dict[int, tuple[int, int]] = {}
    for _ in range(20):
        start = rng.randrange(window // page) * page
        size = min(rng.choice([1, 3, 16, 100, 512, 513]) * page, window - start)
        address = start + rng.choice([0, page, 1 << 31])
        clashes = [at for at, (length, _) in model.items() if at < start + size and start < at + length]
        if clashes:
            with pytest.raises(SpecError, match="already"):
                table.map(start, address, size)
            for at in clashes:
                table.unmap(at, model.pop(at)[0])
        table.map(start, address, size)
        model[start] = (size, address)
    everything = mapped(table)
    assert sum(length for _, _, length in everything) == sum(size for size, _ in model.values())
    for at, (size, address) in model.items():
        pages = [entry for entry in everything if at <= entry[0] < at + size]
        assert pages[0][:2] == (at, address)
        assert sum(length for _, _, length in pages) == size
        assert all(target - iova == address - at for iova, target, _ in pages)
    for at, (size, _) in model.items():
        table.unmap(at, size)
    assert mapped(table) == []


def test_an_entry_is_found_at_each_level_on_the_way_down(kind: Kind) -> None:
    table = kind.table()
    table.map(0, 0, table.granule)
    for level in range(1, table.levels + 1):
        bits = table.pages.memory.read(table.entry_address(0, level), table.format.entry_size)
        entry = table.format.decode(int.from_bytes(bits, "little"), level)
        assert isinstance(entry, LeafEntry if level == 1 else TableEntry)
    with pytest.raises(SpecError, match="level"):
        table.entry_address(1 << table.width - 2, 1)


def test_the_upper_half_is_reached_by_sign_extended_addresses_only(kind: Kind) -> None:
    table = kind.table()
    upper = (1 << 64) - table.granule
    if kind.sign_extended:
        table.map(upper, 0, table.granule)
        assert mapped(table) == [((1 << table.width) - table.granule, 0, table.granule)]
        with pytest.raises(SpecError):
            table.map(1 << table.width, 0, table.granule)
    else:
        with pytest.raises(HarnessError):
            table.map(upper, 0, table.granule)
