"""Machines that are moved into another QEMU while their guests go on: does the IOMMU hold what it held?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
from machines import spec
from rogue import COUNT, canary, write
from traffic import DiskWriter, check_disk, check_network

from harness.checks.judge import judge
from harness.checks.work import check_same_mappings
from harness.errors import Unsupported, VmmStartError
from harness.guest.answers import Pages
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.live.user_space import give_to_vfio
from harness.model.access import Mapping as MappedRange
from harness.plugin import Lease, Move
from harness.report.record import Finding
from harness.spec import IommuKind

_PAGE = 4096
_SOURCE, _TARGET, _READ_ONLY = 0x40000000, 0x7FFFE000, 0x50000000
_DEVICES = ("edu,iommu=on,id=user", "edu,iommu=on,id=idle", "virtio-blk,iommu=on", "virtio-net,iommu=on")


@pytest.mark.claim("IV-1", "VQ-3")
@pytest.mark.machine(devices=_DEVICES)
def test_mappings_hold_after_a_move(machine: LiveMachine, move: Move) -> None:
    """After a live migration the model finds the same mappings, a DMA goes where they say, and nowhere else.

    VFIO has mapped pages for one device, virtio-blk and virtio-net have theirs from the kernel, and one has none.
    """
    through_a_move(machine, move)


@pytest.mark.claim("VQ-8")
@pytest.mark.machine(devices=["virtio-blk,iommu=on", "virtio-net,iommu=on"])
def test_devices_work_after_two_moves_under_traffic(machine: LiveMachine, move: Move) -> None:
    """A disk is written to without pause over two live migrations, and virtio-net carries frames after each.

    No write is lost: they go on after each move, and what each has left is on the host's side of the disk.
    """
    writer = DiskWriter(machine, "virtio-blk0")
    for _ in range(2):
        judge(writer.check_progress(machine, "before a move"))
        machine = move(machine)
        judge(writer.check_progress(machine, "after a move"))
        judge(check_network(machine, "virtio-net0"))
    judge(writer.check_all(machine))
    judge(check_disk(machine, "virtio-blk0"))


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-1", "VQ-4")
def test_mappings_hold_after_a_move_to_a_newer_qemu(
    lab: Lab, newer_lab: Lab, lease: Lease, move: Move, iommu: IommuKind
) -> None:
    """After a live migration from an older QEMU to a newer one, of the older's machine type, all mappings hold."""
    version = "pc-q35-" + ".".join(lab.qemu.version.split(".")[:2])
    if version not in newer_lab.capabilities.machines:
        raise Unsupported(f"QEMU {newer_lab.qemu.version} has no machine {version}", hint="--move-to a newer one")
    asked = spec(iommu, *_DEVICES)
    machine = lease(asked, lab.options(asked, version))

    def to_newer(live: LiveMachine) -> LiveMachine:
        try:
            return move(live, newer_lab, newer_lab.options(asked, version))
        except VmmStartError as error:
            subject = f"a move of a {version} from QEMU {lab.qemu.version} to {newer_lab.qemu.version}"
            judge([Finding(subject=subject, expected="the machine goes on", seen=error.message, detail=error.evidence)])
            raise

    through_a_move(machine, to_newer)


def through_a_move(machine: LiveMachine, move: Callable[[LiveMachine], LiveMachine]) -> None:
    """Map pages, move the machine, try them, and have its devices work; the DMA is judged before drivers rely on it."""
    source, target, read_only = (machine.allocate(count, canary()) for count in (1, 4, 1))
    give_to_vfio(machine, "user")
    for iova, pages, permission in ((_SOURCE, source, "r"), (_TARGET, target, "rw"), (_READ_ONLY, read_only, "r")):
        machine.agent.vfio_map(machine.address("user"), pages, iova, permission)
    judge(check_disk(machine, "virtio-blk0"))
    judge(check_network(machine, "virtio-net0"))
    before = {id: machine.mappings(id) for id in ("user", "idle")}  # those of a driver at work change
    machine = move(machine)
    judge(mappings_that_differ(machine, before))
    judge(dma_after_a_move(machine, source, target, read_only))
    judge(check_disk(machine, "virtio-blk0"))
    judge(check_network(machine, "virtio-net0"))


def mappings_that_differ(machine: LiveMachine, before: Mapping[str, tuple[MappedRange, ...]]) -> Iterator[Finding]:
    """What the model finds mapped now, against what it found before the move."""
    for id, mapped in before.items():
        yield from check_same_mappings(id, mapped, machine.mappings(id))


def dma_after_a_move(machine: LiveMachine, source: Pages, target: Pages, read_only: Pages) -> Iterator[Finding]:
    """A DMA where VFIO has mapped, and three that must be blocked."""
    machine.load("user", _SOURCE, source.frames[0], COUNT)
    iova, aim = _TARGET + 2 * _PAGE + 512, target.frames[2] + 512
    yield from write(machine, "user", iova, aim, target, blocked=False, why="mapped by VFIO before the move")
    # A few bytes of each that is blocked: Linux reports ten faults in five seconds, and no more.
    beyond, first = _TARGET + 4 * _PAGE, target.frames[0]
    yield from write(machine, "user", beyond, first, target, blocked=True, why="mapped by nobody", count=4)
    frame = read_only.frames[0]
    yield from write(machine, "user", _READ_ONLY, frame, read_only, blocked=True, why="mapped for reading", count=4)
    yield from write(machine, "idle", first, first, target, blocked=True, why="nothing is mapped for it", count=4)
