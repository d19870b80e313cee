"""What is printed tells at one look, fits where it is printed, and never lets a guest drive the terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from report_sample import HOSTILE, evidence, sample_run
from report_strategies import runs
from rich.console import Console

from harness.report.console import print_case_line, print_run
from harness.report.record import Case, Finding, Run
from harness.report.write import Written
from harness.spec import IommuKind
from harness.verdict import Verdict

_SGR = re.compile(r"\x1b\[[0-9;]*m")
_CASE = Case(
    id="testcases/test_x.py::test_y[intel]", claim="it works", iommu="intel", verdict=Verdict.FAIL, seconds=1.5
)


def printed(run: Run, *, width: int = 80, terminal: bool = False, written: Written | None = None) -> str:
    file = io.StringIO()
    print_run(run, Console(file=file, width=width, force_terminal=terminal), written)
    return file.getvalue()


def run_of(*cases: Case) -> Run:
    return Run(harness_version="0", started="", seconds=1.0, cases=cases)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs)
def test_nothing_but_colour_of_our_own_reaches_a_terminal(run: Run) -> None:
    text = _SGR.sub("", printed(run, terminal=True))
    assert all(c.isprintable() or c == "\n" for c in text)


def test_markup_of_rich_in_guest_text_is_only_text() -> None:
    text = printed(run_of(replace(_CASE, message=HOSTILE)), width=200)
    assert "[bold]x[/bold]" in text


def test_the_last_line_is_the_totals_alone() -> None:
    assert printed(sample_run()).splitlines()[-1] == "24 passed, 3 failed, 2 skipped"


@pytest.mark.parametrize(
    ("brackets", "shown"),
    [("[intel-victim-page]", "[victim-page] it works"), ("[intel]", " s  it works"), ("", " s  it works")],
)
def test_line_of_a_case_says_which_of_its_parameters_it_is(brackets: str, shown: str) -> None:
    file = io.StringIO()
    print_case_line(replace(_CASE, id=f"testcases/test_x.py::test_y{brackets}"), Console(file=file, width=80))
    assert shown in file.getvalue()


@pytest.mark.parametrize(
    ("verdicts", "meaning"),
    [
        ([Verdict.PASS], "exit code 0: everything that was judged is as it must be"),
        ([Verdict.PASS, Verdict.FAIL, Verdict.MISS], "exit code 1: something that was tested is wrong"),
        ([Verdict.PASS, Verdict.MISS], "exit code 2: the harness could not judge"),
        ([Verdict.SKIP], "exit code 2: nothing was judged"),
        ([], "exit code 2: no case was run"),
    ],
)
def test_the_exit_code_is_said_in_words(verdicts: list[Verdict], meaning: str) -> None:
    run = run_of(*(replace(_CASE, verdict=verdict) for verdict in verdicts))
    assert printed(run).splitlines()[-2] == meaning


def test_an_interrupted_run_does_not_say_that_all_is_as_it_must_be() -> None:
    run = replace(run_of(_CASE), interrupted=True)
    assert printed(run).splitlines()[-2] == "exit code 130: interrupted: what is not listed here was not judged"


def test_a_row_has_the_verdict_and_seconds_of_each_iommu() -> None:
    run = run_of(_CASE, replace(_CASE, iommu="virtio", verdict=Verdict.PASS, seconds=2.5))
    (row,) = (line for line in printed(run).splitlines() if line.startswith("   it works"))
    assert row.split() == ["it", "works", "✘", "fail", "1.5", "s", "✔", "pass", "2.5", "s"]


def test_several_cases_of_one_cell_are_counted_by_verdict() -> None:
    run = run_of(replace(_CASE, verdict=Verdict.PASS), _CASE, replace(_CASE, verdict=Verdict.PASS))
    lines = printed(run).splitlines()
    assert any("✘ fail" in line for line in lines)
    assert any("✔ pass x2" in line for line in lines)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_only_what_is_to_be_copied_is_wider_than_the_terminal(width: int) -> None:
    wide = [line for line in printed(sample_run(), width=width).splitlines() if len(line) > width]
    assert all("  run again  " in line for line in wide)


def test_the_command_to_run_again_is_on_one_line() -> None:
    command = "viommu run -k '" + "test_a or " * 40 + "test_b'"
    assert f"  run again  {command}\n" in printed(run_of(replace(_CASE, rerun=command)))


def test_no_color_prints_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    codes = {code for found in _SGR.findall(printed(sample_run(), terminal=True)) for code in found[2:-1].split(";")}
    assert codes <= {"", "0", "1", "2"}  # reset, bold and dim are no colours


def test_a_terminal_gets_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;31m✘ fail" in printed(sample_run(), terminal=True)


def test_a_pipe_gets_no_escapes() -> None:
    assert "\x1b" not in printed(sample_run())


def test_output_that_is_ascii_gets_ascii() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    print_run(run_of(replace(_CASE, claim="größer ✔", message="→")), Console(file=file, width=80))
    file.flush()
    assert r"gr\xf6\xdfer \u2714" in raw.getvalue().decode("ascii")


def test_expected_and_seen_stand_below_each_other() -> None:
    finding = Finding(subject="group", expected="alone", seen="shared", citation="VT-d 5.0, 3.16")
    lines = [line.rstrip() for line in printed(run_of(replace(_CASE, findings=(finding,)))).splitlines()]
    start = lines.index("  group")
    assert lines[start + 1 : start + 4] == [
        "    expected  alone",
        "    seen      shared",
        "    source    VT-d 5.0, 3.16",
    ]


def test_stderr_of_a_vmm_that_did_not_start_is_printed() -> None:
    machine = evidence(IommuKind.INTEL, console="", vmm_stderr="qemu: no such device\n")
    assert "    qemu: no such device" in printed(run_of(replace(_CASE, verdict=Verdict.MISS, machines=(machine,))))


def test_skips_of_one_reason_are_one_line() -> None:
    skip = replace(_CASE, verdict=Verdict.SKIP, message="no CONFIG_VIRTIO_IOMMU")
    assert printed(run_of(skip, skip, skip)).count("no CONFIG_VIRTIO_IOMMU") == 1
    assert "- skip x3  no CONFIG_VIRTIO_IOMMU" in printed(run_of(skip, skip, skip))


def test_the_path_of_the_report_is_said() -> None:
    written = Written(Path("d/results.json"), Path("d/report.html"), Path("d/junit.xml"))
    assert "  report  d/report.html\n" in printed(run_of(_CASE), written=written)
