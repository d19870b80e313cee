"""An AMD IOMMU over time: its registers, its command buffer, its event log, and what its caches may hold (AMD-Vi 2, 3).

What the specification leaves undefined makes the registers concerned read as anything: the base or head of the command
buffer written while CmdBufRun is 1, the base or tail of the event log while EventLogRun is 1, a reserved length, a
pointer beyond the ring (3.4), an access that is not aligned. Of a command or an event that depends on them nothing can
be said: it raises `NotModelled`.

Writing a base register sets the pointers of its ring to 0 (2.4, 2.5). Writing a 1 to CmdBufEn or EventLogEn while
IommuEn is set starts the ring, or starts it again after an error or an overflow, also where the bit was 1 before (3.4:
"start or restart"; "to resume logging, clear EventOverflow, and write a 1 to EventLogEn"). After an illegal command the
head pointer may stand on it or behind it.

With SE a device's page faults after its first may be written down or not (2.2.2.1). An event has its meaningless bits
either way (`AmdviEvent.meaningless`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.model.access import Access, Fault, MemoryWrite, Outcome
from harness.model.amdvi.commands import command_name, iommu_interrupt
from harness.model.amdvi.device_table import DeviceTable
from harness.model.amdvi.engine import AmdviEngine
from harness.model.amdvi.event_log import EventLog, EventLogState
from harness.model.amdvi.events import EVENT_SIZE, AmdviEvent, AmdviEventCode
from harness.model.amdvi.fault_reports import DeviceBits, with_one_fault, with_reports
from harness.model.amdvi.interrupts import trigger_modes
from harness.model.amdvi.queues import run_command_buffer, stores_to_come
from harness.model.amdvi.register_fields import BUFFER_BASE, CONTROL, STATUS
from harness.model.amdvi.register_file import RegisterFile, RegisterWrite, is_defined
from harness.model.amdvi.register_map import segment_key
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.amdvi.walk_reasons import with_reasons
from harness.model.caches.companions import Source
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.past_walks import keep_engines
from harness.model.caches.policies import AMDVI
from harness.model.caches.records import Records
from harness.model.engine import MsiOutcome, MsiWrite, NotModelled, PostedInterrupt
from harness.model.explanation import Explanation, Step
from harness.model.memory import WritableMemory
from harness.model.unit import Coverage, Place, Readout, UnitState

__all__ = ["AmdviUnit"]

_STORE_SIZE = 8

_IOMMU_EN, _EVENT_LOG_EN, _CMD_BUF_EN = (CONTROL[name].mask for name in ("IommuEn", "EventLogEn", "CmdBufEn"))
_EVENT_LOG_RUN, _CMD_BUF_RUN = (STATUS[name].mask for name in ("EventLogRun", "CmdBufRun"))
_TRANSLATION_KEYS = frozenset(
    {"device_table_base", "control", "exclusion_base", "exclusion_limit", *map(segment_key, range(1, 8))}
)
_MESSAGE_KEYS = frozenset({"control", "msi_header", "msi_address_low", "msi_address_high", "msi_data", "xt_interrupt"})
# Registers that software must leave alone while a bit of the status register is set (3.4).
_LOCKED_BY = {
    "command_buffer_base": _CMD_BUF_RUN,
    "command_buffer_head": _CMD_BUF_RUN,
    "event_log_base": _EVENT_LOG_RUN,
    "event_log_tail": _EVENT_LOG_RUN,
}
# The pointers that a write of a base register sets to 0.
_POINTERS_OF = {
    "command_buffer_base": ("command_buffer_head", "command_buffer_tail"),
    "event_log_base": ("event_log_head", "event_log_tail"),
}
_BASE_OF = {pointer: base for base, pointers in _POINTERS_OF.items() for pointer in pointers}
# What an interrupt tells of, by its enable in the control register.
_TOLD_BY = {
    CONTROL["EventIntEn"].mask: STATUS["EventLogInt"].mask | STATUS["EventOverflow"].mask,
    CONTROL["ComWaitIntEn"].mask: STATUS["ComWaitInt"].mask,
}
_SHORTEST_LENGTH = 8
_ALL_BITS = -1


class AmdviUnit:
    """See `InterruptUnit`.

    Args:
        registers: as read right after a reset.
        memory: the unit's own; what it holds is what there is.
        coverage: where to note what is exercised.
        sources: requesters, each with a PASID or None, that may bring something into caches before they are asked
            about.

    Attributes:
        evidence: the tail of the event log, and the status register.
        keeps_first_record: each has a record,
        records_pages: with its address.
    """

    granule = 4096
    evidence = ((0x2018, 8), (0x2020, 8))
    keeps_first_record = False
    records_pages = False

    def __init__(
        self,
        registers: AmdviRegisters,
        memory: WritableMemory,
        *,
        coverage: Coverage,
        sources: Iterable[Source] = (),
    ) -> None:
        self.memory = memory
        self.coverage = coverage
        self._file = RegisterFile(registers)
        present = self._file.translation()
        engine_of = keep_engines(AmdviEngine)
        self._caches = CacheModel(engine_of, present, memory, AMDVI, sources=sources, interrupts=True)
        self._devices = DeviceTable(present)
        self._sets_flags = _sets_flags(present)
        self._records = Records(self._caches)
        self._log = EventLog(self._file, self._records)
        self._stores: set[int] = set()  # where commands have stored

    def reset(self) -> None:
        """See `Unit`."""
        self._records.keep()
        self._file.reset()
        self._use_registers()
        self._caches.reset()
        self._log.reset()
        self._stores.clear()

    # --- registers ---

    def read(self, offset: int, size: int) -> Readout:
        """See `Unit`. Reading changes nothing."""
        return self._file.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """See `Unit`.

        Raises:
            NotModelled: commands are to be run, and it is not known which.
        """
        self._records.keep()
        for part in self._file.split(offset, size, value):
            self._write_register(part)
            if not is_defined(offset, size):
                self._file.forget(part.register.key, part.mask)
        values = self._file.values
        if values["command_buffer_head"] != values["command_buffer_tail"] and self._is_running(_CMD_BUF_RUN):
            self._run_commands()

    def _write_register(self, part: RegisterWrite) -> None:
        register, mask, bits = part
        key = register.key
        before = self._file.values[key]
        self._note(part)
        locked = self._is_running(_LOCKED_BY.get(key, 0))
        self._file.store(key, mask & register.writable, bits)
        self._file.store(key, mask & bits & register.clears, 0)
        for pointer in _POINTERS_OF.get(key, ()):
            self._file.store(pointer, _ALL_BITS, 0)
            if locked:
                self._file.forget(pointer)
        if locked:
            self._file.forget(key)
        self._forget_what_is_beyond(key)
        if key == "control":
            self._start_and_stop(mask)
            self._enable_interrupts(before)
        if key in _MESSAGE_KEYS:
            self._log.take_message()
        if key in _TRANSLATION_KEYS:
            self._use_registers()

    def _forget_what_is_beyond(self, key: str) -> None:
        """A reserved length of a ring, or a pointer beyond it, has been written, and what it leads to is undefined."""
        values = self._file.values
        base = _BASE_OF.get(key, key)
        if base not in _POINTERS_OF:
            return
        length = BUFFER_BASE["Len"].get(values[base])
        if length < _SHORTEST_LENGTH:
            self._file.forget(base, BUFFER_BASE["Len"].mask)
        if base != key and values[key] >= EVENT_SIZE << length:
            self._file.forget(key)

    def _start_and_stop(self, written: int) -> None:
        """EventLogRun and CmdBufRun after a write of these bits of the control register."""
        control = self._file.values["control"]
        for enable, run in ((_EVENT_LOG_EN, _EVENT_LOG_RUN), (_CMD_BUF_EN, _CMD_BUF_RUN)):
            if not written & (enable | _IOMMU_EN):
                continue
            if control & enable and control & _IOMMU_EN:
                self._file.store("status", run, run)
            else:
                self._file.store("status", run, 0)

    def _enable_interrupts(self, before: int) -> None:
        """The interrupts that a write of the control register, which was so before, has enabled."""
        values = self._file.values
        enabled = values["control"] & ~before
        for enable, told in _TOLD_BY.items():
            if enabled & enable and values["status"] & told:
                self._log.offer_message()

    def _is_running(self, run: int) -> bool:
        return bool(self._file.values["status"] & run)

    def _use_registers(self) -> None:
        """Translate by the registers as they stand."""
        present = self._file.translation()
        if present != self._caches.registers:
            self._caches.set_registers(present)
            self._devices = DeviceTable(present)
            self._sets_flags = _sets_flags(present)

    def _note(self, part: RegisterWrite) -> None:
        """Say which fields are set."""
        register = part.register
        if register.layout is None:
            self.coverage.note("register", register.name)
            return
        for entry in register.layout.fields:
            if part.bits & entry.mask & register.settled:
                self.coverage.note("register", f"{register.name}.{entry.name}")

    # --- commands ---

    def _run_commands(self) -> None:
        file = self._file
        if not file.is_known("command_buffer_base", "command_buffer_head", "command_buffer_tail"):
            raise NotModelled("which commands run is undefined: the registers of the buffer are not as they should")
        before = file.snapshot()
        run = run_command_buffer(before, self.memory)
        if not run.results:
            return
        for command in run.commands:
            self.coverage.note("command", command_name(command))
        for write in run.writes:
            self._records.put(write)
            if not self._log.holds(write.address):
                self._stores.add(write.address)
        after = run.registers
        file.store("command_buffer_head", _ALL_BITS, after.command_buffer_head)
        if run.results[-1].error is AmdviEventCode.ILLEGAL_COMMAND_ERROR:
            file.forget("command_buffer_head")
        file.store("status", before.status ^ after.status, after.status)
        if before.event_log_tail != after.event_log_tail:
            file.store("event_log_tail", _ALL_BITS, after.event_log_tail)
        self._log.messages += run.interrupts
        for result in run.results:
            self._caches.invalidate(result.invalidations)

    # --- memory and requests ---

    def store(self, address: int, data: bytes) -> None:
        """See `Unit`."""
        if address == self._log.offered and len(data) == 1:
            # How an event came to look is no past that caches could know.
            self._records.write(address, data)
        else:
            self._caches.memory.write(address, data)

    def outcomes(self, access: Access) -> Sequence[Outcome]:
        """See `Unit`: while no event is written down, one fault is like another, and the first one stands for all."""
        outcomes: Sequence[Outcome] = self._caches.outcomes(access)
        if not any(isinstance(outcome, Fault) for outcome in outcomes):
            return outcomes
        if not self._log.is_running:
            return with_one_fault(outcomes)
        history = self._caches.memory
        return with_reports(outcomes, DeviceBits(self._devices, history), self._log.reported)

    def settle(self, access: Access, outcome: Outcome) -> Sequence[MemoryWrite]:
        """See `Unit`: flags where caches may have spared the walk, and events with other meaningless bits.

        Raises:
            NotModelled: an event is to be written down, and it is not known where.
        """
        flags = self._records.set_flags(access, outcome) if self._sets_flags else ()
        if isinstance(outcome, Fault) and isinstance(outcome.record, AmdviEvent):
            return (*flags, *self._log.add(outcome.record, outcome.code))
        return flags

    def interrupts(self, write: MsiWrite) -> Sequence[MsiOutcome]:
        """See `InterruptUnit`."""
        return trigger_modes(self._caches.interrupts(write))

    def settle_interrupt(self, write: MsiWrite, outcome: MsiOutcome) -> None:
        """See `InterruptUnit`."""
        if isinstance(outcome, PostedInterrupt):
            for posted in outcome.writes:
                self._records.put(posted)
        elif isinstance(outcome, Fault) and isinstance(outcome.record, AmdviEvent):
            self._log.add(outcome.record, outcome.code)

    def explain(self, access: Access) -> Explanation:
        """See `Unit`."""
        return with_reasons(self._caches.engine.explain(access), self._caches.memory)

    @property
    def own_messages(self) -> Sequence[MsiWrite]:
        """See `InterruptUnit`."""
        message = iommu_interrupt(self._file.snapshot())
        return () if message is None else (message,)

    def explain_interrupt(self, write: MsiWrite) -> Sequence[Step]:
        """See `InterruptUnit`."""
        engine = self._caches.engine
        assert isinstance(engine, AmdviEngine)
        return engine.explain_msi(write)[0]

    def take_interrupts(self) -> Sequence[MsiWrite]:
        """See `Unit`."""
        taken = tuple(self._log.messages)
        self._log.messages.clear()
        return taken

    # --- a point to come back to, and names ---

    def save(self) -> UnitState:
        """See `Unit`."""
        self._records.mark()
        return self._log.save()

    def restore(self, state: UnitState) -> None:
        """See `Unit`."""
        assert isinstance(state, EventLogState)
        self._records.rollback()
        self._log.restore(state)

    def register_at(self, offset: int) -> Place | None:
        """See `Unit`."""
        register = self._file.at(offset)
        return None if register is None else Place(register.name, register.offset, register.size, register.layout)

    def structure_at(self, address: int) -> Place | None:
        """See `Unit`: an entry of the event log, with the fields of the event that is there, or what a wait stored."""
        if self._log.holds(address):
            return self._log.place_at(address, self.memory)
        start = address - address % _STORE_SIZE
        if start in self._stores:
            return Place("completion store", start, _STORE_SIZE)
        values = self._file.values
        head, tail = values["command_buffer_head"], values["command_buffer_tail"]
        if start in stores_to_come(values["command_buffer_base"], head, tail, self.memory):
            return Place("completion store of a command that is not carried out", start, _STORE_SIZE)
        return None


def _sets_flags(registers: AmdviRegisters) -> bool:
    """Whether a walk may set accessed and dirty flags."""
    return registers.guest_translation or bool(registers.feature("HASup"))
