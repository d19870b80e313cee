"""`viommu run`: what it refuses, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import HarnessError, SpecError, Unsupported

_SECONDS = 120.0


def refused(*words: str) -> HarnessError:
    result = CliRunner().invoke(app, ["run", *words])
    assert isinstance(result.exception, HarnessError), result.output
    return result.exception


def viommu(directory: Path, *words: str) -> tuple[int, str]:
    """The command in a process of its own, as `main` ends it."""
    done = subprocess.run(
        [sys.executable, "-c", "from harness.cli.main import main; main()", *words],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout


def test_no_iommu_leaves_nothing_to_test() -> None:
    assert "--iommu none" in refused("--iommu", "none").message


def test_an_iommu_that_there_is_not_is_refused_by_name() -> None:
    assert "'smmu'" in refused("--iommu", "smmu").message


def test_a_kernel_path_that_leads_nowhere_is_refused_by_name() -> None:
    error = refused("--kernel", "/nowhere/bzImage")
    assert isinstance(error, SpecError)
    assert "/nowhere/bzImage" in error.message


def test_a_file_of_cases_that_there_is_not_is_refused_by_name() -> None:
    assert "testcases/test_nothing.py" in refused("testcases/test_nothing.py::test_a").message


def test_an_iommu_that_the_kernel_cannot_drive_is_refused_by_its_option() -> None:
    error = refused("--iommu", "virtio", "--kernel", "bookworm")
    assert isinstance(error, Unsupported)
    assert "CONFIG_VIRTIO_IOMMU" in error.message


def test_a_case_that_there_is_not_ends_with_2_and_is_named(tmp_path: Path) -> None:
    status, output = viommu(tmp_path, "run", "-n", "1", "testcases/test_groups.py::test_of_nothing")
    assert status == 2, output
    assert "test_of_nothing" in output


def test_an_expression_that_matches_nothing_ends_with_2_and_is_named(tmp_path: Path) -> None:
    status, output = viommu(tmp_path, "run", "-n", "1", "-k", "zebra")
    assert status == 2, output
    assert "zebra" in output


@pytest.mark.parametrize(
    ("code", "status"), [(0, 0), (1, 1), (2, 2), (130, 130), (3, 2), (pytest.ExitCode.USAGE_ERROR, 2), (77, 2)]
)
def test_exit_codes_of_verdicts_are_passed_on_and_others_are_2(
    monkeypatch: pytest.MonkeyPatch, code: int, status: int
) -> None:
    monkeypatch.setattr(pytest, "main", lambda words: code)
    assert CliRunner().invoke(app, ["run"]).exit_code == status


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pytest is told."""
    told: list[str] = []

    def main(words: list[str]) -> int:
        told.extend(words)
        return 0

    monkeypatch.setattr(pytest, "main", main)
    CliRunner().invoke(app, ["run"])
    return told


def test_the_plugin_is_named_and_not_left_to_a_checkouts_options(words: list[str]) -> None:
    assert words[words.index("harness.plugin") - 1] == "-p"


def test_pytests_options_in_a_project_around_it_are_not_read(words: list[str]) -> None:
    assert words[words.index("-c") + 1] == os.devnull
