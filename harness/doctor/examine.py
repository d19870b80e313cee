"""Finds out what this host has for the main job. Nothing is fetched, and no mirror is asked."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from harness.artifacts.cache import Cache
from harness.artifacts.kernel import Kernel, find_kernel, is_path, kernel_in
from harness.artifacts.packages import Tree, kept
from harness.artifacts.qemu import HOST, QemuBuild, find_qemu, host_arch, qemu_in
from harness.artifacts.sources import Sources
from harness.defaults import Defaults, defaults
from harness.doctor.advice import missing_accelerator, missing_artifacts, missing_programs, missing_room
from harness.doctor.report import (
    AcceleratorReport,
    AptReport,
    Diagnosis,
    KernelReport,
    PlaceReport,
    ProgramReport,
    QemuReport,
)
from harness.errors import HarnessError
from harness.images.recipe import Recipe
from harness.spec import Arch
from harness.vmm.qemu import accelerator, capabilities
from harness.vmm.qemu.capabilities import Capabilities

__all__ = ["examine"]

_PROGRAMS = (
    ("apt-cache", "apt", "to list the packages of a suite"),
    ("apt-get", "apt", "to find and verify packages"),
    ("dpkg", "dpkg", "to know this host's architecture"),
    ("dpkg-deb", "dpkg", "to unpack packages"),
    ("setpriv", "util-linux", "to leave no process behind"),
    ("tar", "tar", "to unpack packages"),
)
_DISTRIBUTIONS = ("msgspec", "paramiko", "pytest", "pytest-xdist", "qemu.qmp", "rich", "typer", "viommu-harness")
_DRIVERS: Mapping[str, str] = MappingProxyType(
    {
        "intel": "CONFIG_INTEL_IOMMU",
        "amd": "CONFIG_AMD_IOMMU",
        "virtio": "CONFIG_VIRTIO_IOMMU",
        "vfio": "CONFIG_VFIO_IOMMU_TYPE1",
        "iommufd": "CONFIG_IOMMUFD",
    }
)


def examine(cache: Cache, boot: Path = Path("/boot")) -> Diagnosis:
    """Look at everything; about a second for each QEMU build the first time, less than a second in all after that.

    Args:
        cache: the cache; nothing but small facts about QEMU builds is written to it.
        boot: where the host's own kernels are.
    """
    programs = tuple(
        ProgramReport(name=name, package=package, purpose=why, path=shutil.which(name) or "")
        for name, package, why in _PROGRAMS
    )
    wanted = _defaults()
    with ThreadPoolExecutor() as pool:
        asked_apt = pool.submit(_apt)  # the slowest of all
        trees = _kept(cache)
        builds = _builds(cache, trees, wanted.qemu)
        asked = pool.map(lambda name: _qemu(name, builds[name], cache, default=name == wanted.qemu), builds)
        qemu = tuple(sorted(asked, key=lambda report: (not report.default, report.name)))
        apt = asked_apt.result()
    accelerators, no_accelerator = _accelerators(qemu, builds, cache)
    kernels = tuple(_kernels(cache, trees, wanted.kernel, boot))
    image = _image_packages(trees, wanted.suite)
    places = _place(cache.root, used=True), _place(Path("/dev/shm")), _place(Path(tempfile.gettempdir()))
    whole = image and any(report.default for report in qemu) and any(report.default for report in kernels)
    missing = (
        *missing_programs(programs, apt),
        *missing_artifacts(
            wanted, qemu, kernels, image=image, can_fetch=not apt.error and all(program.path for program in programs)
        ),
        *missing_room(*places, fetches=not whole),
        *missing_accelerator(accelerators, no_accelerator),
    )
    return Diagnosis(
        ready=not any(entry.blocking for entry in missing),
        accelerators=accelerators,
        qemu=qemu,
        kernels=kernels,
        image_packages=image,
        cache=places[0],
        shared_memory=places[1],
        temporary=places[2],
        apt=apt,
        programs=programs,
        python={"python": platform.python_version()} | {name: _version(name) for name in _DISTRIBUTIONS},
        missing=missing,
    )


def _defaults() -> Defaults:
    try:
        return defaults()
    except HarnessError:
        return Defaults("?", "?", "?")  # a host that has none: `_apt` says why


def _apt() -> AptReport:
    try:
        sources = Sources.of_host()
    except HarnessError as failure:
        return AptReport(vendor="", sources=0, suites=(), error=failure.message)
    suites = tuple(dict.fromkeys(sources.host))
    return AptReport(vendor=sources.vendor.id, sources=len(sources.host), suites=suites, error="")


def _kept(cache: Cache) -> tuple[Tree, ...]:
    try:
        return tuple(tree for arch in dict.fromkeys((host_arch(), str(Arch.AMD64))) for tree in kept(cache, arch))
    except HarnessError:
        return ()  # no dpkg, or a host of an unknown kind: `_apt` and the list of programs say so


def _image_packages(trees: tuple[Tree, ...], suite: str) -> bool:
    wanted = set(Recipe.load().packages)
    return any(tree.suite == suite and wanted <= {package.name for package in tree.packages} for tree in trees)


def _place(path: Path, *, used: bool = False) -> PlaceReport:
    there = path
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    return PlaceReport(
        path=str(path),
        writable=os.access(there, os.W_OK | os.X_OK),
        total_bytes=usage.total,
        free_bytes=usage.free,
        used_bytes=_size(path) if used else None,
    )


def _size(directory: Path) -> int:
    """Bytes on disk of the files below a directory."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(f"{place}/{name}").st_blocks * 512
            except FileNotFoundError:
                continue  # another run is at work there
    return total


def _builds(cache: Cache, trees: tuple[Tree, ...], wanted: str) -> dict[str, QemuBuild | HarnessError]:
    """QEMU builds by name, or why they are none: those of the cache, that on PATH, and the default."""
    finders: list[tuple[str, Callable[[], QemuBuild | None]]] = [
        (tree.suite, partial(qemu_in, tree, Arch.AMD64, cache)) for tree in trees
    ]
    finders.append((HOST, partial(_host_qemu, cache)))
    if is_path(wanted):
        finders.append((wanted, partial(find_qemu, wanted, Arch.AMD64, cache)))
    found: dict[str, QemuBuild | HarnessError] = {}
    for name, find in finders:
        try:
            build = find()
        except HarnessError as error:
            found[name] = error
        else:
            if build is not None:
                found[name] = build
    return found


def _host_qemu(cache: Cache) -> QemuBuild | None:
    return find_qemu(HOST, Arch.AMD64, cache) if shutil.which("qemu-system-x86_64") else None


def _qemu(name: str, build: QemuBuild | HarnessError, cache: Cache, *, default: bool) -> QemuReport:
    if isinstance(build, HarnessError):
        return QemuReport(name=name, default=default, version="", binary="", can={}, error=build.message)
    can: dict[str, bool] = {}
    error = ""
    try:
        can = _abilities(capabilities.cached(build, cache.directory("derived")))
    except HarnessError as failure:
        error = failure.message
    return QemuReport(name=name, default=default, version=build.version, binary=str(build.binary), can=can, error=error)


def _abilities(found: Capabilities) -> dict[str, bool]:
    return {
        "intel_iommu": found.has_device("intel-iommu"),
        "virtio_iommu": found.has_device("virtio-iommu-pci"),
        "amd_iommu": found.has_device("amd-iommu"),
        "amd_dma_remap": found.has_property("amd-iommu", "dma-remap"),
        "bypass_iommu": found.has_property("pxb-pcie", "bypass_iommu"),
        "edu": found.has_device("edu"),
        "iommu_testdev": found.has_device("iommu-testdev"),
        "qtest_accelerator": "qtest" in found.accelerators,
    }


def _accelerators(
    qemu: tuple[QemuReport, ...], builds: Mapping[str, QemuBuild | HarnessError], cache: Cache
) -> tuple[tuple[AcceleratorReport, ...], str]:
    """What runs guests with the first build that starts, and why nothing does."""
    for report in qemu:
        build = builds[report.name]
        if report.error or isinstance(build, HarnessError):
            continue
        try:
            choice = accelerator.cached(build, cache)
        except HarnessError as error:
            return (), error.message
        kvm = AcceleratorReport(name="kvm", works=not choice.rejected, reason=choice.rejected, tried_with=report.name)
        if kvm.works:
            return (kvm,), ""
        return (AcceleratorReport(name="tcg", works=True, reason="", tried_with=report.name), kvm), ""
    return (), ""


def _kernels(cache: Cache, trees: tuple[Tree, ...], wanted: str, boot: Path) -> Iterator[KernelReport]:
    finders: list[tuple[str, Callable[[], Kernel | None]]] = [
        (tree.suite, partial(kernel_in, tree, Arch.AMD64)) for tree in trees
    ]
    paths = [*([wanted] if is_path(wanted) else []), *sorted(map(str, boot.glob("vmlinuz-*")))]
    finders += [(path, partial(find_kernel, path, Arch.AMD64, cache)) for path in dict.fromkeys(paths)]
    for name, find in finders:
        try:
            kernel = find()
        except HarnessError as error:
            yield KernelReport(name=name, default=name == wanted, release="", image="", drivers={}, error=error.message)
            continue
        if kernel is not None:
            unset = "no" if kernel.config else "?"
            yield KernelReport(
                name=kernel.name,
                default=kernel.name == wanted,
                release=kernel.release,
                image=str(kernel.image),
                drivers={driver: kernel.config.get(option, unset) for driver, option in _DRIVERS.items()},
                error="",
            )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
