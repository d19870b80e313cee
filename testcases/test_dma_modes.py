"""What a guest tells its kernel to do with the IOMMU: who is held back by that, from when on, and at what cost."""

from __future__ import annotations

import time

import pytest
from machines import spec
from rogue import RATE_LIMIT_SECONDS, canary, copy, write, write_over
from traffic import check_disk

from harness.checks.dma import check_bytes
from harness.checks.judge import judge
from harness.guest.agent import PAGE
from harness.live.machine import LiveMachine
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.vmm.qemu.edu import BUFFER_BYTES
from harness.vmm.qemu.trace import set_state

_FAULT_EVENTS = {
    IommuKind.INTEL: "vtd_dmar_fault",
    IommuKind.AMD: "amdvi_page_fault",
    IommuKind.VIRTIO: "virtio_iommu_report_fault",
}
_STORM = 4  # DMAs of as many bytes as there can be: QEMU up to 11 does each in pieces of four bytes
_LOG_LINES = 200


@pytest.mark.claim("VQ-7", "VQ-3")
@pytest.mark.parametrize(
    ("word", "held"),
    [
        pytest.param("iommu.passthrough=1", False, id="iommu.passthrough=1"),
        pytest.param("iommu.passthrough=0", True, id="iommu.passthrough=0"),
        pytest.param("iommu.strict=0", True, id="iommu.strict=0"),
        pytest.param("iommu=nopt", True, id="iommu=nopt"),
    ],
)
def test_words_for_every_iommu_mean_what_they_say(lease: Lease, iommu: IommuKind, word: str, held: bool) -> None:
    """A device is held back, or reaches all memory, as the kernel's command line says."""
    _hold(lease(spec(iommu, "edu,iommu=on", kernel_args=(word,))), held=held)


@pytest.mark.claim("VQ-7", "VQ-3")
@pytest.mark.machine(iommu="intel")
@pytest.mark.parametrize(
    ("word", "held"),
    [
        pytest.param("intel_iommu=off", False, id="intel_iommu=off"),
        pytest.param("intel_iommu=sp_off", True, id="intel_iommu=sp_off"),
        pytest.param("iommu=off", False, id="iommu=off"),
    ],
)
def test_words_for_vtd_mean_what_they_say(lease: Lease, iommu: IommuKind, word: str, held: bool) -> None:
    """A device behind a VT-d unit is held back, or reaches all memory, as the kernel's command line says."""
    _hold(lease(spec(iommu, "edu,iommu=on", kernel_args=(word,))), held=held)


def _hold(live: LiveMachine, *, held: bool) -> None:
    if held:
        judge(write_over(live, "edu0", live.allocate(1, canary()), blocked=True))
    else:
        judge(copy(live, "edu0"))


@pytest.mark.claim("VQ-7")
@pytest.mark.machine(devices=["edu,iommu=on,id=trusted", "edu,iommu=on,id=other"])
def test_one_group_is_passed_through_and_no_other(machine: LiveMachine) -> None:
    """The group whose type the guest makes `identity` reaches all memory; its neighbour does not. Then it is undone."""
    groups = machine.agent.iommu_groups()
    group = next(group for group in groups if machine.address("trusted") in group.devices)
    kind = f"/sys/kernel/iommu_groups/{group.number}/type"
    for type, blocked in (("identity", False), ("DMA", True)):
        machine.agent.write_file(kind, type)
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
        # The kernel waits for the driver before it probes anything behind the IOMMU: not longer than a second.
        kernel_args=("module_blacklist=virtio_iommu", "deferred_probe_timeout=1"),
    )
    judge(copy(lease(machine), "edu0"))


@pytest.mark.claim("QD-2", "VQ-8")
@pytest.mark.machine(devices=["edu,iommu=on", "virtio-blk,iommu=on"])
def test_a_guest_lives_through_a_storm_of_faults(machine: LiveMachine) -> None:
    """Thousands of faults in a row: each is seen by the IOMMU, memory is untouched, and the guest goes on as before.

    Its log has some of them, and is not flooded.
    """
    page = machine.allocate(1, canary())
    before = machine.vmm.memory.read(page.frames[0], PAGE)
    events = machine.vmm.trace.another()
    set_state(machine.vmm.qmp, _FAULT_EVENTS[machine.spec.iommu.kind], enable=True)
    mark, device, requester = machine.log_mark(), machine.rogue("edu0"), machine.function("edu0").requester
    for _ in range(_STORM):
        device.dma_from_device(0, page.frames[0], BUFFER_BYTES)
    judge(check_bytes("memory after the storm", before, machine.vmm.memory.read(page.frames[0], PAGE)))
    recorded = sum(event.name == _FAULT_EVENTS[machine.spec.iommu.kind] for event in events.new())
    if recorded < _STORM:
        subject = f"faults that the IOMMU saw of {_STORM} DMAs"
        judge([Finding(subject=subject, expected=f"{_STORM} or more", seen=str(recorded))])
    reported, lines = machine.faults(requester, since=mark, wait=True), len(machine.agent.kernel_log(mark))
    if not reported or lines > _LOG_LINES:
        expected = f"some faults, in {_LOG_LINES} lines at most"
        judge([Finding(subject="the guest's log", expected=expected, seen=f"{len(reported)} faults, {lines} lines")])
    time.sleep(RATE_LIMIT_SECONDS)  # and the log is open to news again
    aim = page.frames[0] + 512
    judge(write(machine, "edu0", aim, aim, page, blocked=True, why="after the storm", count=4))
    judge(check_disk(machine, "virtio-blk0"))
