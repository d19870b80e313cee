"""Which of several outcomes: one way in which a round may go, and the search for the one in which it went."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from harness.conform.request import Request
from harness.model.engine import MsiWrite

__all__ = ["Attempt", "Search"]


class Attempt:
    """One way in which a round may go: what is chosen, and what comes of it.

    Args:
        choices: which outcome is taken, of each request in turn that has more than one; the first where none is said.
        accepted: numbers of requests that need not be as they were seen to be; None where nobody looks.

    Attributes:
        accepted: the same.
        chosen: what was chosen so far.
        counts: among how many outcomes each time.
        requests: that were done.
        passes: numbers of requests that read and were taken for blocked, each with where in `chosen` that was chosen,
            and what had to be for it to pass.
        own: messages that the unit itself sent meanwhile.
        silent: those of them that were taken for blocked without a record, which they should have.
        known: offsets in memory of the words of records that differ from those seen in nothing but what is known to.
        wrong: number of the request that is not as it was seen to be, at which it was given up; None where all are.
    """

    def __init__(self, choices: Sequence[int] = (), accepted: Collection[int] | None = None) -> None:
        self._choices = choices
        self.accepted = accepted
        self.chosen: list[int] = []
        self.counts: list[int] = []
        self.requests: list[Request] = []
        self.passes: dict[int, tuple[int, int]] = {}
        self.own: Sequence[MsiWrite] = ()
        self.silent: list[Request] = []
        self.known: set[int] = set()
        self.wrong: int | None = None

    def choose(self, count: int) -> int:
        """The number of one of so many outcomes."""
        turn = len(self.chosen)
        choice = min(self._choices[turn], count - 1) if turn < len(self._choices) else 0
        self.chosen.append(choice)
        self.counts.append(count)
        return choice


class Search:
    """Goes through choices, the last one first; what was seen of a request may be wrong whatever is chosen.

    Attributes:
        choices: to try.
        accepted: numbers of requests that are not as they were seen to be with any choice.
    """

    def __init__(self) -> None:
        self.choices: list[int] = []
        self.accepted: set[int] = set()
        self._settled = 0  # choices that are not tried again
        self._farthest: tuple[int, list[int]] | None = None
        self._whole: list[int] | None = None

    @property
    def result(self) -> list[int]:
        """The choices that agree best."""
        return self.choices if self._whole is None else self._whole

    @property
    def is_whole(self) -> bool:
        """Whether there were choices with which every request was as it was seen to be."""
        return self._whole is not None

    def go_on(self, tried: Attempt) -> bool:
        """Have other choices tried than an attempt had; false where there are none left."""
        made = list(tried.chosen)
        if tried.wrong is None:
            self._whole = self._whole or list(made)
        elif self._farthest is None or tried.wrong > self._farthest[0]:
            self._farthest = tried.wrong, list(made)
        while len(made) > self._settled and made[-1] + 1 >= tried.counts[len(made) - 1]:
            made.pop()
        if len(made) > self._settled:
            made[-1] += 1
            self.choices = made
            return True
        if self._whole is not None or self._farthest is None:
            return False
        number, self.choices = self._farthest
        self.accepted.add(number)
        self._settled = len(self.choices)
        self._farthest = None
        return True
