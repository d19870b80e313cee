"""Answers of walks over present memory, each kept for as long as a walk would read the same."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from harness.model.caches.history import HistoryMemory, Read

__all__ = ["KeptAnswers"]

AnswerT = TypeVar("AnswerT")

_MOST = 1 << 14


class KeptAnswers(Generic[AnswerT]):
    """Answers, each with what was read for it.

    Args:
        memory: that was read.
    """

    def __init__(self, memory: HistoryMemory) -> None:
        self._memory = memory
        self._kept: dict[Hashable, tuple[AnswerT, tuple[Read, ...]]] = {}

    def clear(self) -> None:
        """Something else than memory has changed that answers depend on."""
        self._kept.clear()

    def find(self, question: Hashable) -> AnswerT | None:
        """The answer to a question; None where there is none, or what was read for it is not the same any more."""
        kept = self._kept.get(question)
        if kept is None or not self._memory.is_as_read(kept[1]):
            return None
        return kept[0]

    def keep(self, question: Hashable, answer: AnswerT, reads: tuple[Read, ...]) -> None:
        """Keep an answer.

        Args:
            question: what was asked; with it and what is read the answer is settled.
            answer: to it.
            reads: what was read for it, none of which has a past.
        """
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept[question] = answer, reads
