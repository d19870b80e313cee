"""What a guest can write to its console: nothing of it fills the harness's memory or disk, or hides a panic."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

import pytest
from faults_rig import LONG, SOON, told

from harness.errors import GuestCrashed
from harness.live import LiveMachine
from harness.verdict import Verdict
from harness.vmm.qemu.console import SerialConsole

_MIB = 1 << 20
_FLOOD_MIB = 80  # more than the log takes
_EMPTY_MIB = 2  # which are two million lines
_HELD_MIB = 64


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


_FLOODS = {"text": b"x" * 79 + b"\n", "empty lines": b"\n", "one line": b"x", "garbage": bytes(range(256))}


@pytest.mark.parametrize("kind", _FLOODS)
def test_flood_fills_neither_memory_nor_disk_and_is_read_as_fast_as_it_comes(
    live: LiveMachine, temporary: Path, kind: str
) -> None:
    size = _EMPTY_MIB if kind == "empty lines" else _FLOOD_MIB
    here, there = socket.socketpair()
    log = temporary / "flood.log"
    block = (_FLOODS[kind] * _MIB)[:_MIB]
    before = _resident()
    console = SerialConsole(here, live.vmm.process, log)
    try:
        there.settimeout(LONG)
        for _ in range(size):
            there.sendall(block)
        there.sendall(b"\nthe end\n")
        assert console.wait_for("the end", deadline=SOON) == "the end"
        assert _resident() - before < _HELD_MIB * _MIB
        assert log.stat().st_size <= 64 * _MIB
    finally:
        there.close()
        console.close()
        log.unlink()


def _resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
