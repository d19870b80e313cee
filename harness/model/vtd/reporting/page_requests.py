"""Page requests: how a recoverable fault of a device TLB reaches software (VT-d 7.4, 7.5, 11.4.11).

What the tables say of a request is the engine's to check; here are the message and the queue. Stop markers are not
here: they are no page requests, and carry no address.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.model.access import Access, AccessKind, Fault, MemoryWrite
from harness.model.bits import Field, Layout
from harness.model.engine import MsiWrite
from harness.model.invalidation import Invalidation
from harness.model.vtd.invalidation import scopes
from harness.model.vtd.invalidation.descriptors import Granularity, PasidIotlbGranularity, ResponseCode
from harness.model.vtd.pasid import PasidTranslation
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.events import PRS_REG, raise_page_request_status

__all__ = [
    "PAGE_REQUEST_DESCRIPTOR",
    "PQA_REG",
    "PageRequest",
    "PageRequestResult",
    "PageTags",
    "put_on_queue",
    "refuse",
]

PAGE_REQUEST_DESCRIPTOR = Layout(
    "page_req_dsc",
    "VT-d 7.4.1.1",
    (
        Field("TYPE", 0, 8),
        Field("PP", 8, 1),
        Field("RSVD_9", 9, 7),
        Field("RID", 16, 16),
        Field("PASID", 32, 20),
        Field("EXR", 52, 1),
        Field("PMR", 53, 1),
        Field("RSVD_54", 54, 10),
        Field("RDR", 64, 1),
        Field("WRR", 65, 1),
        Field("LPIG", 66, 1),
        Field("PRGI", 67, 9),
        Field("ADDR", 76, 52, in_place=True),
        Field("RSVD_128", 128, 128),
    ),
)

PQA_REG = Layout("PQA_REG", "VT-d 11.4.11.3", (Field("PQS", 0, 3), Field("PQA", 12, 52, in_place=True)))

_SIZE = 32
_PAGE_REQUEST = 1
# PQH_REG and PQT_REG hold an offset into the queue, a multiple of the size of a descriptor (VT-d 11.4.11.1).
_OFFSET = ((1 << 19) - 1) & ~(_SIZE - 1)
_PPR = PRS_REG["PPR"].mask
_PRO = PRS_REG["PRO"].mask


class PageTags(NamedTuple):
    """What the PASID table entry of a page request says of the caches (VT-d 6.5.3.1).

    Attributes:
        translation: PGTT.
        domain: DID.
        pasid: of the request, or RID_PASID.
    """

    translation: int
    domain: int
    pasid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """A page request message.

    Attributes:
        requester: requester id of the device.
        address: of the page, bytes.
        group: page request group index, 9 bits.
        last: it is the last one of its group, and wants a response.
        read: the page is to be read.
        write: the page is to be written.
        pasid: 20-bit PASID, or None for a request without.
        privileged: by a request with PASID that asked for privileged mode.
        execute: by a request with PASID that asked to execute.

    Raises:
        SpecError: a field does not fit its width.
    """

    requester: int
    address: int
    group: int
    last: bool = True
    read: bool = True
    write: bool = False
    pasid: int | None = None
    privileged: bool = False
    execute: bool = False

    def __post_init__(self) -> None:
        self.encode()

    @property
    def access(self) -> Access:
        """The access that it is about, as tables and fault records see it."""
        return Access(
            requester=self.requester,
            iova=self.address & ~0xFFF,
            length=0,
            kind=AccessKind.WRITE if self.write else AccessKind.READ,
            pasid=self.pasid,
            privileged=self.privileged,
        )

    def encode(self) -> int:
        """The 256 bits of the descriptor that software finds in the queue (VT-d 7.4.1.1)."""
        return PAGE_REQUEST_DESCRIPTOR.encode(
            {
                "TYPE": _PAGE_REQUEST,
                "PP": int(self.pasid is not None),
                "RID": self.requester & 0xFFFF,
                "PASID": self.pasid or 0,
                "EXR": int(self.execute),
                "PMR": int(self.privileged),
                "RDR": int(self.read),
                "WRR": int(self.write),
                "LPIG": int(self.last),
                "PRGI": self.group,
                "ADDR": (self.address & ~0xFFF) << 64,
            }
        )


@dataclass(frozen=True, slots=True)
class PageRequestResult:
    """What becomes of a page request.

    Attributes:
        registers: afterwards.
        fault: why it was refused, reported as a non-recoverable fault; None where it was not.
        response: what the hardware answers by itself; None where it leaves that to software, or none is due.
        writes: the descriptor, where it is put on the queue.
        invalidations: of the cached translations of the page (VT-d 6.5.3.1).
        interrupt: the page request event that is sent.
    """

    registers: VtdRegisters
    fault: Fault | None = None
    response: ResponseCode | None = None
    writes: tuple[MemoryWrite, ...] = ()
    invalidations: tuple[Invalidation, ...] = ()
    interrupt: MsiWrite | None = None


def refuse(registers: VtdRegisters, request: PageRequest, fault: Fault) -> PageRequestResult:
    """A request that the tables do not let through (VT-d 7.4.1, remapping table fault)."""
    return PageRequestResult(registers, fault, ResponseCode.INVALID_REQUEST if request.last else None)


def put_on_queue(registers: VtdRegisters, request: PageRequest, tags: PageTags) -> PageRequestResult:
    """A request that the tables let through (VT-d 7.4.1)."""
    dropped = ResponseCode.SUCCESS if request.last else None
    # PRQ overflow: nothing is taken until software has cleared PRO.
    if registers.prs & _PRO:
        return PageRequestResult(registers, response=dropped)
    # A queue of 2^PQS pages; full where the tail is one behind the head (VT-d 7.4.1).
    size = 4096 << PQA_REG["PQS"].get(registers.pqa)
    tail = registers.pqt & _OFFSET & size - 1
    following = (tail + _SIZE) % size
    if following == registers.pqh & _OFFSET & size - 1:
        after, interrupt = raise_page_request_status(registers, _PRO)
        return PageRequestResult(after, response=dropped, interrupt=interrupt)
    after, interrupt = raise_page_request_status(replace(registers, pqt=following), _PPR)
    write = MemoryWrite(PQA_REG["PQA"].get(registers.pqa) + tail, request.encode().to_bytes(_SIZE, "little"))
    return PageRequestResult(
        after, writes=(write,), invalidations=_implicit_invalidation(request, tags), interrupt=interrupt
    )


def _implicit_invalidation(request: PageRequest, tags: PageTags) -> tuple[Invalidation, ...]:
    """What the hardware drops of its caches by itself, as if it were asked to (VT-d table 27)."""
    pages = scopes.masked_pages(request.address, 0)
    if tags.translation == PasidTranslation.FIRST_STAGE:
        return scopes.pasid_iotlb(PasidIotlbGranularity.PAGE, tags.domain, tags.pasid, pages, keep_tables=False)
    nested = tags.translation == PasidTranslation.NESTED
    granularity = Granularity.DOMAIN if nested else Granularity.SELECTIVE
    return scopes.iotlb(granularity, tags.domain, pages, keep_tables=False)
