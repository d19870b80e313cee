"""What an SMMU over time may have in its caches, and until when (IHI 0070 3.17, 3.21, 4.3, 4.4, 4.7.3, 4.8)."""

from __future__ import annotations

import pytest
from smmuv3_driver import CFGI_ALL, CMDQEN, ON, SMMUEN, SYNC, TLBI_ALL, Driver
from smmuv3_unit import ASID, IOVA, NOWHERE, OUTPUT, SID, VMID, WRITE, Unit

from harness.model.access import Fault, Permissions, Translated
from harness.model.bits import changed
from harness.model.invalidation import EntryKind, Invalidation
from harness.model.radix import RadixTable
from harness.model.smmuv3 import Smmuv3Opcode, Stage1Format
from harness.model.smmuv3.commands import command_bits
from harness.model.smmuv3.events import Smmuv3EventType
from harness.model.smmuv3.pending import PendingInvalidations
from harness.model.smmuv3.structures import CD, STE, STE_SIZE

LEAF = command_bits(Smmuv3Opcode.CMD_TLBI_NH_VA, VMID=VMID, ASID=ASID, ADDRESS=IOVA >> 12, LEAF=1)


def unmap(driver: Driver) -> None:
    driver.unit.store(driver.tables.tree.entry_address(IOVA, 1), bytes(8))


def is_mapped(driver: Driver) -> list[bool]:
    return [isinstance(outcome, Translated) for outcome in driver.outcomes()]


def test_present_outcome_comes_first_and_stale_ones_after_it() -> None:
    driver = Driver()
    assert is_mapped(driver) == [True]
    unmap(driver)
    assert is_mapped(driver) == [False, True]


def test_translation_is_stale_until_a_sync_after_its_invalidation_4_7_3_4_8() -> None:
    driver = Driver()
    unmap(driver)
    driver.submit(LEAF)
    assert is_mapped(driver) == [False, True]
    driver.submit(SYNC)
    assert is_mapped(driver) == [False]


def test_sync_completes_nothing_that_was_not_commanded() -> None:
    driver = Driver()
    unmap(driver)
    driver.submit(SYNC)
    assert is_mapped(driver) == [False, True]


def test_what_was_brought_in_after_the_command_may_outlive_its_sync_3_21_1() -> None:
    driver = Driver()
    entry = driver.tables.tree.entry_address(IOVA, 1)
    pte = driver.unit.memory.read_u64(entry)
    unmap(driver)
    driver.submit(LEAF)
    driver.unit.store(entry, (pte + 0x1000).to_bytes(8, "little"))
    driver.unit.store(entry, bytes(8))
    driver.submit(SYNC)
    addresses = {outcome.address for outcome in driver.outcomes() if isinstance(outcome, Translated)}
    # The first page was dropped; the second may have been read since.
    assert addresses == {OUTPUT + 0x1000}


def test_translation_made_from_a_stale_ste_may_outlive_a_tlbi_of_the_same_sync_4_7_3() -> None:
    driver = Driver()
    other = RadixTable(driver.tables.pages, Stage1Format(), 4)
    other.map(IOVA, OUTPUT + 0x5000, 0x1000)
    driver.write("CR0", 0)
    contexts = type(driver.tables.cd)(driver.tables.pages)
    contexts.describe(0, other, asid=ASID)
    driver.write("CR0", ON)
    ste = driver.tables.tables.root + (SID << 6)
    word = driver.unit.memory.read_u64(ste)
    pointer = driver.tables.cd.root
    driver.unit.store(ste, (word - pointer + contexts.root).to_bytes(8, "little"))
    driver.submit(CFGI_ALL, TLBI_ALL, SYNC)
    assert len(driver.outcomes()) == 2
    # With each set completed before the next begins, nothing is left.
    driver.invalidate_all()
    (outcome,) = driver.outcomes()
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT + 0x5000


@pytest.mark.parametrize("stages", ["1", "2"])
def test_translation_outlives_its_table_where_the_present_one_is_not_even_there_3_17(stages: str) -> None:
    """It is found by VMID and ASID, whatever table they belong to now."""
    driver = Driver(Unit(stages))
    tables = driver.tables
    at, layout, name = (
        (tables.cd.root, CD, "TTB0") if stages == "1" else (tables.tables.root + (SID << 6), STE, "S2TTB")
    )
    entry = changed(layout, int.from_bytes(tables.memory.read(at, STE_SIZE), "little"), {name: NOWHERE >> 4})
    driver.unit.store(at, entry.to_bytes(STE_SIZE, "little"))
    driver.submit(CFGI_ALL, SYNC)
    fault, kept = driver.outcomes()
    assert isinstance(fault, Fault)
    assert fault.code is Smmuv3EventType.F_WALK_EABT
    assert isinstance(kept, Translated)
    driver.submit(TLBI_ALL, SYNC)
    assert driver.outcomes() == [fault]


def test_ste_is_stale_until_its_invalidation_is_complete_4_3_1() -> None:
    driver = Driver()
    driver.unit.store(driver.tables.tables.root + (SID << 6), bytes(8))
    assert is_mapped(driver) == [False, True]
    driver.submit(command_bits(Smmuv3Opcode.CMD_CFGI_STE, STREAMID=SID, LEAF=1))
    driver.submit(SYNC)
    assert is_mapped(driver) == [False]


def test_invalidation_of_another_asid_drops_nothing_4_4_2() -> None:
    driver = Driver()
    unmap(driver)
    driver.submit(command_bits(Smmuv3Opcode.CMD_TLBI_NH_ASID, VMID=VMID, ASID=ASID + 1), SYNC)
    assert is_mapped(driver) == [False, True]
    driver.submit(command_bits(Smmuv3Opcode.CMD_TLBI_NH_ASID, VMID=VMID, ASID=ASID), SYNC)
    assert is_mapped(driver) == [False]


def test_nothing_is_kept_of_what_memory_held_before_translation_was_on_6_3_9_6() -> None:
    driver = Driver(enables=CMDQEN)
    unmap(driver)
    driver.write("CR0", ON)
    assert is_mapped(driver) == [False]


def test_translation_outlives_smmuen_being_off_6_3_9_6() -> None:
    driver = Driver()
    driver.write("CR0", CMDQEN)
    unmap(driver)
    driver.write("CR0", ON)
    assert is_mapped(driver) == [False, True]


def test_history_is_flat_after_everything_was_invalidated() -> None:
    driver = Driver()
    for _ in range(3):
        unmap(driver)
        driver.unit.store(driver.tables.tree.entry_address(IOVA, 1), b"\3")
        driver.invalidate_all()
        history = driver.unit.history
        assert history.is_empty
        assert history.size == 0


def test_commands_and_events_are_no_history() -> None:
    driver = Driver()
    driver.fault()
    driver.submit(SYNC)
    assert driver.unit.history.is_empty


@pytest.mark.parametrize("stale", [False, True])
def test_flags_are_set_where_no_cache_can_have_the_page_3_13(stale: bool) -> None:
    driver = Driver()
    driver.tables.cd.set_fields(0, {"HA": 1})
    driver.tables.tree.set_fields(IOVA, 1, {"AF": 0})
    entry = driver.tables.tree.entry_address(IOVA, 1)
    before = driver.unit.memory.read_u64(entry)
    if stale:
        # What else was written leaves something that caches may have, and no flag that must be set.
        driver.unit.store(0x2F_0000, b"\1")
    (outcome,) = driver.outcomes()
    writes = driver.unit.settle(driver.access(), outcome)
    after = driver.unit.memory.read_u64(entry)
    assert after == (before if stale else before | 1 << 10)
    assert [write.address for write in writes] == [entry] * stale


def test_a_stale_outcome_sets_no_flag_of_the_present_page_3_13() -> None:
    driver = Driver()
    driver.tables.cd.set_fields(0, {"HA": 1, "HD": 1})
    assert is_mapped(driver) == [True]
    driver.write("CR0", ON)
    entry = driver.tables.tree.entry_address(IOVA, 1)
    pte = driver.unit.memory.read_u64(entry)
    driver.unit.store(entry, (pte & ~(1 << 10) | 1 << 13).to_bytes(8, "little"))
    present, old = driver.outcomes(WRITE)
    assert driver.unit.settle(driver.access(WRITE), old) == ()
    assert [write.address for write in driver.unit.settle(driver.access(WRITE), present)] == [entry]


def test_explanation_is_of_the_walk_without_caches() -> None:
    driver = Driver()
    unmap(driver)
    assert isinstance(driver.unit.explain(driver.access()).outcome, Fault)


def test_granule_is_the_smallest_of_the_smmu() -> None:
    assert Driver(Unit(granule=16, caps={"granules": frozenset({16})})).unit.granule == 1 << 16


def test_sources_may_have_brought_in_what_another_finds() -> None:
    driver = Driver(options={"sources": [(SID + 1, None)]})
    tables = driver.tables
    other = RadixTable(tables.pages, Stage1Format(), 4)
    other.map(IOVA, OUTPUT + 0x7000, 0x1000, Permissions.READ)
    contexts = type(tables.cd)(tables.pages)
    contexts.describe(0, other, asid=ASID)
    driver.write("CR0", 0)
    tables.tables.attach(SID + 1, contexts, vmid=0)
    tables.tables.set_fields(SID, {"S2VMID": 0})
    driver.unit.reset()
    driver.set_up(SMMUEN)
    assert len(driver.outcomes()) == 2


# What waits for a CMD_SYNC.


def test_pending_invalidations_come_in_the_order_that_drops_least() -> None:
    pending = PendingInvalidations()
    device = Invalidation(kinds=frozenset({EntryKind.DEVICE, EntryKind.PROCESS}))
    process = Invalidation(kinds=frozenset({EntryKind.PROCESS}))
    stage2 = Invalidation(kinds=frozenset({EntryKind.LEAF}), stage=2)
    stage1 = Invalidation(kinds=frozenset({EntryKind.LEAF}), stage=1)
    for moment, each in enumerate((device, process, stage2, stage1), 5):
        pending.add(moment, (each,))
    assert list(pending.complete(5)) == [(8, stage1), (None, stage2), (None, process), (None, device)]
    assert list(pending.complete(5)) == []


def test_what_leads_to_translations_stays_where_memory_changed_since_its_command() -> None:
    pending = PendingInvalidations()
    process = Invalidation(kinds=frozenset({EntryKind.PROCESS}))
    pending.add(5, (process,))
    assert list(pending.complete(6)) == []
