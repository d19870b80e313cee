"""JUnit XML holds the verdicts, the reasons and the evidence, whatever a guest wrote."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from junitparser import JUnitXml
from report_sample import HOSTILE, evidence, sample_run
from report_strategies import runs

from harness.report.junit import to_junit
from harness.report.record import Case, Finding, Run
from harness.spec import IommuKind
from harness.verdict import Verdict

_CASE = Case(
    id="testcases/test_x.py::TestY::test_z[intel]",
    claim="it works",
    claim_ids=("CH-1", "CH-2"),
    iommu="intel",
    verdict=Verdict.FAIL,
    seconds=1.5,
    message="why",
)


def written(**changes: object) -> ElementTree.Element:
    case = replace(_CASE, **changes)  # type: ignore[arg-type]
    root = ElementTree.fromstring(to_junit(Run(harness_version="0", started="", seconds=1.0, cases=(case,))))
    found = root.find("testsuite/testcase")
    assert found is not None
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs)
def test_any_record_becomes_xml_that_parses(run: Run) -> None:
    root = ElementTree.fromstring(to_junit(run))
    allowed = {
        "testsuites",
        "testsuite",
        "properties",
        "property",
        "testcase",
        "failure",
        "error",
        "skipped",
        "system-out",
    }
    assert {e.tag for e in root.iter()} <= allowed
    assert len(root.findall("testsuite/testcase")) == len(run.cases)


@pytest.mark.parametrize(
    ("verdict", "tag"),
    [
        (Verdict.FAIL, "failure"),
        (Verdict.FIXED, "failure"),
        (Verdict.ERROR, "error"),
        (Verdict.MISS, "error"),
        (Verdict.SKIP, "skipped"),
        (Verdict.KNOWN, "skipped"),
    ],
)
def test_a_verdict_becomes_its_junit_outcome_with_the_reason(verdict: Verdict, tag: str) -> None:
    outcomes = [e for e in written(verdict=verdict) if e.tag not in ("properties", "system-out")]
    assert [(e.tag, e.get("type"), e.get("message")) for e in outcomes] == [(tag, verdict.value, "why")]


def test_a_pass_has_no_outcome_and_no_output() -> None:
    case = written(verdict=Verdict.PASS, message="", machines=(evidence(IommuKind.INTEL),))
    assert [e.tag for e in case] == ["properties"]


def test_totals_are_those_of_the_cases() -> None:
    document = JUnitXml.fromstring(to_junit(sample_run()))
    assert (document.tests, document.failures, document.errors, document.skipped) == (29, 1, 2, 2)


def test_class_and_name_come_from_the_node_id() -> None:
    case = written()
    assert (case.get("classname"), case.get("name")) == ("testcases.test_x.TestY", "test_z[intel]")


def test_a_parameter_with_colons_stays_in_the_name() -> None:
    case = written(id="testcases/test_x.py::test_z[00::1f.3]")
    assert (case.get("classname"), case.get("name")) == ("testcases.test_x", "test_z[00::1f.3]")


def test_claim_ids_verdict_and_command_are_properties() -> None:
    case = written(rerun="viommu run -k test_z")
    properties = {e.get("name"): e.get("value") for e in case.findall("properties/property")}
    assert properties == {
        "claim": "it works",
        "claim_ids": "CH-1 CH-2",
        "iommu": "intel",
        "verdict": "fail",
        "rerun": "viommu run -k test_z",
    }


def test_findings_are_the_text_of_the_failure() -> None:
    finding = Finding(subject="group", expected="alone", seen="shared", citation="VT-d 5.0", detail="the walk")
    text = written(findings=(finding,)).findtext("failure") or ""
    assert [line.split(maxsplit=1)[-1] for line in text.splitlines()[2:]] == [
        "group",
        "alone",
        "shared",
        "VT-d 5.0",
        "walk",
    ]


def test_evidence_is_the_output_and_hostile_text_is_only_text() -> None:
    output = written(machines=(evidence(IommuKind.INTEL, console=HOSTILE, vmm_stderr="ERR"),)).findtext("system-out")
    assert r"<script>alert('guest')</script> \x1b]0;title\x07" in (output or "")
    assert "VMM stderr ---\nERR" in (output or "")


def test_artifacts_and_host_are_properties_of_the_suite() -> None:
    root = ElementTree.fromstring(to_junit(sample_run()))
    properties = {e.get("name"): e.get("value") for e in root.findall("testsuite/properties/property")}
    assert properties["host.cores"] == "2"
    assert (properties["artifact.kernel"] or "").startswith("linux-image-6.12.48+deb13-amd64 6.12.48-1 trixie")


def test_control_characters_in_a_claim_are_shown() -> None:
    properties = {e.get("name"): e.get("value") for e in written(claim="a\x00b").findall("properties/property")}
    assert properties["claim"] == r"a\x00b"
