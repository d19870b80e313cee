"""What a campaign found, as JSON, as files, and for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.conform.campaign import CellResult
from harness.conform.job import Found, Report

__all__ = ["SCHEMA", "exit_code", "print_coverage", "print_results", "write_results"]

SCHEMA = "viommu-harness/conform/1"

_DETAIL_LINES = 24
_MOST_UNJUDGED = 0.5  # of all programs


def exit_code(results: Sequence[CellResult]) -> int:
    """2 where something was not run or judged, 1 where a divergence is not known or a known one is gone, else 0."""
    reports = [result.report for result in results if result.report]
    if any(result.failed for result in results) or not reports or not all(_tells_something(each) for each in reports):
        return 2
    return int(any(report.found or report.gone for report in reports))


def _tells_something(report: Report) -> bool:
    """Whether DMAs were compared, and the model could judge most programs to their end."""
    return report.dmas > 0 and report.unjudged.total() <= _MOST_UNJUDGED * report.programs


def write_results(results: Sequence[CellResult], directory: Path) -> None:
    """Write `results.json`, and for each divergence that is not known its program and its qtest script."""
    directory.mkdir(parents=True, exist_ok=True)
    for result in results:
        for found in result.report.found if result.report else ():
            stem = file_stem(result, found)
            (directory / f"{stem}.json").write_text(found.program.to_json(), encoding="utf-8")
            if found.script:
                (directory / f"{stem}.qtest").write_text(found.script, encoding="utf-8")
    text = json.dumps({"schema": SCHEMA, "cells": [_plain(result) for result in results]}, indent=2)
    (directory / "results.json").write_text(f"{text}\n", encoding="utf-8")


def file_stem(result: CellResult, found: Found) -> str:
    """What the files of a divergence are called."""
    build = Path(result.cell.qemu).name
    return f"{result.cell.target.replace('/', '-')}-{build}-{found.divergence.id}"


def print_results(results: Sequence[CellResult], console: Console, directory: Path) -> None:
    """Print a table, then each divergence that is not known, then what is gone or was not run."""
    table = Table(box=None, pad_edge=False)
    for column in ("target", "QEMU"):
        table.add_column(column, no_wrap=True)
    for column in ("programs", "DMAs", "DMAs/s", "known", "unknown", "gone", "unjudged"):
        table.add_column(column, justify="right")
    for result in results:
        report = result.report
        if report is None:
            table.add_row(result.cell.target, result.cell.qemu, "skipped" if result.skipped else "not run", style="dim")
            continue
        counts = (report.programs, report.dmas, round(report.dmas / report.seconds))
        sorts = (len(report.known), len(report.found), len(report.gone), report.unjudged.total())
        style = "bold red" if report.found or report.gone else ""
        table.add_row(report.target, report.version, *(f"{n:,}" for n in (*counts, *sorts)), style=style)
    console.print(table)
    for result in results:
        if result.report is not None:
            _print_report(result, result.report, console, directory)
        for what, why in (("skipped", result.skipped), ("not run", result.failed)):
            if why:
                console.print(Text(f"\n{result.cell.target} on {result.cell.qemu} {what}: {why}"))


def print_coverage(results: Sequence[CellResult], console: Console) -> None:
    """Print what was exercised, how often, and what was not, by target and build."""
    for result in results:
        report = result.report
        if report is None:
            continue
        table = Table(title=f"{report.target}, QEMU {report.version}", title_justify="left", box=None, pad_edge=False)
        for column in ("kind", "what", "times"):
            table.add_column(column, justify="right" if column == "times" else "left")
        for (kind, name), count in sorted(report.coverage.counts.items()):
            table.add_row(kind, Text(name), f"{count:,}")
        for (kind, name), reason in sorted(report.unreached.items()):
            table.add_row(kind, Text(name), reason or "not reached", style="yellow" if not reason else "dim")
        console.print(table)


def _print_report(result: CellResult, report: Report, console: Console, directory: Path) -> None:
    for found in report.found:
        divergence = found.divergence
        console.print(Text(f"\n{divergence.signature}", style="bold red"))
        section = f", {divergence.section}" if divergence.section else ""
        path = directory / f"{file_stem(result, found)}.json"
        shown = f"QEMU {report.version}{section}; {len(found.program.steps)} steps: viommu replay {path}"
        console.print(Text(f"  {shown} --qemu {result.cell.qemu}"))
        lines = divergence.detail.splitlines()
        for line in lines[:_DETAIL_LINES]:
            console.print(Text(f"  {line}", style="dim"))
    for entry in report.gone:
        console.print(
            Text(f"\n{entry.id} does not show on QEMU {report.version} any more: {entry.title}", style="bold blue")
        )
        console.print(Text(f"  {entry.program} ran without it: remove the entry, or narrow its conditions"))
    for why, count in report.unjudged.most_common():
        console.print(
            Text(f"\n{report.target}: {count} programs could not be judged to their end: {why}", style="yellow")
        )


def _plain(result: CellResult) -> dict[str, Any]:
    report = result.report
    head = {"target": result.cell.target, "qemu": result.cell.qemu}
    if report is None:
        return {**head, "skipped": result.skipped, "failed": result.failed}
    return {
        **head,
        "version": report.version,
        "programs": report.programs,
        "dmas": report.dmas,
        "seconds": round(report.seconds, 3),
        "known": dict(report.known),
        "gone": [entry.id for entry in report.gone],
        "unjudged": dict(report.unjudged),
        "found": [
            {
                "id": found.divergence.id,
                "kind": found.divergence.kind.value,
                "signature": found.divergence.signature,
                "section": found.divergence.section,
                "detail": found.divergence.detail,
                "times": found.count,
                "program": f"{file_stem(result, found)}.json",
            }
            for found in report.found
        ],
        "coverage": {f"{kind}: {name}": count for (kind, name), count in sorted(report.coverage.counts.items())},
        "unreached": {f"{kind}: {name}": reason for (kind, name), reason in report.unreached.items()},
    }
