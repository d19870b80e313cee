"""`viommu sabotage`: do the cases notice machines that are broken on purpose?"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from harness.cli.options import KernelOption, QemuOption, shown_progress
from harness.lab import Lab
from harness.sabotage.catalogue import SABOTAGES, find_sabotage
from harness.sabotage.run import SabotageFigures, run_sabotages

__all__ = ["sabotage"]


def sabotage(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all without any.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many at a time; 0 for as many as there are processors.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    qemu: QemuOption = None,
    kernel: KernelOption = None,
) -> None:
    """Break machines on purpose, and see whether the cases that are there for it notice.

    Exit code 0: all did; 1: one did not.
    """
    chosen = tuple(find_sabotage(name) for name in names) if names else SABOTAGES
    with shown_progress() as progress:
        lab = Lab.open(qemu=qemu, kernel=kernel, progress=progress)
        figures = run_sabotages(
            chosen,
            qemu=lab.qemu.name,
            kernel=lab.kernel.name,
            at_a_time=n or os.cpu_count() or 1,
            progress=progress,
        )
    if json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(figures)).decode() + "\n")
    else:
        _show(figures)
    raise typer.Exit(0 if figures.is_clean else 1)


def _show(figures: SabotageFigures) -> None:
    console = Console(highlight=False)
    table = Table("sabotage", "IOMMU", "claims that failed", "first after", box=None)
    for one in figures.caught:
        claims = " ".join(one.claims) or "[bold red]none[/]"
        table.add_row(f"{one.sabotage}\n  [dim]{one.says}[/]", one.iommu, claims, f"{one.seconds:.1f} s")
    console.print(table)
    for one in figures.caught:
        for line in one.missed:
            console.print(f"{one.sabotage} ({one.iommu}) was not noticed by {line}", markup=False, style="bold red")
    if figures.unbroken:
        console.print(f"Claims that no sabotage makes fail: {' '.join(figures.unbroken)}")
