"""Guests that go wrong while a command of theirs is waited for: told at once, as theirs, with what they said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from faults_rig import LONG, PLAIN, SOON, told
from kernel_code import KERNEL_FAULTS, KernelCode

from harness.artifacts.cache import Cache
from harness.errors import AgentError, GuestCrashed, GuestUnreachable, VmmError
from harness.lab import BOOT_SECONDS, Lab
from harness.live.machine import LiveMachine
from harness.verdict import Verdict
from harness.warm.lease import Leases
from harness.warm.store import Store

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


@pytest.mark.parametrize("kind", KERNEL_FAULTS)
def test_fault_of_the_kernel_ends_every_wait_with_its_text(live: LiveMachine, kernel: KernelCode, kind: str) -> None:
    fault = KERNEL_FAULTS[kind]
    command = kernel.provoke(live, fault)
    with told(GuestCrashed, Verdict.FAIL, f"the guest kernel: {kind}: ", fault.says, evidence=fault.says, within=20):
        live.guest.run(f"{command}; sleep 100", deadline_seconds=LONG)


def test_report_of_a_sanitizer_ends_every_wait_with_its_text(live: LiveMachine) -> None:
    """Through /dev/kmsg: a kernel of Debian's is built without any."""
    line = "BUG: KASAN: use-after-free in f+0x1/0x2"
    with told(GuestCrashed, Verdict.FAIL, "the guest kernel: KASAN: ", evidence=line):
        live.guest.run(f"echo '<0>{line}' > /dev/kmsg; sleep 100", deadline_seconds=LONG)


def test_guest_that_resets_itself_again_and_again_is_told_the_first_time(lab: Lab, cache: Cache) -> None:
    loop = replace(PLAIN, kernel_args=("rdinit=/bin/busybox", "--", "reboot", "-f"))
    end = "reboot: Restarting system"
    with (
        told(GuestCrashed, Verdict.FAIL, "the guest reset itself", evidence=end, within=BOOT_SECONDS / 2),
        Leases(lab, Store(cache)).start(loop),
    ):
        pass
    assert list((cache.root / "templates").iterdir()) == []


def test_kernel_that_hangs_in_silence_is_late_and_to_blame(live: LiveMachine, kernel: KernelCode) -> None:
    live.guest.run("true")
    kernel.hang_in_silence(live)
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
    with told(GuestUnreachable, Verdict.FAIL, "did not end in 6 s", evidence="begun"):
        live.guest.run("echo begun; sleep 1; kill -STOP -1; sleep 100", deadline_seconds=6)


def test_out_of_memory_is_among_the_guests_problems_and_it_goes_on(live: LiveMachine) -> None:
    # Huge pages take most of the memory at once, where a program would take seconds.
    live.guest.run("echo 150 > /proc/sys/vm/nr_hugepages; tail /dev/zero", deadline_seconds=LONG)
    assert "out of memory" in {problem.kind for problem in live.guest.problems}
    assert live.guest.run("echo up").stdout == "up\n"


def test_out_of_memory_that_takes_the_agent_is_told_with_the_kernels_text(live: LiveMachine) -> None:
    with told(AgentError, Verdict.FAIL, "the agent in the guest ended: exit status 137", within=20):
        live.guest.run(_choose("python3"))
        live.guest.ssh.open("sleep 0.3; echo f > /proc/sysrq-trigger")
        live.agent.wait_path("/nowhere", LONG)
    assert "out of memory" in {problem.kind for problem in live.guest.problems}


def test_out_of_memory_that_takes_sshd_is_told_with_the_kernels_text_and_the_agent_goes_on(live: LiveMachine) -> None:
    live.guest.run(_choose("dropbear"))
    processes = live.guest.run("pidof dropbear").stdout.split()
    kill = "while pidof dropbear > /dev/null; do echo f > /proc/sysrq-trigger; sleep 0.2; done"
    with told(GuestUnreachable, Verdict.FAIL, "the connection ended before it did", evidence="begun", within=20):
        live.guest.run(f"echo -1000 > /proc/self/oom_score_adj; echo begun; {kill}", deadline_seconds=LONG)
    for pid in processes:
        live.vmm.console.wait_for(f"Killed process {pid} (dropbear)", deadline=SOON)
    with told(GuestUnreachable, Verdict.FAIL, "SSH", evidence="(dropbear)"):
        live.guest.connect(deadline_seconds=_DEADLINE)
    assert {problem.kind for problem in live.guest.problems} == {"out of memory"}
    live.agent.ping()


def test_connection_that_is_dropped_in_the_middle_of_a_command_is_told_with_its_output(live: LiveMachine) -> None:
    with told(GuestUnreachable, Verdict.FAIL, "the connection ended before it did", evidence="begun"):
        live.guest.run("echo begun; sleep 1; kill -9 $PPID; sleep 100", deadline_seconds=LONG)


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


def _choose(program: str) -> str:
    """Shell command that has the kernel take a program first when memory is short."""
    return f"for p in $(pidof {program}); do echo 1000 > /proc/$p/oom_score_adj; done"


def _provoke(live: LiveMachine, letter: str, wait: str) -> None:
    """Have the kernel do what a letter of SysRq stands for, and wait for something else."""
    if wait == "ssh":
        live.guest.run(f"echo {letter} > /proc/sysrq-trigger; sleep 100", deadline_seconds=LONG)
    else:
        live.guest.ssh.open(f"sleep 0.3; echo {letter} > /proc/sysrq-trigger")
        live.agent.wait_path("/nowhere", LONG)
