"""Reports are written whole or not at all, and a directory that cannot take them is said to be so."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from report_sample import sample_run
from report_strategies import runs

from harness.errors import HostError, SpecError
from harness.report.record import Run
from harness.report.write import write_all


def test_all_reports_are_written_into_a_new_directory(tmp_path: Path) -> None:
    written = write_all(sample_run(), tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "junit.xml",
        "report.html",
        "results.json",
    ]
    assert all(path.stat().st_size for path in (written.json, written.html, written.junit))


def test_the_record_reads_back_the_same(tmp_path: Path) -> None:
    written = write_all(sample_run(), tmp_path)
    assert Run.from_json(written.json.read_bytes()) == sample_run()


def test_the_schema_is_the_first_key_of_the_record() -> None:
    assert sample_run().to_json().split()[1] == '"schema":'


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs)
def test_any_record_can_be_written_and_read(run: Run) -> None:
    assert len(Run.from_json(run.to_json()).cases) == len(run.cases)


def test_a_record_of_another_schema_is_refused() -> None:
    other = replace(sample_run(), schema="viommu-harness/results/0").to_json()
    with pytest.raises(SpecError, match="results/0"):
        Run.from_json(other)


def test_reports_are_readable_by_others_as_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        written = write_all(sample_run(), tmp_path)
    finally:
        os.umask(before)
    assert written.html.stat().st_mode & 0o777 == 0o644


def test_a_later_run_replaces_the_reports(tmp_path: Path) -> None:
    write_all(sample_run(), tmp_path)
    written = write_all(replace(sample_run(), cases=()), tmp_path)
    assert Run.from_json(written.json.read_bytes()).cases == ()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(HostError, match="cannot be written to") as caught:
        write_all(sample_run(), tmp_path / "report")
    assert "a file stands in the way" in caught.value.hint
    assert (tmp_path / "report").read_text() == "mine"


def test_a_file_above_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="Not a directory"):
        write_all(sample_run(), tmp_path / "file" / "report")


def test_a_directory_with_the_name_of_a_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(HostError, match="Is a directory"):
        write_all(sample_run(), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-only"), (errno.EACCES, "may write")]
)
def test_a_failed_write_keeps_the_old_report_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    write_all(sample_run(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(HostError, match=os.strerror(number)) as caught:
        write_all(replace(sample_run(), cases=()), tmp_path)
    assert hint in caught.value.hint
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_all(sample_run(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_not_utf_8_does_not_lose_the_record() -> None:
    run = replace(sample_run(), host={"kernel path": "/boot/\udcff"})
    assert Run.from_json(run.to_json()).host == {"kernel path": "/boot/?"}
