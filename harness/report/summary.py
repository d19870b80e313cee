"""What every report says of a run as a whole: totals, what the exit code means, and cases in order and in rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from harness.report.record import Case, Run
from harness.verdict import INTERRUPTED, Verdict

__all__ = [
    "ALARMING",
    "SEVERITY",
    "Row",
    "Totals",
    "by_subject",
    "exit_meaning",
    "headline",
    "iommus",
    "subject",
    "worst",
]

SEVERITY = (
    Verdict.FAIL,
    Verdict.FIXED,
    Verdict.ERROR,
    Verdict.MISS,
    Verdict.KNOWN,
    Verdict.SKIP,
    Verdict.PASS,
)
"""Verdicts, the one to look at first first."""

ALARMING = frozenset({Verdict.FAIL, Verdict.FIXED, Verdict.ERROR, Verdict.MISS})
"""Verdicts that somebody must act upon."""

_EXIT_MEANING = {
    0: "everything that was judged is as it must be",
    1: "something that was tested is wrong",
    2: "the harness could not judge",
    INTERRUPTED: "interrupted: what is not listed here was not judged",
}


@dataclass(frozen=True, slots=True)
class Totals:
    """Cases by verdict.

    Attributes:
        counts: how many cases got each verdict, in the order of `SEVERITY`, without zeros.
    """

    counts: dict[Verdict, int]

    @classmethod
    def of(cls, cases: Iterable[Case]) -> Totals:
        """Count them."""
        seen = Counter(case.verdict for case in cases)
        return cls({verdict: seen[verdict] for verdict in SEVERITY if seen[verdict]})

    def __str__(self) -> str:
        """`N passed, N failed, N skipped`: failed is all that somebody must act upon, known issues count as skipped."""
        passed = self.counts.get(Verdict.PASS, 0)
        failed = sum(n for verdict, n in self.counts.items() if verdict in ALARMING)
        skipped = sum(self.counts.values()) - passed - failed
        return f"{passed} passed, {failed} failed, {skipped} skipped"


@dataclass(frozen=True, slots=True)
class Row:
    """One claim across the IOMMUs.

    Attributes:
        claim: the sentence.
        claim_ids: all ids that its cases name.
        cells: its cases by kind of IOMMU, the most severe first.
    """

    claim: str
    claim_ids: tuple[str, ...]
    cells: dict[str, tuple[Case, ...]]


def exit_meaning(run: Run) -> str:
    """The exit code in words: `exit code 1: something that was tested is wrong`."""
    reason = _EXIT_MEANING[run.exit_code]
    if run.exit_code == 2 and all(case.verdict is Verdict.SKIP for case in run.cases):
        reason = "nothing was judged" if run.cases else "no case was run"
    return f"exit code {run.exit_code}: {reason}"


def worst(cases: Iterable[Case]) -> list[Case]:
    """The cases, the most severe first; equals stay in the order of the record."""
    return sorted(cases, key=lambda case: SEVERITY.index(case.verdict))


def iommus(run: Run) -> tuple[str, ...]:
    """Kinds of IOMMU in the order that they first appear, the empty one (no machine) last."""
    kinds = dict.fromkeys(case.iommu for case in run.cases)
    return tuple(sorted(kinds, key=lambda kind: kind == ""))


def subject(case: Case) -> str:
    """What the test module is about, from its name: `dma isolation` of `testcases/test_dma_isolation.py::...`."""
    return PurePosixPath(case.id.partition("::")[0]).stem.removeprefix("test_").replace("_", " ")


def by_subject(run: Run) -> dict[str, list[Row]]:
    """The cases as rows of claim by IOMMU, under the subject of their module, all in the order of the record."""
    claims: dict[tuple[str, str], list[Case]] = {}
    for case in run.cases:
        claims.setdefault((subject(case), case.claim or case.id), []).append(case)
    table: dict[str, list[Row]] = {}
    for (name, claim), cases in claims.items():
        kinds = dict.fromkeys(case.iommu for case in cases)
        row = Row(
            claim=claim,
            claim_ids=tuple(dict.fromkeys(id for case in cases for id in case.claim_ids)),
            cells={kind: tuple(worst(case for case in cases if case.iommu == kind)) for kind in kinds},
        )
        table.setdefault(name, []).append(row)
    return table


def headline(case: Case) -> str:
    """Why it is not a pass, in one line: its first finding, else the first line of its message.

    Of a listed issue and of a skip it is the message: that names the issue, or the feature that is absent.
    """
    message = next((line.strip() for line in case.message.splitlines() if line.strip()), "")
    named = case.verdict in (Verdict.KNOWN, Verdict.FIXED, Verdict.SKIP)
    if case.findings and not (named and message):
        return str(case.findings[0])
    return message
