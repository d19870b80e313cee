"""A disk that firmware starts Linux from: boot sector and core of GRUB, and one FAT partition with all the rest.

The partition is an EFI system partition (UEFI 2.10, 5.2.2 and 13.3), so that UEFI starts `/EFI/BOOT/BOOTX64.EFI` from
it; a BIOS starts the boot sector. From there on both go the same way, by `/grub.cfg`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SpecError
from harness.images.boot_loader import BootLoader, run_tool
from harness.vmm.protocol import LinuxBoot

__all__ = ["GrubDisk"]

_SECTOR = 512
_MIB = 1 << 20
_START = _MIB // _SECTOR  # of the partition, sectors
_CODE_BYTES = 440  # of the boot sector; a disk's identity and its table of partitions follow
_TABLE = 446
_SYSTEM_PARTITION = 0xEF
_ACTIVE = 0x80
_FAR = b"\xfe\xff\xff"  # as cylinder, head and sector: nobody counts by these
_ROOM = 2 * _MIB  # more than the file system takes for itself
_SERIAL = "56494f4d"  # of the file system: any will do
_QUOTES = "'\"\\"


@dataclass(frozen=True, slots=True)
class GrubDisk:
    """A disk of a machine, with GRUB on it.

    Attributes:
        id: of the device in the spec.
        loader: GRUB.
    """

    id: str
    loader: BootLoader

    def write(self, image: Path, boot: LinuxBoot) -> None:
        """See `harness.vmm.protocol.BootDisk`."""
        configuration = _configuration(boot)
        files = {"/EFI/BOOT/BOOTX64.EFI": self.loader.efi, "/grub.cfg": configuration, "/overlay": boot.overlay}
        big = {"/vmlinuz": boot.kernel, **({"/initrd": boot.initrd} if boot.initrd else {})}
        content = sum(map(len, files.values())) + sum(path.stat().st_size for path in big.values())
        sectors = -(-(content + _ROOM) // _MIB) * _START
        with image.open("r+b") as file:
            image.chmod(0o600)
            os.posix_fallocate(file.fileno(), 0, (_START + sectors) * _SECTOR)
            file.write(_first_sector(self.loader.sector, sectors))
            file.write(self.loader.core)
        self._tool(image, "mformat", "-T", str(sectors), "-H", str(_START), "-N", _SERIAL, "::")
        self._tool(image, "mmd", "::/EFI", "::/EFI/BOOT")
        for name, data in files.items():
            self._tool(image, "mcopy", "-", f"::{name}", data=data)
        for name, path in big.items():
            self._tool(image, "mcopy", str(path), f"::{name}")

    def _tool(self, image: Path, name: str, *words: str, data: bytes = b"") -> None:
        run_tool(*self.loader.mtools, "-c", name, "-i", f"{image}@@{_MIB}", *words, data=data)


def _first_sector(code: bytes, partition_sectors: int) -> bytes:
    """The master boot record, with one partition from 1 MiB on."""
    entry = struct.pack("<B3sB3sII", _ACTIVE, _FAR, _SYSTEM_PARTITION, _FAR, _START, partition_sectors)
    return code[:_CODE_BYTES].ljust(_TABLE, b"\0") + entry.ljust(64, b"\0") + b"\x55\xaa"


def _configuration(boot: LinuxBoot) -> bytes:
    """GRUB's commands.

    Raises:
        SpecError: a word that GRUB hands on in other words: it puts a backslash before quotes (GRUB, lib/cmdline.c).
    """
    words = " ".join(boot.args).split()
    for word in words:
        if any(quote in word for quote in _QUOTES):
            raise SpecError(f"kernel argument {word!r}: GRUB does not hand on quotes and backslashes as they are")
    archives = (["/initrd"] if boot.initrd else []) + (["/overlay"] if boot.overlay else [])
    commands = [
        ["linux", "/vmlinuz", *(f"'{word}'" for word in words)],
        *([["initrd", *archives]] if archives else []),
        ["boot"],
    ]
    return "".join(f"{' '.join(command)}\n" for command in commands).encode()
