"""How long a machine takes that firmware starts from a disk behind the IOMMU, beside one that QEMU hands the kernel.

All in one run and in turn, so that the ratios hold on a host that gets slower or faster meanwhile.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

import msgspec

from harness.artifacts.progress import Progress, silent
from harness.bench.boot import stamps
from harness.errors import SpecError
from harness.guest.guest import READY
from harness.lab import FIRMWARE_BOOT_SECONDS, Lab
from harness.spec import Device, DeviceKind, Firmware, Iommu, IommuKind, Machine, Start

__all__ = ["FirmwareFigures", "Starts", "measure"]

_KERNEL = "Linux version "  # Linux, init/main.c, start_kernel


class Starts(msgspec.Struct, frozen=True, kw_only=True):
    """One way to start, medians of all rounds.

    Attributes:
        ready_seconds: from starting the process until init says that SSH answers.
        kernel_seconds: part of it: until the kernel's first line, its own unpacking in it.
        ratio: of `ready_seconds` to that of a kernel that QEMU hands over, the median of the ratios of each round.
    """

    ready_seconds: float
    kernel_seconds: float
    ratio: float


class FirmwareFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        starts: by firmware; "handed" is the one where QEMU hands over the kernel, unpacked where it can start that.
        rounds: how many there were.
        iommu: kind of the IOMMU.
    """

    starts: dict[str, Starts]
    rounds: int
    iommu: str


def measure(lab: Lab, *, kind: IommuKind, rounds: int, progress: Progress = silent) -> FirmwareFigures:
    """Measure: in each round every way once.

    Raises:
        SpecError: no rounds.
        Unsupported: the firmware cannot be had.
        GuestError: a guest does not come up.
    """
    if rounds < 1:
        raise SpecError(f"{rounds} rounds measure nothing", hint="ask for one or more")
    disk = Device(kind=DeviceKind.VIRTIO_BLK, iommu=kind is not IommuKind.NONE, id="disk")
    handed = Machine(iommu=Iommu(kind=kind), devices=(disk,))
    ways = {"handed": handed}
    ways |= {str(it): replace(handed, start=Start(firmware=it, disk=disk.id)) for it in Firmware}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, machine in ways.items():
            progress(f"round {number + 1} of {rounds}: {name}", number, rounds)
            seen[name].append(_start(lab, machine))
    return FirmwareFigures(
        starts={
            name: Starts(
                kernel_seconds=round(statistics.median(kernel for kernel, _ in each), 2),
                ready_seconds=round(statistics.median(ready for _, ready in each), 2),
                ratio=round(statistics.median(b / a for (_, a), (_, b) in zip(seen["handed"], each, strict=True)), 2),
            )
            for name, each in seen.items()
        },
        rounds=rounds,
        iommu=kind.value,
    )


def _start(lab: Lab, machine: Machine) -> tuple[float, float]:
    """Seconds from starting the process until the kernel's first line, and until init's last."""
    with lab.start(machine) as live, stamps(live.vmm, (_KERNEL, READY)) as found:
        live.guest.wait_ready(FIRMWARE_BOOT_SECONDS)
        live.guest.run("true")
    return found[_KERNEL] - live.vmm.start_time, found[READY] - live.vmm.start_time
