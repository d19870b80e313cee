"""The part of the pytest plugin that keeps the record of a run: what is shown, what is written, the exit code."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from harness.lab import Lab
from harness.plugin_record import LabFacts, RunLog
from harness.report.console import print_case_line, print_run
from harness.report.record import Run
from harness.report.write import Written, write_all
from harness.verdict import INTERRUPTED

__all__ = ["WORKER_OUTPUT", "Recorder"]

WORKER_OUTPUT = "viommu-lab"
"""Name under which a worker of pytest-xdist sends what it says of its lab."""

_NOT_JUDGED = 2


class Recorder:
    """Keeps the record, in the only process or in the one that directs the workers.

    Args:
        config: pytest's.
        lab: key under which its stash has the lab of this process, once there is one.
    """

    def __init__(self, config: pytest.Config, lab: pytest.StashKey[Lab]) -> None:
        self._config = config
        self._lab = lab
        self._log = RunLog()
        self._live: bool = config.getoption("--viommu-live")
        self._other_failures: list[str] = []
        self._not_collected: list[str] = []
        self._interrupted = False
        self._run: Run | None = None
        self._written: Written | None = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why something could not be collected."""
        if report.failed:
            self._not_collected.append(f"{report.nodeid}: could not be collected\n{report.longrepr}")

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Tell Ctrl-C from pytest's own ways to stop early, which derive from it."""
        if excinfo.type is KeyboardInterrupt:
            self._interrupted = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a report says of a case."""
        case = self._log.take(report)
        if case is not None:
            if self._live:
                print_case_line(case, self._console())
            return  # the record has its verdict; of a test whose worker died the report has no keywords
        if report.failed and "claim" not in report.keywords:
            self._other_failures.append(f"{report.nodeid}: failed, and is no case: it has no claim\n{report.longrepr}")

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Keep pytest's dots out of the lines of `--viommu-live`."""
        if not self._live:
            return None
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        return (outcome if report.when == "call" or outcome != "passed" else "", "", "")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object) -> None:
        """A worker of pytest-xdist has ended."""
        if error == "keyboard-interrupt":
            self._interrupted = True
        text = getattr(node, "workeroutput", {}).get(WORKER_OUTPUT)
        if text is not None:
            self._log.take_lab(msgspec.json.decode(text, type=LabFacts))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Turn the verdicts into the exit code, and write the reports."""
        if (lab := self._config.stash.get(self._lab, None)) is not None:
            self._log.take_lab(LabFacts.of(lab))
        self._run = self._log.finish(interrupted=self._interrupted)
        directory: Path | None = self._config.getoption("--viommu-report")
        if self._run is not None and directory is not None:
            self._written = write_all(self._run, directory)
        if self._interrupted:
            session.exitstatus = INTERRUPTED  # pytest's own 2 would read as "could not be judged"
        elif exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            wrong = bool(self._other_failures) or (self._run is not None and self._run.exit_code == 1)
            if not wrong and self._not_collected:
                session.exitstatus = _NOT_JUDGED
            elif self._run is not None:
                session.exitstatus = 1 if wrong else self._run.exit_code

    def pytest_terminal_summary(self) -> None:
        """The table of verdicts; before it, where pytest's own summary is off, what the table cannot tell."""
        if self._config.getoption("--no-summary"):
            for text in (*self._not_collected, *self._other_failures):
                self._console().print(text, markup=False, highlight=False, soft_wrap=True)
        if self._run is not None:
            print_run(self._run, self._console(), self._written)

    def _console(self) -> Console:
        """A console on pytest's own output, which its capturing of the tests' output does not touch."""
        return Console(file=_PytestOutput(self._config))


class _PytestOutput(io.StringIO):
    """pytest's terminal as a file that rich can write to."""

    encoding = (sys.__stdout__ or sys.stdout).encoding

    def __init__(self, config: pytest.Config) -> None:
        super().__init__()
        self._writer = config.get_terminal_writer()

    def write(self, text: str) -> int:
        self._writer.write(text, flush=True)
        return len(text)

    def isatty(self) -> bool:
        return self._writer.hasmarkup
