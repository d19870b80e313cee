"""The pytest plugin: options, the `boot` fixture, and a results record of every case that carries a claim.

A case is a test with ``@pytest.mark.claim("CH-4")``; the first paragraph of its docstring is the sentence that it
checks. Tests without the mark, those of the harness itself, are left to pytest.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from harness.checks.dma import check_unexplained
from harness.checks.judge import judge
from harness.checks.known_issues import KnownIssues
from harness.claims import load_claims, page
from harness.errors import GuestCrashed, HarnessError, Unsupported
from harness.lab import BOOT_SECONDS, Lab
from harness.live import LiveMachine
from harness.plugin_record import CaseLog, LabFacts, RunLog, pack
from harness.report.console import print_case_line, print_run
from harness.report.record import Run
from harness.report.write import Written, write_all
from harness.resources import KNOWN_ISSUES
from harness.spec import IommuKind, Machine
from harness.verdict import Verdict

__all__ = ["Boot"]

Boot = Callable[[Machine], LiveMachine]
"""What the `boot` fixture gives: starts a machine, waits for its SSH, and ends it with the test."""

_LOG = pytest.StashKey[CaseLog]()
_LAB = pytest.StashKey[Lab]()
_KNOWN = pytest.StashKey[KnownIssues]()
_WORKER_OUTPUT = "viommu-lab"
_NOT_JUDGED = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it; pytest's own 2 would read as "could not be judged"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `viommu run`, which hands them on."""
    group = parser.getgroup("viommu")
    kinds = [kind.value for kind in IommuKind if kind is not IommuKind.NONE]
    group.addoption("--iommu", action="append", choices=kinds, help="only this IOMMU; may be given several times")
    group.addoption("--qemu", help="suite name, 'host', or path of a QEMU binary")
    group.addoption("--kernel", help="suite name, or path of a kernel image")
    group.addoption(
        "--viommu-report", type=Path, metavar="DIR", help="write results.json, report.html, junit.xml there"
    )
    group.addoption("--viommu-claims", type=Path, metavar="FILE", help="write the page of claims and cases there")
    group.addoption("--viommu-live", action="store_true", help="a line for each case as it ends, instead of dots")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and keep a record where one is kept: not in a worker of pytest-xdist."""
    config.addinivalue_line("markers", "claim(*ids): ids of the claims that this case shows (docs/reference/claims.md)")
    config.stash[_KNOWN] = KnownIssues.load(KNOWN_ISSUES)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(config), "viommu-recorder")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Multiply a case that asks for `iommu` by the IOMMUs."""
    if "iommu" in metafunc.fixturenames and metafunc.definition.get_closest_marker("claim"):
        kinds = metafunc.config.getoption("--iommu") or [IommuKind.INTEL, IommuKind.VIRTIO]
        metafunc.parametrize("iommu", [IommuKind(kind) for kind in kinds], ids=str)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the page of claims, where it was asked for; refuse a mark that names no claim.

    Raises:
        pytest.UsageError: a case carries an id that testcases/claims.toml does not have.
    """
    claims = load_claims()
    marked = [(item.nodeid, tuple(mark.args)) for item in session.items if (mark := item.get_closest_marker("claim"))]
    for node, ids in marked:
        for id in ids:
            if id not in claims:
                raise pytest.UsageError(f"{node} carries claim {id!r}, which testcases/claims.toml does not have")
    path: Path | None = session.config.getoption("--viommu-claims")
    if path is not None:
        path.write_text(page(claims, marked))


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Lab:
    """QEMU, kernel and image that `--qemu` and `--kernel` name."""
    opened = Lab.open(qemu=pytestconfig.getoption("--qemu"), kernel=pytestconfig.getoption("--kernel"))
    pytestconfig.stash[_LAB] = opened
    return opened


@pytest.fixture
def boot(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Boot]:
    """Start machines; when the test ends they are ended, and their consoles looked at.

    A panic, oops, BUG or WARN on a console fails the case even where nothing else was seen to be wrong, and so does a
    DMA fault that the case did not ask about.
    """
    machines: list[LiveMachine] = []
    with ExitStack() as stack:

        def start(spec: Machine) -> LiveMachine:
            lab.require(spec)
            machine = stack.enter_context(lab.start(spec))
            machines.append(machine)
            machine.guest.wait_ready(BOOT_SECONDS)
            return machine

        yield start
    if (log := request.node.stash.get(_LOG, None)) is not None:
        log.machines = tuple(machine.vmm.evidence() for machine in machines)
    for machine in machines:
        for problem in machine.guest.problems:
            raise GuestCrashed(f"the guest kernel: {problem.kind}: {problem.line}", evidence=problem.text)
        judge(check_unexplained(machine.unexplained_faults()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Start the log of a case."""
    mark = item.get_closest_marker("claim")
    if mark is not None:
        item.stash[_LOG] = CaseLog.of(item, mark.args)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give each phase its verdict; the last one carries the whole case to whoever keeps the record."""
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, Unsupported):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {error.message}")
    elif isinstance(error, HarnessError):
        report.longrepr = f"{type(error).__name__}: {error}"
    log = item.stash.get(_LOG, None)
    if log is None:
        return report
    if (lab := item.config.stash.get(_LAB, None)) is not None:
        log.lab = LabFacts.of(lab)
    log.add(call, report)
    case = log.judged(item.config.stash[_KNOWN])
    if case.verdict is Verdict.KNOWN and report.failed:
        report.outcome = "skipped"
        report.wasxfail = case.message
    elif case.verdict is Verdict.FIXED and report.when == "call":
        report.outcome = "failed"
        report.longrepr = case.message
    if report.when == "teardown":
        report.user_properties.append(pack(case))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker sends what it says of its lab with its last message."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    lab = session.config.stash.get(_LAB, None)
    if output is not None and lab is not None:
        output[_WORKER_OUTPUT] = msgspec.json.encode(LabFacts.of(lab)).decode()


class _Recorder:
    """Keeps the record, in the only process or in the one that directs the workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._log = RunLog()
        self._live: bool = config.getoption("--viommu-live")
        self._other_failures = False
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
            self._other_failures = True

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
        text = getattr(node, "workeroutput", {}).get(_WORKER_OUTPUT)
        if text is not None:
            self._log.take_lab(msgspec.json.decode(text, type=LabFacts))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Turn the verdicts into the exit code, and write the reports."""
        if (lab := self._config.stash.get(_LAB, None)) is not None:
            self._log.take_lab(LabFacts.of(lab))
        self._run = self._log.finish()
        directory: Path | None = self._config.getoption("--viommu-report")
        if self._run is not None and directory is not None:
            self._written = write_all(self._run, directory)
        if self._interrupted:
            session.exitstatus = _INTERRUPTED
        elif exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            wrong = self._other_failures or (self._run is not None and self._run.exit_code == 1)
            if not wrong and self._not_collected:
                session.exitstatus = _NOT_JUDGED
            elif self._run is not None:
                session.exitstatus = 1 if wrong else self._run.exit_code

    def pytest_terminal_summary(self) -> None:
        """The table of verdicts; before it, where pytest's own summary is off, what could not be collected."""
        if self._config.getoption("--no-summary"):
            for text in self._not_collected:
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
