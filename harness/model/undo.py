"""Memory whose writes can be taken back: what a unit writes its records with (`harness.model.unit`)."""

from __future__ import annotations

from harness.model.memory import WritableMemory

__all__ = ["UndoMemory"]

_WORD_BYTES = 8


class UndoMemory:
    """Passes everything on, and remembers what was there before each write since the last `mark`.

    Args:
        memory: what is behind it.
    """

    def __init__(self, memory: WritableMemory) -> None:
        self._memory = memory
        self._before: list[tuple[int, bytes]] | None = None
        self.read = memory.read
        self.read_u64 = memory.read_u64

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`."""
        if self._before is not None:
            self._before.append((address, self._memory.read(address, len(data))))
        self._memory.write(address, data)

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        self.write(address, value.to_bytes(_WORD_BYTES, "little"))

    def mark(self) -> None:
        """Remember from here on."""
        self._before = []

    def keep(self) -> None:
        """Remember nothing any more: the writes stay."""
        self._before = None

    def rollback(self) -> None:
        """Take back every write since the last `mark`, from which it goes on."""
        for address, data in reversed(self._before or ()):
            self._memory.write(address, data)
        self.mark()
