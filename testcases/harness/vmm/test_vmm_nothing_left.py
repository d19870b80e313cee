"""Whatever ends the harness, and wherever it was: no process, directory, socket or shared memory stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from leftovers import has_process, wait_until_gone

from harness.artifacts.qemu import QemuBuild
from harness.soak.leaks import left_behind, marked_processes, shared_memory
from harness.vmm.qemu.capabilities import Capabilities

_HARNESS = """
import os, sys, time
from pathlib import Path
import msgspec
sys.path.insert(0, sys.argv[1])
from vmm_rig import halt_rom, spec
from harness.artifacts.qemu import QemuBuild
from harness.vmm import keeper
from harness.vmm.qemu import listener
from harness.vmm.qemu.capabilities import Capabilities
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.machine import QemuMachine

parent, moment = Path(sys.argv[2]), sys.argv[3]
capabilities = msgspec.json.decode(sys.argv[4], type=Capabilities)
prefix, env = msgspec.json.decode(sys.argv[5], type=tuple[tuple[str, ...], dict[str, str]])

def here():
    print(keeper._process.pid, flush=True)
    time.sleep(60)

if moment == "before it connects":
    listener.Listener.accept = lambda *_: here()
build = QemuBuild(name="test", argv_prefix=prefix, env=env, binary=Path(prefix[0]), version="", artifacts=())
boot = halt_rom(parent.with_name(parent.name + ".rom"))
with QemuMachine.start(spec("virtio-blk", "virtio-net"), build, capabilities, boot, Options(parent=parent)):
    here()
"""

_MOMENTS = ("before it connects", "while it runs")


@contextmanager
def _harness(
    build: QemuBuild, capabilities: Capabilities, parent: Path, moment: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A harness of its own with one machine, at that moment; and the process id of its keeper."""
    words = [
        str(Path(__file__).parent),
        str(parent),
        moment,
        msgspec.json.encode(capabilities).decode(),
        msgspec.json.encode((build.argv_prefix, dict(build.env))).decode(),
    ]
    run = subprocess.Popen(
        [sys.executable, "-c", _HARNESS, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert run.stdout
    assert run.stderr
    try:
        line = run.stdout.readline()
        assert line, run.stderr.read()
        yield run, int(line)
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
        run.stderr.close()
        parent.with_name(parent.name + ".rom").unlink(missing_ok=True)


@pytest.mark.parametrize("moment", _MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_harness_that_is_killed(
    build: QemuBuild, capabilities: Capabilities, parent: Path, moment: str, number: signal.Signals
) -> None:
    memory = shared_memory()
    with _harness(build, capabilities, parent, moment) as (run, _):
        assert has_process(parent), "the machine was not there to begin with"
        run.send_signal(number)
        run.wait(10)
        assert wait_until_gone(parent) == []
    assert shared_memory() == memory


def test_nothing_is_left_after_ctrl_c_in_the_terminal(
    build: QemuBuild, capabilities: Capabilities, parent: Path
) -> None:
    with _harness(build, capabilities, parent, "while it runs") as (run, _):
        os.killpg(run.pid, signal.SIGINT)
        run.wait(10)
        assert wait_until_gone(parent) == []


def test_nothing_is_left_when_the_whole_process_group_is_killed(
    build: QemuBuild, capabilities: Capabilities, parent: Path
) -> None:
    with _harness(build, capabilities, parent, "while it runs") as (run, _):
        os.killpg(run.pid, signal.SIGKILL)
        run.wait(10)
        assert wait_until_gone(parent) == []


@pytest.mark.parametrize("moment", _MOMENTS)
def test_qemu_dies_with_the_harness_even_when_the_keeper_was_killed(
    build: QemuBuild, capabilities: Capabilities, parent: Path, moment: str
) -> None:
    with _harness(build, capabilities, parent, moment) as (run, keeper):
        os.kill(keeper, signal.SIGKILL)
        run.kill()
        run.wait(10)
        wait_until_gone(parent, 2)
        assert marked_processes(parent) == []


def test_a_stopped_qemu_does_not_outlive_the_harness(
    build: QemuBuild, capabilities: Capabilities, parent: Path
) -> None:
    with _harness(build, capabilities, parent, "while it runs") as (run, _):
        for pid in marked_processes(parent):
            os.kill(pid, signal.SIGSTOP)
        run.kill()
        run.wait(10)
        assert wait_until_gone(parent) == []


def test_the_keeper_alone_cleans_up_where_the_kernel_does_not(parent: Path) -> None:
    # No PR_SET_PDEATHSIG here: the process is started as a host without setpriv would.
    script = (
        "import os, subprocess, sys, pathlib; from harness.vmm.rundir import RunDirectory;"
        "d = RunDirectory.create(pathlib.Path(sys.argv[1]));"
        "subprocess.Popen(['sleep', '60'], env={**os.environ, **d.mark()}, start_new_session=True);"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(parent)], check=False, timeout=20)
    assert wait_until_gone(parent) == []


def test_a_machine_that_is_closed_leaves_nothing(build: QemuBuild, capabilities: Capabilities, parent: Path) -> None:
    with _harness(build, capabilities, parent, "while it runs") as (run, _):
        assert left_behind(parent)
        run.send_signal(signal.SIGINT)
        run.wait(10)
        # Not waited for: leaving the `with` block has done it before the harness ended.
        assert marked_processes(parent) == []
