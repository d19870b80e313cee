"""`viommu conform` and `viommu replay`: what they print, what they write, and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app, main
from harness.conform.program import Dma, Program, Write
from harness.conform.targets.registry import TARGETS
from harness.model.access import AccessKind

_TARGET = "intel-iommu/legacy"


def _ends_with(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of the command as a whole; what goes wrong is told on standard error."""
    monkeypatch.setattr(sys, "argv", ["viommu", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_targets_are_listed_and_nothing_is_run() -> None:
    answer = CliRunner().invoke(app, ["conform", "--list"])
    assert answer.exit_code == 0
    assert answer.stdout.split() == [target.name for target in TARGETS]


def test_a_short_run_says_what_it_did_and_writes_it_down(tmp_path: Path) -> None:
    words = ["conform", "--target", _TARGET, "--programs", "2", "--json", "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    (cell,) = json.loads(answer.stdout)["cells"]
    assert cell["target"] == _TARGET
    assert cell["programs"] == 2
    assert cell["dmas"] > 100
    assert cell["found"] == []
    assert any(name.startswith("fault: ") for name in cell["coverage"])
    assert json.loads((tmp_path / "out/results.json").read_text())["cells"] == [cell]


def test_one_seed_gives_one_run(tmp_path: Path) -> None:
    def run(number: int) -> object:
        words = ["conform", "--target", _TARGET, "--programs", "3", "--seed", "7", "--json"]
        answer = CliRunner().invoke(app, [*words, "--out", str(tmp_path / str(number))])
        (cell,) = json.loads(answer.stdout)["cells"]
        return {name: cell[name] for name in ("dmas", "known", "coverage")}

    assert run(1) == run(2)


def test_a_divergence_that_is_not_listed_is_found_written_down_and_shown_again(tmp_path: Path) -> None:
    nothing = tmp_path / "known.toml"
    nothing.write_text("")
    out = tmp_path / "out"
    words = ["conform", "--target", _TARGET, "--programs", "8", "--known", str(nothing)]
    answer = CliRunner().invoke(app, [*words, "--shrink", "2", "--out", str(out)])
    assert answer.exit_code == 1, answer.output
    programs = sorted(path for path in out.glob("*.json") if path.name != "results.json")
    assert programs
    shown = CliRunner().invoke(app, ["replay", str(programs[0])])
    assert shown.exit_code == 1, shown.output
    assert f"{_TARGET}: " in shown.output


def test_a_program_on_which_both_agree_ends_with_0(tmp_path: Path) -> None:
    path = tmp_path / "program.json"
    dma = Dma("edu0", AccessKind.WRITE, 0x40_0000, 4, 0x100)
    path.write_text(Program(_TARGET, -1, (dma,)).to_json())
    answer = CliRunner().invoke(app, ["replay", str(path)])
    assert answer.exit_code == 0, answer.output
    assert "agree on 1 DMAs" in answer.output


def test_a_program_is_printed_as_a_qtest_script_with_its_command_line(tmp_path: Path) -> None:
    path = tmp_path / "program.json"
    path.write_text(Program(_TARGET, -1, (Write(0x18, 4, 0),)).to_json())
    answer = CliRunner().invoke(app, ["replay", str(path), "--qtest"])
    lines = answer.stdout.splitlines()
    assert any("-device intel-iommu" in line and line.startswith("#") for line in lines)
    assert "writel 0xfed90018 0x0" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["conform", "--target", "vax-iommu"], "no target is 'vax-iommu'"),
        (["conform", "--all", "--qemu", "sid"], "either all builds, or those that are named"),
        (["conform", "--seconds", "0"], "0 seconds are no time"),
        (["conform", "--qemu", "/bin/true"], "/bin/true"),
        (["conform", "--qemu", "/none/there"], "/none/there"),
        (["conform", "--known", "/none.toml"], "known issues /none.toml cannot be read"),
        (["replay", "/none.json"], "/none.json cannot be read"),
        (["bench", "conform", "--seconds", "0"], "0 seconds measure nothing"),
    ],
)
def test_what_cannot_be_run_is_told_and_ends_with_2(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _ends_with(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err


def test_a_program_of_another_version_or_target_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "program.json"
    text = Program("vax-iommu/paged", -1, ()).to_json()
    path.write_text(text)
    assert _ends_with(monkeypatch, "replay", str(path)) == 2
    assert "there is no target 'vax-iommu/paged'" in capsys.readouterr().err
    path.write_text(text.replace("program/1", "program/9"))
    assert _ends_with(monkeypatch, "replay", str(path)) == 2
    assert "viommu-harness/program/9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"op": "dma", "device": "edu99"}, "there is no device 'edu99'"),
        ({"op": "dma", "device": "edu0", "offset": "0xfff"}, "are not in an edu's buffer"),
        ({"op": "store", "address": "0x100000000", "data": "00"}, "step 0: no memory answers"),
        ({"op": "unplug", "device": "edu0"}, "'edu0' cannot be unplugged"),
    ],
)
def test_a_program_that_asks_for_what_there_is_not_is_refused(
    step: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if step["op"] == "dma":
        step = {"kind": "write", "iova": "0x0", "length": "0x4", "offset": "0x0", **step}
    content = json.loads(Program(_TARGET, -1, ()).to_json()) | {"steps": [step]}
    path = tmp_path / "program.json"
    path.write_text(json.dumps(content))
    assert _ends_with(monkeypatch, "replay", str(path)) == 2
    assert message in capsys.readouterr().err


def test_a_qemu_that_dies_at_the_start_is_told_with_what_it_said(tmp_path: Path) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version*) echo "QEMU emulator version 11.1.0"; exit 0;; esac\n'
        "echo 'no luck today' >&2; exit 3\n"
    )
    fake.chmod(0o755)
    words = ["conform", "--target", _TARGET, "--qemu", str(fake), "--programs", "1", "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 2
    assert "no luck today" in answer.stdout.replace("\n", " ")


def test_a_build_without_the_device_is_skipped_by_name(tmp_path: Path) -> None:
    words = ["conform", "--target", "amd-iommu/dma", "--qemu", "trixie", "--programs", "1", "--out", str(tmp_path)]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 2
    assert "amd-iommu/dma on trixie skipped: the amd-iommu of QEMU 10" in answer.stdout
