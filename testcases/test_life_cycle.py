"""Machines whose kernel ends and begins again: what was mapped has gone, and what is mapped then holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
from machines import spec
from rogue import COUNT, canary, write, write_over
from traffic import check_disk, check_network

from harness.checks.inventory import check_groups
from harness.checks.judge import judge
from harness.lab import BOOT_SECONDS, Lab
from harness.live import LiveMachine
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import IommuKind

_SOURCE, _TARGET = 0x40000000, 0x7FFFE000
_ROGUE, _DISK, _NIC = "rogue", "disk", "nic"
_DEVICES = (f"edu,iommu=on,id={_ROGUE}", f"virtio-blk,iommu=on,id={_DISK}", f"virtio-net,iommu=on,id={_NIC}")


def _reboot(machine: LiveMachine) -> None:
    """By the guest: its drivers are told to shut their devices down first."""
    machine.guest.run("(sleep 0.2; reboot -f) >/dev/null 2>&1 &")


def _reset(machine: LiveMachine) -> None:
    """By the VMM: nobody in the guest is told."""
    machine.vmm.qmp.execute("system_reset")


_RESETS: Mapping[str, Callable[[LiveMachine], None]] = {"reboot": _reboot, "system-reset": _reset}


@pytest.mark.claim("IV-1", "VQ-3", "VQ-8")
@pytest.mark.parametrize("how", _RESETS)
def test_no_mapping_outlives_a_reset(lab: Lab, lease: Lease, iommu: IommuKind, how: str) -> None:
    """After a reset of the machine a device is held to what the new kernel maps: nothing from before lets it through.

    The control: before it, VFIO's mapping did. virtio-blk and virtio-net carry data before and after.
    """
    asked = spec(iommu, *_DEVICES)
    machine = lease(asked, replace(lab.options(asked), reboots=True))
    frame = map_and_try(machine)
    machine.restart(lambda: _RESETS[how](machine), BOOT_SECONDS)
    judge(after_a_restart(machine, frame))


def map_and_try(machine: LiveMachine) -> int:
    """Have VFIO map a page for the rogue, and all devices work; guest physical address of that page."""
    source, target = machine.allocate(1, canary()), machine.allocate(1, canary())
    machine.give_to_vfio(_ROGUE)
    machine.agent.vfio_map(machine.address(_ROGUE), source, _SOURCE, "r")
    machine.agent.vfio_map(machine.address(_ROGUE), target, _TARGET)
    machine.load(_ROGUE, _SOURCE, source.frames[0], COUNT)
    judge(write(machine, _ROGUE, _TARGET, target.frames[0], target, blocked=False, why="mapped by VFIO"))
    judge(devices_work(machine))
    return target.frames[0]


def after_a_restart(machine: LiveMachine, old: int) -> Iterator[Finding]:
    """What is wrong with a machine whose kernel is another one: with old mappings, groups, new mappings, devices.

    Args:
        machine: it.
        old: guest physical address of what the rogue had been given before.
    """
    yield from check_groups(machine.topology, machine.agent.iommu_groups())
    why = "mapped by VFIO for the kernel before this one"
    yield from write(machine, _ROGUE, _TARGET + 2048, old + 2048, blocked=True, why=why, count=4)
    page = machine.allocate(1, canary())
    yield from write_over(machine, _ROGUE, page, blocked=True)
    machine.give_to_vfio(_ROGUE)
    machine.agent.vfio_map(machine.address(_ROGUE), page, _TARGET)
    yield from write(machine, _ROGUE, _TARGET, page.frames[0], page, blocked=False, why="mapped by VFIO anew")
    yield from devices_work(machine)


def devices_work(machine: LiveMachine) -> Iterator[Finding]:
    """virtio-blk and virtio-net carry data."""
    yield from check_disk(machine, _DISK)
    yield from check_network(machine, _NIC)
