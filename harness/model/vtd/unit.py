"""A VT-d remapping unit over time: registers, invalidation queue, fault records, and what its caches may hold.

What the specification leaves undefined raises `NotModelled` where something depends on it: a register written by an
access that is not of its kind (VT-d 11.2), the mode of the root table changed while caches may hold something of the
other. Such a register reads as anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter

from harness.model.access import Access, Fault, MemoryWrite, Outcome
from harness.model.caches.companions import Source
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.past_walks import keep_engines
from harness.model.caches.policies import vtd_policy
from harness.model.caches.policy import CachePolicy
from harness.model.caches.records import Records
from harness.model.engine import CommandResult, MsiOutcome, MsiWrite, NotModelled, PostedInterrupt
from harness.model.explanation import Explanation, Step
from harness.model.memory import WritableMemory
from harness.model.unit import Coverage, Place, Readout, UnitState
from harness.model.vtd.command_names import descriptor_name, queue_circumstance, register_command_name
from harness.model.vtd.engine import VtdEngine
from harness.model.vtd.faults import VtdFaultRecord
from harness.model.vtd.first_stage_entries import PAGE_ENTRY
from harness.model.vtd.invalidation.by_register import VtdWrongRequest, write_ccmd, write_iotlb
from harness.model.vtd.invalidation.descriptors import DescriptorType, Granularity, descriptor_type
from harness.model.vtd.invalidation.queue import process_queue
from harness.model.vtd.register_file import RegisterFile, is_defined
from harness.model.vtd.register_layouts import GSTS_REG, PMEN_REG, TranslationTableMode
from harness.model.vtd.register_map import GCMD_REG, VtdRegister
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.events import Event, write_ics, write_iectl, write_pectl, write_prs

__all__ = ["VtdUnit"]

_MOST_WALKS = 512  # that are tried for one request
_STATUS_SIZE = 8
_ENTRY_SIZE = 8
_QIES = GSTS_REG["QIES"].mask
_TRANSLATION_KEYS = ("gsts", "rtaddr", "irta", "pmen", "plmbase", "plmlimit", "phmbase", "phmlimit")
"""What an outcome depends on, beside capabilities."""

_TRANSLATION_OF = attrgetter(*_TRANSLATION_KEYS)

# Commands of GCMD_REG that take over a pointer, the pointer, and the bit of GSTS_REG that says that this is done.
_POINTERS = (
    (GCMD_REG["SRTP"].mask, "rtaddr", GSTS_REG["RTPS"].mask),
    (GCMD_REG["SIRTP"].mask, "irta", GSTS_REG["IRTPS"].mask),
)
# Bits of GCMD_REG that stay, and what they become in GSTS_REG.
_STATES = {"TE": "TES", "QIE": "QIES", "IRE": "IRES", "CFI": "CFIS"}
_EVENT_WRITES: dict[str, Callable[[VtdRegisters, int], Event]] = {
    "ics": write_ics,
    "iectl": write_iectl,
    "prs": write_prs,
    "pectl": write_pectl,
}


class VtdUnit:
    """See `InterruptUnit`.

    Args:
        registers: as read right after a reset.
        memory: the unit's own; what it holds is what there is.
        coverage: where to note what is exercised.
        compresses: this hardware records no second fault of a source id whose first is pending, as it may (VT-d 7.2.1).
        sources: requesters, each with a PASID or None, that may bring something into caches before they are asked
            about.

    Attributes:
        registers: as at first.
        evidence: the fault status register and the fault recording registers.
        keeps_first_record: until software clears it.
        records_pages: of addresses.
    """

    granule = 4096
    keeps_first_record = True
    records_pages = True

    def __init__(
        self,
        registers: VtdRegisters,
        memory: WritableMemory,
        *,
        coverage: Coverage,
        compresses: bool = False,
        sources: Iterable[Source] = (),
    ) -> None:
        self.registers = registers
        self.memory = memory
        self.coverage = coverage
        self._sources = tuple(sources)
        self._remaps_interrupts = registers.extended.interrupt_remapping
        self._file = RegisterFile(registers, compresses=compresses)
        there = {"QIE": registers.extended.queued_invalidation, "TE": True}
        self._states = tuple(
            (GCMD_REG[command].mask, GSTS_REG[state].mask)
            for command, state in _STATES.items()
            if there.get(command, self._remaps_interrupts)
        )
        records = [entry.offset for entry in self._file.map if entry.key == "frcd"]
        self.evidence = ((0x34, 4), *((offset + half, 8) for offset in records for half in (0, 8)))
        self._engine_of = keep_engines(VtdEngine)
        self._models: dict[str, CacheModel[VtdRegisters]] = {}
        self._stores: set[int] = set()  # where wait descriptors have stored
        self._flagged: set[int] = set()  # entries of tables in which flags were set
        self._interrupts: list[MsiWrite] = []
        self.reset()

    def reset(self) -> None:
        """See `Unit`."""
        self._file.reset()
        self._stores.clear()
        self._flagged.clear()
        self._interrupts.clear()
        self._last_descriptor: int | None = None
        self._translation: tuple[int, ...] = ()
        self._has_translated = False  # so that caches may hold something
        self._use_registers()
        self._caches.reset()

    # --- registers ---

    def read(self, offset: int, size: int) -> Readout:
        """See `Unit`. Reading changes nothing."""
        return self._file.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """See `Unit`.

        Raises:
            NotModelled: the access is not of the register's kind, or sets off what is not defined.
        """
        self._records.keep()
        register = self._file.find(offset)
        if register is None or not is_defined(register, offset, size):
            self._write_undefined(offset, size)
            return
        shift = 8 * (offset - register.offset)
        mask = ((1 << 8 * size) - 1) << shift
        self._note(register, value << shift)
        self._write_register(register, value << shift, mask)

    def _write_undefined(self, offset: int, size: int) -> None:
        """An access that is not of the kind of the registers that it touches; where there are none it is ignored."""
        for register in filter(None, (self._file.find(offset + at) for at in range(size))):
            if not register.writable:
                raise NotModelled(
                    f"{size} bytes written at {offset:#x}, {register.name}: the effect is undefined (VT-d 11.2)"
                )
            self._file.forget(register, register.writable)

    def _write_register(self, register: VtdRegister, bits: int, mask: int) -> None:
        """Software writes the bits in `mask`."""
        file = self._file
        key = register.key
        match key:
            case "frcd":
                file.log = file.log.write_record(register.index, bits)
            case "fsts":
                file.log = file.log.write_fsts(bits)
                self._run_queue(occasion="the queue goes on")
            case "fectl":
                self._send(file.write_fectl(bits))
            case "gcmd":
                self._command(bits)
            case "ccmd" | "iotlb":
                self._invalidate_by_register(register, file.merged(register, bits, mask))
            case "iva":
                file.set(key, file.merged(register, bits, mask))
            case "plmbase" | "plmlimit" | "phmbase" | "phmlimit":
                file.set(key, file.merged(register, bits, mask))
                self._use_registers()
            case "pmen" if file.has("plmbase"):
                enabled = PMEN_REG["EPM"].get(bits)
                file.set(key, PMEN_REG.encode({"EPM": enabled, "PRS": enabled}))
                self._use_registers()
            case _ if key in _EVENT_WRITES:
                event = _EVENT_WRITES[key](file.snapshot(), bits)
                file.take(event.registers)
                self._send(event.interrupt)
            case _ if register.writable:
                file.store(register, bits, mask)
                if key == "iqt":
                    self._run_queue()
            case _:
                pass  # read only

    def _command(self, bits: int) -> None:
        """GCMD_REG: pointers are taken over, and states follow (VT-d 11.4.4.1)."""
        file = self._file
        gsts = file.now.gsts
        for command, key, state in _POINTERS:
            if bits & command and file.has(key):
                file.check_known(key)
                file.set(key, file.written[key])
                gsts |= state
        for command, state in self._states:
            gsts = gsts | state if bits & command else gsts & ~state
        if file.now.gsts & ~gsts & _QIES and not self._is_quiesced():
            raise NotModelled("the invalidation queue is disabled before it is quiesced (VT-d 6.5.2)")
        file.set_gsts(gsts)
        self._use_registers()
        self._run_queue()

    def _invalidate_by_register(self, register: VtdRegister, value: int) -> None:
        """CCMD_REG or IOTLB_REG."""
        file = self._file
        key = register.key
        result, after = (write_ccmd if key == "ccmd" else write_iotlb)(file.now, value)
        if name := register_command_name(key, value):
            self.coverage.note("command", name)
        file.now = after
        file.remember(register)
        if result.error is VtdWrongRequest.QUEUE_ENABLED:
            file.forget(register, register.settled)
        elif _asks_for_less_than_all(register, value):
            # Hardware may perform more than it was asked for, and says what it did (VT-d 11.4.6.1, CAIG).
            file.forget(register, register.layout["CAIG" if key == "ccmd" else "IAIG"].mask)
        self._caches.invalidate(result.invalidations)

    def _send(self, message: MsiWrite | None) -> None:
        if message is not None:
            self._interrupts.append(message)

    def _use_registers(self) -> None:
        """Translate by the registers as they stand."""
        now = self._file.now
        translation = _TRANSLATION_OF(now)
        if translation == self._translation:
            return
        self._translation = translation
        present = replace(self.registers, **dict(zip(_TRANSLATION_KEYS, translation, strict=True)))
        policy = vtd_policy(present)
        model = self._models.get(policy.name)
        if model is None:
            model = self._models[policy.name] = self._new_model(present, policy)
        before = getattr(self, "_caches", model)
        if before is not model:
            if self._has_translated and not before.memory.is_empty:
                raise NotModelled("RTADDR_REG.TTM is changed while caches may hold something of the other mode")
            model.reset()
        self._caches = model
        self._records = Records(model, self._flagged)
        model.set_registers(present)
        mode = present.translation_table_mode
        self._sets_flags = mode is not TranslationTableMode.LEGACY and present.translation_enabled
        self._has_translated |= present.translation_enabled

    def _new_model(self, present: VtdRegisters, policy: CachePolicy[VtdRegisters]) -> CacheModel[VtdRegisters]:
        return CacheModel(
            self._engine_of,
            present,
            self.memory,
            policy,
            sources=self._sources,
            interrupts=self._remaps_interrupts,
            walk_limit=_MOST_WALKS,
        )

    def _note(self, register: VtdRegister, bits: int) -> None:
        for mask, name in register.names:
            if bits & mask:
                self.coverage.note("register", name)

    # --- the invalidation queue ---

    def _run_queue(self, *, occasion: str = "") -> None:
        """Take what is on the queue; messages that are sent meanwhile tell of the occasion."""
        file = self._file
        if not file.now.queued_invalidation_enabled or file.now.iqh == file.now.iqt:
            return
        file.check_known("iqa", "iqt")
        run = process_queue(file.snapshot(), self.memory)
        for step in run.steps:
            if step.descriptor is not None:
                self.coverage.note("command", descriptor_name(step.descriptor, step.result.error))
                self._last_descriptor = step.descriptor
            self._obey(step.result)
        file.take(run.registers)
        self._interrupts += (replace(each, occasion=self._queue_circumstance() or occasion) for each in run.interrupts)

    def _queue_circumstance(self) -> str:
        return queue_circumstance(self._last_descriptor, has_device_tlbs=self._file.now.extended.device_tlbs)

    def _is_quiesced(self) -> bool:
        """Whether the queue is empty, and a wait descriptor was the last that it completed (VT-d 6.5.2)."""
        now, last = self._file.now, self._last_descriptor
        return now.iqh == now.iqt and last is not None and descriptor_type(last) is DescriptorType.WAIT

    def _obey(self, result: CommandResult) -> None:
        self._caches.invalidate(result.invalidations)
        for write in result.writes:
            self._records.put(write)
            self._stores.add(write.address & -_STATUS_SIZE)

    # --- memory and requests ---

    def store(self, address: int, data: bytes) -> None:
        """See `Unit`."""
        self._caches.memory.write(address, data)

    def outcomes(self, access: Access) -> Sequence[Outcome]:
        """See `Unit`."""
        return self._caches.outcomes(access)

    def settle(self, access: Access, outcome: Outcome) -> Sequence[MemoryWrite]:
        """See `Unit`: flags where caches may have spared the walk."""
        flags = self._records.set_flags(access, outcome) if self._sets_flags else ()
        if isinstance(outcome, Fault) and isinstance(outcome.record, VtdFaultRecord):
            self._write_down(outcome.record)
        return flags

    def interrupts(self, write: MsiWrite) -> Sequence[MsiOutcome]:
        """See `InterruptUnit`."""
        if self._remaps_interrupts:
            return self._caches.interrupts(write)
        engine = self._caches.engine
        assert isinstance(engine, VtdEngine)
        return (engine.remap_msi(write),)

    def settle_interrupt(self, write: MsiWrite, outcome: MsiOutcome) -> None:
        """See `InterruptUnit`."""
        if isinstance(outcome, PostedInterrupt):
            for posted in outcome.writes:
                self._records.put(posted)
        elif isinstance(outcome, Fault) and isinstance(outcome.record, VtdFaultRecord):
            self._write_down(outcome.record)

    def explain(self, access: Access) -> Explanation:
        """See `Unit`."""
        return self._caches.engine.explain(access)

    @property
    def own_messages(self) -> Sequence[MsiWrite]:
        """See `InterruptUnit`: those of the fault event and of the invalidation completion event."""
        now = self._file.snapshot()
        return (
            MsiWrite(requester=0, address=now.feuaddr << 32 | now.feaddr, data=now.fedata),
            MsiWrite(requester=0, address=now.ieuaddr << 32 | now.ieaddr, data=now.iedata),
        )

    def explain_interrupt(self, write: MsiWrite) -> Sequence[Step]:
        """See `InterruptUnit`."""
        engine = self._caches.engine
        assert isinstance(engine, VtdEngine)
        return engine.explain_msi(write)[0]

    def take_interrupts(self) -> Sequence[MsiWrite]:
        """See `Unit`."""
        taken = tuple(self._interrupts)
        self._interrupts.clear()
        return taken

    def _write_down(self, record: VtdFaultRecord) -> None:
        recorded = self._file.log.record(record)
        self._file.log = recorded.log
        self._send(recorded.interrupt)

    # --- a point to come back to, and names ---

    def save(self) -> UnitState:
        """See `Unit`."""
        self._records.mark()
        return self._file.log, len(self._interrupts)

    def restore(self, state: UnitState) -> None:
        """See `Unit`."""
        self._records.rollback()
        self._file.log, sent = state
        del self._interrupts[sent:]

    def register_at(self, offset: int) -> Place | None:
        """See `Unit`."""
        register = self._file.find(offset)
        if register is None:
            return None
        circumstance = self._queue_circumstance() if register.key in ("fsts", "iqh") else ""
        name = f"{register.name} ({circumstance})" if circumstance else register.name
        return Place(name, register.offset, register.size, register.layout)

    def structure_at(self, address: int) -> Place | None:
        """See `Unit`: what a wait descriptor stored, and entries of tables that have flags."""
        start = address & -_STATUS_SIZE
        if start in self._stores:
            return Place("invalidation wait status", start, _STATUS_SIZE)
        return Place(PAGE_ENTRY.name, start, _ENTRY_SIZE, PAGE_ENTRY) if start in self._flagged else None


def _asks_for_less_than_all(register: VtdRegister, value: int) -> bool:
    """Whether a write to CCMD_REG or IOTLB_REG is a request of a granularity finer than global."""
    layout = register.layout
    go, asked = ("ICC", "CIRG") if register.key == "ccmd" else ("IVT", "IIRG")
    return bool(layout[go].get(value)) and layout[asked].get(value) > Granularity.GLOBAL
