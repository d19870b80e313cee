"""What a guest can write to its console: nothing of it fills the harness's memory or disk, or hides a panic."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

import pytest
from faults_rig import LONG, SOON, told

from harness.errors import GuestCrashed
from harness.live.machine import LiveMachine
from harness.verdict import Verdict
from harness.vmm.qemu.console import SerialConsole

_MIB = 1 << 20
_HELD_MIB = 64
_LOG_MIB = 64


@pytest.mark.parametrize("device", ["/dev/ttyS0", "/dev/console"])
def test_binary_garbage_is_kept_and_a_panic_behind_it_is_seen(live: LiveMachine, device: str) -> None:
    with told(GuestCrashed, Verdict.FAIL, "the guest kernel: ", within=20):
        noise = f"head -c 100000 /dev/urandom > {device}; echo > {device}; echo c > /proc/sysrq-trigger; sleep 100"
        live.guest.run(noise, deadline_seconds=LONG)


def test_endless_line_is_cut_and_a_panic_behind_it_is_seen(live: LiveMachine) -> None:
    with told(GuestCrashed, Verdict.FAIL, "the guest kernel: ", within=20):
        line = "head -c 200000 /dev/zero | tr '\\0' x > /dev/ttyS0; echo > /dev/ttyS0"
        live.guest.run(f"{line}; echo c > /proc/sysrq-trigger; sleep 100", deadline_seconds=LONG)
    assert max(map(len, live.vmm.console.text.splitlines())) <= 4096


@pytest.mark.parametrize("device", ["/dev/ttyS0", "/dev/console"])
def test_guest_that_never_stops_talking_is_heard_and_its_panic_seen(live: LiveMachine, device: str) -> None:
    before, said = _resident(), live.vmm.console.line_count
    with told(GuestCrashed, Verdict.FAIL, "the guest kernel: ", evidence="sysrq triggered crash", within=20):
        flood = f"timeout 2 yes > {device}; echo > {device}; echo c > /proc/sysrq-trigger; sleep 100"
        live.guest.run(flood, deadline_seconds=LONG)
    assert live.vmm.console.line_count - said > 1000
    assert _resident() - before < _HELD_MIB * _MIB


# An emulated serial port says some 100 kB a second: more than that comes through a socket of the test's own. What is
# said, and how many MiB of it: each more than the log takes, and gigabytes of what takes the least time.
_FLOODS = {
    "one line": (b"x", 2048),
    "text": (b"x" * 79 + b"\n", 80),
    "garbage": (bytes(range(256)), 80),
    "empty lines": (b"\n", 2),  # two million of them
}


@pytest.mark.parametrize("kind", _FLOODS)
def test_flood_fills_neither_memory_nor_disk_and_is_read_as_fast_as_it_comes(
    live: LiveMachine, temporary: Path, kind: str
) -> None:
    text, size = _FLOODS[kind]
    here, there = socket.socketpair()
    log = temporary / "flood.log"
    block = (text * _MIB)[:_MIB]
    before = _resident()
    console = SerialConsole(here, live.vmm.process, log)
    try:
        there.settimeout(LONG)
        for _ in range(size):
            there.sendall(block)
        there.sendall(b"\nthe end\n")
        assert console.wait_for("the end", deadline=SOON) == "the end"
        assert _resident() - before < _HELD_MIB * _MIB
        assert log.stat().st_size == min(_LOG_MIB * _MIB, size * _MIB + len("\nthe end\n"))
    finally:
        there.close()
        console.close()
        log.unlink()


def _resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
