"""Memory at the beginning of a program, and where its copies differ."""

from __future__ import annotations

import mmap

from harness.conform.command import RAM_BYTES
from harness.conform.memory import DATA, QUEUES, TwinMemory, first_word


def test_what_the_processor_runs_stays_and_everything_else_is_as_at_first() -> None:
    with mmap.mmap(-1, RAM_BYTES) as real:
        memory = TwinMemory(real, b"firmware")
        real[8 : DATA.start + 8] = b"x" * DATA.start
        memory.begin()
        assert real[:16] == memory.twin[:16] == b"firmware" + bytes(8)
        assert real[DATA.start : DATA.start + 8] == first_word(DATA.start).to_bytes(8, "little")
        assert memory.agrees()
        del memory  # it looks into the mapping


def test_words_that_differ_are_found_wherever_they_are_in_ascending_order() -> None:
    places = [QUEUES.start, DATA.start - 8, DATA.start + 4088, DATA.start + 4096, DATA.start + 4104, RAM_BYTES - 8]
    with mmap.mmap(-1, RAM_BYTES) as real:
        memory = TwinMemory(real)
        for at in places:
            real[at + 7] ^= 0x80
        assert memory.differences() == places
        assert memory.hot_differences() == [places[0], *places[2:5]]
        del memory  # it looks into the mapping
