"""What must come of a round of DMAs, and what came of it where more than one outcome is allowed.

There what was seen decides. A choice is a list of numbers, one for each request that has more than one outcome. Choices
are tried until memory and the records of faults are as they were seen to be: in the order of the requests, and given up
at the first request whose record, or data, is not in the real memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations

from harness.conform.attempt import Attempt, Search
from harness.conform.play import Play
from harness.conform.program import Dma
from harness.conform.request import Request
from harness.model.engine import MsiWrite

__all__ = ["Predictor"]

_MOST_CHOICES = 256  # that are tried for one round
_MORE_CHOICES = 8
_MOST_SILENCES = 4  # kinds of faults, known to have no record, of which every combination is tried


class Predictor:
    """Knows what must come of rounds, and finds out what did.

    Args:
        play: does them in the model.
        silence: what is known of a fault that has no record; empty where nothing is.

    Attributes:
        contents: of the devices' buffers.
    """

    def __init__(self, play: Play, silence: Callable[[Request], str] = lambda request: "") -> None:
        self.contents = play.contents
        self._play = play
        self._silence = silence

    @property
    def requests(self) -> list[Request]:
        """Of the round as it was tried last, in their order."""
        return self._play.attempt.requests

    @property
    def own(self) -> Sequence[MsiWrite]:
        """Messages that the unit itself sent then."""
        return self._play.attempt.own

    @property
    def silent(self) -> list[Request]:
        """Requests of the round that were taken for blocked though they have no record, which they should."""
        return self._play.attempt.silent

    @property
    def known(self) -> set[int]:
        """Offsets of the words of its records that were seen to differ in nothing but what is known to."""
        return self._play.attempt.known

    def predict(self, dmas: Sequence[Dma]) -> list[Request]:
        """What must come of DMAs, in their order; where there is a choice, the outcome that needs no cache.

        Messages that the unit has sent before have to be taken from it first.
        """
        return self._play.begin(dmas).requests

    def choose(self, fits: Callable[[], bool]) -> list[Request]:
        """Find outcomes with which what was seen agrees; those of `predict` where there are none.

        Args:
            fits: whether what was seen agrees with the unit and the twin memory as they are.
        """
        # While `predict` was at work the real memory was not what it is now.
        self._play.look_again()
        if not self._play.attempt.counts or fits():
            return self.requests
        search = Search()
        left = _MOST_CHOICES
        with self._play.remembering():
            while left > 0:
                tried = self._play.again(Attempt(search.choices, search.accepted))
                if tried.wrong is None and fits():
                    return tried.requests
                if not search.go_on(tried):
                    break
                # With choices that agree but for what a record says there is little hope of better ones.
                left = min(left - 1, _MORE_CHOICES) if search.is_whole else left - 1
            return self._play.again(Attempt(search.result)).requests

    def find_unrecorded(
        self, fits: Callable[[], bool], is_told: Callable[[], bool]
    ) -> tuple[list[Request], list[Request]]:
        """Where nothing fits: whether it would, had hardware not recorded some of the faults.

        Only for a unit that keeps the first record: there another takes the place of one that is missing.

        Args:
            fits: as for `choose`, which came just before.
            is_told: whether the registers that tell of faults do, without which it does not fit.

        Returns:
            Requests as they are then, and those of them whose faults have no record; as they were, and none, where
            that is no answer either.
        """
        requests = self._play.attempt.requests
        faults = [number for number, each in enumerate(requests) if each.is_recorded]
        kinds = self._kinds_of_silence(requests)

        def fits_without(missing: Sequence[int]) -> bool:
            # As a rule it is the registers that say no.
            silent = set(missing)
            self._play.record_faults(_up_to_another(requests[number] for number in faults if number not in silent))
            if not is_told():
                return False
            self._play.record_again(requests, missing)
            return fits()

        found = next(filter(fits_without, chain(_known_silences(kinds), _next_silences(faults))), ())
        # Of one device hardware may take the first alone: of the others it has no record either way.
        known = [number for numbers in kinds.values() for number in numbers]
        for part in (*kinds.values(), *([number] for number in found if number not in known)):
            fewer = [number for number in found if number not in part]
            if len(fewer) < len(found) and fits_without(fewer):
                found = fewer
        missing = {_place(requests[number]) for number in found}
        attempt = self._play.attempt
        if passes := [attempt.passes[number] for number in found if number in attempt.passes]:
            # That there is no record of a read may also say that it passed.
            choices = list(attempt.chosen)
            for turn, choice in passes:
                choices[turn] = choice
            requests = self._play.again(Attempt(choices)).requests
        found = [number for number, each in enumerate(requests) if each.is_recorded and _place(each) in missing]
        requests = self._play.record_again(requests, found)
        return requests, [requests[number] for number in found]

    def _kinds_of_silence(self, requests: Sequence[Request]) -> dict[str, list[int]]:
        """What is known of faults without records, with the numbers of requests that it may be true of."""
        kinds: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            if request.is_recorded and (kind := self._silence(request)):
                kinds.setdefault(kind, []).append(number)
        return kinds


def _known_silences(kinds: Mapping[str, list[int]]) -> Iterator[list[int]]:
    """Numbers of requests whose faults may have no record, by what is known: fewer kinds first."""
    numbers = list(kinds.values())[:_MOST_SILENCES]
    for count in range(1, len(numbers) + 1):
        for some in combinations(numbers, count):
            yield [number for kind in some for number in kind]


def _next_silences(faults: list[int]) -> Iterator[list[int]]:
    """Numbers of requests whose faults may have no record, where the one that has is any of them.

    What is recorded is the next one; whether there were others besides tells how many more are missing.

    Args:
        faults: numbers of all requests whose faults have one.
    """
    for count in range(len(faults) + 1):
        yield faults[:count]
        yield faults[:count] + faults[count + 1 :]


def _up_to_another(faults: Iterable[Request]) -> Iterator[Request]:
    """Of faults that are recorded those that the registers tell of which keep the first, and that there were others.

    Of more faults of the same requester hardware may take none for another; one of another requester is.
    """
    first: int | None = None
    for fault in faults:
        yield fault
        first = fault.access.requester if first is None else first
        if fault.access.requester != first:
            return


def _place(request: Request) -> tuple[Dma, int]:
    """What tells a request of a round from the others, whatever became of these."""
    return request.dma, request.access.iova
