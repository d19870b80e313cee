"""Which results a VT-d unit in legacy mode may give, before and after invalidations (VT-d 6.1, 6.2, 6.5)."""

from __future__ import annotations

import doctest
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_caches import Bench

import harness
from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Fault, Outcome, Permissions, Translated
from harness.model.caches import iotlb as model_of_caches
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.policies import VTD_LEGACY
from harness.model.caches.staleness import ALLOWED, Allowed, NotAllowed
from harness.model.invalidation import Invalidation
from harness.model.memory import SparseMemory
from harness.model.radix import RadixTable
from harness.model.vtd import SecondStageFormat, VtdEngine, VtdFaultReason, VtdRegisters, VtdTables
from harness.model.vtd.context import CONTEXT_ENTRY, TranslationType, context_entry_address
from harness.model.vtd.invalidation import scopes
from harness.model.vtd.invalidation.descriptors import DescriptorType, Granularity, build_descriptor
from harness.model.vtd.register_layouts import CAP_REG, ECAP_REG, GSTS_REG
from harness.model.vtd.registers import capabilities
from harness.model.vtd.root import ROOT_ENTRY, root_entry_address

RID, OTHER = 0x0028, 0x0030
DOMAIN, SECOND = 5, 6
PAGE, NEXT_PAGE, FAR = 0x10_0000, 0x10_1000, 0x20_0000
FRAME, NEW_FRAME, THIRD_FRAME = 0x80_0000, 0x90_0000, 0xA0_0000
RW = Permissions.READ | Permissions.WRITE

Invalidations = tuple[Invalidation, ...]


def iotlb(domain: int | None = None, page: int | None = None, *, mask: int = 0, ih: bool = False) -> Invalidations:
    """Global without a domain, domain-selective without a page."""
    if domain is None:
        return scopes.iotlb(Granularity.GLOBAL, 0, scopes.masked_pages(0, 0), keep_tables=False)
    if page is None:
        return scopes.iotlb(Granularity.DOMAIN, domain, scopes.masked_pages(0, 0), keep_tables=False)
    return scopes.iotlb(Granularity.SELECTIVE, domain, scopes.masked_pages(page, mask), keep_tables=ih)


def contexts(domain: int | None = None, source_id: int | None = None) -> Invalidations:
    """Global without a domain, domain-selective without a source id."""
    if domain is None:
        return scopes.context_cache(Granularity.GLOBAL, 0, 0, 0, scalable=False)
    if source_id is None:
        return scopes.context_cache(Granularity.DOMAIN, domain, 0, 0, scalable=False)
    return scopes.context_cache(Granularity.SELECTIVE, domain, source_id, 0, scalable=False)


class Unit:
    """Two requesters in domains 5 and 6, each with a table of its own that maps `PAGE`."""

    def __init__(self, *, caching_mode: bool = False) -> None:
        self.tables = VtdTables(SparseMemory(), 0x1000)
        self.table = self.tables.attach(RID, DOMAIN, 3)
        self.second = self.tables.attach(OTHER, SECOND, 3)
        self.table.map(PAGE, FRAME, 0x1000)
        self.second.map(PAGE, THIRD_FRAME, 0x1000)
        cap = capabilities() | CAP_REG.encode({"CM": int(caching_mode), "PSI": 1, "MAMV": 9})
        ecap = ECAP_REG.encode({"PT": 1, "DT": 1})
        self.registers = VtdRegisters(rtaddr=self.tables.root, cap=cap, ecap=ecap, gsts=GSTS_REG.encode({"TES": 1}))
        sources = ((RID, None), (OTHER, None))
        self.model = CacheModel(VtdEngine, self.registers, self.tables.memory, VTD_LEGACY, sources=sources)

    def put(self, table: RadixTable, iova: int, frame: int | None, rights: Permissions = RW, level: int = 1) -> None:
        """Write the leaf of a page: `frame`, or not present."""
        self.model.memory.write_u64(*self.leaf(table, iova, frame, rights, level))

    def leaf(
        self, table: RadixTable, iova: int, frame: int | None, rights: Permissions = RW, level: int = 1
    ) -> tuple[int, int]:
        page = table.format.page_sizes[level - 1]
        bits = 0 if frame is None else table.format.leaf_entry(frame, page, 0, rights)
        return table.entry_address(iova, level), bits

    def context(self, requester: int, domain: int, table: RadixTable, **fields: int) -> tuple[int, bytes]:
        """Where a context-entry is, and what says that domain and table."""
        at = ROOT_ENTRY["CTP"].get(self.tables.memory.read_u64(root_entry_address(self.tables.root, 0)))
        values = {"P": 1, "SSPTPTR": table.root, "AW": 1, "DID": domain, **fields}
        return context_entry_address(at, requester), CONTEXT_ENTRY.encode(values).to_bytes(16, "little")

    def targets(self, iova: int = PAGE, requester: int = RID, kind: AccessKind = AccessKind.READ) -> set[int | str]:
        """Where an access may go: addresses, or the names of what blocks it."""
        return {target(outcome) for outcome in self.model.allowed(access(iova, requester, kind))}


def access(iova: int, requester: int = RID, kind: AccessKind = AccessKind.READ) -> Access:
    return Access(requester=requester, iova=iova, length=1, kind=kind)


def target(outcome: Outcome) -> int | str:
    return outcome.code.name if isinstance(outcome, Fault) else outcome.address


BLOCKED = VtdFaultReason.READ_NOT_PERMITTED.name


def test_without_a_change_the_present_outcome_is_the_only_one() -> None:
    assert Unit().targets() == {FRAME}


def test_the_worked_example_in_the_module_is_true() -> None:
    unit = Unit()
    names = {
        "model": unit.model,
        "read": access(PAGE),
        "pte": unit.table.entry_address(PAGE, 1),
        "invalidate_the_page": build_descriptor(
            DescriptorType.IOTLB, {"G": Granularity.SELECTIVE, "DID": DOMAIN, "ADDR": PAGE >> 12}
        ),
    }
    # The source: a module that was compiled has no docstring.
    source = Path(harness.__file__).parent / "model" / "caches" / "iotlb.py"
    result = doctest.testfile(str(source), module_relative=False, globs=vars(model_of_caches) | names)
    assert result.attempted
    assert not result.failed


def test_after_an_unmap_without_an_invalidation_the_old_translation_is_allowed() -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, None)
    assert unit.targets() == {FRAME, BLOCKED}


def test_what_else_may_be_is_found_anew_after_a_change_that_was_taken_back() -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, NEW_FRAME)
    assert unit.targets() == unit.targets() == {FRAME, NEW_FRAME}
    unit.put(unit.table, PAGE, THIRD_FRAME)
    unit.put(unit.table, PAGE, NEW_FRAME)
    assert unit.targets() == {FRAME, NEW_FRAME, THIRD_FRAME}


def test_what_else_may_be_is_found_anew_after_an_invalidation() -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, NEW_FRAME)
    unit.put(unit.second, PAGE, NEW_FRAME)  # that stays in the history
    assert unit.targets() == {FRAME, NEW_FRAME}
    unit.model.invalidate(iotlb(DOMAIN, PAGE), unit.model.memory.now)
    assert unit.targets() == {NEW_FRAME}


def test_what_else_may_be_is_found_anew_after_hardware_has_written() -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, NEW_FRAME)
    unit.put(unit.second, PAGE, FAR)
    assert unit.targets() == {FRAME, NEW_FRAME}
    memory = unit.tables.memory  # past the history, as hardware writes what has none
    memory.write_u64(unit.table.entry_address(PAGE, 2), memory.read_u64(unit.second.entry_address(PAGE, 2)))
    assert unit.targets() == {THIRD_FRAME, FAR}


@pytest.mark.parametrize(
    "wrong",
    [
        iotlb(SECOND),
        iotlb(SECOND, PAGE),
        iotlb(DOMAIN, NEXT_PAGE),
        iotlb(DOMAIN, PAGE + 0x20_0000, mask=9),
        contexts(),
    ],
    ids=["other domain", "page of another domain", "next page", "next 2 MiB", "context-cache"],
)
def test_after_an_invalidation_of_the_wrong_scope_the_old_translation_is_still_allowed(wrong: Invalidations) -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, None)
    unit.model.invalidate(wrong)
    assert unit.targets() == {FRAME, BLOCKED}


@pytest.mark.parametrize(
    "right",
    [iotlb(), iotlb(DOMAIN), iotlb(DOMAIN, PAGE), iotlb(DOMAIN, PAGE, ih=True), iotlb(DOMAIN, 0, mask=9)],
    ids=["global", "domain", "page", "page with IH", "2 MiB around it"],
)
def test_after_the_right_invalidation_only_the_present_outcome_is_left(right: Invalidations) -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, None)
    unit.model.invalidate(right)
    assert unit.targets() == {BLOCKED}


def test_a_remapped_page_goes_to_either_frame_until_it_is_invalidated() -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, NEW_FRAME)
    unit.put(unit.table, PAGE, THIRD_FRAME)
    assert unit.targets() == {FRAME, NEW_FRAME, THIRD_FRAME}
    unit.model.invalidate(iotlb(DOMAIN, PAGE))
    assert unit.targets() == {THIRD_FRAME}


def test_each_page_is_invalidated_on_its_own() -> None:
    unit = Unit()
    unit.put(unit.table, NEXT_PAGE, FRAME)
    unit.model.invalidate(iotlb())
    unit.put(unit.table, PAGE, NEW_FRAME)
    unit.put(unit.table, NEXT_PAGE, NEW_FRAME)
    unit.model.invalidate(iotlb(DOMAIN, NEXT_PAGE))
    assert unit.targets(PAGE) == {FRAME, NEW_FRAME}
    assert unit.targets(NEXT_PAGE) == {NEW_FRAME}


def test_a_right_that_was_taken_away_may_be_had_until_it_is_invalidated() -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, FRAME, Permissions.READ)
    denied = VtdFaultReason.WRITE_NOT_PERMITTED.name
    assert unit.targets(kind=AccessKind.WRITE) == {FRAME, denied}
    unit.model.invalidate(iotlb(DOMAIN, PAGE))
    assert unit.targets(kind=AccessKind.WRITE) == {denied}


def test_a_right_that_was_given_may_be_missed_until_it_is_invalidated() -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, FRAME, Permissions.READ)
    unit.model.invalidate(iotlb())
    unit.put(unit.table, PAGE, FRAME, RW)
    assert unit.targets(kind=AccessKind.WRITE) == {FRAME, VtdFaultReason.WRITE_NOT_PERMITTED.name}


# --- negative caching, VT-d 6.1 ---


def test_without_caching_mode_a_page_that_was_not_present_is_never_missed_once_it_is() -> None:
    unit = Unit()
    unit.put(unit.table, NEXT_PAGE, FRAME)
    assert unit.targets(NEXT_PAGE) == {FRAME}


def test_with_caching_mode_a_page_that_was_not_present_may_fault_until_it_is_invalidated() -> None:
    unit = Unit(caching_mode=True)
    unit.put(unit.table, NEXT_PAGE, FRAME)
    assert unit.targets(NEXT_PAGE) == {FRAME, BLOCKED}
    unit.model.invalidate(iotlb(DOMAIN, NEXT_PAGE))
    assert unit.targets(NEXT_PAGE) == {FRAME}


def test_without_caching_mode_a_reserved_bit_that_was_set_is_not_remembered() -> None:
    for caching_mode, expected in ((False, {FRAME}), (True, {FRAME, VtdFaultReason.PAGING_ENTRY_RESERVED.name})):
        unit = Unit(caching_mode=caching_mode)
        at, bits = unit.leaf(unit.table, PAGE, FRAME)
        unit.model.memory.write_u64(at, bits | 1 << 62)
        unit.model.invalidate(contexts() + iotlb())
        unit.model.memory.write_u64(at, bits)
        assert unit.targets() == expected


def test_with_caching_mode_a_context_that_was_not_present_may_fault_until_domain_0_is_invalidated() -> None:
    new = 0x0040
    for caching_mode in (False, True):
        unit = Unit(caching_mode=caching_mode)
        unit.model.memory.write(*unit.context(new, DOMAIN, unit.table))
        missed = VtdFaultReason.CONTEXT_NOT_PRESENT.name
        assert unit.targets(PAGE, new) == ({FRAME, missed} if caching_mode else {FRAME})
        unit.model.invalidate(contexts(DOMAIN, new))
        assert unit.targets(PAGE, new) == ({FRAME, missed} if caching_mode else {FRAME})
        unit.model.invalidate(contexts(0, new))
        assert unit.targets(PAGE, new) == {FRAME}


# --- paging-structure caches, VT-d 6.2.4 ---


def test_a_table_that_was_replaced_may_be_walked_on_with_the_leaves_that_it_gets_later() -> None:
    unit = Unit()
    old_leaf = unit.table.entry_address(PAGE, 1)
    directory = unit.table.entry_address(PAGE, 2)
    unit.model.memory.write_u64(directory, unit.second.pages.memory.read_u64(unit.second.entry_address(PAGE, 2)))
    # IH says that no table has changed: the leaf is dropped, what leads to the old table is not.
    unit.model.invalidate(iotlb(DOMAIN, PAGE, ih=True))
    unit.model.memory.write_u64(old_leaf, unit.leaf(unit.table, PAGE, NEW_FRAME)[1])
    assert unit.targets() == {THIRD_FRAME, FRAME, NEW_FRAME}
    unit.model.invalidate(iotlb(DOMAIN, PAGE, ih=True))
    assert unit.targets() == {THIRD_FRAME, NEW_FRAME}
    unit.model.invalidate(iotlb(DOMAIN, PAGE))
    assert unit.targets() == {THIRD_FRAME}


def test_a_large_page_that_becomes_a_table_is_dropped_in_pieces_of_4_kib_6_5_3_2() -> None:
    unit = Unit()
    large, inside = 0x4000_0000, 0x4000_0000 + PAGE
    unit.table.map(large, large, 1 << 21)
    at = unit.table.entry_address(large, 2)
    unit.model.memory.write_u64(at, unit.tables.memory.read_u64(unit.table.entry_address(PAGE, 2)))
    assert unit.targets(inside) == {inside, FRAME}
    # Hardware may have cached the piece around the access by itself: one for another page of it spares that.
    unit.model.invalidate(iotlb(DOMAIN, large))
    assert unit.targets(inside) == {inside, FRAME}
    unit.model.invalidate(iotlb(DOMAIN, inside))
    assert unit.targets(inside) == {FRAME}


def test_the_mask_of_a_large_page_drops_every_piece_of_it_6_5_3_2() -> None:
    unit = Unit()
    large = 0x4000_0000
    unit.table.map(large, large, 1 << 21)
    unit.put(unit.table, large, None, level=2)
    assert unit.targets(large + PAGE) == {large + PAGE, BLOCKED}
    unit.model.invalidate(iotlb(DOMAIN, large, mask=9))
    assert unit.targets(large + PAGE) == unit.targets(large) == {BLOCKED}


# --- context-cache, VT-d 6.2.2 ---


def test_a_context_that_was_changed_may_be_used_until_the_context_cache_is_invalidated_and_then_the_iotlb() -> None:
    unit = Unit()
    unit.model.memory.write(*unit.context(RID, SECOND, unit.second))
    assert unit.targets() == {FRAME, THIRD_FRAME}
    # Wrong: the other domain's, the other device's.
    unit.model.invalidate(contexts(SECOND, RID))
    unit.model.invalidate(contexts(DOMAIN, OTHER))
    unit.model.invalidate(iotlb())
    assert unit.targets() == {FRAME, THIRD_FRAME}
    unit.model.invalidate(contexts(DOMAIN, RID))
    # Table 17: translations of domain 5 are left, and found by the source-id. They go with the old domain.
    unit.model.invalidate(iotlb(SECOND))
    assert unit.targets() == {FRAME, THIRD_FRAME}
    unit.model.invalidate(iotlb(DOMAIN))
    assert unit.targets() == {THIRD_FRAME}


def test_a_table_of_a_domain_that_a_requester_has_left_is_not_walked_on_6_2_5() -> None:
    unit = Unit()
    unit.model.memory.write(*unit.context(RID, SECOND, unit.second))
    unit.model.invalidate(contexts(DOMAIN, RID))
    # Paging-structure caches are looked up by domain: what is put there now, nobody reads.
    unit.put(unit.table, PAGE, NEW_FRAME)
    assert unit.targets() == {FRAME, THIRD_FRAME}


def test_a_stale_translation_is_not_found_by_another_requester_that_comes_into_the_domain_table_17() -> None:
    unit = Unit()
    third = 0x0040
    unit.put(unit.table, PAGE, None)
    unit.model.memory.write(*unit.context(third, DOMAIN, unit.table))
    assert unit.targets() == {FRAME, BLOCKED}
    assert unit.targets(PAGE, third) == {BLOCKED}


def test_a_context_that_is_changed_between_two_full_invalidations_is_not_forgotten_with_what_was_before() -> None:
    unit = Unit()
    unit.put(unit.table, NEXT_PAGE, FRAME)
    unit.model.invalidate(contexts())
    unit.model.memory.write(*unit.context(RID, SECOND, unit.second))
    unit.model.invalidate(iotlb())
    assert unit.targets() == {FRAME, THIRD_FRAME}


def test_with_the_same_domain_the_old_table_serves_until_the_iotlb_is_invalidated_too() -> None:
    unit = Unit()
    unit.model.memory.write(*unit.context(RID, DOMAIN, unit.second))
    unit.model.invalidate(contexts(DOMAIN, RID))
    assert unit.targets() == {FRAME, THIRD_FRAME}
    unit.model.invalidate(iotlb(SECOND))
    assert unit.targets() == {FRAME, THIRD_FRAME}
    unit.model.invalidate(iotlb(DOMAIN))
    assert unit.targets() == {THIRD_FRAME}


def test_the_iotlb_before_the_context_cache_is_the_wrong_order() -> None:
    unit = Unit()
    unit.model.memory.write(*unit.context(RID, DOMAIN, unit.second))
    unit.model.invalidate(iotlb(DOMAIN))
    unit.model.invalidate(contexts(DOMAIN, RID))
    assert unit.targets() == {FRAME, THIRD_FRAME}
    unit.model.invalidate(iotlb(DOMAIN))
    assert unit.targets() == {THIRD_FRAME}


def test_a_domain_id_that_is_given_to_another_table_without_an_invalidation_hands_it_the_old_translations() -> None:
    unit = Unit()
    third = 0x0040
    unit.model.memory.write(*unit.context(third, DOMAIN, unit.second))
    assert unit.targets(PAGE, third) == {THIRD_FRAME, FRAME}
    # The device that had the domain goes away, with its context-cache entry; its translations stay.
    unit.model.memory.write(*unit.context(RID, DOMAIN, unit.table, P=0))
    unit.model.invalidate(contexts(DOMAIN, RID))
    assert unit.targets(PAGE, third) == {THIRD_FRAME, FRAME}
    unit.model.invalidate(iotlb(DOMAIN))
    assert unit.targets(PAGE, third) == {THIRD_FRAME}


def test_a_translation_of_another_requester_faults_in_the_name_of_the_one_that_finds_it() -> None:
    unit = Unit()
    third = 0x0040
    unit.put(unit.table, PAGE, FRAME, Permissions.READ)
    unit.model.invalidate(contexts() + iotlb())
    unit.model.memory.write(*unit.context(third, DOMAIN, unit.second))
    faults = [each for each in unit.model.allowed(access(PAGE, third, AccessKind.WRITE)) if isinstance(each, Fault)]
    assert [fault.requester for fault in faults] == [third]
    assert faults[0].record is not None
    assert faults[0].record.source_id == third  # type: ignore[attr-defined]


def test_two_requesters_with_one_domain_and_two_tables_get_each_others_translations_at_any_time() -> None:
    unit = Unit()
    unit.model.memory.write(*unit.context(OTHER, DOMAIN, unit.second))
    unit.model.invalidate(contexts() + iotlb())
    assert unit.targets(PAGE, RID) == unit.targets(PAGE, OTHER) == {FRAME, THIRD_FRAME}


def test_a_requester_that_was_blocked_before_its_table_shares_a_domain_once_it_translates() -> None:
    unit = Unit()
    third = 0x0040
    unit.model.memory.write(*unit.context(third, DOMAIN, unit.second))
    unit.model.invalidate(contexts() + iotlb())
    assert unit.targets(1 << 40, third) == {VtdFaultReason.ADDRESS_BEYOND_WIDTH.name}
    assert unit.targets(PAGE, RID) == {FRAME}
    assert unit.targets(PAGE, third) == unit.targets(PAGE, RID) == {FRAME, THIRD_FRAME}


def test_two_requesters_with_one_domain_and_one_table_are_one() -> None:
    unit = Unit()
    unit.model.memory.write(*unit.context(OTHER, DOMAIN, unit.table))
    unit.model.invalidate(contexts() + iotlb())
    assert unit.targets(PAGE, RID) == unit.targets(PAGE, OTHER) == {FRAME}
    unit.put(unit.table, PAGE, None)
    assert unit.targets(PAGE, OTHER) == {FRAME, BLOCKED}


def test_a_translation_from_before_the_width_shrank_may_be_found_until_the_iotlb_is_invalidated() -> None:
    unit = Unit()
    wide = RadixTable(unit.tables.pages, SecondStageFormat(), 4)
    far = 1 << 40
    wide.map(far, FRAME, 0x1000)
    unit.tables.attach(RID, DOMAIN, 4, table=wide)
    beyond = VtdFaultReason.ADDRESS_BEYOND_WIDTH.name
    assert unit.targets(far) == {FRAME}
    unit.model.memory.write(*unit.context(RID, DOMAIN, unit.table))
    unit.model.invalidate(contexts(DOMAIN, RID))
    assert unit.targets(far) == {FRAME, beyond}
    unit.model.invalidate(iotlb(SECOND))
    assert unit.targets(far) == {FRAME, beyond}
    unit.model.invalidate(iotlb(DOMAIN))
    assert unit.targets(far) == {beyond}


def test_pass_through_that_was_taken_away_lasts_until_the_context_cache_and_then_the_iotlb_are_invalidated() -> None:
    unit = Unit()
    unit.model.memory.write(*unit.context(RID, DOMAIN, unit.table, TT=TranslationType.PASS_THROUGH))
    unit.model.invalidate(contexts() + iotlb())
    unit.model.memory.write(*unit.context(RID, DOMAIN, unit.table))
    assert unit.targets() == {PAGE, FRAME}
    unit.model.invalidate(contexts(DOMAIN, RID))
    # 6.2.4: the IOTLB has pass-through mappings as well; table 23: page and domain drop them.
    unit.model.invalidate(iotlb(SECOND, PAGE) + iotlb(DOMAIN, NEXT_PAGE))
    assert unit.targets() == {PAGE, FRAME}
    unit.model.invalidate(iotlb(DOMAIN, PAGE))
    assert unit.targets() == {FRAME}


def test_a_context_is_never_torn() -> None:
    unit = Unit()
    unit.model.memory.write(*unit.context(RID, SECOND, unit.second))
    unit.model.memory.write(*unit.context(RID, DOMAIN, unit.table))
    # Domain 5 with the second table was never there.
    for found in unit.model.allowed(access(PAGE)):
        assert target(found) in (FRAME, THIRD_FRAME)
    unit.model.invalidate(contexts() + iotlb(SECOND))
    assert unit.targets() == {FRAME}


# --- registers, VT-d 6.6, 11.4.4 ---


def other_root(unit: Unit) -> VtdRegisters:
    tables = VtdTables(unit.tables.memory, 0x100_0000)
    tables.attach(RID, DOMAIN, 3, table=unit.second)
    return replace(unit.registers, rtaddr=tables.root)


def test_after_a_new_root_table_the_old_one_serves_until_everything_is_invalidated() -> None:
    unit = Unit()
    unit.model.set_registers(other_root(unit))
    assert unit.targets() == {FRAME, THIRD_FRAME}
    unit.model.invalidate(iotlb())
    assert unit.targets() == {FRAME, THIRD_FRAME}
    unit.model.invalidate(contexts())
    assert unit.targets() == {FRAME, THIRD_FRAME}
    unit.model.invalidate(iotlb())
    assert unit.targets() == {THIRD_FRAME}


def test_the_context_cache_holds_root_entry_and_context_entry_as_one() -> None:
    unit = Unit()
    third = RadixTable(unit.tables.pages, SecondStageFormat(), 3)
    third.map(PAGE, NEW_FRAME, 0x1000)
    unit.model.set_registers(other_root(unit))
    # What the old context-table says from now on is not found by way of a root-entry that was kept.
    unit.model.memory.write(*unit.context(RID, DOMAIN, third))
    assert unit.targets() == {FRAME, THIRD_FRAME}


def test_with_esrtps_a_new_root_table_counts_at_once() -> None:
    unit = Unit()
    cap = unit.registers.cap | CAP_REG.encode({"ESRTPS": 1})
    unit.model.set_registers(replace(unit.registers, cap=cap))
    unit.model.set_registers(replace(other_root(unit), cap=cap))
    assert unit.targets() == {THIRD_FRAME}
    assert unit.model.memory.is_empty


def test_with_scalable_mode_supported_disabling_translation_drops_what_it_cached_11_4_4_1() -> None:
    for scalable_mode in (False, True):
        unit = Unit()
        ecap = unit.registers.ecap | ECAP_REG.encode({"SMTS": int(scalable_mode)})
        on = replace(unit.registers, ecap=ecap)
        unit.model.set_registers(on)
        unit.put(unit.table, PAGE, None)
        unit.model.set_registers(replace(on, gsts=0))
        unit.model.set_registers(on)
        assert unit.targets() == ({BLOCKED} if scalable_mode else {FRAME, BLOCKED})


def test_translation_that_is_off_uses_no_cache() -> None:
    unit = Unit()
    unit.put(unit.table, PAGE, None)
    unit.model.set_registers(replace(unit.registers, gsts=0))
    assert unit.model.allowed(access(PAGE)) == {Bypassed(PAGE, BypassReason.TRANSLATION_OFF)}


def test_what_was_in_memory_only_while_translation_was_off_is_in_no_cache() -> None:
    unit = Unit()
    unit.model.set_registers(replace(unit.registers, gsts=0))
    unit.put(unit.table, PAGE, NEW_FRAME)
    unit.put(unit.table, PAGE, THIRD_FRAME)
    unit.model.set_registers(unit.registers)
    assert unit.targets() == {FRAME, THIRD_FRAME}


# --- verdicts ---


def test_a_verdict_says_what_is_stale_since_when_and_what_would_end_it() -> None:
    unit = Unit()
    seen = unit.model.engine.translate(access(PAGE))
    assert unit.model.judge(access(PAGE), seen) is ALLOWED
    unit.put(unit.table, PAGE, NEW_FRAME)
    verdict = unit.model.judge(access(PAGE), seen)
    assert isinstance(verdict, Allowed)
    assert verdict.how is not None
    (stale,) = verdict.how.stale
    assert (stale.what, stale.until) == ("SS-PTE", 2)
    assert [entry.domain for entry in stale.kept_as] == [DOMAIN]
    assert "domain 0x5 0x100000..0x100fff" in str(verdict)


def test_a_verdict_says_which_invalidation_has_ended_what_was_seen() -> None:
    unit = Unit()
    seen = unit.model.engine.translate(access(PAGE))
    unit.put(unit.table, PAGE, NEW_FRAME)
    unit.model.invalidate(iotlb(SECOND))
    unit.model.invalidate(iotlb(DOMAIN, PAGE))
    verdict = unit.model.judge(access(PAGE), seen)
    assert isinstance(verdict, NotAllowed)
    assert not verdict
    assert verdict.gone.startswith("it was right until change 2; change 4 dropped it: ")
    assert [target(possible.outcome) for possible in verdict.possible] == [NEW_FRAME]
    assert "00:05.0 read of 1 bytes at 0x100000" in str(verdict)


def test_what_was_never_so_is_not_allowed() -> None:
    unit = Unit()
    verdict = unit.model.judge(access(PAGE), Translated(NEW_FRAME, 4096, RW))
    assert isinstance(verdict, NotAllowed)
    assert verdict.gone == ""


# --- programs ---

_Operation = Callable[[Unit, Bench], None]


def _writes(address: int, value: int, size: int = 8) -> _Operation:
    return lambda unit, bench: bench.write(address, value, size)


def operations(unit: Unit) -> Sequence[_Operation]:
    """Changes of every kind, and invalidations of every scope."""
    found: list[_Operation] = []
    for table in (unit.table, unit.second):
        for frame in (FRAME, NEW_FRAME, None):
            found.append(_writes(*unit.leaf(table, PAGE, frame)))
        found.append(_writes(*unit.leaf(table, PAGE, FRAME, Permissions.READ)))
        found.append(_writes(*unit.leaf(table, NEXT_PAGE, NEW_FRAME)))
        for other in (unit.table, unit.second):
            directory = unit.tables.memory.read_u64(other.entry_address(PAGE, 2))
            found.append(_writes(table.entry_address(PAGE, 2), directory))
        found.append(_writes(*unit.leaf(table, PAGE, 0x4000_0000, level=2)))
    for requester in (RID, OTHER):
        for domain, table in ((DOMAIN, unit.table), (SECOND, unit.second), (DOMAIN, unit.second)):
            at, entry = unit.context(requester, domain, table)
            found.append(_writes(at, int.from_bytes(entry, "little"), 16))
        for fields in ({"P": 0}, {"TT": TranslationType.PASS_THROUGH}):
            at, entry = unit.context(requester, DOMAIN, unit.table, **fields)
            found.append(_writes(at, int.from_bytes(entry, "little"), 16))
    second_root = other_root(unit)
    for registers in (unit.registers, second_root, replace(unit.registers, gsts=0)):
        found.append(lambda unit, bench, registers=registers: bench.set_registers(registers))  # type: ignore[misc]
    for scope in (
        contexts(),
        contexts(DOMAIN),
        contexts(DOMAIN, RID),
        contexts(SECOND, OTHER),
        iotlb(),
        iotlb(DOMAIN),
        iotlb(SECOND),
        iotlb(DOMAIN, PAGE),
        iotlb(DOMAIN, PAGE, ih=True),
        iotlb(SECOND, PAGE),
        iotlb(DOMAIN, NEXT_PAGE),
        contexts() + iotlb(),
    ):
        found.append(lambda unit, bench, scope=scope: bench.invalidate(scope))  # type: ignore[misc]
    return found


ACCESSES = (
    access(PAGE),
    access(PAGE, kind=AccessKind.WRITE),
    access(NEXT_PAGE),
    access(PAGE, OTHER),
    access(NEXT_PAGE, OTHER),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=6), st.booleans())
def test_what_is_allowed_is_what_caches_that_keep_everything_can_give(program: list[int], caching_mode: bool) -> None:
    unit = Unit(caching_mode=caching_mode)
    bench = Bench(unit.model, VtdEngine, VTD_LEGACY, ACCESSES)
    choices = operations(unit)
    for number in program:
        choices[number % len(choices)](unit, bench)
        bench.check()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=20), st.booleans(), st.integers(0, 1 << 16))
def test_caches_that_keep_what_they_like_never_give_what_is_not_allowed(
    program: list[int], caching_mode: bool, seed: int
) -> None:
    unit = Unit(caching_mode=caching_mode)
    bench = Bench(unit.model, VtdEngine, VTD_LEGACY, ACCESSES, random.Random(seed))
    choices = operations(unit)
    for number in program:
        choices[number % len(choices)](unit, bench)
        bench.check()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=20))
def test_after_everything_is_invalidated_exactly_the_present_outcome_is_left(program: list[int]) -> None:
    unit = Unit()
    bench = Bench(unit.model, VtdEngine, VTD_LEGACY, (), random.Random(0))
    choices = operations(unit)
    for number in program:
        choices[number % len(choices)](unit, bench)
    unit.model.invalidate(contexts())
    unit.model.invalidate(iotlb())
    assert unit.model.memory.is_empty
    shared = unit.model.engine.explain(access(0)).steps[-1].cached
    other = unit.model.engine.explain(access(0, OTHER)).steps[-1].cached
    if shared is None or other is None or shared.domain != other.domain:
        for each in ACCESSES:
            assert unit.model.allowed(each) == {unit.model.engine.translate(each)}
