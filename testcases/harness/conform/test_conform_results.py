"""What a campaign's exit code says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from harness.conform.campaign import Cell, CellResult
from harness.conform.divergence import Divergence, Kind
from harness.conform.job import Found, Report
from harness.conform.program import Program
from harness.conform.results import exit_code
from harness.conform.triage import KnownDivergences

KNOWN_ISSUES = Path(__file__).resolve().parents[3] / "ci/known_issues.toml"
CELL = Cell("intel-iommu/legacy", "sid")
FOUND = Found(Divergence(kind=Kind.DMA, signature="a signature", step=0), Program("intel-iommu/legacy", 0, ()), "", 1)


def ran(**values: object) -> CellResult:
    report = Report("intel-iommu/legacy", "11.1.3", programs=8, dmas=100)
    for name, value in values.items():
        setattr(report, name, value)
    return CellResult(CELL, report)


GONE = KnownDivergences.load(KNOWN_ISSUES).entries[:1]


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([ran()], 0),
        ([ran(), CellResult(CELL, skipped="this build lacks it")], 0),
        ([ran(unjudged=Counter(undefined=4))], 0),
        ([ran(found=[FOUND])], 1),
        ([ran(gone=list(GONE))], 1),
        ([ran(unjudged=Counter(undefined=3, unknown=2))], 2),
        ([ran(dmas=0)], 2),
        ([ran(found=[FOUND]), CellResult(CELL, failed="QEMU does not start")], 2),
        ([CellResult(CELL, skipped="this build lacks it")], 2),
        ([], 2),
    ],
)
def test_agreement_differences_and_what_could_not_be_judged_have_codes_of_their_own(
    results: list[CellResult], code: int
) -> None:
    assert exit_code(results) == code
