"""The catalogue of sabotages, and what is made of the cases that are there to notice."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.errors import SpecError
from harness.report.record import Case, Finding
from harness.resources import ROOT
from harness.sabotage.catalogue import SABOTAGES, Sabotage, find_sabotage
from harness.sabotage.run import SabotageFigures, judge_cases
from harness.spec import IommuKind
from harness.verdict import Verdict

FINDING = Finding(subject="memory", expected="untouched", seen="touched")
OTHER = Finding(subject="lspci", expected="a device", seen="none")
SABOTAGE = Sabotage(name="broken", says="it is broken", cases=("test_x.py::test_y",), by=("memory: *",))


def case(verdict: Verdict, *findings: Finding, seconds: float = 2.0, claims: tuple[str, ...] = ("QD-2",)) -> Case:
    return Case(id="testcases/test_x.py::test_y[intel]", claim="", verdict=verdict, seconds=seconds,
                claim_ids=claims, findings=findings)  # fmt: skip


@pytest.fixture(scope="module")
def every_case() -> list[str]:
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "testcases"]
    words.append("--ignore=testcases/harness")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
def test_each_case_that_must_notice_is_there_for_each_iommu(sabotage: Sabotage, every_case: list[str]) -> None:
    chosen = [one for one in every_case if sabotage.is_for(one)]
    for name in sabotage.cases:
        found = [one for one in chosen if one.startswith(f"testcases/{name.partition('[')[0]}")]
        assert found, name
        for kind in sabotage.iommus:  # a case without a machine is of no IOMMU
            assert any(kind.value in one.partition("[")[2] for one in found) or sabotage.name == "nothing-refused", kind


def test_names_are_used_once_and_found() -> None:
    assert len({sabotage.name for sabotage in SABOTAGES}) == len(SABOTAGES)
    assert all(find_sabotage(sabotage.name) is sabotage for sabotage in SABOTAGES)


def test_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(SpecError, match="no sabotage 'none-such'") as caught:
        find_sabotage("none-such")
    assert SABOTAGES[0].name in caught.value.hint


def test_case_that_fails_with_a_finding_has_noticed() -> None:
    slow, quick = case(Verdict.FAIL, FINDING, seconds=9.0), case(Verdict.FAIL, FINDING, seconds=3.0, claims=("CH-1",))
    caught = judge_cases(SABOTAGE, IommuKind.INTEL, [slow, quick])
    assert (caught.claims, caught.seconds, caught.missed) == (("CH-1", "QD-2"), 3.0, ())
    assert caught.by == str(FINDING)
    assert judge_cases(SABOTAGE, IommuKind.INTEL, [case(Verdict.FAIL, OTHER, FINDING)]).by == str(FINDING)
    assert SabotageFigures(caught=(caught,), unbroken=()).is_clean


@pytest.mark.parametrize(
    "other",
    [
        case(Verdict.PASS),
        case(Verdict.MISS),
        case(Verdict.ERROR),
        case(Verdict.SKIP),
        case(Verdict.FAIL),  # without a finding: a guest that crashed, or never answered
        case(Verdict.FAIL, OTHER),
    ],
    ids=["pass", "miss", "error", "skip", "crash", "finding-of-something-else"],
)
def test_case_that_ends_otherwise_has_not(other: Case) -> None:
    caught = judge_cases(SABOTAGE, IommuKind.INTEL, [case(Verdict.FAIL, FINDING), other])
    assert len(caught.missed) == 1
    assert not SabotageFigures(caught=(caught,), unbroken=()).is_clean


def test_sabotage_for_which_no_case_ran_was_not_noticed() -> None:
    caught = judge_cases(SABOTAGE, IommuKind.INTEL, [])
    assert caught.missed == ("no case was run",)
    assert not SabotageFigures(caught=(caught,), unbroken=()).is_clean
