"""What `viommu doctor` says: its fields are the keys of its JSON."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AcceleratorReport",
    "AptReport",
    "Diagnosis",
    "KernelReport",
    "Missing",
    "PlaceReport",
    "ProgramReport",
    "QemuReport",
]


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
        vendor: distribution whose packages the host uses.
        sources: how many package sources apt is set up with.
        suites: of those.
        error: why packages cannot be had, as far as can be seen without asking a mirror.
    """

    vendor: str
    sources: int
    suites: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything.

    Attributes:
        ready: the main job can run here; what it lacks it can fetch.
        accelerators: tried with the first QEMU build that starts; none when there is no such build.
        qemu: the default first, those of the cache, that on PATH.
        kernels: those of the cache, the host's own.
        image_packages: the packages of the guest image are in the cache.
        cache, shared_memory, temporary: the directories that are written to.
        apt: where packages would come from.
        programs: host programs that are run.
        python: versions of Python and of the distributions that matter; empty for one that is not installed.
        missing: what is not as it should be.
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
