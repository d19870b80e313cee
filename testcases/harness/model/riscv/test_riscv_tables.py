"""RISC-V tables: builder and walker are inverse, and no table or register whatever makes the walker raise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from riscv_unit import DEVICE, GUEST_SHIFT, IOVA, NOWHERE, OUTPUT, RAM, Unit

from harness.errors import SpecError
from harness.model.access import (
    Access,
    AccessKind,
    AddressType,
    Bypassed,
    Fault,
    Mapping,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.engine import AccessCrossesPage, Interrupt, MsiWrite, PostedInterrupt, TableLoop, translate_range
from harness.model.memory import MappedMemory, OffsetMemory, Region, SparseMemory
from harness.model.radix import PageAllocator, RadixTable
from harness.model.riscv import SCHEMES, RiscvIommuEngine, RiscvIommuRegisters, RiscvIommuTables
from harness.model.riscv.registers import capabilities
from harness.model.riscv.tables import new_page_table

RW = Permissions.READ | Permissions.WRITE
_RIGHTS = st.sampled_from([Permissions(bits) for bits in (1, 3, 4, 5, 7)])
_KINDS = {
    AccessKind.READ: Permissions.READ,
    AccessKind.WRITE: Permissions.WRITE,
    AccessKind.EXECUTE: Permissions.EXECUTE,
}
_PLAIN = ["Sv32", "Sv39", "Sv48", "Sv57", "Sv32x4", "Sv39x4", "Sv48x4", "Sv57x4"]


@dataclass
class Built:
    """A table of one scheme that was built, and the engine that walks it."""

    scheme: str
    mappings: list[Mapping]
    tables: RiscvIommuTables
    table: RadixTable

    def engine(self) -> RiscvIommuEngine:
        narrow = self.scheme.startswith("Sv32")
        registers = RiscvIommuRegisters(
            capabilities=capabilities(),
            ddtp=self.tables.ddtp,
            fctl=4 if self.scheme == "Sv32x4" else 0,
            gxl_writable=narrow,
        )
        return RiscvIommuEngine(registers, self.tables.memory)

    def words(self) -> list[int]:
        memory = self.tables.memory
        return [at for at in range(0, self.tables.pages.next_page, 8) if memory.read_u64(at)]


@st.composite
def built(draw: st.DrawFn, schemes: Sequence[str] = _PLAIN) -> Built:
    """Disjoint pages of every size, built by one scheme of either stage."""
    scheme = draw(st.sampled_from(schemes))
    tables = RiscvIommuTables(MappedMemory(bytearray(RAM)), 0x1000, 2)
    table = tables.new_page_table(scheme)
    sizes = [page.shift for page in table.format.page_sizes]
    address_bits = 34 if scheme.startswith("Sv32") else 56
    largest = sizes[-1]
    slots = draw(st.lists(st.integers(0, (1 << table.width - largest) - 1), min_size=1, max_size=5, unique=True))
    mappings = []
    for slot in slots:
        shift = draw(st.sampled_from(sizes))
        iova = (slot << largest) + (draw(st.integers(0, (1 << largest - shift) - 1)) << shift)
        if table.sign_extended and iova >> table.width - 1:
            iova += (1 << 64) - (1 << table.width)
        address = draw(st.integers(0, (1 << address_bits - shift) - 1)) << shift
        mapping = Mapping(iova, address, 1 << shift, draw(_RIGHTS))
        table.map(mapping.iova, mapping.address, mapping.size, mapping.permissions, largest_page=mapping.size)
        mappings.append(mapping)
    if scheme.endswith("x4"):
        tables.attach(DEVICE, second=table)
    else:
        tables.attach(DEVICE, first=table)
    return Built(scheme, sorted(mappings, key=lambda mapping: mapping.iova), tables, table)


def access(iova: int, kind: AccessKind = AccessKind.READ, length: int = 1) -> Access:
    return Access(requester=DEVICE, iova=iova, length=length, kind=kind)


def assert_outcome(engine: RiscvIommuEngine, request: Access) -> Outcome:
    outcome = engine.translate(request)
    assert isinstance(outcome, Translated | Bypassed | Fault)
    assert engine.explain(request).outcome == outcome
    return outcome


@given(built())
def test_what_was_built_is_what_is_listed(made: Built) -> None:
    assert list(made.engine().iter_mappings(DEVICE)) == made.mappings


@given(built(), st.data())
def test_what_was_built_is_what_is_translated(made: Built, data: st.DataObject) -> None:
    mapping = data.draw(st.sampled_from(made.mappings))
    offset = data.draw(st.integers(0, mapping.size - 1))
    for kind, right in _KINDS.items():
        outcome = made.engine().translate(access(mapping.iova + offset, kind))
        if right in mapping.permissions:
            assert outcome == Translated(mapping.address + offset, mapping.size, mapping.permissions)
        else:
            assert isinstance(outcome, Fault)


@given(built(), st.data())
def test_after_unmap_the_page_faults_and_the_others_stay(made: Built, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(made.mappings))
    made.table.unmap(gone.iova, gone.size)
    engine = made.engine()
    assert list(engine.iter_mappings(DEVICE)) == [mapping for mapping in made.mappings if mapping != gone]
    for kind in AccessKind:
        assert isinstance(engine.translate(access(gone.iova, kind)), Fault)


@given(built(), st.data())
def test_a_page_that_is_split_translates_as_before(made: Built, data: st.DataObject) -> None:
    mapping = data.draw(st.sampled_from(made.mappings))
    offset = data.draw(st.integers(0, mapping.size - 1))
    if mapping.size == 1 << 12:
        return
    made.table.split(mapping.iova)
    kind = next(kind for kind, right in _KINDS.items() if right in mapping.permissions)
    outcome = made.engine().translate(access(mapping.iova + offset, kind))
    assert isinstance(outcome, Translated)
    assert (outcome.address, outcome.permissions) == (mapping.address + offset, mapping.permissions)
    assert outcome.size < mapping.size


@given(built(), st.data())
def test_taking_a_right_away_only_narrows_down(made: Built, data: st.DataObject) -> None:
    mapping = data.draw(st.sampled_from(made.mappings))
    level = next(page.level for page in made.table.format.page_sizes if 1 << page.shift == mapping.size)
    before = {kind: made.engine().translate(access(mapping.iova, kind)) for kind in AccessKind}
    name = data.draw(st.sampled_from(["W", "X", "U", "A", "D", "V"]))
    made.table.set_fields(mapping.iova, level, {name: 0})
    for kind, outcome in before.items():
        after = made.engine().translate(access(mapping.iova, kind))
        if isinstance(outcome, Fault):
            assert isinstance(after, Fault)
        elif isinstance(after, Translated):
            assert isinstance(outcome, Translated)
            assert after.address == outcome.address
            assert after.permissions in outcome.permissions


@settings(max_examples=60)
@given(built(), st.data())
def test_what_is_listed_after_a_bit_flip_is_what_is_translated(made: Built, data: st.DataObject) -> None:
    memory = made.tables.memory
    victim = data.draw(st.sampled_from(made.mappings))
    bits = made.table.format.entry_size * 8
    lowest = next(page.level for page in made.table.format.page_sizes if 1 << page.shift == victim.size)
    level = data.draw(st.integers(lowest, SCHEMES[made.scheme].levels))
    address = made.table.entry_address(victim.iova, level)
    bit = data.draw(st.integers(0, bits - 1).filter(lambda bit: not 10 <= bit < 54))
    entry = int.from_bytes(memory.read(address, bits // 8), "little") ^ 1 << bit
    memory.write(address, entry.to_bytes(bits // 8, "little"))
    engine = made.engine()
    listed = [mapping for mapping, _ in zip(engine.iter_mappings(DEVICE), range(40), strict=False)]
    for mapping in listed:
        for kind, right in _KINDS.items():
            outcome = engine.translate(access(mapping.iova + mapping.size - 1, kind))
            assert isinstance(outcome, Translated) == (right in mapping.permissions)
            if isinstance(outcome, Translated):
                assert outcome.address == mapping.address + mapping.size - 1


@settings(max_examples=60)
@given(
    built(),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 63)), max_size=12),
    st.lists(st.integers(0, (1 << 64) - 1), max_size=4),
)
def test_random_bit_flips_give_an_outcome_for_every_access(
    made: Built, flips: list[tuple[int, int]], addresses: list[int]
) -> None:
    memory = made.tables.memory
    words = made.words()
    for word, bit in flips:
        address = words[word % len(words)]
        memory.write_u64(address, memory.read_u64(address) ^ 1 << bit)
    engine = made.engine()
    for iova in [mapping.iova for mapping in made.mappings] + addresses:
        for kind in AccessKind:
            assert_outcome(engine, access(iova, kind))


@settings(max_examples=150)
@given(st.data())
def test_random_memory_and_registers_give_an_outcome(data: st.DataObject) -> None:
    # Pages that lead to each other, through entries that are mostly good: pointers, leaves, contexts.
    word = st.one_of(
        st.integers(0, (1 << 64) - 1),
        st.integers(0, 63).map(lambda page: page << 10 | 1),
        st.tuples(st.integers(0, 63), st.integers(0, 255)).map(lambda pair: pair[0] << 10 | pair[1]),
        st.tuples(st.integers(0, 15), st.integers(0, 63)).map(lambda pair: pair[0] << 60 | pair[1]),
    )
    pattern = b"".join(data.draw(word).to_bytes(8, "little") for _ in range(8))
    memory = MappedMemory(pattern * (64 * 4096 // 64))
    registers = RiscvIommuRegisters(
        capabilities=data.draw(st.one_of(st.integers(0, (1 << 64) - 1), st.just(capabilities()))),
        fctl=data.draw(st.integers(0, 7)),
        ddtp=data.draw(st.integers(0, 5)) | data.draw(st.integers(0, 63)) << 10,
        gxl_writable=data.draw(st.booleans()),
        big_endian_msis=data.draw(st.booleans()),
    )
    engine = RiscvIommuEngine(registers, memory)
    iova = data.draw(st.integers(0, (1 << 64) - 4)) & ~3
    request = Access(
        requester=data.draw(st.integers(0, (1 << 32) - 1)),
        iova=iova,
        length=data.draw(st.sampled_from([0, 1, 4])),
        kind=data.draw(st.sampled_from(list(AccessKind))),
        pasid=data.draw(st.none() | st.integers(0, (1 << 20) - 1)),
        privileged=data.draw(st.booleans()),
        address_type=data.draw(st.sampled_from(list(AddressType))),
    )
    assert_outcome(engine, request)
    message = MsiWrite(requester=request.requester, address=iova, data=data.draw(st.integers(0, (1 << 32) - 1)))
    assert isinstance(engine.remap_msi(message), Interrupt | PostedInterrupt | Fault)


# Two stages.


@st.composite
def nested(draw: st.DrawFn) -> tuple[RiscvIommuEngine, list[Mapping], list[Mapping]]:
    """Pages of a first stage, pages of a second, and the engine that puts one after the other."""
    memory = MappedMemory(bytearray(RAM))
    tables = RiscvIommuTables(memory, 0x1_0000)
    second = tables.new_page_table(draw(st.sampled_from(["Sv39x4", "Sv48x4"])))
    pages = PageAllocator(OffsetMemory(memory, -GUEST_SHIFT), 0x5000_0000)
    second.map(0x5000_0000, 0x10_0000, 0x4_0000, largest_page=0x1_0000)
    first = new_page_table(pages, draw(st.sampled_from(["Sv39", "Sv57"])))
    outer, inner = [], []
    # Guest pages between 2 and 3 GiB, in windows of 4 MiB.
    for window in draw(st.lists(st.integers(0, 200), min_size=1, max_size=4, unique=True)):
        guest = 0x8000_0000 + window * 0x40_0000
        shift = draw(st.sampled_from([12, 16, 21]))
        mapping = Mapping(
            guest, draw(st.integers(0, 1 << 20)) << shift, 1 << shift, draw(st.sampled_from([RW, Permissions.READ]))
        )
        second.map(mapping.iova, mapping.address, mapping.size, mapping.permissions)
        inner.append(mapping)
        shift = draw(st.sampled_from([12, 16, 21]))
        mapping = Mapping(window << 30, guest, 1 << shift, draw(st.sampled_from([RW, Permissions(5)])))
        first.map(mapping.iova, mapping.address, mapping.size, mapping.permissions)
        outer.append(mapping)
    tables.attach(DEVICE, first=first, second=second, gscid=1)
    registers = RiscvIommuRegisters(capabilities=capabilities(), ddtp=tables.ddtp)
    return RiscvIommuEngine(registers, memory), outer, inner


@settings(max_examples=50)
@given(nested(), st.data())
def test_two_stages_are_one_after_the_other(
    made: tuple[RiscvIommuEngine, list[Mapping], list[Mapping]], data: st.DataObject
) -> None:
    engine, outer, inner = made
    number = data.draw(st.integers(0, len(outer) - 1))
    one, two = outer[number], inner[number]
    offset = data.draw(st.integers(0, one.size - 1))
    rights = one.permissions & two.permissions
    for kind, right in _KINDS.items():
        outcome = assert_outcome(engine, access(one.iova + offset, kind))
        if offset < two.size and right in rights:
            assert outcome == Translated(two.address + offset, min(one.size, two.size), rights)
        else:
            assert isinstance(outcome, Fault)
            assert outcome.stage == (1 if right not in one.permissions else 2)


@settings(max_examples=50)
@given(nested())
def test_what_both_stages_map_is_listed(made: tuple[RiscvIommuEngine, list[Mapping], list[Mapping]]) -> None:
    engine, outer, inner = made
    expected = sorted(
        (one.iova, two.address, min(one.size, two.size), one.permissions & two.permissions)
        for one, two in zip(outer, inner, strict=True)
    )
    listed = list(engine.iter_mappings(DEVICE))
    joined: list[tuple[int, int, int, Permissions]] = []
    for mapping in listed:
        if joined and joined[-1][0] + joined[-1][2] == mapping.iova:
            first, address, size, rights = joined[-1]
            joined[-1] = (first, address, size + mapping.size, rights)
        else:
            joined.append((mapping.iova, mapping.address, mapping.size, mapping.permissions))
    assert joined == expected


# Listing.


def test_pages_that_hardware_would_not_let_be_written_are_listed_without_w() -> None:
    unit = Unit()
    assert unit.first is not None
    unit.first.set_fields(IOVA, 1, {"D": 0})
    assert list(unit.engine().iter_mappings(DEVICE)) == [Mapping(IOVA, OUTPUT, 0x1000, Permissions.READ)]
    unit.tables.set_context_fields(DEVICE, {"tc.SADE": 1})
    assert list(unit.engine().iter_mappings(DEVICE)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)]


def test_pages_without_a_or_u_are_not_listed() -> None:
    for name in ("A", "U"):
        unit = Unit()
        assert unit.first is not None
        unit.first.set_fields(IOVA, 1, {name: 0})
        assert list(unit.engine().iter_mappings(DEVICE)) == []


def test_what_maps_nothing_lists_nothing_and_what_is_bare_everything() -> None:
    everything = [Mapping(0, 0, 1 << 64, Permissions(7))]
    assert list(Unit(ddtp=0).engine().iter_mappings(DEVICE)) == []
    assert list(Unit(ddtp=1).engine().iter_mappings(DEVICE)) == everything
    assert list(Unit(None).engine().iter_mappings(DEVICE)) == everything
    assert list(Unit().engine().iter_mappings(DEVICE + 1)) == []
    assert list(Unit().engine().iter_mappings(DEVICE, 5)) == []


def test_the_pages_of_a_process_are_listed() -> None:
    unit = Unit(pdt_mode=3)
    assert list(unit.engine().iter_mappings(DEVICE, 5)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)]
    assert list(unit.engine().iter_mappings(DEVICE, 6)) == []
    assert list(unit.engine().iter_mappings(DEVICE)) == [Mapping(0, 0, 1 << 64, Permissions(7))]


def test_a_napot_page_whose_entries_differ_is_listed_in_small_pages() -> None:
    unit = Unit()
    assert unit.first is not None
    unit.first.map(0x80_0000, 0x10_0000, 0x1_0000)
    unit.first.set_fields(0x80_3000, 1, {"W": 0})
    listed = list(unit.engine().iter_mappings(DEVICE))[1:]
    assert {mapping.size for mapping in listed} == {0x1000}
    for mapping in listed:
        assert mapping.address == mapping.iova - 0x80_0000 + 0x10_0000
        assert mapping.permissions == (Permissions.READ if mapping.iova == 0x80_3000 else RW)


def test_only_entries_of_the_same_napot_page_are_listed_as_one() -> None:
    unit = Unit()
    assert unit.first is not None
    for iova in (0x80_0000, 0x81_0000):
        unit.first.map(iova, 0x10_0000, 0x1_0000)
    # Sixteen entries that are the same follow, but they are of two pages.
    unit.first.set_fields(0x80_0000, 1, {"W": 0})
    sizes = {mapping.iova: mapping.size for mapping in unit.engine().iter_mappings(DEVICE)}
    assert sizes.pop(0x81_0000) == 0x1_0000
    assert set(sizes) == {IOVA, *range(0x80_0000, 0x81_0000, 0x1000)}


def test_a_listing_goes_on_past_a_table_outside_of_memory() -> None:
    unit = Unit()
    assert unit.first is not None
    unit.first.map(1 << 30, OUTPUT, 0x1000)
    unit.first.set_fields(IOVA, 2, {"PPN": NOWHERE >> 12})
    assert [mapping.iova for mapping in unit.engine().iter_mappings(DEVICE)] == [1 << 30]


@pytest.mark.parametrize("second", [None, "Sv39x4"])
def test_a_table_that_loops_is_named_when_listed(second: str | None) -> None:
    unit = Unit(second=second)
    assert unit.first is not None
    unit.first.set_fields(IOVA, 2, {"PPN": unit.first.root >> 12})
    with pytest.raises(TableLoop, match=f"{unit.first.root:#x}"):
        list(unit.engine().iter_mappings(DEVICE))


# The builder.


def test_a_range_takes_the_largest_pages_that_fit() -> None:
    made = Unit()
    table = new_page_table(PageAllocator(made.memory, 0x10_0000), "Sv39")
    start = (1 << 30) - (1 << 21) - (1 << 16) - (1 << 12)
    table.map(start, start, (1 << 12) + (1 << 16) + (1 << 21) + (1 << 30) + (1 << 12))
    made.tables.attach(DEVICE, first=table)
    sizes = [mapping.size for mapping in made.engine().iter_mappings(DEVICE)]
    assert sizes == [1 << 12, 1 << 16, 1 << 21, 1 << 30, 1 << 12]


def test_permissions_that_no_entry_says_are_refused() -> None:
    table = new_page_table(PageAllocator(SparseMemory((Region(0, RAM),)), 0x1000), "Sv39")
    for rights in (0b000, 0b010, 0b110):
        with pytest.raises(SpecError, match="reserved"):
            table.map(0, 0, 0x1000, Permissions(rights))


def test_a_second_stage_has_a_root_of_16_kib() -> None:
    pages = PageAllocator(SparseMemory((Region(0, RAM),)), 0x1000)
    for scheme in ("Sv32x4", "Sv39x4", "Sv48x4", "Sv57x4"):
        root = new_page_table(pages, scheme).root
        assert root % 0x4000 == 0
        assert pages.next_page == root + 0x4000


def test_another_devices_tables_change_nothing() -> None:
    unit = Unit()
    other = unit.tables.new_page_table("Sv48")
    other.map(IOVA, 0x9000, 0x1000)
    unit.tables.attach(DEVICE + 1, first=other)
    assert unit.access() == Translated(OUTPUT, 0x1000, RW)
    assert unit.access(device=DEVICE + 1) == Translated(0x9000, 0x1000, RW)


def test_devices_that_share_a_process_directory_have_the_same_processes() -> None:
    unit = Unit(pdt_mode=1)
    unit.tables.share_processes(DEVICE + 1, DEVICE)
    assert unit.access(pasid=5, device=DEVICE + 1) == unit.access(pasid=5)
    unit.tables.set_process_fields(DEVICE + 1, 5, {"ta.V": 0})
    assert isinstance(unit.access(pasid=5), Fault)


def test_a_long_access_is_split_at_pages_and_joined_again() -> None:
    unit = Unit()
    assert unit.first is not None
    unit.first.map(IOVA + 0x1000, OUTPUT + 0x1000, 0x1000)
    pieces = translate_range(unit.engine(), access(IOVA + 0x800, length=0x2000))
    assert [(piece.access.iova, piece.access.length) for piece in pieces] == [
        (IOVA + 0x800, 0x1800),
        (IOVA + 0x2000, 0x800),
    ]
    assert isinstance(pieces[1].outcome, Fault)
    with pytest.raises(AccessCrossesPage):
        unit.engine().translate(access(IOVA + 0xFFF, length=2))
    assert unit.engine().granule == 0x1000
