"""Reads a kernel image: its architecture and release, and its embedded configuration.

Sources: Linux, Documentation/arch/x86/boot.rst (bzImage), Documentation/arch/arm64/booting.rst,
Documentation/arch/riscv/boot-image-header.rst, drivers/firmware/efi/libstub/zboot-header.S, kernel/configs.c.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zstandard

from harness.errors import SpecError

__all__ = ["KernelImage", "bzimage_payload", "decompress", "embedded_config", "read_image"]

_BOOT_FLAG = (0x1FE, b"\x55\xaa")
_SETUP_MAGIC = (0x202, b"HdrS")
_SETUP_SECTS = 0x1F1
_KERNEL_VERSION = 0x20E  # u16, offset of the string less 0x200
_PAYLOAD = 0x248  # u32 offset from the protected-mode code, u32 length; protocol 2.08 and later
_ARM64_MAGIC = (0x38, b"ARM\x64")
_RISCV_MAGIC = (0x38, b"RSC\x05")
_ZBOOT_MAGIC = (0x04, b"zimg")

_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x7fELF", "an ELF file (if this is vmlinux, give arch/*/boot/bzImage or Image of the same build)"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"\xfd7zXZ", "xz-compressed data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (0, b"070701", "a cpio archive (an initramfs?)"),
    (0, b"!<arch>", "an ar archive (a Debian package?)"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"MZ", "a PE executable"),
    (0, b"#!", "a script"),
    (0x1FE, b"\x55\xaa", "a disk image or boot sector"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelImage:
    """What an image file says of itself.

    Attributes:
        arch: under Debian's name: amd64, arm64, riscv64.
        release: what `uname -r` will print.
    """

    arch: str
    release: str


def read_image(path: Path) -> KernelImage:
    """Read a bzImage, or an arm64 or RISC-V Image, plain, gzip-compressed or as an EFI zboot image.

    Raises:
        SpecError: no such file, not readable, or not a kernel; the message says what it is instead.
    """
    data = _read(path)
    if _is_bzimage(data):
        start = 0x200 + int.from_bytes(data[_KERNEL_VERSION : _KERNEL_VERSION + 2], "little")
        words = data[start : start + 512].split(b"\0", 1)[0].decode(errors="replace").split()
        if start == 0x200 or not words:
            raise _not_a_kernel(path, "a bzImage without a kernel_version", data)
        return KernelImage(arch="amd64", release=words[0])
    plain = _plain(data)
    if plain is not None:
        for arch, magic in (("arm64", _ARM64_MAGIC), ("riscv64", _RISCV_MAGIC)):
            if _has(plain, magic):
                banner = re.search(rb"Linux version (\S+) ", plain)
                if banner is None:
                    raise _not_a_kernel(path, f"an {arch} image without a version banner", data)
                return KernelImage(arch=arch, release=banner[1].decode(errors="replace"))
    raise _not_a_kernel(path, _kind(data), data)


def embedded_config(path: Path) -> str | None:
    """The text of the configuration that a kernel with CONFIG_IKCONFIG=y carries in its image.

    None without one, or where the image is compressed by another means than gzip, bzip2, xz, lzma and zstd. Takes
    up to a second, for the whole kernel must be decompressed.
    """
    data = _read(path)
    plain = bzimage_payload(data) if _is_bzimage(data) else _plain(data)
    start = -1 if plain is None else plain.find(b"IKCFG_ST\x1f\x8b")
    if plain is None or start < 0:
        return None
    text = decompress(plain[start + 8 :])
    return None if text is None else text.decode(errors="replace")


def bzimage_payload(data: bytes) -> bytes | None:
    """The ELF file that a bzImage unpacks when it boots; None where `decompress` does not know its compression."""
    if len(data) < _PAYLOAD + 8:
        return None
    sectors = data[_SETUP_SECTS] or 4  # 0 stands for 4
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    payload = (sectors + 1) * 512 + offset
    return decompress(data[payload : payload + length])


def decompress(data: bytes) -> bytes | None:
    """The data inside gzip, bzip2, xz, lzma or zstd data, what follows its end ignored.

    None when it is none of these, or damaged, or cut short.
    """
    unpacker: _Unpacker
    if data.startswith(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(wbits=31)
    elif data.startswith(b"BZh"):
        unpacker = bz2.BZ2Decompressor()
    elif data.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        unpacker = lzma.LZMADecompressor()
    elif data.startswith(b"\x28\xb5\x2f\xfd"):
        unpacker = zstandard.ZstdDecompressor().decompressobj()
    else:
        return None
    try:
        plain = unpacker.decompress(data)
    except (zlib.error, OSError, EOFError, lzma.LZMAError, zstandard.ZstdError):
        return None
    return plain if unpacker.eof else None


class _Unpacker(Protocol):
    """What the standard library's decompressors have in common."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _read(path: Path) -> bytes:
    if not path.exists():
        raise SpecError(f"there is no kernel at {path}", hint="give the path of a bzImage or Image, or a suite name")
    if path.is_dir():
        raise SpecError(
            f"{path} is a directory, not a kernel image",
            hint="give the image in it: arch/x86/boot/bzImage, boot/vmlinuz-RELEASE...",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpecError(
            f"the kernel at {path} cannot be read: {error.strerror}",
            hint="some distributions keep /boot for root: copy the image, or give yourself permission",
        ) from error


def _is_bzimage(data: bytes) -> bool:
    return _has(data, _BOOT_FLAG) and _has(data, _SETUP_MAGIC)


def _plain(data: bytes) -> bytes | None:
    """An arm64 or RISC-V image without its compression; None when that is not known."""
    if _has(data, _ZBOOT_MAGIC) and len(data) >= 16:
        offset, size = struct.unpack_from("<II", data, 8)
        return decompress(data[offset : offset + size])
    return decompress(data) if data.startswith(b"\x1f\x8b") else data


def _has(data: bytes, magic: tuple[int, bytes]) -> bool:
    offset, value = magic
    return data[offset : offset + len(value)] == value


def _kind(data: bytes) -> str:
    if not data:
        return "an empty file"
    for offset, magic, kind in _KINDS:
        if _has(data, (offset, magic)):
            return kind
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:256]):
        return "a text file"
    return "data of an unknown kind"


def _not_a_kernel(path: Path, kind: str, data: bytes) -> SpecError:
    return SpecError(
        f"{path} is not a kernel image that can be booted: it is {kind}; its first bytes are {data[:16].hex(' ')}",
        hint="give a bzImage (amd64) or an Image (arm64, riscv64)",
    )
