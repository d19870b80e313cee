"""VT-d fault reasons and the fault recording register (VT-d 7.1.3, 5.1.4.1, 11.4.7.6).

The condition codes in the docstrings (LRT.2, SGN.8) are those of the table in VT-d 7.1.3; what follows from each is in
`harness.model.vtd.fault_conditions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from harness.model.access import format_requester
from harness.model.bits import Field, Layout

__all__ = ["FRCD_REG", "VtdBlocked", "VtdFaultReason", "VtdFaultRecord", "meaningful_bits"]


class VtdFaultReason(IntEnum):
    """Why a request was blocked, by the number in a fault record. The condition's name is that of VT-d 7.1.3."""

    ROOT_NOT_PRESENT = 0x1
    """LRT.2: P of the root-entry is 0."""
    CONTEXT_NOT_PRESENT = 0x2
    """LCT.2: P of the context-entry is 0."""
    CONTEXT_INVALID = 0x3
    """LCT.4: a width or translation type that the hardware does not support, or SSPTPTR points outside of memory."""
    ADDRESS_BEYOND_WIDTH = 0x4
    """LGN.1: the address is above 2^X - 1, X the smaller of MGAW and the width that AW selects; or above the host
    address width, where it is not translated."""
    WRITE_NOT_PERMITTED = 0x5
    """LGN.2: a write, and W is 0 in an entry on the way."""
    READ_NOT_PERMITTED = 0x6
    """LGN.3: a read, and R is 0 in an entry on the way."""
    PAGING_ENTRY_ACCESS = 0x7
    """LSS.1: the address in a preceding second-stage entry points outside of memory."""
    ROOT_TABLE_ACCESS = 0x8
    """LRT.1: RTADDR_REG points outside of memory."""
    CONTEXT_TABLE_ACCESS = 0x9
    """LCT.1: CTP of the root-entry points outside of memory."""
    ROOT_RESERVED = 0xA
    """LRT.3: a reserved field of a present root-entry is not zero."""
    CONTEXT_RESERVED = 0xB
    """LCT.3: a reserved field of a present context-entry is not zero."""
    PAGING_ENTRY_RESERVED = 0xC
    """LSS.2: a reserved field of a second-stage entry with R or W set is not zero."""
    TRANSLATION_TYPE_BLOCKS = 0xD
    """LCT.5: a translated or translation request, and TT does not allow it."""
    OUTPUT_IN_INTERRUPT_RANGE = 0xE
    """LGN.4: the address after translation lies in 0xFEEx_xxxx."""
    INTERRUPT_REQUEST_RESERVED = 0x20
    """A reserved field of a remappable interrupt request is not zero."""
    INTERRUPT_INDEX_BEYOND_TABLE = 0x21
    """The interrupt_index is none of the table's, or its entry would stand above the host address width."""
    INTERRUPT_ENTRY_NOT_PRESENT = 0x22
    """P of the interrupt remapping table entry is 0."""
    INTERRUPT_TABLE_ACCESS = 0x23
    """IRTA_REG points outside of memory."""
    INTERRUPT_ENTRY_RESERVED = 0x24
    """A reserved field of a present interrupt remapping table entry is not zero, or holds a value that it may not."""
    INTERRUPT_COMPATIBILITY_BLOCKED = 0x25
    """A compatibility format interrupt, and EIME is set or CFIS is not."""
    INTERRUPT_SOURCE_REFUSED = 0x26
    """The requester is not the one that SVT, SQ and SID of the entry let in."""
    POSTED_DESCRIPTOR_ACCESS = 0x27
    """The posted-interrupt descriptor of the entry lies outside of memory."""
    POSTED_DESCRIPTOR_RESERVED = 0x28
    """A reserved field of the posted-interrupt descriptor is not zero."""
    INTERRUPT_REQUEST_INVALID = 0x29
    """An untranslated request without PASID to 0xFEEx_xxxx that is no interrupt request."""
    INTERRUPT_MODE_REQUIRED = 0x2A
    """EIME is 0 on hardware that needs it (ECAP_REG.EIMER)."""
    INTERRUPT_REMAPPING_REQUIRED = 0x2B
    """Interrupt remapping is off on hardware that needs it (ECAP_REG.IRREQ)."""
    ROOT_POINTER_INVALID = 0x30
    """RTA.1: RTADDR_REG.TTM is reserved or a mode that the hardware does not have, or SSIRWE is set in legacy mode."""
    PASID_IN_LEGACY_MODE = 0x31
    """RTA.2: a request with PASID, and RTADDR_REG.TTM selects legacy mode."""
    PAGE_REQUEST_IN_LEGACY_MODE = 0x32
    """RTA.3: a page request, and RTADDR_REG.TTM selects legacy mode."""
    ABORT_MODE = 0x33
    """RTA.4: RTADDR_REG.TTM selects abort-dma mode."""
    EXECUTE_REQUESTED = 0x34
    """RTA.5: a request with PASID that asks to execute, on hardware of major version 8 or above."""
    SCALABLE_ROOT_ACCESS = 0x38
    """SRT.1: RTADDR_REG points outside of memory."""
    SCALABLE_ROOT_NOT_PRESENT = 0x39
    """SRT.2: LP or UP of the scalable-mode root-entry is 0."""
    SCALABLE_ROOT_RESERVED = 0x3A
    """SRT.3: a reserved field in the present half of a scalable-mode root-entry is not zero."""
    SCALABLE_CONTEXT_ACCESS = 0x40
    """SCT.1: LCTP or UCTP points outside of memory."""
    SCALABLE_CONTEXT_NOT_PRESENT = 0x41
    """SCT.2: P of the scalable-mode context-entry is 0."""
    SCALABLE_CONTEXT_RESERVED = 0x42
    """SCT.3: a reserved field of a present scalable-mode context-entry is not zero."""
    SCALABLE_CONTEXT_INVALID = 0x43
    """SCT.4: PRE without DTE, RID_PASID beyond the PASID directory, or EPTR without PASIDE."""
    DEVICE_TLB_DISABLED = 0x44
    """SCT.5: a translated or translation request, and DTE is 0."""
    PASID_DISABLED = 0x45
    """SCT.6: a request with PASID, and PASIDE is 0."""
    PASID_BEYOND_DIRECTORY = 0x46
    """SCT.7: the PASID is beyond the PASID directory that PDTS gives the size of."""
    PAGE_REQUESTS_DISABLED = 0x47
    """SCT.8: a page request, and PRE is 0."""
    PASID_IS_RID_PASID = 0x48
    """SCT.9: a request with the PASID that requests without one are given."""
    TRANSLATED_PASID_DISABLED = 0x49
    """SCT.10: a translated request with PASID, and EPTR is 0."""
    PASID_DIRECTORY_ACCESS = 0x50
    """SPD.1: PASIDDIRPTR points outside of memory."""
    PASID_DIRECTORY_NOT_PRESENT = 0x51
    """SPD.2: P of the PASID directory entry is 0."""
    PASID_DIRECTORY_RESERVED = 0x52
    """SPD.3: a reserved field of a present PASID directory entry is not zero."""
    PASID_TABLE_ACCESS = 0x58
    """SPT.1: SMPTBLPTR points outside of memory."""
    PASID_TABLE_NOT_PRESENT = 0x59
    """SPT.2: P of the PASID table entry is 0."""
    PASID_TABLE_RESERVED = 0x5A
    """SPT.3: a reserved field of a present PASID table entry is not zero."""
    PASID_TABLE_INVALID = 0x5B
    """SPT.4: AW, PGTT or FSPM is one that the hardware does not have, or FSPTPTR is beyond the second stage's width."""
    EXECUTE_NOT_SUPPORTED = 0x5C
    """SPT.5: a request with PASID that asks to execute, on hardware of major version 7 or below without ERS."""
    SUPERVISOR_DISABLED = 0x5D
    """SPT.6: a request for privileged mode, and SRE is 0."""
    BEYOND_HOST_PERMISSIONS = 0x60
    """SPT.9: a translated request beyond the host permission table that HPTSZ gives the size of."""
    FIRST_STAGE_ACCESS = 0x70
    """SFS.1: the address in a preceding first-stage entry points outside of memory."""
    FIRST_STAGE_NOT_PRESENT = 0x71
    """SFS.2: P of a first-stage entry is 0."""
    FIRST_STAGE_RESERVED = 0x72
    """SFS.3: a reserved field of a present first-stage entry is not zero."""
    FIRST_STAGE_ROOT_ACCESS = 0x73
    """SFS.4: FSPTPTR points outside of memory."""
    FIRST_STAGE_ADDRESS_BEYOND_WIDTH = 0x74
    """SFS.5: nested; the address in a first-stage entry is beyond the second stage's width."""
    FIRST_STAGE_ROOT_UNREADABLE = 0x75
    """SFS.6: nested; the second stage does not let the topmost first-stage table be read."""
    FIRST_STAGE_ENTRY_UNREADABLE = 0x76
    """SFS.7: nested; the second stage does not let a lower first-stage table be read."""
    FIRST_STAGE_FLAGS_UNWRITABLE = 0x77
    """SFS.8: nested; the second stage does not let accessed and dirty flags be set in a first-stage table."""
    SECOND_STAGE_ACCESS = 0x78
    """SSS.1: the address in a preceding second-stage entry points outside of memory."""
    SECOND_STAGE_NOT_PRESENT = 0x79
    """SSS.2: no right is left: R and W of a second-stage entry are 0, or no right is granted at every level."""
    SECOND_STAGE_RESERVED = 0x7A
    """SSS.3: a reserved field of a second-stage entry with R or W set is not zero."""
    SECOND_STAGE_ROOT_ACCESS = 0x7B
    """SSS.4: SSPTPTR points outside of memory."""
    SECOND_STAGE_FLAGS_NOT_SNOOPED = 0x7C
    """SSS.5: a flag must be set in a second-stage entry, and the walk does not snoop."""
    SECOND_STAGE_FLAGS_FAILED = 0x7D
    """SSS.6: a flag must be set in a second-stage entry, and memory refuses it."""
    NOT_CANONICAL = 0x80
    """SGN.1: first stage; bits 63:N of the address are not the same as bit N-1."""
    USER_NOT_PERMITTED = 0x81
    """SGN.2: first stage; a request without privilege, and U/S is 0 in an entry on the way."""
    BEYOND_HOST_WIDTH = 0x83
    """SGN.4: an address that is not translated is above the host address width."""
    SCALABLE_ADDRESS_BEYOND_WIDTH = 0x84
    """SGN.5: second stage only; the address is above 2^X - 1, X the smaller of MGAW and the width that AW selects."""
    SCALABLE_WRITE_NOT_PERMITTED = 0x85
    """SGN.6: a write, and one of the stages does not grant it."""
    SCALABLE_READ_NOT_PERMITTED = 0x86
    """SGN.7: a read, and the second stage does not grant it."""
    SCALABLE_OUTPUT_IN_INTERRUPT_RANGE = 0x87
    """SGN.8: the address after translation lies in 0xFEEx_xxxx."""
    PASID_BEYOND_SIZE = 0x89
    """SGN.10: the PASID has more bits than ECAP_REG.PSS says."""
    FIRST_STAGE_FLAGS_NOT_SNOOPED = 0x90
    """SFS.9: a flag must be set in a first-stage entry, and the walk does not snoop."""
    FIRST_STAGE_FLAGS_FAILED = 0x91
    """SFS.10: a flag must be set in a first-stage entry, and memory refuses it."""
    HOST_PERMISSION_ACCESS = 0xA0
    """HPT.1: the address in a preceding host permission table entry points outside of memory."""
    HOST_PERMISSION_RESERVED = 0xA1
    """HPT.2: a reserved field of a host permission table entry is not zero."""
    HOST_PERMISSION_ROOT_ACCESS = 0xA2
    """HPT.3: HPTPTR points outside of memory."""
    HOST_PERMISSION_NOT_FOUND = 0xA3
    """HPT.4: a zero-length read, CAP_REG.ZLR is set, and no permission is found for the page."""
    HOST_PERMISSION_NO_WRITE = 0xA4
    """HPT.5: a translated write, and the host permission table does not grant it."""
    HOST_PERMISSION_NO_READ = 0xA5
    """HPT.6: a translated read, and the host permission table does not grant it."""


class VtdBlocked(Enum):
    """Why a request was blocked without a fault reason."""

    INTERRUPT_RANGE = "no DMA in the interrupt range"
    """VT-d 3.15: nothing is remapped, and a request to 0xFEEx_xxxx is no interrupt request; or (S.2 in 7.1.3) a device
    TLB asks to read there, which is answered but is no fault."""
    DEVICE_TLB_REQUEST = "device TLB request without translation"
    """VT-d 4.2.1: a translation or translated request, and translation is off."""
    TRANSLATED_WITH_PASID = "translated request with PASID"
    """VT-d 4.2.1, 4.2.5: the root complex knows none (ECAP_REG.PTRS)."""
    PAGE_REQUEST = "page request"
    """VT-d 7.4: the hardware has no page requests (ECAP_REG.PRS), or translation is off."""
    PROTECTED_MEMORY = "protected memory"
    """VT-d 11.4.8.1: DMA to a protected memory region; it is not reported."""


# Their records hold the interrupt_index in FI, bits 63:48, and zero in bits 47:12; in those of the other interrupt
# faults FI is undefined (VT-d 11.4.7.6, FI), and zero here.
_REASONS_WITH_INDEX = frozenset(
    {
        VtdFaultReason.INTERRUPT_INDEX_BEYOND_TABLE,
        VtdFaultReason.INTERRUPT_ENTRY_NOT_PRESENT,
        VtdFaultReason.INTERRUPT_TABLE_ACCESS,
        VtdFaultReason.INTERRUPT_ENTRY_RESERVED,
        VtdFaultReason.INTERRUPT_SOURCE_REFUSED,
        VtdFaultReason.POSTED_DESCRIPTOR_ACCESS,
        VtdFaultReason.POSTED_DESCRIPTOR_RESERVED,
    }
)
_INTERRUPT_REASONS = range(0x20, 0x2C)  # VT-d 5.1.4.1
_INDEX_LOW = 48

FRCD_REG = Layout(
    "FRCD_REG",
    "VT-d 11.4.7.6",
    (
        Field("RSVD_0", 0, 12),
        Field("FI", 12, 52, in_place=True),
        Field("SID", 64, 16),
        Field("RSVD_80", 80, 12),
        Field("T2", 92, 1),
        Field("PRIV", 93, 1),
        Field("EXE", 94, 1),
        Field("PP", 95, 1),
        Field("FR", 96, 8),
        Field("PV", 104, 20),
        Field("AT", 124, 2),
        Field("T1", 126, 1),
        Field("F", 127, 1),
    ),
)

_F, _PP, _FR, _FI = FRCD_REG["F"].mask, FRCD_REG["PP"].mask, FRCD_REG["FR"], FRCD_REG["FI"].mask
_T1, _T2, _AT, _EXE = (FRCD_REG[name].mask for name in ("T1", "T2", "AT", "EXE"))
_WITH_PASID = FRCD_REG["PV"].mask | FRCD_REG["PRIV"].mask | _EXE
_OF_DMA = _T1 | _T2 | _AT | _PP | _WITH_PASID
_ALL = sum(entry.mask for entry in FRCD_REG.fields if not entry.name.startswith("RSVD"))


def meaningful_bits(record: int) -> int:
    """The bits of a fault recording register that mean something, beside reserved ones (VT-d 11.4.7.6).

    Without F none does but F itself. Of an interrupt fault FI holds the interrupt_index, or nothing; what tells of the
    type of a request, and of its PASID, is there for address translation faults alone. Of these PV and PRIV are there
    with PP, EXE for read requests with PP, and AT for all but page requests.
    """
    if not record & _F:
        return _F
    reason = _FR.get(record)
    if reason in _INTERRUPT_REASONS:
        return _ALL & ~_OF_DMA if reason in _REASONS_WITH_INDEX else _ALL & ~_OF_DMA & ~_FI
    known = _ALL if record & _PP else _ALL & ~_WITH_PASID
    kind = record & (_T1 | _T2)
    if kind != _T1:  # no read request
        known &= ~_EXE
    if kind == _T2:  # a page request
        known &= ~_AT
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class VtdFaultRecord:
    """What a fault recording register holds of a fault.

    Attributes:
        address: FI, the page address of the request; 0 for an interrupt fault.
        source_id: SID.
        reason: FR, the number of a `VtdFaultReason` where it is known here.
        is_read: T1: a read (or execute) request or an AtomicOp, not a write or a page request.
        is_other: T2: of these the second: an AtomicOp, or a page request.
        address_type: AT.
        pasid: PV when PP says that there is one.
        execute: EXE: a read request with PASID that asked to execute.
        privileged: PRIV: a request with PASID that asked for privileged mode.
        interrupt_index: FI, bits 63:48, for an interrupt fault that has one.
    """

    address: int
    source_id: int
    reason: int
    is_read: bool
    address_type: int = 0
    pasid: int | None = None
    is_other: bool = False
    execute: bool = False
    privileged: bool = False
    interrupt_index: int | None = None

    def encode(self) -> int:
        """The 128 bits of the register, F set."""
        return FRCD_REG.encode(
            {
                "FI": self.address | (self.interrupt_index or 0) << _INDEX_LOW,
                "SID": self.source_id,
                "FR": self.reason,
                "PP": int(self.pasid is not None),
                "PV": self.pasid or 0,
                "AT": self.address_type,
                "EXE": int(self.execute),
                "PRIV": int(self.privileged),
                "T1": int(self.is_read),
                "T2": int(self.is_other),
                "F": 1,
            }
        )

    @classmethod
    def decode(cls, value: int) -> Self | None:
        """Read the 128 bits of a register; None where F is clear and nothing is recorded."""
        fields = dict(FRCD_REG.decode(value))
        if not fields["F"]:
            return None
        reason = fields["FR"]
        index = fields["FI"] >> _INDEX_LOW if reason in _REASONS_WITH_INDEX else None
        return cls(
            address=fields["FI"] if index is None else 0,
            source_id=fields["SID"],
            reason=reason,
            is_read=bool(fields["T1"]),
            address_type=fields["AT"],
            pasid=fields["PV"] if fields["PP"] else None,
            is_other=bool(fields["T2"]),
            execute=bool(fields["EXE"]),
            privileged=bool(fields["PRIV"]),
            interrupt_index=index,
        )

    def __str__(self) -> str:
        if self.reason in _INTERRUPT_REASONS:
            which = "" if self.interrupt_index is None else f" {self.interrupt_index:#x}"
            return f"interrupt{which} by {format_requester(self.source_id)}, reason {int(self.reason):#x}"
        kinds = ("page request", "AtomicOp") if self.is_other else ("write", "execute" if self.execute else "read")
        kind = f"{'privileged ' if self.privileged else ''}{kinds[self.is_read]}"
        pasid = "" if self.pasid is None else f" pasid {self.pasid:#x}"
        return f"{kind} by {format_requester(self.source_id)}{pasid} at {self.address:#x}, reason {int(self.reason):#x}"
