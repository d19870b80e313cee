"""Runs pytest with the plugin in a process of its own, on case files that a test writes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.report.record import Run

_SECONDS = 60.0

HEAD = """\
import os

import pytest

from harness.checks.judge import judge
from harness.errors import GuestCrashed, Unsupported, VmmStartError
from harness.report.record import Finding

case = pytest.mark.claim("IV-1")
finding = Finding(subject="memory at 0x1000", expected="00", seen="de")
"""


@dataclass(frozen=True)
class Ran:
    """How a run ended: exit status, output, and the directory of its reports."""

    status: int
    output: str
    reports: Path

    @property
    def record(self) -> Run:
        return Run.from_json((self.reports / "results.json").read_bytes())

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdict of each test function, by its name without `test_` and parameters."""
        return {case.id.partition("::test_")[2].partition("[")[0]: str(case.verdict) for case in self.record.cases}


def run_pytest(
    directory: Path,
    workers: int,
    body: str,
    *,
    path: str = "test_it.py",
    conftest: str = "",
    options: tuple[str, ...] = (),
) -> Ran:
    """Write a case file and run it.

    Args:
        directory: empty; becomes pytest's root directory.
        workers: processes of pytest-xdist; 0 for none.
        body: the file, after `HEAD`.
        path: of the file below the directory.
        conftest: text of a conftest.py beside it.
        options: further words.
    """
    file = directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(HEAD + body)
    (file.parent / "conftest.py").write_text(conftest)
    reports = directory / "reports"
    words = ["-c", os.devnull, f"--rootdir={directory}", f"--confcutdir={directory}", "-p", "harness.plugin"]
    words += ["-p", "no:cacheprovider", "-q", "--no-summary", "--viommu-live", f"--viommu-report={reports}"]
    words += ["-n", str(workers), *options, str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return Ran(done.returncode, done.stdout, reports)
