from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from vmm_rig import Start, spec, stand_in, stopped

from harness.errors import GuestError, SpecError, VmmTimeout
from harness.vmm.qemu.network import NetworkCable
from harness.vmm.rundir import RunDirectory

_FRAME = bytes(range(64))


Rig = tuple[NetworkCable, socket.socket]


@pytest.fixture
def rig(parent: Path) -> Iterator[Rig]:
    """A cable, and its other end as QEMU holds it."""
    with (
        RunDirectory.create(parent) as directory,
        stand_in(directory, "sleep", "60") as process,
        NetworkCable("nic") as cable,
        socket.socket(fileno=os.dup(cable.guest_end)) as qemu,
    ):
        cable.attach(process)
        yield cable, qemu


def test_a_frame_has_its_length_before_it(rig: Rig) -> None:
    cable, qemu = rig
    cable.send(_FRAME)
    assert qemu.recv(100) == b"\0\0\0\x40" + _FRAME


def test_frames_are_told_apart_however_they_arrive(rig: Rig) -> None:
    cable, qemu = rig
    qemu.sendall(b"\0\0\0\x40" + _FRAME + b"\0\0\0\x0e" + _FRAME[:14] + b"\0\0")
    assert cable.receive(deadline=5) == _FRAME
    assert cable.receive(deadline=5) == _FRAME[:14]
    with pytest.raises(GuestError, match=r"no Ethernet frame came from nic within 0\.1 s"):
        cable.receive(deadline=0.1)
    qemu.sendall(b"\0\x0e" + _FRAME[:14])
    assert cable.receive(deadline=5) == _FRAME[:14]


@pytest.mark.parametrize("size", [0, 13, 68 * 1024 + 1])
def test_a_frame_that_is_none_is_refused(start: Start, size: int) -> None:
    with pytest.raises(SpecError, match=f"an Ethernet frame of {size} bytes"):
        start(spec("virtio-net")).network("virtio-net0").send(bytes(size))


def test_qemu_takes_frames_also_for_a_nic_that_is_not_plugged_yet(start: Start) -> None:
    cable = start(spec("virtio-net,hotplug=on")).network("virtio-net0")
    for _ in range(3):
        cable.send(_FRAME)


def test_a_qemu_that_takes_no_more_frames_is_a_timeout(start: Start) -> None:
    machine = start(spec("virtio-net"))
    cable = machine.network("virtio-net0")

    def flood() -> None:
        for _ in range(1000):
            cable.send(bytes(60_000), deadline=0.2)

    with stopped(machine.process.pid), pytest.raises(VmmTimeout, match="to take a frame for virtio-net0"):
        flood()


def test_a_device_that_is_no_nic_has_no_cable(start: Start) -> None:
    with pytest.raises(SpecError, match="no NIC 'edu0'"):
        start(spec("edu")).network("edu0")


def test_a_device_that_is_no_serial_one_has_no_port(start: Start) -> None:
    with pytest.raises(SpecError, match="no virtio-serial 'edu0'") as caught:
        start(spec("edu", "virtio-serial")).port("edu0")
    assert "virtio-serial0" in caught.value.hint
