"""What lies in the run directory of a machine before it is started: disks, the initrd with its overlay, firmware's
variables.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from harness.errors import HostError
from harness.spec import Device, DeviceKind, Machine
from harness.vmm.protocol import Boot, FirmwareBoot, Flash, LinuxBoot, MovedMachine
from harness.vmm.qemu.wiring import DISK_BYTES, HarnessWiring

__all__ = ["DISKS", "devices_of", "prepare"]

DISKS = tuple(kind for kind in DeviceKind if kind.is_disk)
"""The kinds with a disk behind them."""


def prepare(spec: Machine, boot: Boot, wiring: HarnessWiring) -> Boot:
    """Make the disks, put on one what firmware is to start or join overlay and initrd, and copy firmware's variables.

    Returns:
        What to boot then.

    Raises:
        ArtifactError, SpecError: as `BootDisk.write` raises them.
        HostError: no space, no permission, or a file that is not there.
    """
    try:
        for disk in devices_of(spec, *DISKS):
            if isinstance(boot, MovedMachine):
                wiring.image(disk.id).hardlink_to(boot.source.disk(disk.id))
                continue
            with wiring.image(disk.id).open("xb") as file:
                file.truncate(DISK_BYTES)
        if isinstance(boot, LinuxBoot | FirmwareBoot) and isinstance(boot.firmware, Flash):
            shutil.copyfile(boot.firmware.variables, wiring.variables)
        if isinstance(boot, LinuxBoot) and boot.disk is not None:
            boot.disk.write(wiring.image(boot.disk.id), boot)
            return replace(boot, overlay=b"")
        if isinstance(boot, LinuxBoot) and boot.overlay:
            joined = wiring.directory / "initrd"
            _join(boot.initrd, boot.overlay, joined)
            return replace(boot, initrd=joined, overlay=b"")
        return boot
    except OSError as error:
        raise HostError(
            f"{error.filename or wiring.directory}: {error.strerror}",
            hint=f"check that it is there, and that {wiring.directory.parent} has space",
        ) from error


def _join(initrd: Path | None, overlay: bytes, whole: Path) -> None:
    """One archive behind the other, at a multiple of 4: Linux, driver-api/early-userspace/buffer-format.rst."""
    with whole.open("xb") as out:
        whole.chmod(0o600)
        if initrd is not None:
            with initrd.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
            out.write(b"\0" * (-out.tell() % 4))
        out.write(overlay)


def devices_of(spec: Machine, *kinds: DeviceKind) -> tuple[Device, ...]:
    """The devices of a spec that are of one of the kinds, in its order."""
    return tuple(d for d in spec.devices if d.kind in kinds)
