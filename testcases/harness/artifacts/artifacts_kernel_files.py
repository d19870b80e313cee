"""Kernel images and modules made of as little as the code that reads them looks at."""

from __future__ import annotations

import struct


def bzimage(release: str = "6.9.0-test", payload: bytes = b"") -> bytes:
    """A bzImage by Documentation/arch/x86/boot.rst: one set-up sector, the version, a payload."""
    head = bytearray(0x400)
    head[0x1F1] = 1
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x300 - 0x200)
    struct.pack_into("<II", head, 0x248, 64, len(payload))
    version = f"{release} (someone@somewhere) #1 SMP\0".encode()
    head[0x300 : 0x300 + len(version)] = version
    return bytes(head) + bytes(64) + payload


def flat_image(magic: bytes, release: str = "6.9.0-test") -> bytes:
    """An arm64 or RISC-V Image: `magic` at 0x38, and a version banner somewhere."""
    return bytes(0x38) + magic + bytes(200) + f"Linux version {release} (gcc)\0".encode()


def module(**fields: str | list[str]) -> bytes:
    """A 64-bit ELF file with a `.modinfo` section of those fields."""
    entries = [
        f"{key}={value}"
        for key, values in fields.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    modinfo = b"".join(entry.encode() + b"\0" for entry in entries)
    names = b"\0.modinfo\0.shstrtab\0"
    offset = 64
    sections = offset + len(modinfo) + len(names)

    def section(name: int, kind: int, start: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, start, size, 0, 0, 1, 0)

    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, sections, 0, 64, 0, 0, 64, 3, 2)
    return (
        header
        + modinfo
        + names
        + bytes(64)
        + section(1, 1, offset, len(modinfo))
        + section(10, 3, offset + len(modinfo), len(names))
    )
