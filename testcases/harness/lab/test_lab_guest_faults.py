"""Guests that go wrong: each is told for what it is, with the text that shows it, and soon."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest

from harness.errors import GuestCrashed, GuestError, GuestUnreachable, Unsupported, VmmCrashed, VmmDied
from harness.lab import Lab
from harness.spec import Iommu, IommuKind, Machine

_PLAIN = Machine(iommu=Iommu(kind=IommuKind.NONE))
_SOON = 5.0


def test_a_kernel_without_an_init_is_a_panic_with_its_text(lab: Lab) -> None:
    spec = replace(_PLAIN, kernel_args=("rdinit=/there/is/none", "init=/there/is/none"))
    with lab.start(spec) as machine, pytest.raises(GuestCrashed, match="Kernel panic") as raised:
        machine.guest.wait_ready(60)
    assert "not syncing" in raised.value.evidence


def test_a_guest_that_hangs_in_init_is_unreachable_with_its_console(lab: Lab) -> None:
    spec = replace(_PLAIN, kernel_args=("rdinit=/bin/cat",))
    with lab.start(spec) as machine:
        machine.vmm.console.wait_for("Run /bin/cat as init", deadline=60)
        with pytest.raises(GuestUnreachable, match="did not come up within 1 s") as raised:
            machine.guest.wait_ready(1)
    assert "Run /bin/cat as init" in raised.value.evidence


def test_a_guest_whose_sshd_is_not_there_says_so_in_its_console(lab: Lab) -> None:
    with lab.boot(_PLAIN) as machine:
        machine.vmm.console.wait_for("viommu-init: ready", deadline=1)
        machine.vmm.qmp.execute("set_link", {"name": "management.0", "up": False})
        with pytest.raises(GuestUnreachable, match=r"handshake in 3 s") as raised:
            machine.guest.connect(deadline_seconds=3)
    assert "viommu-init: ready" in raised.value.evidence


def test_a_panic_ends_the_wait_for_an_answer_at_once(lab: Lab) -> None:
    with lab.boot(_PLAIN) as machine:
        machine.guest.run("true")
        start = time.monotonic()
        with pytest.raises(GuestCrashed, match=r"sysrq triggered crash|Kernel panic|NULL pointer"):
            machine.guest.run("echo c > /proc/sysrq-trigger; sleep 100", deadline_seconds=60)
        assert time.monotonic() - start < _SOON


def test_a_stopped_guest_is_unreachable_after_the_deadline_and_not_later(lab: Lab) -> None:
    with lab.boot(_PLAIN) as machine:
        machine.guest.run("true")
        machine.vmm.qmp.execute("stop")
        start = time.monotonic()
        with pytest.raises(GuestUnreachable, match=r"2 s"):
            machine.guest.run("true", deadline_seconds=2)
        assert time.monotonic() - start < 2 + _SOON


def test_a_qemu_that_is_killed_is_dead_at_once_and_no_fault_of_the_guest(lab: Lab) -> None:
    with lab.boot(_PLAIN) as machine:
        agent = machine.agent
        os.kill(machine.vmm.process.pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(VmmDied) as raised:
            agent.wait_path("/nowhere", 60)
        assert time.monotonic() - start < _SOON
    assert not isinstance(raised.value, GuestError)
    assert "killed by signal 9 (SIGKILL)" in raised.value.message


def test_a_qemu_that_aborts_has_crashed_and_shows_the_guests_console(lab: Lab) -> None:
    with lab.boot(_PLAIN) as machine:
        agent = machine.agent
        os.kill(machine.vmm.process.pid, signal.SIGABRT)
        with pytest.raises(VmmCrashed, match="SIGABRT") as raised:
            agent.wait_path("/nowhere", 60)
    assert "viommu-init: ready" in raised.value.evidence


def test_a_guest_that_resets_itself_is_told_as_that_with_its_console(lab: Lab) -> None:
    with lab.boot(_PLAIN) as machine:
        machine.guest.run("true")
        start = time.monotonic()
        with pytest.raises(GuestCrashed, match="the guest reset itself") as raised:
            machine.guest.run("echo b > /proc/sysrq-trigger; sleep 100", deadline_seconds=60)
        assert time.monotonic() - start < _SOON
    assert "viommu-init: ready" in raised.value.evidence


def test_a_module_that_the_kernel_does_not_have_is_refused_by_name(lab: Lab) -> None:
    lab.require_modules("vfio_pci", "vfio-iommu-type1")
    with pytest.raises(Unsupported, match="no nosuch driver"):
        lab.require_modules("vfio_pci", "nosuch")
