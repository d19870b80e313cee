"""Writes a results record as JUnit XML.

JUnit has four outcomes for seven verdicts: a case passes; `fail` and `fixed` are failures; `error` and `miss` are
errors; `skip` and `known` are skipped, with the reason as the message. The verdict itself is in `type` and in a
property.
"""

from __future__ import annotations

import io

from junitparser import Error, Failure, JUnitXml, Properties, Property, Skipped, TestCase, TestSuite
from junitparser.junitparser import FinalResult

from harness.report.record import Case, Finding, Run
from harness.report.summary import headline
from harness.report.text import harmless, head, tail
from harness.verdict import Verdict

__all__ = ["to_junit"]

_MESSAGE_LIMIT = 500
_TEXT_LIMIT = 48 * 1024


def to_junit(run: Run) -> bytes:
    """The XML document, UTF-8; characters that XML 1.0 forbids are shown in a form that it allows."""
    suite = TestSuite("viommu-harness")
    suite.timestamp = _attribute(run.started)
    suite.add_property("harness_version", _attribute(run.harness_version))
    for name, value in run.host.items():
        suite.add_property(f"host.{_attribute(name)}", _attribute(value))
    for artifact in run.artifacts:
        value = " ".join(part for part in (artifact.name, artifact.version, artifact.source, artifact.sha256) if part)
        suite.add_property(f"artifact.{_attribute(artifact.role)}", _attribute(value))
    suite.add_testcases([_test_case(case) for case in run.cases])
    suite.time = run.seconds
    document = JUnitXml("viommu-harness")
    document.add_testsuite(suite)
    document.update_statistics()  # type: ignore[no-untyped-call]
    written = io.BytesIO()
    document.write(written)
    return written.getvalue()


def _test_case(case: Case) -> TestCase:
    path, _, name = harmless(case.id).partition("::")
    name, bracket, parameters = name.partition("[")
    *classes, name = name.split("::") if name else [path]
    written = TestCase(
        name + bracket + parameters, ".".join([path.removesuffix(".py").replace("/", "."), *classes]), case.seconds
    )
    properties = Properties()  # type: ignore[no-untyped-call]
    for key, value in (
        ("claim", case.claim),
        ("claim_ids", " ".join(case.claim_ids)),
        ("iommu", case.iommu),
        ("verdict", case.verdict.value),
        ("rerun", case.rerun),
    ):
        if value:
            properties.add_property(Property(key, _attribute(value, limit=_TEXT_LIMIT)))
    written.append(properties)  # type: ignore[no-untyped-call]
    if (result := _result(case)) is not None:
        written.result = result
    if evidence := _evidence(case):
        written.system_out = evidence
    return written


def _result(case: Case) -> FinalResult | None:
    kind: type[FinalResult]
    match case.verdict:
        case Verdict.PASS:
            return None
        case Verdict.FAIL | Verdict.FIXED:
            kind = Failure
        case Verdict.ERROR | Verdict.MISS:
            kind = Error
        case Verdict.SKIP | Verdict.KNOWN:
            kind = Skipped
    result = kind(_attribute(headline(case) or case.verdict.value), case.verdict.value)
    parts = [case.message, *(_finding(finding) for finding in case.findings)]
    result.text = str(head("\n\n".join(part for part in parts if part), _TEXT_LIMIT))
    return result


def _finding(finding: Finding) -> str:
    parts = [finding.subject, f"  expected: {finding.expected}", f"  seen:     {finding.seen}"]
    if finding.citation:
        parts.append(f"  source:   {finding.citation}")
    if finding.detail:
        parts.append(finding.detail)
    return "\n".join(parts)


def _evidence(case: Case) -> str:
    """What helps with a case that did not pass: how to run it again, and each of its machines."""
    if case.verdict in (Verdict.PASS, Verdict.SKIP):
        return ""
    parts = [f"run again: {case.rerun}"] if case.rerun else []
    for number, machine in enumerate(case.machines, start=1):
        parts += [
            f"--- machine {number}: {title} ---\n{tail(text, _TEXT_LIMIT)}"
            for title, text in (
                ("origin", machine.origin),
                ("command", machine.command),
                ("spec", machine.spec),
                ("VMM stderr", machine.vmm_stderr),
                ("console", machine.console),
                ("QMP log", machine.qmp_log),
                ("trace", machine.trace),
                ("whole files", machine.directory),
            )
            if text
        ]
    return harmless("\n".join(parts))


def _attribute(text: str, limit: int = _MESSAGE_LIMIT) -> str:
    return head(" ".join(text.split()), limit).text
