"""What goes wrong with a machine, done to it on purpose, and the verdict that a test must get of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from harness.live.machine import LiveMachine
from harness.verdict import Verdict

__all__ = ["FAULTS", "InjectedFault"]

_CONNECT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """One way to break a machine.

    Attributes:
        name: what it is called in figures.
        verdict: of the error that whoever uses the machine must get: `fail` where what is tested is wrong, `miss`
            where it is the host or the harness.
        does: breaks it.
        uses: uses it then, which must raise.
    """

    name: str
    verdict: Verdict
    does: Callable[[LiveMachine], None]
    uses: Callable[[LiveMachine], object]


def _signal(number: signal.Signals) -> Callable[[LiveMachine], None]:
    return lambda machine: os.kill(machine.vmm.process.pid, number)


def _panic(machine: LiveMachine) -> None:
    machine.guest.run("(sleep 0.1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &")


def _reset(machine: LiveMachine) -> None:
    machine.guest.run("(sleep 0.1; echo b > /proc/sysrq-trigger) > /dev/null 2>&1 &")


def _kill_agent(machine: LiveMachine) -> None:
    pid = machine.agent.read_file("/proc/self/stat").split()[0]
    machine.guest.run(f"kill -9 {int(pid)}")


def _unplug_cable(machine: LiveMachine) -> None:
    machine.vmm.qmp.execute("set_link", {"name": "management.0", "up": False})


def _wait_in_agent(machine: LiveMachine) -> None:
    machine.agent.wait_path("/there/is/none", 30)


FAULTS = (
    InjectedFault("qemu killed", Verdict.MISS, _signal(signal.SIGKILL), _wait_in_agent),
    InjectedFault("qemu ended by a bad access", Verdict.FAIL, _signal(signal.SIGSEGV), _wait_in_agent),
    InjectedFault("qemu aborted", Verdict.FAIL, _signal(signal.SIGABRT), _wait_in_agent),
    InjectedFault("guest panic", Verdict.FAIL, _panic, _wait_in_agent),
    InjectedFault("guest reset", Verdict.FAIL, _reset, _wait_in_agent),
    InjectedFault("agent killed", Verdict.FAIL, _kill_agent, lambda machine: machine.agent.ping()),
    InjectedFault(
        "cable unplugged", Verdict.FAIL, _unplug_cable, lambda machine: machine.guest.connect(_CONNECT_SECONDS)
    ),
)
"""All of them."""
