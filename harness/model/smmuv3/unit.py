"""An SMMU over time: its registers, its queues, what its caches may hold, and the events that it records.

The Non-secure programming interface (IHI 0070 3.5, chapters 4, 6 and 7). The model's own choices, beside those of
`Smmuv3Engine`, `Commands` and `harness.model.smmuv3.queues`:

- Updates of CR0, IRQ_CTRL and GBPA, and commands, are finished at once; invalidations at their CMD_SYNC (4.8).
- What versions up to SMMUv3.1 may do is allowed of any version, since AIDR is not among the registers that are given.
- Fields that a reset leaves UNKNOWN have to be written before anything depends on them.
- Caches are empty after a reset (3.11 leaves it open, and asks software to invalidate).
- Access flags are never set ahead of an access, and messages to where there is no memory are not aborted.

Where software does what leaves no limit to what the SMMU may do (it moves a table or queue that is in use), nothing is
known until the next reset: reads have no known bits, and `outcomes` raises `NotModelled`. So it does for a transaction
that is stalled, which has no outcome yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.model.access import Access, Bypassed, Fault, MemoryWrite, Outcome
from harness.model.caches.companions import Source
from harness.model.caches.history import HistoryMemory
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.past_walks import keep_engines
from harness.model.caches.policies import SMMUV3
from harness.model.caches.records import Records
from harness.model.caches.staleness import TooManyWalks
from harness.model.engine import CommandResult, MsiWrite, NotModelled
from harness.model.explanation import Explanation
from harness.model.invalidation import Invalidation
from harness.model.memory import OutsideMemory, WritableMemory
from harness.model.smmuv3.circumstances import with_circumstances
from harness.model.smmuv3.command_names import command_name
from harness.model.smmuv3.commands import COMMAND_SIZE, Smmuv3Opcode
from harness.model.smmuv3.engine import Smmuv3Engine
from harness.model.smmuv3.events import EVENT_SIZE, Smmuv3Event, Smmuv3EventClass, Smmuv3EventType, event_layout
from harness.model.smmuv3.pending import PendingInvalidations
from harness.model.smmuv3.queues import take_commands
from harness.model.smmuv3.register_file import RegisterFile
from harness.model.smmuv3.register_map import REGISTERS, SPACE, register_of
from harness.model.smmuv3.register_writes import RegisterWrites
from harness.model.smmuv3.registers import (
    CR0,
    QUEUE_CONS,
    QUEUE_PROD,
    Queue,
    Smmuv3Registers,
)
from harness.model.smmuv3.reporting import Reporter, Reports, queue_of
from harness.model.smmuv3.translation_registers import other_bypass, translation_registers, unknown_register
from harness.model.unit import Coverage, Place, Readout

__all__ = ["Smmuv3Unit"]


def _start(name: str) -> int:
    return REGISTERS[f"SMMU_{name}"].start


_CR0 = _start("CR0")
_GERROR, _GERRORN = _start("GERROR"), _start("GERRORN")
_CMDQ_BASE, _CMDQ_PROD, _CMDQ_CONS = _start("CMDQ_BASE"), _start("CMDQ_PROD"), _start("CMDQ_CONS")
_EVENTQ_PROD = _start("EVENTQ_PROD")
_CMDQEN = CR0["CMDQEN"].mask
_INDEX = QUEUE_PROD["WR"].mask
# Registers after whose writes commands may be taken: the queue was enabled, or has more, or its error is acknowledged.
_STARTS_COMMANDS = frozenset({_CR0, _CMDQ_PROD, _GERRORN})
_ANYWHERE = range(0)
# What names of events say of stage 2, by CLASS.
_STAGE2_NAMES: dict[int, str] = {
    Smmuv3EventClass.CD: " of stage 2 for a CD",
    Smmuv3EventClass.TT: " of stage 2 for a table",
    Smmuv3EventClass.IN: " of stage 2",
}


class Smmuv3Unit:
    """One SMMU; see `harness.model.unit.Unit`.

    Args:
        registers: as read right after a reset of the machine.
        memory: physical memory, for the unit alone to write.
        coverage: where commands and register fields are noted.
        sources: requesters, each with a PASID or None, that may bring something into caches unasked.
        merges_events: the SMMU may let one record stand for several like events (7.3.1).

    Attributes:
        capabilities: what the SMMU can do.
        evidence: the write index of the Event queue with its overflow flag, and the global errors.
        keeps_first_record: each has a record,
        records_pages: with its address.
    """

    evidence = ((_EVENTQ_PROD, 4), (_GERROR, 4))
    keeps_first_record = False
    records_pages = False

    def __init__(
        self,
        registers: Smmuv3Registers,
        memory: WritableMemory,
        *,
        coverage: Coverage,
        sources: Iterable[Source] = (),
        merges_events: bool = False,
    ) -> None:
        self.memory = memory
        self.coverage = coverage
        self.capabilities = capabilities = registers.capabilities
        self._file = RegisterFile(registers)
        self._writes = RegisterWrites(self._file, capabilities)
        self._merges = merges_events
        off = Smmuv3Registers(capabilities=capabilities)
        self._caches = CacheModel(keep_engines(Smmuv3Engine), off, memory, SMMUV3, sources=sources)
        self.granule = self._caches.engine.granule
        self._records = Records(self._caches)
        self._reporter = Reporter(self._file, self._writes, self._records, off)
        self._pending = PendingInvalidations()
        self.reset()

    @property
    def history(self) -> HistoryMemory:
        """What memory held that caches may still have."""
        return self._caches.memory

    def reset(self) -> None:
        """See `Unit`."""
        self._records.keep()
        self._file.reset()
        self._writes.reset()
        self._pending.clear()
        self._reporter.reset()
        self._last_change = 0
        # Before translation is enabled for the first time nothing is cached, and no history is kept.
        self._has_translated = False
        self._changed = True
        self._unsure: str | None = None
        self._other_bypass: Smmuv3Engine | None = None
        self._command_entries = _ANYWHERE
        self._refused = ""  # name of the command, while its error is active

    # Registers.

    def read(self, offset: int, size: int) -> Readout:
        """See `Unit`."""
        # 6.2: of an illegal access, and of one to two registers of 32 bits, nothing is known.
        if self._writes.lost or size not in (4, 8) or offset % size or offset + size > SPACE:
            return Readout(0, 0)
        low = self._file.read(offset)
        if size == 4:
            return low
        if register_of(offset) is not register_of(offset + 4):
            return Readout(0, 0)
        high = self._file.read(offset + 4)
        return Readout(low.value | high.value << 32, low.known | high.known << 32)

    def write(self, offset: int, size: int, value: int) -> None:
        """See `Unit`."""
        if self._writes.lost:
            return
        self._records.keep()
        taken = self._writes.write(offset, size, value)
        self._changed = True
        for word, part in taken:
            self._note_fields(word, part)
            if word == _CR0:
                # While translation is on anything may be brought into caches, asked for or not.
                self._current()
        if any(word in _STARTS_COMMANDS for word, _ in taken):
            if not self._writes.is_active("CMDQ_ERR"):
                self._refused = ""
            self._run_commands()
        self._command_entries = self._find_command_entries()

    def register_at(self, offset: int) -> Place | None:
        """See `Unit`: with CMDQ_CONS the name of the command that was refused."""
        place = register_of(offset)
        if place is not None and self._refused and place.start == _CMDQ_CONS:
            return replace(place, name=f"{place.name} ({self._refused})")
        return place

    def _note_fields(self, word: int, part: int) -> None:
        place = register_of(word)
        if place is None or place.layout is None:
            return
        part <<= 8 * (word - place.start)
        for entry in place.layout.fields:
            if part & entry.mask and not entry.name.startswith("RSVD"):
                self.coverage.note("register", f"{place.name.removeprefix('SMMU_')}.{entry.name}")

    # Memory.

    def store(self, address: int, data: bytes) -> None:
        """See `Unit`."""
        entries = self._command_entries
        if entries.start <= address and address + len(data) <= entries.stop:
            # No table is there, and what was there is no command any more.
            self.memory.write(address, data)
            return
        caches = self._current()
        if not self._has_translated:
            self.memory.write(address, data)
            return
        caches.memory.write(address, data)
        self._last_change = caches.memory.now

    def structure_at(self, address: int) -> Place | None:
        """See `Unit`: a record of the Event queue, named after its type and stage."""
        queue = self._reporter.event_queue()
        if queue is None or not queue.base <= address < queue.base + (EVENT_SIZE << queue.bits):
            return None
        start = address & -EVENT_SIZE
        try:
            record = int.from_bytes(self.memory.read(start, EVENT_SIZE), "little")
        except OutsideMemory:
            return None
        layout = event_layout(record & 0xFF)
        name = layout.name
        if "S2" in layout and layout["S2"].get(record):
            name += _STAGE2_NAMES.get(layout["CLASS"].get(record), "")
        sequence = (start - queue.base) // EVENT_SIZE - queue.consumer & queue.size - 1
        return Place(name, start, EVENT_SIZE, layout, source="STREAMID", input="INPUTADDR", sequence=sequence)

    # Requests.

    def outcomes(self, access: Access) -> Sequence[Outcome]:
        """See `Unit`."""
        caches = self._current()
        if self._writes.lost or self._unsure:
            raise NotModelled(self._writes.lost or self._unsure or "", hint="reset the machine, and set its SMMU up")
        found: Sequence[Outcome] = caches.outcomes(access)
        if self._other_bypass is not None:
            found = (*found, self._other_bypass.translate(access))
        if not any(isinstance(outcome, Fault) and outcome.record is not None for outcome in found):
            return found
        return [variant for outcome in found for variant in self._variants(outcome, caches)]

    def settle(self, access: Access, outcome: Outcome) -> Sequence[MemoryWrite]:
        """See `Unit`."""
        if isinstance(outcome, Fault) and isinstance(outcome.record, Smmuv3Event):
            self._reporter.record(outcome.record)
        if self.capabilities.hardware_access_flag and not isinstance(outcome, Bypassed):
            # Descriptors are updated (3.13) whether the fault is recorded or not.
            self._current()
            return self._records.set_flags(access, outcome, _is_same)
        return ()

    def explain(self, access: Access) -> Explanation:
        """See `Unit`: with what is particular about the request."""
        caches = self._current()
        return with_circumstances(caches.engine.explain(access), self.capabilities, self._dropped(caches, access))

    def _dropped(self, caches: CacheModel[Smmuv3Registers], access: Access) -> Sequence[Invalidation]:
        """What has ended the last translation of an access that caches had, as far as that can be said."""
        if caches.memory.is_empty:
            return ()
        try:
            return caches.dropped_by(access)
        except TooManyWalks:
            return ()

    def _variants(self, outcome: Outcome, caches: CacheModel[Smmuv3Registers]) -> list[Outcome]:
        """An outcome, and the same without its record where that is left open."""
        if not isinstance(outcome, Fault) or not isinstance(outcome.record, Smmuv3Event):
            return [outcome]
        record = outcome.record
        if record.stall:
            raise NotModelled(f"a transaction is stalled: {record}", hint="stalls are not modelled; clear S and S2S")
        self._reporter.check()
        variants: list[Outcome] = [outcome]
        # 6.3.12: with RECINVSID, C_BAD_STREAMID is permitted to be recorded.
        if record.type == Smmuv3EventType.C_BAD_STREAMID or self._may_merge(record, caches):
            variants.append(replace(outcome, record=None))
        return variants

    def _may_merge(self, record: Smmuv3Event, caches: CacheModel[Smmuv3Registers]) -> bool:
        last = self._reporter.last
        engine = caches.engine
        return self._merges and last is not None and isinstance(engine, Smmuv3Engine) and engine.may_merge(last, record)

    def _current(self) -> CacheModel[Smmuv3Registers]:
        """The cache model, with the registers that translation depends on as they are."""
        caches = self._caches
        if self._changed:
            self._changed = False
            registers = translation_registers(self._file, self.capabilities)
            self._find_unknown(registers)
            caches.set_registers(registers)
            if not self._has_translated:
                # What was cached before the reset, or written since, is in no cache.
                caches.reset()
                self._has_translated = registers.enabled
        return caches

    def _find_unknown(self, registers: Smmuv3Registers) -> None:
        """What of the registers that translation depends on is not known."""
        self._unsure = self._other_bypass = None
        if registers.enabled:
            unknown = unknown_register(self._file)
            self._unsure = None if unknown is None else f"{unknown} is UNKNOWN, and SMMUEN is 1"
        elif (gbpa := other_bypass(self._file)) is not None:
            self._other_bypass = Smmuv3Engine(replace(registers, gbpa=gbpa), self.memory)

    # Commands.

    def _run_commands(self) -> None:
        """Take commands until the queue is empty or one is refused (4.1.2, 7.1)."""
        writes, file = self._writes, self._file
        if writes.lost or not file.value(_CR0) & _CMDQEN or writes.is_active("CMDQ_ERR"):
            return
        queue = self._command_queue()
        if queue is None:
            writes.lose("the command queue is UNKNOWN, and CMDQEN is 1")
        elif queue.used > queue.size:
            writes.lose("the indexes of the command queue are inconsistent (IHI 0070 3.5.1)")
        elif queue.used and writes.is_active("CMDQ_ERR") is None:
            writes.lose("whether commands are taken is not known: GERRORN.CMDQ_ERR was toggled (IHI 0070 6.3.20)")
        if queue is None or writes.lost:
            return
        consumer, results = take_commands(queue, self.memory, self._take)
        error = results[-1].error if results else None
        # 7.1: at an error RD stays at the command, and ERR says why.
        file.put(_CMDQ_CONS, consumer, _INDEX)
        if error is not None:
            file.put(_CMDQ_CONS, QUEUE_CONS["ERR"].put(int(error.value)), QUEUE_CONS["ERR"].mask)
            self._reporter.activate("CMDQ_ERR")

    def _take(self, command: int) -> CommandResult:
        """One command, with what it leads to."""
        caches = self._current()
        result: CommandResult = caches.engine.submit(command)
        name = command_name(command, is_illegal=result.error is not None)
        self.coverage.note("command", name)
        if result.error is not None:
            self._refused = name
            return result
        if result.invalidations and self._has_translated:
            self._pending.add(caches.memory.tick(), result.invalidations)
        if command & 0xFF == Smmuv3Opcode.CMD_SYNC:
            for moment, invalidation in self._pending.complete(self._last_change):
                caches.invalidate((invalidation,), moment)
        for write in result.writes:
            self._reporter.send(write)
        return result

    def _command_queue(self) -> Queue | None:
        """The Command queue; None where it is not known."""
        return queue_of(
            self._file,
            _CMDQ_BASE,
            _CMDQ_PROD,
            _CMDQ_CONS,
            entry_size=COMMAND_SIZE,
            most=self.capabilities.command_queue_bits,
            address_bits=self.capabilities.address_bits,
        )

    def _find_command_entries(self) -> range:
        """The bytes of the Command queue."""
        queue = self._command_queue() if self._file.value(_CR0) & _CMDQEN else None
        return _ANYWHERE if queue is None else range(queue.base, queue.base + (COMMAND_SIZE << queue.bits))

    # Messages, and points to come back to.

    def take_interrupts(self) -> Sequence[MsiWrite]:
        """See `Unit`. The requester is 0."""
        taken = tuple(self._reporter.messages)
        self._reporter.messages.clear()
        return taken

    def save(self) -> Reports:
        """See `Unit`."""
        self._records.mark()
        return self._reporter.save()

    def restore(self, state: Reports) -> None:
        """See `Unit`."""
        self._records.rollback()
        self._reporter.restore(state)


def _is_same(present: Outcome, outcome: Outcome) -> bool:
    """Whether an outcome is the present one, recorded or not."""
    if isinstance(present, Fault) and isinstance(outcome, Fault):
        return replace(present, record=None) == replace(outcome, record=None)
    return present == outcome
