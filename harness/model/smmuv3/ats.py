"""ATS: Translation Requests, and transactions whose address is Translated already (IHI 0070 3.9.1, 13.6, 13.7).

Choices that IHI 0070 leaves open:

- A request to an SMMU without ATS is an unsupported transaction (F_UUT, 7.3.2), and not recorded.
- A Translated address beyond the OAS is aborted (3.9.1.1).
- A Translation Completion grants Write wherever the page is writable, asked for or not (13.7).
- The identity that answers a Translation Request which skips stage 1 is given for one granule (13.6.4).
"""

from __future__ import annotations

from dataclasses import replace

from harness.model.access import (
    PERMISSIONS,
    Access,
    AccessKind,
    AddressType,
    Bypassed,
    BypassReason,
    Fault,
    MemoryWrite,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.explanation import Step
from harness.model.smmuv3.completions import granted
from harness.model.smmuv3.configuration import Stream
from harness.model.smmuv3.events import Smmuv3EventType, Smmuv3Terminated
from harness.model.smmuv3.registers import Smmuv3Registers
from harness.model.smmuv3.reports import (
    bad_translation_request,
    configuration_error,
    effective_kind,
    forbidden,
    no_permission,
    terminated,
    unsupported,
)
from harness.model.smmuv3.stream import StreamBlocked
from harness.model.smmuv3.transactions import Transactions
from harness.model.smmuv3.walk import WalkFault

__all__ = ["AtsInterface"]

_TYPE = Smmuv3EventType
_EVERYTHING = Permissions.READ | Permissions.WRITE


class AtsInterface:
    """What an SMMU answers to transactions of ATS.

    Args:
        registers: as they are now.
        transactions: of that SMMU.
        granule: smallest of the SMMU, bytes.
    """

    def __init__(self, registers: Smmuv3Registers, transactions: Transactions, granule: int) -> None:
        self._registers = registers
        self._transactions = transactions
        self._granule = granule
        self._address_bits = registers.capabilities.address_bits

    def answer(self, access: Access, trace: list[Step] | None) -> Outcome:
        """The outcome of one."""
        registers = self._registers
        request = access.address_type is AddressType.TRANSLATION_REQUEST
        # 3.9.1.3, 13.7: Exe and Priv come with a PASID alone; without IDR3.PASIDTT a Translated transaction has none.
        if access.pasid is None or not request:
            access = _without_pasid(access)
        if not registers.capabilities.ats:
            return unsupported(access)
        if not registers.enabled:
            # 3.9.1.2 and 3.9.1.3: nothing that ATS adds passes a disabled SMMU.
            return bad_translation_request(access) if request else forbidden(access)
        if not request and not registers.checks_translated:
            return self._pass_translated(access)
        stream = self._transactions.find_stream(access.requester, trace)
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
        result = self._transactions.walk(access, kind, stream, None, writes, trace)
        return self._transactions.finish(access, kind, stream, None, result, writes, trace)

    def _pass_translated(self, access: Access) -> Outcome:
        if access.iova >> self._address_bits:
            return terminated(access, Smmuv3Terminated.ADDRESS_SIZE)
        return Bypassed(access.iova, BypassReason.TRANSLATED_REQUEST)

    def _translation_request(self, access: Access, stream: Stream, trace: list[Step] | None) -> Outcome:
        """An ATS Translation Request: faults are answered, not recorded (3.9.1.2)."""
        recorded = self._registers.records_ats_errors
        kind = effective_kind(access, stream)._replace(needed=0)
        writes: list[MemoryWrite] = []
        context = self._transactions.find_context(access, kind, stream, writes, trace, recorded=recorded)
        if isinstance(context, Fault):
            return context
        result = self._transactions.walk(access, kind, stream, context, writes, trace)
        if isinstance(result, WalkFault):
            return self._transactions.walk_fault(access, kind, stream, context, result, writes, trace)
        first, second = result
        if first is None and second is None:
            # 13.6.4: stage 1 is skipped, and there is no stage 2.
            return Translated(access.iova, self._granule, _EVERYTHING)
        outputs = [output for output in result if output is not None]
        rights = granted(access, stream, outputs)
        if not rights:
            return no_permission(access, 1 if second is None else 2)
        # 13.6.3: with Split-stage ATS the completion gives the output of stage 1.
        address = outputs[-1].address
        if stream.ats == 0b10:
            address = first.address if first is not None else access.iova
        size = 1 << min(output.shift for output in outputs)
        return Translated(address, size, PERMISSIONS[rights], writes=tuple(writes))


def _without_pasid(access: Access) -> Access:
    """The access as unprivileged data, without a PASID."""
    kind = AccessKind.WRITE if access.kind is AccessKind.WRITE else AccessKind.READ
    return replace(access, kind=kind, pasid=None, privileged=False)
