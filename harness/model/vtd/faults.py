"""VT-d fault reasons of legacy mode and the fault recording register (VT-d 7.1.3, and FRCD_REG in chapter 11)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from harness.model.access import format_requester
from harness.model.bits import Field, Layout

__all__ = ["FRCD_REG", "VtdBlocked", "VtdFaultReason", "VtdFaultRecord"]


class VtdFaultReason(IntEnum):
    """Why a request was blocked, by the number in a fault record. The condition's name is that of VT-d 7.1.3."""

    ROOT_NOT_PRESENT = 0x1
    """LRT.2: P of the root-entry is 0."""
    CONTEXT_NOT_PRESENT = 0x2
    """LCT.2: P of the context-entry is 0."""
    CONTEXT_INVALID = 0x3
    """LCT.4: a width or translation type that the hardware does not support, or SSPTPTR points outside of memory."""
    ADDRESS_BEYOND_WIDTH = 0x4
    """LGN.1: the address is above 2^X - 1, X the smaller of MGAW and the width that AW selects."""
    WRITE_NOT_PERMITTED = 0x5
    """LGN.2: a write, and W is 0 in an entry on the way."""
    READ_NOT_PERMITTED = 0x6
    """LGN.3: a read, and R is 0 in an entry on the way."""
    PAGING_ENTRY_ACCESS = 0x7
    """LSL.1: the address in a preceding second-stage entry points outside of memory."""
    ROOT_TABLE_ACCESS = 0x8
    """LRT.1: RTADDR_REG points outside of memory."""
    CONTEXT_TABLE_ACCESS = 0x9
    """LCT.1: CTP of the root-entry points outside of memory."""
    ROOT_RESERVED = 0xA
    """LRT.3: a reserved field of a present root-entry is not zero."""
    CONTEXT_RESERVED = 0xB
    """LCT.3: a reserved field of a present context-entry is not zero."""
    PAGING_ENTRY_RESERVED = 0xC
    """LSL.2: a reserved field of a second-stage entry with R or W set is not zero."""
    TRANSLATION_TYPE_BLOCKS = 0xD
    """LCT.5: a translated or translation request, and TT does not allow it."""
    OUTPUT_IN_INTERRUPT_RANGE = 0xE
    """LGN.4: the translated address lies in 0xFEEx_xxxx."""
    PASID_IN_LEGACY_MODE = 0x31
    """RTA.2: a request with PASID, and RTADDR_REG.TTM selects legacy mode."""


class VtdBlocked(Enum):
    """Why a request was blocked without a fault reason."""

    INTERRUPT_RANGE = "unsupported request"
    """VT-d 3.15: a request to 0xFEEx_xxxx that is not a write of a doubleword."""


FRCD_REG = Layout(
    "FRCD_REG",
    "VT-d 11, fault recording registers",
    (
        Field("FI", 12, 52, in_place=True),
        Field("SID", 64, 16),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class VtdFaultRecord:
    """What a fault recording register holds of a fault.

    Attributes:
        address: FI, the page address of the request.
        source_id: SID.
        reason: FR; a plain number where it is none that legacy mode has.
        is_read: T1: a read (or execute) request, not a write.
        address_type: AT.
        pasid: PV when PP says that there is one.
    """

    address: int
    source_id: int
    reason: int
    is_read: bool
    address_type: int = 0
    pasid: int | None = None

    def encode(self) -> int:
        """The 128 bits of the register, F set."""
        return FRCD_REG.encode(
            {
                "FI": self.address,
                "SID": self.source_id,
                "FR": self.reason,
                "PP": int(self.pasid is not None),
                "PV": self.pasid or 0,
                "AT": self.address_type,
                "T1": int(self.is_read),
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
        return cls(
            address=fields["FI"],
            source_id=fields["SID"],
            reason=VtdFaultReason(reason) if reason in VtdFaultReason.__members__.values() else reason,
            is_read=bool(fields["T1"]),
            address_type=fields["AT"],
            pasid=fields["PV"] if fields["PP"] else None,
        )

    def __str__(self) -> str:
        kind = "read" if self.is_read else "write"
        pasid = "" if self.pasid is None else f" pasid {self.pasid:#x}"
        return f"{kind} by {format_requester(self.source_id)}{pasid} at {self.address:#x}, reason {int(self.reason):#x}"
