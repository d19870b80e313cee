"""The form of a kernel that boots fastest: the ELF file inside a bzImage, where QEMU can start that directly.

Under emulation a bzImage spends a quarter to a third of its boot on unpacking itself (docs/performance.md). The host
does it once, in a second, and QEMU enters the kernel at its PVH entry point (Xen, docs/misc/pvh.pandoc; Linux,
arch/x86/platform/pvh). What is lost is address space randomisation, which the unpacking code does.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from harness.artifacts.cache import Cache, PackageEntry
from harness.artifacts.image import bzimage_payload
from harness.artifacts.kernel import Kernel

__all__ = ["bootable"]

_PHYS32_ENTRY = "18"  # XEN_ELFNOTE_PHYS32_ENTRY, Linux include/xen/interface/elfnote.h
_FILE = "vmlinux"


def bootable(kernel: Kernel, cache: Cache) -> Path:
    """What to give to QEMU's `-kernel`: the unpacked kernel if it has a PVH entry point, else its image as it is.

    Raises:
        HostError: the cache cannot be written.
    """
    if kernel.arch != "amd64":
        return kernel.image
    data = kernel.image.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    entry = PackageEntry(name=_FILE, version=kernel.release, arch=kernel.arch, sha256=digest)

    def fill(root: Path) -> None:
        elf = bzimage_payload(data)
        if elf is not None and _has_pvh_entry(elf):
            (root / _FILE).write_bytes(elf)

    unpacked = cache.build((entry,), fill) / _FILE
    return unpacked if unpacked.is_file() else kernel.image


def _has_pvh_entry(elf: bytes) -> bool:
    if not elf.startswith(b"\x7fELF"):
        return False
    try:
        notes = (section for section in ELFFile(io.BytesIO(elf)).iter_sections() if isinstance(section, NoteSection))
        found = {(str(note["n_name"]), str(note["n_type"])) for section in notes for note in section.iter_notes()}
    except ELFError:
        return False  # QEMU will say what it makes of the image
    return ("Xen", _PHYS32_ENTRY) in found
