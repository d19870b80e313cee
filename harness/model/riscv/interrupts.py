"""The interrupts of a RISC-V IOMMU itself: what is pending, what is masked, where the messages go (6.18, 6.28, 6.29).

What is taken where the specification leaves a choice:

* Messages that wait for a masked vector become one when the mask goes, whatever has become of ipsr until then.
* A message whose address is one of memory is a write like any other. Elsewhere it reaches an interrupt controller,
  where one answers; where nothing does, that is a fault of cause 273.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.model.engine import MsiWrite, NotModelled
from harness.model.memory import OutsideMemory, WritableMemory
from harness.model.riscv.faults import RiscvIommuFaultRecord
from harness.model.riscv.queues import message_fault
from harness.model.riscv.register_fields import CQCSR, FCTL, FQCSR, ICVEC, IPSR, MSI_VECTOR_CONTROL, PQCSR
from harness.model.riscv.register_file import RegisterFile
from harness.model.riscv.register_map import vector_key

__all__ = ["COMMANDS", "FAULTS", "Interrupts", "InterruptsState", "Source"]

_BE = FCTL["BE"].mask
_WSI = FCTL["WSI"].mask
_MASKED = MSI_VECTOR_CONTROL["M"].mask
_MESSAGE_SIZE = 4


@dataclass(frozen=True, slots=True)
class Source:
    """A queue as a source of interrupts.

    Attributes:
        csr: key of its control and status register.
        enable: bit of it that lets it interrupt.
        conditions: bits of it each of which is a reason to (6.18).
        pending: bit of ipsr.
        vector: name of its field in icvec.
    """

    csr: str
    enable: int
    conditions: int
    pending: int
    vector: str


COMMANDS = Source(
    "cqcsr",
    CQCSR["cie"].mask,
    sum(CQCSR[name].mask for name in ("fence_w_ip", "cmd_ill", "cmd_to", "cqmf")),
    IPSR["cip"].mask,
    "civ",
)
FAULTS = Source("fqcsr", FQCSR["fie"].mask, FQCSR["fqof"].mask | FQCSR["fqmf"].mask, IPSR["fip"].mask, "fiv")
_PAGE_REQUESTS = Source("pqcsr", PQCSR["pie"].mask, PQCSR["pqof"].mask | PQCSR["pqmf"].mask, IPSR["pip"].mask, "piv")


@dataclass(frozen=True, slots=True)
class InterruptsState:
    """What sending messages changes, beside memory."""

    ipsr: int
    waiting: frozenset[int]
    messages: tuple[MsiWrite, ...]


class Interrupts:
    """Sends them.

    Args:
        file: the registers.
        memory: that messages may be written to.
        limit: the first address beyond the physical ones.
        controllers: where messages are taken that do not go to memory; None for everywhere.
        report: takes the record of a fault.

    Attributes:
        messages: that were sent to an interrupt controller, in their order.
        written: where messages were written to memory.
    """

    def __init__(
        self,
        file: RegisterFile,
        memory: WritableMemory,
        limit: int,
        controllers: Sequence[range] | None,
        report: Callable[[RiscvIommuFaultRecord], None],
    ) -> None:
        self._file = file
        self._memory = memory
        self._limit = limit
        self._controllers = controllers
        self._report = report
        self._sources = tuple(each for each in (COMMANDS, FAULTS, _PAGE_REQUESTS) if each.csr in file.values)
        self._waiting: set[int] = set()
        self.messages: list[MsiWrite] = []
        self.written: set[int] = set()

    def reset(self) -> None:
        """Nothing has happened."""
        self._waiting.clear()
        self.messages.clear()
        self.written.clear()

    def update(self) -> None:
        """A control register has changed, or ipsr: whatever has a reason to be pending is."""
        values = self._file.values
        for source in self._sources:
            csr = values[source.csr]
            if csr & source.enable and not values["ipsr"] & source.pending:
                if csr & source.conditions:
                    self.pend(source)
                elif source.conditions & self._file.unknown(source.csr):
                    raise NotModelled(
                        f"{source.csr} lets its queue interrupt, and has error bits of which nothing is known"
                    )

    def pend(self, source: Source) -> None:
        """A source has something to tell, and may."""
        file = self._file
        values = file.values
        if values["ipsr"] & source.pending:
            return
        file.store("ipsr", source.pending, source.pending)
        if values["fctl"] & _WSI:
            return
        field = ICVEC[source.vector]
        if not file.is_known("icvec", field.mask):
            raise NotModelled(f"an interrupt goes to the vector icvec.{source.vector}, of which nothing is known")
        self._send(field.get(values["icvec"]))

    def unmask(self, vector: int) -> None:
        """The mask of a vector is gone: what has waited for that is sent."""
        if vector in self._waiting:
            self._waiting.discard(vector)
            self._send(vector)

    def send(self, address: int, data: int) -> None:
        """Write a message: 4 bytes, in the byte order of fctl.BE (6.4)."""
        if address < self._limit:
            big_endian = self._file.values["fctl"] & _BE
            try:
                self._memory.write(address, data.to_bytes(_MESSAGE_SIZE, "big" if big_endian else "little"))
            except OutsideMemory:
                if self._controllers is None or any(address in where for where in self._controllers):
                    self.messages.append(MsiWrite(requester=0, address=address, data=data))
                    return
            else:
                self.written.add(address)
                return
        self._report(message_fault(address))

    def save(self) -> InterruptsState:
        """A point to come back to."""
        return InterruptsState(self._file.values["ipsr"], frozenset(self._waiting), tuple(self.messages))

    def restore(self, state: InterruptsState) -> None:
        """Be as at `save`, but for memory."""
        self._file.values["ipsr"] = state.ipsr
        self._waiting = set(state.waiting)
        self.messages = list(state.messages)

    def _send(self, vector: int) -> None:
        file = self._file
        keys = [vector_key(name, vector) for name in ("msi_addr", "msi_data", "msi_vec_ctl")]
        if any(file.unknown(key) for key in keys):
            raise NotModelled(f"an interrupt is sent by entry {vector} of msi_cfg_tbl, of which nothing is known")
        address, data, control = (file.values[key] for key in keys)
        if control & _MASKED:
            self._waiting.add(vector)
        else:
            self.send(address, data)
