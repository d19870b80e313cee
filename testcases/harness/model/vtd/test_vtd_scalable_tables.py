"""Scalable-mode tables: builder and walker are inverse, and no table whatever makes the walker raise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vtd_units import EVERYTHING, IOVA, OUTPUT, PASID, RID, Unit

from harness.errors import SpecError
from harness.model.access import Access, AccessKind, AddressType, Bypassed, Fault, Mapping, Permissions, Translated
from harness.model.engine import AccessCrossesPage, TableLoop, translate_range
from harness.model.memory import MappedMemory, Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.vtd import (
    FirstStageFormat,
    SecondStageFormat,
    VtdEngine,
    VtdFaultReason,
    VtdRegisters,
    VtdScalableTables,
)
from harness.model.vtd.registers import capabilities

R, W = Permissions.READ, Permissions.WRITE
RW = R | W
PAGES = {1: 1 << 12, 2: 1 << 21, 3: 1 << 30}
RAM = 1 << 24
KINDS = {AccessKind.READ: R, AccessKind.WRITE: W}
ECAP = EVERYTHING.encode()
# Guest-physical pages of first-stage tables are those of the host, below this; pages are above.
TABLES = 1 << 30


def is_interrupt(address: int) -> bool:
    return address >> 20 == 0xFEE


def engine_of(tables: VtdScalableTables, **fields: int) -> VtdEngine:
    registers: dict[str, Any] = {"cap": capabilities(), "ecap": ECAP, "gsts": 1 << 31, "ver": 0x40, **fields}
    return VtdEngine(VtdRegisters(rtaddr=tables.root | 1 << 10, **registers), tables.memory)


def access(iova: int, kind: AccessKind = AccessKind.READ, length: int = 1, **fields: object) -> Access:
    return Access(requester=RID, iova=iova, length=length, kind=kind, **fields)  # type: ignore[arg-type]


def new_tables() -> VtdScalableTables:
    tables = VtdScalableTables(SparseMemory((Region(0, RAM),)), 0x1000)
    tables.attach(RID, pasid=True, device_tlb=True)
    return tables


@st.composite
def page_mappings(draw: st.DrawFn, *, first: bool) -> tuple[int, list[Mapping]]:
    """A number of levels, and disjoint pages of every size to map with that many, in ascending order."""
    levels = draw(st.sampled_from([4, 5] if first else [3, 4, 5]))
    # A gigabyte of input addresses each, so that no two overlap; of first-stage ones the upper half is at the top.
    slots = draw(st.lists(st.integers(0, (1 << 9 * (levels - 2)) - 1), min_size=1, max_size=4, unique=True))
    permissions = st.sampled_from([R, RW] if first else [R, W, RW])
    mappings = []
    for slot in sorted(slots):
        size = PAGES[draw(st.sampled_from([1, 2, 3]))]
        iova = (slot << 30) + draw(st.integers(0, (1 << 30) // size - 1)) * size
        if first and iova >> 11 + 9 * levels:
            iova += (1 << 64) - (1 << 12 + 9 * levels)
        address = draw(st.integers(0, (1 << 38) // size - 1)) * size
        mappings.append(Mapping(iova, address, size, draw(permissions)))
    return levels, mappings


Built = tuple[VtdScalableTables, RadixTable, list[Mapping]]


@st.composite
def built(draw: st.DrawFn) -> Built:
    """One stage with pages, for requests without PASID."""
    first = draw(st.booleans())
    levels, mappings = draw(page_mappings(first=first))
    tables = new_tables()
    format = FirstStageFormat() if first else SecondStageFormat()
    table = RadixTable(tables.pages, format, levels, sign_extended=first)
    tables.attach_pasid(RID, 7, first_stage=table if first else None, second_stage=None if first else table)
    for mapping in mappings:
        table.map(mapping.iova, mapping.address, mapping.size, mapping.permissions)
    return tables, table, mappings


def reach(mapping: Mapping, offset: int, engine: VtdEngine) -> None:
    """An access to a mapped address is translated, if the mapping allows it."""
    for kind, right in KINDS.items():
        request = access(mapping.iova + offset, kind)
        target = mapping.address + offset
        if is_interrupt(request.iova):
            continue
        outcome = engine.translate(request)
        if right not in mapping.permissions or is_interrupt(target):
            assert isinstance(outcome, Fault)
        else:
            assert isinstance(outcome, Translated)
            assert (outcome.address, outcome.size) == (target, mapping.size)
            assert outcome.permissions == mapping.permissions


@given(built())
def test_what_was_built_is_what_is_listed(unit: Built) -> None:
    tables, _, mappings = unit
    assert list(engine_of(tables).iter_mappings(RID)) == mappings


@given(built(), st.data())
def test_what_was_built_is_what_is_translated(unit: Built, data: st.DataObject) -> None:
    tables, _, mappings = unit
    mapping = data.draw(st.sampled_from(mappings))
    reach(mapping, data.draw(st.integers(0, mapping.size - 1)), engine_of(tables))


@settings(max_examples=40)
@given(built(), st.data())
def test_after_unmap_the_page_faults_and_the_others_stay(unit: Built, data: st.DataObject) -> None:
    tables, table, mappings = unit
    gone = data.draw(st.sampled_from(mappings))
    table.unmap(gone.iova, gone.size)
    engine = engine_of(tables)
    assert list(engine.iter_mappings(RID)) == [mapping for mapping in mappings if mapping != gone]
    for kind in KINDS:
        if not is_interrupt(gone.iova):
            assert isinstance(engine.translate(access(gone.iova, kind)), Fault)


@settings(max_examples=40)
@given(built(), st.data())
def test_a_right_that_any_entry_loses_is_lost(unit: Built, data: st.DataObject) -> None:
    tables, table, mappings = unit
    mapping = data.draw(st.sampled_from(mappings))
    before = engine_of(tables)
    kinds = [kind for kind in KINDS if isinstance(before.translate(access(mapping.iova, kind)), Translated)]
    level = data.draw(st.integers({size: level for level, size in PAGES.items()}[mapping.size], table.levels))
    first = isinstance(table.format, FirstStageFormat)
    right = data.draw(st.sampled_from(["P", "RW", "US"] if first else ["R", "W"]))
    table.set_fields(mapping.iova, level, {right: 0})
    after = engine_of(tables)
    for kind in KINDS:
        outcome = after.translate(access(mapping.iova, kind))
        if isinstance(outcome, Translated):
            assert kind in kinds
            assert outcome.permissions in mapping.permissions


@st.composite
def nested(draw: st.DrawFn) -> tuple[VtdScalableTables, list[Mapping], list[Mapping]]:
    """Two stages: pages from input to guest-physical addresses, and from there to host addresses, some missing."""
    tables = new_tables()
    first = RadixTable(tables.pages, FirstStageFormat(), 4)
    second = RadixTable(tables.pages, SecondStageFormat(), 4)
    tables.attach_pasid(RID, 7, first_stage=first, second_stage=second)
    second.map(0, 0, RAM)
    upper, lower = [], []
    for slot in draw(st.lists(st.integers(1, 60), min_size=1, max_size=3, unique=True)):
        sizes = [draw(st.sampled_from([1 << 12, 1 << 21])) for _ in "12"]
        size = max(sizes)
        guest, host = TABLES + (slot << 22), (1 << 33) + (draw(st.integers(0, 60)) << 22)
        rights = [draw(st.sampled_from([R, RW])), draw(st.sampled_from([R, W, RW]))]
        first.map(slot << 22, guest, size, rights[0], largest_page=sizes[0])
        upper.append(Mapping(slot << 22, guest, size, rights[0]))
        if draw(st.booleans()):
            second.map(guest, host, size, rights[1], largest_page=sizes[1])
            lower.append(Mapping(guest, host, size, rights[1]))
    return tables, upper, lower


@settings(max_examples=40)
@given(nested(), st.data())
def test_nested_translation_is_one_stage_after_the_other(
    unit: tuple[VtdScalableTables, list[Mapping], list[Mapping]], data: st.DataObject
) -> None:
    tables, upper, lower = unit
    mapping = data.draw(st.sampled_from(upper))
    offset = data.draw(st.integers(0, mapping.size - 1))
    below = [entry for entry in lower if entry.iova == mapping.address]
    for kind, right in KINDS.items():
        outcome = engine_of(tables).translate(access(mapping.iova + offset, kind))
        if below and right in mapping.permissions & below[0].permissions:
            assert isinstance(outcome, Translated)
            assert outcome.address == below[0].address + offset
            assert outcome.permissions == mapping.permissions & below[0].permissions
        else:
            assert isinstance(outcome, Fault)
            assert outcome.stage == (1 if right not in mapping.permissions else 2)


@settings(max_examples=40)
@given(nested())
def test_nested_listing_is_what_is_translated(unit: tuple[VtdScalableTables, list[Mapping], list[Mapping]]) -> None:
    tables, upper, lower = unit
    engine = engine_of(tables)
    listed = list(engine.iter_mappings(RID))
    for mapping in listed[:20] + listed[-20:]:
        reach(mapping, mapping.size - 1, engine)
    whole = {
        entry.iova: entry.size
        for entry in upper
        for other in lower
        if other.iova == entry.address and other.permissions & entry.permissions
    }
    assert sum(mapping.size for mapping in listed) == sum(whole.values())


ACCESSES = st.builds(
    access,
    iova=st.integers(0, (1 << 64) - 1),
    kind=st.sampled_from(AccessKind),
    length=st.just(0) | st.just(1),
    pasid=st.none() | st.integers(0, (1 << 20) - 1) | st.sampled_from([PASID, 1, 2]),
    privileged=st.booleans(),
    address_type=st.sampled_from(AddressType),
)


def ends_in_an_outcome(engine: VtdEngine, request: Access) -> None:
    outcome = engine.translate(request)
    assert isinstance(outcome, Translated | Bypassed | Fault)
    assert engine.explain(request).outcome == outcome
    assert str(engine.explain(request))
    if isinstance(outcome, Fault) and outcome.record is not None:
        assert str(outcome.record)
    if isinstance(outcome, Translated | Fault):
        for write in outcome.writes:
            # A flag that is set is the only thing that changes.
            before = engine.memory.read_u64(write.address)
            assert before & int.from_bytes(write.data, "little") == before


@settings(max_examples=100)
@given(
    st.sampled_from(["first", "second", "nested", ""]),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 63)), max_size=8),
    st.lists(ACCESSES, max_size=5),
    st.sampled_from([0, ECAP, (1 << 64) - 1]),
    st.integers(0, 255),
)
def test_random_bit_flips_give_an_outcome_for_every_access(
    stages: str, flips: list[tuple[int, int]], accesses: list[Access], ecap: int, version: int
) -> None:
    unit = Unit(stages, PWSNP=1, SSADE=1, EAFE=1, SRE=1)
    unit.attach(stages, PASID, PWSNP=1)
    words = [address for address, value in unit.memory.words() if value]
    for word, bit in flips:
        address = words[word % len(words)]
        unit.memory.write_u64(address, unit.memory.read_u64(address) ^ 1 << bit)
    registers = VtdRegisters(rtaddr=unit.rtaddr, cap=unit.cap, ecap=ecap, gsts=unit.gsts, ver=version)
    engine = VtdEngine(registers, unit.memory)
    for request in [*accesses, *(access(IOVA, kind, pasid=pasid) for kind in AccessKind for pasid in (None, PASID))]:
        ends_in_an_outcome(engine, request)


@settings(max_examples=200)
@given(
    st.binary(min_size=64, max_size=64),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 3),
    st.integers(0, (1 << 32) - 1),
    ACCESSES,
)
def test_random_memory_and_registers_give_an_outcome(
    pattern: bytes, cap: int, ecap: int, mode: int, pmen: int, request: Access
) -> None:
    registers = VtdRegisters(
        rtaddr=0x1000 | mode << 10, cap=cap, ecap=ecap, gsts=1 << 31, pmen=pmen, plmlimit=pmen, phmlimit=cap
    )
    ends_in_an_outcome(VtdEngine(registers, MappedMemory(pattern * 1024)), request)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 63)), max_size=6),
    st.sampled_from(["first", "second", "nested"]),
)
@settings(max_examples=50)
def test_what_is_listed_translates_to_what_is_listed(flips: list[tuple[int, int]], stages: str) -> None:
    unit = Unit(stages)
    table = unit.first if stages != "second" else unit.second
    addresses = [table.entry_address(IOVA, level) for level in range(1, table.levels + 1)]
    for choice, bit in flips:
        address = addresses[choice % len(addresses)]
        unit.memory.write_u64(address, unit.memory.read_u64(address) ^ 1 << bit)
    engine = engine_of(unit.tables)
    try:
        listed = list(zip(engine.iter_mappings(RID), range(20), strict=False))
    except TableLoop:
        return
    for mapping, _ in listed:
        kind = AccessKind.READ if R in mapping.permissions else AccessKind.WRITE
        if is_interrupt(mapping.iova) or is_interrupt(mapping.address):
            continue
        outcome = engine.translate(access(mapping.iova, kind))
        # A listing does not look at flags, which a walk without snooping cannot set.
        if isinstance(outcome, Fault) and outcome.code is VtdFaultReason.FIRST_STAGE_FLAGS_NOT_SNOOPED:
            continue
        assert isinstance(outcome, Translated)
        assert (outcome.address, outcome.permissions) == (mapping.address, mapping.permissions)


@settings(max_examples=40)
@given(built(), st.data())
def test_a_long_access_is_the_sum_of_its_pieces(unit: Built, data: st.DataObject) -> None:
    tables, _, mappings = unit
    mapping = data.draw(st.sampled_from(mappings))
    engine = engine_of(tables)
    start = mapping.iova + data.draw(st.integers(0, mapping.size - 1))
    if is_interrupt(start) or is_interrupt(start + 0x3000) or start + 0x3000 >= 1 << 64:
        return
    pieces = translate_range(engine, access(start, length=0x3000))
    assert sum(piece.access.length for piece in pieces) == 0x3000
    with pytest.raises(AccessCrossesPage):
        engine.translate(access(start, length=0x3000))
    for piece in pieces:
        first = engine.translate(access(piece.access.iova, length=1))
        assert type(first) is type(piece.outcome)


@settings(max_examples=40)
@given(built(), st.integers(0, 0xFFFF), st.integers(1, 0x1FFF))
def test_tables_of_another_requester_or_pasid_change_nothing(unit: Built, other: int, pasid: int) -> None:
    tables, _, mappings = unit
    before = [engine_of(tables).translate(access(mapping.iova)) for mapping in mappings]
    if other != RID:
        tables.attach(other)
        tables.attach_pasid(other, 9)
    tables.attach_pasid(RID, 9, pasid=pasid)
    assert [engine_of(tables).translate(access(mapping.iova)) for mapping in mappings] == before


def test_pasid_entry_stands_in_memory_as_the_specification_has_it_9_6() -> None:
    """Written by hand: nested, AW 4 levels, SSADE, DID 0x1234, PWSNP, PGSNP, SRE, 5 levels, WPE, EAFE."""
    memory = SparseMemory((Region(0, RAM),))
    tables = VtdScalableTables(memory, 0x1000)
    tables.attach(RID, directory_size=2, pasid=True)
    first = RadixTable(tables.pages, FirstStageFormat(), 5)
    second = RadixTable(tables.pages, SecondStageFormat(), 4)
    options = {"SSADE": 1, "PWSNP": 1, "PGSNP": 1, "SRE": 1, "WPE": 1, "EAFE": 1}
    tables.attach_pasid(RID, 0x1234, pasid=PASID, first_stage=first, second_stage=second, overrides=options)
    root = memory.read_u64(tables.root + 0x10 * (RID >> 8))
    assert root & 0xFFF == 1
    context = (root & ~0xFFF) + 0x20 * (RID & 0x7F)
    low = memory.read_u64(context)
    assert low & 0xFFF == 1 | 1 << 3 | 2 << 9
    directory = memory.read_u64((low & ~0xFFF) + 8 * (PASID >> 6))
    assert directory & 0xFFF == 1
    entry = (directory & ~0xFFF) + 0x40 * (PASID & 63)
    words = [memory.read_u64(entry + offset) for offset in range(0, 64, 8)]
    assert words == [
        1 | 2 << 2 | 3 << 6 | 1 << 9 | second.root,
        0x1234 | 1 << 23 | 1 << 24,
        1 | 1 << 2 | 1 << 4 | 1 << 7 | first.root,
        *[0] * 5,
    ]


@pytest.mark.parametrize(
    ("format", "table", "leaf"),
    [
        (FirstStageFormat(), 0x5027, 0x0000_4000_0067),
        (FirstStageFormat(user=False, preset_flags=False), 0x5007, 0x0000_4000_0003),
        (SecondStageFormat(), 0x5003, 0x0000_4000_0003),
        (SecondStageFormat(io_permissions=True), 0x5000 | 3 << 61, 0x4000_0000 | 3 << 61),
    ],
)
def test_paging_entries_are_the_bits_that_the_specification_has_9_7_9_8(
    format: FirstStageFormat | SecondStageFormat, table: int, leaf: int
) -> None:
    assert format.table_entry(0x5000, 2) == table
    assert format.leaf_entry(0x4000_0000, format.page_sizes[0], 0, RW) == leaf
    # PS is bit 7, in larger pages alone.
    assert format.leaf_entry(0x4000_0000, format.page_sizes[2], 0, RW) == leaf | 1 << 7


def test_first_stage_pages_cannot_be_write_only() -> None:
    with pytest.raises(SpecError, match="can be read"):
        FirstStageFormat().leaf_entry(0x1000, FirstStageFormat().page_sizes[0], 0, W)


def test_builder_refuses_a_requester_that_is_not_attached() -> None:
    with pytest.raises(SpecError, match="not attached"):
        new_tables().attach_pasid(0x0500, 1)


@pytest.mark.parametrize("stages", ["first", "second", "nested"])
def test_a_table_that_loops_is_named_when_listed_and_translates_to_an_end(stages: str) -> None:
    unit = Unit(stages)
    table = unit.second if stages == "second" else unit.first
    table.set_fields(IOVA, 2, {"ADDR": table.root})
    with pytest.raises(TableLoop, match=f"{table.root:#x}"):
        list(unit.engine.iter_mappings(RID))
    assert isinstance(unit.access(), Translated | Fault)


def test_a_pasid_that_is_not_let_in_maps_nothing() -> None:
    unit = Unit("second")
    unit.attach("second", PASID)
    assert list(unit.engine.iter_mappings(RID, PASID)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)]
    assert list(unit.engine.iter_mappings(RID, PASID + 1)) == []
    unit.tables.set_context_fields(RID, {"PASIDE": 0})
    assert list(unit.engine.iter_mappings(RID, PASID)) == []
    assert list(unit.engine.iter_mappings(0x0500)) == []


def test_pass_through_lists_everything_up_to_the_host_width() -> None:
    assert list(Unit("").engine.iter_mappings(RID)) == [Mapping(0, 0, 1 << 46, RW)]


def test_supervisor_pages_are_not_listed_for_a_request_without_privilege() -> None:
    unit = Unit("first")
    unit.first.set_fields(IOVA, 1, {"US": 0})
    assert list(unit.engine.iter_mappings(RID)) == []
