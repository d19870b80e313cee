"""How many walks, interrupts and mappings a second the reference model does, and what becomes of that as tables grow.

Nothing is cached: each walk reads its tables again, from memory that is mapped as a guest's or a dump's is. Beside it
stands what it takes to judge an outcome against what caches may hold. Seconds are those of the process on its
processor, so that what else runs on the host takes less away. All that is compared is measured in turn, round by round;
figures are medians, ratios the medians of those of each round.
"""

from __future__ import annotations

import itertools
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from harness.artifacts.progress import Progress, silent
from harness.bench.walks import dense_vtd, every_interrupt, every_judging, every_walk
from harness.bench.workloads import Judging, make_stale, spread
from harness.errors import HarnessError, SpecError
from harness.host import host_facts
from harness.model.access import Access, Outcome, Translated
from harness.model.caches.staleness import Verdict
from harness.model.engine import Interrupt, PostedInterrupt
from harness.model.virtio_iommu.ranges import MappedRange, RangeMap

__all__ = ["Figure", "ModelFigures", "measure", "require"]

_VTD_PAGES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_VIRTIO_MAPPINGS = (1_000, 10_000, 100_000, 1_000_000)
_GROWTH_ACCESSES = 20_000
_COUNTED_MAPPINGS = 100_000
_BATCH = 256  # calls between two looks at the clock

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: with its unit at its end, or in it.
        value: of it.
    """

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """All of them.

    Attributes:
        walks: walks a second, by engine and format.
        interrupts: interrupts remapped a second, by engine and format.
        judged: outcomes judged a second against what caches may hold, by engine and format, and the ratio to walks.
        pages: VT-d with more and more pages: walks a second, and the ratio to the fewest.
        mappings: virtio-iommu with more and more mappings: lookups and insertions a second, and bytes for each.
        rounds: how many there were of each.
        seconds: of each figure, all rounds together.
        host: as results have it.
        python: implementation and version.
    """

    walks: tuple[Figure, ...]
    interrupts: tuple[Figure, ...]
    judged: tuple[Figure, ...]
    pages: tuple[Figure, ...]
    mappings: tuple[Figure, ...]
    rounds: int
    seconds: float
    host: dict[str, str]
    python: str

    def flat(self) -> dict[str, object]:
        """One object: every figure under its name."""
        figures = (*self.walks, *self.interrupts, *self.judged, *self.pages, *self.mappings)
        return {
            **{figure.name: figure.value for figure in figures},
            "rounds": self.rounds,
            "seconds": self.seconds,
            "host": self.host,
            "python": self.python,
        }


def measure(
    *, seconds: float = 1.0, rounds: int = 5, largest: int = _VTD_PAGES[-1], progress: Progress = silent
) -> ModelFigures:
    """Measure.

    Args:
        seconds: of the processor for each figure, all rounds together.
        rounds: at least one.
        largest: number of pages and of mappings up to which growth is measured.
        progress: told of each step.

    Raises:
        SpecError: no time, or no rounds.
        HarnessError: an engine does not translate what its own tables map: nothing that is measured means anything.
    """
    if not seconds > 0 or rounds < 1:
        raise SpecError(f"{seconds:g} seconds in {rounds} rounds measure nothing", hint="ask for more than none")
    clock = _Clock(seconds, rounds)
    progress("walks", 0, 5)
    walks = []
    for walk in every_walk():
        engine, accesses = walk.make(), walk.accesses
        require(walk.name, engine.translate, accesses, Translated)
        walks.append(Figure(f"{walk.name}_walks_per_second", clock.rate(engine.translate, accesses)))
    progress("interrupts", 1, 5)
    interrupts = []
    for interrupt in every_interrupt():
        remapper, writes = interrupt.make(), interrupt.writes
        require(interrupt.name, remapper.remap_msi, writes, (Interrupt, PostedInterrupt))
        interrupts.append(Figure(f"{interrupt.name}_interrupts_per_second", clock.rate(remapper.remap_msi, writes)))
    progress("caches", 2, 5)
    judged = [figure for judging in every_judging() for figure in _judging(clock, judging)]
    progress("more and more pages", 3, 5)
    pages = _growing_pages(clock, [count for count in _VTD_PAGES if count <= largest])
    progress("more and more mappings", 4, 5)
    mappings = _growing_mappings(clock, [count for count in _VIRTIO_MAPPINGS if count <= largest])
    progress("measured", 5, 5)
    return ModelFigures(
        walks=tuple(walks),
        interrupts=tuple(interrupts),
        judged=tuple(judged),
        pages=tuple(pages),
        mappings=tuple(mappings),
        rounds=rounds,
        seconds=seconds,
        host=host_facts(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


class _Clock:
    """Measures rates."""

    def __init__(self, seconds: float, rounds: int) -> None:
        self.rounds = rounds
        self._slice = seconds / rounds

    def rate(self, call: Callable[[_T], object], arguments: Sequence[_T]) -> float:
        """Calls a second, the median of all rounds."""
        return round(statistics.median(self.once(call, arguments) for _ in range(self.rounds)))

    def once(self, call: Callable[[_T], object], arguments: Sequence[_T]) -> float:
        """Calls a second, in one round: the arguments one after the other, as often as it takes."""
        batches = itertools.cycle([arguments[at : at + _BATCH] for at in range(0, len(arguments), _BATCH)])
        calls = 0
        start = now = time.process_time()
        while now - start < self._slice:
            batch = next(batches)
            for argument in batch:
                call(argument)
            calls += len(batch)
            now = time.process_time()
        return calls / (now - start)


def _judging(clock: _Clock, judging: Judging) -> list[Figure]:
    """Outcomes judged, and sets of allowed ones made: while no memory has a past, and where a page is stale."""
    model, accesses = judging.make(), judging.walks.accesses
    translate = model.engine.translate
    require(judging.name, translate, accesses, Translated)
    require(judging.name, model.allowed, accesses, frozenset)
    seen = [(access, translate(access)) for access in accesses]

    def judge(pair: tuple[Access, Outcome]) -> Verdict:
        return model.judge(*pair)

    def judge_anew(pair: tuple[Access, Outcome]) -> Verdict:
        model.memory.tick()  # what it has found is kept until something happens
        return model.judge(*pair)

    rounds = [
        (clock.once(translate, accesses), clock.once(judge, seen), clock.once(model.allowed, accesses))
        for _ in range(clock.rounds)
    ]
    stale, outcome = seen[0]
    make_stale(model, stale)
    if len(model.allowed(stale)) != 2 or not model.judge(stale, outcome):
        raise HarnessError(f"{judging.name}: {stale} is not stale")
    figures = []
    for number, name in ((1, "judge"), (2, "allowed")):
        rate = statistics.median(rates[number] for rates in rounds)
        ratio = statistics.median(rates[number] / rates[0] for rates in rounds)
        per_second = "judged" if name == "judge" else name
        figures.append(Figure(f"{judging.name}_{per_second}_per_second", round(rate)))
        figures.append(Figure(f"{judging.name}_{name}_ratio", round(ratio, 3)))
    stale_rate = clock.rate(judge_anew, [(stale, outcome)])
    figures.append(Figure(f"{judging.name}_stale_judged_per_second", stale_rate))
    return figures


def _growing_pages(clock: _Clock, counts: Sequence[int]) -> list[Figure]:
    units = {count: dense_vtd(count) for count in counts}
    accesses = {count: spread(count, 4096, _GROWTH_ACCESSES) for count in counts}
    for count, unit in units.items():
        require(f"VT-d with {count} pages", unit.translate, accesses[count], Translated)
    done = [
        {count: clock.once(unit.translate, accesses[count]) for count, unit in units.items()}
        for _ in range(clock.rounds)
    ]
    figures = []
    for count in counts:
        rate = statistics.median(rates[count] for rates in done)
        ratio = statistics.median(rates[count] / rates[counts[0]] for rates in done)
        figures.append(Figure(f"vtd_growth_{count}_pages_walks_per_second", round(rate)))
        figures.append(Figure(f"vtd_growth_ratio_{count}_pages", round(ratio, 3)))
    return figures


def _growing_mappings(clock: _Clock, counts: Sequence[int]) -> list[Figure]:
    figures = []
    for count in counts:
        ranges = _mappings(count)
        random = Random(count)
        addresses = [random.randrange(count) * 8192 + random.randrange(4096) for _ in range(_GROWTH_ACCESSES)]
        require(f"{count} mappings", ranges.find, addresses, MappedRange)
        lookups = clock.rate(ranges.find, addresses)
        between = [
            MappedRange(start, start + 4095, start, 3)
            for start in (page * 8192 + 4096 for page in random.sample(range(count), min(count, 1000)))
        ]
        inserts = statistics.median(_insertions(ranges, between) for _ in range(clock.rounds))
        figures.append(Figure(f"virtio_iommu_{count}_mappings_lookups_per_second", lookups))
        figures.append(Figure(f"virtio_iommu_{count}_mappings_inserts_per_second", round(inserts)))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        ranges = _mappings(min(_COUNTED_MAPPINGS, counts[-1]))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    figures.append(Figure("virtio_iommu_bytes_per_mapping", round((after - before) / len(ranges), 1)))
    return figures


def _mappings(count: int) -> RangeMap:
    """Mappings of a page each, with a page between them, made in random order."""
    pages = list(range(count))
    Random(count).shuffle(pages)
    ranges = RangeMap()
    for page in pages:
        ranges.insert(MappedRange(page * 8192, page * 8192 + 4095, page * 4096, 3))
    return ranges


def _insertions(ranges: RangeMap, new: Sequence[MappedRange]) -> float:
    """Insertions a second; the new mappings are taken out again after that."""
    start = time.process_time()
    for mapped in new:
        ranges.insert(mapped)
    rate = len(new) / (time.process_time() - start)
    for mapped in new:
        ranges.remove(mapped)
    return rate


def require(what: str, call: Callable[[_T], object], arguments: Sequence[_T], wanted: type | tuple[type, ...]) -> None:
    """Refuse to measure anything but what was meant to be measured; the first few hundred arguments tell.

    Raises:
        HarnessError: an outcome is of another type.
    """
    for argument in arguments[:_BATCH]:
        outcome = call(argument)
        if not isinstance(outcome, wanted):
            raise HarnessError(f"{what}: {argument} gives {outcome}")
