"""Many jobs: every target on every QEMU that was asked for, side by side, and what came of each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.cache import Cache
from harness.artifacts.progress import Progress, silent
from harness.artifacts.qemu import QemuBuild, find_qemu
from harness.conform.job import Job, Report, run_job
from harness.conform.target import Target
from harness.conform.targets.registry import find_target
from harness.conform.triage import KnownDivergences
from harness.errors import HarnessError, Unsupported
from harness.vmm.qemu.capabilities import PC, Capabilities, cached

__all__ = ["Cell", "CellResult", "capabilities_of", "cells_of", "run_cells"]

_OTHER_MACHINE = "virt"  # what architectures other than the PC's have


@dataclass(frozen=True, slots=True)
class Cell:
    """A target on a QEMU, and how long.

    Attributes:
        target: name of it.
        qemu: a suite, "host" or a path.
        first_seed, seconds, programs, shrink_seconds, mutates: as of a `Job`.
    """

    target: str
    qemu: str
    first_seed: int = 0
    seconds: float | None = None
    programs: int | None = None
    shrink_seconds: float = 20.0
    mutates: bool = True


@dataclass(frozen=True, slots=True)
class CellResult:
    """What came of it.

    Attributes:
        cell: what was run.
        report: None where nothing was.
        skipped: what this build lacks.
        failed: why it could not be run, though it should.
    """

    cell: Cell
    report: Report | None = None
    skipped: str = ""
    failed: str = ""


def cells_of(
    targets: Sequence[Target],
    builds: Sequence[str],
    *,
    first_seed: int,
    seconds: float | None,
    programs: int | None,
    shrink_seconds: float,
    mutates: bool,
) -> tuple[Cell, ...]:
    """Each target on each build; the other arguments are those of each."""
    return tuple(
        Cell(target.name, build, first_seed, seconds, programs, shrink_seconds, mutates)
        for build in builds
        for target in targets
    )


def run_cells(
    cells: Sequence[Cell], known: KnownDivergences, root: Path, *, at_a_time: int, progress: Progress = silent
) -> Iterator[CellResult]:
    """Run them; results come as they are ready.

    Args:
        cells: what to run.
        known: divergences that are understood.
        root: what the paths in `known` start from.
        at_a_time: how many machines run side by side.
        progress: told of what is fetched, and of each cell.

    Raises:
        SpecError, ArtifactError, HostError: as `find_qemu` does; nothing has been run then.
    """
    for cell in cells:  # one after the other: each is fetched once, and shown
        with suppress(Unsupported):
            find_qemu(cell.qemu, find_target(cell.target).arch, Cache(), progress)
    if at_a_time == 1:
        for number, cell in enumerate(cells):
            progress(f"{cell.target} on {cell.qemu}", number, len(cells))
            yield run_cell(cell, known, root)
        return
    with ProcessPoolExecutor(at_a_time, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(run_cell, cell, known, root): cell for cell in cells}
        for number, done in enumerate(as_completed(waiting)):
            progress(f"{waiting[done].target} on {waiting[done].qemu}", number, len(cells))
            yield done.result()


def run_cell(cell: Cell, known: KnownDivergences, root: Path) -> CellResult:
    """Run one; what it cannot do is part of the answer."""
    try:
        target = find_target(cell.target)
        build = find_qemu(cell.qemu, target.arch, Cache())
        job = Job(
            target,
            build,
            capabilities_of(build, target),
            first_seed=cell.first_seed,
            seconds=cell.seconds,
            programs=cell.programs,
            shrink_seconds=cell.shrink_seconds,
            mutates=cell.mutates,
        )
        return CellResult(cell, run_job(job, known, root))
    except Unsupported as error:
        return CellResult(cell, skipped=str(error))
    except HarnessError as error:
        return CellResult(cell, failed=str(error))


def capabilities_of(build: QemuBuild, target: Target) -> Capabilities:
    """What a build can do on the machine that a target is for.

    Raises:
        VmmStartError: it does not start.
    """
    machine = PC if target.arch == "amd64" else _OTHER_MACHINE
    return cached(build, Cache().directory("derived"), machine)
