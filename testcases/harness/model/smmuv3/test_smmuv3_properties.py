"""Properties of the SMMUv3 model: builder and walker are inverse, anything leads to an outcome, rights only narrow."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from smmuv3_unit import ENABLED, IOVA, IPA, OUTPUT, RAM, SID, Unit

from harness.model.access import (
    PERMISSIONS,
    Access,
    AccessKind,
    AddressType,
    Bypassed,
    Fault,
    Permissions,
    Translated,
)
from harness.model.engine import TableLoop, translate_range
from harness.model.memory import Region, SparseMemory
from harness.model.radix import PageAllocator, RadixTable
from harness.model.smmuv3 import Smmuv3Engine, Smmuv3Event, Smmuv3Registers, Stage1Format, Stage2Format
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.registers import REGISTER_OFFSETS

GRANULES = [12, 14, 16]
STAGE1_RIGHTS = [Permissions(bits) for bits in (1, 3, 4, 5, 7)]
LARGE = {"address_bits": 52, "VAX": 1, "DS": 1}


def formats() -> st.SearchStrategy[Stage1Format | Stage2Format]:
    def make(stage: int, granule: int, wide: bool, contiguous: bool, size: int) -> Stage1Format | Stage2Format:
        kind = Stage1Format if stage == 1 else Stage2Format
        return kind(granule, size if not wide else 52, 52 if wide else 48, contiguous)

    return st.builds(
        make,
        st.sampled_from([1, 2]),
        st.sampled_from(GRANULES),
        st.booleans(),
        st.booleans(),
        st.sampled_from([31, 36, 40, 43, 48]),
    )


def attach(unit: Unit, entries: Stage1Format | Stage2Format) -> RadixTable:
    # Stage 2 has no level 0 with 16 KB and 48 bits: it joins two tables of level 1 instead.
    joined = isinstance(entries, Stage2Format) and entries.granule == 14 and entries.address_bits == 48
    table = RadixTable(unit.pages, entries, min(entries.levels, 3) if joined else entries.levels)
    if isinstance(entries, Stage1Format):
        unit.cd.describe(0, table)
    else:
        unit.tables.attach(SID, None, table)
    return table


@given(entries=formats(), data=st.data())
@settings(max_examples=50, deadline=None)
def test_what_the_builder_maps_the_walker_finds(entries: Stage1Format | Stage2Format, data: st.DataObject) -> None:
    unit = Unit(caps=dict(LARGE) if entries.address_bits == 52 else {})
    table = attach(unit, entries)
    page = data.draw(st.sampled_from([size for size in entries.page_sizes if size.level <= table.levels]))
    assume(page.shift < table.width)
    iova = data.draw(st.integers(0, (1 << table.width - page.shift) - 1)) << page.shift
    output = data.draw(st.integers(0, (1 << entries.address_bits - page.shift) - 1)) << page.shift
    rights = data.draw(st.sampled_from(STAGE1_RIGHTS if isinstance(entries, Stage1Format) else PERMISSIONS[1:]))
    table.map(iova, output, 1 << page.shift, rights)
    offset = data.draw(st.integers(0, (1 << page.shift) - 1)) & ~0xF
    needed = {AccessKind.READ: 1, AccessKind.WRITE: 2, AccessKind.EXECUTE: 4}
    for kind, bit in needed.items():
        outcome = unit.access(kind, iova=iova + offset)
        if bit & rights.value:
            assert isinstance(outcome, Translated), outcome
            assert (outcome.address, outcome.permissions) == (output + offset, rights)
            assert outcome.size == 1 << min(page.shift, entries.level_shift(page.level))
        else:
            assert isinstance(outcome, Fault)
    found = list(unit.engine().iter_mappings(SID))
    assert sum(mapping.size for mapping in found) == 1 << page.shift
    assert all(mapping.address - mapping.iova == output - iova and mapping.permissions == rights for mapping in found)
    if page != entries.page_sizes[0]:
        table.split(iova)
        again = unit.access(kind=next(k for k, bit in needed.items() if bit & rights.value), iova=iova + offset)
        assert isinstance(again, Translated)
        assert (again.address, again.permissions) == (output + offset, rights)
    else:
        table.unmap(iova, 1 << page.shift)
        assert isinstance(unit.access(iova=iova + offset), Fault)
        assert list(unit.engine().iter_mappings(SID)) == []


@given(granule=st.sampled_from(GRANULES), seed=st.integers(0, 1 << 32))
@settings(max_examples=6, deadline=None)
def test_many_pages_map_and_unmap_in_any_order(granule: int, seed: int) -> None:
    chance = random.Random(seed)
    unit = Unit()
    table = attach(unit, Stage1Format(granule))
    page = 1 << granule
    wanted: dict[int, int] = {}
    for _ in range(40):
        iova = chance.randrange(1 << 48 - granule) * page if chance.random() < 0.5 else chance.randrange(64) * page
        if iova in wanted:
            table.unmap(iova, page)
            del wanted[iova]
        else:
            wanted[iova] = chance.randrange(1 << 48 - granule) * page
            table.map(iova, wanted[iova], page)
    assert {m.iova: m.address for m in unit.engine().iter_mappings(SID)} == wanted


@given(
    levels=st.sampled_from([(12, 2, 31), (12, 2, 34), (12, 3, 43), (14, 2, 40), (14, 3, 48), (16, 2, 46), (16, 3, 48)]),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_tables_side_by_side_are_built_as_they_are_walked(levels: tuple[int, int, int], data: st.DataObject) -> None:
    granule, count, size = levels
    unit = Unit("2")
    table = RadixTable(unit.pages, Stage2Format(granule, size), count)
    unit.tables.attach(SID, None, table)
    iova = data.draw(st.integers(0, (1 << size - granule) - 1)) << granule
    table.map(iova, OUTPUT, 1 << granule)
    outcome = unit.access(iova=iova)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT


def accesses() -> st.SearchStrategy[Access]:
    return st.builds(
        lambda requester, iova, kind, pasid, privileged, address_type: Access(
            requester=requester,
            iova=iova & ~7,
            length=8,
            kind=kind,
            pasid=pasid,
            privileged=privileged,
            address_type=address_type,
        ),
        st.one_of(st.just(SID), st.integers(0, (1 << 32) - 1)),
        st.one_of(st.integers(0, (1 << 64) - 1), st.integers(IOVA, IOVA + 0xFFF)),
        st.sampled_from(list(AccessKind)),
        st.one_of(st.none(), st.integers(0, 3), st.integers(0, (1 << 20) - 1)),
        st.booleans(),
        st.sampled_from(list(AddressType)),
    )


def assert_outcome(engine: Smmuv3Engine, access: Access) -> None:
    outcome = engine.translate(access)
    assert isinstance(outcome, Translated | Bypassed | Fault)
    assert engine.explain(access).outcome == outcome
    assert str(engine.explain(access))
    if isinstance(outcome, Fault) and outcome.record is not None:
        record = outcome.record
        assert isinstance(record, Smmuv3Event)
        assert Smmuv3Event.decode(record.encode()) == record


WORDS = st.integers(0, (1 << 32) - 1)


@given(access=accesses(), idr=st.tuples(WORDS, WORDS, WORDS, WORDS), data=st.data(), seed=st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_random_registers_and_memory_lead_to_an_outcome(
    access: Access, idr: tuple[int, int, int, int], data: st.DataObject, seed: int
) -> None:
    values = {name: data.draw(st.integers(0, (1 << 8 * size) - 1)) for name, (_, size) in REGISTER_OFFSETS.items()}
    values["strtab_base"] &= 0xFFFF
    capabilities = Smmuv3Capabilities(idr0=idr[0], idr1=idr[1], idr3=idr[2], idr5=idr[3])
    memory = SparseMemory((Region(0, 0x2_0000),))
    memory.write(0, random.Random(seed).randbytes(0x2_0000))
    assert_outcome(Smmuv3Engine(Smmuv3Registers(capabilities=capabilities, **values), memory), access)


@given(
    stages=st.sampled_from(["1", "2", "12"]),
    granule=st.sampled_from(GRANULES),
    access=accesses(),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 511)), max_size=6),
    caps=st.fixed_dictionaries(
        {},
        optional={
            "ATS": st.just(1),
            "HYP": st.just(1),
            "TTENDIAN": st.integers(0, 3),
            "HTTU": st.integers(0, 3),
            "address_bits": st.sampled_from([32, 40, 44, 52]),
            "DS": st.just(1),
            "STALL_MODEL": st.integers(0, 3),
        },
    ),
    cr0=st.sampled_from([ENABLED, ENABLED | 0x10]),
)
@settings(max_examples=110, deadline=None)
def test_tables_with_flipped_bits_lead_to_an_outcome(
    stages: str,
    granule: int,
    access: Access,
    flips: list[tuple[int, int]],
    caps: dict[str, object],
    cr0: int,
) -> None:
    unit = Unit(
        stages, granule=granule, granule2=granule, substream_bits=2, caps=caps, registers={"cr0": cr0, "cr2": 0xA}
    )
    # What a walk of the mapped page reads is where a flipped bit matters.
    walk = Access(requester=SID, iova=IOVA, length=4, kind=AccessKind.READ)
    read = [step for step in unit.engine().explain(walk).steps if step.address is not None]
    for where, bit in flips:
        if not read:
            break
        step = read[where % len(read)]
        assert step.address is not None
        at = step.address + bit // 8 % step.size
        unit.memory.write(at, bytes([unit.memory.read(at, 1)[0] ^ 1 << bit % 8]))
    engine = unit.engine()
    assert_outcome(engine, access)
    assert_outcome(engine, walk)
    try:
        for number, mapping in enumerate(engine.iter_mappings(SID)):
            assert mapping.size > 0
            assert mapping.permissions
            if number > 200:
                break
    except TableLoop:
        pass


def test_tables_of_random_words_are_listed_in_bounded_depth() -> None:
    chance = random.Random(4)
    memory = SparseMemory((Region(0, 0x8000),))
    unit = Unit()
    memory.write(0, chance.randbytes(0x8000))
    registers = replace(unit.all_registers(), strtab_base=0, strtab_base_cfg=5)
    engine = Smmuv3Engine(registers, memory)
    for stream in range(32):
        list(zip(engine.iter_mappings(stream), range(10), strict=False))


# Metamorphic properties.


@given(start=st.integers(0, 0x7FFF), length=st.integers(0, 0x3000))
@settings(max_examples=60, deadline=None)
def test_splitting_an_access_at_page_boundaries_changes_nothing(start: int, length: int) -> None:
    unit = Unit()
    unit.tree.map(IOVA + 0x1000, OUTPUT + 0x1000, 0x2000)
    unit.tree.map(IOVA + 0x4000, OUTPUT, 0x2000, Permissions.READ)
    engine = unit.engine()
    access = Access(requester=SID, iova=IOVA + start, length=length, kind=AccessKind.READ)
    for piece in translate_range(engine, access):
        for offset in {0, max(piece.access.length - 1, 0)}:
            byte = replace(piece.access, iova=piece.access.iova + offset, length=min(piece.access.length, 1))
            outcome = engine.translate(byte)
            if isinstance(piece.outcome, Translated):
                assert isinstance(outcome, Translated)
                assert outcome.address == piece.outcome.address + offset
            else:
                assert isinstance(outcome, Fault)


TAKES_AWAY = [
    ("1", 1, "AP", 0b10),
    ("1", 1, "UXN", 1),
    ("1", 1, "PXN", 1),
    ("1", 2, "APTABLE", 0b01),
    ("1", 3, "APTABLE", 0b10),
    ("1", 2, "UXNTABLE", 1),
    ("1", 4, "PXNTABLE", 1),
    ("2", 1, "S2AP", 0b01),
    ("2", 1, "S2AP", 0b00),
    ("2", 1, "XN", 0b10),
]


@pytest.mark.parametrize(("stage", "level", "field", "value"), TAKES_AWAY)
@pytest.mark.parametrize("kind", list(AccessKind))
@pytest.mark.parametrize("privileged", [False, True])
def test_permissions_only_narrow_down_a_walk(
    stage: str, level: int, field: str, value: int, kind: AccessKind, privileged: bool
) -> None:
    unit = Unit("12")
    unit.tree.set_fields(IOVA, 1, {"AP": 0b11, "UXN": 0, "PXN": 0})
    unit.outer.set_fields(IPA, 1, {"XN": 0})
    before = unit.access(kind, privileged=privileged)
    if stage == "1":
        unit.tree.set_fields(IOVA, level, {field: value})
    else:
        unit.outer.set_fields(IPA, level, {field: value})
    after = unit.access(kind, privileged=privileged)
    if isinstance(after, Translated):
        assert isinstance(before, Translated)
        assert after.permissions in before.permissions


@given(
    stages=st.sampled_from(["1", "2", "12"]),
    iova=st.integers(0, (1 << 36) - 1),
    output=st.integers(0, (1 << 36) - 1),
)
@settings(max_examples=50, deadline=None)
def test_unmapping_always_faults_and_leaves_other_pages_alone(stages: str, iova: int, output: int) -> None:
    unit = Unit(stages)
    iova, output = iova & ~0xFFF, output & ~0xFFF
    assume(iova != IOVA)
    if stages == "12":
        unit.tree.map(iova, IPA, 0x1000)
    else:
        unit.tree.map(iova, output, 0x1000)
    other = unit.access()
    assert isinstance(unit.access(iova=iova), Translated)
    unit.tree.unmap(iova, 0x1000)
    assert isinstance(unit.access(iova=iova), Fault)
    assert unit.access() == other


@given(changes=st.lists(st.tuples(st.integers(0, 0xFFF), st.integers(0, (1 << 64) - 1)), max_size=20))
@settings(max_examples=40, deadline=None)
def test_changes_to_another_streams_tables_change_nothing(changes: list[tuple[int, int]]) -> None:
    unit = Unit()
    before = unit.access()
    pages = PageAllocator(unit.memory, RAM - 0x10_0000)
    entries = Stage1Format()
    table = RadixTable(pages, entries, entries.levels)
    table.map(IOVA, OUTPUT + 0x1000, 0x1000)
    contexts = type(unit.cd)(pages)
    contexts.describe(0, table)
    unit.tables.attach(SID + 1, contexts)
    for offset, word in changes:
        unit.memory.write_u64(table.root + (offset & ~7), word)
    assert unit.access() == before
