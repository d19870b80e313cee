"""Memory as hardware writes it, beside a history that is kept of what software writes.

What an IOMMU stores by itself (an event, the status of a wait, a flag) is no past that its caches could know. Only
where software has changed the same word before does the history have to hear of it, to know what the present is.
"""

from __future__ import annotations

from harness.model.caches.history import HistoryMemory

__all__ = ["HardwareMemory"]

_WORD_BYTES = 8


class HardwareMemory:
    """Writes past a history, but for words that have one.

    Args:
        history: of the memory.
    """

    def __init__(self, history: HistoryMemory) -> None:
        self._history = history
        self._present = history.memory
        self.read = history.memory.read
        self.read_u64 = history.memory.read_u64

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`."""
        if self._history.changed(address, len(data)):
            self._history.write(address, data)
        else:
            self._present.write(address, data)

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        self.write(address, value.to_bytes(_WORD_BYTES, "little"))
