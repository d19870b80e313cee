"""How software sets up a queue: its base, its own index, its control and status register (6.6 to 6.17)."""

from __future__ import annotations

from harness.model.bits import Layout
from harness.model.engine import NotModelled
from harness.model.riscv.queues import ring
from harness.model.riscv.register_fields import CQCSR, FQCSR, PQCSR, QUEUE_BASE
from harness.model.riscv.register_file import RegisterFile

__all__ = ["COMMAND_QUEUE", "QUEUES", "QueueControl"]

_ALL_OF_32 = (1 << 32) - 1
_SIZE = QUEUE_BASE["LOG2SZ-1"].mask
_PAGE = 4096


class QueueControl:
    """The registers of one queue.

    Args:
        letter: of the queue's name: c, f or p.
        csr: layout of its control and status register.
        entry_size: bytes.
        own: name of the index that software writes, t or h.

    Attributes:
        base, csr: keys of its registers;
        own: that of the index that software writes,
        other: and that of the other one.
        on: bits of csr of which one at least is set while the queue is on, or about to be.
    """

    def __init__(self, letter: str, csr: Layout, entry_size: int, own: str) -> None:
        self.base, self.csr, self.own = f"{letter}qb", f"{letter}qcsr", f"{letter}q{own}"
        self.other = f"{letter}qh" if own == "t" else f"{letter}qt"
        self._enable, self._active = csr[f"{letter}qen"].mask, csr[f"{letter}qon"].mask
        self.on = self._enable | self._active
        self._entry_size = entry_size

    def write_base(self, file: RegisterFile, mask: int, bits: int) -> None:
        """A write of cqb, fqb or pqb.

        Raises:
            NotModelled: the queue is on: what happens is not specified (6.6).
        """
        if file.values[self.csr] & self.on:
            raise NotModelled(f"{self.base} is written while its queue is on, and what happens then is not specified")
        file.store(self.base, mask, bits)
        # The upper bits of the index become 0, the others something.
        file.store(self.own, _ALL_OF_32, 0)
        in_ring = ring(file.values[self.base])[1] if file.is_known(self.base, _SIZE) else _ALL_OF_32
        file.forget(self.own, in_ring)

    def write_index(self, file: RegisterFile, mask: int, bits: int) -> None:
        """A write of cqt, fqh or pqh: only so many bits as the queue needs are writable."""
        if not file.is_known(self.base, _SIZE):
            file.forget(self.own, _ALL_OF_32)
            return
        file.store(self.own, mask & ring(file.values[self.base])[1], bits)

    def write_csr(self, file: RegisterFile, writable: int, clears: int, bits: int) -> None:
        """A write of cqcsr, fqcsr or pqcsr.

        Args:
            file: the registers.
            writable: bits that are written and can be.
            clears: bits that are written and that a 1 clears.
            bits: what is written.

        Raises:
            NotModelled: the queue is turned on without being set up, or where no queue can be.
        """
        before = file.values[self.csr]
        file.store(self.csr, writable, bits)
        file.store(self.csr, clears & bits, 0)
        after = file.values[self.csr]
        if after & self._enable and not before & self._enable:
            self._check(file)
            # 6.15 to 6.17: the IOMMU's own index and the error bits become 0.
            file.store(self.other, _ALL_OF_32, 0)
            file.store(self.csr, clears | self._active, self._active)
        elif before & self._enable and not after & self._enable:
            file.store(self.csr, self._active, 0)

    def _check(self, file: RegisterFile) -> None:
        unknown = next((key for key in (self.base, self.own, "fctl") if file.unknown(key)), None)
        if unknown is not None:
            raise NotModelled(f"{self.csr} turns its queue on, and nothing is known of {unknown}")
        start, mask = ring(file.values[self.base])
        size = (mask + 1) * self._entry_size
        if size > _PAGE and start % size:
            raise NotModelled(
                f"{self.base} is not aligned to its queue of {size:#x} bytes, whose entries are then anything"
            )


COMMAND_QUEUE = QueueControl("c", CQCSR, 16, "t")
QUEUES = (COMMAND_QUEUE, QueueControl("f", FQCSR, 32, "h"), QueueControl("p", PQCSR, 16, "h"))
"""Every queue that an IOMMU may have."""
