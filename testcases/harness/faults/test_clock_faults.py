"""A wall clock that is set while the harness waits: every deadline is kept as it was given."""

from __future__ import annotations

import itertools
import time

import pytest
from faults_rig import LONG, SOON, told

from harness.errors import GuestUnreachable, VmmTimeout
from harness.live.machine import LiveMachine
from harness.verdict import Verdict

_DAY = 86_400.0


@pytest.fixture(params=[1, -1], ids=["forwards", "backwards"])
def leaps(request: pytest.FixtureRequest, live: LiveMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock leaps by a day each time that it is looked at."""
    now, steps = time.time(), itertools.count(1)
    live.guest.run("true")
    monkeypatch.setattr(time, "time", lambda: now + request.param * _DAY * next(steps))


def test_commands_end_as_they_do(live: LiveMachine, leaps: None) -> None:
    begin = time.monotonic()
    assert live.guest.run("sleep 1; echo up", deadline_seconds=LONG).stdout == "up\n"
    live.agent.wait_path("/proc", LONG)
    assert time.monotonic() - begin < SOON


def test_late_command_is_told_in_time(live: LiveMachine, leaps: None) -> None:
    with told(GuestUnreachable, Verdict.FAIL, "did not end in 1 s"):
        live.guest.run("sleep 100", deadline_seconds=1)


def test_late_event_is_told_in_time(live: LiveMachine, leaps: None) -> None:
    with told(VmmTimeout, Verdict.MISS, "after 1 s"):
        live.vmm.qmp.wait_event("NEVER", deadline=1)
