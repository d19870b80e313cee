"""The `viommu` command: its subcommands put together, and errors shown as a person wants to see them."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from harness.cli import bench, templates
from harness.cli.boot import boot
from harness.cli.conform import conform, replay
from harness.cli.doctor import doctor
from harness.cli.report import report
from harness.cli.run import run
from harness.cli.sabotage import sabotage
from harness.cli.soak import soak
from harness.cli.translate import translate
from harness.errors import HarnessError
from harness.verdict import INTERRUPTED

__all__ = ["app", "main"]

app = typer.Typer(
    help="Does this virtual IOMMU really protect this guest?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(doctor)
app.command()(run)
app.command()(boot)
app.command()(translate)
app.command()(conform)
app.command()(replay)
app.command()(soak)
app.command()(sabotage)
app.command()(report)
app.add_typer(templates.app, name="templates")
app.add_typer(bench.app, name="bench")

_NOT_JUDGED = 2


def main() -> None:
    """Run the command line; a `HarnessError` is told without a traceback, and ends it with exit code 2."""
    try:
        app()
    except HarnessError as error:
        console = Console(stderr=True)
        console.print("error: ", style="bold red", end="")
        console.print(error.message, markup=False, highlight=False, soft_wrap=True)
        if error.hint:
            console.print(f"hint:  {error.hint}", markup=False, highlight=False, soft_wrap=True)
        if error.evidence:
            console.print(error.evidence.rstrip(), markup=False, highlight=False, style="dim", soft_wrap=True)
        sys.exit(_NOT_JUDGED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
