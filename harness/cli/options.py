"""Options and ways of showing things that several subcommands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness.artifacts.progress import Progress as Report
from harness.errors import SpecError
from harness.spec import IommuKind

__all__ = ["KernelOption", "QemuOption", "iommu_kind", "shown_progress"]

QemuOption = Annotated[
    str | None,
    typer.Option(help="QEMU: a suite (trixie, sid...), 'host' for that on PATH, or a path."),
]
KernelOption = Annotated[
    str | None, typer.Option(help="Guest kernel: a suite (trixie, sid, trixie:cloud...), or a path.")
]


def iommu_kind(name: str) -> IommuKind:
    """The IOMMU of that name.

    Raises:
        SpecError: there is none; the message lists those that there are.
    """
    try:
        return IommuKind(name)
    except ValueError:
        known = ", ".join(IommuKind)
        raise SpecError(f"IOMMU {name!r} is not known", hint=f"choose one of: {known}") from None


@contextmanager
def shown_progress() -> Iterator[Report]:
    """A progress bar on standard error for whatever takes long; plain lines where that is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        last = [""]

        def line(step: str, done: int, total: int) -> None:
            if step != last[0]:
                last[0] = step
                console.print(f"... {step}", markup=False, highlight=False)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("looking for QEMU, kernel and image", total=None)

        def bar(step: str, done: int, total: int) -> None:
            bars.update(task, description=step, completed=done, total=total or None)

        yield bar
