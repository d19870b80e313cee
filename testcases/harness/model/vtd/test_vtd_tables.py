"""VT-d tables: builder and walker are inverse, and no table whatever makes the walker raise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.access import Access, AccessKind, Bypassed, Fault, Mapping, Permissions, Translated
from harness.model.engine import TableLoop, translate_range
from harness.model.memory import MappedMemory, Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.vtd import VtdEngine, VtdFaultReason, VtdRegisters, VtdTables
from harness.model.vtd.context import TranslationType
from harness.model.vtd.registers import capabilities

RID = 0x0028
RW = Permissions.READ | Permissions.WRITE
PAGES = {1: 1 << 12, 2: 1 << 21, 3: 1 << 30}
RAM = 1 << 24
_PERMISSIONS = st.sampled_from([Permissions.READ, Permissions.WRITE, RW])


def engine_of(tables: VtdTables, **fields: int) -> VtdEngine:
    registers: dict[str, Any] = {"cap": capabilities(), "ecap": 1 << 6 | 1 << 2 | 1 << 7, "gsts": 1 << 31, **fields}
    return VtdEngine(VtdRegisters(rtaddr=tables.root, **registers), tables.memory)


def access(iova: int, kind: AccessKind = AccessKind.READ, length: int = 1) -> Access:
    return Access(requester=RID, iova=iova, length=length, kind=kind)


@st.composite
def page_mappings(draw: st.DrawFn) -> tuple[int, list[Mapping]]:
    """A number of levels, and disjoint pages of every size to map with that many."""
    levels = draw(st.sampled_from([3, 4, 5]))
    # A gigabyte of input addresses each, so that no two overlap.
    slots = draw(st.lists(st.integers(0, (1 << 9 * (levels - 2)) - 1), min_size=1, max_size=6, unique=True))
    mappings = []
    for slot in sorted(slots):
        size = PAGES[draw(st.sampled_from([1, 2, 3]))]
        iova = (slot << 30) + draw(st.integers(0, (1 << 30) // size - 1)) * size
        address = draw(st.integers(0, (1 << 46) // size - 1)) * size
        mappings.append(Mapping(iova, address, size, draw(_PERMISSIONS)))
    return levels, mappings


def build(levels: int, mappings: Sequence[Mapping]) -> tuple[VtdTables, RadixTable]:
    tables = VtdTables(SparseMemory((Region(0, RAM),)), 0x1000)
    table = tables.attach(RID, 7, levels)
    for mapping in mappings:
        table.map(mapping.iova, mapping.address, mapping.size, mapping.permissions)
    return tables, table


@given(page_mappings())
def test_what_was_built_is_what_is_listed(built: tuple[int, list[Mapping]]) -> None:
    levels, mappings = built
    tables, _ = build(levels, mappings)
    assert list(engine_of(tables).iter_mappings(RID)) == mappings


@given(page_mappings(), st.data())
def test_what_was_built_is_what_is_translated(built: tuple[int, list[Mapping]], data: st.DataObject) -> None:
    levels, mappings = built
    tables, _ = build(levels, mappings)
    mapping = data.draw(st.sampled_from(mappings))
    offset = data.draw(st.integers(0, mapping.size - 1))
    for kind, right in ((AccessKind.READ, Permissions.READ), (AccessKind.WRITE, Permissions.WRITE)):
        request = access(mapping.iova + offset, kind)
        if request.iova >> 20 == 0xFEE:
            continue
        outcome = engine_of(tables).translate(request)
        target = mapping.address + offset
        if right not in mapping.permissions:
            assert isinstance(outcome, Fault)
            assert outcome.level == {size: level for level, size in PAGES.items()}[mapping.size]
        elif target >> 20 == 0xFEE:
            assert isinstance(outcome, Fault)
            assert outcome.code is VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE
        else:
            assert outcome == Translated(target, mapping.size, mapping.permissions)


@given(page_mappings(), st.data())
def test_after_unmap_the_page_faults_and_the_others_stay(built: tuple[int, list[Mapping]], data: st.DataObject) -> None:
    levels, mappings = built
    tables, table = build(levels, mappings)
    gone = data.draw(st.sampled_from(mappings))
    table.unmap(gone.iova, gone.size)
    engine = engine_of(tables)
    assert list(engine.iter_mappings(RID)) == [mapping for mapping in mappings if mapping != gone]
    for kind in (AccessKind.READ, AccessKind.WRITE):
        if gone.iova >> 20 != 0xFEE:
            assert isinstance(engine.translate(access(gone.iova, kind)), Fault)


@settings(max_examples=200)
@given(
    page_mappings(),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 63)), max_size=12),
    st.lists(st.integers(0, (1 << 64) - 1), max_size=8),
    st.sampled_from([0, 7, (1 << 64) - 1]),
)
def test_random_bit_flips_give_an_outcome_for_every_access(
    built: tuple[int, list[Mapping]], flips: list[tuple[int, int]], addresses: list[int], ecap: int
) -> None:
    levels, mappings = built
    tables, _ = build(levels, mappings)
    words = [address for address, value in tables.memory.words() if value]  # type: ignore[attr-defined]
    for word, bit in flips:
        address = words[word % len(words)]
        tables.memory.write_u64(address, tables.memory.read_u64(address) ^ 1 << bit)
    engine = engine_of(tables, ecap=ecap)
    for iova in [mapping.iova for mapping in mappings] + addresses:
        for kind in AccessKind:
            outcome = engine.translate(access(iova, kind))
            assert isinstance(outcome, Translated | Bypassed | Fault)
            assert engine.explain(access(iova, kind)).outcome == outcome


@settings(max_examples=200)
@given(st.binary(min_size=64, max_size=64), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_random_memory_and_registers_give_an_outcome(pattern: bytes, cap: int, iova: int) -> None:
    memory = MappedMemory(pattern * 1024)
    registers = VtdRegisters(rtaddr=0x1000, cap=cap, ecap=cap, gsts=1 << 31)
    outcome = VtdEngine(registers, memory).translate(access(iova))
    assert isinstance(outcome, Translated | Bypassed | Fault)


@given(page_mappings(), st.data())
def test_what_is_listed_translates_to_what_is_listed(built: tuple[int, list[Mapping]], data: st.DataObject) -> None:
    levels, mappings = built
    tables, table = build(levels, mappings)
    victim = data.draw(st.sampled_from(mappings))
    level = data.draw(st.integers({size: level for level, size in PAGES.items()}[victim.size], levels))
    bit = data.draw(st.integers(0, 63).filter(lambda bit: not 12 <= bit < 52))
    address = table.entry_address(victim.iova, level)
    tables.memory.write_u64(address, tables.memory.read_u64(address) ^ 1 << bit)
    engine = engine_of(tables)
    for mapping in list(engine.iter_mappings(RID))[:50]:
        kind = AccessKind.READ if Permissions.READ in mapping.permissions else AccessKind.WRITE
        if 0xFEE in (mapping.iova >> 20, mapping.address >> 20):
            continue
        outcome = engine.translate(access(mapping.iova, kind))
        assert isinstance(outcome, Translated)
        assert (outcome.address, outcome.size) == (mapping.address, mapping.size)
        assert outcome.permissions == mapping.permissions


def test_a_range_takes_the_largest_pages_that_fit() -> None:
    tables, table = build(4, [])
    start = (1 << 30) - PAGES[2] - PAGES[1]
    table.map(start, start, PAGES[1] + PAGES[2] + PAGES[3] + PAGES[2] + PAGES[1])
    sizes = [mapping.size for mapping in engine_of(tables).iter_mappings(RID)]
    assert sizes == [PAGES[1], PAGES[2], PAGES[3], PAGES[2], PAGES[1]]


def test_pages_are_no_larger_than_was_asked_for() -> None:
    tables, table = build(3, [])
    table.map(0, 0, PAGES[3], largest_page=PAGES[2])
    assert {mapping.size for mapping in engine_of(tables).iter_mappings(RID)} == {PAGES[2]}


def test_an_output_address_that_is_not_aligned_takes_small_pages() -> None:
    tables, table = build(4, [])
    table.map(0, PAGES[1], PAGES[2])
    assert {mapping.size for mapping in engine_of(tables).iter_mappings(RID)} == {PAGES[1]}


@pytest.mark.parametrize("size", list(PAGES.values()))
def test_a_page_cannot_be_mapped_twice(size: int) -> None:
    _, table = build(4, [Mapping(0, 0, size, RW)])
    with pytest.raises(SpecError, match="already"):
        table.map(0, 0, PAGES[1])


def test_a_large_page_cannot_be_unmapped_in_part() -> None:
    _, table = build(4, [Mapping(0, 0, PAGES[2], RW)])
    with pytest.raises(SpecError, match="split"):
        table.unmap(0, PAGES[1])


@pytest.mark.parametrize(("iova", "size"), [(1, 4096), (0, 100), (1 << 39, 4096), (0, 0)])
def test_the_builder_refuses_what_is_not_whole_pages_in_its_width(iova: int, size: int) -> None:
    _, table = build(3, [])
    with pytest.raises(SpecError):
        table.map(iova, 0, size)


def test_an_override_builds_an_illegal_leaf() -> None:
    tables, table = build(4, [])
    table.map(0, 0, 4096, overrides={"IW": 1})
    outcome = engine_of(tables).translate(access(0))
    assert isinstance(outcome, Fault)
    assert outcome.code is VtdFaultReason.PAGING_ENTRY_RESERVED


def test_an_unknown_field_is_refused_with_those_there_are() -> None:
    _, table = build(4, [Mapping(0, 0, 4096, RW)])
    with pytest.raises(SpecError, match="ADDR"):
        table.set_fields(0, 1, {"NX": 1})


def test_requesters_with_a_shared_table_see_the_same() -> None:
    tables, table = build(4, [Mapping(0x1000, 0x5000, 4096, RW)])
    tables.attach(0x0130, 7, 4, table=table)
    engine = engine_of(tables)
    assert list(engine.iter_mappings(0x0130)) == list(engine.iter_mappings(RID))


def test_another_requesters_tables_change_nothing() -> None:
    tables, _ = build(4, [Mapping(0x1000, 0x5000, 4096, RW)])
    other = tables.attach(RID + 1, 8, 3)
    other.map(0x1000, 0x9000, 4096)
    assert engine_of(tables).translate(access(0x1000)) == Translated(0x5000, 4096, RW)


def test_a_requester_without_a_context_maps_nothing() -> None:
    tables, _ = build(4, [])
    assert list(engine_of(tables).iter_mappings(0x0500)) == []


def test_pass_through_lists_everything_up_to_the_width() -> None:
    tables, _ = build(3, [])
    tables.set_context_fields(RID, {"TT": TranslationType.PASS_THROUGH})
    assert list(engine_of(tables).iter_mappings(RID)) == [Mapping(0, 0, 1 << 39, RW)]


def test_a_page_beyond_mgaw_is_not_listed() -> None:
    tables, _ = build(4, [Mapping(0, 0, 4096, RW), Mapping(1 << 40, 0, 4096, RW)])
    engine = engine_of(tables, cap=capabilities(guest_address_width=40))
    assert [mapping.iova for mapping in engine.iter_mappings(RID)] == [0]


def test_a_table_that_loops_is_named_when_listed() -> None:
    tables, table = build(4, [Mapping(0, 0, 4096, RW)])
    table.set_fields(0, 2, {"ADDR": table.root})
    with pytest.raises(TableLoop, match=f"{table.root:#x}"):
        list(engine_of(tables).iter_mappings(RID))


def test_a_table_that_loops_still_translates_to_an_end() -> None:
    tables, table = build(4, [Mapping(0, 0, 4096, RW)])
    for level in (4, 3, 2):
        table.set_fields(0, 4, {"ADDR": table.root})
        assert engine_of(tables).translate(access(0)) == Translated(table.root, 4096, RW), level


def test_a_listing_goes_on_past_a_table_outside_of_memory() -> None:
    tables, table = build(4, [Mapping(0, 0, 4096, RW), Mapping(1 << 30, 0, 4096, RW)])
    table.set_fields(0, 2, {"ADDR": RAM})
    assert [mapping.iova for mapping in engine_of(tables).iter_mappings(RID)] == [1 << 30]


def test_a_long_access_is_split_at_pages_and_joined_again() -> None:
    tables, table = build(4, [])
    table.map(0x1000, 0x10000, 0x2000)
    table.map(0x3000, 0x50000, 0x1000)
    pieces = translate_range(engine_of(tables), access(0x1800, length=0x3000))
    assert [(piece.access.iova, piece.access.length) for piece in pieces] == [
        (0x1800, 0x1800),
        (0x3000, 0x1000),
        (0x4000, 0x800),
    ]
    assert isinstance(pieces[2].outcome, Fault)


def test_the_explanation_shows_every_entry_with_its_section() -> None:
    tables, table = build(4, [Mapping(0x1000, 0x5000, 4096, RW)])
    explanation = engine_of(tables).explain(access(0x1004, AccessKind.WRITE))
    assert [step.what for step in explanation.steps] == [
        "GSTS_REG",
        "RTADDR_REG",
        "root-entry [bus 0x00]",
        "context-entry [0x05.0]",
        "SS-PML4E",
        "SS-PDPE",
        "SS-PDE",
        "SS-PTE",
    ]
    last = explanation.steps[-1]
    assert (last.address, last.value) == (table.entry_address(0x1000, 1), 0x5003)
    assert "ADDR=0x5000" in str(explanation)
    assert "VT-d 9.8" in str(explanation)
