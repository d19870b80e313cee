"""What an SMMUv3 makes of a transaction: the Non-secure programming interface (IHI 0070 chapter 3, Arm DDI 0487 D8).

A message-signalled interrupt of a device is an ordinary write here: it goes through the translation to the doorbell
that its address leads to, and nothing remaps it. So the engine has no `remap_msi`; put the write to `translate`.

Where versions differ, it is an SMMUv3.1 or later. Choices that IHI 0070 leaves open, beside those of
`harness.model.smmuv3.ats`:

- CONT of an STE is a hint, and ignored (5.2).
- STAG and the Reason of records are 0. Records are not merged; `may_merge` says which may be.

Secure and Realm state, VMSAv8-32 and 128-bit tables, permission indirection and overlays, the device permission table,
MPAM and the Access flag of Table descriptors are not modelled; see `harness.model.smmuv3.capabilities`.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.model.access import (
    Access,
    AddressType,
    Bypassed,
    BypassReason,
    Fault,
    Mapping,
    MemoryWrite,
    Outcome,
    Permissions,
)
from harness.model.engine import CommandResult, RawCommand, check_within_page
from harness.model.explanation import Explanation, Step
from harness.model.memory import Memory
from harness.model.smmuv3.ats import AtsInterface
from harness.model.smmuv3.commands import Commands
from harness.model.smmuv3.configuration import Context, Stream
from harness.model.smmuv3.context import select_substream
from harness.model.smmuv3.events import Smmuv3Event, Smmuv3EventType, Smmuv3Terminated
from harness.model.smmuv3.mappings import iter_stage1, iter_stage2
from harness.model.smmuv3.registers import CR0, GBPA, Smmuv3Registers
from harness.model.smmuv3.reports import (
    configuration_error,
    effective_kind,
    terminated,
)
from harness.model.smmuv3.stream import StreamBlocked
from harness.model.smmuv3.transactions import Transactions, register_step

__all__ = ["Smmuv3Engine"]

_TYPE = Smmuv3EventType
_UNTRANSLATED = AddressType.UNTRANSLATED
_EVERYTHING = Permissions.READ | Permissions.WRITE
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
        self._transactions = Transactions(registers, memory)
        self._ats = AtsInterface(registers, self._transactions, self._granule)
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
        stream = self._transactions.streams.find(self.memory, first.stream_id, None)
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
        stream = self._transactions.streams.find(self.memory, requester, None)
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
        context = self._transactions.contexts.find(self.memory, stream, requester, substream.context, [], None)
        if isinstance(context, Context):
            for table in context.tables:
                if table is not None:
                    yield from iter_stage1(self.memory, table, stream.stage2, privileged=privileged)

    def _translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        iova = access.iova
        if (iova & self._granule - 1) + access.length > self._granule:
            check_within_page(access, self._granule)
        if trace is not None:
            trace.append(register_step(CR0.name, CR0.section, self.registers.cr0, CR0.describe(self.registers.cr0)))
        address_type = access.address_type
        if address_type is not _UNTRANSLATED:
            return self._ats.answer(access, trace)
        if not self._enabled:
            return self._disabled(access, trace)
        stream = self._transactions.find_stream(access.requester, trace)
        if isinstance(stream, StreamBlocked):
            recorded = stream.event is not _TYPE.C_BAD_STREAMID or self.registers.records_bad_stream_ids
            return configuration_error(access, stream.event, stream.fetch_address, recorded=recorded)
        if stream.aborts:
            return terminated(access, Smmuv3Terminated.STREAM_ABORT)
        kind = effective_kind(access, stream)
        writes: list[MemoryWrite] = []
        context = self._transactions.find_context(access, kind, stream, writes, trace, recorded=True)
        if isinstance(context, Fault):
            return context
        result = self._transactions.walk(access, kind, stream, context, writes, trace)
        return self._transactions.finish(access, kind, stream, context, result, writes, trace)

    def _disabled(self, access: Access, trace: list[Step] | None) -> Outcome:
        """SMMUEN 0: GBPA decides (3.4, 13.2)."""
        registers = self.registers
        if trace is not None:
            trace.append(register_step(GBPA.name, GBPA.section, registers.gbpa, GBPA.describe(registers.gbpa)))
        if registers.aborts_when_disabled:
            return terminated(access, Smmuv3Terminated.GLOBAL_ABORT)
        if access.iova >> self._address_bits:
            return terminated(access, Smmuv3Terminated.ADDRESS_SIZE)
        return Bypassed(access.iova, BypassReason.TRANSLATION_OFF)
