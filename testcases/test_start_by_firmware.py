"""Machines whose firmware reads the kernel from a disk behind the IOMMU, and what a device reaches until that runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from machines import spec
from rogue import canary, write, write_over, write_unheard
from shown import acpi_tables
from traffic import check_disk, check_path

from harness.checks.dma import check_outcome
from harness.checks.firmware import check_tables
from harness.checks.inventory import check_groups
from harness.checks.judge import judge
from harness.checks.work import check_count
from harness.guest.answers import PAGE
from harness.lab import FIRMWARE_BOOT_SECONDS, Lab
from harness.live.life_cycle import wait_for_firmware, wait_for_kernel
from harness.live.machine import LiveMachine
from harness.model.access import AccessKind
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import Firmware, Iommu, IommuKind, Machine, Start
from harness.vmm.qemu.virtio import VirtioFunction

_DISK, _ROGUE, _OUTSIDE = "disk", "rogue", "outside"
_EDUS = (f"edu,iommu=on,id={_ROGUE}", f"edu,iommu=off,id={_OUTSIDE}")
_UNUSED = 0x0800_0000  # guest physical address of a page that neither firmware nor, told so, the kernel uses
_AIM = _UNUSED + 1024
_KERNEL_ARGS = (
    f"memmap=4K${_UNUSED:#x}",
    "nokaslr",  # randomised, it may lie there: where UEFI starts it, it minds no memmap= (Linux, drivers/firmware/efi)
)
_TRANSLATE = "virtio_iommu_translate"
_LOOK_SECONDS = 30.0
_ANSWER_SECONDS = 2.0  # for a disk; it takes milliseconds


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("VQ-8", "VQ-3", "VQ-1", "CH-4")
def test_seabios_starts_a_guest_from_a_disk_behind_the_iommu(lease: Lease, iommu: IommuKind) -> None:
    """SeaBIOS reads the kernel from a virtio-blk behind the IOMMU: the guest comes up, and its devices are held.

    Before that, while the firmware runs, a device reaches all memory, as the model has it: nobody has set the IOMMU up.
    The same DMA is blocked, and reported, once the kernel runs.
    """
    machine = lease(_machine(iommu, Firmware.SEABIOS, _DISK), wait=False)
    come_up(machine)
    judge(check_disk(machine, _DISK))


@pytest.mark.nightly
@pytest.mark.claim("VQ-8", "VQ-3", "VQ-1", "CH-4")
def test_ovmf_starts_a_guest_from_a_disk_behind_the_iommu_again_and_again(
    lab: Lab, lease: Lease, iommu: IommuKind
) -> None:
    """As SeaBIOS does, OVMF does from its flash, and after a reset of the machine it does so again.

    What the kernel before the reset has set up stands in nobody's way: neither its tables nor what it has attached.
    """
    asked = _machine(iommu, Firmware.OVMF, _DISK)
    machine = lease(asked, replace(lab.options(asked), reboots=True), wait=False)
    come_up(machine)
    machine.restart(lambda: machine.vmm.qmp.execute("system_reset"), FIRMWARE_BOOT_SECONDS)
    judge(is_held(machine))
    judge(check_disk(machine, _DISK))


@pytest.mark.claim("QD-1")
@pytest.mark.parametrize("firmware", Firmware)
def test_a_device_reaches_all_memory_while_firmware_runs(lease: Lease, iommu: IommuKind, firmware: Firmware) -> None:
    """Firmware that finds nothing to start sets no IOMMU up: a device behind it reads and writes where it likes.

    As one outside does. For a virtio-iommu that is boot-bypass=on.
    """
    machine = lease(_machine(iommu, firmware, None), wait=False)
    wait_for_firmware(machine)
    for device in (_ROGUE, _OUTSIDE):
        judge(write_unheard(machine, device, _AIM, blocked=False, why="the firmware sets no IOMMU up"))


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


def come_up(machine: LiveMachine) -> None:
    """See what a device reaches while firmware runs, wait for the kernel, and see that devices are held then."""
    wait_for_firmware(machine)
    judge(write_unheard(machine, _ROGUE, _AIM, blocked=False, why="the firmware sets no IOMMU up"))
    wait_for_kernel(machine, FIRMWARE_BOOT_SECONDS)
    judge(is_held(machine))


def is_held(machine: LiveMachine) -> Iterator[Finding]:
    """What is wrong with the tables, groups and devices of a machine whose kernel has come up."""
    yield from check_tables(machine.topology.platform, acpi_tables(machine))
    yield from check_groups(machine.topology, machine.agent.iommu_groups())
    yield from check_path(machine, _DISK)
    machine.vmm.memory.write(_UNUSED, canary()[:PAGE])
    yield from write(machine, _ROGUE, _AIM, _AIM, blocked=True, why="the kernel has given it nothing")
    yield from write_over(machine, _OUTSIDE, machine.allocate(1, canary()), blocked=False)


def _machine(iommu: IommuKind, firmware: Firmware, disk: str | None, *, boot_bypass: bool = True) -> Machine:
    return spec(
        Iommu(kind=iommu, boot_bypass=boot_bypass if iommu is IommuKind.VIRTIO else None),
        *(_EDUS if disk is None else (f"virtio-blk,iommu=on,id={disk}", *_EDUS)),
        kernel_args=_KERNEL_ARGS,
        start=Start(firmware=firmware, disk=disk),
    )


def disk_is_not_read(machine: LiveMachine) -> Iterator[Finding]:
    """What is wrong with a disk of whose DMA the IOMMU lets nothing pass."""
    function = machine.function(_DISK)
    end = time.monotonic() + _LOOK_SECONDS
    asked = 0
    while not asked and not started(machine) and time.monotonic() < end:
        time.sleep(0.05)
        # The model needs none of these: no driver has asked the IOMMU for anything.
        asked = sum(e.name == _TRANSLATE and e.fields["rid"] == function.requester for e in machine.vmm.trace.new())
    if not asked:
        yield Finding(subject=f"DMA of {_DISK} that the IOMMU is asked about", expected="some", seen="none")
        return
    time.sleep(_ANSWER_SECONDS)
    queue = VirtioFunction.find(machine.config_space(function.address)).queue(0)
    for ring, kind in ((queue.driver, AccessKind.READ), (queue.device, AccessKind.WRITE)):
        access, outcome, walk = machine.expect(_DISK, ring, kind, 2)
        yield from check_outcome(access, None, outcome, walk, "boot-bypass=off")
    made, answered = (_index(machine, ring) for ring in (queue.driver, queue.device))
    yield from check_count(f"requests that firmware made to {_DISK}", 1, made)
    yield from check_count(f"requests that {_DISK} has answered", 0, answered)
    yield from check_count(f"things that firmware started from {_DISK}", 0, len(started(machine)))


def started(machine: LiveMachine) -> list[str]:
    """What is on the disk and has said something."""
    return [name for name in ("GRUB", "Linux") if name in machine.vmm.console.text]


def _index(machine: LiveMachine, ring: int) -> int:
    """How many entries a ring has had: its idx, behind its flags (virtio 1.3, 2.7.6 and 2.7.8)."""
    return int.from_bytes(machine.vmm.memory.read(ring + 2, 2), "little")
