"""AMD-Vi tables: builder and walkers are inverse, and no tables or registers whatever make the engine raise."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from amdvi_unit import DOMAIN, GUEST_BASE, IOVA, OUTPUT, RID, Unit, nested_unit
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.access import Access, AccessKind, AddressType, Bypassed, Fault, Mapping, Permissions, Translated
from harness.model.amdvi import AmdviEngine, AmdviRegisters, Gcr3Table, GuestFormat, HostFormat
from harness.model.engine import Interrupt, MsiWrite, PostedInterrupt, TableLoop, translate_range
from harness.model.memory import MappedMemory
from harness.model.radix import PageSize, RadixTable, TableFormat

RW = Permissions.READ | Permissions.WRITE
PASID = 5
_HOST_PERMISSIONS = [Permissions.READ, Permissions.WRITE, RW]
_GUEST_PERMISSIONS = [
    Permissions.READ,
    RW,
    Permissions.READ | Permissions.EXECUTE,
    RW | Permissions.EXECUTE,
]
_NEEDS = {
    AccessKind.READ: Permissions.READ,
    AccessKind.WRITE: Permissions.WRITE,
    AccessKind.EXECUTE: Permissions.EXECUTE,
}


def access(iova: int, kind: AccessKind = AccessKind.READ, *, length: int = 1, pasid: int | None = None) -> Access:
    return Access(requester=RID, iova=iova, length=length, kind=kind, pasid=pasid)


def is_special(address: int) -> bool:
    return address >> 20 == 0xFEE or 0xFD_0000_0000 <= address <= 0xFF_FFFF_FFFF


@st.composite
def page_mappings(
    draw: st.DrawFn, table_format: TableFormat, levels: Sequence[int], permissions: Sequence[Permissions]
) -> tuple[int, list[Mapping]]:
    """A number of levels, and disjoint pages of every size of a format to map with that many."""
    depth = draw(st.sampled_from(levels))
    width = min(3 + 9 * (depth + 1), 64)
    mappings: list[Mapping] = []
    sizes = [page for page in table_format.page_sizes if page.level <= depth and page.shift < width]
    for _ in range(draw(st.integers(1, 6))):
        shift = draw(st.sampled_from(sizes)).shift
        iova = draw(st.integers(0, (1 << width - shift) - 1)) << shift
        address = draw(st.integers(0, (1 << 52 - shift) - 1)) << shift
        new = Mapping(iova, address, 1 << shift, draw(st.sampled_from(permissions)))
        if all(new.iova + new.size <= old.iova or old.iova + old.size <= new.iova for old in mappings):
            mappings.append(new)
    return depth, sorted(mappings, key=lambda mapping: mapping.iova)


HOST = page_mappings(HostFormat(), (1, 2, 3, 4, 5, 6), _HOST_PERMISSIONS)
# 47 or 56 bits of guest addresses, so that none is in the sign-extended half.
GUEST = page_mappings(GuestFormat(), (4, 5), _GUEST_PERMISSIONS).filter(
    lambda built: built[1][-1].iova < 1 << 11 + 9 * built[0]
)


def fill(table: RadixTable, mappings: Sequence[Mapping]) -> None:
    for mapping in mappings:
        table.map(mapping.iova, mapping.address, mapping.size, mapping.permissions)


def host_unit(levels: int, mappings: Sequence[Mapping]) -> tuple[Unit, RadixTable]:
    unit = Unit()
    table = unit.tables.attach(RID, DOMAIN, levels)
    fill(table, mappings)
    return unit, table


def guest_unit(levels: int, mappings: Sequence[Mapping]) -> tuple[Unit, RadixTable]:
    unit = Unit()
    gcr3 = Gcr3Table(unit.tables.pages)
    unit.tables.attach_guest(RID, DOMAIN, gcr3, levels=levels)
    table = gcr3.add(PASID, levels)
    fill(table, mappings)
    return unit, table


BUILDS: list[tuple[Callable[[int, Sequence[Mapping]], tuple[Unit, RadixTable]], int | None]] = [
    (host_unit, None),
    (guest_unit, PASID),
]
EITHER = st.one_of(HOST.map(lambda built: (0, *built)), GUEST.map(lambda built: (1, *built)))


def make(built: tuple[int, int, list[Mapping]]) -> tuple[Unit, RadixTable, list[Mapping], int | None]:
    which, levels, mappings = built
    build, pasid = BUILDS[which]
    unit, table = build(levels, mappings)
    return unit, table, mappings, pasid


@settings(deadline=None)
@given(EITHER)
def test_what_was_built_is_what_is_listed(built: tuple[int, int, list[Mapping]]) -> None:
    unit, _, mappings, pasid = make(built)
    assert list(unit.engine().iter_mappings(RID, pasid)) == mappings


@settings(deadline=None)
@given(EITHER, st.data())
def test_what_was_built_is_what_is_translated(built: tuple[int, int, list[Mapping]], data: st.DataObject) -> None:
    unit, _, mappings, pasid = make(built)
    mapping = data.draw(st.sampled_from(mappings))
    offset = data.draw(st.integers(0, mapping.size - 1))
    if is_special(mapping.iova + offset):
        return
    for kind, right in _NEEDS.items():
        if kind is AccessKind.EXECUTE and pasid is None:
            continue
        outcome = unit.engine().translate(access(mapping.iova + offset, kind, pasid=pasid))
        if right in mapping.permissions:
            assert outcome == Translated(mapping.address + offset, mapping.size, mapping.permissions)
        else:
            assert isinstance(outcome, Fault)


@settings(deadline=None)
@given(EITHER, st.data())
def test_after_unmap_the_page_faults_and_the_others_stay(
    built: tuple[int, int, list[Mapping]], data: st.DataObject
) -> None:
    unit, table, mappings, pasid = make(built)
    gone = data.draw(st.sampled_from(mappings))
    table.unmap(gone.iova, gone.size)
    engine = unit.engine()
    assert list(engine.iter_mappings(RID, pasid)) == [mapping for mapping in mappings if mapping != gone]
    for kind in AccessKind:
        if not is_special(gone.iova):
            assert isinstance(engine.translate(access(gone.iova, kind, pasid=pasid)), Fault)


@settings(deadline=None)
@given(EITHER, st.data())
def test_a_permission_that_is_taken_away_only_narrows(
    built: tuple[int, int, list[Mapping]], data: st.DataObject
) -> None:
    unit, table, mappings, pasid = make(built)
    before = unit.engine()
    seen = {
        (mapping.iova, kind): before.translate(access(mapping.iova, kind, pasid=pasid))
        for mapping in mappings
        for kind in AccessKind
    }
    victim = data.draw(st.sampled_from(mappings))
    names = ("IR", "IW") if pasid is None else ("RW", "US")
    leaf = next(page.level for page in table.format.page_sizes if 1 << page.shift == victim.size)
    level = data.draw(st.integers(leaf, table.levels))
    table.set_fields(victim.iova, level, {data.draw(st.sampled_from(names)): 0})
    after = unit.engine()
    for (iova, kind), outcome in seen.items():
        now = after.translate(access(iova, kind, pasid=pasid))
        if isinstance(now, Translated):
            assert isinstance(outcome, Translated)
            assert (now.address, now.size) == (outcome.address, outcome.size)
            assert now.permissions & ~outcome.permissions == Permissions.NONE
        else:
            assert isinstance(now, Fault | Bypassed)


@settings(deadline=None)
@given(EITHER, st.data())
def test_splitting_an_access_at_pages_changes_nothing(
    built: tuple[int, int, list[Mapping]], data: st.DataObject
) -> None:
    unit, _, mappings, pasid = make(built)
    mapping = data.draw(st.sampled_from(mappings))
    start = mapping.iova + data.draw(st.integers(0, min(mapping.size, 0x4000) - 1))
    length = data.draw(st.integers(1, 0x3000))
    if is_special(start) or is_special(start + length) or start + length > 1 << 64:
        return
    engine = unit.engine()
    for piece in translate_range(engine, access(start, length=length, pasid=pasid)):
        for offset in (0, piece.access.length - 1):
            single = engine.translate(access(piece.access.iova + offset, pasid=pasid))
            if isinstance(piece.outcome, Fault):
                assert isinstance(single, Fault)
                assert single.code is piece.outcome.code
            else:
                assert single == replace(piece.outcome, address=piece.outcome.address + offset)


@settings(deadline=None)
@given(EITHER)
def test_an_unrelated_device_and_domain_change_nothing(built: tuple[int, int, list[Mapping]]) -> None:
    unit, _, mappings, pasid = make(built)
    before = list(unit.engine().iter_mappings(RID, pasid))
    other = unit.tables.attach(RID + 1, DOMAIN + 1, 4)
    other.map(0, 0, 1 << 22)
    unit.tables.attach_interrupts(RID + 1)
    engine = unit.engine()
    assert list(engine.iter_mappings(RID, pasid)) == before == mappings
    assert [mapping.size for mapping in engine.iter_mappings(RID + 1)] == [1 << 22]


@settings(deadline=None)
@given(HOST, st.sampled_from([0, 1, 2, 3]))
def test_the_device_table_entry_narrows_every_page(built: tuple[int, list[Mapping]], rights: int) -> None:
    levels, mappings = built
    unit, _ = host_unit(levels, mappings)
    unit.set(IR=rights & 1, IW=rights >> 1)
    allowed = Permissions(rights)
    expected = [
        replace(mapping, permissions=mapping.permissions & allowed)
        for mapping in mappings
        if mapping.permissions & allowed
    ]
    assert list(unit.engine().iter_mappings(RID)) == expected


# Random changes


def words_of(unit: Unit) -> list[int]:
    return sorted(address for address, value in unit.memory.words() if value)


@settings(max_examples=150, deadline=None)
@given(
    EITHER,
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 63)), max_size=12),
    st.lists(st.integers(0, (1 << 64) - 1), max_size=6),
)
def test_random_bit_flips_give_an_outcome_for_every_access(
    built: tuple[int, int, list[Mapping]], flips: list[tuple[int, int]], addresses: list[int]
) -> None:
    unit, _, mappings, pasid = make(built)
    words = words_of(unit)
    for word, bit in flips:
        address = words[word % len(words)]
        unit.memory.write_u64(address, unit.memory.read_u64(address) ^ 1 << bit)
    check_outcomes(unit.engine(), [mapping.iova for mapping in mappings] + addresses, (None, pasid, 0x1_0000))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 63)), min_size=1, max_size=12))
def test_random_bit_flips_in_nested_tables_give_an_outcome(flips: list[tuple[int, int]]) -> None:
    unit, _, _ = nested_unit()
    words = words_of(unit)
    for word, bit in flips:
        address = words[word % len(words)]
        unit.memory.write_u64(address, unit.memory.read_u64(address) ^ 1 << bit)
    check_outcomes(unit.engine(), [IOVA, OUTPUT, 0], (None, PASID))


def check_outcomes(engine: AmdviEngine, addresses: Sequence[int], pasids: Sequence[int | None]) -> None:
    for iova in addresses:
        for pasid in pasids:
            for kind in AccessKind:
                request = access(iova, kind, pasid=pasid)
                outcome = engine.translate(request)
                assert isinstance(outcome, Translated | Bypassed | Fault)
                assert engine.explain(request).outcome == outcome


@settings(max_examples=300, deadline=None)
@given(
    st.binary(min_size=64, max_size=64),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.one_of(st.none(), st.integers(0, (1 << 20) - 1)),
    st.sampled_from(AddressType),
)
def test_random_memory_and_registers_give_an_outcome(
    pattern: bytes, feature: int, control: int, iova: int, pasid: int | None, address_type: AddressType
) -> None:
    memory = MappedMemory(pattern * 1024)
    registers = AmdviRegisters(
        device_table_base=feature ^ control,
        device_table_segments=(control,) * 7,
        extended_feature=feature,
        control=control | 1,
        exclusion_base=iova ^ 3,
        exclusion_limit=control,
        extended_feature_2=feature,
    )
    for engine in (
        AmdviEngine(registers, memory),
        AmdviEngine(replace(registers, device_table_base=0xF, control=1 | control & 1 << 16), memory),
    ):
        request = Access(
            requester=RID, iova=iova, length=1, kind=AccessKind.WRITE, pasid=pasid, address_type=address_type
        )
        outcome = engine.translate(request)
        assert isinstance(outcome, Translated | Bypassed | Fault)
        assert engine.explain(request).outcome == outcome
        message = MsiWrite(requester=iova & 0xFFFF, address=0xFEE0_0000, data=feature & 0xFFFF_FFFF)
        assert isinstance(engine.remap_msi(message), Interrupt | PostedInterrupt | Fault)


@settings(max_examples=60, deadline=None)
@given(EITHER, st.data())
def test_what_is_listed_translates_to_what_is_listed(
    built: tuple[int, int, list[Mapping]], data: st.DataObject
) -> None:
    unit, table, mappings, pasid = make(built)
    victim = data.draw(st.sampled_from(mappings))
    leaf = next(page.level for page in table.format.page_sizes if 1 << page.shift == victim.size)
    level = data.draw(st.integers(leaf, table.levels))
    bit = data.draw(st.integers(0, 63).filter(lambda bit: not 12 <= bit < 52))
    address = table.entry_address(victim.iova, level)
    unit.memory.write_u64(address, unit.memory.read_u64(address) ^ 1 << bit)
    engine = unit.engine()
    listed = engine.iter_mappings(RID, pasid)
    for mapping, _ in zip(listed, range(50), strict=False):
        kind = AccessKind.READ if Permissions.READ in mapping.permissions else AccessKind.WRITE
        if is_special(mapping.iova):
            continue
        request = Access(requester=RID, iova=mapping.iova, length=1, kind=kind, pasid=pasid, privileged=True)
        outcome = engine.translate(request)
        assert isinstance(outcome, Translated)
        assert outcome.address == mapping.address
        assert outcome.permissions == mapping.permissions


# Listing


def test_one_changed_entry_of_a_page_is_listed_by_itself() -> None:
    unit, table = host_unit(3, [Mapping(0, 0x8000, 0x8000, RW)])
    table.set_fields(0x3000, 1, {"IW": 0})
    expected = [Mapping(0x1000 * n, 0x8000 + 0x1000 * n, 0x1000, Permissions.READ if n == 3 else RW) for n in range(8)]
    assert list(unit.engine().iter_mappings(RID)) == expected


def test_equal_entries_that_do_not_start_a_page_are_none() -> None:
    unit, table = host_unit(1, [Mapping(0x2000, 0x8000, 0x2000, RW)])
    entry = unit.memory.read_u64(table.entry_address(0x2000, 1))
    unit.memory.write_u64(table.entry_address(0x1000, 1), entry)
    expected = [Mapping(0x1000, 0x9000, 0x1000, RW), Mapping(0x2000, 0x8000, 0x2000, RW)]
    assert list(unit.engine().iter_mappings(RID)) == expected


def test_flags_do_not_split_a_page_in_the_listing() -> None:
    unit, table = host_unit(3, [Mapping(0, 0x8000, 0x8000, RW)])
    table.set_fields(0x3000, 1, {"A": 1, "D": 1, "IGN_1": 5})
    assert list(unit.engine().iter_mappings(RID)) == [Mapping(0, 0x8000, 0x8000, RW)]


def test_nested_pages_are_listed_as_the_host_cuts_them() -> None:
    unit, guest, host = nested_unit()
    guest.map(4 << 30, 4 << 30, 1 << 30)
    host.map((4 << 30) + 0x20_0000, 0x1_0000_0000, 0x20_0000, Permissions.READ)
    host.map((5 << 30) - 0x1000, 0x7000, 0x1000)
    assert list(unit.engine().iter_mappings(RID, PASID)) == [
        Mapping(IOVA & ~0xFFF, OUTPUT + GUEST_BASE, 0x1000, RW),
        Mapping((4 << 30) + 0x20_0000, 0x1_0000_0000, 0x20_0000, Permissions.READ),
        Mapping((5 << 30) - 0x1000, 0x7000, 0x1000, RW),
    ]


def test_what_passes_through_is_listed_as_everything() -> None:
    unit = Unit()
    everything = [Mapping(0, 0, 1 << 64, RW)]
    assert list(unit.engine().iter_mappings(RID)) == everything
    unit.set(V=1, TV=1, IR=1)
    assert list(unit.engine().iter_mappings(RID)) == [Mapping(0, 0, 1 << 64, Permissions.READ)]
    unit.set(TV=0)
    assert list(unit.engine().iter_mappings(RID)) == []
    unit.control = {}
    assert list(unit.engine().iter_mappings(RID)) == everything


def test_nothing_is_listed_for_a_pasid_without_guest_tables_or_an_illegal_entry() -> None:
    unit, _ = host_unit(3, [Mapping(0, 0, 0x1000, RW)])
    assert list(unit.engine().iter_mappings(RID, PASID)) == []
    unit.set(Mode=7)
    assert list(unit.engine().iter_mappings(RID)) == []
    assert list(unit.engine().iter_mappings(0xFFFF)) == []


def test_sign_extended_guest_pages_are_listed_where_they_are_reached() -> None:
    unit, table = guest_unit(4, [])
    upper = 0xFFFF_8000_0000_0000
    table.map(upper, 0x5000, 0x1000)
    assert list(unit.engine().iter_mappings(RID, PASID)) == [Mapping(upper, 0x5000, 0x1000, RW)]
    assert unit.access(iova=upper, pasid=PASID) == Translated(0x5000, 0x1000, RW)


@pytest.mark.parametrize("pasid", [None, PASID])
def test_a_table_that_loops_is_named_when_listed_and_translates_to_an_end(pasid: int | None) -> None:
    mappings = [Mapping(0, 0, 0x1000, RW)]
    unit, table = host_unit(4, mappings) if pasid is None else guest_unit(4, mappings)
    table.set_fields(0, 2, {"Address": table.root})
    with pytest.raises(TableLoop, match=f"{table.root:#x}"):
        list(unit.engine().iter_mappings(RID, pasid))
    assert isinstance(unit.access(iova=0, pasid=pasid), Translated | Fault)


# Builders


def test_the_builder_takes_the_largest_pages_that_fit() -> None:
    unit, table = host_unit(4, [])
    table.map(0x3000, 0x3000, 0x1D000)
    sizes = [mapping.size for mapping in unit.engine().iter_mappings(RID)]
    assert sizes == [0x1000, 0x4000, 0x8000, 0x10000]


def test_without_every_size_pages_have_the_sizes_of_levels() -> None:
    assert HostFormat(every_size=False).page_sizes == tuple(PageSize(3 + 9 * level, level) for level in range(1, 6))
    assert {page.shift for page in HostFormat().page_sizes} == set(range(12, 52))


def test_permissions_that_a_format_cannot_say_are_refused() -> None:
    for table_format, permissions in ((HostFormat(), RW | Permissions.EXECUTE), (GuestFormat(), Permissions.WRITE)):
        with pytest.raises(SpecError, match="cannot say"):
            table_format.leaf_entry(0, PageSize(12, 1), 0, permissions)


def test_a_pasid_that_a_gcr3_table_cannot_hold_is_refused() -> None:
    with pytest.raises(SpecError, match="0x200"):
        Gcr3Table(Unit().tables.pages).add(0x200)


def test_a_page_split_by_the_builder_translates_as_before() -> None:
    unit, table = host_unit(4, [Mapping(0, 0, 1 << 21, Permissions.READ)])
    rng = random.Random(1)
    addresses = [rng.randrange(1 << 21) for _ in range(20)]
    while True:
        outcome = unit.access(iova=addresses[0], length=1)
        assert isinstance(outcome, Translated)
        for address in addresses:
            found = unit.access(iova=address, length=1)
            assert isinstance(found, Translated)
            assert (found.address, found.permissions) == (address, Permissions.READ)
        if outcome.size == 4096:
            break
        table.split(addresses[0])


def test_devices_that_share_a_table_see_the_same() -> None:
    unit, table = host_unit(4, [Mapping(0x1000, 0x5000, 0x1000, RW)])
    unit.tables.attach(RID + 8, DOMAIN, table=table)
    engine = unit.engine()
    assert list(engine.iter_mappings(RID + 8)) == list(engine.iter_mappings(RID))


def test_flags_are_told_and_not_written() -> None:
    unit, _ = host_unit(4, [Mapping(0x1000, 0x5000, 0x1000, RW)])
    unit.set(HAD=0b11)
    before = dict(unit.memory.words())
    outcome = unit.access(AccessKind.WRITE, iova=0x1000)
    assert isinstance(outcome, Translated)
    assert outcome.writes
    assert list(unit.engine().iter_mappings(RID))
    assert dict(unit.memory.words()) == before
