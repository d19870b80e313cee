"""Machines whose firmware reads the kernel from a disk behind the IOMMU, and what a device reaches until that runs."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from machines import spec
from rogue import canary, write, write_over, write_unheard
from shown import acpi_tables
from traffic import check_disk

from harness.checks.firmware import check_tables
from harness.checks.inventory import check_groups
from harness.checks.judge import judge
from harness.lab import BOOT_SECONDS, Lab
from harness.live.life_cycle import wait_for_firmware, wait_for_kernel
from harness.live.machine import LiveMachine
from harness.live.virtio_registers import VirtioRegisters
from harness.model.access import AccessKind, Fault
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import Firmware, IommuKind, Machine, Start

_DISK, _ROGUE, _OUTSIDE = "disk", "rogue", "outside"
_EDUS = (f"edu,iommu=on,id={_ROGUE}", f"edu,iommu=off,id={_OUTSIDE}")
_DEVICES = (f"virtio-blk,iommu=on,id={_DISK}", *_EDUS)
_UNUSED = 0x0800_0000  # guest physical address of a page that neither firmware nor, told so, the kernel uses
_AIM = _UNUSED + 1024
# Randomised, the kernel may lie there: where UEFI starts it, it minds no `memmap=` (Linux, drivers/firmware/efi).
_KEEP_OUT = ("nokaslr", f"memmap=4K${_UNUSED:#x}")
_TRANSLATE = "virtio_iommu_translate"
_LOOK_SECONDS = 30.0
_ANSWER_SECONDS = 2.0  # for a disk; it takes milliseconds


@pytest.mark.claim("VQ-8", "VQ-3", "VQ-1", "CH-4")
@pytest.mark.parametrize("firmware", Firmware)
def test_a_guest_starts_from_a_disk_behind_the_iommu(lease: Lease, iommu: IommuKind, firmware: Firmware) -> None:
    """Firmware reads the kernel from a virtio-blk behind the IOMMU: the guest comes up, with its devices held.

    Before that, while the firmware runs, a device reaches all memory, as the model has it: nobody has set the IOMMU up.
    The same DMA is blocked, and reported, once the kernel runs.
    """
    machine = lease(_machine(iommu, firmware, _DISK), wait=False)
    wait_for_firmware(machine)
    judge(write_unheard(machine, _ROGUE, _AIM, blocked=False, why="the firmware sets no IOMMU up"))
    wait_for_kernel(machine, BOOT_SECONDS)
    judge(check_tables(machine.topology.platform, acpi_tables(machine)))
    judge(check_groups(machine.topology, machine.agent.iommu_groups()))
    machine.vmm.memory.write(_UNUSED, canary())
    judge(write(machine, _ROGUE, _AIM, _AIM, blocked=True, why="the kernel has given it nothing"))
    judge(write_over(machine, _OUTSIDE, machine.allocate(1, canary()), blocked=False))
    judge(check_disk(machine, _DISK))


@pytest.mark.claim("VQ-3", "IV-1")
@pytest.mark.machine(iommu="virtio")
@pytest.mark.parametrize("firmware", Firmware)
def test_without_boot_bypass_firmware_reads_no_disk(
    lab: Lab, lease: Lease, iommu: IommuKind, firmware: Firmware
) -> None:
    """With boot-bypass=off no DMA of the disk passes before a driver has attached it: firmware starts nothing from it.

    A device behind the IOMMU reaches nothing then. The control is one outside, in the same machine.
    """
    asked = _machine(iommu, firmware, _DISK, boot_bypass=False)
    options = lab.options(asked)
    machine = lease(asked, replace(options, trace=(*options.trace, _TRANSLATE)), wait=False)
    wait_for_firmware(machine)
    judge(disk_is_not_read(machine))
    judge(write_unheard(machine, _ROGUE, _AIM, blocked=True, why="boot-bypass=off"))
    judge(write_unheard(machine, _OUTSIDE, _AIM, blocked=False, why="iommu=off"))


def _machine(iommu: IommuKind, firmware: Firmware, disk: str | None, *, boot_bypass: bool = True) -> Machine:
    return spec(
        iommu,
        *_DEVICES,
        kernel_args=_KEEP_OUT,
        boot_bypass=boot_bypass if iommu is IommuKind.VIRTIO else None,
        start=Start(firmware=firmware, disk=disk),
    )


def disk_is_not_read(machine: LiveMachine) -> Iterator[Finding]:
    """What is wrong with a disk of whose DMA the IOMMU lets nothing pass."""
    function = machine.function(_DISK)
    end = time.monotonic() + _LOOK_SECONDS
    asked = 0
    while not asked and time.monotonic() < end:
        events = [event for event in machine.vmm.trace.new() if event.name == _TRANSLATE]
        asked = sum(event.fields["rid"] == function.requester for event in events)
        time.sleep(0.05)
    if not asked:
        yield Finding(subject=f"DMA of {_DISK} that the IOMMU is asked about", expected="some", seen="none")
        return
    time.sleep(_ANSWER_SECONDS)
    queue = VirtioRegisters.find(machine.config_space(function.address)).queue(0)
    for what, ring, kind in (("made", queue.available, AccessKind.READ), ("answered", queue.used, AccessKind.WRITE)):
        _, index = struct.unpack("<HH", machine.vmm.memory.read(ring, 4))  # flags, idx: virtio 1.3, 2.7.6 and 2.7.8
        if (index > 0) != (what == "made"):
            wanted = "some" if what == "made" else "none"
            yield Finding(subject=f"requests to {_DISK} that were {what}", expected=wanted, seen=str(index))
        access, outcome, walk = machine.expect(_DISK, ring, kind, 2)
        if not isinstance(outcome, Fault):
            yield Finding(subject=f"the model's walk for {access}", expected="blocked", seen=str(outcome), detail=walk)
    said = machine.vmm.console.text
    if "GRUB" in said or "Linux" in said:
        yield Finding(subject="what firmware starts", expected="nothing", seen=said[-200:])
