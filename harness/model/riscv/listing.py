"""Every page that a device's tables map: the walks of `page_walk`, for all addresses at once.

What is listed is what requests of user privilege reach. What a walk would fault on is left out: a page without A, and
the right to write without D, where hardware does not set these flags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from harness.model.access import PERMISSIONS, Mapping
from harness.model.engine import TableLoop
from harness.model.memory import Memory, OutsideMemory
from harness.model.riscv.device import DeviceContext, FirstStage
from harness.model.riscv.page_walk import USER, WRITE, ImplicitAccess, PageTableWalk
from harness.model.riscv.pages import PTE
from harness.model.riscv.walk_results import PageLeaf

__all__ = ["iter_mappings"]

_A, _D, _N, _PPN = (PTE[name].mask for name in ("A", "D", "N", "PPN"))
_NAPOT_PARTS = 16
_EVERY_RIGHT = 7

_Fetch = Callable[[int, int], bytes | None]


class _Page(NamedTuple):
    """A page of one stage."""

    first: int
    output: int
    size: int
    rights: int


class _Tables(NamedTuple):
    """The tables of one stage, of which the pages from `first` to `last` are asked for."""

    walk: PageTableWalk
    fetch: _Fetch
    sets_flags: bool
    first: int
    last: int


def iter_mappings(
    memory: Memory, limit: int, device: DeviceContext, first: FirstStage, implicit: ImplicitAccess | None
) -> Iterator[Mapping]:
    """Every page, or with two stages every piece that both map, in ascending order.

    Args:
        memory: where the tables are.
        limit: end of the physical addresses.
        device: says the second stage.
        first: the first stage.
        implicit: how the first stage's tables are reached, where there are two stages.

    Raises:
        TableLoop: a table is its own ancestor.
    """

    def fetch_guest_table(table: int, size: int) -> bytes | None:
        """The bytes of a first-stage table; None where they cannot be read."""
        if implicit is None:
            return fetch_table(table, size)
        found = implicit.load(table, None)
        return fetch_table(found.address, size) if isinstance(found, PageLeaf) else None

    def fetch_table(table: int, size: int) -> bytes | None:
        if table + size > limit:
            return None
        try:
            return memory.read(table, size)
        except OutsideMemory:
            return None

    whole = _Page(0, 0, 1 << 64, _EVERY_RIGHT)
    pages: Iterator[_Page] = iter((whole,))
    if first.walk is not None:
        pages = _iter_pages(_tables(first.walk, fetch_guest_table, device.sade), first.root)
    for page in pages:
        if device.second is None:
            yield Mapping(page.first, page.output, page.size, PERMISSIONS[page.rights])
            continue
        end = page.output + page.size
        for inner in _iter_pages(
            _tables(device.second, fetch_table, device.gade, page.output, end - 1), device.second_root
        ):
            start, stop = max(inner.first, page.output), min(inner.first + inner.size, end)
            rights = page.rights & inner.rights
            if rights:
                yield Mapping(
                    page.first + start - page.output,
                    inner.output + start - inner.first,
                    stop - start,
                    PERMISSIONS[rights],
                )


def _tables(walk: PageTableWalk, fetch: _Fetch, sets_flags: bool, first: int = 0, last: int = 1 << 64) -> _Tables:
    return _Tables(walk, fetch, sets_flags, first, min(last, (1 << walk.width) - 1))


def _iter_pages(tables: _Tables, root: int) -> Iterator[_Page]:
    """Every page of a stage, in ascending order of input address."""
    width = tables.walk.width
    upper_half = (1 << 64) - (1 << width) if tables.walk.sign_extended else 0
    for page in _iter_level(tables, root, 0, 0, ()):
        yield page._replace(first=page.first + upper_half) if page.first >> width - 1 else page


def _iter_level(tables: _Tables, table: int, depth: int, base: int, above: tuple[int, ...]) -> Iterator[_Page]:
    walk = tables.walk
    if table in above:
        raise TableLoop(f"stage {walk.stage}", table, base)
    level, shift, index_mask, reserved = walk.levels[depth]
    size = walk.scheme.entry_size
    data = tables.fetch(table, (index_mask + 1) * size)
    if data is None:
        return
    entries = [int.from_bytes(data[at : at + size], walk.order) for at in range(0, len(data), size)]
    index, last = max(tables.first - base, 0) >> shift, min(tables.last - base >> shift, index_mask)
    while index <= last:
        entry, at = entries[index], base + (index << shift)
        if walk.leads_to_table(entry, level):
            yield from _iter_level(tables, (entry & _PPN) << 2, depth + 1, at, (*above, table))
        elif walk.maps_page(entry, reserved) and entry & USER and (entry & _A or tables.sets_flags):
            rights = entry >> 1 & 7
            if not (entry & _D or tables.sets_flags):
                rights &= ~WRITE
            if not entry & _N:
                yield _Page(at, (entry & _PPN) << 2, 1 << shift, rights)
            elif index % _NAPOT_PARTS == 0 and entries[index : index + _NAPOT_PARTS] == [entry] * _NAPOT_PARTS:
                # Svnapot: one page where all of its entries are the same, else as many small ones.
                yield _Page(at, (entry & _PPN) << 2 & ~0xFFFF, _NAPOT_PARTS << shift, rights)
                index += _NAPOT_PARTS - 1
            else:
                yield _Page(at, (entry & _PPN) << 2 & ~0xFFFF | at & 0xF000, 1 << shift, rights)
        index += 1
