"""From pytest's phases to the results record: `CaseLog` where a case runs, `RunLog` where the run is reported."""

from __future__ import annotations

import inspect
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

from harness.checks.judge import Mismatch
from harness.checks.known_issues import KnownIssues
from harness.errors import GuestCrashed, HarnessError
from harness.lab import Lab
from harness.report.record import Artifact, Case, Evidence, Finding, Run
from harness.verdict import Verdict

__all__ = ["PROPERTY", "CaseLog", "LabFacts", "RunLog"]

PROPERTY = "viommu-case"
"""Name under which a case travels in the user properties of its last report."""

_MESSAGE_LINES = 12


class LabFacts(msgspec.Struct, frozen=True):
    """What a lab says of itself, as a worker sends it to the process that reports."""

    host: dict[str, str]
    artifacts: tuple[Artifact, ...]
    facts: dict[str, str]
    options: tuple[str, ...]

    @classmethod
    def of(cls, lab: Lab) -> LabFacts:
        """Those of an open lab."""
        options = ("--qemu", lab.qemu.name, "--kernel", lab.kernel.name)
        return cls(host=lab.host, artifacts=lab.artifacts, facts=lab.facts, options=options)


@dataclass
class CaseLog:
    """One case while it runs.

    Attributes:
        id: pytest node id.
        claim: the sentence, first paragraph of the docstring.
        claim_ids: arguments of its mark.
        iommu: kind of IOMMU, empty without one.
        lab: of this process, once there is one.
        machines: evidence of the machines that it started, put here when they have ended.
    """

    id: str
    claim: str
    claim_ids: tuple[str, ...]
    iommu: str
    lab: LabFacts | None = None
    machines: tuple[Evidence, ...] = ()
    _verdict: Verdict = Verdict.PASS
    _all_judged: bool = True
    _seconds: float = 0.0
    _messages: list[str] = field(default_factory=list)
    _findings: list[Finding] = field(default_factory=list)
    _crashes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, item: pytest.Item, claim_ids: Sequence[str]) -> CaseLog:
        """The log of a test that is about to run."""
        text = inspect.getdoc(getattr(item, "function", None)) or item.name
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        sentence = " ".join(text.partition("\n\n")[0].split())
        return cls(item.nodeid, sentence, tuple(claim_ids), str(parameters.get("iommu", "")))

    def add(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """Take a phase: the first that did not pass decides the verdict."""
        self._seconds += call.duration
        verdict = _verdict(call, report)
        if verdict is Verdict.PASS:
            return
        if self._verdict in (Verdict.PASS, Verdict.SKIP):
            self._verdict = verdict
        error = call.excinfo.value if call.excinfo is not None else None
        if isinstance(error, Mismatch):
            self._findings += error.findings
        elif isinstance(error, GuestCrashed):
            self._crashes.append(str(error))
        elif verdict is not Verdict.SKIP:
            self._all_judged = False
        self._messages.append(_message(error, call, report))

    def judged(self, known: KnownIssues) -> Case:
        """The case as it stands, with the known issues taken into account.

        Nothing is known of a case that ended by anything but findings and crashes: that would be hidden too.
        """
        if not self._all_judged:
            return self._case()
        facts = self.lab.facts if self.lab is not None else {}
        return known.judge(self._case(), {**facts, "iommu": self.iommu} if self.iommu else facts, self._crashes)

    def _case(self) -> Case:
        options = self.lab.options if self.lab is not None else ()
        return Case(
            id=self.id,
            claim=self.claim,
            claim_ids=self.claim_ids,
            iommu=self.iommu,
            verdict=self._verdict,
            seconds=round(self._seconds, 3),
            message="\n".join(self._messages),
            findings=tuple(self._findings),
            machines=self.machines if self._verdict is not Verdict.PASS else tuple(map(_short, self.machines)),
            rerun=shlex.join(("viommu", "run", *options, self.id)),
        )


def _verdict(call: pytest.CallInfo[None], report: pytest.TestReport) -> Verdict:
    if report.skipped:
        return Verdict.SKIP
    if call.excinfo is None:  # a test that was marked to fail, strictly, and did not, fails without an exception
        return Verdict.FAIL if report.failed else Verdict.PASS
    error = call.excinfo.value
    if isinstance(error, HarnessError):
        return error.verdict
    return Verdict.FAIL if isinstance(error, AssertionError) else Verdict.ERROR


def _message(error: BaseException | None, call: pytest.CallInfo[None], report: pytest.TestReport) -> str:
    if isinstance(error, HarnessError):
        return str(error)
    if isinstance(error, Mismatch):
        return f"{len(error.findings)} of what was expected was not seen"
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    text = str(call.excinfo.getrepr(style="short") if call.excinfo is not None else report.longrepr)
    return "\n".join(text.splitlines()[-_MESSAGE_LINES:])


def _short(evidence: Evidence) -> Evidence:
    """Of a case that passed, what it takes to run it again."""
    return Evidence(spec=evidence.spec, command=evidence.command, origin=evidence.origin)


class RunLog:
    """The whole run, in the process that reports."""

    def __init__(self) -> None:
        self._started = datetime.now(UTC)
        self._start = time.monotonic()
        self._cases: dict[str, Case] = {}
        self._lab: LabFacts | None = None

    def take(self, report: pytest.TestReport) -> Case | None:
        """The case that a report completes, if it does."""
        for name, value in report.user_properties:
            if name == PROPERTY:
                case = msgspec.json.decode(str(value), type=Case)
                self._cases[case.id] = case
                return case
        if str(report.when) == "???":  # pytest-xdist's word for a test whose worker died
            text = str(report.longrepr)
            case = Case(id=report.nodeid, claim=report.nodeid, verdict=Verdict.MISS, seconds=0.0, message=text)
            self._cases[case.id] = case
            return case
        return None

    def take_lab(self, lab: LabFacts) -> None:
        """What a process that ran cases says of its lab; they are all of one kind."""
        self._lab = lab

    def finish(self, *, interrupted: bool) -> Run | None:
        """The record; None where no case was run."""
        if not self._cases:
            return None
        return Run(
            harness_version=version("viommu-harness"),
            started=self._started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._start, 1),
            host=self._lab.host if self._lab else {},
            artifacts=self._lab.artifacts if self._lab else (),
            cases=tuple(sorted(self._cases.values(), key=lambda case: (_module(case), case.id))),
            interrupted=interrupted,
        )


def _module(case: Case) -> str:
    return Path(case.id.partition("::")[0]).name


def pack(case: Case) -> tuple[str, object]:
    """A case as a user property."""
    return PROPERTY, msgspec.json.encode(replace(case)).decode()
