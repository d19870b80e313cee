"""What a job makes of what its programs show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from harness.conform import job
from harness.conform.divergence import Divergence, Kind
from harness.conform.job import Job, Report, run_job
from harness.conform.program import Program
from harness.conform.run import Result
from harness.conform.triage import Known, KnownDivergences, Nature
from harness.model.unit import Coverage

_KNOWN, _NEW, _OTHER = "t: dma: known", "t: dma: new", "t: dma: other"


@dataclass
class _Session:
    """One whose programs show, round by round and with each DMA in a round of its own, what is said here."""

    at_once: tuple[str, ...]
    thorough: tuple[str, ...]
    apart: tuple[str, ...]
    coverage: Coverage = field(default_factory=Coverage)
    runner: Any = field(default_factory=lambda: SimpleNamespace(bound=None, machine=None))

    def run(self, program: Program, *, thorough: bool = False, apart: bool = False, traced: bool = False) -> Result:
        shown = self.apart if apart else self.thorough if thorough else self.at_once
        return Result([Divergence(kind=Kind.DMA, signature=each, step=0) for each in shown], dmas=1)

    def script(self, program: Program, divergence: Divergence | None) -> str:
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _reported(monkeypatch: pytest.MonkeyPatch, session: _Session) -> Report:
    """Of a job of one program, where one divergence is known."""
    monkeypatch.setattr(job, "Session", lambda *args: session)
    program = Program("t", 0, ())
    target: Any = SimpleNamespace(
        name="t", generate=lambda *args: program, universe=lambda machine: frozenset(), unreachable={}
    )
    build: Any = SimpleNamespace(version="11.1")
    capabilities: Any = None
    known = Known(
        id="known",
        title="-",
        kind=Nature.BUG,
        targets=("t",),
        signatures=("dma: known",),
        rule="-",
        text="-",
        reference="-",
        program="known.json",
    )
    monkeypatch.setattr(Program, "load", lambda path: Program("another", 0, ()))
    return run_job(Job(target, build, capabilities, programs=1), KnownDivergences((known,)), Path())


@pytest.mark.parametrize(
    ("session", "known", "found"),
    [
        (_Session((_KNOWN,), (_NEW,), (_NEW,)), 1, []),
        (_Session((_NEW,), (_KNOWN,), (_NEW,)), 1, []),
        (_Session((_NEW,), (_OTHER,), (_KNOWN,)), 1, []),
        (_Session((_NEW,), (_OTHER,), ()), 0, [_OTHER]),
        (_Session((_NEW,), (_OTHER,), (_KNOWN, _NEW)), 0, [_OTHER]),
        (_Session((_NEW,), (), ()), 0, [_NEW]),
    ],
)
def test_a_difference_counts_as_known_where_one_way_of_running_its_program_says_so(
    monkeypatch: pytest.MonkeyPatch, session: _Session, known: int, found: list[str]
) -> None:
    report = _reported(monkeypatch, session)
    assert report.known.total() == known
    assert [each.divergence.signature for each in report.found] == found
