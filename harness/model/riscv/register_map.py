"""Which registers a RISC-V IOMMU has, and what becomes of each of their bits (chapter 6).

What is taken of an implementation:

* A WARL field holds every value that the specification gives a meaning; of PPN and of msi_addr, those bits that a
  physical address has (capabilities.PAS).
* fctl.WSI is writable where capabilities.IGS says that both ways of interrupting are there, GXL and BE where
  `RiscvIommuRegisters` says so.

Reserved bits are read-only zero; of custom ones nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.model.bits import Layout
from harness.model.riscv.register_fields import (
    CAPABILITIES,
    CQCSR,
    CYCLES,
    DDTP,
    EVENT_COUNTER,
    EVENT_SELECTOR,
    FCTL,
    FQCSR,
    ICVEC,
    INDEX,
    IPSR,
    MSI_ADDRESS,
    MSI_DATA,
    MSI_VECTOR_CONTROL,
    OVERFLOWS,
    PQCSR,
    QOS_ID,
    QUEUE_BASE,
    TR_REQ_CTL,
    TR_REQ_IOVA,
    TR_RESPONSE,
)
from harness.model.riscv.registers import InterruptGeneration, RiscvIommuRegisters

__all__ = ["Register", "register_map", "vector_key"]

_COUNTERS = range(1, 32)
_VECTORS = 16
_WRITE_ONE_CLEARS = frozenset({"cqmf", "cmd_to", "cmd_ill", "fence_w_ip", "fqmf", "fqof", "pqmf", "pqof"})


@dataclass(frozen=True, slots=True)
class Register:
    """One register.

    Attributes:
        key: its own name, with its number where there are several.
        name: as coverage and places have it.
        offset: of its first byte.
        size: 4 or 8 bytes.
        layout: its fields; None for space that is left to custom use.
        writable: bits that software writes and reads back.
        clears: bits that writing a 1 clears.
        fixed: bits that only hardware changes, of which is known what they read as.
        reset: bits of which is known what a reset leaves in them.
    """

    key: str
    name: str
    offset: int
    size: int
    layout: Layout | None
    writable: int = 0
    clears: int = 0
    fixed: int = 0
    reset: int = 0

    @property
    def settled(self) -> int:
        """Bits of which the specification says what they read as, once all of them are written."""
        return self.writable | self.clears | self.fixed | self.zeros

    @property
    def zeros(self) -> int:
        """Bits that always read as zero."""
        return self.layout.reserved if self.layout is not None else 0


def vector_key(name: str, vector: int) -> str:
    """The key of a register of an entry of msi_cfg_tbl: of msi_addr, msi_data or msi_vec_ctl."""
    return f"{name}_{vector}"


def register_map(registers: RiscvIommuRegisters, vectors: int) -> tuple[Register, ...]:
    """The registers of an IOMMU, but for those that are optional and not there.

    Args:
        registers: with its capabilities.
        vectors: how many interrupt vectors it has.
    """
    return (
        *_basic(registers),
        *_queues(registers),
        *(_counters() if registers.has("HPM") else ()),
        *(_debug() if registers.has("DBG") else ()),
        *(_quality(registers) if registers.has("QOSID") else ()),
        Register("custom", "custom", 688, 72, None),
        Register("icvec", "icvec", 760, 8, ICVEC, writable=_mask(ICVEC, "civ", "fiv", "pmiv", "piv")),
        *(_messages(registers, vectors) if registers.interrupt_generation != InterruptGeneration.WSI else ()),
    )


def _basic(registers: RiscvIommuRegisters) -> Iterator[Register]:
    everything = (1 << 64) - 1
    yield Register("capabilities", "capabilities", 0, 8, CAPABILITIES, fixed=everything, reset=everything)
    controls = _mask(FCTL, "BE", "WSI", "GXL")
    writable = _mask(FCTL, "WSI") if registers.interrupt_generation == InterruptGeneration.BOTH else 0
    writable |= _mask(FCTL, "GXL") if registers.gxl_writable else 0
    writable |= _mask(FCTL, "BE") if registers.either_byte_order else 0
    fixed = controls & ~writable
    yield Register("fctl", "fctl", 8, 4, FCTL, writable=writable, fixed=fixed, reset=fixed)
    yield Register("custom_12", "custom", 12, 4, None)
    yield Register(
        "ddtp",
        "ddtp",
        16,
        8,
        DDTP,
        writable=_mask(DDTP, "iommu_mode") | _page_number(registers),
        fixed=_mask(DDTP, "busy"),
        reset=_mask(DDTP, "iommu_mode", "busy"),
    )


def _queues(registers: RiscvIommuRegisters) -> Iterator[Register]:
    base = _mask(QUEUE_BASE, "LOG2SZ-1") | _page_number(registers)
    index = _mask(INDEX, "index")
    csrs = {"c": (CQCSR, 24, 72), "f": (FQCSR, 40, 76)}
    if registers.has("ATS"):
        csrs["p"] = (PQCSR, 56, 80)
    for letter, (csr, offset, csr_offset) in csrs.items():
        queue = f"{letter}q"
        # Software writes the tail of the queue that it fills, and the head of those that the IOMMU fills.
        head, tail = (0, index) if letter == "c" else (index, 0)
        yield Register(f"{queue}b", f"{queue}b", offset, 8, QUEUE_BASE, writable=base)
        yield Register(f"{queue}h", f"{queue}h", offset + 8, 4, INDEX, writable=head, fixed=index & ~head)
        yield Register(f"{queue}t", f"{queue}t", offset + 12, 4, INDEX, writable=tail, fixed=index & ~tail)
        enables = _mask(csr, f"{queue}en", f"{letter}ie")
        status = _mask(csr, f"{queue}on", "busy")
        errors = _mask(csr, *(entry.name for entry in csr.fields if entry.name in _WRITE_ONE_CLEARS))
        if registers.interrupt_generation == InterruptGeneration.MSI and letter == "c":
            # 6.15: without wires fence_w_ip is reserved.
            errors &= ~_mask(csr, "fence_w_ip")
            status |= _mask(csr, "fence_w_ip")
        yield Register(
            f"{queue}csr", f"{queue}csr", csr_offset, 4, csr, enables, errors, fixed=status, reset=enables | status
        )
    # A counter may overflow at any time.
    clears = _mask(IPSR, "cip", "fip", "pip") | (0 if registers.has("HPM") else _mask(IPSR, "pmip"))
    yield Register("ipsr", "ipsr", 84, 4, IPSR, clears=clears, reset=clears)


def _counters() -> Iterator[Register]:
    yield Register("iocountovf", "iocountovf", 88, 4, OVERFLOWS)
    yield Register("iocountinh", "iocountinh", 92, 4, OVERFLOWS, writable=_mask(OVERFLOWS, "CY"))
    yield Register("iohpmcycles", "iohpmcycles", 96, 8, CYCLES)
    for number in _COUNTERS:
        yield Register(f"iohpmctr{number}", "iohpmctr", 96 + 8 * number, 8, EVENT_COUNTER)
        # 6.3: the first one has to be there. Which events there are is left to the implementation.
        names = ("DMASK", "PID_PSCID", "DID_GSCID", "PV_PSCV", "DV_GSCV", "IDT") if number == 1 else ()
        writable = _mask(EVENT_SELECTOR, *names)
        yield Register(f"iohpmevt{number}", "iohpmevt", 344 + 8 * number, 8, EVENT_SELECTOR, writable=writable)


def _debug() -> Iterator[Register]:
    inputs = _mask(TR_REQ_CTL, "Priv", "Exe", "NW", "PID", "PV", "DID")
    go = _mask(TR_REQ_CTL, "Go/Busy")
    response = _mask(TR_RESPONSE, "fault", "PBMT", "S", "PPN")
    yield Register("tr_req_iova", "tr_req_iova", 600, 8, TR_REQ_IOVA, writable=_mask(TR_REQ_IOVA, "vpn"))
    yield Register("tr_req_ctl", "tr_req_ctl", 608, 8, TR_REQ_CTL, writable=inputs, fixed=go, reset=go)
    yield Register("tr_response", "tr_response", 616, 8, TR_RESPONSE, fixed=response)


def _quality(registers: RiscvIommuRegisters) -> Iterator[Register]:
    identifier = (1 << registers.qos_id_bits) - 1
    yield Register("iommu_qosid", "iommu_qosid", 624, 4, QOS_ID, writable=identifier | identifier << 16)


def _messages(registers: RiscvIommuRegisters, vectors: int) -> Iterator[Register]:
    address = _mask(MSI_ADDRESS, "ADDR") & (1 << registers.physical_address_size) - 1
    for vector in range(_VECTORS):
        there = vector < vectors
        for name, offset, size, layout, writable in (
            ("msi_addr", 0, 8, MSI_ADDRESS, address),
            ("msi_data", 8, 4, MSI_DATA, _mask(MSI_DATA, "data")),
            ("msi_vec_ctl", 12, 4, MSI_VECTOR_CONTROL, _mask(MSI_VECTOR_CONTROL, "M")),
        ):
            at = 768 + 16 * vector + offset
            # What stands in entries that no vector can select is the implementation's own affair.
            yield Register(
                vector_key(name, vector), name, at, size, layout if there else None, writable=writable if there else 0
            )


def _mask(layout: Layout, *names: str) -> int:
    return sum(layout[name].mask for name in names)


def _page_number(registers: RiscvIommuRegisters) -> int:
    """The bits of a PPN in ddtp, cqb, fqb and pqb that a physical address has."""
    return (1 << registers.physical_address_size - 12) - 1 << 10
