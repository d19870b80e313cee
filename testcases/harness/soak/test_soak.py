"""The soak counts what is wrong and what is left, and finds neither in what is well."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.artifacts.cache import Cache
from harness.cli.main import app
from harness.lab import Lab
from harness.soak import soak as soak_module
from harness.soak.faults import FAULTS, InjectedFault
from harness.soak.leaks import Traces, marked_processes
from harness.soak.soak import SoakFigures, merge, soak
from harness.spec import Iommu, IommuKind, Machine
from harness.verdict import Verdict
from harness.vmm.keeper_main import MARK
from harness.warm.lease import Leases
from harness.warm.store import Store

_EMPTY = Machine(iommu=Iommu(kind=IommuKind.VIRTIO))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_is_told_for_what_it_is(lab: Lab, fault: InjectedFault) -> None:
    with Leases(lab, Store(Cache())).start(_EMPTY) as machine:
        assert soak_module._wrong_about(fault, machine) == ""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            InjectedFault("none", Verdict.FAIL, lambda machine: None, lambda machine: machine.agent.ping()),
            "told nothing",
        ),
        (InjectedFault("kill", Verdict.FAIL, FAULTS[0].does, FAULTS[0].uses), "expected fail, was told VmmDied (miss)"),
    ],
)
def test_what_is_told_wrong_or_not_at_all_is_counted(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, fault: InjectedFault, said: str
) -> None:
    monkeypatch.setattr(soak_module, "FAULTS", (fault,))
    monkeypatch.setattr(soak_module, "_FAULTY", 1.0)
    monkeypatch.setattr(soak_module, "_settle", lambda leases: None)
    figures = soak(lab, seconds=0.1, seed=1)
    assert figures.leases == len(figures.wrong) == 1
    assert said in figures.wrong[0]
    assert "seed 1" in figures.wrong[0]
    assert not figures.is_clean


def test_descriptor_that_is_left_open_is_seen(tmp_path: Path) -> None:
    before = Traces.before(tmp_path)
    with Path("/dev/null").open("rb") as file:
        assert before.gone_back(tmp_path, 0) == [f"descriptor {file.fileno()}: /dev/null"]
    assert before.gone_back(tmp_path, 0) == []


def test_thread_that_goes_on_is_seen(tmp_path: Path) -> None:
    before, stop = Traces.before(tmp_path), threading.Event()
    thread = threading.Thread(target=stop.wait, name="left")
    thread.start()
    assert before.gone_back(tmp_path, 0) == ["thread left"]
    stop.set()
    thread.join()
    assert before.gone_back(tmp_path) == []


def test_directory_and_process_that_are_left_are_seen(tmp_path: Path) -> None:
    before, directory = Traces.before(tmp_path), tmp_path / "viommu-left"
    directory.mkdir()
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: str(directory)}) as process:
        while not marked_processes(tmp_path):
            pass
        left = " ".join(before.gone_back(tmp_path, 0))
        process.kill()
    assert str(directory) in left
    assert f"process {process.pid}" in left


def test_figures_of_several_processes_add_up() -> None:
    one = SoakFigures(leases=3, faults={"a": 1, "b": 2}, wrong=["x"], seconds=2, lease_milliseconds=(5, 9), seed=7)
    other = SoakFigures(leases=4, faults={"b": 1}, leaked=["y"], seconds=3, lease_milliseconds=(6, 8), seed=8)
    both = merge([one, other])
    assert (both.leases, both.faults, both.seconds) == (7, {"a": 1, "b": 3}, 3)
    assert (both.wrong, both.leaked, both.lease_milliseconds, both.seed) == (["x"], ["y"], (6, 9), 7)
    assert not both.is_clean
    assert not SoakFigures().is_clean


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.nightly)])  # two: ci/check
def test_command_soaks_and_says_so(processes: str) -> None:
    result = CliRunner().invoke(app, ["soak", "--seconds", "1", "-j", processes])
    assert result.exit_code == 0, result.output
    assert "0 told wrong" in result.output
    assert "0 left behind" in result.output
