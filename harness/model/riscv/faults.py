"""Cause codes and the fault-queue record of a RISC-V IOMMU (4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Literal, Self

from harness.model.access import AccessKind, AddressType, Completion, format_requester
from harness.model.bits import Field, Layout

__all__ = [
    "FAULT_RECORD",
    "RECORD_SIZE",
    "RiscvIommuBlocked",
    "RiscvIommuCause",
    "RiscvIommuFaultRecord",
    "RiscvIommuHardwareCause",
    "TransactionType",
    "answer_to_translation_request",
    "is_suppressed",
    "transaction_type",
]

RECORD_SIZE = 32
"""Bytes of a fault record."""


class RiscvIommuCause(IntEnum):
    """Why a transaction was blocked, by the number in the CAUSE field (4.2)."""

    INSTRUCTION_ACCESS_FAULT = 1
    """Read for execute: a page-table entry could not be read; or the page is that of a virtual interrupt file."""
    READ_ACCESS_FAULT = 5
    """Read: a page-table entry could not be read."""
    WRITE_ACCESS_FAULT = 7
    """Write or AMO: a page-table entry could not be read."""
    INSTRUCTION_PAGE_FAULT = 12
    """Read for execute: the first stage does not map or allow it."""
    READ_PAGE_FAULT = 13
    """Read: the first stage does not map or allow it."""
    WRITE_PAGE_FAULT = 15
    """Write or AMO: the first stage does not map or allow it."""
    INSTRUCTION_GUEST_PAGE_FAULT = 20
    """Read for execute: the second stage does not map or allow it."""
    READ_GUEST_PAGE_FAULT = 21
    """Read: the second stage does not map or allow it."""
    WRITE_GUEST_PAGE_FAULT = 23
    """Write or AMO: the second stage does not map or allow it."""
    ALL_INBOUND_TRANSACTIONS_DISALLOWED = 256
    """ddtp.iommu_mode is Off."""
    DDT_ENTRY_LOAD_ACCESS_FAULT = 257
    """A device directory entry or device context could not be read."""
    DDT_ENTRY_NOT_VALID = 258
    """Its V is 0."""
    DDT_ENTRY_MISCONFIGURED = 259
    """It breaks a rule of 3.1.4, or a reserved bit is set."""
    TRANSACTION_TYPE_DISALLOWED = 260
    """The kind of transaction, its device_id, its process_id or its privilege is not allowed here."""
    MSI_PTE_LOAD_ACCESS_FAULT = 261
    """An MSI page-table entry could not be read."""
    MSI_PTE_NOT_VALID = 262
    """Its V is 0."""
    MSI_PTE_MISCONFIGURED = 263
    """Its mode is reserved or not supported, or a reserved bit is set."""
    MRIF_ACCESS_FAULT = 264
    """The memory-resident interrupt file could not be updated."""
    PDT_ENTRY_LOAD_ACCESS_FAULT = 265
    """A process directory entry or process context could not be read."""
    PDT_ENTRY_NOT_VALID = 266
    """Its V is 0."""
    PDT_ENTRY_MISCONFIGURED = 267
    """It breaks a rule of 3.2.4, or a reserved bit is set."""
    IOMMU_MSI_WRITE_ACCESS_FAULT = 273
    """The IOMMU's own interrupt message could not be written."""


class RiscvIommuHardwareCause(IntEnum):
    """Causes that only hardware has: poisoned data, and alignment that a device or its bus asks for.

    The model never gives one; a record that carries one is decoded to it.
    """

    READ_ADDRESS_MISALIGNED = 4
    WRITE_ADDRESS_MISALIGNED = 6
    DDT_DATA_CORRUPTION = 268
    PDT_DATA_CORRUPTION = 269
    MSI_PT_DATA_CORRUPTION = 270
    MSI_MRIF_DATA_CORRUPTION = 271
    INTERNAL_DATA_PATH_ERROR = 272
    PT_DATA_CORRUPTION = 274


class RiscvIommuBlocked(Enum):
    """Why a transaction ends without a cause code (Advanced Interrupt Architecture, MSI PTE in MRIF mode)."""

    MRIF_ACCESS_UNSUPPORTED = "unsupported request"
    """An access to the page of a memory-resident interrupt file that is not 32 bits wide and aligned: aborted."""
    MSI_DISCARDED = "accepted and discarded"
    """A 32-bit write there that is no MSI: bits 11:3 of the address or 31:11 of the data are set, or bit 2 of the
    address where big-endian MSIs are not supported."""


class TransactionType(IntEnum):
    """TTYP (4.2)."""

    NONE = 0
    UNTRANSLATED_EXECUTE = 1
    UNTRANSLATED_READ = 2
    UNTRANSLATED_WRITE = 3
    TRANSLATED_EXECUTE = 5
    TRANSLATED_READ = 6
    TRANSLATED_WRITE = 7
    TRANSLATION_REQUEST = 8
    MESSAGE_REQUEST = 9


_BY_KIND = {AccessKind.EXECUTE: 1, AccessKind.READ: 2, AccessKind.WRITE: 3}


def transaction_type(kind: AccessKind, address_type: AddressType) -> TransactionType:
    """TTYP of an inbound transaction."""
    if address_type is AddressType.TRANSLATION_REQUEST:
        return TransactionType.TRANSLATION_REQUEST
    offset = 4 if address_type is AddressType.TRANSLATED else 0
    return TransactionType(_BY_KIND[kind] + offset)


_CAUSE = RiscvIommuCause

# 4.2: what is reported though DC.tc.DTF is 1. (268, 272 and 273 as well; no translation gives them here.)
_REPORTED_WITH_DTF = frozenset(
    {
        _CAUSE.ALL_INBOUND_TRANSACTIONS_DISALLOWED,
        _CAUSE.DDT_ENTRY_LOAD_ACCESS_FAULT,
        _CAUSE.DDT_ENTRY_NOT_VALID,
        _CAUSE.DDT_ENTRY_MISCONFIGURED,
        _CAUSE.IOMMU_MSI_WRITE_ACCESS_FAULT,
    }
)

# 3.6: configuration errors, and permanent errors or ATS turned off. Every other cause is a success without R and W.
_COMPLETER_ABORTS = frozenset(
    {
        _CAUSE.INSTRUCTION_ACCESS_FAULT,
        _CAUSE.READ_ACCESS_FAULT,
        _CAUSE.WRITE_ACCESS_FAULT,
        _CAUSE.MSI_PTE_LOAD_ACCESS_FAULT,
        _CAUSE.MSI_PTE_MISCONFIGURED,
        _CAUSE.PDT_ENTRY_LOAD_ACCESS_FAULT,
        _CAUSE.PDT_ENTRY_MISCONFIGURED,
    }
)
_UNSUPPORTED_REQUESTS = frozenset(
    {
        _CAUSE.ALL_INBOUND_TRANSACTIONS_DISALLOWED,
        _CAUSE.DDT_ENTRY_LOAD_ACCESS_FAULT,
        _CAUSE.DDT_ENTRY_NOT_VALID,
        _CAUSE.DDT_ENTRY_MISCONFIGURED,
        _CAUSE.TRANSACTION_TYPE_DISALLOWED,
    }
)


def is_suppressed(cause: RiscvIommuCause) -> bool:
    """Whether DC.tc.DTF keeps the cause from being reported (4.2)."""
    return cause not in _REPORTED_WITH_DTF


def answer_to_translation_request(cause: RiscvIommuCause) -> Completion:
    """How an ATS translation request that runs into the cause is answered (3.6)."""
    if cause in _COMPLETER_ABORTS:
        return Completion.COMPLETER_ABORT
    if cause in _UNSUPPORTED_REQUESTS:
        return Completion.UNSUPPORTED_REQUEST
    return Completion.NO_PERMISSION


FAULT_RECORD = Layout(
    "fault record",
    "RISC-V IOMMU 4.2",
    (
        Field("CAUSE", 0, 12),
        Field("PID", 12, 20),
        Field("PV", 32, 1),
        Field("PRIV", 33, 1),
        Field("TTYP", 34, 6),
        Field("DID", 40, 24),
        Field("custom", 64, 32),
        Field("RSVD_96", 96, 32),
        Field("iotval", 128, 64),
        Field("iotval2", 192, 64),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RiscvIommuFaultRecord:
    """What the fault queue holds of a fault.

    Attributes:
        cause: CAUSE, the number of a `RiscvIommuCause` or `RiscvIommuHardwareCause` where it is one.
        transaction_type: TTYP, the number of a `TransactionType`; likewise.
        device_id: DID.
        process_id: PID, None where PV is 0.
        privileged: PRIV.
        iotval: the IOVA, or the code of a PCIe message.
        iotval2: for a guest page fault, bits 63:2 of the guest physical address, bit 0 for an implicit access of the
            first stage, and bit 1 where that was a write.
    """

    cause: int
    transaction_type: int
    device_id: int
    process_id: int | None = None
    privileged: bool = False
    iotval: int = 0
    iotval2: int = 0

    def encode(self, *, big_endian: bool = False) -> bytes:
        """The 32 bytes of the record; with `big_endian` (fctl.BE), each of its four doublewords is."""
        value = FAULT_RECORD.encode(
            {
                "CAUSE": self.cause,
                "PID": self.process_id or 0,
                "PV": int(self.process_id is not None),
                "PRIV": int(self.privileged),
                "TTYP": self.transaction_type,
                "DID": self.device_id,
                "iotval": self.iotval,
                "iotval2": self.iotval2,
            }
        )
        words = value.to_bytes(RECORD_SIZE, "little")
        return b"".join(words[at : at + 8][::-1] for at in range(0, RECORD_SIZE, 8)) if big_endian else words

    @classmethod
    def decode(cls, data: bytes, *, big_endian: bool = False) -> Self:
        """Read the 32 bytes of a record. Custom and reserved fields are not kept."""
        order: Literal["little", "big"] = "big" if big_endian else "little"
        words = [int.from_bytes(data[at : at + 8], order) for at in range(0, RECORD_SIZE, 8)]
        fields = dict(FAULT_RECORD.decode(sum(word << 64 * number for number, word in enumerate(words))))
        return cls(
            cause=fields["CAUSE"],
            transaction_type=fields["TTYP"],
            device_id=fields["DID"],
            process_id=fields["PID"] if fields["PV"] else None,
            privileged=bool(fields["PRIV"]),
            iotval=fields["iotval"],
            iotval2=fields["iotval2"],
        )

    def __str__(self) -> str:
        process = "" if self.process_id is None else f" process {self.process_id:#x}"
        privileged = " privileged" if self.privileged else ""
        kind = self.transaction_type
        known = kind in TransactionType.__members__.values()
        what = TransactionType(kind).name.lower().replace("_", " ") if known else f"transaction {kind}"
        guest = f", guest address {self.iotval2:#x}" if self.iotval2 else ""
        return (
            f"{privileged}{what} by {format_requester(self.device_id)}{process} at {self.iotval:#x},"
            f" cause {int(self.cause)}{guest}"
        ).strip()
