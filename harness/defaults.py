"""What is used when nobody says otherwise: which QEMU, which kernel, which suite the guest's programs come from."""

from __future__ import annotations

import os
from dataclasses import dataclass

from harness.artifacts.sources import host_suite, host_vendor

__all__ = ["Defaults", "defaults"]


@dataclass(frozen=True, slots=True)
class Defaults:
    """Names for `find_qemu` and `find_kernel`, and a suite.

    Attributes:
        qemu: QEMU build.
        kernel: guest kernel.
        suite: where the guest's busybox, dropbear, pciutils and Python come from.
    """

    qemu: str
    kernel: str
    suite: str


def defaults() -> Defaults:
    """`VIOMMU_QEMU`, `VIOMMU_KERNEL` and `VIOMMU_SUITE` of the environment, and these without them:

    On Debian the QEMU of the stable release and the kernel of unstable: of Debian's kernels those before 6.15 or so
    leave devices without a driver out of virtio-iommu's care (docs/findings.md), and a first look should show
    protection that works. On another distribution all three are of the host's own suite.

    Raises:
        HostError: this host has no apt suites to take them from, and the environment does not name all three.
    """
    named = [os.environ.get(f"VIOMMU_{what}", "") for what in ("QEMU", "KERNEL", "SUITE")]
    if not all(named):
        usual = ("trixie", "sid", "trixie") if host_vendor().id == "debian" else (host_suite(),) * 3
        named = [name or fallback for name, fallback in zip(named, usual, strict=True)]
    return Defaults(*named)
