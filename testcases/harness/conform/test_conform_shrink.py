"""How programs are made smaller."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.conform.program import Dma, Program, Read, Store
from harness.conform.shrink import shrink
from harness.model.access import AccessKind


def _reads(*offsets: int) -> Program:
    return Program("x", 7, tuple(Read(offset, 4) for offset in offsets))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=60), st.data())
def test_what_is_left_are_the_steps_that_it_takes(offsets: list[int], data: st.DataObject) -> None:
    needed = data.draw(st.lists(st.sampled_from(offsets), min_size=1, max_size=3, unique=True))

    def shows(program: Program) -> bool:
        left = {step.offset for step in program.steps if isinstance(step, Read)}
        return left >= set(needed)

    smallest = shrink(_reads(*offsets), shows)
    assert sorted(step.offset for step in smallest.steps if isinstance(step, Read)) == sorted(needed)


def test_the_order_of_what_is_left_is_kept() -> None:
    program = _reads(*range(40))

    def shows(candidate: Program) -> bool:
        return [step for step in candidate.steps if step in (Read(3, 4), Read(31, 4))] == [Read(3, 4), Read(31, 4)]

    assert shrink(program, shows).steps == (Read(3, 4), Read(31, 4))


def test_a_store_is_cut_down_to_the_words_that_count() -> None:
    store = Store(0x1000, bytes(64) + b"\x01" + bytes(7) + bytes(96) + b"\x02" + bytes(7))

    def shows(candidate: Program) -> bool:
        return any(
            isinstance(step, Store) and step.address <= 0x1040 < step.address + len(step.data)
            for step in candidate.steps
        )

    (left,) = shrink(Program("x", 7, (store,)), shows).steps
    assert left == Store(0x1040, b"\x01" + bytes(7))


def test_a_dma_becomes_one_word_where_that_still_shows_it() -> None:
    long = Dma("edu0", AccessKind.WRITE, 0x1000, 96, 256)
    (left,) = shrink(Program("x", 7, (long,)), lambda candidate: bool(candidate.steps)).steps
    assert left == Dma("edu0", AccessKind.WRITE, 0x1000, 4, 256)


def test_a_program_that_was_made_smaller_comes_from_no_seed() -> None:
    assert shrink(_reads(1, 2), lambda candidate: Read(1, 4) in candidate.steps).seed == -1
    assert shrink(_reads(1), lambda candidate: Read(1, 4) in candidate.steps).seed == 7


def test_without_time_it_stays_as_it_is() -> None:
    program = _reads(*range(20))
    assert shrink(program, lambda candidate: True, seconds=0) == program
