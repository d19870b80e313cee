"""PCIe page requests: queued for software, or answered by the IOMMU itself where that cannot be (3.7, 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from harness.model.bits import Field, Layout
from harness.model.memory import Memory
from harness.model.riscv.device import DeviceContext
from harness.model.riscv.engine import RiscvIommuEngine
from harness.model.riscv.faults import RiscvIommuCause, RiscvIommuFaultRecord, TransactionType, is_suppressed
from harness.model.riscv.queues import QueueStep, append_record, report_fault
from harness.model.riscv.register_fields import PQCSR
from harness.model.riscv.registers import RiscvIommuRegisters

__all__ = ["PAGE_REQUEST", "PageRequest", "PageRequestResponse", "PageRequestStep", "ResponseCode", "request_page"]

_PAGE_REQUEST_MESSAGE = 0x04  # PCI Express Base, message code of a page request

PAGE_REQUEST = Layout(
    "page request",
    "RISC-V IOMMU 4.3",
    (
        Field("RSVD_0", 0, 12),
        Field("PID", 12, 20),
        Field("PV", 32, 1),
        Field("PRIV", 33, 1),
        Field("EXEC", 34, 1),
        Field("RSVD_35", 35, 5),
        Field("DID", 40, 24),
        Field("R", 64, 1),
        Field("W", 65, 1),
        Field("L", 66, 1),
        Field("PRGI", 67, 9),
        Field("ADDR", 76, 52),
    ),
)


class ResponseCode(IntEnum):
    """Response code of a page request group response (PCI Express Base, ATS)."""

    SUCCESS = 0x0
    INVALID_REQUEST = 0x1
    RESPONSE_FAILURE = 0xF


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """A page request message of a device.

    Attributes:
        requester: its requester id, with the segment above.
        address: a page address.
        read, write: the rights that it asks for.
        last: the last request of its group, which asks for a response.
        group: page request group index.
        pasid: or None.
        privileged, execute: of a request with PASID.
    """

    requester: int
    address: int
    read: bool
    write: bool
    last: bool
    group: int
    pasid: int | None = None
    privileged: bool = False
    execute: bool = False

    @property
    def is_stop_marker(self) -> bool:
        """4.3: neither R nor W, and L."""
        return self.last and not (self.read or self.write)

    def encode(self, *, big_endian: bool = False) -> bytes:
        """The 16 bytes of the record in the page-request queue."""
        has_pasid = self.pasid is not None
        value = PAGE_REQUEST.encode(
            {
                "PID": self.pasid or 0,
                "PV": int(has_pasid),
                "PRIV": int(self.privileged and has_pasid),
                "EXEC": int(self.execute and has_pasid),
                "DID": self.requester & 0xFFFFFF,
                "R": int(self.read),
                "W": int(self.write),
                "L": int(self.last),
                "PRGI": self.group,
                "ADDR": self.address >> 12,
            }
        )
        words = value.to_bytes(16, "little")
        return words[7::-1] + words[:7:-1] if big_endian else words


@dataclass(frozen=True, slots=True)
class PageRequestResponse:
    """A page request group response that the IOMMU itself sends.

    Attributes:
        requester: to whom.
        group: page request group index.
        code: response code.
        pasid: that the message carries, or None.
    """

    requester: int
    group: int
    code: ResponseCode
    pasid: int | None


@dataclass(frozen=True, slots=True)
class PageRequestStep:
    """What a page request leads to.

    Attributes:
        step: at the queues.
        response: of the IOMMU itself; None where software answers, or nobody.
        record: of the fault that is reported, if any.
    """

    step: QueueStep
    response: PageRequestResponse | None = None
    record: RiscvIommuFaultRecord | None = None


# 3.7: how the faults that keep a request from its queue are answered.
_RESPONSE_TO_CAUSE = {
    RiscvIommuCause.ALL_INBOUND_TRANSACTIONS_DISALLOWED: ResponseCode.RESPONSE_FAILURE,
    RiscvIommuCause.DDT_ENTRY_LOAD_ACCESS_FAULT: ResponseCode.RESPONSE_FAILURE,
    RiscvIommuCause.DDT_ENTRY_NOT_VALID: ResponseCode.RESPONSE_FAILURE,
    RiscvIommuCause.DDT_ENTRY_MISCONFIGURED: ResponseCode.RESPONSE_FAILURE,
    RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED: ResponseCode.INVALID_REQUEST,
}


def request_page(registers: RiscvIommuRegisters, memory: Memory, request: PageRequest) -> PageRequestStep:
    """What the IOMMU does with a page request or stop marker (3.7)."""
    device = RiscvIommuEngine(registers, memory).find_device(request.requester)
    if not isinstance(device, DeviceContext):
        # Off, Bare, a device_id that is too wide, or no device context; DTF is taken for 0.
        return _refuse(registers, memory, request, device, dtf=False)
    if not device.en_pri:
        # EN_PRI without EN_ATS is a misconfiguration, so this covers both.
        cause = RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED
        return _refuse(registers, memory, request, cause, dtf=device.dtf)
    before = registers.pqcsr
    step = append_record(registers, memory, request.encode(big_endian=registers.big_endian))
    after = step.registers.pqcsr
    # A queue that is off or met a memory fault is a failure; one that overflows, then or before, is a success. None of
    # these is reported as a fault.
    if not PQCSR["pqon"].get(before) or PQCSR["pqmf"].get(after):
        code = ResponseCode.RESPONSE_FAILURE
    elif PQCSR["pqof"].get(after):
        code = ResponseCode.SUCCESS
    else:
        return PageRequestStep(step)
    return PageRequestStep(step, _response(request, code, requires_pasid=device.prpr))


def _refuse(
    registers: RiscvIommuRegisters,
    memory: Memory,
    request: PageRequest,
    cause: RiscvIommuCause,
    *,
    dtf: bool,
) -> PageRequestStep:
    # PRPR is 0: it is taken for that without a device context, and with EN_PRI 0 it must be (3.1.4 rule 5).
    response = _response(request, _RESPONSE_TO_CAUSE[cause], requires_pasid=False)
    if dtf and is_suppressed(cause):
        return PageRequestStep(QueueStep(registers=registers), response)
    record = RiscvIommuFaultRecord(
        cause=cause,
        transaction_type=TransactionType.MESSAGE_REQUEST,
        device_id=request.requester & 0xFFFFFF,
        process_id=request.pasid,
        privileged=request.privileged and request.pasid is not None,
        iotval=_PAGE_REQUEST_MESSAGE,
    )
    return PageRequestStep(report_fault(registers, memory, record), response, record)


def _response(request: PageRequest, code: ResponseCode, *, requires_pasid: bool) -> PageRequestResponse | None:
    # A request that is not the last of its group, and a stop marker, are dropped in silence.
    if not request.last or request.is_stop_marker:
        return None
    # PRPR says whether a response carries the PASID; Response Failure always does.
    carries = requires_pasid or code is ResponseCode.RESPONSE_FAILURE
    return PageRequestResponse(request.requester, request.group, code, request.pasid if carries else None)
