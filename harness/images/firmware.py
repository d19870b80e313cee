"""What a start by firmware takes: OVMF, and a disk with a boot loader. Both are fetched when they are first needed."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.artifacts import packages
from harness.artifacts.cache import Cache
from harness.artifacts.packages import Tree
from harness.artifacts.progress import Progress, silent
from harness.images.boot_disk import GrubDisk
from harness.images.boot_loader import BootLoader, boot_loader
from harness.report.record import Artifact
from harness.spec import Firmware
from harness.vmm.protocol import Flash

__all__ = ["FirmwareFiles"]

_OVMF = "ovmf"
# Without Secure Boot: nobody has signed the boot loader that is made here.
_CODE, _VARIABLES = (f"/usr/share/OVMF/OVMF_{part}_4M.fd" for part in ("CODE", "VARS"))


@dataclass(slots=True)
class FirmwareFiles:
    """The files of one suite.

    Attributes:
        suite: where OVMF and GRUB come from.
        cache: where they are kept.
        progress: told of each step that takes long.
    """

    suite: str
    cache: Cache
    progress: Progress = silent
    _ovmf: Tree | None = field(default=None, init=False)
    _loader: BootLoader | None = field(default=None, init=False)

    def flash(self, firmware: Firmware) -> Flash | None:
        """Firmware for flash chips; None where QEMU brings it along.

        Raises:
            Unsupported: the suite has no such package.
            ArtifactError, HostError: it cannot be had, or is not what it should be.
        """
        if firmware is Firmware.SEABIOS:
            return None
        if self._ovmf is None:
            self._ovmf = packages.fetch(self.cache, self.suite, "amd64", [_OVMF], self.progress)
        return Flash(code=self._ovmf.require(_CODE), variables=self._ovmf.require(_VARIABLES))

    def disk(self, id: str) -> GrubDisk:
        """A disk with a boot loader; errors as of `boot_loader`.

        Args:
            id: of the device in the spec.
        """
        if self._loader is None:
            self._loader = boot_loader(self.suite, self.cache, self.progress)
        return GrubDisk(id, self._loader)

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The packages that were needed so far."""
        firmware = self._ovmf.artifacts("firmware") if self._ovmf else ()
        return (*firmware, *(self._loader.artifacts if self._loader else ()))
