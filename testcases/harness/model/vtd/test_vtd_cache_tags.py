"""What invalidations drop of the entries that walks name: tables 17, 23 and 24, and large pages (VT-d 6.2, 6.5)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from vtd_units import HAW, IOVA, PASID, RID, Unit

from harness.model.access import Access, AccessKind
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation
from harness.model.vtd import VtdRegisters
from harness.model.vtd.invalidation.commands import IQA_REG, execute
from harness.model.vtd.invalidation.descriptors import (
    DescriptorType,
    Granularity,
    PasidIotlbGranularity,
    build_descriptor,
)
from harness.model.vtd.registers import capabilities

DOMAIN = 7
LARGE = 1 << 30
IOTLB, P_IOTLB = DescriptorType.IOTLB, DescriptorType.PASID_IOTLB
# Kind of entry and stage, in the words of the tables.
IOTLB_1, IOTLB_2 = (EntryKind.LEAF, 1), (EntryKind.LEAF, 2)
FS_CACHE, SS_CACHE = (EntryKind.TABLE, 1), (EntryKind.TABLE, 2)


def entries_of(unit: Unit, iova: int = IOVA, pasid: int | None = None) -> list[CachedEntry]:
    """What a walk says may be cached of page tables."""
    access = Access(requester=RID, iova=iova, length=4, kind=AccessKind.READ, pasid=pasid)
    cached = [step.cached for step in unit.engine.explain(access).steps if step.cached is not None]
    return [entry for entry in cached if entry.kind in (EntryKind.TABLE, EntryKind.LEAF)]


def invalidations_of(kind: DescriptorType, **values: int) -> tuple[Invalidation, ...]:
    ecap = 1 << 43  # SMTS
    cap = capabilities(max_address_mask=18)
    iqa = IQA_REG.encode({"DW": 1})
    registers = VtdRegisters(rtaddr=1 << 10, cap=cap, ecap=ecap, gsts=0, iqa=iqa, host_address_width=HAW)
    result = execute(registers, build_descriptor(kind, {"DID": DOMAIN, **values})).result
    assert result.error is None
    return result.invalidations


def dropped(entries: Iterable[CachedEntry], invalidations: Iterable[Invalidation]) -> set[tuple[EntryKind, int | None]]:
    invalidations = tuple(invalidations)
    return {(entry.kind, entry.stage) for entry in entries if any(each.drops(entry) for each in invalidations)}


@pytest.mark.parametrize("pasid", [None, PASID])
@pytest.mark.parametrize(
    ("stages", "whole", "page"),
    [
        ("first", {IOTLB_1, FS_CACHE}, {IOTLB_1, FS_CACHE}),
        # Second-stage paging-structure caches: "NA" in both rows.
        ("second", {IOTLB_2}, set()),
        ("nested", {IOTLB_1, IOTLB_2, FS_CACHE}, {IOTLB_1, FS_CACHE}),
    ],
)
def test_pasid_based_invalidations_drop_what_table_24_says(
    stages: str, whole: set[tuple[EntryKind, int]], page: set[tuple[EntryKind, int]], pasid: int | None
) -> None:
    unit = Unit(stages)
    unit.attach(stages, PASID)
    entries = entries_of(unit, pasid=pasid)
    own, other = pasid or 0, (pasid or 0) ^ 1
    by_pasid, by_page = PasidIotlbGranularity.PASID, PasidIotlbGranularity.PAGE
    assert dropped(entries, invalidations_of(P_IOTLB, G=by_pasid, PASID=own)) == whole
    assert dropped(entries, invalidations_of(P_IOTLB, G=by_pasid, PASID=other)) == set()
    assert dropped(entries, invalidations_of(P_IOTLB, G=by_pasid, PASID=own, DID=8)) == set()
    assert dropped(entries, invalidations_of(P_IOTLB, G=by_page, PASID=own, ADDR=IOVA >> 12)) == page
    keeping_tables = invalidations_of(P_IOTLB, G=by_page, PASID=own, ADDR=IOVA >> 12, IH=1)
    assert dropped(entries, keeping_tables) == page - {FS_CACHE}


@pytest.mark.parametrize("pasid", [None, PASID])
@pytest.mark.parametrize(
    ("stages", "elsewhere"), [("first", {IOTLB_1, FS_CACHE}), ("second", set()), ("nested", {IOTLB_1, FS_CACHE})]
)
def test_iotlb_invalidations_drop_what_table_23_says(
    stages: str, elsewhere: set[tuple[EntryKind, int]], pasid: int | None
) -> None:
    unit = Unit(stages)
    unit.attach(stages, PASID)
    entries = entries_of(unit, pasid=pasid)
    everything = {(entry.kind, entry.stage) for entry in entries}
    assert dropped(entries, invalidations_of(IOTLB, G=Granularity.GLOBAL)) == everything
    assert dropped(entries, invalidations_of(IOTLB, G=Granularity.DOMAIN)) == everything
    assert dropped(entries, invalidations_of(IOTLB, G=Granularity.DOMAIN, DID=8)) == set()
    # An address that is not on the way: first-stage and nested mappings go all the same.
    far = invalidations_of(IOTLB, G=Granularity.SELECTIVE, ADDR=1 << 34)
    assert dropped(entries, far) == elsewhere


@pytest.mark.parametrize("stages", ["first", "second"])
@pytest.mark.parametrize("size", [1 << 21, 1 << 30])
def test_of_a_large_page_the_piece_around_the_access_counts_6_5_3_2(stages: str, size: int) -> None:
    unit = Unit(stages)
    table = unit.first if stages == "first" else unit.second
    table.map(LARGE, LARGE, size)
    at = LARGE + 0x12_3000
    leaf = entries_of(unit, at + 0x456)[-1]
    assert (leaf.kind, leaf.first, leaf.last) == (EntryKind.LEAF, at, at + 0xFFF)
    if stages == "first":
        kind, fields = P_IOTLB, {"G": int(PasidIotlbGranularity.PAGE), "PASID": 0}
    else:
        kind, fields = IOTLB, {"G": int(Granularity.SELECTIVE)}
    # Hardware may have cached 4 KiB of it: only an invalidation of those has to drop them.
    assert dropped([leaf], invalidations_of(kind, **fields, ADDR=at >> 12)) == {(EntryKind.LEAF, leaf.stage)}
    assert dropped([leaf], invalidations_of(kind, **fields, ADDR=(at >> 12) + 1)) == set()
    # What software has to use is the mask of the whole page.
    whole = invalidations_of(kind, **fields, ADDR=LARGE >> 12, AM=9 if size == 1 << 21 else 18)
    assert dropped([leaf], whole) == {(EntryKind.LEAF, leaf.stage)}


def test_table_serves_the_whole_region_that_it_controls_table_19() -> None:
    tables = [entry for entry in entries_of(Unit("second")) if entry.kind is EntryKind.TABLE]
    spans = [(entry.first, entry.last) for entry in tables]
    assert spans == [(0, (1 << 39) - 1), (0, (1 << 30) - 1), (0x40_0000, 0x5F_FFFF)]


def test_second_stage_tables_are_shared_by_the_pasids_of_a_domain_table_17() -> None:
    unit = Unit("second")
    unit.attach("second", PASID)
    without, within = entries_of(unit), entries_of(unit, pasid=PASID)
    assert without[:-1] == within[:-1]
    assert (without[-1].space, within[-1].space) == (0, PASID)
