"""`viommu report` prints a record again, and ends as its run did."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from harness.cli.main import app
from harness.errors import SpecError
from harness.report.record import Case, Run
from harness.verdict import Verdict


def record(directory: Path, verdict: Verdict) -> Path:
    case = Case(id="testcases/test_a.py::test_b[intel]", claim="nothing leaks", verdict=verdict, seconds=1.0)
    path = directory / "results.json"
    path.write_text(Run(harness_version="1", started="2026-01-01", seconds=1.0, cases=(case,)).to_json())
    return path


def report(*words: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, words)])


@pytest.mark.parametrize(
    ("verdict", "status"), [(Verdict.PASS, 0), (Verdict.KNOWN, 0), (Verdict.FAIL, 1), (Verdict.MISS, 2)]
)
def test_it_ends_with_the_exit_code_of_the_run(tmp_path: Path, verdict: Verdict, status: int) -> None:
    assert report(record(tmp_path, verdict)).exit_code == status


def test_it_prints_claims_and_totals(tmp_path: Path) -> None:
    output = report(record(tmp_path, Verdict.PASS)).output
    assert "nothing leaks" in output
    assert output.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"


def test_a_picture_has_what_is_printed_and_nothing_is_printed(tmp_path: Path) -> None:
    picture = tmp_path / "run.svg"
    result = report(record(tmp_path, Verdict.FAIL), "--svg", picture)
    text = "".join(ET.parse(picture).getroot().itertext()).replace("\xa0", " ")
    assert (result.exit_code, result.output) == (1, "")
    assert "nothing leaks" in text


@pytest.mark.parametrize(
    ("content", "said"), [(b"{}", "schema"), (b"no JSON", "not a results record"), (b"\xff", "not a results record")]
)
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    error = report(path).exception
    assert isinstance(error, SpecError)
    assert said in error.message


def test_a_file_that_is_not_there_is_refused_by_name() -> None:
    error = report("/nowhere/results.json").exception
    assert isinstance(error, SpecError)
    assert "/nowhere/results.json: No such file" in error.message


def test_a_picture_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    error = report(record(tmp_path, Verdict.PASS), "--svg", tmp_path / "none" / "run.svg").exception
    assert isinstance(error, SpecError)
    assert "run.svg" in error.message
