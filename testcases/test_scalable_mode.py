"""VT-d in scalable mode: a PASID table entry says by which stage a device is translated, and to what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from machines import spec
from rogue import canary, copy, read, write, write_over
from traffic import check_disk, check_network

from harness.checks.inventory import check_group_types, check_groups
from harness.checks.judge import judge
from harness.guest.answers import PAGE
from harness.live.machine import LiveMachine
from harness.live.user_space import give_to_vfio
from harness.model.access import AccessKind
from harness.model.vtd.pasid import PASID_ENTRY
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import DmaMode, Iommu, IommuKind, Scalable
from harness.vmm.qemu.qtest import Width

_DEVICES = ("edu,iommu=on,id=rogue", "edu,iommu=off,id=outside", "virtio-blk,iommu=on", "virtio-net,iommu=on")
_READ_ONLY, _TARGET = 0x40000000, 0x7FFFE000
_LAST = {Scalable.FIRST_STAGE: "FS-PTE", Scalable.SECOND_STAGE: "SS-PTE"}
_STAGES = pytest.mark.parametrize("stage", Scalable, ids=str)

pytestmark = [pytest.mark.machine(iommu="intel")]


@pytest.mark.claim("IV-1", "IV-7", "QD-2")
@_STAGES
def test_a_device_in_scalable_mode_is_held_to_its_mappings(lease: Lease, iommu: IommuKind, stage: Scalable) -> None:
    """VFIO maps by the stage that there is: what is mapped is reached as it may be, and nothing else, nor later.

    The control: a device outside reaches what this one aimed at.
    """
    judge(_held_to_mappings(lease(spec(Iommu(kind=iommu, scalable=stage), *_DEVICES))))


def _held_to_mappings(live: LiveMachine) -> Iterator[Finding]:
    readable, target, secret = live.allocate(1, canary()), live.allocate(2, canary()), live.allocate(1, canary())
    give_to_vfio(live, "rogue")
    address = live.address("rogue")
    live.agent.vfio_map(address, readable, _READ_ONLY, "r")
    live.agent.vfio_map(address, target, _TARGET)
    yield from _last_entry(live)
    yield from write(live, "rogue", _TARGET + 512, target.frames[0] + 512, target, blocked=False, why="mapped")
    own = secret.frames[0]
    yield from write(live, "outside", own, own, secret, blocked=False, why="iommu=off")
    for iova, aim, pages, why in (
        # Before it is read: the fault of what a cached translation does not permit is not reported (F-1).
        (_READ_ONLY + 512, readable.frames[0] + 512, readable, "mapped for reading"),
        (own + 512, own + 512, secret, "mapped by nobody"),
    ):
        yield from write(live, "rogue", iova, aim, pages, blocked=True, why=why, count=4)
    show = _TARGET + PAGE, target.frames[1]
    yield from read(live, "rogue", _READ_ONLY, readable.frames[0], show=show, blocked=False, why="mapped for reading")
    live.agent.vfio_unmap(address, _TARGET, 2 * PAGE)
    aim = target.frames[0] + 1024
    yield from write(live, "rogue", _TARGET + 1024, aim, target, blocked=True, why="unmapped by VFIO", count=4)


def _last_entry(live: LiveMachine) -> Iterator[Finding]:
    """The walk of what is mapped goes by a PASID table entry, and ends with the entry of a page of that stage."""
    assert live.spec.iommu.scalable is not None
    access, _, walk = live.expect("rogue", _TARGET, AccessKind.WRITE, 4)
    *before, last = live.engine.structures(access)
    if last != _LAST[live.spec.iommu.scalable] or not any("PASID" in name for name in before):
        expected = f"a PASID table entry and, at last, {_LAST[live.spec.iommu.scalable]}"
        yield Finding(subject="entries of the walk", expected=expected, seen=", ".join((*before, last)), detail=walk)


@pytest.mark.claim("CH-1", "CH-4", "VQ-3", "VQ-8")
@_STAGES
@pytest.mark.parametrize("dma_mode", [DmaMode.STRICT, pytest.param(DmaMode.LAZY, marks=pytest.mark.nightly)], ids=str)
def test_drivers_work_in_scalable_mode(lease: Lease, iommu: IommuKind, stage: Scalable, dma_mode: DmaMode) -> None:
    """Groups and types are as in legacy mode, virtio-blk and virtio-net carry data, and a rogue reaches nothing."""
    live = lease(spec(Iommu(kind=iommu, scalable=stage), *_DEVICES, dma_mode=dma_mode))
    judge(check_groups(live.topology, live.agent.iommu_groups()))
    judge(check_group_types(live.topology, live.agent.iommu_groups()))
    judge(check_disk(live, "virtio-blk0"))
    judge(check_network(live, "virtio-net0"))
    judge(write_over(live, "rogue", live.allocate(1, canary()), blocked=True))


@pytest.mark.claim("VQ-3", "VQ-7")
@_STAGES
def test_a_device_passed_through_in_scalable_mode_reaches_all_memory(
    lease: Lease, iommu: IommuKind, stage: Scalable
) -> None:
    """With iommu=pt the PASID table entry passes a device's requests through, each to the address itself."""
    judge(copy(lease(spec(Iommu(kind=iommu, scalable=stage), *_DEVICES, dma_mode=DmaMode.PASSTHROUGH)), "rogue"))


@pytest.mark.claim("IV-1")
@_STAGES
def test_a_pasid_table_entry_has_no_width_of_a_stage_that_is_not_there(
    lease: Lease, iommu: IommuKind, stage: Scalable
) -> None:
    """AW, the width of the second stage, is zero in a unit that has none: it is reserved there, and blocks all DMA."""
    live = lease(spec(Iommu(kind=iommu, scalable=stage), *_DEVICES))
    access, _, walk = live.expect("virtio-blk0", 0, AccessKind.READ, 4)
    (address,) = [at for name, at in live.engine.structures(access).items() if name.startswith("PASID table entry")]
    width = PASID_ENTRY["AW"].get(live.vmm.qtest.read_value(address, Width.QUAD))
    if bool(width) != (stage is Scalable.SECOND_STAGE):
        expected = "0: reserved" if stage is Scalable.FIRST_STAGE else "that of the tables"
        subject = f"AW of the PASID table entry at {address:#x}"
        judge([Finding(subject=subject, expected=expected, seen=f"{width:#x}", citation="VT-d 9.6", detail=walk)])
