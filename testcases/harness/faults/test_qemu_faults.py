"""A QEMU that ends, or answers no more, under a guest that is well."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from faults_rig import LONG, told

from harness.errors import VmmCrashed, VmmDied, VmmTimeout
from harness.live.machine import LiveMachine
from harness.verdict import Verdict

_DEADLINE = 0.5

_WAITS: dict[str, Callable[[LiveMachine, float], object]] = {
    "agent": lambda live, seconds: live.vmm.agent_port.read_line(seconds, live.guest.check),
    "ssh": lambda live, seconds: live.guest.run("sleep 100", deadline_seconds=seconds),
    "console": lambda live, seconds: live.vmm.console.wait_for("never said", deadline=seconds),
    "event": lambda live, seconds: live.vmm.qmp.wait_event("NEVER", deadline=seconds),
    "qmp": lambda live, seconds: live.vmm.qmp.execute("query-status", deadline=seconds),
    "qtest": lambda live, seconds: live.vmm.qtest.read(0, 16, deadline=seconds),
}
waits = pytest.mark.parametrize("wait", _WAITS)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that answers nothing is given less time to say how its guest is."""
    monkeypatch.setattr("harness.vmm.qemu.qmp._STATE_SECONDS", _DEADLINE)


@waits
def test_one_that_is_killed_is_dead_at_once_and_nobodys_finding(live: LiveMachine, wait: str) -> None:
    live.guest.run("true")
    os.kill(live.vmm.process.pid, signal.SIGKILL)
    with told(VmmDied, Verdict.MISS, "QEMU was killed by signal 9 (SIGKILL) while it was needed"):
        _WAITS[wait](live, LONG)


@waits
def test_one_that_aborts_has_crashed_and_is_a_finding(live: LiveMachine, wait: str) -> None:
    live.guest.run("true")
    os.kill(live.vmm.process.pid, signal.SIGABRT)
    with told(VmmCrashed, Verdict.FAIL, "QEMU was killed by signal 6 (SIGABRT) while it was needed"):
        _WAITS[wait](live, LONG)


@waits
def test_one_that_is_stopped_is_late_and_the_guest_is_not_blamed(live: LiveMachine, impatient: None, wait: str) -> None:
    live.guest.run("true")
    os.kill(live.vmm.process.pid, signal.SIGSTOP)
    with told(VmmTimeout, Verdict.MISS, "T (stopped)"):
        _WAITS[wait](live, _DEADLINE)


@waits
def test_one_that_spins_is_late_and_the_guest_is_not_blamed(live: LiveMachine, impatient: None, wait: str) -> None:
    live.guest.run("true")
    with told(VmmTimeout, Verdict.MISS, "QMP pmemsave"):
        # Byte by byte through all of the address space, in the thread that answers everything else.
        endless = {"val": 0, "size": 1 << 62, "filename": "/dev/null"}
        live.vmm.qmp.execute("pmemsave", endless, deadline=_DEADLINE)
    with told(VmmTimeout, Verdict.MISS, "QEMU is running, in state R"):
        _WAITS[wait](live, _DEADLINE)
