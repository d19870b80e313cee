from __future__ import annotations

import random

import pytest
from vmm_rig import ECAM, Start, function, spec

from harness.errors import GuestError, SpecError, VmmTimeout
from harness.pci import Address
from harness.vmm.protocol import Cable
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.nic.intel import I82574, I82576, IntelNic
from harness.vmm.qemu.nic.protocol import Nic, QueuePage
from harness.vmm.qemu.nic.virtio_net import VirtioNet
from harness.vmm.qemu.pci import COMMAND_BUS_MASTER, COMMAND_MEMORY, PciFunction
from harness.vmm.qemu.qtest import Width

_FIRST_DEVICE = 4
_BAR0, _BUSES, _MEMORY_WINDOW, _BAR4 = 0x10, 0x18, 0x20, 0x20
_WINDOW = 0xE800_0000
_SENDING, _RECEIVING, _SOURCE, _TARGET = 0x20_0000, 0x21_0000, 0x30_0000, 0x31_0000
_HEADER = bytes.fromhex("525400aa0001 525400aa0002 88b5")


def _virtio_net(machine: QemuMachine) -> Nic:
    place = function(machine.qtest, _FIRST_DEVICE)
    place.write(_BAR4, _WINDOW, Width.LONG)
    place.write(_BAR4 + 4, 0, Width.LONG)
    return VirtioNet(place, machine.memory)


def _e1000e(machine: QemuMachine) -> Nic:
    return IntelNic(I82574, function(machine.qtest, _FIRST_DEVICE), machine.memory)


def _igb(machine: QemuMachine) -> Nic:
    """Behind a root port, which passes bus 1 and a window of memory on (PCI-to-PCI Bridge 1.2, 3.2.5)."""
    port = function(machine.qtest, _FIRST_DEVICE)
    port.write(_BUSES, 0x01_01_00, Width.LONG)
    port.write(_MEMORY_WINDOW, _WINDOW & 0xFFF0_0000 | _WINDOW >> 16, Width.LONG)
    port.enable(COMMAND_MEMORY | COMMAND_BUS_MASTER)
    place = PciFunction(machine.qtest, ECAM, Address(1, 0))
    place.write(_BAR0, _WINDOW, Width.LONG)
    return IntelNic(I82576, place, machine.memory)


_KINDS = {"virtio-net": _virtio_net, "e1000e": _e1000e, "igb": _igb}
_every_kind = pytest.mark.parametrize("kind", _KINDS)


def _started(machine: QemuMachine, kind: str) -> Nic:
    nic = _KINDS[kind](machine)
    nic.start(QueuePage(_SENDING, _SENDING), QueuePage(_RECEIVING, _RECEIVING))
    return nic


def _frame(count: int) -> bytes:
    return _HEADER + random.randbytes(count - len(_HEADER))


def _sent(cable: Cable, nic: Nic, count: int) -> bytes:
    nic.send((_SOURCE + 3, count))
    nic.wait_sent()
    return cable.receive(deadline=5)


@_every_kind
@pytest.mark.parametrize("count", [60, 61, 257, 1514])
def test_what_stands_in_memory_comes_out_of_the_cable(start: Start, kind: str, count: int) -> None:
    machine = start(spec(kind))
    nic, frame = _started(machine, kind), _frame(count)
    machine.memory.write(_SOURCE + 3, frame)
    assert _sent(machine.network(f"{kind}0"), nic, count) == frame


@_every_kind
def test_a_frame_is_gathered_from_its_pieces(start: Start, kind: str) -> None:
    machine = start(spec(kind))
    nic, frame = _started(machine, kind), _frame(100)
    for _ in range(6):
        machine.memory.write(_SOURCE + 3, frame[:50])
        machine.memory.write(_TARGET, frame[50:])
        nic.send((_SOURCE + 3, 50), (_TARGET, 10), (_TARGET + 10, 40))
        nic.wait_sent()
        assert machine.network(f"{kind}0").receive(deadline=5) == frame


@_every_kind
@pytest.mark.parametrize("count", [60, 61, 257, 1514])
def test_what_goes_into_the_cable_stands_in_memory_and_nothing_beside_it(start: Start, kind: str, count: int) -> None:
    machine = start(spec(kind))
    nic, frame = _started(machine, kind), _frame(count)
    machine.memory.write(_TARGET, b"\xee" * 4096)
    nic.offer(_TARGET + 5, count)
    machine.network(f"{kind}0").send(frame)
    nic.wait_received()
    assert machine.memory.read(_TARGET, 4096) == (b"\xee" * 5 + frame).ljust(4096, b"\xee")


@_every_kind
def test_queues_are_gone_round(start: Start, kind: str) -> None:
    machine = start(spec(kind))
    nic, cable = _started(machine, kind), machine.network(f"{kind}0")
    for _ in range(20):
        frame = _frame(100)
        machine.memory.write(_SOURCE + 3, frame)
        assert _sent(cable, nic, len(frame)) == frame
        nic.offer(_TARGET, len(frame))
        cable.send(frame)
        nic.wait_received()
        assert machine.memory.read(_TARGET, len(frame)) == frame


@_every_kind
def test_a_card_can_be_started_again(start: Start, kind: str) -> None:
    machine = start(spec(kind))
    frame = _frame(64)
    machine.memory.write(_SOURCE + 3, frame)
    for _ in range(2):
        nic = _started(machine, kind)
        assert _sent(machine.network(f"{kind}0"), nic, len(frame)) == frame


@_every_kind
def test_a_frame_waits_until_there_is_a_buffer_for_it(start: Start, kind: str) -> None:
    machine = start(spec(kind))
    nic, frame = _started(machine, kind), _frame(64)
    machine.network(f"{kind}0").send(frame)
    nic.wait_received()  # no buffer is there that could be filled
    nic.offer(_TARGET, len(frame))
    nic.wait_received()
    assert machine.memory.read(_TARGET, len(frame)) == frame


@_every_kind
def test_a_buffer_without_a_frame_is_a_timeout(start: Start, kind: str) -> None:
    nic = _started(start(spec(kind)), kind)
    nic.offer(_TARGET, 64)
    with pytest.raises(VmmTimeout, match=rf"the {kind} at \S+ has not filled all buffers"):
        nic.wait_received(deadline=0.2)


@_every_kind
def test_nothing_is_sent_unasked(start: Start, kind: str) -> None:
    machine = start(spec(kind))
    _started(machine, kind)
    with pytest.raises(GuestError):
        machine.network(f"{kind}0").receive(deadline=0.3)


@pytest.mark.parametrize("kind", ["virtio-net", "e1000e"])
def test_another_device_is_not_taken_for_that_card(start: Start, kind: str) -> None:
    nic = _KINDS[kind](start(spec("edu")))
    with pytest.raises(SpecError, match="is 1234:11e8, not a"):
        nic.start(QueuePage(_SENDING, _SENDING), QueuePage(_RECEIVING, _RECEIVING))


def test_a_buffer_that_is_too_large_is_refused(start: Start) -> None:
    nic = _started(start(spec("e1000e")), "e1000e")
    with pytest.raises(SpecError, match="a buffer of 2049 bytes"):
        nic.offer(_TARGET, 2049)
