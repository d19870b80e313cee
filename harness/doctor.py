"""What this host has for the main job, what is missing, and the command that mends it; nothing is fetched."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.artifacts.cache import Cache
from harness.artifacts.kernel import Kernel, find_kernel, is_path, kernel_in
from harness.artifacts.packages import Tree, kept
from harness.artifacts.qemu import HOST, QemuBuild, find_qemu, host_arch, qemu_in
from harness.artifacts.sources import Sources, host_suites, host_vendor
from harness.defaults import Defaults, defaults
from harness.errors import HarnessError
from harness.images.recipe import Recipe
from harness.spec import Arch
from harness.vmm.qemu import accelerator, capabilities
from harness.vmm.qemu.command import Accelerator

__all__ = [
    "AcceleratorReport",
    "AptReport",
    "Diagnosis",
    "KernelReport",
    "Missing",
    "PlaceReport",
    "ProgramReport",
    "QemuReport",
    "examine",
]

_FETCH = "viommu boot --exec true"
_FIRST_FETCH_BYTES = 2 * 10**9  # QEMU, kernel and guest packages as archives and unpacked, and the image
_RUN_BYTES = 200 * 10**6  # initrd, logs and disk of two or three machines

_PROGRAMS: tuple[tuple[str, str, str], ...] = (
    ("apt-cache", "apt", "to list the packages of a suite"),
    ("apt-get", "apt", "to find and verify packages"),
    ("dpkg", "dpkg", "to know this host's architecture"),
    ("dpkg-deb", "dpkg", "to unpack packages"),
    ("setpriv", "util-linux", "to leave no process behind"),
    ("tar", "tar", "to unpack packages"),
)
_DISTRIBUTIONS = (
    "cryptography",
    "msgspec",
    "paramiko",
    "pytest",
    "pytest-xdist",
    "qemu.qmp",
    "rich",
    "typer",
    "viommu-harness",
)
_DRIVERS: Mapping[str, str] = {
    "intel": "CONFIG_INTEL_IOMMU",
    "amd": "CONFIG_AMD_IOMMU",
    "virtio": "CONFIG_VIRTIO_IOMMU",
    "vfio": "CONFIG_VFIO_IOMMU_TYPE1",
    "iommufd": "CONFIG_IOMMUFD",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Something that is not as it should be.

    Attributes:
        what: a sentence.
        mend: the one command that mends it; empty when there is none.
        blocking: the main job cannot run without.
    """

    what: str
    mend: str
    blocking: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorReport:
    """Whether an accelerator was seen to run a guest.

    Attributes:
        name: "kvm" or "tcg".
        works: guest instructions were seen to run on it.
        reason: why it is not used; empty when it is.
        tried_with: name of the QEMU build.
    """

    name: str
    works: bool
    reason: str
    tried_with: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuReport:
    """One QEMU build.

    Attributes:
        name: to be given to `--qemu`.
        default: it is used when none is named.
        version: as it says; empty when it does not run.
        binary: path of the program.
        can: whether it has each of the things that test cases may need, by name; empty when it does not run.
        error: why it does not run.
    """

    name: str
    default: bool
    version: str
    binary: str
    can: dict[str, bool]
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelReport:
    """One guest kernel.

    Attributes:
        name: to be given to `--kernel`.
        default: it is used when none is named.
        release: as `uname -r` prints it.
        image: path of it.
        drivers: "y", "m", "no", or "?" when its configuration was not found; by driver.
        error: why it cannot be used.
    """

    name: str
    default: bool
    release: str
    image: str
    drivers: dict[str, str]
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceReport:
    """A directory that the harness writes to.

    Attributes:
        path: where it is; it need not be there yet.
        writable: this user can write there.
        total_bytes: of its file system.
        free_bytes: that this user can write.
        used_bytes: by what the harness keeps there; None where that is nothing that lasts.
    """

    path: str
    writable: bool
    total_bytes: int
    free_bytes: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramReport:
    """A host program: the package that has it, what for, and its path; empty when it is not there."""

    name: str
    package: str
    purpose: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AptReport:
    """Where packages can be had from.

    Attributes:
        usable: packages can be fetched, as far as can be seen without asking the mirror.
        vendor: distribution whose packages the host uses.
        sources: how many package sources apt is set up with.
        suites: of those.
        error: why it is not usable.
    """

    usable: bool
    vendor: str
    sources: int
    suites: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything.

    Attributes:
        ready: the main job can run here; what it lacks it can fetch.
        python: versions of Python and of the distributions that matter; empty for one that is not installed.
    """

    ready: bool
    accelerators: tuple[AcceleratorReport, ...]
    qemu: tuple[QemuReport, ...]
    kernels: tuple[KernelReport, ...]
    image_packages: bool
    cache: PlaceReport
    shared_memory: PlaceReport
    temporary: PlaceReport
    apt: AptReport
    programs: tuple[ProgramReport, ...]
    python: dict[str, str]
    missing: tuple[Missing, ...]


def examine(cache: Cache, boot: Path = Path("/boot")) -> Diagnosis:
    """Look at everything; takes a few seconds the first time, after that about one.

    Args:
        cache: the cache; of it nothing but small facts about QEMU builds is written.
        boot: where the host's own kernels are.
    """
    programs = tuple(
        ProgramReport(name=name, package=package, purpose=why, path=shutil.which(name) or "")
        for name, package, why in _PROGRAMS
    )
    apt = _apt()
    places = _place(cache.root, used=True), _place(Path("/dev/shm")), _place(Path(tempfile.gettempdir()))
    wanted = _defaults()
    trees = _kept(cache)
    builds = _builds(cache, trees, wanted)
    with ThreadPoolExecutor() as pool:
        qemu = tuple(pool.map(lambda item: _qemu(item[0], item[1], cache, wanted.qemu), builds.items()))
    accelerators, probe_error = _accelerators(builds, qemu, cache)
    kernels = tuple(_kernels(cache, trees, wanted, boot))
    image = wanted.suite in {t.suite for t in trees if {p.name for p in t.packages} >= set(Recipe.load().packages)}
    can_fetch = apt.usable and all(program.path for program in programs)
    missing = (
        *_missing_programs(programs, apt),
        *_missing_artifacts(wanted, qemu, kernels, image=image, can_fetch=can_fetch),
        *_missing_room(*places, fetches=not (qemu and kernels and image)),
        *_missing_accelerator(accelerators, probe_error),
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
    """The defaults; empty names on a host that has none."""
    try:
        return defaults()
    except HarnessError:
        return Defaults("", "", "")


def _apt() -> AptReport:
    suites: tuple[str, ...] = ()
    vendor, error = "", ""
    try:
        vendor = host_vendor().id
        suites = host_suites()
        Sources.of_host()
    except HarnessError as failure:
        error = failure.message
    return AptReport(
        usable=not error, vendor=vendor, sources=len(suites), suites=tuple(dict.fromkeys(suites)), error=error
    )


def _kept(cache: Cache) -> tuple[Tree, ...]:
    try:
        return tuple({tree.key: tree for arch in {host_arch(), Arch.AMD64} for tree in kept(cache, arch)}.values())
    except HarnessError:
        return ()  # no dpkg, or a host of an unknown kind: `_apt` and the list of programs say so


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
    """Bytes on disk of all files below a directory, hard links once."""
    blocks: dict[tuple[int, int], int] = {}
    todo = [directory]
    while todo:
        try:
            entries = list(os.scandir(todo.pop()))
        except OSError:
            continue  # being removed by another run, or not there
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                todo.append(Path(entry.path))
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            blocks[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(blocks.values())


_Found = Callable[[], QemuBuild | None]


def _builds(cache: Cache, trees: tuple[Tree, ...], wanted: Defaults) -> dict[str, QemuBuild | HarnessError]:
    """QEMU builds by name, or why they are none: the default, those of the cache, and that on PATH."""
    finders: dict[str, _Found] = {}
    for tree in trees:
        finders[tree.suite if tree.suite not in finders else f"{tree.suite} {tree.key}"] = _in_tree(tree, cache)
    if shutil.which("qemu-system-x86_64"):
        finders[HOST] = lambda: find_qemu(HOST, Arch.AMD64, cache)
    if wanted.qemu and is_path(wanted.qemu):
        finders[wanted.qemu] = lambda: find_qemu(wanted.qemu, Arch.AMD64, cache)
    found: dict[str, QemuBuild | HarnessError] = {}
    for name, find in finders.items():
        try:
            build = find()
        except HarnessError as error:
            found[name] = error
            continue
        if build is not None:
            found[build.name] = build
    return dict(sorted(found.items(), key=lambda item: (item[0] != wanted.qemu, item[0])))


def _in_tree(tree: Tree, cache: Cache) -> _Found:
    return lambda: qemu_in(tree, Arch.AMD64, cache)


def _qemu(name: str, build: QemuBuild | HarnessError, cache: Cache, wanted: str) -> QemuReport:
    error, can = "", {}
    if isinstance(build, HarnessError):
        return QemuReport(name=name, default=name == wanted, version="", binary="", can={}, error=build.message)
    try:
        can = _abilities(capabilities.cached(build, cache.directory("derived")))
    except HarnessError as failure:
        error = failure.message
    return QemuReport(
        name=name, default=name == wanted, version=build.version, binary=str(build.binary), can=can, error=error
    )


def _abilities(found: capabilities.Capabilities) -> dict[str, bool]:
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
    builds: Mapping[str, QemuBuild | HarnessError], reports: tuple[QemuReport, ...], cache: Cache
) -> tuple[tuple[AcceleratorReport, ...], str]:
    """What runs guests, tried with the first build that starts; and why that could not be said."""
    sound = {report.name for report in reports if not report.error}
    for name, build in builds.items():
        if isinstance(build, HarnessError) or name not in sound:
            continue
        try:
            choice = accelerator.cached(build, cache)
        except HarnessError as error:
            return (), error.message
        works = {
            Accelerator.KVM: (not choice.rejected, choice.rejected),
            Accelerator.TCG: (True, ""),
        }
        return tuple(
            AcceleratorReport(name=kind.value, works=yes, reason=why, tried_with=name)
            for kind, (yes, why) in works.items()
        ), ""
    return (), ""


def _kernels(cache: Cache, trees: tuple[Tree, ...], wanted: Defaults, boot: Path) -> Iterator[KernelReport]:
    finders: list[tuple[str, Callable[[], Kernel | None]]] = []
    for tree in trees:
        finders.append((tree.suite, _kernel_in_tree(tree)))
    paths = sorted(str(path) for path in boot.glob("vmlinuz-*")) if boot.is_dir() else []
    if wanted.kernel and is_path(wanted.kernel):
        paths = list(dict.fromkeys([wanted.kernel, *paths]))
    finders += [(path, _kernel_at(path, cache)) for path in paths]
    for name, find in finders:
        try:
            kernel = find()
        except (HarnessError, PermissionError) as error:
            said = error.message if isinstance(error, HarnessError) else f"it cannot be read: {error.strerror}"
            yield KernelReport(name=name, default=name == wanted.kernel, release="", image=name, drivers={}, error=said)
            continue
        if kernel is not None:
            yield _kernel(kernel, default=kernel.name == wanted.kernel)


def _kernel_in_tree(tree: Tree) -> Callable[[], Kernel | None]:
    return lambda: kernel_in(tree, Arch.AMD64)


def _kernel_at(path: str, cache: Cache) -> Callable[[], Kernel | None]:
    return lambda: find_kernel(path, Arch.AMD64, cache)


def _kernel(kernel: Kernel, *, default: bool) -> KernelReport:
    unset = "no" if kernel.config else "?"
    return KernelReport(
        name=kernel.name,
        default=default,
        release=kernel.release,
        image=str(kernel.image),
        drivers={name: kernel.config.get(option, unset) for name, option in _DRIVERS.items()},
        error="",
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _missing_programs(programs: tuple[ProgramReport, ...], apt: AptReport) -> Iterator[Missing]:
    for program in programs:
        if not program.path:
            mend = f"sudo apt-get install {program.package}" if program.package != "apt" else ""
            yield Missing(
                what=f"{program.name} is not on PATH: it is needed {program.purpose}", mend=mend, blocking=False
            )
    if apt.error and all(program.path for program in programs):
        yield Missing(what=f"packages cannot be fetched: {apt.error}", mend="", blocking=False)


def _missing_artifacts(
    wanted: Defaults,
    qemu: tuple[QemuReport, ...],
    kernels: tuple[KernelReport, ...],
    *,
    image: bool,
    can_fetch: bool,
) -> Iterator[Missing]:
    found = {
        f"QEMU {wanted.qemu}": any(report.default and not report.error for report in qemu),
        f"kernel {wanted.kernel}": any(report.default and not report.error for report in kernels),
        f"the guest's programs ({wanted.suite})": image,
    }
    absent = [name.strip() for name, there in found.items() if not there]
    if absent:
        what = f"not in the cache: {', '.join(absent)}"
        if can_fetch:
            yield Missing(what=f"{what}; the first run fetches them", mend=_FETCH, blocking=False)
        else:
            yield Missing(what=f"{what}; they cannot be fetched here", mend="", blocking=True)
    for report in qemu:
        if report.error:
            yield Missing(what=f"QEMU {report.name} does not run: {report.error}", mend="", blocking=False)
        elif report.default:
            for name in ("intel_iommu", "virtio_iommu"):
                if not report.can[name]:
                    what = f"QEMU {report.name} has no working {name.replace('_', '-')}"
                    yield Missing(what=what, mend="viommu run --qemu trixie", blocking=False)


def _missing_room(
    cache: PlaceReport, shared: PlaceReport, temporary: PlaceReport, *, fetches: bool
) -> Iterator[Missing]:
    if not cache.writable:
        mend = 'export VIOMMU_CACHE="$HOME/viommu-cache"'
        yield Missing(what=f"the cache {cache.path} cannot be written", mend=mend, blocking=fetches)
    if fetches and cache.free_bytes < _FIRST_FETCH_BYTES:
        what = f"{cache.path} has {cache.free_bytes / 1e6:.0f} MB free, the first run may need 2000 MB"
        yield Missing(
            what=what, mend="export VIOMMU_CACHE=DIRECTORY", blocking=cache.free_bytes < _FIRST_FETCH_BYTES / 2
        )
    if not temporary.writable or temporary.free_bytes < _RUN_BYTES:
        what = f"{temporary.path}: {temporary.free_bytes / 1e6:.0f} MB can be written, machines need 200 MB"
        yield Missing(what=what, mend="export TMPDIR=DIRECTORY", blocking=True)
    if not shared.writable:
        mend = "sudo mount -t tmpfs -o mode=1777 tmpfs /dev/shm"
        yield Missing(what=f"{shared.path} cannot be written", mend=mend, blocking=False)


def _missing_accelerator(accelerators: tuple[AcceleratorReport, ...], error: str) -> Iterator[Missing]:
    if error:
        yield Missing(what=error, mend="viommu run --qemu trixie", blocking=True)
    device = Path("/dev/kvm")
    for report in accelerators:
        if report.name == Accelerator.KVM and not report.works and device.exists() and not os.access(device, os.W_OK):
            what = f"{device} is there and this user may not use it: guests run ten times slower without"
            yield Missing(what=what, mend='sudo usermod -aG kvm "$USER"', blocking=False)
