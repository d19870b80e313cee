"""What becomes of a transaction that does not get through, and what is recorded of it (IHI 0070 3.9.1, 5.5, 7.3).

`Fault.record` is the event that is handed to the Event queue; whether it gets in is the queue's to say. A transaction
that CD.A lets read zero is a fault all the same; the steps of an explanation say how it ends for the device.
"""

from __future__ import annotations

from typing import NamedTuple

from harness.model.access import Access, AccessKind, AddressType, Completion, Fault, MemoryWrite
from harness.model.explanation import Step
from harness.model.smmuv3.configuration import Context, Stream
from harness.model.smmuv3.context import ContextBlocked
from harness.model.smmuv3.events import Smmuv3Event, Smmuv3EventClass, Smmuv3EventType, Smmuv3Terminated
from harness.model.smmuv3.permissions import EXECUTE, READ, WRITE
from harness.model.smmuv3.walk import WalkFault

__all__ = [
    "Kind",
    "bad_translation_request",
    "configuration_error",
    "context_error",
    "effective_kind",
    "forbidden",
    "no_permission",
    "terminated",
    "unsupported",
    "walk_fault",
]

_TYPE = Smmuv3EventType
_TT = Smmuv3EventClass.TT
_WRITE_KIND, _EXECUTE_KIND = AccessKind.WRITE, AccessKind.EXECUTE
_REQUEST = AddressType.TRANSLATION_REQUEST
# The four that A, R and S of a CD or STE configure (5.5).
_CONFIGURABLE = frozenset({_TYPE.F_TRANSLATION, _TYPE.F_ADDR_SIZE, _TYPE.F_ACCESS, _TYPE.F_PERMISSION})


class Kind(NamedTuple):
    """What a transaction is after the overrides of its STE (13.1.2, 13.4).

    Attributes:
        needed: rights that the page must give; 0 for a Translation Request, which takes what there is.
        privileged: PRIV.
        is_instruction: INST; writes are always data.
        is_read: RnW.
        dirties: it writes, or asks for leave to write.
    """

    needed: int
    privileged: bool
    is_instruction: bool
    is_read: bool
    dirties: bool


_WRITES = tuple(Kind(WRITE, privileged, False, False, True) for privileged in (False, True))
_READS = tuple(Kind(READ, privileged, False, True, False) for privileged in (False, True))
_FETCHES = tuple(Kind(EXECUTE, privileged, True, True, False) for privileged in (False, True))


def effective_kind(access: Access, stream: Stream) -> Kind:
    """The transaction's attributes after PRIVCFG and INSTCFG; INSTCFG has no say over writes (13.1.2)."""
    privileged = access.privileged if stream.privileged is None else stream.privileged
    if access.kind is _WRITE_KIND:
        return _WRITES[privileged]
    instruction = access.kind is _EXECUTE_KIND if stream.instruction is None else stream.instruction
    return (_FETCHES if instruction else _READS)[privileged]


def configuration_error(
    access: Access,
    event: Smmuv3EventType,
    fetch_address: int = 0,
    *,
    recorded: bool,
    substream_id: int | None = None,
    writes: tuple[MemoryWrite, ...] = (),
) -> Fault:
    """What aborts whatever A, R and S say (5.5), and is answered with CA where it was a Translation Request (3.9.1.2).

    Args:
        access: the transaction.
        event: why.
        fetch_address: of the structure that could not be read.
        recorded: whether an event is.
        substream_id: where the record has another one than the transaction.
        writes: flags that stage 2 set on the way to a CD.
    """
    record = None
    if recorded:
        # 7.3.7: the record of F_STREAM_DISABLED names no SubstreamID.
        own = None if event is _TYPE.F_STREAM_DISABLED else access.pasid
        substream = own if substream_id is None else substream_id
        record = Smmuv3Event(
            type=event, stream_id=access.requester, substream_id=substream, fetch_address=fetch_address
        )
    completion = Completion.COMPLETER_ABORT if access.address_type is _REQUEST else None
    return _fault(access, event, record, completion, writes=writes)


def context_error(
    access: Access, found: ContextBlocked, index: int, writes: list[MemoryWrite], *, recorded: bool
) -> Fault:
    """A CD that could not be read or used; `index` is the one that was wanted."""
    # 7.3.9: the SubstreamID of a bad L1CD is the index, 0 for a transaction without one.
    substream_id = index if found.event is _TYPE.C_BAD_SUBSTREAMID else None
    return configuration_error(
        access, found.event, found.fetch_address, recorded=recorded, substream_id=substream_id, writes=tuple(writes)
    )


def walk_fault(
    access: Access,
    kind: Kind,
    stream: Stream,
    context: Context | None,
    fault: WalkFault,
    writes: list[MemoryWrite],
    trace: list[Step] | None,
    *,
    records_ats_errors: bool,
) -> Fault:
    """A fault of a translation: A, R and S of the stage say what becomes of it (5.5)."""
    event = fault.event
    configurable = event in _CONFIGURABLE
    # 3.4: the Address Size fault of a bypassed stage 1 has no CD, and is always recorded. Stage 2 always aborts.
    aborts, records, stalls = True, True, False
    if configurable and fault.stage == 2:
        records, stalls = stream.records, stream.stalls
    elif configurable and context is not None:
        aborts, records, stalls = context.aborts, context.records, context.stalls
    completion = None
    if access.address_type is _REQUEST:
        # 3.9.1.2: faults of the page are answered as "no permission" and not recorded.
        completion = Completion.NO_PERMISSION if configurable else Completion.COMPLETER_ABORT
        records, stalls = not configurable and records_ats_errors, False
    elif trace is not None and configurable:
        how = "stalls" if stalls else "aborts" if aborts else "reads zero, ignores writes"
        fields = (("A", int(aborts)), ("R", int(records)), ("S", int(stalls)))
        trace.append(Step("fault configuration", "IHI 0070 5.5", fields=fields, note=how))
    record = None
    if records or stalls:
        is_tables_permission = event is _TYPE.F_PERMISSION and fault.event_class is _TT
        record = Smmuv3Event(
            type=event,
            stream_id=access.requester,
            substream_id=access.pasid,
            input_address=access.iova,
            is_read=kind.is_read,
            privileged=kind.privileged,
            is_instruction=kind.is_instruction,
            stage2=fault.stage == 2,
            event_class=fault.event_class,
            # IPA is there for stage 2 only, and F_WALK_EABT has FetchAddr in its place.
            ipa=fault.ipa & ~0xFFF if configurable else 0,
            fetch_address=fault.fetch_address,
            table_read=fault.table_read and is_tables_permission,
            stall=stalls,
        )
    return _fault(access, event, record, completion, fault.stage, fault.level, tuple(writes), is_global=fault.is_global)


def no_permission(access: Access, stage: int) -> Fault:
    """A Translation Request that the page, at a stage, grants nothing: success with R=W=0 (3.9.1.2)."""
    return _fault(access, _TYPE.F_PERMISSION, None, Completion.NO_PERMISSION, stage)


def unsupported(access: Access) -> Fault:
    """An ATS request to an SMMU without ATS.

    Not recorded: the F_UUT of a Translated transaction is not (3.9.1.3), and a Translation Request causes no event but
    F_BAD_ATS_TREQ outside of its configuration (7.3.6, 7.3.22).
    """
    completion = Completion.UNSUPPORTED_REQUEST if access.address_type is _REQUEST else None
    return _fault(access, _TYPE.F_UUT, None, completion)


def bad_translation_request(access: Access) -> Fault:
    """A Translation Request that is not allowed: UR, and recorded (7.3.6)."""
    record = Smmuv3Event(
        type=_TYPE.F_BAD_ATS_TREQ,
        stream_id=access.requester,
        substream_id=access.pasid,
        input_address=access.iova & ~0xFFF,
        privileged=access.privileged,
        # R is always asked for; Span counts smallest translation units.
        requested=READ | WRITE * (access.kind is _WRITE_KIND) | EXECUTE * (access.kind is _EXECUTE_KIND),
        span=1,
    )
    return _fault(access, _TYPE.F_BAD_ATS_TREQ, record, Completion.UNSUPPORTED_REQUEST)


def forbidden(access: Access) -> Fault:
    """A Translated transaction that is not allowed: aborted, and recorded (7.3.8)."""
    record = Smmuv3Event(
        type=_TYPE.F_TRANSL_FORBIDDEN,
        stream_id=access.requester,
        input_address=access.iova,
        is_read=access.kind is not _WRITE_KIND,
    )
    return _fault(access, _TYPE.F_TRANSL_FORBIDDEN, record)


def terminated(access: Access, why: Smmuv3Terminated) -> Fault:
    """A transaction that is terminated without an event; UR where it was a Translation Request (3.9.1.2)."""
    return _fault(access, why, None, Completion.UNSUPPORTED_REQUEST if access.address_type is _REQUEST else None)


def _fault(
    access: Access,
    code: Smmuv3EventType | Smmuv3Terminated,
    record: Smmuv3Event | None,
    completion: Completion | None = None,
    stage: int | None = None,
    level: int | None = None,
    writes: tuple[MemoryWrite, ...] = (),
    *,
    is_global: bool = False,
) -> Fault:
    is_write = access.kind is _WRITE_KIND
    page = access.iova & ~0xFFF
    return Fault(code, access.requester, page, is_write, stage, level, record, completion, writes, is_global)
