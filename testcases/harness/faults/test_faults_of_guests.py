"""Guests that go wrong while a command of theirs is waited for: told at once, as theirs, with what they said."""

from __future__ import annotations

import pytest
from faults_rig import LONG, overwrite, told

from harness.errors import AgentError, GuestCrashed, GuestUnreachable, VmmError
from harness.live import LiveMachine
from harness.verdict import Verdict

_DEADLINE = 1.0


@pytest.mark.parametrize("wait", ["ssh", "agent"])
def test_panic_is_told_with_its_text(live: LiveMachine, wait: str) -> None:
    with told(GuestCrashed, Verdict.FAIL, "the guest kernel: ", evidence="sysrq triggered crash"):
        _provoke(live, "c", wait)


@pytest.mark.parametrize("wait", ["ssh", "agent"])
def test_reset_is_told_as_that_with_the_console(live: LiveMachine, wait: str) -> None:
    with told(GuestCrashed, Verdict.FAIL, "the guest reset itself", evidence="viommu-init: ready"):
        _provoke(live, "b", wait)


@pytest.mark.parametrize("wait", ["ssh", "agent"])
def test_power_off_is_told_as_that_with_the_console(live: LiveMachine, wait: str) -> None:
    with told(GuestCrashed, Verdict.FAIL, "the guest shut itself down", evidence="viommu-init: ready"):
        _provoke(live, "o", wait)


_COMPLAINTS = {
    "oops": "BUG: unable to handle page fault for address: ffffc90000000000",
    "BUG": "kernel BUG at mm/slub.c:5500!",
    "lockup": "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [sh:77]",
    "hung task": "INFO: task sh:77 blocked for more than 120 seconds.",
    "KASAN": "BUG: KASAN: use-after-free in f+0x1/0x2",
}


@pytest.mark.parametrize("kind", _COMPLAINTS)
def test_what_a_guest_does_not_come_back_from_ends_every_wait(live: LiveMachine, kind: str) -> None:
    line = f"<0>{_COMPLAINTS[kind]}"
    with told(GuestCrashed, Verdict.FAIL, f"the guest kernel: {kind}: ", evidence=_COMPLAINTS[kind]):
        live.guest.run(f"echo '{line}' > /dev/kmsg; sleep 100", deadline_seconds=LONG)


def test_kernel_that_hangs_in_silence_is_late_and_to_blame(live: LiveMachine) -> None:
    live.guest.run("true")
    overwrite(live, "tick_handle_periodic", "hrtimer_interrupt", "__schedule")
    with told(GuestUnreachable, Verdict.FAIL, "true: the guest opened no SSH channel in 1 s"):
        live.guest.run("true", deadline_seconds=_DEADLINE)
    with told(GuestUnreachable, Verdict.FAIL, "within 1 s"):
        live.vmm.agent_port.read_line(_DEADLINE, live.guest.check)
    assert live.vmm.qmp.execute("query-status")["status"] == "running"


def test_guest_that_is_paused_is_late_and_not_to_blame(live: LiveMachine) -> None:
    live.guest.run("true")
    live.vmm.qmp.execute("stop")
    with told(VmmError, Verdict.MISS, " in 1 s", "its state is 'paused'"):
        live.guest.run("echo begun; sleep 100", deadline_seconds=_DEADLINE)


def test_processes_that_are_all_stopped_are_late_and_to_blame(live: LiveMachine) -> None:
    with told(GuestUnreachable, Verdict.FAIL, "did not end in 2 s", evidence="begun"):
        live.guest.run("echo begun; kill -STOP -1; sleep 100", deadline_seconds=2)


def test_out_of_memory_is_among_the_guests_problems_and_it_goes_on(live: LiveMachine) -> None:
    live.guest.run("tail /dev/zero", deadline_seconds=LONG)
    assert "out of memory" in {problem.kind for problem in live.guest.problems}
    assert live.guest.run("echo up").stdout == "up\n"


def test_out_of_memory_that_takes_the_agent_is_told_with_the_kernels_text(live: LiveMachine) -> None:
    with told(AgentError, Verdict.FAIL, "the agent in the guest ended: exit status 137", within=20):
        live.guest.run("for p in $(pidof python3); do echo 1000 > /proc/$p/oom_score_adj; done")
        live.guest.ssh.open("tail /dev/zero")
        live.agent.wait_path("/nowhere", LONG)


def test_connection_that_is_dropped_in_the_middle_of_a_command_is_told_with_its_output(live: LiveMachine) -> None:
    with told(GuestUnreachable, Verdict.FAIL, "the connection ended before it did", evidence="begun"):
        live.guest.run("echo begun; kill -9 $PPID; sleep 100", deadline_seconds=LONG)


def test_dead_sshd_lets_nobody_in_and_the_console_is_shown(live: LiveMachine) -> None:
    live.guest.run("true")
    with told(GuestUnreachable, Verdict.FAIL, "the connection ended"):
        live.guest.run("killall -9 dropbear; sleep 100", deadline_seconds=LONG)
    with told(GuestUnreachable, Verdict.FAIL, "SSH", evidence="viommu-init: ready"):
        live.guest.connect(deadline_seconds=2)
    live.agent.ping()


def test_link_that_is_down_is_told_with_the_console(live: LiveMachine) -> None:
    live.vmm.qmp.execute("set_link", {"name": "management.0", "up": False})
    with told(GuestUnreachable, Verdict.FAIL, "handshake in 1 s", evidence="viommu-init: ready"):
        live.guest.connect(deadline_seconds=_DEADLINE)


def test_agent_that_is_killed_says_so_at_once(live: LiveMachine) -> None:
    live.guest.ssh.open("sleep 1; killall -9 python3")
    with told(AgentError, Verdict.FAIL, "the agent in the guest ended: exit status 137"):
        live.agent.wait_path("/nowhere", LONG)


def test_agent_that_answers_nonsense_is_told_with_what_it_said(live: LiveMachine) -> None:
    live.agent.write_file("/usr/lib/viommu/agent/__main__.py", "print('][ 12', flush=True)")
    live.guest.run("killall -9 python3")
    with told(AgentError, Verdict.FAIL, "the agent in the guest ended: exit status 137"):
        live.agent.ping()
    with told(AgentError, Verdict.FAIL, "ping: the guest's agent answered nonsense", evidence="][ 12"):
        live.agent.ping()


def test_agent_that_never_answers_is_late(live: LiveMachine) -> None:
    live.guest.run("killall -STOP python3")
    with told(GuestUnreachable, Verdict.FAIL, "ping: the guest sent no answer within 1 s"):
        live.agent._call("ping", {}, dict[str, object], _DEADLINE)


def _provoke(live: LiveMachine, letter: str, wait: str) -> None:
    """Have the kernel do what a letter of SysRq stands for, and wait for something else."""
    if wait == "ssh":
        live.guest.run(f"echo {letter} > /proc/sysrq-trigger; sleep 100", deadline_seconds=LONG)
    else:
        live.guest.ssh.open(f"sleep 0.3; echo {letter} > /proc/sysrq-trigger")
        live.agent.wait_path("/nowhere", LONG)
