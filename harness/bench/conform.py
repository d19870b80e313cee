"""How many DMAs a second are checked against the model, beside what QEMU takes for the commands alone.

Programs are generated, run and compared, one after the other on one machine, for a while. Then the very same commands
are sent again to the same machine, and nobody looks at the answers: the ratio says what generating, predicting and
comparing cost beside the least that has to be sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from harness.artifacts.cache import Cache
from harness.artifacts.progress import Progress, silent
from harness.artifacts.qemu import find_qemu
from harness.conform.campaign import capabilities_of
from harness.conform.edu import COMMAND
from harness.conform.program import Plug, Unplug
from harness.conform.session import Session
from harness.conform.target import Target
from harness.conform.triage import KnownDivergences
from harness.errors import SpecError, Unsupported
from harness.model.unit import Coverage

__all__ = ["ConformFigure", "measure"]


@dataclass(frozen=True, slots=True)
class ConformFigure:
    """One target on one build.

    Attributes:
        target: name of it.
        version: of QEMU.
        dmas_per_second: generated, run and compared.
        bare_dmas_per_second: of the same commands, sent again.
        programs: how many there were.
    """

    target: str
    version: str
    dmas_per_second: float
    bare_dmas_per_second: float
    programs: int

    @property
    def ratio(self) -> float:
        """Of the two."""
        return self.dmas_per_second / self.bare_dmas_per_second


def measure(
    targets: Sequence[Target],
    builds: Sequence[str],
    known: KnownDivergences,
    *,
    seconds: float,
    progress: Progress = silent,
) -> Iterator[ConformFigure]:
    """Measure each target on each build that has it.

    Args:
        targets: what,
        builds: and on which QEMU.
        known: divergences that programs go on behind.
        seconds: for each.
        progress: told of each.

    Raises:
        SpecError: no time.
    """
    if seconds <= 0:
        raise SpecError(f"{seconds:g} seconds measure nothing", hint="ask for more than none")
    cells = [(target, build) for build in builds for target in targets]
    for number, (target, build) in enumerate(cells):
        progress(f"{target.name} on {build}", number, len(cells))
        try:
            yield _figure(target, build, known, seconds)
        except Unsupported:
            continue


def _figure(target: Target, build: str, known: KnownDivergences, seconds: float) -> ConformFigure:
    qemu = find_qemu(build, target.arch, Cache())
    expected = known.of(target.name, qemu.version)
    with Session(target, qemu, capabilities_of(qemu, target), expected, Coverage()) as session:
        batches: list[Sequence[str]] = []
        machine = session.runner.machine
        start = time.monotonic()
        dmas = programs = seed = 0
        left_out = 0.0  # seconds
        while time.monotonic() < start + seconds:
            machine = session.runner.machine  # another one, where a program has ended the last
            machine.qtest.tap = lambda lines: batches.append(tuple(lines))
            begun = time.monotonic()
            program = target.generate(seed, Random(seed), session.runner.bound)
            seed += 1
            if any(isinstance(step, Plug | Unplug) for step in program.steps):
                # What is plugged over QMP is not among the commands that are sent again: it does not count at all.
                left_out += time.monotonic() - begun
                continue
            result = session.run(program)
            dmas += result.dmas
            programs += 1
        taken = time.monotonic() - start - left_out
        machine = session.runner.machine
        machine.qtest.tap = None
        start = time.monotonic()
        for batch in batches:
            machine.qtest.batch(batch)
            # What is ordered while another DMA is pending a device does not do.
            if (last := _last_ordered(batch)) is not None:
                machine.wait_until_done(last)
        bare = time.monotonic() - start
    return ConformFigure(target.name, qemu.version, dmas / taken, dmas / bare, programs)


def _last_ordered(batch: Sequence[str]) -> int | None:
    """Where the registers are of the device that a batch has do the last DMA; None where it has none."""
    for line in reversed(batch):
        name, *rest = line.split()
        if name == "writeq" and int(rest[0], 16) & 0xFFFFF == COMMAND:
            return int(rest[0], 16) - COMMAND
    return None
