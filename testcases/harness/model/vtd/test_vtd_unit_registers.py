"""The registers of a living VT-d unit: what software reads of what it wrote, and what commands do (VT-d 11.2, 11.4)."""

from __future__ import annotations

import pytest
from vtd_alive import IOVA, OUTPUT, QUEUE, RID, SRTP, TE, Alive, Offset

from harness.model.access import Bypassed, BypassReason, Fault, Translated
from harness.model.engine import NotModelled
from harness.model.vtd.faults import VtdBlocked
from harness.model.vtd.invalidation.descriptors import DescriptorType, Granularity

ONES = (1 << 64) - 1
TES, RTPS, QIES = 1 << 31, 1 << 30, 1 << 26
QIE, IRE, SIRTP, CFI = 1 << 26, 1 << 25, 1 << 24, 1 << 23
HAW = (1 << 46) - 1


@pytest.mark.parametrize(
    ("offset", "size", "kept"),
    [
        (Offset.RTADDR, 8, 0xC00 | HAW & ~0xFFF),
        (Offset.IQT, 8, 0x7FFF0),
        (Offset.IQA, 8, 0x807 | HAW & ~0xFFF),
        (Offset.IRTA, 8, 0x80F | HAW & ~0xFFF),
        (Offset.PQA, 8, 7 | HAW & ~0xFFF),
        (Offset.FEDATA, 4, 0xFFFF),
        (Offset.FEADDR, 4, 0xFFFF_FFFC),
        (Offset.FEUADDR, 4, 0xFFFF_FFFF),
    ],
)
def test_software_reads_the_fields_that_it_wrote(offset: int, size: int, kept: int) -> None:
    alive = Alive(on=False)
    alive.write(offset, ONES >> 64 - 8 * size, size)
    readout = alive.look(offset, size)
    assert (readout.value, readout.known) == (kept, kept)
    alive.write(offset, 0, size)
    assert alive.read(offset, size) == 0


def test_64_bit_registers_are_written_and_read_by_halves_as_well_11_2() -> None:
    alive = Alive(on=False)
    alive.write(Offset.IQA, 0x1234_5000, 4)
    alive.write(Offset.IQA + 4, 0x12, 4)
    assert alive.read(Offset.IQA) == 0x12_1234_5000
    assert (alive.read(Offset.IQA, 4), alive.read(Offset.IQA + 4, 4)) == (0x1234_5000, 0x12)


@pytest.mark.parametrize(("offset", "size"), [(0x20, 2), (0x21, 1), (0x24, 8), (0x18, 8), (0x1FC, 8), (0x4, 4)])
def test_nothing_is_known_of_an_access_that_is_not_of_the_registers_kind_or_to_no_register(
    offset: int, size: int
) -> None:
    assert Alive().look(offset, size).known == 0


def test_a_write_that_is_not_of_the_registers_kind_makes_it_unknown_until_it_is_written_again_11_2() -> None:
    alive = Alive(on=False)
    alive.write(Offset.IQA, QUEUE)
    alive.write(Offset.IQA, 0x12, 2)
    assert alive.look(Offset.IQA).known == 0
    alive.write(Offset.IQA, QUEUE)
    assert alive.read(Offset.IQA) == QUEUE


def test_what_depends_on_a_register_that_is_unknown_is_not_modelled() -> None:
    alive = Alive(on=False)
    alive.write(Offset.RTADDR, 0x12, 2)
    with pytest.raises(NotModelled, match="rtaddr"):
        alive.command(SRTP)


def test_a_narrow_write_of_commands_is_not_modelled() -> None:
    with pytest.raises(NotModelled, match="GCMD_REG"):
        Alive().write(Offset.GCMD + 3, 0x80, 1)


def test_a_write_that_begins_at_a_reserved_offset_and_ends_in_a_register_is_undefined_for_it_11_2() -> None:
    with pytest.raises(NotModelled, match="FSTS_REG"):
        Alive().write(Offset.FSTS - 4, 0)


def test_writes_to_reserved_offsets_are_ignored() -> None:
    alive = Alive()
    alive.write(Offset.FECTL + 0x10, ONES)
    assert isinstance(alive.dma(), Translated)


def test_read_only_registers_stay_as_they_are() -> None:
    alive = Alive()
    for offset, size, value in ((Offset.CAP, 8, alive.registers.cap), (Offset.ECAP, 8, alive.registers.ecap)):
        alive.write(offset, ONES)
        assert alive.read(offset, size) == value & alive.look(offset, size).known


def test_the_root_table_is_taken_over_by_srtp_and_not_before_11_4_5() -> None:
    alive = Alive()
    alive.write(Offset.RTADDR, 0)
    assert isinstance(alive.dma(), Translated)
    assert alive.read(Offset.RTADDR) == 0
    alive.command(SRTP)
    alive.invalidate_all()
    assert isinstance(alive.dma(), Fault)


def test_rtps_stays_set_and_states_follow_their_commands_11_4_4() -> None:
    alive = Alive()
    assert alive.read(Offset.GSTS, 4) == TES | RTPS
    alive.write(Offset.GCMD, QIE, 4)
    assert alive.read(Offset.GSTS, 4) == QIES | RTPS
    assert isinstance(alive.dma(), Bypassed)


def test_commands_of_interrupt_remapping_show_in_the_status() -> None:
    alive = Alive(on=False)
    for command in (SIRTP, IRE, IRE | CFI):
        alive.write(Offset.GCMD, command, 4)
        assert alive.read(Offset.GSTS, 4) & command == command


def test_protected_memory_is_in_force_as_soon_as_epm_is_set_11_4_8() -> None:
    alive = Alive(on=False)
    alive.write(Offset.PLMBASE, OUTPUT, 4)
    alive.write(Offset.PLMLIMIT, OUTPUT, 4)
    assert alive.dma(OUTPUT) == Bypassed(OUTPUT, BypassReason.TRANSLATION_OFF)
    alive.write(Offset.PMEN, 1 << 31, 4)
    assert alive.read(Offset.PMEN, 4) == 1 << 31 | 1
    outcome = alive.dma(OUTPUT)
    assert isinstance(outcome, Fault)
    assert outcome.code is VtdBlocked.PROTECTED_MEMORY
    alive.write(Offset.PMEN, 0, 4)
    assert alive.read(Offset.PMEN, 4) == 0
    assert isinstance(alive.dma(OUTPUT), Bypassed)


def test_pmen_is_read_only_without_protected_memory_11_4_8_1() -> None:
    alive = Alive(on=False, protects=False)
    alive.write(Offset.PMEN, 1 << 31, 4)
    readout = alive.look(Offset.PMEN, 4)
    assert (readout.value, readout.known) == (0, 1 << 31 | 1)


def test_invalidation_through_registers_ends_at_once_and_says_what_was_done_11_4_6() -> None:
    alive = Alive()
    assert alive.read(Offset.CCMD) == Granularity.GLOBAL << 59
    assert alive.read(Offset.IOTLB) == Granularity.GLOBAL << 57


def test_what_becomes_of_invalidation_registers_while_the_queue_is_enabled_nobody_knows() -> None:
    alive = Alive()
    alive.use_queue()
    alive.invalidate_all()
    assert alive.look(Offset.CCMD).known == alive.look(Offset.IOTLB).known == 0


def test_disabling_the_queue_sets_its_head_to_0_11_4_9_1() -> None:
    alive = Alive()
    alive.use_queue()
    alive.submit(DescriptorType.WAIT)
    assert alive.read(Offset.IQH) == 16
    alive.write(Offset.GCMD, TE, 4)
    assert alive.read(Offset.IQH) == 0
    assert alive.read(Offset.GSTS, 4) == TES | RTPS


@pytest.mark.parametrize("last", [None, DescriptorType.IOTLB, DescriptorType.PASID_CACHE])
def test_what_comes_of_disabling_a_queue_that_is_not_quiesced_is_not_modelled_6_5_2(
    last: DescriptorType | None,
) -> None:
    alive = Alive()
    alive.use_queue()
    if last is not None:
        alive.submit(DescriptorType.WAIT)
        alive.submit(last, G=Granularity.GLOBAL)
    with pytest.raises(NotModelled, match="quiesced"):
        alive.write(Offset.GCMD, TE, 4)


def test_a_reset_restores_registers_and_empties_caches_and_leaves_memory() -> None:
    alive = Alive()
    alive.use_queue()
    alive.fail()
    alive.unit.store(OUTPUT, b"data")
    alive.unit.reset()
    assert alive.read(Offset.GSTS, 4) == alive.read(Offset.FSTS, 4) == alive.read(Offset.IQA) == 0
    assert alive.read(Offset.FECTL, 4) == 1 << 31
    assert alive.record() is None
    assert isinstance(alive.dma(), Bypassed)
    assert alive.memory.read(OUTPUT, 4) == b"data"


def test_fields_that_software_sets_are_counted_and_reserved_ones_are_not() -> None:
    alive = Alive(on=False)
    alive.write(Offset.GCMD, SRTP | TE | 1, 4)
    assert {name for kind, name in alive.coverage.counts if kind == "register"} == {"GCMD_REG.SRTP", "GCMD_REG.TE"}


def test_every_register_is_named_with_its_fields() -> None:
    place = Alive().unit.register_at(Offset.FRCD + 12)
    assert place is not None
    assert (place.name, place.start, place.size) == ("FRCD_REG", Offset.FRCD, 16)
    assert place.layout is not None
    assert place.layout["FR"].low == 96
    assert Alive().unit.register_at(0x60) is None


def test_a_request_is_translated_as_the_tables_say() -> None:
    outcome = Alive().dma(IOVA + 8, requester=RID)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT + 8
