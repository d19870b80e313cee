"""What a start by firmware takes is fetched when it is needed, and refused by name where a suite has not got it."""

from __future__ import annotations

from harness.artifacts.cache import Cache
from harness.defaults import defaults
from harness.images.firmware import FirmwareFiles
from harness.spec import Firmware

_FLASH_BYTES = 4 << 20  # of both chips together; QEMU maps them so that they end at 4 GiB


def test_seabios_needs_nothing() -> None:
    files = FirmwareFiles("no-such-suite", Cache())
    assert files.flash(Firmware.SEABIOS) is None
    assert files.artifacts == ()


def test_ovmf_is_two_chips_and_is_in_the_record() -> None:
    files = FirmwareFiles(defaults().suite, Cache())
    flash = files.flash(Firmware.OVMF)
    assert flash is not None
    assert flash.code.stat().st_size + flash.variables.stat().st_size == _FLASH_BYTES
    assert [(artifact.role, artifact.name) for artifact in files.artifacts] == [("firmware", "ovmf")]


def test_a_boot_loader_is_in_the_record_when_it_was_needed() -> None:
    files = FirmwareFiles(defaults().suite, Cache())
    assert files.disk("disk").id == "disk"
    names = {artifact.name for artifact in files.artifacts}
    assert {"grub-pc-bin", "grub-efi-amd64-bin", "mtools"} <= names
    assert "ovmf" not in names
