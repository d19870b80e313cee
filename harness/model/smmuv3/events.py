"""SMMUv3 events, and the records of 32 bytes that the Event queue takes (IHI 0070, 7.3).

F_TLB_CONFLICT, F_CFG_CONFLICT, E_PAGE_REQUEST, F_VMS_FETCH and the implementation defined events are left out: no
translation of the model leads to them. IHI 0070 lets an SMMU report unsupported transactions for reasons of its own
(F_UUT): here it is a request of ATS to an SMMU without ATS, which is not recorded (3.9.1.3, 7.3.22).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from harness.errors import SpecError
from harness.model.access import format_requester
from harness.model.bits import Field, Layout

__all__ = ["EVENT_SIZE", "Smmuv3Event", "Smmuv3EventClass", "Smmuv3EventType", "Smmuv3Terminated", "event_layout"]

EVENT_SIZE = 32
"""Bytes of an event record."""


class Smmuv3EventType(IntEnum):
    """Why an access was terminated or stalled, by the number in its record (7.3.2 to 7.3.16)."""

    F_UUT = 0x01
    """Unsupported upstream transaction: an ATS request, and the SMMU has no ATS."""
    C_BAD_STREAMID = 0x02
    """The StreamID is beyond the stream table, or its L1STD does not span it."""
    F_STE_FETCH = 0x03
    """No memory answers for the STE or its L1STD."""
    C_BAD_STE = 0x04
    """The STE is not valid, or ILLEGAL (5.2.2)."""
    F_BAD_ATS_TREQ = 0x05
    """An ATS Translation Request that the SMMU or the STE does not allow."""
    F_STREAM_DISABLED = 0x06
    """A transaction without a SubstreamID where S1DSS refuses it, or with SubstreamID 0 where S1DSS takes that."""
    F_TRANSL_FORBIDDEN = 0x07
    """An ATS Translated transaction that the SMMU or the STE does not allow."""
    C_BAD_SUBSTREAMID = 0x08
    """A SubstreamID where there are none, beyond S1CDMax, or without a valid L1CD."""
    F_CD_FETCH = 0x09
    """No memory answers for the CD or its L1CD."""
    C_BAD_CD = 0x0A
    """The CD is not valid, or ILLEGAL (5.4.2)."""
    F_WALK_EABT = 0x0B
    """No memory answers for a translation table descriptor."""
    F_TRANSLATION = 0x10
    """The address is outside of the tables, in a disabled TTBx, or no valid descriptor is there for it."""
    F_ADDR_SIZE = 0x11
    """A descriptor, or a bypassed stage 1, gives an address beyond the output size."""
    F_ACCESS = 0x12
    """AF of the last descriptor is 0."""
    F_PERMISSION = 0x13
    """The page does not allow the access."""


class Smmuv3Terminated(Enum):
    """Why an access was terminated where no event exists for it."""

    GLOBAL_ABORT = "SMMU_GBPA.ABORT"
    """13.2: SMMUEN is 0, and GBPA.ABORT is 1."""
    STREAM_ABORT = "STE.Config 0b000"
    """5.2: the STE lets nothing pass."""
    ADDRESS_SIZE = "address beyond the output size"
    """3.4 with SMMUEN 0, 3.9.1.1 for ATS Translated transactions: bits above the OAS are set."""


class Smmuv3EventClass(IntEnum):
    """CLASS: what met the fault (7.3)."""

    CD = 0
    TT = 1
    IN = 2


_NUMBER, _SUBSTREAM, _STREAM = Field("TYPE", 0, 8), Field("SUBSTREAMID", 12, 20), Field("STREAMID", 32, 32)
_HEADER = (_NUMBER, Field("RSVD_8", 8, 3), Field("SSV", 11, 1), _SUBSTREAM, _STREAM)
_HEADER_WITHOUT_SSV = (_NUMBER, Field("RSVD_8", 8, 4), _SUBSTREAM, _STREAM)
_HEADER_WITHOUT_SUBSTREAM = (_NUMBER, Field("RSVD_8", 8, 24), _STREAM)
_REASON = (Field("REASON", 64, 16),)
_STALL = (Field("STAG", 64, 16), Field("STALL", 95, 1))
_RNW = (Field("RNW", 99, 1),)
_KIND = (Field("PNU", 97, 1), Field("IND", 98, 1), *_RNW)
_STAGE = (Field("NSIPA", 100, 1), Field("S2", 103, 1), Field("CLASS", 104, 2))
_TTRNW = (Field("TTRNW", 108, 1),)
_INPUT = (Field("INPUTADDR", 128, 64),)
_FETCH = (Field("FETCHADDR", 195, 53),)
_IPA = (Field("IPA", 204, 44),)
_ATS_REQUEST = (Field("SPAN", 64, 4), Field("P", 92, 1), Field("X", 93, 1), Field("W", 94, 1), Field("R", 95, 1))
_ATS_INPUT = (Field("INPUTADDR", 140, 52),)

_TYPE = Smmuv3EventType
_FIELDS: dict[int, tuple[str, tuple[Field, ...]]] = {
    _TYPE.F_UUT: ("7.3.2", (*_HEADER, *_REASON, *_KIND, *_INPUT)),
    _TYPE.C_BAD_STREAMID: ("7.3.3", _HEADER),
    _TYPE.F_STE_FETCH: ("7.3.4", (*_HEADER, *_REASON, *_FETCH)),
    _TYPE.C_BAD_STE: ("7.3.5", _HEADER),
    _TYPE.F_BAD_ATS_TREQ: ("7.3.6", (*_HEADER, *_ATS_REQUEST, *_ATS_INPUT)),
    _TYPE.F_STREAM_DISABLED: ("7.3.7", _HEADER_WITHOUT_SUBSTREAM),
    _TYPE.F_TRANSL_FORBIDDEN: ("7.3.8", (*_HEADER, *_RNW, *_INPUT)),
    _TYPE.C_BAD_SUBSTREAMID: ("7.3.9", _HEADER_WITHOUT_SSV),
    _TYPE.F_CD_FETCH: ("7.3.10", (*_HEADER, *_REASON, *_FETCH)),
    _TYPE.C_BAD_CD: ("7.3.11", _HEADER),
    _TYPE.F_WALK_EABT: ("7.3.12", (*_HEADER, *_REASON, *_KIND, *_STAGE, *_INPUT, *_FETCH)),
    _TYPE.F_TRANSLATION: ("7.3.13", (*_HEADER, *_STALL, *_KIND, *_STAGE, *_INPUT, *_IPA)),
    _TYPE.F_ADDR_SIZE: ("7.3.14", (*_HEADER, *_STALL, *_KIND, *_STAGE, *_INPUT, *_IPA)),
    _TYPE.F_ACCESS: ("7.3.15", (*_HEADER, *_STALL, *_KIND, *_STAGE, *_INPUT, *_IPA)),
    _TYPE.F_PERMISSION: ("7.3.16", (*_HEADER, *_STALL, *_KIND, *_STAGE, *_TTRNW, *_INPUT, *_IPA)),
}


def _layout(name: str, section: str, fields: tuple[Field, ...]) -> Layout:
    """A record of these fields; what lies between them is RES0 (7.3)."""
    whole: list[Field] = []
    at = 0
    for entry in (*fields, Field("", 8 * EVENT_SIZE, 0)):
        if entry.low > at:
            whole.append(Field(f"RSVD_{at}", at, entry.low - at))
        whole.append(entry)
        at = entry.low + entry.width
    return Layout(name, section, tuple(whole[:-1]))


_LAYOUTS = {kind: _layout(_TYPE(kind).name, f"IHI 0070 {at}", fields) for kind, (at, fields) in _FIELDS.items()}
_UNKNOWN = _layout("event record", "IHI 0070 7.3", _HEADER)
# 7.3: bits of an address that its field leaves out.
_SHIFTS = {"FETCHADDR": 3, "IPA": 12}
# InputAddr[11:0] is ignored when events are compared for merging (7.3.8, 7.3.12 to 7.3.16).
_MERGED_BY_PAGE = frozenset(_TYPE) & {_TYPE.F_TRANSL_FORBIDDEN, *(kind for kind in _TYPE if kind >= _TYPE.F_WALK_EABT)}


def event_layout(event_type: int) -> Layout:
    """The fields of a record of a type; those that all have for a type that is not modelled."""
    return _LAYOUTS.get(event_type, _UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Smmuv3Event:
    """An event record. What the record of its type has no field for is left at its default.

    Attributes:
        type: event number, that of a `Smmuv3EventType` where the model has it.
        stream_id: of the transaction.
        substream_id: SubstreamID where SSV says that there is one.
        input_address: InputAddr, as the device sent it (4 KiB pages in F_BAD_ATS_TREQ).
        is_read: RnW.
        privileged: PnU.
        is_instruction: InD.
        stage2: S2: the fault is of stage 2.
        event_class: CLASS, the number of a `Smmuv3EventClass`.
        ipa: IPA, 4 KiB page; 0 where the fault is of stage 1.
        fetch_address: FetchAddr, a multiple of 8.
        table_read: TTRnW of a stage 2 permission fault of a stage 1 walk: a read of the descriptor, not its update.
        stall: the transaction is held until a CMD_RESUME or CMD_STALL_TERM.
        stag: the token for CMD_RESUME; its value is implementation defined, and 0 here.
        span: Span of F_BAD_ATS_TREQ.
        requested: R, W, X of F_BAD_ATS_TREQ as bits 0, 1, 2.
        reason: implementation defined, 0 here.
    """

    type: int
    stream_id: int
    substream_id: int | None = None
    input_address: int = 0
    is_read: bool = False
    privileged: bool = False
    is_instruction: bool = False
    stage2: bool = False
    event_class: int = Smmuv3EventClass.CD
    ipa: int = 0
    fetch_address: int = 0
    table_read: bool = False
    stall: bool = False
    stag: int = 0
    span: int = 0
    requested: int = 0
    reason: int = 0

    def encode(self) -> bytes:
        """The 32 bytes of the record, little-endian.

        Raises:
            SpecError: a value does not fit its field.
        """
        layout = event_layout(self.type)
        values = {
            "TYPE": int(self.type),
            "STREAMID": self.stream_id,
            "SUBSTREAMID": self.substream_id or 0,
            "SSV": int(self.substream_id is not None),
            "REASON": self.reason,
            "STAG": self.stag,
            "STALL": int(self.stall),
            "PNU": int(self.privileged),
            "IND": int(self.is_instruction),
            "RNW": int(self.is_read),
            "NSIPA": 0,
            "S2": int(self.stage2),
            "CLASS": int(self.event_class),
            "TTRNW": int(self.table_read),
            "INPUTADDR": self.input_address >> (12 if self.type == _TYPE.F_BAD_ATS_TREQ else 0),
            "FETCHADDR": self.fetch_address >> _SHIFTS["FETCHADDR"],
            "IPA": self.ipa >> _SHIFTS["IPA"],
            "SPAN": self.span,
            "P": int(self.privileged),
            "X": self.requested >> 2 & 1,
            "W": self.requested >> 1 & 1,
            "R": self.requested & 1,
        }
        bits = layout.encode({name: value for name, value in values.items() if name in layout})
        return bits.to_bytes(EVENT_SIZE, "little")

    @classmethod
    def decode(cls, record: bytes) -> Self:
        """Read a record as it stands in the Event queue.

        Raises:
            SpecError: not 32 bytes.
        """
        if len(record) != EVENT_SIZE:
            raise SpecError(f"an event record has {EVENT_SIZE} bytes, not {len(record)}")
        number = record[0]
        bits = int.from_bytes(record, "little")
        fields = dict(event_layout(number).decode(bits))
        # 7.3.9: in C_BAD_SUBSTREAMID the SubstreamID is always valid, and there is no SSV.
        has_substream = fields.get("SSV", number == _TYPE.C_BAD_SUBSTREAMID)
        return cls(
            type=number,
            stream_id=fields["STREAMID"],
            substream_id=fields["SUBSTREAMID"] if has_substream else None,
            input_address=fields.get("INPUTADDR", 0) << (12 if number == _TYPE.F_BAD_ATS_TREQ else 0),
            is_read=bool(fields.get("RNW", 0)),
            privileged=bool(fields.get("PNU", 0) | fields.get("P", 0)),
            is_instruction=bool(fields.get("IND", 0)),
            stage2=bool(fields.get("S2", 0)),
            event_class=fields.get("CLASS", 0),
            ipa=fields.get("IPA", 0) << _SHIFTS["IPA"],
            fetch_address=fields.get("FETCHADDR", 0) << _SHIFTS["FETCHADDR"],
            table_read=bool(fields.get("TTRNW", 0)),
            stall=bool(fields.get("STALL", 0)),
            stag=fields.get("STAG", 0),
            span=fields.get("SPAN", 0),
            requested=fields.get("R", 0) | fields.get("W", 0) << 1 | fields.get("X", 0) << 2,
            reason=fields.get("REASON", 0),
        )

    def is_like(self, other: Smmuv3Event) -> bool:
        """Whether the two are identical for the purpose of merging (7.3.1); stalls are never merged."""
        if self.stall or other.stall or self.type != other.type:
            return False
        ignored = 0xFFF << 128 if self.type in _MERGED_BY_PAGE else 0
        own, others = (int.from_bytes(event.encode(), "little") for event in (self, other))
        return not (own ^ others) & ~ignored

    def __str__(self) -> str:
        name = _TYPE(self.type).name if self.type in _LAYOUTS else f"event {self.type:#x}"
        fields = dict(event_layout(self.type).decode(int.from_bytes(self.encode(), "little")))
        substream = "" if self.substream_id is None else f" substream {self.substream_id:#x}"
        text = f"{name} of {format_requester(self.stream_id)}{substream}"
        if "INPUTADDR" in fields:
            text += f" at {self.input_address:#x}"
        if "RNW" in fields:
            text += f", {'instruction ' if self.is_instruction else ''}{'read' if self.is_read else 'write'}"
        if "S2" in fields:
            text += f", stage {2 if self.stage2 else 1}, class {_class_name(self.event_class)}"
        if self.stage2 and "IPA" in fields:
            text += f", ipa {self.ipa:#x}"
        if "FETCHADDR" in fields:
            text += f", fetched from {self.fetch_address:#x}"
        return f"{text}, stalled" if self.stall else text


def _class_name(value: int) -> str:
    return Smmuv3EventClass(value).name if value in Smmuv3EventClass.__members__.values() else str(value)
