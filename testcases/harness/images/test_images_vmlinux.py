"""The form of a kernel that boots fastest."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from harness.artifacts.cache import Cache
from harness.artifacts.kernel import Kernel
from harness.artifacts.vmlinux import bootable

pytest_plugins = ("images_fixtures",)

FAKE = Kernel(name="x", image=Path(), release="6.9.0", arch="amd64", config={}, modules_dir=None, artifacts=())


def note(name: bytes, kind: int) -> bytes:
    return struct.pack("<III", len(name) + 1, 4, kind) + (name + b"\0").ljust((len(name) + 4) & ~3, b"\0") + bytes(4)


def elf(notes: bytes) -> bytes:
    """A 64-bit ELF file with one section of notes."""
    names = b"\0.notes\0.shstrtab\0"
    offset = 64 + len(notes)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, offset + len(names), 0, 64, 0, 0, 64, 3, 2)
    section = struct.Struct("<IIQQQQIIQQ")
    sections = bytes(64) + section.pack(1, 7, 0, 0, 64, len(notes), 0, 0, 4, 0)
    return header + notes + names + sections + section.pack(8, 3, 0, 0, offset, len(names), 0, 0, 1, 0)


def kernel(path: Path, payload: bytes) -> Kernel:
    """A bzImage with that payload (Linux, Documentation/arch/x86/boot.rst: setup_sects, payload_offset)."""
    head = bytearray(0x400)
    head[0x1F1] = 1
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    path.write_bytes(bytes(head) + payload)
    return replace(FAKE, image=path)


PVH = elf(note(b"Linux", 1) + note(b"Xen", 18))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_kernel_with_a_pvh_entry_is_unpacked(tmp_path: Path, cache: Cache) -> None:
    made = kernel(tmp_path / "bzImage", gzip.compress(PVH))
    file = bootable(made, cache)
    assert file.read_bytes() == PVH
    assert bootable(made, cache) == file


@pytest.mark.parametrize(
    "payload",
    [
        gzip.compress(elf(note(b"Xen", 17))),
        gzip.compress(elf(note(b"Linux", 18))),
        gzip.compress(elf(b"")),
        gzip.compress(PVH)[:-20],
        gzip.compress(PVH[:100]),
        gzip.compress(PVH[:-70]),
        gzip.compress(b"\x7fELF"),
        gzip.compress(b"not an ELF file"),
        gzip.compress(b"\x7fELF" + b"\xff" * 300),
        PVH,
        b"",
    ],
    ids=[
        "another Xen note", "another owner", "no note", "payload cut short", "ELF cut short", "sections cut short",
        "magic alone", "no ELF", "damaged ELF", "unknown compression", "no payload",
    ],
)  # fmt: skip
def test_kernel_without_one_is_booted_from_its_image(tmp_path: Path, cache: Cache, payload: bytes) -> None:
    made = kernel(tmp_path / "bzImage", payload)
    assert bootable(made, cache) == made.image


def test_kernel_of_another_architecture_is_booted_from_its_image(tmp_path: Path, cache: Cache) -> None:
    made = replace(kernel(tmp_path / "Image", gzip.compress(PVH)), arch="arm64")
    assert bootable(made, cache) == made.image


def test_rebuilt_kernel_of_the_same_release_is_unpacked_anew(tmp_path: Path, cache: Cache) -> None:
    old = bootable(kernel(tmp_path / "bzImage", gzip.compress(PVH)), cache)
    new = bootable(kernel(tmp_path / "bzImage", gzip.compress(elf(note(b"Xen", 18)))), cache)
    assert old.read_bytes() != new.read_bytes()


def test_kernels_of_debian_have_a_pvh_entry(request: pytest.FixtureRequest) -> None:
    for name in ("kernel", "old_kernel"):
        found: Kernel = request.getfixturevalue(name)
        assert bootable(found, Cache()).read_bytes()[:4] == b"\x7fELF"
