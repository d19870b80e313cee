"""How transactions go through the configuration of their stream and both stages (IHI 0070 chapter 3, Arm DDI 0487 D8).

Ordinary ones and those of ATS share this; what differs `engine` and `ats` say.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model.access import (
    PERMISSIONS,
    Access,
    Attributes,
    Bypassed,
    BypassReason,
    Fault,
    MemoryWrite,
    Outcome,
    Translated,
)
from harness.model.explanation import Step
from harness.model.memory import Memory
from harness.model.smmuv3.completions import granted
from harness.model.smmuv3.configuration import Context, Stream
from harness.model.smmuv3.context import ContextTables, select_substream
from harness.model.smmuv3.descriptors import STAGE1_LEAF
from harness.model.smmuv3.events import Smmuv3EventClass, Smmuv3EventType
from harness.model.smmuv3.permissions import WRITE
from harness.model.smmuv3.registers import STRTAB_BASE_CFG, Smmuv3Registers
from harness.model.smmuv3.reports import Kind, configuration_error, context_error, walk_fault
from harness.model.smmuv3.stages import Nested, Output, translate_stage1, translate_stage2
from harness.model.smmuv3.stream import StreamBlocked, StreamTable
from harness.model.smmuv3.walk import NOT_GLOBAL, WalkFault, is_global_page

__all__ = ["Transactions", "register_step"]

_TYPE = Smmuv3EventType
_IN = Smmuv3EventClass.IN
_UNPRIVILEGED_PAGE = 1 << STAGE1_LEAF["AP"].low
# Attributes by nG=0 (bit 0) and AP[1]=0 (bit 1); looked up, since building a flag is dear.
_ATTRIBUTES = tuple(
    (Attributes.GLOBAL if bits & 1 else Attributes.NONE) | (Attributes.PRIVILEGED if bits & 2 else Attributes.NONE)
    for bits in range(4)
)


class Transactions:
    """The configuration and the stages of one SMMU.

    Args:
        registers: as they are now.
        memory: where tables are, read again for each transaction.

    Attributes:
        streams: the Stream table.
        contexts: the CDs.
    """

    def __init__(self, registers: Smmuv3Registers, memory: Memory) -> None:
        self.registers = registers
        self.memory = memory
        self._address_bits = registers.capabilities.address_bits
        self.streams = StreamTable(registers)
        self.contexts = ContextTables(registers.capabilities)

    def find_stream(self, stream_id: int, trace: list[Step] | None) -> Stream | StreamBlocked:
        """The STE of a StreamID."""
        if trace is not None:
            value = self.registers.strtab_base_cfg
            fields = STRTAB_BASE_CFG.describe(value)
            trace.append(register_step(STRTAB_BASE_CFG.name, STRTAB_BASE_CFG.section, value, fields))
        return self.streams.find(self.memory, stream_id, trace)

    def find_context(
        self,
        access: Access,
        kind: Kind,
        stream: Stream,
        writes: list[MemoryWrite],
        trace: list[Step] | None,
        *,
        recorded: bool,
    ) -> Context | Fault | None:
        """The CD of a transaction; None where stage 1 is bypassed. `recorded`: configuration errors are."""
        substream = select_substream(stream, access.pasid)
        if isinstance(substream, Smmuv3EventType):
            return configuration_error(access, substream, recorded=recorded)
        index = substream.context
        if index is None:
            return None
        found = self.contexts.find(self.memory, stream, access.requester, index, writes, trace)
        if isinstance(found, Context):
            return found
        if isinstance(found, WalkFault):
            return self.walk_fault(access, kind, stream, None, found, writes, trace)
        return context_error(access, found, index, writes, recorded=recorded)

    def walk(
        self,
        access: Access,
        kind: Kind,
        stream: Stream,
        context: Context | None,
        writes: list[MemoryWrite],
        trace: list[Step] | None,
    ) -> tuple[Output | None, Output | None] | WalkFault:
        """What stage 1 and stage 2 give; None for a stage that is bypassed."""
        iova = access.iova
        memory = self.memory
        outer = stream.stage2
        first = table = None
        if context is None:
            # 3.4: stage 1 bypassed; its output is the input, and must lie within the IAS, which is the OAS.
            if iova >> self._address_bits:
                _end_at_last(trace, "stage 1 bypassed")
                return WalkFault(_TYPE.F_ADDR_SIZE, 1, None, _IN)
            ipa = iova
        else:
            table = context.select(iova)
            if table is None:
                _end_at_last(trace, "no table")
                return WalkFault(_TYPE.F_TRANSLATION, 1, None, _IN)
            output = translate_stage1(
                memory,
                table,
                iova & (1 << table.input_bits) - 1,
                kind.needed,
                privileged=kind.privileged,
                dirties=kind.dirties,
                nested=Nested(memory, outer, writes, trace) if outer is not None else None,
                writes=writes,
                trace=trace,
            )
            if isinstance(output, WalkFault):
                return output
            first = output
            ipa = output.address
        if outer is None:
            return first, None
        # 3.9.1.2: a Translation Request that stage 1 grants nothing does not reach stage 2; nor does one make a page
        # dirty at stage 2 that is not writable at stage 1 (3.13.7.1).
        if first is not None and not kind.needed and not granted(access, stream, [first]):
            return first, None
        second = translate_stage2(
            memory,
            outer,
            ipa,
            kind.needed,
            privileged=kind.privileged,
            dirties=kind.dirties and (first is None or bool(first.rights & WRITE)),
            event_class=_IN,
            writes=writes,
            trace=trace,
        )
        if not isinstance(second, WalkFault):
            return first, second
        is_global = first is not None and table is not None and is_global_page(table, first.entry)
        return second._replace(is_global=is_global)

    def finish(
        self,
        access: Access,
        kind: Kind,
        stream: Stream,
        context: Context | None,
        result: tuple[Output | None, Output | None] | WalkFault,
        writes: list[MemoryWrite],
        trace: list[Step] | None,
    ) -> Outcome:
        """The outcome of an untranslated transaction."""
        if isinstance(result, WalkFault):
            return self.walk_fault(access, kind, stream, context, result, writes, trace)
        first, second = result
        if second is None:
            if first is None:
                return Bypassed(access.iova, BypassReason.PASS_THROUGH)
            address, shift, rights, entry, _ = first
        elif first is None:
            return Translated(
                second.address, 1 << second.shift, PERMISSIONS[second.rights], _ATTRIBUTES[0], tuple(writes)
            )
        else:
            address, shift = second.address, min(first.shift, second.shift)
            rights, entry = first.rights & second.rights, first.entry
        return Translated(address, 1 << shift, PERMISSIONS[rights], _attributes(entry, stream), tuple(writes))

    def walk_fault(
        self,
        access: Access,
        kind: Kind,
        stream: Stream,
        context: Context | None,
        fault: WalkFault,
        writes: list[MemoryWrite],
        trace: list[Step] | None,
    ) -> Fault:
        """The fault of a transaction whose translation has ended without a page."""
        recorded = self.registers.records_ats_errors
        return walk_fault(access, kind, stream, context, fault, writes, trace, records_ats_errors=recorded)


def _attributes(entry: int, stream: Stream) -> Attributes:
    """Of a stage 1 descriptor; EL2's own regime has neither global nor privileged pages."""
    if not stream.two_privileges:
        return _ATTRIBUTES[0]
    return _ATTRIBUTES[(0 if entry & NOT_GLOBAL else 1) | (0 if entry & _UNPRIVILEGED_PAGE else 2)]


def _end_at_last(trace: list[Step] | None, reason: str) -> None:
    """Note at the last step why the walk ends there."""
    if trace:
        trace[-1] = replace(trace[-1], reason=reason)


def register_step(name: str, section: str, value: int, fields: tuple[tuple[str, int], ...]) -> Step:
    """A step that shows a register."""
    return Step(name, section, None, value, fields)
