"""What is done with a machine of a soak: what cases do, in small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from harness.checks.inventory import check_functions, check_groups
from harness.guest.lspci import lspci
from harness.live.machine import LiveMachine
from harness.report.record import Finding
from harness.spec import Device, DeviceKind, Iommu, IommuKind, Machine

__all__ = ["WORKS", "random_spec"]

_BLOCK = 64 * 1024
_KINDS = (DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_NET, DeviceKind.EDU)


def random_spec(random: Random) -> Machine:
    """A machine with up to three devices; not more kinds of machine than a few templates are for."""
    kind = random.choice((IommuKind.INTEL, IommuKind.VIRTIO))
    outside = random.random() < 0.3
    devices = tuple(
        Device(
            kind=random.choice(_KINDS),
            iommu=not (outside and number == 0),
            hotplug=random.random() < 0.3,
        )
        for number in range(random.randint(1 if outside else 0, 3))
    )
    return Machine(iommu=Iommu(kind=kind), devices=devices)


def _groups(machine: LiveMachine, random: Random) -> Iterator[Finding]:
    """Groups and functions are as expected, also after what can be plugged has been."""
    for device in machine.spec.devices:
        if device.id not in machine.plugged:
            machine.plug(device.id)
    yield from check_groups(machine.topology, machine.agent.iommu_groups())
    yield from check_functions(machine.topology, lspci(machine.guest.ssh))


def _disk(machine: LiveMachine, random: Random) -> Iterator[Finding]:
    """A disk reads back what was written."""
    for device in machine.spec.devices:
        if device.kind is DeviceKind.VIRTIO_BLK and device.id in machine.plugged:
            node = machine.agent.block_device(machine.address(device.id))
            written = machine.agent.block_write(node, 0, random.getrandbits(32), _BLOCK)
            read = machine.agent.block_read(node, 0, _BLOCK)
            if read != written:
                yield Finding(subject=f"SHA-256 of {_BLOCK} bytes of {device.id}", expected=written, seen=read)


def _unplug(machine: LiveMachine, random: Random) -> Iterator[Finding]:
    """What is unplugged is gone, and comes again."""
    there = sorted(machine.plugged)
    if there:
        id = random.choice(there)
        machine.unplug(id)
        yield from check_groups(machine.topology, machine.agent.iommu_groups())
        machine.plug(id)
    yield from check_groups(machine.topology, machine.agent.iommu_groups())


def _pages(machine: LiveMachine, random: Random) -> Iterator[Finding]:
    """Pages of the guest are where it says."""
    pages = machine.allocate(2, random.randbytes(64))
    machine.check_unmoved(pages)
    yield from ()


WORKS: tuple[Callable[[LiveMachine, Random], Iterator[Finding]], ...] = (_groups, _disk, _unplug, _pages)
"""Each gives what was wrong."""
