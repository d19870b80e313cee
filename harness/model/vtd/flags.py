"""Accessed and dirty flags: what a walk sets in the entries that it uses (VT-d 3.6.2, 3.7.2, 3.8.1).

The specification lets hardware set accessed flags also for a request that faults later on, or not set them; dirty flags
it does not. Here an entry that references a table has its flags set as soon as the walk goes on from it, and one that
maps a page when nothing is left that could block the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from harness.model.access import MemoryWrite
from harness.model.memory import Region

__all__ = ["FlagFailure", "Flags", "IgnoredFlags"]


class FlagFailure(Enum):
    """Why a flag could not be set."""

    NOT_SNOOPED = "the walk does not snoop"
    """SFS.9, SSS.5: an atomic update needs PWSNP."""
    REFUSED = "memory refuses the write"
    """SFS.10, SSS.6."""


class Flags:
    """The flags that one walk sets, one object for each request.

    Args:
        snooped: PWSNP; without it no flag can be set (VT-d 3.10).
        read_only: memory that refuses to be written.

    Attributes:
        writes: what was set, one write for each entry; the last one for an entry has all of its flags.
    """

    __slots__ = ("_read_only", "_snooped", "writes")

    def __init__(self, snooped: bool, read_only: Sequence[Region]) -> None:
        self._snooped = snooped
        self._read_only = read_only
        self.writes: list[MemoryWrite] = []

    def set(self, address: int, entry: int, flags: int) -> FlagFailure | None:
        """Set flags of the 64-bit entry at an address, those that are not set already."""
        # The tables may use one entry twice: what the walk itself has set stays set.
        for write in self.writes:
            if write.address == address:
                entry |= int.from_bytes(write.data, "little")
        if not flags & ~entry:
            return None
        if not self._snooped:
            return FlagFailure.NOT_SNOOPED
        if any(region.base <= address < region.base + region.size for region in self._read_only):
            return FlagFailure.REFUSED
        self.writes.append(MemoryWrite(address, (entry | flags).to_bytes(8, "little")))
        return None


class IgnoredFlags(Flags):
    """The flags of a listing: none is set, and none fails."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(snooped=True, read_only=())

    def set(self, address: int, entry: int, flags: int) -> FlagFailure | None:
        """See `Flags`: nothing."""
        return None
