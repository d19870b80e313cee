"""What an SMMUv3 makes of a transaction: the Non-secure programming interface (IHI 0070 chapter 3, Arm DDI 0487 D8).

A message-signalled interrupt of a device is an ordinary write here: it goes through the translation to the doorbell
that its address leads to, and nothing remaps it. So the engine has no `remap_msi`; put the write to `translate`.

Where versions differ, it is an SMMUv3.1 or later. Choices that IHI 0070 leaves open:

- CONT of an STE is a hint, and ignored (5.2).
- An ATS request to an SMMU without ATS is an unsupported transaction (F_UUT, 7.3.2), and not recorded.
- An ATS Translated address beyond the OAS is aborted (3.9.1.1).
- A Translation Completion grants Write wherever the page is writable, asked for or not (13.7).
- The identity that answers a Translation Request which skips stage 1 is given for one granule (13.6.4).
- STAG and the Reason of records are 0. Records are not merged; `may_merge` says which may be.

Secure and Realm state, VMSAv8-32 and 128-bit tables, permission indirection and overlays, the device permission table,
MPAM and the Access flag of Table descriptors are not modelled; see `harness.model.smmuv3.capabilities`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.model.access import (
    PERMISSIONS,
    Access,
    AccessKind,
    AddressType,
    Attributes,
    Bypassed,
    BypassReason,
    Fault,
    Mapping,
    MemoryWrite,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.engine import CommandResult, RawCommand, check_within_page
from harness.model.explanation import Explanation, Step
from harness.model.memory import Memory
from harness.model.smmuv3.commands import Commands
from harness.model.smmuv3.configuration import Context, Stream
from harness.model.smmuv3.context import ContextTables, select_substream
from harness.model.smmuv3.descriptors import STAGE1_LEAF
from harness.model.smmuv3.events import Smmuv3Event, Smmuv3EventClass, Smmuv3EventType, Smmuv3Terminated
from harness.model.smmuv3.mappings import iter_stage1, iter_stage2
from harness.model.smmuv3.permissions import EXECUTE, READ, WRITE
from harness.model.smmuv3.registers import CR0, GBPA, STRTAB_BASE_CFG, Smmuv3Registers
from harness.model.smmuv3.reports import (
    Kind,
    bad_translation_request,
    configuration_error,
    context_error,
    effective_kind,
    forbidden,
    no_permission,
    terminated,
    unsupported,
    walk_fault,
)
from harness.model.smmuv3.stages import Nested, Output, translate_stage1, translate_stage2
from harness.model.smmuv3.stream import StreamBlocked, StreamTable
from harness.model.smmuv3.walk import NOT_GLOBAL, WalkFault

__all__ = ["Smmuv3Engine"]

_TYPE = Smmuv3EventType
_IN = Smmuv3EventClass.IN
_UNTRANSLATED = AddressType.UNTRANSLATED
_UNPRIVILEGED_PAGE = 1 << STAGE1_LEAF["AP"].low
_EVERYTHING = Permissions.READ | Permissions.WRITE
# Attributes by nG=0 (bit 0) and AP[1]=0 (bit 1); looked up, since building a flag is dear.
_ATTRIBUTES = tuple(
    (Attributes.GLOBAL if bits & 1 else Attributes.NONE) | (Attributes.PRIVILEGED if bits & 2 else Attributes.NONE)
    for bits in range(4)
)
# 7.3.1: events that may come before an STE is found, and are merged whatever MEV says.
_ALWAYS_MERGED = frozenset({_TYPE.F_UUT, _TYPE.C_BAD_STREAMID, _TYPE.F_STE_FETCH, _TYPE.C_BAD_STE})


class Smmuv3Engine:
    """One SMMU, with its tables in memory and with no cache.

    Args:
        registers: as they are now; make a new engine when they change.
        memory: physical memory, read again for each access.
    """

    def __init__(self, registers: Smmuv3Registers, memory: Memory) -> None:
        self.registers = registers
        self.memory = memory
        capabilities = registers.capabilities
        self._enabled = registers.enabled
        self._address_bits = capabilities.address_bits
        self._granule = 1 << min(capabilities.granules, default=12)
        self._streams = StreamTable(registers)
        self._contexts = ContextTables(capabilities)
        self._commands = Commands(registers)

    @property
    def granule(self) -> int:
        """See `Engine`: the smallest granule that the SMMU has."""
        return self._granule

    def translate(self, access: Access) -> Outcome:
        """See `Engine`."""
        return self._translate(access, None)

    def explain(self, access: Access) -> Explanation:
        """See `Engine`."""
        steps: list[Step] = []
        outcome = self._translate(access, steps)
        return Explanation(access, tuple(steps), outcome)

    def submit(self, command: RawCommand) -> CommandResult:
        """See `Engine`: one command of 128 bits of the Command queue."""
        return self._commands.submit(command)

    def may_merge(self, first: Smmuv3Event, second: Smmuv3Event) -> bool:
        """Whether one record may stand for both, if they come close together (7.3.1).

        STE.MEV must allow it, but for the events that may come before an STE is found.
        """
        if not first.is_like(second):
            return False
        if first.type in _ALWAYS_MERGED:
            return True
        stream = self._streams.find(self.memory, first.stream_id, None)
        return isinstance(stream, Stream) and stream.merges

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """Every page that a StreamID's tables map now, without or with a SubstreamID, in ascending order of address.

        Permissions are those of the privilege that STE.PRIVCFG gives the stream, unprivileged where it gives none.
        Bypass gives one mapping of everything below the OAS. A stream without a good STE or CD maps nothing.

        Raises:
            TableLoop: a table is its own ancestor.
        """
        whole = Mapping(0, 0, 1 << self._address_bits, _EVERYTHING)
        if not self._enabled:
            if not self.registers.aborts_when_disabled:
                yield whole
            return
        stream = self._streams.find(self.memory, requester, None)
        if isinstance(stream, StreamBlocked) or stream.aborts:
            return
        substream = select_substream(stream, pasid)
        if isinstance(substream, Smmuv3EventType):
            return
        privileged = bool(stream.privileged)
        if substream.context is None:
            if stream.stage2 is None:
                yield whole
            else:
                yield from iter_stage2(self.memory, stream.stage2, privileged=privileged)
            return
        context = self._contexts.find(self.memory, stream, requester, substream.context, [], None)
        if isinstance(context, Context):
            for table in context.tables:
                if table is not None:
                    yield from iter_stage1(self.memory, table, stream.stage2, privileged=privileged)

    def _translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        iova = access.iova
        if (iova & self._granule - 1) + access.length > self._granule:
            check_within_page(access, self._granule)
        if trace is not None:
            trace.append(_register(CR0.name, CR0.section, self.registers.cr0, CR0.describe(self.registers.cr0)))
        address_type = access.address_type
        if address_type is not _UNTRANSLATED:
            return self._ats(access, trace)
        if not self._enabled:
            return self._disabled(access, trace)
        stream = self._find_stream(access.requester, trace)
        if isinstance(stream, StreamBlocked):
            recorded = stream.event is not _TYPE.C_BAD_STREAMID or self.registers.records_bad_stream_ids
            return configuration_error(access, stream.event, stream.fetch_address, recorded=recorded)
        if stream.aborts:
            return terminated(access, Smmuv3Terminated.STREAM_ABORT)
        kind = effective_kind(access, stream)
        writes: list[MemoryWrite] = []
        context = self._find_context(access, kind, stream, writes, trace, recorded=True)
        if isinstance(context, Fault):
            return context
        result = self._walk(access, kind, stream, context, writes, trace)
        return self._finish(access, kind, stream, context, result, writes, trace)

    def _disabled(self, access: Access, trace: list[Step] | None) -> Outcome:
        """SMMUEN 0: GBPA decides (3.4, 13.2)."""
        registers = self.registers
        if trace is not None:
            trace.append(_register(GBPA.name, GBPA.section, registers.gbpa, GBPA.describe(registers.gbpa)))
        if registers.aborts_when_disabled:
            return terminated(access, Smmuv3Terminated.GLOBAL_ABORT)
        if access.iova >> self._address_bits:
            return terminated(access, Smmuv3Terminated.ADDRESS_SIZE)
        return Bypassed(access.iova, BypassReason.TRANSLATION_OFF)

    def _find_stream(self, stream_id: int, trace: list[Step] | None) -> Stream | StreamBlocked:
        if trace is not None:
            value = self.registers.strtab_base_cfg
            fields = STRTAB_BASE_CFG.describe(value)
            trace.append(_register(STRTAB_BASE_CFG.name, STRTAB_BASE_CFG.section, value, fields))
        return self._streams.find(self.memory, stream_id, trace)

    def _find_context(
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
        found = self._contexts.find(self.memory, stream, access.requester, index, writes, trace)
        if isinstance(found, Context):
            return found
        if isinstance(found, WalkFault):
            return self._walk_fault(access, kind, stream, None, found, writes, trace)
        return context_error(access, found, index, writes, recorded=recorded)

    # The two stages.

    def _walk(
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
        first = None
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
        if first is not None and not kind.needed and not _granted(access, stream, [first]):
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
        return second if isinstance(second, WalkFault) else (first, second)

    def _finish(
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
            return self._walk_fault(access, kind, stream, context, result, writes, trace)
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

    def _walk_fault(
        self,
        access: Access,
        kind: Kind,
        stream: Stream,
        context: Context | None,
        fault: WalkFault,
        writes: list[MemoryWrite],
        trace: list[Step] | None,
    ) -> Fault:
        recorded = self.registers.records_ats_errors
        return walk_fault(access, kind, stream, context, fault, writes, trace, records_ats_errors=recorded)

    # ATS (3.9.1, 13.6, 13.7).

    def _ats(self, access: Access, trace: list[Step] | None) -> Outcome:
        registers = self.registers
        request = access.address_type is AddressType.TRANSLATION_REQUEST
        # 3.9.1.3, 13.7: Exe and Priv come with a PASID alone; without IDR3.PASIDTT a Translated transaction has none.
        if access.pasid is None or not request:
            access = _without_pasid(access)
        if not registers.capabilities.ats:
            return unsupported(access)
        if not self._enabled:
            # 3.9.1.2 and 3.9.1.3: nothing that ATS adds passes a disabled SMMU.
            return bad_translation_request(access) if request else forbidden(access)
        if not request and not registers.checks_translated:
            return self._pass_translated(access)
        stream = self._find_stream(access.requester, trace)
        if isinstance(stream, StreamBlocked):
            # 3.9.1.3: RECINVSID has no say over Translated transactions, and has over Translation Requests.
            recorded = registers.records_ats_errors
            if request and stream.event is _TYPE.C_BAD_STREAMID:
                recorded = recorded and registers.records_bad_stream_ids
            return configuration_error(access, stream.event, stream.fetch_address, recorded=recorded)
        if stream.aborts:
            return terminated(access, Smmuv3Terminated.STREAM_ABORT)
        if not stream.ats:
            return bad_translation_request(access) if request else forbidden(access)
        if request:
            return self._translation_request(access, stream, trace)
        if stream.ats == 0b01:
            return self._pass_translated(access)
        # Split-stage: the address is an IPA.
        kind = effective_kind(access, stream)
        writes: list[MemoryWrite] = []
        result = self._walk(access, kind, stream, None, writes, trace)
        return self._finish(access, kind, stream, None, result, writes, trace)

    def _pass_translated(self, access: Access) -> Outcome:
        if access.iova >> self._address_bits:
            return terminated(access, Smmuv3Terminated.ADDRESS_SIZE)
        return Bypassed(access.iova, BypassReason.TRANSLATED_REQUEST)

    def _translation_request(self, access: Access, stream: Stream, trace: list[Step] | None) -> Outcome:
        """An ATS Translation Request: faults are answered, not recorded (3.9.1.2)."""
        recorded = self.registers.records_ats_errors
        kind = effective_kind(access, stream)._replace(needed=0)
        writes: list[MemoryWrite] = []
        context = self._find_context(access, kind, stream, writes, trace, recorded=recorded)
        if isinstance(context, Fault):
            return context
        result = self._walk(access, kind, stream, context, writes, trace)
        if isinstance(result, WalkFault):
            return self._walk_fault(access, kind, stream, context, result, writes, trace)
        first, second = result
        if first is None and second is None:
            # 13.6.4: stage 1 is skipped, and there is no stage 2.
            return Translated(access.iova, self._granule, _EVERYTHING)
        outputs = [output for output in result if output is not None]
        rights = _granted(access, stream, outputs)
        if not rights:
            return no_permission(access, 1 if second is None else 2)
        # 13.6.3: with Split-stage ATS the completion gives the output of stage 1.
        address = outputs[-1].address
        if stream.ats == 0b10:
            address = first.address if first is not None else access.iova
        size = 1 << min(output.shift for output in outputs)
        return Translated(address, size, PERMISSIONS[rights], _ATTRIBUTES[0], tuple(writes))


def _without_pasid(access: Access) -> Access:
    """The access as unprivileged data, without a PASID."""
    kind = AccessKind.WRITE if access.kind is AccessKind.WRITE else AccessKind.READ
    return replace(access, kind=kind, pasid=None, privileged=False)


def _granted(access: Access, stream: Stream, outputs: list[Output]) -> int:
    """What a Translation Completion grants (13.7.1)."""
    rights = READ | WRITE | EXECUTE
    for output in outputs:
        # 13.7: a writable-clean page is not granted for writing unless it was asked for, and marked dirty.
        rights &= output.rights & ~(WRITE if output.clean else 0)
    asked = access.kind is AccessKind.EXECUTE
    if stream.instruction is None:
        granted = rights & READ
        execute = asked and rights & READ and rights & EXECUTE
    elif stream.instruction:
        granted = READ if rights & EXECUTE else 0
        execute = asked and rights & EXECUTE
    else:
        granted = rights & READ
        execute = asked and rights & READ
    return granted | rights & WRITE | (EXECUTE if execute else 0)


def _attributes(entry: int, stream: Stream) -> Attributes:
    """Of a stage 1 descriptor; EL2's own regime has neither global nor privileged pages."""
    if not stream.two_privileges:
        return _ATTRIBUTES[0]
    return _ATTRIBUTES[(0 if entry & NOT_GLOBAL else 1) | (0 if entry & _UNPRIVILEGED_PAGE else 2)]


def _end_at_last(trace: list[Step] | None, reason: str) -> None:
    """Note at the last step why the walk ends there."""
    if trace:
        trace[-1] = replace(trace[-1], reason=reason)


def _register(name: str, section: str, value: int, fields: tuple[tuple[str, int], ...]) -> Step:
    return Step(name, section, None, value, fields)
