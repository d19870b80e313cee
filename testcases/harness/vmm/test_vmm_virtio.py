"""A virtio-net without a guest: its queues as the host finds them, and a device that does what is written there."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from vmm_rig import Start, function, spec

from harness.errors import HarnessError, SpecError
from harness.live.virtqueue import LiveQueue
from harness.model.virtio.virtqueue import Buffer, Rings
from harness.placement import place
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.pci import COMMAND_BUS_MASTER, COMMAND_MEMORY
from harness.vmm.qemu.qtest import Width
from harness.vmm.qemu.virtio import VirtioFunction

_NIC = "virtio-net0"
_BARS = 0xE800_0000
_RAM = 0x10_0000
_SIZE = 256
_BUFFERS = 0x40_0000
_ELSEWHERE = 0x50_0000
_FEATURES = 1 << 15 | 1 << 32  # MRG_RXBUF, VERSION_1 (virtio 1.3, 5.1.3 and 6)
_HEADER = bytes(10) + b"\1\0"  # virtio 1.3, 5.1.6
_FRAME = bytes(range(64))
_RECEIVE, _TRANSMIT = 0, 1


@dataclass(frozen=True)
class Nic:
    """A NIC whose driver is the test: with one buffer to receive into."""

    machine: QemuMachine
    device: VirtioFunction

    def queue(self, number: int) -> LiveQueue:
        return LiveQueue(self.device, number, lambda address: address)


def rings(number: int) -> Rings:
    start = _RAM + number * 0x1_0000
    return Rings(size=_SIZE, descriptors=start, driver=start + 0x2000, device=start + 0x4000)


@pytest.fixture
def nic(start: Start) -> Nic:
    machine: QemuMachine = start(spec("virtio-net"))
    pci = function(machine.qtest, place(machine.spec).slot(_NIC).number)
    for bar in (1, 4):  # MSI-X, and the structures: QEMU, hw/virtio/virtio-pci.c
        pci.write(0x10 + 4 * bar, _BARS + (bar << 20), Width.LONG)
    pci.write(0x10 + 4 * 5, 0, Width.LONG)
    pci.enable(COMMAND_MEMORY | COMMAND_BUS_MASTER)
    device = VirtioFunction.find(pci)
    # A descriptor that the device may write to, and the one entry of the available ring (virtio 1.3, 2.7.5 and 2.7.6).
    receive = rings(_RECEIVE)
    machine.memory.write(receive.descriptors + 16 * 3, struct.pack("<QIHH", _BUFFERS, 2048, 2, 0))
    machine.memory.write(receive.driver, struct.pack("<HHH", 0, 1, 3))
    device.start(_FEATURES, {number: rings(number) for number in (_RECEIVE, _TRANSMIT)})
    device.notify(_RECEIVE)
    return Nic(machine, device)


def test_queues_are_where_the_driver_said(nic: Nic) -> None:
    assert nic.device.queue(_RECEIVE) == rings(_RECEIVE)
    assert nic.queue(_TRANSMIT).rings == rings(_TRANSMIT)
    assert [place for _, place, _ in nic.queue(_TRANSMIT).iter_places()] == [0x11_0000, 0x11_2000, 0x11_4000]


def test_a_frame_goes_into_the_next_buffer(nic: Nic) -> None:
    queue = nic.queue(_RECEIVE)
    assert queue.next_buffer() == Buffer(_BUFFERS, 2048)
    nic.machine.network(_NIC).send(_FRAME)
    assert queue.wait_used(0, 10)
    assert nic.machine.memory.read(_BUFFERS, 76) == _HEADER + _FRAME
    with pytest.raises(HarnessError, match="has no buffer for the device"):
        queue.next_buffer()


def test_a_buffer_that_was_redirected_is_written_elsewhere(nic: Nic) -> None:
    queue = nic.queue(_RECEIVE)
    queue.redirect(_ELSEWHERE)
    nic.machine.network(_NIC).send(_FRAME)
    assert queue.wait_used(0, 10)
    assert nic.machine.memory.read(_ELSEWHERE, 76) == _HEADER + _FRAME
    assert not any(nic.machine.memory.read(_BUFFERS, 76))


def test_what_is_offered_is_sent_in_the_order_of_its_elements(nic: Nic) -> None:
    queue = nic.queue(_TRANSMIT)
    nic.machine.memory.write(_ELSEWHERE, _FRAME)
    queue.write(_BUFFERS, bytes(12))
    for number in range(3):
        queue.offer(Buffer(_BUFFERS, 12), Buffer(_ELSEWHERE, 40), Buffer(_ELSEWHERE + 40, 24))
        assert nic.machine.network(_NIC).receive(deadline=10) == _FRAME
        assert queue.wait_used(number, 10)


def test_nothing_is_offered_behind_what_the_device_has_not_used(nic: Nic) -> None:
    with pytest.raises(HarnessError, match="is not idle: 1 made available, 0 used"):
        nic.queue(_RECEIVE).offer(Buffer(_BUFFERS, 12))


def test_a_device_that_uses_nothing_is_waited_for_no_longer_than_told(nic: Nic) -> None:
    assert not nic.queue(_RECEIVE).wait_used(0, 0.1)


def test_what_is_no_virtio_device_is_refused(start: Start) -> None:
    machine = start(spec("edu"))
    with pytest.raises(SpecError, match="of a virtio device"):
        VirtioFunction.find(function(machine.qtest, place(machine.spec).slot("edu0").number))
