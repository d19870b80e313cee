"""The port of the agent, with a socket in the place of QEMU's end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from vmm_rig import stand_in

from harness.errors import GuestCrashed, GuestUnreachable, VmmDied
from harness.vmm.qemu import port as port_module
from harness.vmm.qemu.port import SerialPort
from harness.vmm.rundir import RunDirectory

Rig = tuple[SerialPort, socket.socket]


def fine() -> None:
    """The machine is well."""


@pytest.fixture
def rig(parent: Path) -> Iterator[Rig]:
    """A port, and the socket that QEMU would hold."""
    here, there = socket.socketpair()
    with RunDirectory.create(parent) as directory, stand_in(directory, "sleep", "60") as process, there:
        port = SerialPort(here, process)
        yield port, there
        port.close()


def test_lines_go_both_ways(rig: Rig) -> None:
    port, qemu = rig
    port.send(b"ask\n", 5, fine)
    assert qemu.recv(100) == b"ask\n"
    qemu.sendall(b"one\ntw")
    assert port.read_line(5, fine) == b"one"
    threading.Timer(0.1, qemu.sendall, (b"o\nthree\n",)).start()
    assert [port.read_line(5, fine), port.read_line(5, fine)] == [b"two", b"three"]


def test_more_than_a_socket_holds_is_sent_whole(rig: Rig) -> None:
    port, qemu = rig
    data = bytes(range(256)) * 20000
    got = bytearray()

    def take() -> None:
        while len(got) < len(data):
            got.extend(qemu.recv(1 << 16))

    taker = threading.Thread(target=take)
    taker.start()
    port.send(data, 10, fine)
    taker.join(10)
    assert got == data


def test_guest_that_takes_nothing_is_given_up_at_the_deadline(rig: Rig) -> None:
    port, _ = rig
    start = time.monotonic()
    with pytest.raises(GuestUnreachable, match=r"took none of \d+ bytes within 0\.3 s"):
        port.send(bytes(8 << 20), 0.3, fine)
    assert time.monotonic() - start < 3


def test_line_that_comes_in_drips_is_given_up_at_the_deadline(rig: Rig) -> None:
    port, qemu = rig
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            qemu.sendall(b"x")

    dripper = threading.Thread(target=drip)
    dripper.start()
    try:
        start = time.monotonic()
        with pytest.raises(GuestUnreachable, match=r"no answer within 0\.3 s"):
            port.read_line(0.3, fine)
        assert time.monotonic() - start < 3
    finally:
        stop.set()
        dripper.join()


def test_line_without_end_is_cut_off(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_module, "_LINE_BYTES", 1 << 16)
    port, qemu = rig
    flood = threading.Thread(target=qemu.sendall, args=(bytes(1 << 17),))
    flood.start()
    with pytest.raises(GuestUnreachable, match="over 65536 bytes without an end"):
        port.read_line(5, fine)
    flood.join(5)


def test_wait_ends_at_once_when_the_guest_has_crashed(rig: Rig) -> None:
    port, _ = rig
    crashed = threading.Event()

    def check() -> None:
        if crashed.is_set():
            raise GuestCrashed("panic")

    threading.Timer(0.2, crashed.set).start()
    start = time.monotonic()
    with pytest.raises(GuestCrashed):
        port.read_line(30, check)
    assert time.monotonic() - start < 3


def test_end_of_qemu_is_told(rig: Rig) -> None:
    port, qemu = rig
    port._process.kill()
    qemu.close()
    with pytest.raises(VmmDied, match="for a port of its guest"):
        port.read_line(5, fine)
    with pytest.raises(VmmDied, match="for a port of its guest"):
        port.send(b"x\n", 5, fine)
