"""Memory at the beginning of a program."""

from __future__ import annotations

import mmap

from harness.conform.command import RAM_BYTES
from harness.conform.memory import DATA, TwinMemory, first_word


def test_what_the_processor_runs_stays_and_everything_else_is_as_at_first() -> None:
    with mmap.mmap(-1, RAM_BYTES) as real:
        memory = TwinMemory(real, b"firmware")
        real[8 : DATA.start + 8] = b"x" * DATA.start
        memory.begin()
        assert real[:16] == memory.twin[:16] == b"firmware" + bytes(8)
        assert real[DATA.start : DATA.start + 8] == first_word(DATA.start).to_bytes(8, "little")
        assert memory.agrees()
        del memory  # it looks into the mapping
