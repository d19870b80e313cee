"""A RISC-V IOMMU over time: its registers, its queues, its interrupts, and what its caches may hold (chapters 3 to 7).

Whatever a write sets going is done when the write is, so that every busy bit reads as 0.

Of what the specification calls UNSPECIFIED nothing can be said. Where software brings it about, `NotModelled` is
raised, then and from then on until a reset; reading registers goes on, and tells nothing. That is so after a write that
is not of 4 or 8 bytes, not aligned, or reaches several registers (6); after changes of fctl or of a queue's base at a
wrong moment (6.4, 6.6); after steps between modes that are not allowed (6.5); and where something is used that
software has not set up since the reset, which leaves nothing settled there (6.2).

What is taken where the specification leaves a choice, beside what `register_map`, `interrupts`, `fault_queue` and
`debug` say: of a mode that is not legal ddtp keeps a legal one, of which nothing is known before software turns the
IOMMU off; a fault of the translation-request interface is reported (chapter 7).

A write to the page of a memory-resident interrupt file is a message: as DMA its outcome is a bypass for being an
interrupt, and `interrupts` says what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from harness.model.access import (
    Access,
    AccessKind,
    Attributes,
    Bypassed,
    BypassReason,
    Fault,
    MemoryWrite,
    Outcome,
    Translated,
)
from harness.model.caches.companions import Source
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.past_walks import keep_engines
from harness.model.caches.policies import RISCV
from harness.model.caches.records import Records
from harness.model.engine import MsiOutcome, MsiWrite, NotModelled, PostedInterrupt
from harness.model.explanation import Explanation
from harness.model.memory import WritableMemory
from harness.model.riscv.commands import RiscvIommuCommandError, command_name, complaint
from harness.model.riscv.configuration import Configuration
from harness.model.riscv.debug import answer_of, requested_access, response
from harness.model.riscv.engine import RiscvIommuEngine
from harness.model.riscv.fault_queue import FaultQueue, FaultQueueState
from harness.model.riscv.faults import RiscvIommuFaultRecord
from harness.model.riscv.interrupts import COMMANDS, Interrupts, InterruptsState
from harness.model.riscv.naming import Naming
from harness.model.riscv.queue_control import QUEUES
from harness.model.riscv.queues import CommandQueue, take_command
from harness.model.riscv.register_fields import MSI_VECTOR_CONTROL, TR_REQ_CTL
from harness.model.riscv.register_file import RegisterFile, RegisterWrite
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.unit import AnyBytes, Coverage, Place, Readout, UnitState

__all__ = ["RiscvIommuUnit"]

_ALL_OF_32 = (1 << 32) - 1
_ALL_OF_64 = (1 << 64) - 1
_STORE_SIZE = 4
_GO = TR_REQ_CTL["Go/Busy"].mask
_MASKED = MSI_VECTOR_CONTROL["M"].mask
_MRIF = Attributes.MRIF
_INTERRUPT = BypassReason.INTERRUPT_RANGE


@dataclass(frozen=True, slots=True)
class _State:
    """What requests change, beside memory."""

    faults: FaultQueueState
    interrupts: InterruptsState
    free: tuple[AnyBytes, ...]


class RiscvIommuUnit:
    """See `InterruptUnit`.

    Args:
        registers: as read right after a reset; what its implementation chose is in them too.
        memory: the unit's own; what it holds is what there is.
        coverage: where to note what is exercised.
        sources: requesters, each with a PASID or None, that may bring something into caches before they are asked
            about.
        vectors: interrupt vectors that the implementation has, 1 to 16.
        controllers: where interrupt messages are taken that do not go to memory; everywhere where left out.

    Attributes:
        evidence: fqt, fqcsr, ipsr.
        keeps_first_record: each has a record,
        records_pages: with its address.
    """

    granule = 4096
    evidence = ((52, 4), (76, 4), (84, 4))
    keeps_first_record = False
    records_pages = False

    def __init__(
        self,
        registers: RiscvIommuRegisters,
        memory: WritableMemory,
        *,
        coverage: Coverage,
        sources: Iterable[Source] = (),
        vectors: int = 16,
        controllers: Sequence[range] | None = None,
    ) -> None:
        self.memory = memory
        self.coverage = coverage
        self._file = RegisterFile(registers, vectors)
        self._configuration = Configuration(registers, self._file, vectors)
        self._present = self._configuration.registers()
        self._caches = CacheModel(keep_engines(RiscvIommuEngine), self._present, memory, RISCV, sources=sources)
        self._records = Records(self._caches)
        limit = 1 << registers.physical_address_size
        self._interrupts = Interrupts(self._file, self._records, limit, controllers, self._report)
        self._faults = FaultQueue(self._file, self._records, limit, self._interrupts)
        self._queues = tuple(queue for queue in QUEUES if queue.csr in self._file.values)
        self._by_csr = {queue.csr: queue for queue in self._queues}
        self._by_base = {queue.base: queue for queue in self._queues}
        self._by_index = {queue.own: queue for queue in self._queues}
        self._has_resident_files = registers.has("MSI_MRIF")
        self._sets_flags = registers.has("AMO_HWAD")
        self._naming = Naming(self._file, self._faults, self._interrupts, self._caches)
        # Of records that no request has to do with: told with the next one.
        self._free: tuple[AnyBytes, ...] = ()
        self._problem = ""

    @property
    def registers(self) -> RiscvIommuRegisters:
        """The registers that translation depends on, as they are now, and what the implementation chose."""
        return self._present

    def reset(self) -> None:
        """See `Unit`."""
        self._problem = ""
        self._configuration.reset()
        self._records.keep()
        self._file.reset()
        self._interrupts.reset()
        self._free = ()
        self._naming.reset()
        self._use_registers()
        self._caches.reset()

    # --- registers ---

    def read(self, offset: int, size: int) -> Readout:
        """See `Unit`. Reading changes nothing."""
        return Readout(0, 0) if self._problem else self._file.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """See `Unit`.

        Raises:
            NotModelled: what comes of it is not specified; see the module.
        """
        self._check()
        self._records.keep()
        try:
            self._take_write(offset, size, value)
        except NotModelled as error:
            self._problem = error.message
            raise

    def _take_write(self, offset: int, size: int, value: int) -> None:
        file = self._file
        if file.is_specified(offset, size):
            part = file.part(offset, size, value)
            if part is not None:
                self._write_register(part)
        elif (touched := file.touched(offset, size)) is not None:
            raise NotModelled(f"{size} bytes at {offset:#x} are written, which is no access to {touched.name}")

    def _write_register(self, part: RegisterWrite) -> None:
        register, mask, bits = part
        key, file = register.key, self._file
        before = file.values[key]
        self._note(part)
        writable, clears = mask & register.writable, mask & register.clears
        if key == "fctl":
            self._configuration.write_features(writable, bits, self._queues)
        elif key == "ddtp":
            self._configuration.write_directory(writable, bits)
        elif key in self._by_base:
            self._by_base[key].write_base(file, writable, bits)
        elif key in self._by_index:
            self._by_index[key].write_index(file, writable, bits)
        elif key in self._by_csr:
            self._by_csr[key].write_csr(file, writable, clears, bits)
        elif key == "icvec":
            self._configuration.write_vectors(writable, bits)
        else:
            file.store(key, writable, bits)
            file.store(key, clears & bits, 0)
        if key in ("fctl", "ddtp"):
            self._use_registers()
        if key in ("cqt", "cqcsr"):
            self._run_commands(resumes=key == "cqcsr" and bool(before & self._by_csr[key].on))
        if key in self._by_csr or key == "ipsr":
            self._interrupts.update()
        if key == "ipsr":
            self._naming.pending.wrote(before, bits & mask, file.values[key])
        if register.name == "msi_vec_ctl" and writable and not bits & _MASKED:
            self._interrupts.unmask(int(key.rpartition("_")[2]))
        if key == "tr_req_ctl" and mask & bits & _GO:
            self._translate_request()

    def _use_registers(self) -> None:
        """Translate by the registers as they stand."""
        present = self._configuration.registers()
        self._naming.bare.set_mode(present.iommu_mode)
        if present != self._present:
            self._present = present
            self._caches.set_registers(present)

    @property
    def _engine(self) -> RiscvIommuEngine:
        engine = self._caches.engine
        assert isinstance(engine, RiscvIommuEngine)
        return engine

    def _note(self, part: RegisterWrite) -> None:
        """Say which fields are set."""
        register = part.register
        assert register.layout is not None
        for entry in register.layout.fields:
            if part.bits & entry.mask & (register.settled | _GO & register.fixed) & ~register.zeros:
                self.coverage.note("register", f"{register.name}.{entry.name}")

    def _check(self) -> None:
        if self._problem:
            raise NotModelled(self._problem)

    # --- commands, and the translation-request interface ---

    def _run_commands(self, *, resumes: bool) -> None:
        values, naming = self._file.values, self._naming
        naming.commands.begin(resumes=resumes)
        while True:
            queue = CommandQueue(values["cqb"], values["cqh"], values["cqt"], values["cqcsr"])
            taken = take_command(self._present, self.memory, queue)
            if taken is None:
                return
            if self._configuration.mode_is_unknown:
                raise NotModelled("a command is carried out, and nothing is known of ddtp.iommu_mode")
            values["cqh"], values["cqcsr"] = taken.head, taken.csr
            is_illegal = taken.result.error is RiscvIommuCommandError.ILLEGAL
            naming.commands.took(taken.result.writes, complaint(self._present, taken.command) if is_illegal else "")
            naming.bare.invalidated(taken.result.invalidations)
            if taken.command:
                self.coverage.note("command", command_name(self._present, taken.command))
            for write in taken.result.writes:
                self._records.write(write.address, write.data)
                naming.stored(write.address)
            self._caches.invalidate(taken.result.invalidations)
            if taken.interrupts and values["cqcsr"] & COMMANDS.enable:
                self._interrupts.pend(COMMANDS)

    def _translate_request(self) -> None:
        """Chapter 7."""
        file = self._file
        if file.unknown("tr_req_iova") or file.unknown("tr_req_ctl"):
            raise NotModelled("a translation is requested, and not all of the request is known")
        access = requested_access(file.values["tr_req_iova"], file.values["tr_req_ctl"])
        if access is None:
            raise NotModelled("tr_req_ctl asks for execution and for writing: what happens then is not specified")
        allowed = [answer_of(access, outcome, self._engine) for outcome in self._allowed(access)]
        answer = response(allowed, has_memory_types=self._present.has("Svpbmt"))
        file.store("tr_response", _ALL_OF_64, answer.value)
        file.forget("tr_response", ~answer.known)
        if len(allowed) > 1 and any(isinstance(outcome, Fault) for outcome in allowed):
            raise NotModelled("a translation is requested, of which caches say whether there is a fault to record")
        if self._sets_flags:
            present = self._engine.translate(access)
            if not isinstance(present, Bypassed) and present.writes:
                raise NotModelled("a translation is requested that may set flags, or may not")
        fault = allowed[0]
        if isinstance(fault, Fault) and isinstance(fault.record, RiscvIommuFaultRecord):
            self._report(fault.record)

    # --- memory and requests ---

    def store(self, address: int, data: bytes) -> None:
        """See `Unit`."""
        self._caches.memory.write(address, data)

    def outcomes(self, access: Access) -> Sequence[Outcome]:
        """See `Unit`."""
        if self._problem:
            self._check()
        allowed = self._allowed(access)
        if not self._has_resident_files:
            return allowed
        return tuple(dict.fromkeys([_as_message(access, outcome) for outcome in allowed]))

    def settle(self, access: Access, outcome: Outcome) -> Sequence[MemoryWrite | AnyBytes]:
        """See `Unit`: flags where caches may have spared the walk, and what of a record has no meaning."""
        self._check()
        flags: tuple[MemoryWrite, ...] = ()
        if self._sets_flags:
            flags = self._records.set_flags(access, outcome, partial(_is_same, access))
        free, self._free = self._free, ()
        if isinstance(outcome, Fault) and isinstance(outcome.record, RiscvIommuFaultRecord):
            return (*flags, *free, *self._faults.add(outcome.record))
        return (*flags, *free)

    def interrupts(self, write: MsiWrite) -> Sequence[MsiOutcome]:
        """See `InterruptUnit`.

        Raises:
            NotModelled: caches may say that another file, or none, takes the message.
        """
        self._check()
        access = Access(requester=write.requester, iova=write.address, length=_STORE_SIZE, kind=AccessKind.WRITE)
        if len(self._allowed(access)) > 1:
            raise NotModelled("a message goes to an interrupt file in memory that caches may know otherwise")
        return (self._engine.remap_msi(write),)

    def settle_interrupt(self, write: MsiWrite, outcome: MsiOutcome) -> None:
        """See `InterruptUnit`."""
        if isinstance(outcome, PostedInterrupt):
            for posted in outcome.writes:
                self._records.put(posted)
            if outcome.notify is not None:
                self._interrupts.send(outcome.notify.address, outcome.notify.data)
        elif isinstance(outcome, Fault) and isinstance(outcome.record, RiscvIommuFaultRecord):
            self._report(outcome.record)

    def explain(self, access: Access) -> Explanation:
        """See `Unit`."""
        return self._naming.explain(access)

    def take_interrupts(self) -> Sequence[MsiWrite]:
        """See `Unit`. The requester of each is 0."""
        taken = tuple(self._interrupts.messages)
        self._interrupts.messages.clear()
        return taken

    def _allowed(self, access: Access) -> Sequence[Outcome]:
        """Every outcome that caches allow, the one without them first."""
        if self._configuration.mode_is_unknown:
            raise NotModelled("nothing is known of ddtp.iommu_mode")
        return self._caches.outcomes(access)

    def _report(self, record: RiscvIommuFaultRecord) -> None:
        self._free += self._faults.add(record)

    # --- a point to come back to, and names ---

    def save(self) -> UnitState:
        """See `Unit`."""
        self._records.mark()
        return _State(self._faults.save(), self._interrupts.save(), self._free)

    def restore(self, state: UnitState) -> None:
        """See `Unit`."""
        assert isinstance(state, _State)
        self._records.rollback()
        self._faults.restore(state.faults)
        self._interrupts.restore(state.interrupts)
        self._free = state.free

    def register_at(self, offset: int) -> Place | None:
        """See `Unit`."""
        return self._naming.register_at(offset)

    def structure_at(self, address: int) -> Place | None:
        """See `Unit`."""
        return self._naming.structure_at(address)


def _as_message(access: Access, outcome: Outcome) -> Outcome:
    """The outcome of an access to a memory-resident interrupt file as that of an interrupt."""
    if isinstance(outcome, Translated) and outcome.attributes & _MRIF:
        return Bypassed(access.iova, _INTERRUPT)
    return outcome


def _is_same(access: Access, present: Outcome, outcome: Outcome) -> bool:
    """Whether an outcome, which may be that of an interrupt, is the present one."""
    return _as_message(access, present) == outcome
