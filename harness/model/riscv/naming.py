"""How a unit names what it has, for people and for signatures: registers, structures in memory, walks.

A name in brackets says what about the unit's state tells a difference there from others: see `circumstances`.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model.access import Access
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.staleness import TooManyWalks
from harness.model.explanation import Explanation
from harness.model.riscv.circumstances import BareMode, CommandProgress, PendingBits
from harness.model.riscv.fault_queue import FaultQueue
from harness.model.riscv.interrupts import Interrupts
from harness.model.riscv.queues import CommandQueue, waiting_writes
from harness.model.riscv.register_file import RegisterFile
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.unit import Place

__all__ = ["Naming"]

_OTHER_ADDRESS = "invalidated by another address"
_STORE_SIZE = 4
_PAGE = 4096


class Naming:
    """Names what a unit has.

    Args:
        file: its registers.
        faults: its fault queue.
        interrupts: what it sends.
        caches: what its caches may hold.

    Attributes:
        commands, pending, bare: its circumstances; the unit tells them what happens.
    """

    def __init__(
        self, file: RegisterFile, faults: FaultQueue, interrupts: Interrupts, caches: CacheModel[RiscvIommuRegisters]
    ) -> None:
        self._file = file
        self._faults = faults
        self._interrupts = interrupts
        self._caches = caches
        self.reset()

    def reset(self) -> None:
        """The machine was reset."""
        self.commands, self.pending, self.bare = CommandProgress(), PendingBits(), BareMode()
        self._stores: set[int] = set()

    def stored(self, address: int) -> None:
        """An IOFENCE.C has stored something."""
        self._stores.add(address)

    def register_at(self, offset: int) -> Place | None:
        """See `Unit`."""
        register = self._file.at(offset)
        if register is None:
            return None
        about = ""
        if register.key == "ipsr":
            about = self.pending.text
        elif register.key in ("cqh", "cqcsr"):
            about = self.commands.of_queue
        return Place(_named(register.name, about), register.offset, register.size, register.layout)

    def structure_at(self, address: int) -> Place | None:
        """See `Unit`: a fault record, what a fence or an interrupt stored."""
        place = self._faults.place_at(address)
        if place is not None:
            return place
        start = address & -_STORE_SIZE
        if start in self._stores:
            return Place(_named("IOFENCE.C data", self.commands.of_store(start)), start, _STORE_SIZE)
        if start in self._interrupts.written:
            return Place("interrupt message", start, _STORE_SIZE)
        if self.commands.of_queue and start in self._waiting_stores():
            return Place(_named("IOFENCE.C data", self.commands.of_queue), start, _STORE_SIZE)
        return None

    def _waiting_stores(self) -> set[int]:
        """Where fences would store that are in the queue behind the command at which it stands still, or were."""
        values = self._file.values
        queue = CommandQueue(*(values[name] for name in ("cqb", "cqh", "cqt", "cqcsr")))
        writes = waiting_writes(self._caches.registers, self._caches.memory, queue)
        return {write.address for write in writes}

    def explain(self, access: Access) -> Explanation:
        """See `Unit`. The last step also tells what commands have invalidated of it, or not."""
        explanation = self._caches.engine.explain(access)
        *steps, last = explanation.steps
        dropped = _OTHER_ADDRESS if self._was_dropped_by_other_address(access) else ""
        reasons = (last.reason, dropped, self.bare.of_device(access.requester))
        return replace(explanation, steps=(*steps, replace(last, reason=", ".join(filter(None, reasons)))))

    def _was_dropped_by_other_address(self, access: Access) -> bool:
        """Whether only commands with an address, none of which was in the page of the access, dropped its translation.

        That is so for a page larger than 4 KiB, and for a guest physical address.
        """
        try:
            dropped = self._caches.dropped_by(access)
        except TooManyWalks:
            return False
        page = access.iova // _PAGE
        return bool(dropped) and all(each.first is not None and each.first // _PAGE != page for each in dropped)


def _named(name: str, about: str) -> str:
    return f"{name} ({about})" if about else name
