"""Posted interrupts: the descriptor, and who is notified (VT-d 5.2.3, 9.11)."""

from __future__ import annotations

import pytest
from vtd_interrupt_unit import BASE, DESCRIPTOR, INDEX, RAM, Unit

from harness.model.access import MemoryWrite
from harness.model.engine import Interrupt, PostedInterrupt
from harness.model.memory import Region, SparseMemory
from harness.model.vtd.interrupts.tables import InterruptTable
from harness.model.x86_message import X86Message


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.fixture
def posting() -> Unit:
    return Unit(posted=True)


def posted_line(unit: Unit) -> int:
    outcome = unit.write()
    assert isinstance(outcome, PostedInterrupt)
    ((write),) = outcome.writes
    assert (write.address, len(write.data)) == (DESCRIPTOR, 64)
    return int.from_bytes(write.data, "little")


def test_posted_interrupt_sets_its_bit_and_notifies_the_processor_once(posting: Unit) -> None:
    before = int.from_bytes(posting.memory.read(DESCRIPTOR, 64), "little")
    outcome = posting.write()
    stored = MemoryWrite(DESCRIPTOR, (before | 1 << 256 | 1 << 0x35).to_bytes(64, "little"))
    notify = Interrupt(*X86Message(destination=7, vector=0xF2).encode(), remapped=True)
    assert outcome == PostedInterrupt(DESCRIPTOR, 0x35, notify, (stored,))
    stored.apply(posting.memory)
    again = posting.write()
    assert again == PostedInterrupt(DESCRIPTOR, 0x35, None, (stored,))


@pytest.mark.parametrize("outstanding", [0, 1])
@pytest.mark.parametrize("suppressed", [0, 1])
@pytest.mark.parametrize("urgent", [0, 1])
def test_notification_follows_on_sn_and_urg_5_2_3(
    posting: Unit, outstanding: int, suppressed: int, urgent: int
) -> None:
    posting.table.write_descriptor(
        DESCRIPTOR, vector=0xF2, destination=7, overrides={"ON": outstanding, "SN": suppressed}
    )
    posting.table.set_fields(INDEX, {"URG": urgent})
    outcome = posting.write()
    assert isinstance(outcome, PostedInterrupt)
    notified = not outstanding and bool(urgent or not suppressed)
    assert (outcome.notify is not None) == notified
    line = posted_line(posting)
    assert line >> 256 & 1 == (outstanding or notified)
    assert line >> 257 & 1 == suppressed


def test_notification_in_x2apic_mode_has_a_destination_of_32_bits_9_11() -> None:
    unit = Unit(extended=True, posted=True)
    unit.table.write_descriptor(DESCRIPTOR, vector=0xF2, destination=0x8000_0103)
    outcome = unit.write()
    assert isinstance(outcome, PostedInterrupt)
    assert outcome.notify == Interrupt(*X86Message(destination=0x8000_0103, vector=0xF2).encode(), remapped=True)


def test_bits_posted_before_stay(posting: Unit) -> None:
    posting.table.write_descriptor(DESCRIPTOR, vector=0xF2, destination=7, overrides={"PIR": 1 << 255 | 1})
    assert posted_line(posting) & (1 << 256) - 1 == 1 << 255 | 1 | 1 << 0x35


def test_descriptor_address_comes_from_both_halves_9_10() -> None:
    unit = Unit()
    unit.memory = SparseMemory((Region(0, RAM), Region(0x12_3456_7000, 0x1000)))
    unit.table = InterruptTable(unit.memory, BASE)
    unit.table.post(INDEX, vector=1, descriptor=0x12_3456_7FC0)
    outcome = unit.write()
    assert isinstance(outcome, PostedInterrupt)
    assert outcome.address == 0x12_3456_7FC0


def test_descriptor_above_4_gib_gives_each_half_its_own_bits_9_10() -> None:
    unit = Unit()
    unit.table.post(INDEX, vector=1, descriptor=0x3_0000_0040)
    entry = int.from_bytes(unit.memory.read(BASE + 16 * INDEX, 16), "little")
    # P, IM, VV; PDAL in bits 63:38, PDAH in bits 127:96; URG stays clear.
    assert entry == 3 << 96 | 1 << 38 | 1 << 16 | 1 << 15 | 1


def test_writing_an_entry_or_a_descriptor_leaves_its_neighbour_alone(posting: Unit) -> None:
    posting.table.remap(INDEX + 1, vector=0x42, destination=4)
    posting.memory.write(DESCRIPTOR + 64, b"\x55" * 64)
    neighbour = posting.memory.read(BASE + 16 * (INDEX + 1), 16)
    posting.table.set_fields(INDEX, {"URG": 1})
    posting.table.write_descriptor(DESCRIPTOR, vector=0xF3, destination=7)
    assert posting.memory.read(BASE + 16 * (INDEX + 1), 16) == neighbour
    assert posting.memory.read(DESCRIPTOR + 64, 64) == b"\x55" * 64
