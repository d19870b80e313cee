"""A malicious device: what it reaches of memory that it was never given, and what the guest hears of it."""

from __future__ import annotations

import pytest
from rogue import COUNT, canary, copy, write_over

from harness.checks.dma import check_bytes, check_outcome, check_reported
from harness.checks.judge import judge
from harness.live import LiveMachine
from harness.model.access import AccessKind
from harness.report.record import Finding
from harness.spec import DmaMode

_IOVA = 0x12345000


@pytest.mark.claim("QD-1", "QD-2", "IV-1")
@pytest.mark.machine(devices=["edu,iommu=on,id=inside", "edu,iommu=off,id=outside"])
def test_write_to_memory_never_given_is_blocked_and_reported(machine: LiveMachine) -> None:
    """A device behind the IOMMU writes to memory it was never given: memory is untouched, and the guest reports it.

    The control: a device outside does the same in the same machine, and gets through.
    """
    victim, control = machine.allocate(1, canary()), machine.allocate(1, canary())
    judge(write_over(machine, "inside", victim, blocked=True))
    judge(write_over(machine, "outside", control, blocked=False))


@pytest.mark.claim("QD-2", "IV-1")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_read_of_memory_never_given_is_blocked_and_reported(machine: LiveMachine) -> None:
    """A device behind the IOMMU reads memory it was never given, and gets nothing of it; the guest reports the attempt.

    What it did get it writes into a page that VFIO has mapped for it. The control: what it reads from that page
    arrives.
    """
    own, secret = machine.allocate(1, canary()), machine.allocate(1, canary())
    machine.give_to_vfio("edu0")
    machine.agent.vfio_map(machine.address("edu0"), own, _IOVA)

    def read_and_show(iova: int, offset: int) -> bytes:
        """What the device reads at an address, as it shows it at an offset of its own page."""
        device = machine.rogue("edu0")
        device.dma_to_device(iova, 0, COUNT)
        device.dma_from_device(0, _IOVA + offset, COUNT)
        return machine.vmm.memory.read(own.frames[0] + offset, COUNT)

    given = machine.vmm.memory.read(own.frames[0], COUNT)
    judge(check_bytes("control: what the device read from its own page", given, read_and_show(_IOVA, 2048)))

    stolen = secret.frames[0] + 1024
    access, outcome, walk = machine.expect("edu0", stolen, AccessKind.READ, COUNT)
    judge(check_outcome(access, None, outcome, walk, f"{machine.spec.device('edu0')}, not mapped by VFIO"))
    mark, untouched = machine.log_mark(), machine.vmm.memory.read(own.frames[0] + 3072, COUNT)
    hidden, shown = machine.vmm.memory.read(stolen, COUNT), read_and_show(stolen, 3072)
    if shown == untouched:
        judge([Finding(subject="what the device shows of its read", expected="anything", seen="it wrote nothing")])
    judge(
        Finding(subject=f"byte {n} of what {access} gave", expected="not what stands there", seen="the very byte")
        for n, (a, b) in enumerate(zip(shown, hidden, strict=True))
        if a == b
    )
    judge(check_reported(access, machine.faults(access.requester, since=mark, wait=True)))
    machine.check_unmoved(secret)


@pytest.mark.claim("CH-1", "QD-1")
@pytest.mark.machine(devices=["edu,iommu=off"])
def test_a_device_outside_the_iommu_reaches_all_memory(machine: LiveMachine) -> None:
    """A device with iommu=off reads and writes any memory of the guest, and the guest hears nothing of it."""
    judge(copy(machine, "edu0"))


@pytest.mark.claim("VQ-7", "QD-1")
@pytest.mark.machine(devices=["edu,iommu=on"], dma_mode=DmaMode.PASSTHROUGH)
def test_with_iommu_pt_a_device_reaches_all_memory(machine: LiveMachine) -> None:
    """With iommu=pt a device behind the IOMMU reads and writes any memory of the guest, and no fault is reported."""
    judge(copy(machine, "edu0"))
