"""A malicious device: what it reaches of memory that it was never given, and what the guest hears of it.

The device is QEMU's edu, driven by the host behind the guest's back. Its buffer is all zeroes until something is read
into it, and the guest's pages hold no zero byte, so that a write that gets through shows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from machines import machine

from harness.checks.dma import check_bytes, check_memory, check_outcome, check_reported, check_unreported
from harness.checks.judge import judge
from harness.guest.agent import Pages
from harness.live import LiveMachine
from harness.model.access import AccessKind
from harness.plugin import Boot
from harness.report.record import Finding
from harness.spec import DmaMode, IommuKind

_COUNT = 64
_AT = 1024
_IOVA = 0x12345000


def canary() -> bytes:
    """A page of random bytes, none of them zero."""
    return bytes(random.choices(range(1, 256), k=4096))


def write_over(live: LiveMachine, device: str, page: Pages, payload: bytes, *, blocked: bool) -> Iterator[Finding]:
    """Have a device write into a page of the guest, at its guest physical address; what is wrong with the outcome."""
    iova = page.frames[0] + _AT
    target = None if blocked else iova
    access, outcome, walk = live.expect(device, iova, AccessKind.WRITE, len(payload))
    seen = live.write_by_dma(device, iova, payload, page.frames)
    why = f"{live.spec.device(device)} with DMA mode {live.spec.dma_mode}"
    yield from check_outcome(access, target, outcome, walk, why)
    yield from check_memory(access, target, seen, walk)
    reports = live.faults(wait=blocked)
    yield from check_reported(access, reports) if blocked else check_unreported(access, reports)


@pytest.mark.claim("QD-1", "QD-2", "IV-1")
def test_write_to_memory_never_given_is_blocked_and_reported(boot: Boot, iommu: IommuKind) -> None:
    """A device behind the IOMMU writes to memory it was never given: memory is untouched, and the guest reports it.

    The control: a device outside does the same in the same machine, and gets through.
    """
    live = boot(machine(iommu, "edu,iommu=on,id=inside", "edu,iommu=off,id=outside"))
    victim, control = (live.agent.page_allocate(1, canary()) for _ in range(2))
    judge(write_over(live, "inside", victim, bytes(_COUNT), blocked=True))
    judge(write_over(live, "outside", control, bytes(_COUNT), blocked=False))


@pytest.mark.claim("QD-2", "IV-1")
def test_read_of_memory_never_given_is_blocked_and_reported(boot: Boot, iommu: IommuKind) -> None:
    """A device behind the IOMMU reads memory it was never given, and gets nothing of it; the guest reports the attempt.

    What it did get it writes into a page that VFIO has mapped for it. The control: what it reads from that page
    arrives.
    """
    live = boot(machine(iommu, "edu,iommu=on"))
    own, secret = live.agent.page_allocate(1, canary()), live.agent.page_allocate(1, canary())
    live.give_to_vfio("edu0")
    live.agent.vfio_map(live.address("edu0"), own, _IOVA)
    device = live.rogue("edu0")

    given = live.vmm.memory.read(own.frames[0], _COUNT)
    device.dma_to_device(_IOVA, 0, _COUNT)
    device.dma_from_device(0, _IOVA + 2048, _COUNT)
    copied = live.vmm.memory.read(own.frames[0] + 2048, _COUNT)
    judge(check_bytes("control: what the device read from its own page", given, copied))

    stolen = secret.frames[0] + _AT
    access, outcome, walk = live.expect("edu0", stolen, AccessKind.READ, _COUNT)
    judge(check_outcome(access, None, outcome, walk, f"{live.spec.device('edu0')}, not mapped by VFIO"))
    device.dma_to_device(stolen, 0, _COUNT)
    device.dma_from_device(0, _IOVA + 3072, _COUNT)
    leaked = live.vmm.memory.read(own.frames[0] + 3072, _COUNT)
    hidden = live.vmm.memory.read(stolen, _COUNT)
    judge(
        Finding(subject=f"byte {n} of a page that {access}", expected="not what stands there", seen="the very byte")
        for n, (a, b) in enumerate(zip(leaked, hidden, strict=True))
        if a == b
    )
    judge(check_reported(access, live.faults(wait=True)))


@pytest.mark.claim("CH-1", "QD-1")
def test_a_device_outside_the_iommu_reaches_all_memory(boot: Boot, iommu: IommuKind) -> None:
    """A device with iommu=off reads and writes any memory of the guest, and the guest hears nothing of it."""
    live = boot(machine(iommu, "edu,iommu=off"))
    judge(copy_by_dma(live, "edu0"))


@pytest.mark.claim("VQ-7", "QD-1")
def test_with_iommu_pt_a_device_reaches_all_memory(boot: Boot, iommu: IommuKind) -> None:
    """With iommu=pt a device behind the IOMMU reads and writes any memory of the guest, and no fault is reported."""
    live = boot(machine(iommu, "edu,iommu=on", dma_mode=DmaMode.PASSTHROUGH))
    judge(copy_by_dma(live, "edu0"))


def copy_by_dma(live: LiveMachine, device: str) -> Iterator[Finding]:
    """Have a device copy from one page of the guest into another, at their guest physical addresses."""
    source, target = live.agent.page_allocate(1, canary()), live.agent.page_allocate(1, canary())
    read, outcome, walk = live.expect(device, source.frames[0], AccessKind.READ, _COUNT)
    yield from check_outcome(read, source.frames[0], outcome, walk, f"DMA mode {live.spec.dma_mode}")
    live.rogue(device).dma_to_device(source.frames[0], 0, _COUNT)
    payload = live.vmm.memory.read(source.frames[0], _COUNT)
    yield from write_over(live, device, target, payload, blocked=False)
