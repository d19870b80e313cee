"""The disk that firmware starts Linux from, read as firmware and GRUB read it; whether they do, cases show."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from harness.artifacts.cache import Cache
from harness.defaults import defaults
from harness.errors import ArtifactError, SpecError
from harness.images.boot_disk import GrubDisk
from harness.images.boot_loader import BootLoader, boot_loader, run_tool
from harness.vmm.protocol import LinuxBoot

_MIB = 1 << 20
_ARGS = ("console=ttyS0", "memmap=4K$0x8000000", "a b")


@pytest.fixture(scope="module")
def loader() -> BootLoader:
    return boot_loader(defaults().suite, Cache())


@pytest.fixture
def boot(tmp_path: Path) -> LinuxBoot:
    (tmp_path / "kernel").write_bytes(b"K" * 3_000_000)
    (tmp_path / "archive").write_bytes(b"A" * 5_000_001)
    return LinuxBoot(kernel=tmp_path / "kernel", initrd=tmp_path / "archive", overlay=b"keys", args=_ARGS)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.touch()
    return path


def _content(loader: BootLoader, image: Path, name: str) -> bytes:
    words = [*loader.mtools, "-c", "mtype", "-i", f"{image}@@{_MIB}", f"::{name}"]
    return subprocess.run(words, capture_output=True, check=True, env={"MTOOLS_SKIP_CHECK": "1"}).stdout


def test_partition_has_what_uefi_and_grub_look_for(loader: BootLoader, boot: LinuxBoot, image: Path) -> None:
    GrubDisk("disk", loader).write(image, boot)
    assert _content(loader, image, "/EFI/BOOT/BOOTX64.EFI") == loader.efi
    assert loader.efi.startswith(b"MZ")
    assert _content(loader, image, "/vmlinuz") == boot.kernel.read_bytes()
    assert boot.initrd is not None
    assert _content(loader, image, "/initrd") == boot.initrd.read_bytes()
    assert _content(loader, image, "/overlay") == b"keys"
    assert _content(loader, image, "/grub.cfg").decode().splitlines() == [
        "linux /vmlinuz 'console=ttyS0' 'memmap=4K$0x8000000' 'a' 'b'",
        "initrd /initrd /overlay",
        "boot",
    ]


def test_first_sector_is_grubs_and_names_one_system_partition(loader: BootLoader, boot: LinuxBoot, image: Path) -> None:
    GrubDisk("disk", loader).write(image, boot)
    data = image.read_bytes()
    assert data[:440] == loader.sector[:440]
    assert data[510:512] == b"\x55\xaa"
    active, kind, start, sectors = struct.unpack("<B3xB3xII", data[446:462])
    assert (active, kind, start * 512, (start + sectors) * 512) == (0x80, 0xEF, _MIB, len(data))
    assert not any(data[462:510])


def test_core_stands_where_grubs_sector_reads_it_and_below_the_partition(
    loader: BootLoader, boot: LinuxBoot, image: Path
) -> None:
    """GRUB, boot/i386/pc: boot.S has the sector of the core at 0x5c, diskboot.S at its end where it goes on."""
    GrubDisk("disk", loader).write(image, boot)
    data = image.read_bytes()
    assert struct.unpack_from("<Q", data, 0x5C) == (1,)
    assert data[512 : 512 + len(loader.core)] == loader.core
    rest, count = struct.unpack_from("<QH", loader.core, 512 - 12)
    assert (rest, count) == (2, -(-len(loader.core) // 512) - 1)
    assert 512 + len(loader.core) < _MIB


def test_image_grows_with_what_is_on_it_and_is_nobody_elses_to_read(
    loader: BootLoader, boot: LinuxBoot, image: Path
) -> None:
    GrubDisk("disk", loader).write(image, boot)
    assert 9 * _MIB < image.stat().st_size <= 12 * _MIB
    assert image.stat().st_mode & 0o777 == 0o600


def test_without_archives_none_is_named(loader: BootLoader, boot: LinuxBoot, image: Path) -> None:
    GrubDisk("disk", loader).write(image, LinuxBoot(kernel=boot.kernel))
    assert _content(loader, image, "/grub.cfg") == b"linux /vmlinuz\nboot\n"


@pytest.mark.parametrize("word", ['dyndbg="file x +p"', "it's", "back\\slash"])
def test_words_that_grub_would_change_are_refused(loader: BootLoader, boot: LinuxBoot, image: Path, word: str) -> None:
    with pytest.raises(SpecError, match="GRUB does not hand on"):
        GrubDisk("disk", loader).write(image, LinuxBoot(kernel=boot.kernel, args=(word,)))


def test_a_tool_that_fails_says_what_it_said(loader: BootLoader, image: Path) -> None:
    with pytest.raises(ArtifactError, match="mtools of the boot loader's packages ended with status 1") as caught:
        run_tool(*loader.mtools, "-c", "mdir", "-i", str(image), "::/nothing")
    assert "nothing" in caught.value.evidence or "init" in caught.value.evidence
