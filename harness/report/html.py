"""Writes a results record as one HTML page that needs no other file, no network and no JavaScript."""

from __future__ import annotations

from functools import cache

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.report.notable import excerpt, is_notable
from harness.report.record import Case, Evidence, Run
from harness.report.summary import ALARMING, Totals, by_subject, exit_meaning, headline, iommus, worst
from harness.report.text import Shown, harmless, head, tail

__all__ = ["EVIDENCE_LIMIT", "FIELD_LIMIT", "to_html"]

EVIDENCE_LIMIT = 48 * 1024
"""Characters shown of a console, log, spec or command. The record has the whole of it."""

FIELD_LIMIT = 4 * 1024
"""Characters shown of any other text, such as one side of a finding."""


def to_html(run: Run) -> str:
    """The page. Text from outside is always escaped, made harmless and bounded."""
    numbers = {id(case): number for number, case in enumerate(run.cases, start=1)}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            totals=Totals.of(run.cases),
            meaning=exit_meaning(run),
            iommus=iommus(run),
            table=by_subject(run),
            cases=worst(run.cases),
            alarming=[case for case in worst(run.cases) if case.verdict in ALARMING],
            main_artifacts=[artifact for artifact in run.artifacts if not artifact.role.endswith("-package")],
            packages=[artifact for artifact in run.artifacts if artifact.role.endswith("-package")],
            # Anchors are made of numbers, never of a case's id: an attribute is no place for text from outside.
            anchor=lambda case: f"case-{numbers[id(case)]}",
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_presentable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(head=_head, tail=_tail, lines=_lines, headline=headline)
    environment.filters.update(excerpt=_excerpt, spec=_spec, seconds=_seconds)
    environment.tests.update(alarming=lambda case: case.verdict in ALARMING)
    return environment


def _presentable(value: object) -> object:
    """Last step of every `{{ }}`: whatever the template forgets, no text comes out raw or without an end."""
    if isinstance(value, Markup):  # what a macro of ours made; its parts went through here one by one
        return value
    if isinstance(value, str):
        return str(head(value, EVIDENCE_LIMIT))
    return value


def _head(text: str) -> Shown:
    return head(text, FIELD_LIMIT)


def _tail(text: str) -> Shown:
    return tail(text, EVIDENCE_LIMIT)


def _lines(text: str) -> list[tuple[str, bool]]:
    """Lines, each with whether it is worth marking."""
    return [(line, is_notable(line)) for line in text.rstrip("\n").split("\n")]


def _excerpt(case: Case) -> list[str]:
    """The lines that say most, for the summary at the top: a crash or fault on a console, else the end of a stderr."""
    for machine in case.machines:
        lines = [line for line in excerpt(harmless(machine.console), 4) if is_notable(line)]
        if lines := lines or harmless(machine.vmm_stderr).strip().splitlines()[-3:]:
            return lines
    return []


def _spec(machine: Evidence) -> str:
    """The spec, indented where it is JSON as it should be."""
    try:
        return msgspec.json.format(machine.spec, indent=2)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return machine.spec


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{int(value // 60)} min {value % 60:.0f} s"
