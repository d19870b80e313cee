"""Which results a VT-d unit in scalable mode may give: address spaces of one domain, and nesting (VT-d 6.2, 6.5)."""

from __future__ import annotations

import random
from functools import partial

from cache_rigs import (
    DOMAIN,
    FRAME,
    NEW_FRAME,
    NEXT_PAGE,
    OTHER_DOMAIN,
    OTHER_FRAME,
    PAGE,
    RAM,
    RID,
    RIGS,
    read,
    remap,
    target,
    two,
    vtd_registers,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_caches import Bench

from harness.model.access import Access, AccessKind, Permissions
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.policies import VTD_SCALABLE
from harness.model.caches.staleness import Allowed
from harness.model.invalidation import EntryKind
from harness.model.memory import Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.vtd import FirstStageFormat, SecondStageFormat, VtdEngine, VtdRegisters, VtdScalableTables
from harness.model.vtd.invalidation.descriptors import (
    DescriptorType,
    Granularity,
    PasidCacheGranularity,
    PasidIotlbGranularity,
    build_descriptor,
)

# In different PASID tables, so that nothing but the domain is the same.
ONE, OTHER = 0x05, 0x45
RW = Permissions.READ | Permissions.WRITE
_WHOLE = PasidIotlbGranularity.PASID
COMMANDS: dict[str, tuple[DescriptorType, dict[str, int]]] = {
    "contexts": (DescriptorType.CONTEXT_CACHE, {"G": Granularity.GLOBAL}),
    "pasids": (DescriptorType.PASID_CACHE, {"G": PasidCacheGranularity.GLOBAL}),
    "other pasid entry": (
        DescriptorType.PASID_CACHE,
        {"G": PasidCacheGranularity.PASID, "DID": DOMAIN, "PASID": OTHER},
    ),
    "one": (DescriptorType.PASID_IOTLB, {"G": _WHOLE, "DID": DOMAIN, "PASID": ONE}),
    "other": (DescriptorType.PASID_IOTLB, {"G": _WHOLE, "DID": DOMAIN, "PASID": OTHER}),
    "page": (DescriptorType.IOTLB, {"G": Granularity.SELECTIVE, "DID": DOMAIN, "ADDR": PAGE >> 12}),
    "page, IH": (DescriptorType.IOTLB, {"G": Granularity.SELECTIVE, "DID": DOMAIN, "ADDR": PAGE >> 12, "IH": 1}),
    "domain": (DescriptorType.IOTLB, {"G": Granularity.DOMAIN, "DID": DOMAIN}),
    "other domain": (DescriptorType.IOTLB, {"G": Granularity.DOMAIN, "DID": OTHER_DOMAIN}),
}


class Unit:
    """A device with two PASIDs in one domain, each with a second (or first) stage: the same one, or one each."""

    def __init__(self, *, same_table: bool = True, first_stage: bool = False) -> None:
        self.first_stage = first_stage
        self.memory = SparseMemory((Region(0, RAM),))
        self.tables = VtdScalableTables(self.memory, 0x1000)
        self.tables.attach(RID, pasid=True)
        format = FirstStageFormat() if first_stage else SecondStageFormat()
        self.first, self.second = two(lambda: RadixTable(self.tables.pages, format, 4, sign_extended=first_stage))
        self.attach(ONE, DOMAIN, self.first)
        self.attach(OTHER, DOMAIN, self.first if same_table else self.second)
        registers = vtd_registers(self.tables.root, mode=1)
        sources = [(RID, ONE), (RID, OTHER)]
        self.model: CacheModel[VtdRegisters] = CacheModel(
            VtdEngine, registers, self.memory, VTD_SCALABLE, sources=sources
        )

    def attach(self, pasid: int, domain: int, table: RadixTable) -> None:
        if self.first_stage:
            self.tables.attach_pasid(RID, domain, pasid=pasid, first_stage=table)
        else:
            self.tables.attach_pasid(RID, domain, pasid=pasid, second_stage=table)

    def put(self, table: RadixTable, frame: int | None) -> None:
        bits = 0 if frame is None else table.format.leaf_entry(frame, table.format.page_sizes[0], 0, RW)
        self.model.memory.write_u64(table.entry_address(PAGE, 1), bits)

    def invalidate(self, name: str) -> None:
        kind, fields = COMMANDS[name]
        self.model.invalidate(self.model.engine.submit(build_descriptor(kind, fields)).invalidations)

    def targets(self, pasid: int) -> set[int | None]:
        """Where a read of `PAGE` may go; None for a fault."""
        return {target(outcome) for outcome in self.model.allowed(read(pasid))}


def test_translations_of_two_pasids_of_a_domain_are_invalidated_one_by_one_table_24() -> None:
    unit = Unit()
    unit.put(unit.first, None)
    assert unit.targets(ONE) == unit.targets(OTHER) == {FRAME, None}
    unit.invalidate("other")
    # Table 17: what PASID 5 has brought in, no other PASID finds.
    assert unit.targets(OTHER) == {None}
    assert unit.targets(ONE) == {FRAME, None}
    unit.invalidate("one")
    assert unit.targets(ONE) == {None}


def test_a_page_of_a_domain_is_invalidated_for_every_pasid_of_it_table_23() -> None:
    unit = Unit()
    unit.put(unit.first, None)
    unit.invalidate("page, IH")
    assert unit.targets(ONE) == unit.targets(OTHER) == {None}


def test_a_stale_translation_is_not_found_by_a_pasid_that_comes_into_the_domain_later_table_17() -> None:
    unit = Unit(same_table=False)
    unit.put(unit.first, NEW_FRAME)
    # The tables of a domain are one for all of its PASIDs, in paging-structure caches: what they say now is found.
    assert unit.targets(OTHER) == {OTHER_FRAME, FRAME, NEW_FRAME}
    late = Unit(same_table=False)
    late.attach(OTHER, OTHER_DOMAIN, late.second)
    late.model.reset()
    late.put(late.first, NEW_FRAME)
    for address, data in changed(late, partial(late.attach, OTHER, DOMAIN, late.second)):
        late.model.memory.write(address, data)
    assert late.targets(OTHER) == {OTHER_FRAME, NEW_FRAME}
    assert late.targets(ONE) == {FRAME, NEW_FRAME, OTHER_FRAME}


def test_what_was_found_by_way_of_a_shared_table_is_kept_with_the_pasid_that_found_it_table_17() -> None:
    unit = Unit(same_table=False)
    unit.put(unit.first, None)
    assert unit.targets(OTHER) == {OTHER_FRAME, FRAME, None}
    unit.invalidate("one")
    assert unit.targets(OTHER) == {OTHER_FRAME, FRAME, None}
    unit.invalidate("other")
    assert unit.targets(OTHER) == {OTHER_FRAME, None}
    # IH=0 drops what led to the table of the other PASID, and the next walk brings it in again.
    unit.invalidate("page")
    assert unit.targets(OTHER) == {OTHER_FRAME, None}


def test_it_is_so_where_the_pasid_has_an_empty_table_of_its_own() -> None:
    unit = Unit(same_table=False)
    unit.model.memory.write(unit.second.root, bytes(0x1000))
    unit.model.reset()
    unit.put(unit.first, None)
    unit.invalidate("one")
    assert unit.targets(OTHER) == {FRAME, None}
    unit.invalidate("other")
    assert unit.targets(OTHER) == {None}


def test_first_stage_tables_are_not_shared_by_the_pasids_of_a_domain_table_17() -> None:
    unit = Unit(same_table=False, first_stage=True)
    assert unit.targets(ONE) == {FRAME}
    assert unit.targets(OTHER) == {OTHER_FRAME}
    unit.put(unit.first, None)
    assert unit.targets(OTHER) == {OTHER_FRAME}


def test_two_pasids_with_the_same_entries_have_nothing_to_give_each_other() -> None:
    unit = Unit()
    unit.attach(ONE + 1, DOMAIN, unit.first)
    unit.model.reset()
    assert unit.targets(ONE + 1) == {FRAME}
    companions = unit.model._companions
    assert (RID, ONE + 1) not in companions.find(read(ONE))
    assert (RID, ONE) not in companions.find(read(ONE + 1))


def test_of_a_first_stage_over_a_second_one_no_entry_is_kept_apart_6_2_4_6_2_5() -> None:
    rig = RIGS["vtd-nested"]()
    assert rig.above is not None
    guest = 0x7_0000
    at = rig.above.entry_address(PAGE, 1)
    bits = rig.memory.read_u64(at)
    # The page is moved to another guest-physical one; only then the old one gets another frame.
    rig.model.memory.write_u64(at, bits & ~0xF_FFFF_F000 | guest)
    rig.map(NEW_FRAME)
    assert rig.targets() == {guest, FRAME}


def test_of_a_second_stage_under_a_first_one_no_page_is_kept_by_itself_6_2_4() -> None:
    rig = RIGS["vtd-nested"]()
    rig.map(None)
    rig.invalidate("page of other pasid")
    assert rig.targets() == {FRAME, None}
    # Table 24: by first-stage address the nested translation goes, and second-stage entries are left alone.
    rig.invalidate("page of pasid, IH")
    assert rig.targets() == {None}


def test_a_verdict_names_the_nested_translation_that_a_stale_second_stage_is_kept_in() -> None:
    rig = RIGS["vtd-nested"]()
    seen = rig.model.engine.translate(rig.access)
    rig.map(None)
    verdict = rig.model.judge(rig.access, seen)
    assert isinstance(verdict, Allowed)
    assert verdict.how is not None
    (stale,) = verdict.how.stale
    assert [(entry.kind, entry.stage) for entry in stale.kept_as] == [(EntryKind.LEAF, 1)]


def test_of_a_second_stage_under_a_first_one_tables_are_kept_by_themselves_6_2_5() -> None:
    rig = RIGS["vtd-nested"]()
    table = rig.table
    old_leaf, directory = table.entry_address(PAGE, 1), table.entry_address(PAGE, 2)
    new = table.pages.take()
    memory = rig.model.memory
    memory.write(new, memory.read(old_leaf & -0x1000, 0x1000))
    memory.write_u64(new | old_leaf & 0xFFF, table.format.leaf_entry(NEW_FRAME, table.format.page_sizes[0], 0, RW))
    memory.write_u64(directory, table.format.table_entry(new, 2))
    rig.invalidate("pasid")
    assert rig.targets() == {FRAME, NEW_FRAME}
    rig.invalidate("page")
    assert rig.targets() == {NEW_FRAME}


# --- programs ---


def changed(unit: Unit, action: partial[None]) -> list[tuple[int, bytes]]:
    """What an action writes, without its being done, in pieces of 64 bytes: no entry is written by halves."""
    before = dict(unit.memory.words())
    action()
    after = dict(unit.memory.words())
    words = sorted(at for at in after if after[at] != before.get(at, 0))
    runs = [(at, unit.memory.read(at, 64)) for at in sorted({at & -64 for at in words})]
    for at in words:
        unit.memory.write_u64(at, before.get(at, 0))
    return runs


def run(unit: Unit, program: list[int], chance: random.Random | None) -> None:
    accesses = [read(ONE), read(OTHER), Access(requester=RID, pasid=OTHER, iova=NEXT_PAGE, length=1, kind=read().kind)]
    bench = Bench(unit.model, VtdEngine, VTD_SCALABLE, accesses, chance)
    writes = [
        changed(unit, partial(remap, table, PAGE, frame))
        for table in (unit.first, unit.second)
        for frame in (FRAME, NEW_FRAME, None)
    ]
    writes += [
        changed(unit, partial(unit.attach, OTHER, domain, table))
        for domain in (DOMAIN, OTHER_DOMAIN)
        for table in (unit.first, unit.second)
    ]
    choices: list[str | list[tuple[int, bytes]]] = [*(write for write in writes if write), *COMMANDS]
    for number in program:
        choice = choices[number % len(choices)]
        if isinstance(choice, str):
            command = build_descriptor(*COMMANDS[choice])
            bench.invalidate(unit.model.engine.submit(command).invalidations)
        else:
            for address, data in choice:
                bench.write(address, int.from_bytes(data, "little"), len(data))
        bench.check()


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=4), st.booleans())
def test_what_two_pasids_may_get_is_what_caches_that_keep_everything_can_give(
    program: list[int], same_table: bool
) -> None:
    run(Unit(same_table=same_table), program, None)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=8), st.booleans(), st.integers(0, 1 << 16))
def test_caches_that_keep_what_they_like_never_give_two_pasids_what_is_not_allowed(
    program: list[int], same_table: bool, seed: int
) -> None:
    run(Unit(same_table=same_table), program, random.Random(seed))


def test_a_nested_table_that_was_replaced_serves_a_device_that_gets_its_domain_and_pasid_later_table_17() -> None:
    memory = SparseMemory((Region(0, RAM),))
    tables = VtdScalableTables(memory, 0x1000)
    stages = [RadixTable(tables.pages, FirstStageFormat(), 4, sign_extended=True) for _ in range(2)]
    for stage, frame in zip(stages, (FRAME, OTHER_FRAME), strict=True):
        stage.map(PAGE, frame, 0x1000)
    second = RadixTable(tables.pages, SecondStageFormat(), 4)
    for base in (0, FRAME, OTHER_FRAME):  # tables, and where the pages are
        second.map(base, base, 0x20_0000)
    late = RID + 1
    for requester, domain, stage in ((RID, DOMAIN, stages[0]), (late, OTHER_DOMAIN, stages[1])):
        tables.attach(requester, pasid=True)
        tables.attach_pasid(requester, domain, pasid=ONE, first_stage=stage, second_stage=second)
    registers = vtd_registers(tables.root, mode=1)
    model = CacheModel(VtdEngine, registers, memory, VTD_SCALABLE, sources=[(RID, ONE), (late, ONE)])
    new = tables.pages.take()
    last, above = stages[0].entry_address(PAGE, 1), stages[0].entry_address(PAGE, 2)
    leaf = stages[0].format.leaf_entry(NEW_FRAME, stages[0].format.page_sizes[0], 0, RW)
    model.memory.write_u64(new | last & 0xFFF, leaf)
    model.memory.write_u64(above, stages[0].format.table_entry(new, 2))
    # Only now does the late device get the domain.
    before = dict(memory.words())
    tables.attach_pasid(late, DOMAIN, pasid=ONE, first_stage=stages[1], second_stage=second)
    changed_words = sorted(at for at, value in memory.words() if before.get(at, 0) != value)
    entries = [(at, memory.read(at, 64)) for at in sorted({at & -64 for at in changed_words})]
    for at in changed_words:
        memory.write_u64(at, before.get(at, 0))
    for at, data in entries:
        model.memory.write(at, data)
    access = Access(requester=late, pasid=ONE, iova=PAGE, length=1, kind=AccessKind.READ)
    found = {target(outcome) for outcome in model.allowed(access)}
    assert found >= {OTHER_FRAME, NEW_FRAME, FRAME}
