"""`viommu report`: a results record of an earlier run, printed again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.errors import SpecError
from harness.report.console import print_run
from harness.report.record import Run

__all__ = ["report"]

_PICTURE_COLUMNS = 118


def report(
    results: Annotated[Path, typer.Argument(help="results.json of a run.")],
    svg: Annotated[Path | None, typer.Option(help="Write the same as a picture.")] = None,
) -> None:
    """Print an earlier run, and end with its exit code."""
    try:
        run = Run.from_json(results.read_bytes())
    except OSError as error:
        raise SpecError(f"results {results}: {error.strerror}", hint="`viommu run --report DIR` writes one") from error
    if svg is not None:
        picture = Console(record=True, width=_PICTURE_COLUMNS, file=io.StringIO(), force_terminal=True)
        print_run(run, picture)
        try:
            svg.write_text(picture.export_svg(title="viommu run"), encoding="utf-8")
        except OSError as error:
            raise SpecError(
                f"picture {svg}: {error.strerror}", hint="name a file in a directory that is there"
            ) from error
    else:
        print_run(run)
    raise typer.Exit(run.exit_code)
