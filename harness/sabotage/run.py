"""Runs the cases of sabotages, each in a pytest of its own, and says which noticed, by what, and how soon."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec

from harness.artifacts.progress import Progress, silent
from harness.case_runs import own_pytest
from harness.checks.known_issues import matches
from harness.claims import claims_with_cases
from harness.errors import HarnessError
from harness.report.record import Case, Run
from harness.resources import ROOT, TESTCASES
from harness.sabotage.catalogue import SABOTAGES, Sabotage
from harness.spec import IommuKind
from harness.verdict import Verdict

__all__ = ["Caught", "SabotageFigures", "judge_cases", "run_sabotages"]

_DEADLINE_SECONDS = 900.0
_SHOWN = 600  # characters of what a case says instead


class Caught(msgspec.Struct, kw_only=True, frozen=True):
    """What came of one sabotage on machines with one IOMMU.

    Attributes:
        sabotage: its name.
        says: what was broken.
        iommu: kind of IOMMU.
        claims: ids of the claims that failed.
        seconds: how long the first case took that noticed.
        by: what it said.
        missed: cases that are there to notice and did not, with what came of them instead.
    """

    sabotage: str
    says: str
    iommu: str
    claims: tuple[str, ...]
    seconds: float
    by: str
    missed: tuple[str, ...]


class SabotageFigures(msgspec.Struct, kw_only=True, frozen=True):
    """What came of all of them.

    Attributes:
        caught: of each.
        unbroken: claims that have cases, and that no sabotage makes fail.
    """

    caught: tuple[Caught, ...]
    unbroken: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether every sabotage was noticed by all cases that are there for it."""
        return all(caught.claims and not caught.missed for caught in self.caught)


def run_sabotages(
    sabotages: Sequence[Sabotage],
    *,
    qemu: str,
    kernel: str,
    at_a_time: int,
    progress: Progress = silent,
) -> SabotageFigures:
    """Run them.

    Args:
        sabotages: which.
        qemu, kernel: as `Lab.open` takes them.
        at_a_time: how many at a time.
        progress: told of each that has ended.

    Raises:
        HarnessError: pytest itself failed, or took too long.
    """
    jobs = [(sabotage, kind) for sabotage in sabotages for kind in sabotage.iommus]
    caught = []
    pool = ThreadPoolExecutor(at_a_time)
    try:
        running = [pool.submit(_run, sabotage, kind, qemu, kernel) for sabotage, kind in jobs]
        for number, future in enumerate(running, start=1):
            caught.append(future.result())
            progress(f"{caught[-1].sabotage} ({caught[-1].iommu})", number, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)  # those that run are waited for, and no other is begun
    broken = {claim for one in caught for claim in one.claims}
    unbroken = tuple(id for id in _claims_with_cases() if id not in broken) if sabotages == SABOTAGES else ()
    return SabotageFigures(caught=tuple(caught), unbroken=unbroken)


def _run(sabotage: Sabotage, kind: IommuKind, qemu: str, kernel: str) -> Caught:
    with tempfile.TemporaryDirectory(prefix="viommu-sabotage-") as directory:
        words = [
            "-q",
            f"--viommu-sabotage={sabotage.name}",
            f"--qemu={qemu}",
            f"--kernel={kernel}",
            f"--iommu={kind}",
            f"--viommu-report={directory}",
            *sabotage.words,
        ]
        words += [str(TESTCASES / case.partition("[")[0]) for case in sabotage.cases]
        done = _pytest(f"the cases of {sabotage.name}", words)
        record = Path(directory) / "results.json"
        if not record.exists():
            raise HarnessError(f"pytest ran no case of {sabotage.name}", evidence=done.stdout + done.stderr)
        return judge_cases(sabotage, kind, Run.from_json(record.read_text()).cases)


def judge_cases(sabotage: Sabotage, kind: IommuKind, cases: Iterable[Case]) -> Caught:
    """What cases say of a sabotage: each must fail by a finding that it is meant to be noticed by.

    A time-out or a crash is none, nor is a finding of something else.
    """
    cases = tuple(cases)
    noticed = [(case, text) for case in cases if (text := _noticed_by(sabotage, case))]
    missed = [_instead(case) for case in cases if not _noticed_by(sabotage, case)]
    seconds, first = min(((case.seconds, text) for case, text in noticed), default=(0.0, ""))
    return Caught(
        sabotage=sabotage.name,
        says=sabotage.says,
        iommu=str(kind),
        claims=tuple(sorted({id for case, _ in noticed for id in case.claim_ids})),
        seconds=round(seconds, 1),
        by=first,
        missed=tuple(missed) if cases else ("no case was run",),
    )


def _noticed_by(sabotage: Sabotage, case: Case) -> str | None:
    """The first finding of a case that the sabotage is meant to be noticed by."""
    texts = [str(replace(finding, citation="")) for finding in case.findings] if case.verdict is Verdict.FAIL else []
    return next((text for text in texts if matches(text, sabotage.by)), None)


def _instead(case: Case) -> str:
    seen = [case.message, *(str(finding) for finding in case.findings)]
    return f"{case.id}: {case.verdict}: {'; '.join(seen)}"[:_SHOWN]


def _claims_with_cases() -> tuple[str, ...]:
    """Ids of the claims that a case carries."""
    with tempfile.TemporaryDirectory(prefix="viommu-claims-") as directory:
        page = Path(directory) / "claims.md"
        cases = [f"--ignore={TESTCASES / 'harness'}", str(TESTCASES)]
        done = _pytest("collecting the cases", ["--collect-only", "-q", f"--viommu-claims={page}", *cases])
        if not page.exists():
            raise HarnessError("the cases could not be collected", evidence=done.stdout + done.stderr)
        return claims_with_cases(page.read_text())


def _pytest(what: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", *own_pytest(), *words]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_DEADLINE_SECONDS, check=False)
    except subprocess.TimeoutExpired as late:
        raise HarnessError(f"{what} took more than {_DEADLINE_SECONDS:g} s") from late
