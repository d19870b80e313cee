"""What a guest tells its kernel to do with the IOMMU: who is held back by that, from when on, and at what cost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from machines import spec
from rogue import RATE_LIMIT_SECONDS, canary, copy, write, write_over
from traffic import check_disk
from unmaps import check_window, open_card, require_lazy

from harness.checks.dma import check_bytes, check_outcome
from harness.checks.inventory import check_group_types, check_groups
from harness.checks.judge import judge
from harness.errors import GuestUnreachable
from harness.guest.answers import PAGE
from harness.live.machine import LiveMachine
from harness.live.user_space import give_to_vfio
from harness.model.access import AccessKind
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import Device, DmaMode, Iommu, IommuKind, Machine
from harness.vmm.qemu.edu import BUFFER_BYTES
from harness.vmm.qemu.trace import set_state

_FAULT_EVENTS = {
    IommuKind.INTEL: "vtd_dmar_fault",
    IommuKind.AMD: "amdvi_page_fault",
    IommuKind.VIRTIO: "virtio_iommu_report_fault",
}
_STORM = 4  # DMAs of as many bytes as there can be
_FAULTS = 1000  # of them all: QEMU does a DMA that is blocked in small pieces, 256 to 1,025 of a page
_DEVICES = ("edu,iommu=on,id=inside", "edu,iommu=off,id=outside")
_HUGE_PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
_HUGE_SHIFT, _HUGE_IOVA = 21, 1 << 32
_LOG_LINES = 200


@pytest.mark.claim("VQ-7", "VQ-3")
@pytest.mark.parametrize(
    ("before", "word", "held"),
    [
        pytest.param(DmaMode.STRICT, "iommu.passthrough=1", False, id="iommu.passthrough=1", marks=pytest.mark.nightly),
        pytest.param(DmaMode.PASSTHROUGH, "iommu.passthrough=0", True, id="iommu.passthrough=0"),
        pytest.param(DmaMode.PASSTHROUGH, "iommu=nopt", True, id="iommu=nopt", marks=pytest.mark.nightly),
    ],
)
def test_words_for_every_iommu_mean_what_they_say(
    lease: Lease, iommu: IommuKind, before: DmaMode, word: str, held: bool
) -> None:
    """A device is held back, or reaches all memory, as the kernel's command line says, whatever stood there before."""
    judge(_held(lease(spec(iommu, *_DEVICES, dma_mode=before, kernel_args=(word,))), held=held))


@pytest.mark.claim("VQ-7", "VQ-3")
@pytest.mark.machine(iommu="intel")
@pytest.mark.parametrize("word", ["intel_iommu=off", pytest.param("iommu=off", marks=pytest.mark.nightly)])
def test_words_that_switch_vtd_off_mean_what_they_say(lease: Lease, iommu: IommuKind, word: str) -> None:
    """A device behind a VT-d unit reaches all memory where the kernel's command line switches that off."""
    judge(_held(lease(spec(iommu, *_DEVICES, kernel_args=(word,))), held=False))


def _held(live: LiveMachine, *, held: bool) -> Iterator[Finding]:
    """Whether the device inside is held back; the control is that the one outside is not."""
    yield from write_over(live, "outside", live.allocate(1, canary()), blocked=False)
    if held:
        yield from write_over(live, "inside", live.allocate(1, canary()), blocked=True)
    else:
        yield from copy(live, "inside")


@pytest.mark.claim("VQ-7", "IV-1")
@pytest.mark.machine(iommu="intel")
@pytest.mark.parametrize(("words", "leaf"), [((), "SS-PDE"), (("intel_iommu=sp_off",), "SS-PTE")], ids=["sp", "sp_off"])
def test_sp_off_leaves_superpages_out(lease: Lease, iommu: IommuKind, words: tuple[str, ...], leaf: str) -> None:
    """A huge page is mapped by one entry of 2 MiB, and with intel_iommu=sp_off by one for each of its 4 KiB pages."""
    live = lease(spec(iommu, "edu,iommu=on", kernel_args=words))
    live.agent.write_file(_HUGE_PAGES, "1")
    page = live.allocate_huge(_HUGE_SHIFT)
    give_to_vfio(live, "edu0")
    live.agent.vfio_map(live.address("edu0"), page, _HUGE_IOVA)
    access, outcome, walk = live.expect("edu0", _HUGE_IOVA, AccessKind.WRITE, 4)
    judge(check_outcome(access, page.frames[0], outcome, walk, "VFIO_IOMMU_MAP_DMA of a huge page"))
    *_, last = live.engine.structures(access)
    if last != leaf:
        judge([Finding(subject="the last entry of the walk", expected=leaf, seen=last, detail=walk)])


@pytest.mark.claim("IV-7", "QD-2", "VQ-7")
@pytest.mark.machine(devices=["e1000e,iommu=on,id=nic"], dma_mode=DmaMode.LAZY)
def test_lazy_mode_blocks_what_is_unmapped_from_the_flush_on(machine: LiveMachine) -> None:
    """A card sends a frame again that its driver has unmapped, and cannot any more when that has been flushed."""
    open_card(machine, "nic")
    groups = machine.agent.iommu_groups()
    judge(check_group_types(machine.topology, groups))
    require_lazy(machine, "nic", groups)
    judge(check_window(machine, "nic"))


@pytest.mark.claim("VQ-7")
@pytest.mark.machine(devices=["edu,iommu=on,id=trusted", "edu,iommu=on,id=other"])
def test_one_group_is_passed_through_and_no_other(machine: LiveMachine) -> None:
    """The group whose type the guest makes `identity` reaches all memory; its neighbour does not. Then it is undone."""
    judge(check_groups(machine.topology, machine.agent.iommu_groups()))
    for type, blocked in (("identity", False), ("DMA", True)):
        machine.set_group_type("trusted", type)
        for device, held in (("trusted", blocked), ("other", True)):
            page = machine.allocate(1, canary())
            aim, why = page.frames[0] + 512, f"group type of `trusted`: {type}"
            judge(write(machine, device, aim, aim, page, blocked=held, why=why, count=4))


@pytest.mark.claim("VQ-3", "QD-1")
@pytest.mark.machine(iommu="virtio")
def test_without_its_driver_a_virtio_iommu_holds_nobody_back(lease: Lease, iommu: IommuKind) -> None:
    """Where boot-bypass is on, as QEMU has it, a guest that does not load the driver is open to every device.

    With boot-bypass off no such guest comes up, since no interrupt reaches it: that is tried without one, by
    `viommu conform`.
    """
    machine = Machine(
        iommu=Iommu(kind=iommu, boot_bypass=True),
        devices=(Device.parse("edu,iommu=on"),),
        # The kernel waits for the driver before it probes anything behind the IOMMU: not beyond its own start.
        kernel_args=("module_blacklist=virtio_iommu", "deferred_probe_timeout=0"),
    )
    try:
        live = lease(machine)
    except GuestUnreachable as error:
        lines = (line for line in error.evidence.splitlines() if "viommu-init" in line)
        seen = f"{error.message}: {next(lines, 'its init says nothing')}"
        judge([Finding(subject="a guest without that driver", expected="it comes up", seen=seen)])
    else:
        judge(copy(live, "edu0"))


@pytest.mark.claim("QD-2", "VQ-8")
@pytest.mark.machine(devices=[*_DEVICES, "virtio-blk,iommu=on"])
def test_a_guest_lives_through_a_storm_of_faults(machine: LiveMachine) -> None:
    """A thousand faults in a row and more: memory is untouched, and the guest goes on as before.

    Its log has some of them, and is not flooded. The control: a device outside writes as much, and gets through.
    """
    judge(_storm(machine))


def _storm(live: LiveMachine) -> Iterator[Finding]:
    page, other = live.allocate(1, canary()), live.allocate(1, canary())
    before, aim = live.vmm.memory.read(page.frames[0], PAGE), page.frames[0]
    event = _FAULT_EVENTS[live.spec.iommu.kind]
    requester, mark = live.function("inside").requester, live.log_mark()
    events = live.vmm.trace.another()
    set_state(live.vmm.qmp, event, enable=True)
    recorded = []
    for _ in range(_STORM):
        live.rogue("inside").dma_from_device(0, aim, BUFFER_BYTES)
        recorded.append(sum(each.name == event for each in events.new()))
    set_state(live.vmm.qmp, event, enable=False)
    if not all(recorded) or sum(recorded) < _FAULTS:
        subject, expected = f"faults that the IOMMU saw of {_STORM} DMAs", f"some of each, {_FAULTS} or more in all"
        yield Finding(subject=subject, expected=expected, seen=", ".join(map(str, recorded)))
    yield from check_bytes("memory after the storm", before, live.vmm.memory.read(aim, PAGE))
    live.rogue("outside").dma_from_device(0, other.frames[0], BUFFER_BYTES)
    outside = live.vmm.memory.read(other.frames[0], BUFFER_BYTES)
    yield from check_bytes("control: memory that a device outside wrote to", bytes(BUFFER_BYTES), outside)
    reported, lines = live.faults(requester, since=mark, wait=True), len(live.agent.kernel_log(mark))
    if not reported or lines > _LOG_LINES:
        expected = f"some faults, in {_LOG_LINES} lines at most"
        yield Finding(subject="the guest's log", expected=expected, seen=f"{len(reported)} faults, {lines} lines")
    time.sleep(RATE_LIMIT_SECONDS)  # and the log is open to news again
    yield from write(live, "inside", aim + 512, aim + 512, page, blocked=True, why="after the storm", count=4)
    yield from check_disk(live, "virtio-blk0")
