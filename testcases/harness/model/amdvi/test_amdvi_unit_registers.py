"""The registers of a living unit: what software reads of what it wrote (AMD-Vi 3.4)."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from amdvi_alive import COMMANDS, EVENTS, RUNNING, Alive, Offset
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.amdvi import AmdviRegisters
from harness.model.amdvi.register_fields import CONTROL, EXTENDED_FEATURE, STATUS
from harness.model.amdvi.register_map import register_map
from harness.model.amdvi.registers import extended_features
from harness.model.amdvi.unit import AmdviUnit
from harness.model.engine import NotModelled
from harness.model.memory import Region, SparseMemory
from harness.model.unit import Coverage

ONES = (1 << 64) - 1
POINTERS = (Offset.COMMAND_HEAD, Offset.COMMAND_TAIL, Offset.EVENT_HEAD, Offset.EVENT_TAIL)


def off() -> Alive:
    """A unit that was never switched on."""
    alive = Alive()
    alive.unit.reset()
    return alive


@pytest.mark.parametrize(
    ("offset", "kept"),
    [
        (Offset.DEVICE_TABLE, 0x000F_FFFF_FFFF_F1FF),
        (Offset.COMMAND_BASE, 0x0F0F_FFFF_FFFF_F000),
        (Offset.EVENT_BASE, 0x0F0F_FFFF_FFFF_F000),
        (Offset.EXCLUSION_BASE, 0x000F_FFFF_FFFF_F003),
        (Offset.EXCLUSION_LIMIT, 0x000F_FFFF_FFFF_F000),
        *((offset, 0x7FFF0) for offset in POINTERS),
    ],
)
def test_software_reads_the_fields_that_it_wrote(offset: int, kept: int) -> None:
    alive = off()
    for ring in (Offset.COMMAND_BASE, Offset.EVENT_BASE):
        alive.write(ring, 15 << 56)
    alive.write(offset, ONES)
    readout = alive.unit.read(offset, 8)
    assert (readout.value, readout.known) == (kept, kept)
    alive.write(offset, 0)
    assert alive.read(offset) == 0


def test_of_a_control_bit_without_its_feature_nothing_is_known() -> None:
    alive = off()
    mask = CONTROL.encode({"GTEn": 1, "GAEn": 1, "PPRLogEn": 1, "XTEn": 1})
    assert not alive.known(Offset.CONTROL) & mask
    rich = Alive(features=extended_features())
    assert rich.known(Offset.CONTROL) & mask == mask


def test_features_cannot_be_written() -> None:
    alive = off()
    before = alive.read(Offset.FEATURES)
    alive.write(Offset.FEATURES, ONES)
    assert alive.read(Offset.FEATURES) == before == alive.features
    assert alive.known(Offset.FEATURES) == ONES & ~EXTENDED_FEATURE.reserved


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_register_is_written_and_read_in_parts(size: int) -> None:
    alive = off()
    value = 0x000A_BCDE_F012_3145
    for at in range(0, 8, size):
        alive.write(Offset.DEVICE_TABLE + at, value >> 8 * at & (1 << 8 * size) - 1, size)
    assert alive.read(Offset.DEVICE_TABLE) == value
    parts = [alive.unit.read(Offset.DEVICE_TABLE + at, size) for at in range(0, 8, size)]
    assert sum(part.value << 8 * size * number for number, part in enumerate(parts)) == value
    assert all(part.known >> 8 * size == 0 for part in parts)


def test_a_write_of_a_byte_leaves_the_others_alone() -> None:
    alive = off()
    alive.write(Offset.DEVICE_TABLE, 0x1234_5000)
    alive.write(Offset.DEVICE_TABLE + 2, 0xFF, 1)
    assert alive.read(Offset.DEVICE_TABLE) == 0x12FF_5000


@pytest.mark.parametrize(("offset", "size"), [(1, 2), (2, 4), (4, 8), (3, 8), (0, 3), (0, 16)])
def test_an_access_that_is_not_aligned_reads_as_anything(offset: int, size: int) -> None:
    assert off().unit.read(offset, size).known == 0


def test_after_a_write_that_is_not_aligned_nothing_is_known_of_what_it_reached() -> None:
    alive = off()
    alive.write(Offset.COMMAND_BASE - 4, 0x1111_1111_1111_1111)
    assert not alive.known(Offset.DEVICE_TABLE) >> 32
    assert not alive.known(Offset.COMMAND_BASE) & 0xFFFF_FFFF
    assert alive.known(Offset.DEVICE_TABLE) & 0xFFFF_FFFF
    alive.write(Offset.DEVICE_TABLE, 0)
    assert alive.known(Offset.DEVICE_TABLE) == 0x000F_FFFF_FFFF_F1FF


def test_where_no_register_is_nothing_is_known() -> None:
    alive = off()
    alive.write(0x3000, ONES)
    assert alive.unit.read(0x3000, 8).known == 0
    assert alive.unit.register_at(0x3000) is None


def test_a_segment_register_is_there_with_its_feature() -> None:
    few = Alive(features=extended_features(features={"IASup": 1, "DevTblSegSup": 2}))
    for number, there in enumerate([True, True, True, False, False, False, False]):
        offset = 0x100 + 8 * number
        few.write(offset, 0x5000)
        assert bool(few.known(offset)) is there
        assert few.read(offset) == (0x5000 if there else 0)


def test_the_msi_registers_are_there_with_their_feature() -> None:
    features = extended_features(features={"IASup": 1, "MsiCapMmioSup": 1})
    alive = Alive(features=features)
    alive.write(0x0158, 0xFEE0_1003_0001_0005)
    assert alive.read(0x0158) & 0xFFFF_FFFF == 1 << 16
    assert alive.read(0x0158) >> 32 == 0xFEE0_1000
    assert off().known(0x0158) == 0


def test_the_page_request_log_reads_as_written_and_at_first_as_anything() -> None:
    alive = Alive(features=extended_features(features={"IASup": 1, "PPRSup": 1}))
    assert alive.known(0x0038) == 0
    alive.write(0x0038, 0x0800_0000_0004_0000)
    assert alive.read(0x0038) == 0x0800_0000_0004_0000
    assert off().known(0x0038) == 0


@pytest.mark.parametrize(
    ("base", "pointers"),
    [
        (Offset.COMMAND_BASE, (Offset.COMMAND_HEAD, Offset.COMMAND_TAIL)),
        (Offset.EVENT_BASE, (Offset.EVENT_HEAD, Offset.EVENT_TAIL)),
    ],
)
def test_writing_a_base_sets_the_pointers_to_0_2_4_2_5(base: int, pointers: tuple[int, int]) -> None:
    alive = off()
    for ring in (Offset.COMMAND_BASE, Offset.EVENT_BASE):
        alive.write(ring, 8 << 56)
    for pointer in POINTERS:
        alive.write(pointer, 0x40)
    alive.write(base, COMMANDS | 8 << 56)
    assert {pointer for pointer in POINTERS if not alive.read(pointer)} == set(pointers)


@pytest.mark.parametrize(
    ("offset", "undefined"),
    [
        (Offset.COMMAND_BASE, (Offset.COMMAND_BASE, Offset.COMMAND_HEAD, Offset.COMMAND_TAIL)),
        (Offset.COMMAND_HEAD, (Offset.COMMAND_HEAD,)),
        (Offset.EVENT_BASE, (Offset.EVENT_BASE, Offset.EVENT_HEAD, Offset.EVENT_TAIL)),
        (Offset.EVENT_TAIL, (Offset.EVENT_TAIL,)),
    ],
)
def test_what_is_written_while_its_ring_runs_is_not_known(offset: int, undefined: tuple[int, ...]) -> None:
    alive = Alive()
    alive.write(offset, alive.read(offset))
    watched = (Offset.COMMAND_BASE, Offset.EVENT_BASE, *POINTERS)
    assert {entry for entry in watched if not alive.known(entry)} == set(undefined)


@pytest.mark.parametrize("offset", [Offset.COMMAND_BASE, Offset.COMMAND_HEAD, Offset.EVENT_BASE, Offset.EVENT_TAIL])
def test_of_what_depends_on_it_nothing_is_said(offset: int) -> None:
    alive = Alive()
    alive.write(offset, alive.read(offset))
    if offset in (Offset.COMMAND_BASE, Offset.COMMAND_HEAD):
        with pytest.raises(NotModelled):
            alive.command(1 << 60)
    else:
        with pytest.raises(NotModelled):
            alive.fault()


def test_a_pointer_beyond_its_ring_is_not_known() -> None:
    alive = off()
    alive.write(Offset.EVENT_BASE, EVENTS | 8 << 56)
    alive.write(Offset.EVENT_HEAD, 0x1000)
    assert not alive.known(Offset.EVENT_HEAD)
    alive.write(Offset.EVENT_HEAD, 0xFF0)
    assert alive.known(Offset.EVENT_HEAD) == 0x7FFF0


def test_a_length_that_is_reserved_is_not_known() -> None:
    alive = off()
    alive.write(Offset.EVENT_BASE, EVENTS | 7 << 56)
    assert alive.known(Offset.EVENT_BASE) == 0x000F_FFFF_FFFF_F000
    alive.write(Offset.CONTROL, CONTROL.encode({"IommuEn": 1, "EventLogEn": 1}))
    alive.write(Offset.DEVICE_TABLE, alive.tables.device_table_base)
    with pytest.raises(NotModelled):
        alive.fault()


def test_the_head_of_the_event_log_may_be_written_while_it_runs() -> None:
    alive = Alive()
    alive.write(Offset.EVENT_HEAD, 0x20)
    assert (alive.read(Offset.EVENT_HEAD), alive.known(Offset.EVENT_HEAD)) == (0x20, 0x7FFF0)


def test_a_status_bit_is_cleared_by_writing_1_and_by_nothing_else() -> None:
    alive = Alive()
    alive.fault()
    assert "EventLogInt" in alive.status()
    alive.write(Offset.STATUS, STATUS.encode({"ComWaitInt": 1}))
    assert "EventLogInt" in alive.status()
    alive.write(Offset.STATUS, STATUS.encode({"EventLogInt": 1}))
    assert "EventLogInt" not in alive.status()


def test_running_bits_are_not_softwares_to_write() -> None:
    alive = Alive()
    alive.write(Offset.STATUS, ONES)
    assert alive.status() == {"EventLogRun", "CmdBufRun"}
    alive.unit.reset()
    alive.write(Offset.STATUS, ONES)
    assert alive.status() == set()


@pytest.mark.parametrize(
    ("control", "running"),
    [
        ({"EventLogEn": 1, "CmdBufEn": 1}, set()),
        ({"IommuEn": 1}, set()),
        ({"IommuEn": 1, "EventLogEn": 1}, {"EventLogRun"}),
        ({"IommuEn": 1, "CmdBufEn": 1}, {"CmdBufRun"}),
        (RUNNING, {"EventLogRun", "CmdBufRun"}),
    ],
)
def test_a_ring_runs_where_it_and_the_iommu_are_enabled(control: dict[str, int], running: set[str]) -> None:
    assert Alive(control=control).status() == running


def test_a_write_of_other_control_bits_starts_nothing() -> None:
    alive = Alive(control={**RUNNING, "EventLogEn": 0})
    alive.command(0xF << 60)
    alive.write(Offset.CONTROL + 2, 0, 1)
    assert alive.status() == set()


def test_a_reset_makes_registers_as_at_first() -> None:
    alive = Alive()
    alive.fault()
    alive.unit.reset()
    assert all(alive.read(offset) == 0 for offset in (*POINTERS, Offset.CONTROL, Offset.STATUS, Offset.COMMAND_BASE))
    assert alive.known(Offset.CONTROL)
    assert alive.read(Offset.FEATURES) == alive.features


def test_coverage_names_each_field_that_software_sets() -> None:
    alive = off()
    alive.coverage.counts.clear()
    alive.write(Offset.CONTROL, CONTROL.encode({"IommuEn": 1, "InvTimeOut": 2}))
    alive.write(Offset.EVENT_BASE, EVENTS)
    alive.write(Offset.EVENT_BASE + 4, 8 << 24, 4)
    assert alive.coverage.counts == {
        ("register", "Control.IommuEn"): 1,
        ("register", "Control.InvTimeOut"): 1,
        ("register", "EventLogBase.Base"): 1,
        ("register", "EventLogBase.Len"): 1,
    }


def test_registers_have_names_and_fields() -> None:
    unit = Alive().unit
    place = unit.register_at(0x2023)
    assert place is not None
    assert (place.name, place.start, place.size, place.layout) == ("Status", 0x2020, 8, STATUS)
    assert {entry[0] for entry in unit.evidence} == {Offset.EVENT_TAIL, Offset.STATUS}
    names = {unit.register_at(0x100 + 8 * number).name for number in range(7)}  # type: ignore[union-attr]
    assert names == {"DeviceTableSegmentBase"}


def test_registers_do_not_overlap() -> None:
    registers = AmdviRegisters(device_table_base=0, control=0, extended_feature=extended_features())
    entries = register_map(registers)
    assert all(one.offset + one.size <= other.offset for one, other in pairwise(entries))
    assert all(entry.settled < 1 << 8 * entry.size for entry in entries)


accesses = st.tuples(st.sampled_from([*range(0x40), *range(0x2000, 0x2030)]), st.sampled_from([1, 2, 4, 8]))


@settings(deadline=None)
@given(st.lists(st.tuples(accesses, st.integers(0, ONES)), max_size=20), st.integers(0, ONES))
def test_any_writes_leave_registers_that_can_be_read(writes: list[tuple[tuple[int, int], int]], features: int) -> None:
    registers = AmdviRegisters(device_table_base=0, control=0, extended_feature=features)
    unit = AmdviUnit(registers, SparseMemory((Region(0, 1 << 20),)), coverage=Coverage())
    for (offset, size), value in writes:
        with suppress(NotModelled):
            unit.write(offset, size, value & (1 << 8 * size) - 1)
    for offset in range(0, 0x4000, 8):
        readout = unit.read(offset, 8)
        assert not readout.value & ~readout.known
        halves = [unit.read(offset + at, 4) for at in (0, 4)]
        assert halves[0].value | halves[1].value << 32 == readout.value
        assert halves[0].known | halves[1].known << 32 == readout.known
