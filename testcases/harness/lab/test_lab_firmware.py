"""What a machine is started from where its firmware is named."""

from __future__ import annotations

import pytest

from harness.artifacts.cache import Cache
from harness.errors import HarnessError, SpecError, Unsupported
from harness.images.firmware import FirmwareFiles
from harness.images.keys import Keys
from harness.lab import Lab
from harness.spec import Device, DeviceKind, Firmware, Iommu, IommuKind, Machine, Start
from harness.warm.move import move

_DISK = Device(kind=DeviceKind.VIRTIO_BLK, iommu=True, id="disk")


def _machine(firmware: Firmware, disk: str | None) -> Machine:
    return Machine(
        iommu=Iommu(kind=IommuKind.INTEL), devices=(_DISK,), start=Start(firmware=firmware, disk=disk), memory_mib=128
    )


def test_nobody_waits_for_a_guest_that_firmware_cannot_start(lab: Lab) -> None:
    with pytest.raises(SpecError, match="seabios has nothing to start"), lab.boot(_machine(Firmware.SEABIOS, None)):
        pass


def test_firmware_reads_the_kernel_as_it_is_distributed(lab: Lab) -> None:
    boot = lab.linux(_machine(Firmware.OVMF, "disk"), Keys.generate())
    assert boot.kernel == lab.kernel.image
    assert boot.firmware is not None
    assert boot.disk is not None
    assert boot.disk.id == "disk"
    assert {"ovmf", "grub-pc-bin"} <= {artifact.name for artifact in lab.artifacts}


def test_a_machine_that_firmware_starts_is_not_moved(lab: Lab) -> None:
    with (
        lab.start(_machine(Firmware.SEABIOS, None)) as machine,
        pytest.raises(Unsupported, match="seabios started this machine: it is not moved"),
        move(machine, lab),
    ):
        pass


def test_a_suite_that_there_is_not_is_told_by_name() -> None:
    files = FirmwareFiles("no-such-suite", Cache())
    with pytest.raises(HarnessError, match="no-such-suite"):
        files.flash(Firmware.OVMF)
