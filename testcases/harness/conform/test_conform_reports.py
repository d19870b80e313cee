"""Reports for QEMU: written only with a reproducer that was run, and showed what they say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.artifacts.cache import Cache
from harness.artifacts.qemu import QemuBuild, find_qemu
from harness.cli.main import app
from harness.conform.command import Clock
from harness.conform.divergence import Divergence, Kind, Probe
from harness.conform.export import QtestScript
from harness.conform.reproducer import Answers, run_script
from harness.conform.triage import KnownDivergences, Nature
from harness.resources import KNOWN_ISSUES, ROOT

_REPORTS = ROOT / "docs/findings/reports"
_WORDS = ("qemu-system-x86_64", "-M", "q35", "-m", "8M", "-accel", "qtest", "-nodefaults", "-display", "none")
_ENTRY = """
[[divergence]]
id = "amd-iommu-upper-rights"
title = "a device writes where only a leaf allows it"
kind = "bug"
targets = ["amd-iommu/*"]
signatures = ["{signature}"]
rule = "AMD-Vi 2.2.3: a request needs the right everywhere"
text = "fetch_pte forgets them."
reference = "docs/findings.md"
program = "ci/divergences/amd-iommu-upper-rights.json"
"""
_SHOWN = "dma: write with fault NO_PERMISSION_OF_DEVICE arrived"


@pytest.fixture(scope="module")
def build() -> QemuBuild:
    return find_qemu("sid", "amd64", Cache())


def _script(*commands: str, words: tuple[str, ...] = _WORDS, probe: Probe | None = None) -> QtestScript:
    line = (*words, "-qtest", "stdio", "-qtest-log", "none")
    return QtestScript(line, commands, (probe,) if probe else (), Clock.QTEST)


def _seen(kind: Kind, probe: Probe | None = None) -> Divergence:
    return Divergence(kind=kind, signature="s", step=0, probe=probe)


def _reports(tmp_path: Path, signature: str) -> tuple[int, str]:
    known = tmp_path / "known.toml"
    known.write_text(_ENTRY.format(signature=signature))
    result = CliRunner().invoke(app, ["conform", "--reports", str(tmp_path / "reports"), "--known", str(known)])
    return result.exit_code, result.stdout


def test_a_report_has_what_qemu_answered_to_the_script_beside_it(tmp_path: Path) -> None:
    assert _reports(tmp_path, _SHOWN) == (0, f"1 reports in {tmp_path / 'reports'}\n")
    text = (tmp_path / "reports/amd-iommu-upper-rights.md").read_text()
    script = (tmp_path / "reports/amd-iommu-upper-rights.qtest").read_text()
    assert text.startswith("# amd-iommu: a device writes where only a leaf allows it\n")
    assert "AMD-Vi 2.2.3: a request needs the right everywhere." in text
    assert re.search(r"-device amd-iommu,\S+ .*-qtest stdio .*< amd-iommu-upper-rights.qtest\n", text)
    must, is_ = re.findall(r"```\n(OK 0x[0-9a-f]{16})\n```", text)
    assert must != is_
    assert script in text
    assert f"The last command is `{script.splitlines()[-1]}`" in text
    assert "(amd-iommu-upper-rights.md)" in (tmp_path / "reports/README.md").read_text()


def test_what_does_not_show_has_no_report_and_an_earlier_one_goes(tmp_path: Path) -> None:
    directory = tmp_path / "reports"
    directory.mkdir()
    for name in ("amd-iommu-upper-rights.md", "amd-iommu-upper-rights.qtest", "note.txt"):
        (directory / name).write_text("of earlier")
    code, output = _reports(tmp_path, "dma: write with translation did not arrive")
    assert code == 1
    assert "no report of amd-iommu-upper-rights: ci/divergences/amd-iommu-upper-rights.json does not show it" in output
    assert sorted(path.name for path in directory.iterdir()) == ["README.md", "note.txt"]


def test_answers_are_those_of_the_commands_in_their_order(build: QemuBuild) -> None:
    answers = run_script(build, _script("writel 0x1000 0x7", "readl 0x1000"))
    assert answers.lines == ("OK", "OK 0x0000000000000007")
    assert (answers.status, answers.hung) == (None, False)


def test_a_qemu_that_ends_is_told_by_its_status_and_its_last_words(build: QemuBuild) -> None:
    answers = run_script(build, _script("readl 0x0", words=(*_WORDS, "-device", "no-such-device")))
    assert answers.lines == ()
    assert answers.status == 1
    assert "no-such-device" in answers.stderr
    assert answers.show(_seen(Kind.CRASH))
    assert not answers.show(_seen(Kind.HANG))


def test_a_qemu_that_does_not_answer_is_ended(build: QemuBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.conform.reproducer._SECONDS", 1.0)
    # Its qtest channel is elsewhere: nobody reads the script.
    script = replace(_script("readl 0x0"), words=(*_WORDS, "-qtest", "null"))
    answers = run_script(build, script)
    assert (answers.lines, answers.status, answers.hung) == ((), None, True)
    assert answers.show(_seen(Kind.HANG))
    assert not answers.show(_seen(Kind.CRASH))


@pytest.mark.parametrize(
    ("answer", "shows"),
    [
        ("OK 0x0000000000000005", True),
        ("OK 0x0000000000000ff5", True),  # other bits may be anything
        ("OK 0x0000000000000004", False),  # what must be
        ("OK 0x0000000000000006", False),  # another difference than was seen
        ("FAIL Unknown command", False),
    ],
)
def test_only_the_answer_that_was_seen_before_shows_a_divergence(answer: str, shows: bool) -> None:
    probe = Probe("readl 0x0", wanted=4, known=0xF, seen=5)
    assert Answers((answer,), None, False, "").show(_seen(Kind.MEMORY, probe)) is shows


def test_a_divergence_that_nothing_can_show_is_not_shown() -> None:
    assert not Answers(("OK 0x0",), None, False, "").show(_seen(Kind.REGISTER))


def test_each_mistake_that_the_newest_qemu_has_is_reported_and_nothing_else() -> None:
    known = KnownDivergences.load(KNOWN_ISSUES).entries
    newest = max((version for entry in known for version in entry.seen), key=lambda text: [*map(int, text.split("."))])
    wanted = {entry.id for entry in known if entry.kind is Nature.BUG and newest in entry.seen}
    for kind in ("md", "qtest"):
        written = {path.stem for path in _REPORTS.glob(f"*.{kind}")} - {"README"}
        assert written == wanted, "viommu conform --reports docs/findings/reports"
