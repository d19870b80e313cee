"""What a unit itself writes to memory: records, status, messages, and the flags of tables that requests go by."""

from __future__ import annotations

from collections.abc import Callable
from operator import eq
from typing import Any

from harness.model.access import Access, Bypassed, MemoryWrite, Outcome, without_writes
from harness.model.caches.hardware_memory import HardwareMemory
from harness.model.caches.iotlb import CacheModel
from harness.model.memory import OutsideMemory
from harness.model.undo import UndoMemory

__all__ = ["Records"]


class Records(UndoMemory):
    """Memory as a unit writes it: what it has written since `mark` can be taken back.

    Args:
        caches: of the unit, in whose history software's own writes are.
        flagged: takes the addresses of entries in which a walk has set flags, or may have.
    """

    def __init__(self, caches: CacheModel[Any], flagged: set[int] | None = None) -> None:
        super().__init__(HardwareMemory(caches.memory))
        self._caches = caches
        self._flagged = set() if flagged is None else flagged

    def put(self, write: MemoryWrite) -> None:
        """Write, where memory answers; elsewhere the write is lost, and nothing is told of it."""
        try:
            self.write(write.address, write.data)
        except OutsideMemory:
            return

    def set_flags(
        self, access: Access, outcome: Outcome, same: Callable[[Outcome, Outcome], bool] = eq
    ) -> tuple[MemoryWrite, ...]:
        """Set the flags that the walk of a request sets, where its outcome is that of the present tables.

        Args:
            access: the request.
            outcome: that came to pass, with no `writes`.
            same: how it is compared with the present one.

        Returns:
            The writes instead, where caches may have spared the request its walk: they were made or not.
        """
        present = self._caches.engine.translate(access)
        if isinstance(present, Bypassed) or not present.writes or not same(without_writes(present), outcome):
            return ()
        self._flagged.update(write.address for write in present.writes)
        if not self._caches.memory.is_empty:
            return present.writes
        for write in present.writes:
            self.put(write)
        return ()
