"""`viommu conform` and `viommu replay`: programs on QEMU's IOMMUs, compared with the model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.options import shown_progress
from harness.conform.bug_reports import write_reports
from harness.conform.campaign import CellResult, cells_of, run_cells
from harness.conform.page import page
from harness.conform.program import Program
from harness.conform.replay import Replayed, replay_program
from harness.conform.results import exit_code, print_coverage, print_results, write_results
from harness.conform.target import Target
from harness.conform.targets.registry import TARGETS, select
from harness.conform.triage import KnownDivergences
from harness.defaults import defaults
from harness.errors import SpecError
from harness.resources import KNOWN_ISSUES, ROOT

__all__ = ["conform", "replay"]

_COLUMNS = 120  # of a file or a pipe
_BUILDS = ("bullseye", "bookworm", "trixie", "sid")


def conform(
    target: Annotated[
        list[str] | None, typer.Option(help="Only this one; * stands for anything. May be repeated.")
    ] = None,
    qemu: Annotated[
        list[str] | None, typer.Option(help="QEMU: a suite, 'host' for that on PATH, or a path. May be repeated.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help=f"On all of {', '.join(_BUILDS)}.")] = False,
    seconds: Annotated[
        float | None, typer.Option(help="How long on each target and QEMU; 10 where --programs is not given.")
    ] = None,
    programs: Annotated[int | None, typer.Option(min=1, help="How many programs on each, instead.")] = None,
    shrink: Annotated[
        float, typer.Option(min=0, help="Seconds to make a program smaller that shows something.")
    ] = 20.0,
    mutate: Annotated[
        bool, typer.Option("--mutate/--no-mutate", help="Also change programs that reached something.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the first program; the others follow.")] = 0,
    j: Annotated[int, typer.Option("-j", min=1, help="Machines at a time.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="The results as JSON on standard output.")] = False,
    coverage: Annotated[bool, typer.Option("--coverage", help="Print what was exercised.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the targets, and do no more.")] = False,
    page_: Annotated[
        Path | None, typer.Option("--page", help="Write the page of what is understood there, and do no more.")
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(help=f"Write a report there for each mistake that {_BUILDS[-1]}, or --qemu, has; and do no more."),
    ] = None,
    known: Annotated[Path, typer.Option(help="What is understood: a file with [[divergence]] entries.")] = KNOWN_ISSUES,
    out: Annotated[Path, typer.Option(help="Where results.json and the programs go.")] = Path("reports/conform"),
) -> None:
    """Run generated programs on QEMU's IOMMUs and on the model, and compare.

    Exit code 0: they agree, but for what is known; 1: they differ, or what was known is gone; 2: not all could be run
    and judged.
    """
    if list_:
        sys.stdout.write("".join(f"{each.name}\n" for each in TARGETS))
        return
    if page_ is not None:
        page_.write_text(page(KnownDivergences.load(known)), encoding="utf-8")
        return
    if reports is not None:
        chosen_build = (qemu or [_BUILDS[-1]])[-1]
        raise typer.Exit(_write_reports(KnownDivergences.load(known), select(target or ["*"]), chosen_build, reports))
    if all and qemu:
        raise SpecError("--all and --qemu: either all builds, or those that are named")
    if seconds is not None and seconds <= 0:
        raise SpecError(f"{seconds:g} seconds are no time", hint="give more, or --programs")
    if seconds is None and programs is None:
        seconds = 10.0
    builds = _BUILDS if all else tuple(qemu or [defaults().qemu])
    chosen = select(target or ["*"])
    cells = cells_of(
        chosen,
        builds,
        first_seed=seed,
        seconds=seconds,
        programs=programs,
        shrink_seconds=shrink,
        mutates=mutate,
    )
    results: list[CellResult] = []
    with shown_progress() as progress:
        expected = KnownDivergences.load(known)
        results.extend(run_cells(cells, expected, ROOT, at_a_time=min(j, len(cells)), progress=progress))
    order = {(cell.target, cell.qemu): number for number, cell in enumerate(cells)}
    results.sort(key=lambda result: order[result.cell.target, result.cell.qemu])
    write_results(results, out)
    if json:
        sys.stdout.write((out / "results.json").read_text(encoding="utf-8"))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_COLUMNS)
        print_results(results, console, out)
        if coverage:
            print_coverage(results, console)
    raise typer.Exit(exit_code(results))


def _write_reports(known: KnownDivergences, targets: Sequence[Target], qemu: str, directory: Path) -> int:
    """Write them, say which could not be written, and give the exit code."""
    with shown_progress() as progress:
        attempts = list(write_reports(known, targets, qemu, ROOT, directory, progress))
    refused = [attempt for attempt in attempts if attempt.why_not]
    for attempt in refused:
        sys.stdout.write(f"no report of {attempt.entry.id}: {attempt.why_not}\n")
    sys.stdout.write(f"{len(attempts) - len(refused)} reports in {directory}\n")
    return int(bool(refused))


def replay(
    file: Annotated[Path, typer.Argument(help="A program, as `viommu conform` writes them.")],
    qemu: Annotated[str | None, typer.Option(help="QEMU: a suite, 'host' for that on PATH, or a path.")] = None,
    qtest: Annotated[bool, typer.Option("--qtest", help="Print it as a qtest script.")] = False,
) -> None:
    """Run one program again, and say where QEMU and the model differ.

    Exit code 0: they agree; 1: they differ; 2: it could not be run.
    """
    program = Program.load(file)
    with shown_progress() as progress:
        replayed = replay_program(program, qemu or defaults().qemu, progress)
    if qtest:
        sys.stdout.write(replayed.script)
    else:
        _show(replayed, Console())
    raise typer.Exit(int(bool(replayed.divergences)))


def _show(replayed: Replayed, console: Console) -> None:
    for divergence in replayed.divergences:
        console.print(divergence.signature, style="bold red", markup=False, highlight=False)
        section = f" ({divergence.section})" if divergence.section else ""
        console.print(f"  after step {divergence.step}{section}", markup=False, highlight=False)
        console.print(divergence.detail, markup=False, highlight=False)
    if replayed.unjudged:
        console.print(f"the model cannot judge it to its end: {replayed.unjudged}", style="yellow", markup=False)
    if not replayed.divergences:
        console.print(f"QEMU {replayed.version} and the model agree on {replayed.dmas} DMAs", highlight=False)
