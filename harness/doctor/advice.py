"""What of a host is not as the main job needs it, and the one command that mends it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harness.defaults import Defaults
from harness.doctor.report import (
    AcceleratorReport,
    AptReport,
    KernelReport,
    Missing,
    PlaceReport,
    ProgramReport,
    QemuReport,
)

__all__ = ["missing_accelerator", "missing_artifacts", "missing_programs", "missing_room"]

_FETCH = "viommu boot --exec true"
_FETCH_BYTES = 2 * 10**9  # QEMU, kernel and guest packages as archives and unpacked, and the image
_RUN_BYTES = 200 * 10**6  # initrd, logs and disk of a few machines
_KVM = Path("/dev/kvm")


def missing_programs(programs: tuple[ProgramReport, ...], apt: AptReport) -> Iterator[Missing]:
    """Host programs and package sources. None blocks by itself: everything may be in the cache already."""
    for program in programs:
        if not program.path:
            # Without apt there is no command to get it by.
            mend = "" if program.package == "apt" else f"sudo apt-get install {program.package}"
            what = f"{program.name} is not on PATH: it is needed {program.purpose}"
            yield Missing(what=what, mend=mend, blocking=False)
    if apt.error and all(program.path for program in programs):
        yield Missing(what=f"packages cannot be fetched: {apt.error}", mend="", blocking=False)


def missing_artifacts(
    wanted: Defaults,
    qemu: tuple[QemuReport, ...],
    kernels: tuple[KernelReport, ...],
    *,
    image: bool,
    can_fetch: bool,
) -> Iterator[Missing]:
    """QEMU, kernel and guest packages that are used when nobody says otherwise.

    Args:
        wanted: their names.
        qemu, kernels: all that there are.
        image: the guest's packages are there.
        can_fetch: apt and the programs are there to get what is not.
    """
    broken = [report for report in qemu if report.error]
    for report in broken:
        yield Missing(
            what=f"QEMU {report.name}: {report.error}",
            mend=_unset("VIOMMU_QEMU") if report.default else "",
            blocking=report.default,
        )
    absent = [
        name
        for name, there in (
            (f"QEMU {wanted.qemu}", any(report.default for report in qemu)),
            (f"kernel {wanted.kernel}", any(report.default and not report.error for report in kernels)),
            (f"guest packages of {wanted.suite}", image),
        )
        if not there
    ]
    if absent and can_fetch:
        what = f"not in the cache, to be fetched by the first run: {', '.join(absent)}"
        yield Missing(what=what, mend=_FETCH, blocking=False)
    elif absent:
        what = f"not in the cache, and cannot be fetched here: {', '.join(absent)}"
        yield Missing(what=what, mend="", blocking=True)
    for report in qemu:
        for ability in ("intel_iommu", "virtio_iommu"):
            if report.default and not report.error and not report.can[ability]:
                what = f"QEMU {report.name} has no {ability.replace('_', '-')} that works on q35"
                yield Missing(what=what, mend=_unset("VIOMMU_QEMU"), blocking=False)
    for kernel in kernels:
        for driver in ("intel", "virtio"):
            if kernel.default and kernel.drivers.get(driver) == "no":
                what = f"kernel {kernel.name} has no driver for the {driver} IOMMU"
                yield Missing(what=what, mend=_unset("VIOMMU_KERNEL"), blocking=False)


def missing_room(
    cache: PlaceReport, shared_memory: PlaceReport, temporary: PlaceReport, *, fetches: bool
) -> Iterator[Missing]:
    """Space and permission; `fetches` says that the first run will fill the cache."""
    if not cache.writable:
        mend = 'export VIOMMU_CACHE="$HOME/viommu-cache"'
        yield Missing(what=f"the cache {cache.path} cannot be written", mend=mend, blocking=fetches)
    elif fetches and cache.free_bytes < _FETCH_BYTES:
        what = (
            f"{cache.path} has {_megabytes(cache.free_bytes)} free, the first run may need {_megabytes(_FETCH_BYTES)}"
        )
        mend = "export VIOMMU_CACHE=DIRECTORY_WITH_SPACE"
        yield Missing(what=what, mend=mend, blocking=cache.free_bytes < _FETCH_BYTES / 2)
    if not temporary.writable or temporary.free_bytes < _RUN_BYTES:
        what = f"{temporary.path} cannot take the {_megabytes(_RUN_BYTES)} that machines need while they run"
        yield Missing(what=what, mend="export TMPDIR=DIRECTORY_WITH_SPACE", blocking=True)
    if not shared_memory.writable:
        mend = "sudo mount -t tmpfs -o mode=1777 tmpfs /dev/shm"
        yield Missing(what=f"{shared_memory.path} cannot be written", mend=mend, blocking=False)


def missing_accelerator(accelerators: tuple[AcceleratorReport, ...], error: str) -> Iterator[Missing]:
    """Accelerators; `error` says why none runs a guest."""
    if error:
        yield Missing(what=error, mend=_unset("VIOMMU_QEMU"), blocking=True)
    for report in accelerators:
        if report.name == "kvm" and not report.works and _KVM.exists() and not os.access(_KVM, os.R_OK | os.W_OK):
            what = f"this user may not use {_KVM}: without it guests run several times slower"
            yield Missing(what=what, mend='sudo usermod -aG kvm "$USER"', blocking=False)


def _unset(variable: str) -> str:
    """What brings a default back, where the environment replaces it."""
    return f"unset {variable}" if os.environ.get(variable) else ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
