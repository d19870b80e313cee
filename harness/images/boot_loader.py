"""A boot loader for a disk that SeaBIOS and OVMF both start from: GRUB, made of the packages of a suite.

Its configuration is `grub.cfg` in the root of the first partition of the disk that it was started from.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts import packages
from harness.artifacts.cache import Cache
from harness.artifacts.packages import Tree
from harness.artifacts.progress import Progress, silent
from harness.errors import ArtifactError, HostError
from harness.images.elf import run_words
from harness.report.record import Artifact

__all__ = ["BootLoader", "boot_loader", "run_tool"]

_PACKAGES = ("grub-common", "grub-efi-amd64-bin", "grub-pc-bin", "mtools")
_SECONDS = 60
_MODULES = ("fat", "linux", "normal", "part_msdos")
_BIOS, _EFI = "i386-pc", "x86_64-efi"


@dataclass(frozen=True, slots=True)
class BootLoader:
    """What is written to a disk, and what with.

    Attributes:
        sector: of the disk's first sector; it reads `core` from those that follow it (GRUB, boot/i386/pc/boot.S).
        core: GRUB for a BIOS.
        efi: GRUB as a UEFI program.
        mtools: words that start mtools, which write to a FAT file system in a file.
        artifacts: the packages that all this is from.
    """

    sector: bytes
    core: bytes
    efi: bytes
    mtools: tuple[str, ...]
    artifacts: tuple[Artifact, ...]


def boot_loader(suite: str, cache: Cache, progress: Progress = silent) -> BootLoader:
    """GRUB of a suite.

    Raises:
        Unsupported: the suite has no such package.
        ArtifactError, HostError: the packages cannot be had, or what is in them does not run.
    """
    tree = packages.fetch(cache, suite, "amd64", _PACKAGES, progress)
    return BootLoader(
        sector=tree.require(f"/usr/lib/grub/{_BIOS}/boot.img").read_bytes(),
        core=_core(tree, _BIOS, "(,msdos1)/", ("biosdisk", *_MODULES)),
        efi=_core(tree, _EFI, "/", _MODULES),
        mtools=run_words(tree.require("/usr/bin/mtools"), tree.root),
        artifacts=tree.artifacts("boot-loader-package"),
    )


def _core(tree: Tree, platform: str, prefix: str, modules: tuple[str, ...]) -> bytes:
    """GRUB for a platform, with the modules in it.

    Args:
        tree: the packages.
        platform: as GRUB calls it.
        prefix: where its configuration is; on the disk, or the file system, that it was started from.
        modules: its modules.
    """
    program = run_words(tree.require("/usr/bin/grub-mkimage"), tree.root)
    with tempfile.TemporaryDirectory(prefix="viommu-grub-") as work:
        image = Path(work) / "core"
        directory = str(tree.require(f"/usr/lib/grub/{platform}"))
        run_tool(*program, "-O", platform, "-d", directory, "-p", prefix, "-o", str(image), *modules)
        return image.read_bytes()


def run_tool(*words: str, data: bytes = b"") -> None:
    """Run a program of the packages to its end.

    Args:
        words: its command line.
        data: what it reads from standard input.

    Raises:
        ArtifactError: it fails; what it said is the evidence.
        HostError: it does not end.
    """
    settings = {"PATH": os.defpath, "LC_ALL": "C", "MTOOLSRC": os.devnull, "MTOOLS_SKIP_CHECK": "1"}
    try:
        done = subprocess.run(words, input=data, env=settings, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise HostError(f"{words[3]} did not end within {_SECONDS} s", hint="see what the host is busy with") from None
    if done.returncode:
        raise ArtifactError(
            f"{Path(words[3]).name} of the boot loader's packages ended with status {done.returncode}",
            evidence=(done.stdout + done.stderr).decode(errors="replace"),
        )
