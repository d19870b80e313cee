from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
from vmm_rig import Start, spec, stand_in, stopped

from harness.artifacts.qemu import QemuBuild
from harness.errors import GuestCrashed, HostError, VmmCrashed, VmmDied, VmmStartError, VmmTimeout
from harness.soak.leaks import left_behind
from harness.vmm.protocol import FirmwareBoot, LinuxBoot
from harness.vmm.qemu.capabilities import Capabilities
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.listener import Listener
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.qtest import Width
from harness.vmm.rundir import RunDirectory


def _kernel_header() -> bytes:
    """As much of a bzImage as QEMU looks at to load it (Linux, Documentation/arch/x86/boot.rst)."""
    head = bytearray(4096)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    head[0x206:0x208] = (0x20C).to_bytes(2, "little")
    head[0x211] = 1  # LOADED_HIGH
    head[0x22C:0x230] = (0x7FFF_FFFF).to_bytes(4, "little")
    return bytes(head)


def test_a_qemu_that_dies_at_start_shows_its_stderr(start: Start, parent: Path) -> None:
    options = Options(parent=parent, extra=(("-device", "nosuch"),))
    with pytest.raises(
        VmmStartError, match=r"exited with status 1.*'nosuch' is not a valid device model name"
    ) as caught:
        start(None, options)
    assert "-device nosuch" in caught.value.evidence


def test_a_qemu_that_dies_at_start_leaves_nothing(start: Start, parent: Path, firmware: FirmwareBoot) -> None:
    with pytest.raises(VmmStartError):
        start(spec("virtio-blk", "virtio-net"), Options(parent=parent, extra=(("-device", "nosuch"),)))
    assert isinstance(firmware.firmware, Path)
    firmware.firmware.unlink()
    assert left_behind(parent) == []


def test_a_run_directory_too_deep_for_a_socket_is_a_host_error(start: Start, parent: Path) -> None:
    deep = parent / ("d" * 100)
    deep.mkdir()
    with pytest.raises(HostError, match="107 bytes at most"):
        start(None, Options(parent=deep))
    assert list(deep.iterdir()) == []


def test_a_socket_that_is_taken_is_a_host_error(parent: Path) -> None:
    with Listener(parent / "qmp.sock"), pytest.raises(HostError, match="already in use"):
        Listener(parent / "qmp.sock")


def test_a_program_that_is_not_there_is_a_host_error(parent: Path) -> None:
    with (
        RunDirectory.create(parent) as directory,
        pytest.raises(HostError, match="/nowhere/qemu cannot be run"),
        stand_in(directory, "/nowhere/qemu"),
    ):
        pass


def test_a_file_system_that_takes_no_directory_is_a_host_error(start: Start) -> None:
    with pytest.raises(HostError, match="no run directory could be made in /proc"):
        start(None, Options(parent=Path("/proc")))


def test_an_initrd_that_does_not_fit_is_a_host_error_and_leaves_nothing(
    build: QemuBuild, capabilities: Capabilities, parent: Path
) -> None:
    boot = LinuxBoot(kernel=Path("/nowhere"), overlay=b"x" * 100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(HostError, match="File too large"):
            QemuMachine.start(spec(), build, capabilities, boot, Options(parent=parent))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left_behind(parent) == []


def test_an_initrd_with_the_runs_keys_is_private_to_its_user(
    build: QemuBuild, capabilities: Capabilities, parent: Path
) -> None:
    kernel = parent / "bzImage"
    kernel.write_bytes(_kernel_header())
    boot = LinuxBoot(kernel=kernel, overlay=b"keys")
    before = os.umask(0)
    try:
        with QemuMachine.start(spec(), build, capabilities, boot, Options(parent=parent, paused=True)) as machine:
            initrd = machine.directory / "initrd"
            assert initrd.read_bytes() == b"keys"
            assert stat.S_IMODE(initrd.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_process_that_never_connects_is_a_timeout_that_says_what_was_waited_for(parent: Path) -> None:
    with (
        RunDirectory.create(parent) as directory,
        Listener(directory.path / "qmp.sock") as listener,
        stand_in(directory, "sleep", "60") as process,
        pytest.raises(VmmTimeout, match=r"to connect to .*qmp\.sock and had not after 0\.2 s; QEMU is running"),
    ):
        listener.accept(process, 0.2)


def test_a_process_that_ends_instead_of_connecting_is_noticed_at_once(parent: Path) -> None:
    with (
        RunDirectory.create(parent) as directory,
        Listener(directory.path / "qmp.sock") as listener,
        stand_in(directory, "sh", "-c", "echo no such thing >&2; exit 3") as process,
    ):
        begin = time.monotonic()
        with pytest.raises(VmmStartError, match="exited with status 3 at start: no such thing"):
            listener.accept(process, 30)
        assert time.monotonic() - begin < 5


def test_whoever_waits_for_a_killed_qemu_is_told_at_once(start: Start) -> None:
    machine = start()
    threading.Timer(0.2, lambda: os.kill(machine.process.pid, signal.SIGKILL)).start()
    begin = time.monotonic()
    with pytest.raises(VmmDied, match=r"killed by signal 9 \(SIGKILL\) while it was needed for its event NEVER"):
        machine.qmp.wait_event("NEVER", deadline=30)
    assert time.monotonic() - begin < 5


def test_every_channel_of_a_dead_qemu_says_that_it_died(start: Start) -> None:
    machine = start(spec("virtio-net"))
    machine.process.kill()
    with pytest.raises(VmmDied):
        machine.qmp.execute("query-status")
    with pytest.raises(VmmDied):
        machine.qtest.read_value(0, Width.LONG)
    with pytest.raises(VmmDied):
        machine.console.wait_for("login:", deadline=30)
    with pytest.raises(VmmDied):
        machine.network("virtio-net0").receive(deadline=30)


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE])
def test_a_qemu_that_ends_by_a_fault_of_its_own_has_crashed(start: Start, number: signal.Signals) -> None:
    machine = start()
    os.kill(machine.process.pid, number)
    machine.process.wait(10)
    with pytest.raises(VmmCrashed, match=f"{number.name}.* while it was needed for QMP query-status"):
        machine.qmp.execute("query-status")


def test_a_qemu_whose_memory_the_host_does_not_back_has_died(start: Start) -> None:
    machine = start()
    os.kill(machine.process.pid, signal.SIGBUS)
    with pytest.raises(VmmDied, match="SIGBUS"):
        machine.qmp.execute("query-status")


def test_a_qemu_that_is_told_to_end_has_died_and_the_guest_is_not_blamed(start: Start) -> None:
    machine = start()
    os.kill(machine.process.pid, signal.SIGTERM)
    with pytest.raises(VmmDied, match=r"exited with status 0 \(host-signal\)"):
        machine.qmp.wait_event("NEVER", deadline=30)


def test_a_qemu_that_gives_up_has_died(parent: Path) -> None:
    with RunDirectory.create(parent) as directory, stand_in(directory, "sh", "-c", "echo oh >&2; exit 1") as process:
        process.wait(5)
        error = process.died("for a test")
    assert isinstance(error, VmmDied)
    assert error.evidence == "oh\n"


def test_a_guest_that_resets_itself_has_crashed(start: Start) -> None:
    machine = start()
    machine.qtest.write_port(0xCF9, 0x06, Width.BYTE)  # ICH9 reset control: system reset, reset CPU
    with pytest.raises(GuestCrashed, match="the guest reset itself while it was needed for its event NEVER"):
        machine.qmp.wait_event("NEVER", deadline=30)


def test_a_stopped_qemu_is_a_qmp_timeout_that_shows_its_state(start: Start) -> None:
    machine = start()
    with stopped(machine.process.pid):
        begin = time.monotonic()
        with pytest.raises(VmmTimeout, match=r"QMP query-status.*in state T") as caught:
            machine.qmp.execute("query-status", deadline=0.3)
        assert time.monotonic() - begin < 2
    assert '"execute": "query-status"' in caught.value.evidence


def test_a_stopped_qemu_is_a_qtest_timeout(start: Start) -> None:
    machine = start()
    with stopped(machine.process.pid), pytest.raises(VmmTimeout, match="qtest 'readl 0x0'"):
        machine.qtest.read_value(0, Width.LONG, deadline=0.3)


def test_a_machine_with_a_stopped_qemu_closes_quickly(start: Start) -> None:
    machine = start()
    os.kill(machine.process.pid, signal.SIGSTOP)
    begin = time.monotonic()
    machine.close()
    assert time.monotonic() - begin < 2


def test_the_evidence_of_a_closed_machine_is_what_there_was(start: Start) -> None:
    machine = start(spec("edu"))
    machine.qmp.execute("query-status")
    machine.close()
    evidence = machine.evidence()
    assert '"execute": "query-status"' in evidence.qmp_log
    assert "-device edu,id=edu0" in evidence.command


def test_the_ssh_port_leads_to_this_machine(start: Start) -> None:
    one, other = start(), start()
    assert one.ssh_port != other.ssh_port
    with socket.create_connection(("127.0.0.1", one.ssh_port), 5):
        pass
