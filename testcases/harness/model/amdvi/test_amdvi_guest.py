"""Guest page tables and GCR3 tables, beside vectors written by hand, and nested (AMD-Vi 2.2.6)."""

from __future__ import annotations

import pytest
from amdvi_unit import DOMAIN, GUEST_BASE, IOVA, OUTPUT, RID, Unit, guest_unit, nested_unit
from reasons import assert_fault

from harness.model.access import (
    Access,
    AccessKind,
    Attributes,
    Bypassed,
    Fault,
    MemoryWrite,
    Permissions,
    Translated,
)
from harness.model.amdvi import AmdviEngine, AmdviFaultReason, AmdviRegisters, AmdviTables, Gcr3Table
from harness.model.amdvi.registers import extended_features
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import SparseMemory

RW = Permissions.READ | Permissions.WRITE
WRITE = AccessKind.WRITE
PASID = 5


def by_hand(entries: dict[int, int], *, word2: int = 0, features: int | None = None) -> AmdviEngine:
    """Device 0 with GV, a GCR3 table of one level at 0x0007_89AB_C000, and entries given as numbers."""
    memory = SparseMemory()
    root = 0x7_89AB_C000
    word0 = 0x6080_0000_0000_0003 | (root >> 12 & 7) << 58
    word1 = 0x42 | (root >> 15 & 0xFFFF) << 16 | (root >> 31) << 43
    for offset, word in enumerate((word0, word1, word2)):
        memory.write_u64(0x4000 + 8 * offset, word)
    memory.write_u64(root + 8 * PASID, 0x10_0001)
    for address, value in entries.items():
        memory.write_u64(address, value)
    extended = extended_features() if features is None else features
    registers = AmdviRegisters(device_table_base=0x4000, extended_feature=extended, control=1 | 1 << 16)
    return AmdviEngine(registers, memory)


def request(iova: int, kind: AccessKind = AccessKind.READ, *, privileged: bool = False) -> Access:
    return Access(requester=0, iova=iova, length=1, kind=kind, pasid=PASID, privileged=privileged)


# PML4E, PDPE, PDE and PTE of address 0x0000_0000_0020_3000, with P, RW, US, A.
WAY = {0x10_0000: 0x10_1027, 0x10_1000: 0x10_2027, 0x10_2000 + 8: 0x10_3027, 0x10_3000 + 24: 0x8765_4027}
PTE = 0x10_3000 + 24
GVA = 0x20_3000


def test_a_4_kib_page_in_four_levels() -> None:
    everything = RW | Permissions.EXECUTE
    assert by_hand(WAY).translate(request(GVA + 0x123)) == Translated(0x8765_4123, 4096, everything)


def test_five_levels_by_guestpagingmode() -> None:
    way = {0x10_0000 + 8: 0x20_0027, 0x20_0000: 0x10_1027, **{k: v for k, v in WAY.items() if k != 0x10_0000}}
    outcome = by_hand(way, word2=1 << 54).translate(request((1 << 48) + GVA))
    assert isinstance(outcome, Translated)
    assert outcome.address == 0x8765_4000


@pytest.mark.parametrize(
    ("entries", "size"),
    [
        ({0x10_2000 + 8: 0x4000_00A7}, 1 << 21),
        ({0x10_2000 + 8: 0x4000_10A7}, 1 << 21),  # bit 12 is PAT
        ({0x10_1000: 0x4000_00A7}, 1 << 30),
        ({0x10_1000: 0x4000_10A7}, 1 << 30),
    ],
)
def test_large_pages(entries: dict[int, int], size: int) -> None:
    outcome = by_hand({**WAY, **entries}).translate(request(GVA + 0x123))
    assert isinstance(outcome, Translated)
    assert (outcome.address, outcome.size) == (0x4000_0000 + (GVA + 0x123) % size, size)


@pytest.mark.parametrize(
    ("address", "value", "level"),
    [
        (0x10_0000, 0x10_10A7, 4),  # PS in a PML4E
        (0x10_0000, 0x10_1127, 4),  # bit 8 in a PML4E
        (0x10_2000 + 8, 0x4000_20A7, 2),  # bit 13 of a 2 MiB page
        (0x10_2000 + 8, 0x4010_00A7, 2),
        (0x10_1000, 0x5000_00A7, 3),  # bit 28 of a 1 GiB page
    ],
)
def test_bits_that_must_be_zero(address: int, value: int, level: int) -> None:
    outcome = by_hand({**WAY, address: value}).translate(request(GVA))
    assert_fault(outcome, AmdviFaultReason.ENTRY_RESERVED, stage=1, level=level)


def test_bit_7_of_the_last_level_is_pat() -> None:
    assert isinstance(by_hand({**WAY, PTE: 0x8765_40A7}).translate(request(GVA)), Translated)


@pytest.mark.parametrize("address", list(WAY))
def test_rw_is_needed_at_every_level_to_write(address: int) -> None:
    engine = by_hand({**WAY, address: WAY[address] & ~2})
    assert_fault(engine.translate(request(GVA, WRITE)), AmdviFaultReason.NO_PERMISSION, stage=1)
    assert_fault(engine.translate(request(GVA, WRITE, privileged=True)), AmdviFaultReason.NO_PERMISSION)
    outcome = engine.translate(request(GVA))
    assert isinstance(outcome, Translated)
    assert outcome.permissions == Permissions.READ | Permissions.EXECUTE


@pytest.mark.parametrize("address", list(WAY))
def test_us_is_needed_at_every_level_by_users(address: int) -> None:
    engine = by_hand({**WAY, address: WAY[address] & ~4})
    assert_fault(engine.translate(request(GVA)), AmdviFaultReason.SUPERVISOR_PAGE, stage=1)
    outcome = engine.translate(request(GVA, privileged=True))
    assert isinstance(outcome, Translated)
    assert outcome.attributes is Attributes.PRIVILEGED


@pytest.mark.parametrize("address", list(WAY))
def test_nx_at_any_level_forbids_executing(address: int) -> None:
    engine = by_hand({**WAY, address: WAY[address] | 1 << 63})
    assert_fault(engine.translate(request(GVA, AccessKind.EXECUTE)), AmdviFaultReason.NO_PERMISSION, stage=1)
    outcome = engine.translate(request(GVA))
    assert isinstance(outcome, Translated)
    assert outcome.permissions == RW


def test_nx_and_us_are_ignored_without_their_features() -> None:
    features = extended_features(features={"GTSup": 1})
    engine = by_hand({**WAY, PTE: (WAY[PTE] | 1 << 63) & ~4}, features=features)
    for kind in AccessKind:
        assert isinstance(engine.translate(request(GVA, kind)), Translated)


def test_global_pages_are_said_to_be_global() -> None:
    outcome = by_hand({**WAY, PTE: WAY[PTE] | 0x100}).translate(request(GVA))
    assert isinstance(outcome, Translated)
    assert outcome.attributes is Attributes.GLOBAL


def test_the_upper_half_is_reached_by_sign_extension() -> None:
    # Entry 511 of the topmost table.
    way = {0x10_0000 + 8 * 511: 0x10_1027, **{k: v for k, v in WAY.items() if k != 0x10_0000}}
    outcome = by_hand(way).translate(request(0xFFFF_FF80_0000_0000 + GVA))
    assert isinstance(outcome, Translated)
    assert_fault(by_hand(way).translate(request(0x0000_FF80_0000_0000 + GVA)), AmdviFaultReason.NOT_CANONICAL)


# Flags


def stored(address: int, value: int) -> MemoryWrite:
    return MemoryWrite(address, value.to_bytes(8, "little"))


def test_accessed_and_dirty_flags_are_set() -> None:
    clean = {address: value & ~0x20 for address, value in WAY.items()}
    accessed = [stored(address, value | 0x20) for address, value in clean.items()]
    outcome = by_hand(clean).translate(request(GVA))
    assert isinstance(outcome, Translated)
    assert outcome.writes == tuple(accessed)
    outcome = by_hand(clean).translate(request(GVA, WRITE))
    assert isinstance(outcome, Translated)
    assert outcome.writes == (*accessed[:-1], stored(PTE, clean[PTE] | 0x60))


@pytest.mark.parametrize(("control", "flags"), [("GAUpdateDis", 0x40), ("GDUpdateDis", 0x20)])
def test_updates_of_flags_can_be_switched_off_3_4(control: str, flags: int) -> None:
    unit, guest = guest_unit()
    guest.set_fields(IOVA, 1, {"A": 0, "D": 0})
    unit.control[control] = 1
    outcome = unit.access(WRITE, pasid=PASID)
    assert isinstance(outcome, Translated)
    entry = guest.entry_address(IOVA, 1)
    assert outcome.writes == (stored(entry, unit.memory.read_u64(entry) | flags),)


def test_gaupdatedis_takes_gaupdatedissup_3_4() -> None:
    unit, guest = guest_unit()
    guest.set_fields(IOVA, 1, {"A": 0})
    unit.control["GAUpdateDis"] = 1
    unit.extended_feature = extended_features(features={"GTSup": 1, "NXSup": 1, "USSup": 1})
    outcome = unit.access(pasid=PASID)
    assert isinstance(outcome, Translated)
    assert [write.address for write in outcome.writes] == [guest.entry_address(IOVA, 1)]


def test_flags_of_both_stages_are_set_when_nested() -> None:
    unit, guest, host = nested_unit()
    guest.set_fields(IOVA, 1, {"A": 0, "D": 0})
    unit.set(HAD=0b11)
    outcome = unit.access(WRITE, pasid=PASID)
    assert isinstance(outcome, Translated)
    table = guest.entry_address(IOVA, 1)
    by_address = {write.address: int.from_bytes(write.data, "little") for write in outcome.writes}
    # The guest's entry is marked, so the host's page that it is on is dirty; so is the page that is written.
    assert by_address[GUEST_BASE + table] & 0x60 == 0x60
    assert by_address[host.entry_address(table, 1)] & 0x60 == 0x60
    assert by_address[host.entry_address(OUTPUT, 1)] & 0x60 == 0x60
    # The guest's other tables are read only.
    assert by_address[host.entry_address(guest.root, 1)] & 0x60 == 0x20
    for write in outcome.writes:
        write.apply(unit.memory)
    again = unit.access(WRITE, pasid=PASID)
    assert isinstance(again, Translated)
    assert again.writes == ()


def test_a_guest_table_that_may_not_be_written_takes_no_flags() -> None:
    unit, guest, host = nested_unit()
    table = guest.entry_address(IOVA, 1)
    host.set_fields(table, 1, {"IW": 0})
    assert isinstance(unit.access(pasid=PASID), Translated)
    guest.set_fields(IOVA, 1, {"A": 0})
    assert_fault(unit.access(pasid=PASID), AmdviFaultReason.NO_PERMISSION, stage=2, level=1)


# GIoV, GCR3 levels, nesting


def test_giov_sends_requests_without_pasid_to_pasid_0() -> None:
    unit, _ = guest_unit(pasid=0, without_pasid=True)
    assert unit.access() == Translated(OUTPUT, 4096, RW)
    # No sign extension there: the topmost of 48 bits is a bit like others, and those above it are zero.
    assert_fault(unit.access(iova=1 << 47), AmdviFaultReason.NOT_PRESENT, stage=1, level=4)
    assert_fault(unit.access(iova=1 << 48), AmdviFaultReason.NOT_CANONICAL, stage=1)


def test_without_pasid_there_is_neither_executing_nor_privilege() -> None:
    unit, guest = guest_unit(pasid=0, without_pasid=True)
    # The page has NX=1: executing is reading.
    assert isinstance(unit.access(AccessKind.EXECUTE), Translated)
    guest.set_fields(IOVA, 1, {"US": 0})
    assert_fault(unit.access(privileged=True), AmdviFaultReason.SUPERVISOR_PAGE)


def test_a_fault_of_pasid_0_by_giov_is_logged_with_gn() -> None:
    unit, _ = guest_unit(pasid=0, without_pasid=True)
    outcome = unit.access(iova=IOVA + 0x1000)
    assert isinstance(outcome, Fault)
    assert outcome.record is not None
    assert outcome.record.pasid == 0  # type: ignore[attr-defined]


def test_without_giov_requests_without_pasid_go_to_the_host_tables() -> None:
    unit, _ = guest_unit(pasid=0)
    assert isinstance(unit.access(), Bypassed)
    unit, _, _ = nested_unit()
    outcome = unit.access(iova=OUTPUT)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT + GUEST_BASE


def test_without_gten_giov_is_ignored() -> None:
    unit, _ = guest_unit(pasid=0, without_pasid=True)
    unit.control["GTEn"] = 0
    assert isinstance(unit.access(), Bypassed)


@pytest.mark.parametrize(("glx", "pasid"), [(0, 511), (1, 0x3FFFF), (2, 0xFFFFF)])
def test_gcr3_tables_of_every_depth(glx: int, pasid: int) -> None:
    unit, _ = guest_unit(glx=glx, pasid=pasid)
    assert unit.access(pasid=pasid) == Translated(OUTPUT, 4096, RW)


def test_the_root_pointer_is_put_together_of_its_three_parts() -> None:
    unit = Unit(memory=SparseMemory())
    unit.tables = AmdviTables(unit.memory, 0x7_89AB_0000)
    unit.tables.pages.take()
    gcr3 = Gcr3Table(unit.tables.pages)
    assert all((gcr3.root >> 12 & 7, gcr3.root >> 15 & 0xFFFF, gcr3.root >> 31))
    unit.tables.attach_guest(RID, DOMAIN, gcr3)
    gcr3.add(PASID).map(IOVA, OUTPUT, 0x1000)
    assert unit.access(pasid=PASID) == Translated(OUTPUT, 4096, RW)


@pytest.mark.parametrize("host_levels", [3, 4, 6])
def test_nested_translation_takes_both_stages(host_levels: int) -> None:
    unit, _, _ = nested_unit(host_levels=host_levels)
    assert unit.access(pasid=PASID, iova=IOVA + 8) == Translated(OUTPUT + GUEST_BASE + 8, 4096, RW)


def test_executing_takes_the_read_right_of_the_host_page() -> None:
    unit, guest, host = nested_unit()
    guest.set_fields(IOVA, 1, {"NX": 0})
    assert isinstance(unit.access(AccessKind.EXECUTE, pasid=PASID), Translated)
    host.set_fields(OUTPUT, 1, {"IR": 0})
    assert_fault(unit.access(AccessKind.EXECUTE, pasid=PASID), AmdviFaultReason.NO_PERMISSION, stage=2)
    outcome = unit.access(WRITE, pasid=PASID)
    assert isinstance(outcome, Translated)
    assert outcome.permissions is Permissions.WRITE


def test_nested_pages_are_as_large_as_the_smaller_one() -> None:
    unit, guest, host = nested_unit()
    guest.map(4 << 30, 4 << 30, 1 << 30)
    host.map(4 << 30, 8 << 30, 1 << 21)
    outcome = unit.access(pasid=PASID, iova=4 << 30)
    assert outcome == Translated(8 << 30, 1 << 21, RW)


def test_another_pasid_does_not_see_the_pages() -> None:
    unit = Unit()
    gcr3 = Gcr3Table(unit.tables.pages)
    unit.tables.attach_guest(RID, DOMAIN, gcr3)
    gcr3.add(1).map(IOVA, OUTPUT, 0x1000)
    gcr3.add(2)
    assert isinstance(unit.access(pasid=1), Translated)
    assert_fault(unit.access(pasid=2), AmdviFaultReason.NOT_PRESENT, stage=1, level=4)


# What a cache may keep


def test_guest_entries_are_tagged_with_pasid_and_range() -> None:
    unit, guest, _ = nested_unit()
    guest.set_fields(IOVA, 1, {"G": 1})
    steps = unit.engine().explain(Access(requester=RID, iova=IOVA, length=1, kind=AccessKind.READ, pasid=PASID)).steps
    for step in steps:
        if step.address is not None:
            assert step.value == int.from_bytes(unit.memory.read(step.address, step.size), "little")
    guests = [step.cached for step in steps if step.what.startswith("guest")]
    spans = [1 << 39, 1 << 30, 1 << 21, 1 << 12]
    for cached, span in zip(guests, spans, strict=True):
        assert cached is not None
        assert (cached.domain, cached.space, cached.stage) == (DOMAIN, PASID, 1)
        assert (cached.first, cached.last) == (IOVA - IOVA % span, IOVA - IOVA % span + span - 1)
    assert [cached.is_global for cached in guests if cached] == [False, False, False, True]
    assert CachedEntry(kind=EntryKind.PROCESS, domain=DOMAIN, space=PASID) in [step.cached for step in steps]
    # GCR3 table, four guest tables and the page itself, each through four host tables.
    assert sum(step.what.startswith("host") for step in steps) == 24
    assert all(step.cached.stage == 2 for step in steps if step.what.startswith("host") and step.cached)
