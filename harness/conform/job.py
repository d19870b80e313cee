"""Runs programs of one target on one QEMU for a while, and sorts what comes of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from harness.artifacts.qemu import QemuBuild
from harness.conform.divergence import Divergence
from harness.conform.mutate import mutate
from harness.conform.program import Program
from harness.conform.session import Session
from harness.conform.shrink import shrink
from harness.conform.target import Target
from harness.conform.triage import Known, KnownDivergences, named
from harness.model.unit import Coverage
from harness.vmm.qemu.capabilities import Capabilities

__all__ = ["Found", "Job", "Report", "run_job"]

_MUTATED = 0.15
_CORPUS = 64
_TRACED = 32  # one program of so many: the log slows QEMU down
_STOP_AFTER = 20  # different divergences that nobody knows


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be run.

    Attributes:
        target: on what.
        build: of which QEMU,
        capabilities: and what that can do.
        first_seed: of the first program; the others follow.
        seconds: how long; None for as many programs as there are asked for.
        programs: how many; None for as many as the time allows.
        shrink_seconds: how long a program that shows a divergence is made smaller.
        mutates: now and then a program is a changed one, and not generated.
    """

    target: Target
    build: QemuBuild
    capabilities: Capabilities
    first_seed: int = 0
    seconds: float | None = None
    programs: int | None = None
    shrink_seconds: float = 20.0
    mutates: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A divergence that is not known.

    Attributes:
        divergence: as the program shows it.
        program: the smallest one that was found.
        script: the same for qtest; empty where it cannot be said so.
        count: how many programs showed it.
    """

    divergence: Divergence
    program: Program
    script: str
    count: int


@dataclass
class Report:
    """What came of a job.

    Attributes:
        target, version: what was tested.
        programs, dmas, seconds: how much.
        found: divergences that nobody knows.
        known: how often each known one was seen.
        gone: known ones whose program does not show them any more.
        unjudged: why the model could not go on, and how often.
        coverage: what was exercised.
        unreached: what the build has and nothing exercised, with the reason where there is one.
    """

    target: str
    version: str
    programs: int = 0
    dmas: int = 0
    seconds: float = 0.0
    found: list[Found] = field(default_factory=list)
    known: Counter[str] = field(default_factory=Counter)
    gone: list[Known] = field(default_factory=list)
    unjudged: Counter[str] = field(default_factory=Counter)
    coverage: Coverage = field(default_factory=Coverage)
    unreached: dict[tuple[str, str], str] = field(default_factory=dict)


def run_job(job: Job, known: KnownDivergences, root: Path) -> Report:
    """Run a job: the programs of what is known first, then generated ones, and changed ones of those.

    Args:
        job: what to run.
        known: entries for any target and build.
        root: what the paths in entries start from.

    Raises:
        Unsupported: this build has no such target.
        SpecError: a known divergence's program is no program of this target.
        VmmError: QEMU does not start, or no device of it does DMA.
    """
    expected = known.of(job.target.name, job.build.version)
    report = Report(job.target.name, job.build.version)
    start = time.monotonic()
    with Session(job.target, job.build, job.capabilities, expected, report.coverage) as session:
        for entry in expected:
            if not _still_shows(session, entry, job.target, root):
                report.gone.append(entry)
        found: dict[str, Found] = {}
        for program in _programs(job, session, report, start):
            result = session.run(program, traced=report.programs % _TRACED == 0)
            report.programs += 1
            report.dmas += result.dmas
            if result.unjudged:
                report.unjudged[result.unjudged] += 1
            for divergence in _said_best(session, program, result.divergences, expected):
                if (name := named(divergence, expected)) is not None:
                    report.known[name.id] += 1
                elif (before := found.get(divergence.signature)) is not None:
                    found[divergence.signature] = replace(before, count=before.count + 1)
                else:
                    found[divergence.signature] = _minimal(session, program, divergence, job.shrink_seconds)
            if len(found) >= _STOP_AFTER:
                break
        universe = job.target.universe(session.runner.machine)
    reached = report.coverage.counts.keys()
    report.unreached = {each: job.target.unreachable.get(each, "") for each in sorted(universe - reached)}
    report.found = list(found.values())
    report.seconds = time.monotonic() - start
    return report


def _said_best(
    session: Session, program: Program, seen: Sequence[Divergence], expected: tuple[Known, ...]
) -> Sequence[Divergence]:
    """What a program shows, by the run that tells most of it: where something is not known, others are tried."""

    def are_known(divergences: Sequence[Divergence]) -> bool:
        return all(named(divergence, expected) is not None for divergence in divergences)

    if are_known(seen):
        return seen
    # What is seen at the end of a program only is seen round by round there.
    seen = session.run(program, thorough=True).divergences or seen
    if are_known(seen):
        return seen
    apart = session.run(program, thorough=True, apart=True).divergences
    return apart if apart and are_known(apart) else seen


def _programs(job: Job, session: Session, report: Report, start: float) -> Iterator[Program]:
    """Generated programs, and now and then a changed one of those that reached something for the first time."""
    corpus: list[Program] = []
    seed = job.first_seed
    while job.programs is None or report.programs < job.programs:
        if job.seconds is not None and time.monotonic() - start > job.seconds:
            return
        random = Random(seed)
        if job.mutates and corpus and random.random() < _MUTATED:
            program = mutate(random.choice(corpus), random)
        else:
            program = job.target.generate(seed, random, session.runner.bound)
        seed += 1
        before = len(report.coverage.counts)
        yield program
        if len(report.coverage.counts) > before:
            corpus = [*corpus, program][-_CORPUS:]


def _minimal(session: Session, program: Program, divergence: Divergence, seconds: float) -> Found:
    """The smallest program that shows the divergence, on a machine that may have to be started again and again."""
    last = [divergence]
    counts = session.coverage.counts.copy()

    def shows(candidate: Program) -> bool:
        for seen in session.run(candidate, thorough=True).divergences:
            if seen.signature == divergence.signature:
                last[0] = seen
                return True
        return False

    until_seen = program.with_steps(program.steps[: divergence.step + 1])
    smallest = shrink(until_seen if shows(until_seen) else program, shows, seconds=seconds)
    shows(smallest)
    # How often it was tried on the way says nothing of what was exercised.
    session.coverage.counts = counts
    return Found(last[0], smallest, session.script(smallest, last[0]), 1)


def _still_shows(session: Session, entry: Known, target: Target, root: Path) -> bool:
    """Whether an entry's program shows it; one for another target says nothing of this one."""
    program = Program.load(root / entry.program)
    if program.target != target.name:
        return True
    return any(entry.describes(seen.signature) for seen in session.run(program, thorough=True).divergences)
