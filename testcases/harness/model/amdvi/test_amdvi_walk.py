"""Host page tables, beside vectors written by hand: levels, page sizes, skipping, flags, tags (AMD-Vi 2.2.3)."""

from __future__ import annotations

import pytest
from amdvi_unit import DOMAIN, IOVA, OUTPUT, RID, Unit
from reasons import assert_fault

from harness.model.access import (
    Access,
    AccessKind,
    Attributes,
    Bypassed,
    BypassReason,
    MemoryWrite,
    Permissions,
    Translated,
)
from harness.model.amdvi import AmdviEngine, AmdviFaultReason, AmdviRegisters, HostFormat
from harness.model.amdvi.register_fields import CAPABILITY_HEADER
from harness.model.amdvi.registers import extended_features
from harness.model.engine import AccessCrossesPage
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import SparseMemory

RW = Permissions.READ | Permissions.WRITE
WRITE = AccessKind.WRITE
ROOT = 0x10_0000


def by_hand(mode: int, entries: dict[int, int], *, word0: int = 0) -> AmdviEngine:
    """An engine over a device table entry and page-table entries given as numbers, none of them made by a builder."""
    memory = SparseMemory()
    # Device 0: V, TV, Mode, root, IR, IW; DomainID 7.
    memory.write_u64(0x4000, 0x6000_0000_0000_0003 | mode << 9 | ROOT | word0)
    memory.write_u64(0x4008, 7)
    for address, value in entries.items():
        memory.write_u64(address, value)
    registers = AmdviRegisters(device_table_base=0x4000, extended_feature=extended_features(), control=1)
    return AmdviEngine(registers, memory)


def read_of(iova: int, kind: AccessKind = AccessKind.READ) -> Access:
    return Access(requester=0, iova=iova, length=1, kind=kind)


def test_a_4_kib_page_in_three_levels() -> None:
    engine = by_hand(
        3,
        {
            ROOT + 8: 0x6000_0000_0020_0401,  # level 3, entry 1 (1 GiB): next level 2, table 0x200000
            0x20_0000 + 16: 0x6000_0000_0020_1201,  # level 2, entry 2 (2 MiB each): next level 1, table 0x201000
            0x20_1000 + 24: 0x2000_0000_8765_4001,  # level 1, entry 3: page 0x87654000, IR
        },
    )
    iova = (1 << 30) + (2 << 21) + (3 << 12) + 0x123
    assert engine.translate(read_of(iova)) == Translated(0x8765_4123, 4096, Permissions.READ)


@pytest.mark.parametrize(
    ("level", "entry", "size", "base"),
    [
        # Next level 0: the size of the level.
        (1, 0x6000_0000_4000_0001, 1 << 12, 0x4000_0000),
        (2, 0x6000_0000_4000_0001, 1 << 21, 0x4000_0000),
        (3, 0x6000_0000_4000_0001, 1 << 30, 0x4000_0000),
        (4, 0x6000_0080_0000_0001, 1 << 39, 0x80_0000_0000),
        (5, 0x6001_0000_0000_0001, 1 << 48, 0x1_0000_0000_0000),
        # Next level 7: the lowest zero from bit 12 on; bit 12 stands for 8 KiB.
        (1, 0x6000_0000_4000_0E01, 1 << 13, 0x4000_0000),
        (1, 0x6000_0000_4000_1E01, 1 << 14, 0x4000_0000),
        (1, 0x6000_0000_4000_7E01, 1 << 16, 0x4000_0000),
        (1, 0x6000_0000_4007_FE01, 1 << 20, 0x4000_0000),
        (2, 0x6000_0000_401F_FE01, 1 << 22, 0x4000_0000),
        (2, 0x6000_0000_4FFF_FE01 & ~(1 << 27), 1 << 28, 0x4000_0000),
        (3, 0x6000_0004_7FFF_FE01 & ~(1 << 31), 1 << 32, 0x4_0000_0000),
        (5, 0x6007_FFFF_FFFF_FE01, 1 << 52, 0),
        (5, 0x600F_FFFF_FFFF_FE01, 1 << 53, 0),
    ],
)
def test_page_size_encodings_2_2_3(level: int, entry: int, size: int, base: int) -> None:
    # One table at the top leads nowhere but to this entry, so that its level is Mode.
    outcome = by_hand(level, {ROOT: entry}).translate(read_of(0x123))
    assert outcome == Translated(base + 0x123, size, RW)


def test_the_entries_of_a_page_all_say_the_same_base() -> None:
    entry = 0x6000_0000_4000_1E01  # 16 KiB at 0x40000000
    engine = by_hand(1, {ROOT + 8 * index: entry for index in range(4)})
    for offset in range(0, 0x4000, 0x801):
        assert engine.translate(read_of(offset)) == Translated(0x4000_0000 + offset, 0x4000, RW)


def test_address_bits_below_a_page_of_its_level_are_ignored() -> None:
    assert by_hand(2, {ROOT: 0x6000_0000_4012_3001}).translate(read_of(5)) == Translated(0x4000_0005, 1 << 21, RW)


def test_ignored_bits_change_nothing() -> None:
    ignored = 1 << 63 | 0x1FE & ~0x60
    engine = by_hand(2, {ROOT: 0x6000_0000_0020_0201 | ignored | 0x60, 0x20_0000: 0x6000_0000_4000_0001 | ignored})
    assert engine.translate(read_of(0)) == Translated(0x4000_0000, 4096, RW)


def test_an_entry_skips_levels_whose_address_bits_are_zero() -> None:
    # Mode 4, and next level 1 at once: bits 38:21 must be zero.
    engine = by_hand(4, {ROOT: 0x6000_0000_0020_0201, 0x20_0000 + 8: 0x6000_0000_4000_0001})
    assert engine.translate(read_of(0x1000)) == Translated(0x4000_0000, 4096, RW)
    for bit in range(21, 39):
        assert_fault(engine.translate(read_of(0x1000 | 1 << bit)), AmdviFaultReason.SKIPPED_BITS, level=4)
    assert_fault(engine.translate(read_of(1 << 39)), AmdviFaultReason.NOT_PRESENT, level=4)


def test_six_levels_decode_all_64_bits() -> None:
    last = (1 << 64) - 0x1000
    entries = {
        ROOT + 8 * 127: 0x6000_0000_0020_0A01,
        0x20_0000 + 8 * 511: 0x6000_0000_0020_1801,
        0x20_1000 + 8 * 511: 0x6000_0000_0020_2601,
        0x20_2000 + 8 * 511: 0x6000_0000_0020_3401,
        0x20_3000 + 8 * 511: 0x6000_0000_0020_4201,
        0x20_4000 + 8 * 511: 0x6000_0000_4000_0001,
    }
    assert by_hand(6, entries).translate(read_of(last)) == Translated(0x4000_0000, 4096, RW)


def test_fc_is_the_snoop_attribute() -> None:
    outcome = by_hand(1, {ROOT: 0x7000_0000_4000_0001}).translate(read_of(0))
    assert outcome == Translated(0x4000_0000, 4096, RW, Attributes.SNOOP)


def test_mode_0_passes_through_what_the_entry_permits_2_2_2_2() -> None:
    engine = by_hand(0, {})
    for kind in AccessKind:
        assert engine.translate(read_of(0x123, kind)) == Bypassed(0x123, BypassReason.PASS_THROUGH)


def test_rights_are_those_of_all_levels() -> None:
    engine = by_hand(2, {ROOT: 0x2000_0000_0020_0201, 0x20_0000: 0x6000_0000_4000_0001})
    assert engine.translate(read_of(0)) == Translated(0x4000_0000, 4096, Permissions.READ)


def test_an_access_that_crosses_a_page_is_refused_and_one_that_ends_with_it_is_not() -> None:
    engine = by_hand(1, {ROOT: 0x6000_0000_4000_0001})
    ends = Access(requester=0, iova=0xFFC, length=4, kind=AccessKind.READ)
    assert engine.translate(ends) == Translated(0x4000_0FFC, 4096, RW)
    with pytest.raises(AccessCrossesPage):
        engine.translate(Access(requester=0, iova=0xFFD, length=4, kind=AccessKind.READ))


def test_a_zero_length_read_is_a_read() -> None:
    engine = by_hand(1, {ROOT: 0x4000_0000_4000_0001})
    flush = Access(requester=0, iova=0, length=0, kind=AccessKind.READ)
    assert_fault(engine.translate(flush), AmdviFaultReason.NO_PERMISSION)


# Accessed and dirty flags (HAD)

TABLE, LEAF = 0x6000_0000_0020_0201, 0x6000_0000_4000_0001


def writes(had: int, kind: AccessKind, leaf: int = LEAF) -> tuple[MemoryWrite, ...]:
    outcome = by_hand(2, {ROOT: TABLE, 0x20_0000: leaf}, word0=had << 7).translate(read_of(0, kind))
    assert isinstance(outcome, Translated)
    return outcome.writes


def stored(address: int, value: int) -> MemoryWrite:
    return MemoryWrite(address, value.to_bytes(8, "little"))


def test_no_flags_without_had() -> None:
    assert writes(0b00, WRITE) == ()


@pytest.mark.parametrize("kind", [AccessKind.READ, WRITE])
def test_had_01b_sets_accessed_flags_only(kind: AccessKind) -> None:
    assert writes(0b01, kind) == (stored(ROOT, TABLE | 0x20), stored(0x20_0000, LEAF | 0x20))


def test_had_11b_sets_the_dirty_flag_of_a_written_page() -> None:
    assert writes(0b11, AccessKind.READ) == (stored(ROOT, TABLE | 0x20), stored(0x20_0000, LEAF | 0x20))
    assert writes(0b11, WRITE) == (stored(ROOT, TABLE | 0x20), stored(0x20_0000, LEAF | 0x60))


def test_flags_that_are_set_are_not_set_again() -> None:
    assert writes(0b11, WRITE, LEAF | 0x20) == (stored(ROOT, TABLE | 0x20), stored(0x20_0000, LEAF | 0x60))
    assert writes(0b11, WRITE, LEAF | 0x60) == (stored(ROOT, TABLE | 0x20),)
    assert writes(0b11, AccessKind.READ, LEAF | 0x20) == (stored(ROOT, TABLE | 0x20),)


def test_a_walk_that_fails_sets_no_flags() -> None:
    engine = by_hand(2, {ROOT: TABLE, 0x20_0000: 0}, word0=0b11 << 7)
    assert assert_fault(engine.translate(read_of(0)), AmdviFaultReason.NOT_PRESENT).writes == ()


def test_applied_flags_end_in_a_walk_that_sets_none() -> None:
    unit = Unit()
    unit.map()
    unit.set(HAD=0b11)
    outcome = unit.access(WRITE)
    assert isinstance(outcome, Translated)
    assert len(outcome.writes) == 4
    for write in outcome.writes:
        write.apply(unit.memory)
    assert unit.access(WRITE) == Translated(OUTPUT, 4096, RW)


# Device table


def test_segments_are_chosen_by_the_top_bits_of_the_device_id_2_2_2_3() -> None:
    memory = SparseMemory()
    segments = tuple(0x20_0000 + number * 0x10_0000 for number in range(1, 8))
    for enabled, (device, address) in (
        (0, (0x0180, 0x4000 + 0x180 * 32)),
        (1, (0x8001, segments[0] + 32)),
        (2, (0xC002, segments[2] + 64)),
        (3, (0xE003, segments[6] + 96)),
    ):
        registers = AmdviRegisters(
            device_table_base=0x4000 | 0xFF,
            device_table_segments=tuple(base | 0xFF for base in segments),
            extended_feature=extended_features(),
            control=1 | enabled << 34,
        )
        explanation = AmdviEngine(registers, memory).explain(
            Access(requester=device, iova=0, length=1, kind=AccessKind.READ)
        )
        assert explanation.steps[1].address == address


def test_segments_take_their_feature() -> None:
    features = {"DevTblSegSup": 1}
    registers = AmdviRegisters(
        device_table_base=0x4000 | 0xFF,
        device_table_segments=(0x20_0000 | 0xFF,) + (0,) * 6,
        extended_feature=extended_features(features=features),
        control=1 | 3 << 34,
    )
    request = Access(requester=0x8001, iova=0, length=1, kind=AccessKind.READ)
    steps = AmdviEngine(registers, SparseMemory()).explain(request).steps
    assert steps[1].address == 0x20_0000 + 32


def test_the_segment_of_a_requester_is_not_part_of_its_device_id() -> None:
    unit = Unit()
    unit.map()
    assert isinstance(unit.access(requester=3 << 16 | RID), Translated)


# What a cache may keep (2.4)


def steps_of(unit: Unit, iova: int = IOVA) -> tuple[Step, ...]:
    return unit.engine().explain(Access(requester=RID, iova=iova, length=1, kind=AccessKind.READ)).steps


def test_every_entry_read_is_a_step_with_its_tags() -> None:
    unit = Unit()
    table = unit.map()
    steps = steps_of(unit)
    assert [step.size for step in steps if step.address is not None] == [32, 8, 8, 8, 8]
    for step in steps:
        if step.address is not None:
            assert step.value == int.from_bytes(unit.memory.read(step.address, step.size), "little")
    assert steps[1].cached == CachedEntry(kind=EntryKind.DEVICE, requester=RID, domain=DOMAIN)
    for level, step in zip((4, 3, 2, 1), steps[2:], strict=True):
        span = 1 << 3 + 9 * level
        first = IOVA - IOVA % span
        kind = EntryKind.LEAF if level == 1 else EntryKind.TABLE
        tags = CachedEntry(kind=kind, domain=DOMAIN, stage=2, first=first, last=first + span - 1)
        assert (step.address, step.cached) == (table.entry_address(IOVA, level), tags)


def test_next_level_0_and_7_are_leaves_and_all_others_lead_to_tables() -> None:
    # Neither table has bit 12 of its address set, which stands beside NextLevel.
    for following, leaf in ((2, 0x6000_0000_4000_0001), (1, 0x6000_0000_4000_0E01)):
        engine = by_hand(3, {ROOT: 0x6000_0000_0020_0001 | following << 9, 0x20_0000: leaf})
        steps = engine.explain(read_of(0)).steps[2:]
        tags = [step.cached for step in steps]
        assert [tag.kind for tag in tags if tag] == [EntryKind.TABLE, EntryKind.LEAF]
        assert [dict(step.fields)["NextLevel"] for step in steps] == [following, leaf >> 9 & 7]
        assert [tag.last for tag in tags if tag] == [(1 << 30) - 1, (1 << 21) - 1 if following == 2 else (1 << 13) - 1]


def test_a_page_of_several_entries_is_cached_as_a_whole() -> None:
    unit = Unit()
    table = unit.tables.attach(RID, DOMAIN, 4)
    table.map(0x10_0000, 0x20_0000, 0x8000)
    cached = steps_of(unit, 0x10_5000)[-1].cached
    assert cached is not None
    assert (cached.first, cached.last) == (0x10_0000, 0x10_7FFF)


@pytest.mark.parametrize("np_cache", [0, 1])
def test_absent_entries_are_cached_with_npcache_only_3_2(np_cache: int) -> None:
    unit = Unit(registers={"capability_header": CAPABILITY_HEADER.encode({"NpCache": np_cache})})
    unit.map()
    last = steps_of(unit, IOVA + 0x1000)[-1]
    assert last.value == 0
    assert (last.cached is not None) is bool(np_cache)


def test_level_skipping_by_the_builder_is_what_the_walk_follows() -> None:
    unit = Unit()
    table = unit.tables.attach(RID, DOMAIN, 6, host_format=HostFormat(skips={6: 3, 3: 1}))
    table.map(0x3000, OUTPUT, 0x1000, largest_page=4096)
    assert unit.access(iova=0x3000) == Translated(OUTPUT, 4096, RW)
    assert [step.what for step in steps_of(unit, 0x3000)[2:]] == ["host level 6", "host level 3", "host level 1"]
