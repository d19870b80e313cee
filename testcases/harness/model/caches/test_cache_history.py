"""The history of memory, and walks over it, against a list of whole snapshots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model.caches.history import HistoryMemory, Recording, ReplayMemory, iter_replays
from harness.model.caches.moments import FOREVER
from harness.model.memory import MappedMemory, OutsideMemory, Region, SparseMemory

SIZE = 48
_WRITES = st.lists(
    st.one_of(
        st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=16)),
        st.tuples(st.integers(0, SIZE // 8 - 1).map(lambda word: 8 * word), st.sampled_from([0, 1, 1 << 63])),
        st.just(None),
    ),
    max_size=12,
)


def written(writes: list[tuple[int, bytes | int] | None]) -> tuple[HistoryMemory, list[bytes]]:
    """A memory, and what all of it was at each moment."""
    memory = HistoryMemory(MappedMemory(bytearray(SIZE)))
    snapshots = [bytes(SIZE)]
    for write in writes:
        if write is None:
            memory.tick()
        elif isinstance(write[1], int):
            memory.write_u64(write[0], write[1])
        else:
            memory.write(write[0], write[1][: SIZE - write[0]])
        while len(snapshots) <= memory.now:
            snapshots.append(memory.read(0, SIZE))
    return memory, snapshots


@given(_WRITES, st.integers(0, SIZE - 1), st.integers(1, 24))
def test_versions_are_the_values_that_a_range_has_had_and_when(
    writes: list[tuple[int, bytes | int] | None], address: int, size: int
) -> None:
    memory, snapshots = written(writes)
    size = min(size, SIZE - address)
    versions = memory.versions(address, size)
    assert versions[0].value == int.from_bytes(memory.read(address, size), "little")
    assert len({version.value for version in versions}) == len(versions)
    for moment, snapshot in enumerate(snapshots):
        value = int.from_bytes(snapshot[address : address + size], "little")
        there = [v.value for v in versions if any(start <= moment < end for start, end in v.moments)]
        assert there == [value]


@given(_WRITES, st.integers(0, 14))
def test_after_forget_the_values_since_then_are_left(writes: list[tuple[int, bytes | int] | None], before: int) -> None:
    memory, snapshots = written(writes)
    before = min(before, memory.now)
    memory.forget(before)
    for word in range(0, SIZE, 8):
        since = [int.from_bytes(snapshot[word : word + 8], "little") for snapshot in snapshots[before:]]
        assert {version.value for version in memory.versions(word, 8)} == set(since)
    memory.forget(memory.now)
    assert memory.is_empty
    assert memory.size == 0


def test_a_write_of_the_same_value_is_no_change() -> None:
    memory = HistoryMemory(SparseMemory())
    memory.write_u64(0x1000, 0)
    memory.write(0x1000, bytes(16))
    assert memory.is_empty
    assert memory.now == 0


def test_an_entry_of_several_words_that_is_written_at_once_is_never_torn() -> None:
    memory = HistoryMemory(SparseMemory())
    memory.write(0x1000, b"\x11" * 16)
    assert {version.value for version in memory.versions(0x1000, 16)} == {0, int("11" * 16, 16)}


def test_a_write_outside_of_memory_changes_nothing() -> None:
    memory = HistoryMemory(SparseMemory((Region(0, 0x1000),)))
    with pytest.raises(OutsideMemory):
        memory.write(0xFF8, bytes(range(16)))
    with pytest.raises(OutsideMemory):
        memory.write_u64(0x1000, 1)
    assert memory.is_empty


def test_a_history_past_its_limit_is_let_go_and_says_so() -> None:
    memory = HistoryMemory(SparseMemory(), limit=8)
    for value in range(1, 8):
        memory.write_u64(0x1000, value)
    assert memory.lost == 0
    memory.write_u64(0x1000, 9)
    assert memory.lost == memory.now == 8
    assert memory.size <= 8


def test_replays_take_every_combination_of_values_the_present_one_first() -> None:
    memory = HistoryMemory(SparseMemory())
    for value in (1, 2):
        memory.write_u64(0, value)
        memory.write(8, bytes([value] * 4))
    replay = ReplayMemory(memory)

    def walk() -> tuple[int, bytes, bytes]:
        return replay.read_u64(0), replay.read(8, 4), replay.read(16, 4)

    found = [each.result for each in iter_replays(replay, walk, 100) if each is not None]
    assert found[0] == (2, bytes([2] * 4), bytes(4))
    assert set(found) == {(a, bytes([b] * 4), bytes(4)) for a in range(3) for b in range(3)}
    assert len(found) == 9


def test_a_dead_end_is_not_gone_down_again() -> None:
    memory = HistoryMemory(SparseMemory())
    for word in (0, 8, 16):
        memory.write_u64(word, 1)
    replay = ReplayMemory(memory)
    tried = []
    for each in iter_replays(replay, lambda: tuple(replay.read_u64(word) for word in (0, 8, 16)), 100):
        assert each is not None
        tried.append(each.result)
        if each.result[:2] == (1, 0):
            each.dead_end = 1
        if each.result[0] == 0:
            each.dead_end = 0
    assert tried == [(1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)]


def test_more_replays_than_the_limit_end_with_none() -> None:
    memory = HistoryMemory(SparseMemory())
    memory.write_u64(0, 1)
    replay = ReplayMemory(memory)
    assert [each is None for each in iter_replays(replay, lambda: replay.read_u64(0), 2)] == [False, False]
    assert [each is None for each in iter_replays(replay, lambda: replay.read_u64(0), 1)] == [False, True]


def test_each_read_knows_when_its_value_was_there() -> None:
    memory = HistoryMemory(SparseMemory())
    memory.write_u64(8, 5)
    memory.write_u64(8, 6)
    replay = ReplayMemory(memory)
    runs = {each.result: each.reads[0].moments for each in iter_replays(replay, lambda: replay.read_u64(8), 9) if each}
    assert runs == {6: ((2, FOREVER),), 5: ((1, 2),), 0: ((0, 1),)}


def test_a_recording_gives_the_same_answers_to_other_questions() -> None:
    memory = HistoryMemory(SparseMemory())
    memory.write_u64(8, 5)
    replay = ReplayMemory(memory)
    replay.begin([])
    replay.read_u64(8)
    replay.read(8, 4)
    recording = Recording()
    recording.begin(tuple(replay.reads))
    assert recording.read_u64(0x4000) == 5
    assert recording.read(0, 4) == b"\5\0\0\0"
    with pytest.raises(OutsideMemory):
        recording.read_u64(8)
