"""The walk of a VMSAv8-64 translation table, at either stage, down to a Block or Page descriptor.

Faults come in the order of IHI 0070 7.3.22: input range, then for each level the fetch, the descriptor's type and
the address in it; Access flag and permission are checked on the last descriptor (`harness.model.smmuv3.stages`).

The Contiguous bit and nT are hints for caches: a walk ignores them, and each entry of a contiguous set stands for
itself. Reserved bits of descriptors are ignored, as the architecture has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory
from harness.model.smmuv3.descriptors import (
    BLOCK_LEVELS,
    STAGE1_LEAF,
    STAGE1_TABLE,
    STAGE2_LEAF,
    STAGE2_TABLE,
    address_mask,
    arm_level,
    level_shift,
    wide_bits,
)
from harness.model.smmuv3.events import Smmuv3EventClass, Smmuv3EventType
from harness.model.smmuv3.permissions import Rights

__all__ = [
    "ACCESS_FLAG",
    "NOT_GLOBAL",
    "Found",
    "Level",
    "Table",
    "WalkFault",
    "Walked",
    "give_reason",
    "is_global_page",
    "make_table",
    "walk",
]

ACCESS_FLAG = STAGE1_LEAF["AF"].mask
NOT_GLOBAL = STAGE1_LEAF["NG"].mask

_TYPE = Smmuv3EventType
_IN, _TT = Smmuv3EventClass.IN, Smmuv3EventClass.TT
# Bits 1:0 of a descriptor; in the last level 0b11 is a Page, above it a Table.
_PAGE = _TABLE = 0b11
_BLOCK = 0b01
_NO_LEAF = -1
_CONCATENATED = "a concatenated table"
# What a stage 2 walk is for.
_STAGE2_OF = {
    _IN: ", stage 2",
    _TT: ", stage 2 of a descriptor",
    Smmuv3EventClass.CD: ", stage 2 of a CD",
}
_LAYOUTS = {
    (1, False): STAGE1_TABLE,
    (1, True): STAGE1_LEAF,
    (2, False): STAGE2_TABLE,
    (2, True): STAGE2_LEAF,
}


class Level(NamedTuple):
    """What a walk needs to know of a level.

    Attributes:
        level: 1 for the last.
        shift: log2 of the bytes that an entry covers.
        index_mask: bits of the index into the table; in the topmost table it is as wide as the input needs.
        leaf_type: bits 1:0 of a Page (level 1) or Block descriptor; -1 where there are no blocks.
    """

    level: int
    shift: int
    index_mask: int
    leaf_type: int


class Table(NamedTuple):
    """One translation table, ready to be walked: TTB0 or TTB1 of a CD, or S2TTB of an STE.

    Attributes:
        stage: 1 or 2.
        granule: log2 of the granule.
        base: address of the topmost table, aligned as the architecture has it.
        input_bits: bits of input address.
        levels: from the topmost to the last.
        address_mask: bits of a descriptor that hold an address in place.
        wide_mask: bits that hold higher ones,
        wide_shift: moved up by so much.
        output_bits: addresses with bits from here on are an Address Size fault.
        big_endian: ENDI.
        hierarchy: bits 3:0 of a Table descriptor's attributes that count: 15, or 0 where HAD disables them.
        rights: by privilege and index, as `permissions` has it.
        sets_access_flag: HA.
        sets_dirty_state: HD.
        ignores_access_flag: AFFD.
        dirty: value of bit 7 of a descriptor that is writable: 0 at stage 1, 0x80 at stage 2.
        domain: VMID with which an implementation tags what it caches of the table,
        space: and ASID; None at stage 2, and in EL2's own regime.
        region: first input address: 0, or where the upper half of the address space begins that TTB1 serves.
        no_unprivileged: E0PD of the TTBx.
        device_mask: stage 2 with PTW: MemAttr bits that are all 0 in device memory; otherwise 0.
    """

    stage: int
    granule: int
    base: int
    input_bits: int
    levels: tuple[Level, ...]
    address_mask: int
    wide_mask: int
    wide_shift: int
    output_bits: int
    big_endian: bool
    hierarchy: int
    rights: Rights
    sets_access_flag: bool
    sets_dirty_state: bool
    ignores_access_flag: bool
    dirty: int
    domain: int
    space: int | None
    region: int
    no_unprivileged: bool
    device_mask: int


class Found(NamedTuple):
    """The Block or Page descriptor that a walk ends at.

    Attributes:
        entry: its 64 bits, in little-endian order whatever ENDI says.
        fetched_from: physical address of the descriptor.
        table_address: the same before stage 2, where stage 1 is nested in it.
        address: output address, of the first byte of the access.
        level: 1 for the last.
        shift: log2 of the page's bytes.
        hierarchy: PXNTable, UXNTable and APTable of the Table descriptors above, as bits 0 to 3.
    """

    entry: int
    fetched_from: int
    table_address: int
    address: int
    level: int
    shift: int
    hierarchy: int


class WalkFault(NamedTuple):
    """Why a translation ends without a page.

    Attributes:
        event: its type.
        stage: 1 or 2.
        level: of the descriptor that stopped it, 1 for the last; None where no descriptor did.
        event_class: CLASS.
        ipa: input of the stage 2 translation that failed; 0 at stage 1.
        fetch_address: of the descriptor that could not be read.
        table_read: TTRnW.
        is_global: stage 1 has come to a page that serves every ASID, and caches may hold that.
    """

    event: Smmuv3EventType
    stage: int
    level: int | None
    event_class: Smmuv3EventClass
    ipa: int = 0
    fetch_address: int = 0
    table_read: bool = True
    is_global: bool = False


def make_table(
    *,
    stage: int,
    granule: int,
    base: int,
    input_bits: int,
    levels: int,
    large: bool,
    wide: bool,
    output_bits: int,
    big_endian: bool,
    hierarchy: int,
    rights: Rights,
    sets_access_flag: bool,
    sets_dirty_state: bool,
    ignores_access_flag: bool,
    domain: int,
    space: int | None = None,
    region: int = 0,
    no_unprivileged: bool = False,
    device_mask: int = 0,
) -> Table:
    """A table of that many levels; `large` is an OAS of 52 bits, `wide` is DS. See `Table` for the rest."""
    steps = []
    for level in range(levels, 0, -1):
        shift = level_shift(granule, level)
        bits = input_bits - shift if level == levels else granule - 3
        # DDI 0487 D8: 52-bit addresses add blocks at one more level, with a 64 KB granule or with DS.
        top_block = BLOCK_LEVELS[granule][-1] + 1
        has_blocks = level in BLOCK_LEVELS[granule] or (level == top_block and (large if granule == 16 else wide))
        leaf_type = _PAGE if level == 1 else _BLOCK if has_blocks else _NO_LEAF
        steps.append(Level(level, shift, (1 << bits) - 1, leaf_type))
    wide_mask, wide_shift = wide_bits(granule, large=large, wide=wide)
    # The topmost table is aligned to its size, and to 64 bytes at least where the output has 52 bits (IHI 0070 5.4).
    size = 8 * (steps[0].index_mask + 1)
    return Table(
        stage,
        granule,
        base & -(max(size, 64) if output_bits == 52 else size),
        input_bits,
        tuple(steps),
        address_mask(granule, wide=wide),
        wide_mask,
        wide_shift,
        output_bits,
        big_endian,
        hierarchy,
        rights,
        sets_access_flag,
        sets_dirty_state and sets_access_flag,
        ignores_access_flag,
        0 if stage == 1 else 0x80,
        domain,
        space,
        region,
        no_unprivileged,
        device_mask,
    )


Walked = Found | WalkFault


def walk(
    memory: Memory,
    table: Table,
    address: int,
    event_class: Smmuv3EventClass,
    outer: Callable[[int], int | WalkFault] | None,
    trace: list[Step] | None,
) -> Walked:
    """Walk down to the page of an address.

    Args:
        memory: where the tables are.
        table: the topmost one.
        address: input address within `table.input_bits` (stage 1: its low bits).
        event_class: CLASS of a stage 2 walk: what its input address is for.
        outer: translates the address of a stage 1 descriptor at stage 2; None where there is none.
        trace: takes a step for each descriptor; None for speed.
    """
    read_u64 = memory.read_u64
    table_mask, wide_mask, wide_shift, output_bits = (
        table.address_mask,
        table.wide_mask,
        table.wide_shift,
        table.output_bits,
    )
    big_endian = table.big_endian
    base = table.base
    hierarchy = 0
    for level, shift, index_mask, leaf_type in table.levels:
        index = address >> shift & index_mask
        at = fetched_from = base + (index << 3)
        if outer is not None:
            translated = outer(at)
            if isinstance(translated, WalkFault):
                return translated
            fetched_from = translated
        try:
            entry = read_u64(fetched_from)
        except OutsideMemory:
            if trace is not None:
                trace.append(Step(_name(table.stage, level), "DDI 0487 D8", fetched_from, note="no memory there"))
                give_reason(trace, "not readable", table, event_class)
            # 7.3.12: at stage 1 CLASS is TT, at stage 2 it is that of the address being translated.
            if table.stage == 1:
                return WalkFault(_TYPE.F_WALK_EABT, 1, level, _TT, fetch_address=fetched_from)
            return WalkFault(_TYPE.F_WALK_EABT, 2, level, event_class, fetch_address=fetched_from)
        if big_endian:
            entry = int.from_bytes(entry.to_bytes(8, "big"), "little")
        kind = entry & 0b11
        found = entry & table_mask | (entry & wide_mask) << wide_shift
        if trace is not None:
            is_leaf, is_valid = kind == leaf_type, kind in (leaf_type, _TABLE) and not found >> output_bits
            tags = _tags(table, level, address, entry, is_leaf=is_leaf) if is_valid else None
            reason = _CONCATENATED if index >> table.granule - 3 else ""
            trace.append(_step(table, level, fetched_from, entry, tags, reason, is_leaf=is_leaf))
        if kind not in (leaf_type, _TABLE):
            # Not valid, or a type that the level does not have.
            is_block = kind == _BLOCK and level > 1
            give_reason(trace, "a Block descriptor at such a level" if is_block else "not valid", table, event_class)
            return _stopped(_TYPE.F_TRANSLATION, table, level, event_class, address)
        if found >> output_bits:
            give_reason(trace, "of a page" if kind == leaf_type else "of a table", table, event_class)
            return _stopped(_TYPE.F_ADDR_SIZE, table, level, event_class, address)
        if kind == leaf_type:
            offset_mask = (1 << shift) - 1
            output = found & ~offset_mask | address & offset_mask
            return Found(entry, fetched_from, at, output, level, shift, hierarchy >> 59 & table.hierarchy)
        hierarchy |= entry
        base = found
    raise AssertionError("level 1 has no Table descriptors")


def give_reason(trace: list[Step] | None, reason: str, table: Table, event_class: Smmuv3EventClass) -> None:
    """Note why a walk ends in a fault at the last step: which check of which stage, and of the translation of what."""
    if trace:
        what = "" if table.stage == 1 else _STAGE2_OF[event_class]
        before = f"{_CONCATENATED}; " if trace[-1].reason == _CONCATENATED else ""
        trace[-1] = replace(trace[-1], reason=f"{before}{reason}{what}")


def _stopped(
    event: Smmuv3EventType, table: Table, level: int, event_class: Smmuv3EventClass, address: int
) -> WalkFault:
    if table.stage == 1:
        return WalkFault(event, 1, level, _IN)
    return WalkFault(event, 2, level, event_class, address)


def _step(
    table: Table, level: int, address: int, entry: int, cached: CachedEntry | None, reason: str, *, is_leaf: bool
) -> Step:
    layout = _LAYOUTS[table.stage, is_leaf]
    # A step shows the entry as it stands in memory, and its fields as the walk reads them.
    value = int.from_bytes(entry.to_bytes(8, "big"), "little") if table.big_endian else entry
    name, fields = _name(table.stage, level), layout.describe(entry)
    return Step(name, layout.section, address, value, fields, cached=cached, reason=reason)


def _tags(table: Table, level: int, address: int, entry: int, *, is_leaf: bool) -> CachedEntry | None:
    """How an implementation may keep a valid descriptor; one that faults for its Access flag is never kept."""
    if is_leaf and not (entry & ACCESS_FLAG or table.sets_access_flag or table.ignores_access_flag):
        return None
    shift = level_shift(table.granule, level)
    first = table.region | address >> shift << shift
    is_global = is_leaf and is_global_page(table, entry)
    return CachedEntry(
        kind=EntryKind.LEAF if is_leaf else EntryKind.TABLE,
        domain=table.domain,
        space=None if is_global else table.space,
        stage=table.stage,
        first=first,
        last=first + (1 << shift) - 1,
        is_global=is_global,
        granule=table.granule,
        level=level,
    )


def is_global_page(table: Table, entry: int) -> bool:
    """Whether a Block or Page descriptor of stage 1 serves every ASID."""
    return table.space is not None and not entry & NOT_GLOBAL


def _name(stage: int, level: int) -> str:
    return f"stage {stage} level {arm_level(level)} descriptor"
