"""Faults of a living VT-d unit: records, status, events, and a point to come back to (VT-d 7.2, 7.3, 11.4.7)."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from vtd_alive import IOVA, RID, Alive, Offset

from harness.model.access import Access, AccessKind
from harness.model.engine import MsiWrite
from harness.model.vtd.faults import VtdFaultReason

PFO, PPF = 1, 2
F, IP, IM = 1 << 63, 1 << 30, 1 << 31
OTHER = 0x0130


def clear(alive: Alive, index: int = 0) -> None:
    """Software clears F of a record."""
    alive.write(Offset.FRCD + 16 * index + 8, F)


def test_the_record_says_who_wanted_what_and_why_it_was_blocked() -> None:
    alive = Alive()
    expected = alive.fail()
    assert alive.record() == expected
    assert expected.reason == VtdFaultReason.READ_NOT_PERMITTED
    assert (expected.source_id, expected.address, expected.is_read) == (RID, IOVA + 0x1000, True)
    assert alive.read(Offset.FSTS, 4) == PPF


def test_of_a_record_without_f_nothing_else_is_known() -> None:
    alive = Alive()
    assert (alive.look(Offset.FRCD).known, alive.look(Offset.FRCD + 8).known) == (0, F)
    alive.fail()
    assert alive.look(Offset.FRCD + 8).known & F - 1
    clear(alive)
    assert (alive.look(Offset.FRCD).known, alive.look(Offset.FRCD + 8)) == (0, type(alive.look(0))(0, F))


def test_pasid_fields_of_a_record_mean_something_with_pp_only_11_4_7_6() -> None:
    alive = Alive()
    alive.fail()
    assert not alive.look(Offset.FRCD + 8).known & 0xFFFFF << 40


def test_f_is_cleared_by_a_write_of_the_upper_doubleword_alone() -> None:
    alive = Alive()
    alive.fail()
    alive.write(Offset.FRCD + 12, 1 << 31, 4)
    assert alive.record() is None
    assert alive.read(Offset.FSTS, 4) == 0


def test_a_fault_that_finds_no_register_overflows_and_software_clears_that_7_2_1() -> None:
    alive = Alive(records=1)
    first = alive.fail()
    alive.fail(requester=OTHER)
    assert alive.record() == first
    assert alive.read(Offset.FSTS, 4) == PFO | PPF
    clear(alive)
    assert alive.read(Offset.FSTS, 4) == PFO
    alive.fail()
    assert alive.record() is None
    alive.write(Offset.FSTS, PFO, 4)
    alive.fail()
    assert alive.record() == first


def test_hardware_that_compresses_does_not_overflow_for_the_same_source() -> None:
    alive = Alive(records=1, compresses=True)
    alive.fail()
    alive.fail()
    assert alive.read(Offset.FSTS, 4) == PPF


def test_fri_is_known_while_a_record_is_pending_only_11_4_7_1() -> None:
    alive = Alive()
    assert not alive.look(Offset.FSTS, 4).known & 0xFF00
    alive.fail()
    assert alive.look(Offset.FSTS, 4).known & 0xFF00 == 0xFF00


def test_a_fault_sends_the_message_that_the_registers_hold_once() -> None:
    alive = Alive()
    alive.write(Offset.FEDATA, 0x41, 4)
    alive.write(Offset.FEADDR, 0xFEE0_1000, 4)
    alive.write(Offset.FEUADDR, 2, 4)
    alive.write(Offset.FECTL, 0, 4)
    alive.fail()
    alive.fail()
    assert alive.unit.take_interrupts() == (MsiWrite(requester=0, address=0x2_FEE0_1000, data=0x41),)
    assert alive.unit.take_interrupts() == ()


def test_a_masked_message_waits_for_the_mask_to_go_7_3() -> None:
    alive = Alive()
    alive.fail()
    assert alive.read(Offset.FECTL, 4) == IM | IP
    assert alive.unit.take_interrupts() == ()
    alive.write(Offset.FECTL, 0, 4)
    assert len(alive.unit.take_interrupts()) == 1
    assert alive.read(Offset.FECTL, 4) == 0


def test_evidence_is_the_status_and_both_halves_of_every_record() -> None:
    halves = [(Offset.FRCD + at, 8) for at in (0, 8, 16, 24)]
    assert Alive(records=2).unit.evidence == ((Offset.FSTS, 4), *halves)


def test_a_fault_that_was_taken_back_leaves_nothing() -> None:
    alive = Alive()
    alive.write(Offset.FECTL, 0, 4)
    state = alive.unit.save()
    alive.fail()
    alive.unit.restore(state)
    assert (alive.read(Offset.FSTS, 4), alive.record(), alive.unit.take_interrupts()) == (0, None, ())
    alive.fail()
    alive.unit.restore(state)
    assert alive.record() is None


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.booleans(), st.lists(st.sampled_from(["fail", "other", "clear", "pfo"]), max_size=20))
def test_status_says_what_records_say_whatever_happens(count: int, compresses: bool, steps: list[str]) -> None:
    alive = Alive(records=count, compresses=compresses)
    for number, step in enumerate(steps):
        match step:
            case "fail":
                alive.fail()
            case "other":
                alive.fail(requester=OTHER)
            case "clear":
                clear(alive, number % count)
            case _:
                alive.write(Offset.FSTS, PFO, 4)
        pending = any(alive.record(index) is not None for index in range(count))
        assert bool(alive.read(Offset.FSTS, 4) & PPF) is pending


def test_records_are_used_in_turn() -> None:
    alive = Alive(records=3)
    faults = [alive.fail(requester) for requester in (RID, OTHER, 0x0138)]
    assert [alive.record(index) for index in range(3)] == faults
    assert all(first != second for first, second in pairwise(faults))


def test_asking_changes_nothing() -> None:
    alive = Alive()
    alive.unit.outcomes(Access(requester=RID, iova=0, length=4, kind=AccessKind.WRITE))
    assert alive.read(Offset.FSTS, 4) == 0
