"""The rings of a virtio device in the hands of a user-space driver: its device keeps to the pages that they are in."""

from __future__ import annotations

import struct

import pytest
from rogue import canary, neighbours

from harness.checks.dma import check_bytes
from harness.checks.judge import judge
from harness.checks.work import check_count
from harness.guest.answers import PAGE
from harness.live.machine import LiveMachine
from harness.live.user_space import give_to_vfio
from harness.live.virtqueue import LiveQueue
from harness.model.virtio.virtqueue import DescriptorFlags, Rings
from harness.vmm.qemu.pci import COMMAND_BUS_MASTER, COMMAND_MEMORY
from harness.vmm.qemu.virtio import VirtioFunction

_NIC, _QUEUE, _SIZE = "nic", 0, 64
_FEATURES = 1 << 15 | 1 << 32 | 1 << 33  # MRG_RXBUF, VERSION_1, ACCESS_PLATFORM (virtio 1.3, 5.1.3 and 6)
_TABLES, _BUFFERS, _USED = 0x100000, 0x200000, 0x300000
_DRIVER = 2048  # of the available ring, behind the descriptors
_HEADER_BYTES, _BUFFER_BYTES = 12, 2048
_WATCHED = 64
_SECONDS = 10.0
_BEFORE_BORDER = 8  # of the used ring: its head of four bytes, and half of its first entry
_FRAMES = tuple(bytes.fromhex("02000000000102000000000288b5") + bytes(size) for size in (60, 90))


@pytest.mark.claim("IV-1", "IV-5", "QD-2", "QD-4")
@pytest.mark.machine(devices=["virtio-net,iommu=on,id=nic"])
def test_an_entry_over_a_border_of_pages_goes_into_these_pages_alone(machine: LiveMachine) -> None:
    """Half of an entry of the used ring goes to the end of one page, half to the start of that which is mapped behind.

    The page that follows the first in memory is another's, and stays as it is. The control: an entry within a page.
    """
    address = machine.address(_NIC)
    last, behind = neighbours(machine, canary())
    pages = machine.allocate(3, bytes(PAGE))
    give_to_vfio(machine, _NIC)
    tables, _, following = pages.frames
    for iova, offset in ((_TABLES, 0), (_BUFFERS, PAGE), (_USED + PAGE, 2 * PAGE)):
        machine.agent.vfio_map(address, pages, iova, offset=offset, size=PAGE)
    machine.agent.vfio_map(address, last, _USED)
    memory, used = machine.vmm.memory, PAGE - _BEFORE_BORDER
    memory.write(last.frames[0] + used, bytes(_BEFORE_BORDER))
    for index in range(2):
        descriptor = struct.pack("<QIHH", _BUFFERS + index * _BUFFER_BYTES, _BUFFER_BYTES, DescriptorFlags.WRITE, 0)
        memory.write(tables + len(descriptor) * index, descriptor)
    memory.write(tables + _DRIVER, struct.pack("<HHHH", 0, 2, 0, 1))
    function = machine.config_space(machine.function(_NIC).address)
    function.enable(COMMAND_MEMORY | COMMAND_BUS_MASTER)
    device = VirtioFunction.find(function)
    rings = Rings(size=_SIZE, descriptors=_TABLES, driver=_TABLES + _DRIVER, device=_USED + used)
    device.start(_FEATURES, {_QUEUE: rings})
    device.notify(_QUEUE)
    queue, foreign = LiveQueue.of(machine, _NIC, _QUEUE), memory.read(behind.frames[0], _WATCHED)
    for number, frame in enumerate(_FRAMES):
        machine.vmm.network(_NIC).send(frame)
        queue.wait_used(number, _SECONDS)
    judge(check_count("entries of the used ring", len(_FRAMES), queue.used))
    for held in (pages, last, behind):
        machine.check_unmoved(held)
    first, second = (_HEADER_BYTES + len(frame) for frame in _FRAMES)
    parts = (
        ("the page that follows in memory, and is not mapped", behind.frames[0], foreign),
        ("the first half of the entry, in the first page", last.frames[0] + PAGE - 4, bytes(4)),
        ("the other half, in the page mapped behind it", following, first.to_bytes(4, "little")),
        ("the entry after that, in the same page", following + 4, struct.pack("<II", 1, second)),
    )
    judge(each for what, at, wanted in parts for each in check_bytes(what, wanted, memory.read(at, len(wanted))))
