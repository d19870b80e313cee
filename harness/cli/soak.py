"""`viommu soak`: is every machine started, told of rightly, and given back, for hours?"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from harness.cli.options import KernelOption, QemuOption, shown_progress
from harness.lab import Lab
from harness.soak.soak import SoakFigures, merge
from harness.soak.soak import soak as soak_here

__all__ = ["soak"]

_SHOWN = 20


def soak(
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60.0,
    j: Annotated[int, typer.Option("-j", help="Processes at a time; 0 for as many as there are processors.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the random choices.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    qemu: QemuOption = None,
    kernel: KernelOption = None,
) -> None:
    """Lease machines, work with them, break some on purpose, and count what was told wrong and what was left.

    Exit code 0: nothing was; 1: something was.
    """
    count = j or len(os.sched_getaffinity(0))
    with shown_progress() as progress:
        lab = Lab.open(qemu=qemu, kernel=kernel, progress=progress)
        progress("soaking", 0, 0)
        if count == 1:
            figures = soak_here(lab, seconds=seconds, seed=seed, progress=progress)
        else:
            figures = _in_processes((lab.qemu.name, lab.kernel.name), count, seconds, seed)
    if json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(figures)).decode() + "\n")
    else:
        _show(figures)
    raise typer.Exit(0 if figures.is_clean else 1)


def _in_processes(names: tuple[str, str], count: int, seconds: float, seed: int) -> SoakFigures:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        parts = [pool.submit(_part, *names, seconds, seed + number) for number in range(count)]
        return merge([part.result() for part in parts])


def _part(qemu: str, kernel: str, seconds: float, seed: int) -> SoakFigures:
    return soak_here(Lab.open(qemu=qemu, kernel=kernel), seconds=seconds, seed=seed)


def _show(figures: SoakFigures) -> None:
    console = Console(highlight=False)
    first, last = figures.lease_milliseconds
    console.print(
        f"{figures.leases} leases in {figures.seconds:.0f} s; the first took {first:.0f} ms, the last {last:.0f}"
    )
    for name, times in sorted(figures.faults.items()):
        console.print(f"  {times:5} {name}")
    for origin, times in figures.booted.items():
        console.print(f"  {times:5} {origin}")
    for what, lines in (("told wrong", figures.wrong), ("left behind", figures.leaked)):
        console.print(f"{len(lines)} {what}", style="bold red" if lines else "")
        for line in lines[:_SHOWN]:
            console.print(f"  {line}", markup=False)
