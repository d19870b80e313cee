from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from leftovers import wait_until_gone
from vmm_rig import stand_in

from harness.errors import HostError
from harness.soak.leaks import left_behind
from harness.vmm.rundir import RunDirectory, sweep


def test_a_run_directory_is_private_to_its_user(parent: Path) -> None:
    with RunDirectory.create(parent) as directory:
        assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700


def test_closing_a_run_directory_removes_it_and_what_is_in_it(parent: Path) -> None:
    with RunDirectory.create(parent) as directory:
        (directory.path / "sub").mkdir()
        (directory.path / "sub" / "file").write_text("x")
    assert left_behind(parent) == []


def test_closing_a_run_directory_kills_what_was_started_for_it(parent: Path) -> None:
    with RunDirectory.create(parent) as directory:
        process = subprocess.Popen(["sleep", "60"], env=directory.mark())
        directory.close()
        assert process.wait(5) == -signal.SIGKILL


def test_closing_one_run_directory_leaves_the_processes_of_another_alone(parent: Path) -> None:
    with RunDirectory.create(parent) as one, RunDirectory.create(parent) as other, stand_in(other, "sleep", "60") as it:
        one.close()
        assert it.alive


def test_a_sweep_removes_the_directory_of_a_dead_owner(parent: Path) -> None:
    script = (
        "import os, sys, pathlib; from harness.vmm import keeper; from harness.vmm.rundir import RunDirectory;"
        "d = RunDirectory.create(pathlib.Path(sys.argv[1])); os.kill(keeper._process.pid, 9); keeper._process.wait();"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(parent)], check=False, timeout=20)
    (left,) = parent.iterdir()
    assert sweep(parent) == (left,)
    assert left_behind(parent) == []


def test_a_sweep_leaves_the_directory_of_a_live_owner(parent: Path) -> None:
    with RunDirectory.create(parent) as directory:
        assert sweep(parent) == ()
        assert directory.path.is_dir()


def test_a_sweep_leaves_a_directory_that_is_just_being_made(parent: Path) -> None:
    (parent / "viommu-12345678").mkdir()
    assert sweep(parent) == ()


def test_a_sweep_does_not_follow_a_symbolic_link(parent: Path) -> None:
    precious = parent / "precious"
    precious.mkdir()
    (precious / "lock").touch()
    (parent / "viommu-12345678").symlink_to(precious)
    assert sweep(parent) == ()
    assert precious.is_dir()


def test_a_parent_that_is_not_there_is_a_host_error_that_names_it(parent: Path) -> None:
    with pytest.raises(HostError, match="nowhere"):
        RunDirectory.create(parent / "nowhere")


def test_a_forked_child_does_not_keep_the_keeper_waiting(parent: Path) -> None:
    script = (
        "import os, sys, pathlib, time; from harness.vmm.rundir import RunDirectory;"
        "d = RunDirectory.create(pathlib.Path(sys.argv[1]));"
        "pid = os.fork();"
        "time.sleep(30) if pid == 0 else None;"
        "print(pid, flush=True); os.kill(os.getpid(), 9)"
    )
    run = subprocess.Popen([sys.executable, "-c", script, str(parent)], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    child = int(run.stdout.readline())
    try:
        run.wait(10)
        assert wait_until_gone(parent) == []
    finally:
        os.kill(child, 9)
        run.stdout.close()
