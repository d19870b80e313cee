"""Answers of walks are kept for as long as a walk would read the same."""

from __future__ import annotations

import pytest

from harness.model.caches.history import HistoryMemory, Read, ReplayMemory
from harness.model.caches.kept_answers import KeptAnswers
from harness.model.memory import Region, SparseMemory

_AT, _RECORD = 0x100, 0x203  # a word, and a range of bytes over a border of words


def _kept() -> tuple[SparseMemory, HistoryMemory, KeptAnswers[str]]:
    present = SparseMemory((Region(0, 1 << 12),))
    memory = HistoryMemory(present)
    replay = ReplayMemory(memory)
    replay.read_u64(_AT)
    replay.read(_RECORD, 16)
    reads: tuple[Read, ...] = tuple(replay.reads)
    kept: KeptAnswers[str] = KeptAnswers(memory)
    kept.keep("question", "answer", reads)
    return present, memory, kept


def test_an_answer_is_there_while_something_else_changes() -> None:
    present, memory, kept = _kept()
    memory.write_u64(_AT + 8, 1)
    present.write(_RECORD - 1, b"x")
    present.write(_RECORD + 16, b"x")
    assert kept.find("question") == "answer"
    assert kept.find("another") is None


@pytest.mark.parametrize("at", [_AT, _AT + 7, _RECORD, _RECORD + 15])
def test_an_answer_is_gone_where_what_was_read_is_written(at: int) -> None:
    present, _, kept = _kept()
    present.write(at, b"x")  # as hardware and devices write, past the history
    assert kept.find("question") is None


@pytest.mark.parametrize("at", [_AT, _RECORD + 15])
def test_an_answer_is_gone_while_what_was_read_has_a_past_though_it_is_the_same_again(at: int) -> None:
    _, memory, kept = _kept()
    memory.write(at, b"x")
    memory.write(at, b"\0")
    assert kept.find("question") is None
    memory.forget(memory.tick())
    assert kept.find("question") == "answer"


def test_no_answer_is_kept_that_depends_on_what_has_changed() -> None:
    _, _, kept = _kept()
    kept.clear()
    assert kept.find("question") is None
