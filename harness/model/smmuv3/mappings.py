"""Lists what translation tables map: every page of a stage, and of stage 1 through stage 2."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from harness.model.access import PERMISSIONS, Mapping
from harness.model.engine import TableLoop
from harness.model.memory import Memory, OutsideMemory
from harness.model.smmuv3.descriptors import level_shift
from harness.model.smmuv3.events import Smmuv3EventClass
from harness.model.smmuv3.permissions import READ
from harness.model.smmuv3.stages import Output, check_leaf, translate_stage2
from harness.model.smmuv3.walk import Level, Table, WalkFault

__all__ = ["iter_stage1", "iter_stage2"]

# A stage 1 table is read in pieces no larger than the smallest page of stage 2.
_PIECE = 4096


class _Leaf(NamedTuple):
    """A page of one stage, and the rights that it gives."""

    input: int
    output: int
    size: int
    rights: int


def iter_stage2(memory: Memory, table: Table, *, privileged: bool) -> Iterator[Mapping]:
    """Every page of stage 2, from IPA to physical address.

    Raises:
        TableLoop: a table is its own ancestor.
    """
    for leaf in _iter_leaves(memory, table, None, privileged=privileged):
        yield Mapping(leaf.input, leaf.output, leaf.size, PERMISSIONS[leaf.rights])


def iter_stage1(memory: Memory, table: Table, outer: Table | None, *, privileged: bool) -> Iterator[Mapping]:
    """Every page of stage 1, through stage 2 where there is one, in pieces that both map as a whole.

    Raises:
        TableLoop: a table is its own ancestor.
    """
    if table.no_unprivileged and not privileged:
        return
    for leaf in _iter_leaves(memory, table, outer, privileged=privileged):
        if outer is None:
            yield Mapping(leaf.input, leaf.output, leaf.size, PERMISSIONS[leaf.rights])
            continue
        done = 0
        while done < leaf.size:
            ipa = leaf.output + done
            output = _outer(memory, outer, ipa, Smmuv3EventClass.IN, privileged=privileged)
            if isinstance(output, WalkFault):
                if output.level is None:
                    break
                done += 1 << level_shift(outer.granule, output.level)
                continue
            # Pages of both stages are aligned to their sizes: the smaller one lies within the larger.
            size = min(1 << output.shift, leaf.size)
            if output.rights & leaf.rights:
                yield Mapping(leaf.input + done, output.address, size, PERMISSIONS[output.rights & leaf.rights])
            done += size


def _outer(
    memory: Memory, table: Table, ipa: int, event_class: Smmuv3EventClass, *, privileged: bool = False
) -> Output | WalkFault:
    return translate_stage2(
        memory,
        table,
        ipa,
        READ if event_class is Smmuv3EventClass.TT else 0,
        privileged=privileged,
        dirties=False,
        event_class=event_class,
        writes=[],
        trace=None,
    )


def _iter_leaves(memory: Memory, table: Table, outer: Table | None, *, privileged: bool) -> Iterator[_Leaf]:
    for address, output, level, entry, hierarchy in _iter_level(
        memory, table, outer, table.levels, table.base, table.region, 0, ()
    ):
        # The same for an access that needs nothing: only the Access flag can stop it.
        checked = check_leaf(table, entry, hierarchy, 0, privileged, False)
        if isinstance(checked, tuple) and checked[0]:
            yield _Leaf(address, output, 1 << level.shift, checked[0])


def _iter_level(
    memory: Memory,
    table: Table,
    outer: Table | None,
    levels: tuple[Level, ...],
    base: int,
    first: int,
    hierarchy: int,
    above: tuple[int, ...],
) -> Iterator[tuple[int, int, Level, int, int]]:
    """Input and output address, level, descriptor and hierarchical bits of each leaf below a table."""
    if base in above:
        raise TableLoop(f"stage {table.stage}", base, first)
    level = levels[0]
    for index, entry in _iter_entries(memory, outer, base, level.index_mask + 1):
        if table.big_endian:
            entry = int.from_bytes(entry.to_bytes(8, "big"), "little")
        kind = entry & 0b11
        found = entry & table.address_mask | (entry & table.wide_mask) << table.wide_shift
        address = first + (index << level.shift)
        if found >> table.output_bits:
            continue
        if kind == level.leaf_type:
            output = found >> level.shift << level.shift
            yield address, output, level, entry, hierarchy >> 59 & table.hierarchy
        elif kind == 0b11:
            below = (*above, base)
            yield from _iter_level(memory, table, outer, levels[1:], found, address, hierarchy | entry, below)


def _iter_entries(memory: Memory, outer: Table | None, base: int, count: int) -> Iterator[tuple[int, int]]:
    """Every entry of a table that is not zero, with its index; what cannot be read is left out."""
    end = base + 8 * count
    at = base
    while at < end:
        size = min(_PIECE - at % _PIECE, end - at)
        address = at
        if outer is not None:
            output = _outer(memory, outer, at, Smmuv3EventClass.TT)
            if isinstance(output, WalkFault):
                at += size
                continue
            address = output.address
        try:
            entries = struct.unpack(f"<{size // 8}Q", memory.read(address, size))
        except OutsideMemory:
            entries = ()
        for number, entry in enumerate(entries):
            if entry:
                yield (at - base) // 8 + number, entry
        at += size
