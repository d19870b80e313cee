"""What about the state of a unit tells a difference from others of its kind: words for people, and for signatures.

Registers and records say what differs. Why it may was settled earlier: a command was illegal, a write of ipsr left a
bit alone, or no command has been there that would end what hardware made up for its devices in Bare mode.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.model.access import MemoryWrite
from harness.model.invalidation import EntryKind, Invalidation
from harness.model.riscv.register_fields import IPSR
from harness.model.riscv.registers import IommuMode

__all__ = ["BareMode", "CommandProgress", "PendingBits"]

_RESUMED = "behind an error that was cleared"


class CommandProgress:
    """Why the command queue stands where it does."""

    def __init__(self) -> None:
        self._resumes = self._has_resumed = False
        self._complaint = ""
        self._stores: set[int] = set()

    def begin(self, *, resumes: bool) -> None:
        """The IOMMU looks for commands: since software has cleared an error, or since there are more."""
        self._resumes = resumes
        self._has_resumed = False
        if not resumes:
            self._stores.clear()

    def took(self, writes: Iterable[MemoryWrite], complaint: str) -> None:
        """A command was taken.

        Args:
            writes: that it makes.
            complaint: what makes it illegal; empty where nothing does.
        """
        self._complaint = complaint
        self._has_resumed = self._resumes
        if self._resumes:
            self._stores.update(write.address for write in writes)

    @property
    def of_queue(self) -> str:
        """Of cqh and cqcsr."""
        if self._complaint:
            return f"illegal by {self._complaint}"
        return _RESUMED if self._has_resumed else ""

    def of_store(self, address: int) -> str:
        """Of what an IOFENCE.C has stored there."""
        return _RESUMED if address in self._stores else ""


class PendingBits:
    """Why bits of ipsr are still 1 after it was written (6.18)."""

    def __init__(self) -> None:
        self._why: dict[str, str] = {}

    def wrote(self, before: int, bits: int, after: int) -> None:
        """Software has written `bits`; ipsr was and is as said."""
        self._why.clear()
        for field in IPSR.fields:
            if before & after & field.mask:
                self._why[field.name] = "still has a cause" if bits & field.mask else "was not written"

    @property
    def text(self) -> str:
        """All of them."""
        return ", ".join(f"{name} {why}" for name, why in self._why.items())


class BareMode:
    """Which devices have met no IODIR.INVAL_DDT since ddtp.iommu_mode was Bare, and is not any more.

    Nothing of a directory is read in that mode, so there is nothing to invalidate.
    """

    def __init__(self) -> None:
        self._mode: IommuMode | None = None
        self._told: set[int] | None = None  # that were named; None where all were

    def set_mode(self, mode: IommuMode) -> None:
        """The mode is that, as before or from now on."""
        if mode is IommuMode.BARE is not self._mode:
            self._told = set()
        self._mode = mode

    def invalidated(self, invalidations: Iterable[Invalidation]) -> None:
        """Commands have done that."""
        for each in invalidations:
            if self._told is not None and EntryKind.DEVICE in each.kinds:
                if each.requester is None:
                    self._told = None
                else:
                    self._told.add(each.requester)

    def of_device(self, device_id: int) -> str:
        """Of a device's requests."""
        if self._told is None or device_id in self._told or self._mode in (None, IommuMode.OFF, IommuMode.BARE):
            return ""
        return "no IODIR.INVAL_DDT since Bare"
