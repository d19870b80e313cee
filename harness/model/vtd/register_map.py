"""Where the registers of a VT-d unit stand, and what of them is settled (VT-d 11.4, revision 5.10).

Accesses are of 4 or 8 bytes, aligned to their size, and 8 bytes only to a 64-bit register (11.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.model.bits import Field, Layout
from harness.model.vtd.faults import FRCD_REG
from harness.model.vtd.invalidation.by_register import CCMD_REG, IOTLB_REG, IVA_REG
from harness.model.vtd.invalidation.commands import IQA_REG
from harness.model.vtd.invalidation.queue import IQERCD_REG, IQH_REG, IQT_REG
from harness.model.vtd.register_layouts import CAP_REG, ECAP_REG, GSTS_REG, PMEN_REG, RTADDR_REG
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.events import EVENT_CONTROL, FSTS_REG, ICS_REG, PRS_REG
from harness.model.vtd.reporting.page_requests import PQA_REG

__all__ = ["GCMD_REG", "IRTA_REG", "VtdRegister", "register_map"]

GCMD_REG = Layout(
    "GCMD_REG",
    "VT-d 11.4.4.1",
    (
        Field("CFI", 23, 1),
        Field("SIRTP", 24, 1),
        Field("IRE", 25, 1),
        Field("QIE", 26, 1),
        Field("WBF", 27, 1),
        Field("EAFL", 28, 1),
        Field("SFL", 29, 1),
        Field("SRTP", 30, 1),
        Field("TE", 31, 1),
    ),
)

IRTA_REG = Layout(
    "IRTA_REG",
    "VT-d 11.4.9.10",
    (Field("S", 0, 4), Field("RSVD", 4, 7), Field("EIME", 11, 1), Field("IRTA", 12, 52, in_place=True)),
)

_DATA = Layout("event data register", "VT-d 11.4.7.3", (Field("IMD", 0, 16), Field("RSVD", 16, 16)))
_ADDRESS = Layout("event address register", "VT-d 11.4.7.4", (Field("RSVD", 0, 2), Field("MA", 2, 30, in_place=True)))
_UPPER = Layout("event upper address register", "VT-d 11.4.7.5", (Field("MUA", 0, 32),))
PQH_REG = Layout("PQH_REG", "VT-d 11.4.11.1", (Field("PQH", 5, 14, in_place=True),))
PQT_REG = Layout("PQT_REG", "VT-d 11.4.11.2", (Field("PQT", 5, 14, in_place=True),))
_PLAIN_32 = Layout("register", "VT-d 11.4", (Field("value", 0, 32),))
_PLAIN_64 = Layout("register", "VT-d 11.4", (Field("value", 0, 64),))


@dataclass(frozen=True, slots=True)
class VtdRegister:
    """One register.

    Attributes:
        key: its field of `VtdRegisters`, or "gcmd", "frcd".
        name: as in the specification.
        offset: of its first byte.
        size: bytes.
        layout: its fields.
        writable: bits that software writes and that read as they were written.
        settled: bits of which the specification says what they read as.
        index: of a fault recording register.
        names: of each field that is not reserved, its bits, and its name behind that of the register.
    """

    key: str
    name: str
    offset: int
    size: int
    layout: Layout
    writable: int = 0
    settled: int = 0
    index: int = 0
    names: tuple[tuple[int, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        there = (entry for entry in self.layout.fields if not entry.name.startswith("RSVD"))
        object.__setattr__(self, "names", tuple((entry.mask, f"{self.name}.{entry.name}") for entry in there))


def register_map(registers: VtdRegisters) -> tuple[VtdRegister, ...]:
    """Every register that a unit with these capabilities has."""
    address = (1 << registers.host_address_width) - 1
    extended = registers.extended
    found = [
        _read_only("ver", "VER_REG", 0x00, _PLAIN_32, 4),
        _read_only("cap", "CAP_REG", 0x08, CAP_REG),
        _read_only("ecap", "ECAP_REG", 0x10, ECAP_REG),
        VtdRegister("gcmd", "GCMD_REG", 0x18, 4, GCMD_REG),
        _read_only("gsts", "GSTS_REG", 0x1C, GSTS_REG, 4),
        _writable("rtaddr", "RTADDR_REG", 0x20, RTADDR_REG, _fields(RTADDR_REG, "TTM", "RTA") & address),
        # FM and SID are written only, and a request that is wrong may be left as it is.
        VtdRegister("ccmd", "CCMD_REG", 0x28, 8, CCMD_REG, settled=_fields(CCMD_REG, "ICC", "CAIG")),
        VtdRegister("fsts", "FSTS_REG", 0x34, 4, FSTS_REG, settled=_all(FSTS_REG)),
        *_event("fe", "FE", 0x38, upper=extended.extended_interrupts),
        VtdRegister("iva", "IVA_REG", extended.iotlb_registers, 8, IVA_REG),
        VtdRegister(
            "iotlb", "IOTLB_REG", extended.iotlb_registers + 8, 8, IOTLB_REG, settled=_fields(IOTLB_REG, "IVT", "IAIG")
        ),
    ]
    protected = CAP_REG["PLMR"].get(registers.cap) or CAP_REG["PHMR"].get(registers.cap)
    # Without protected memory regions PMEN_REG is there nevertheless, to be read only (11.4.8.1).
    found.append(_read_only("pmen", "PMEN_REG", 0x64, PMEN_REG, 4))
    if protected:
        found += [
            VtdRegister(key, f"{key.upper()}_REG", offset, size, _PLAIN_64 if size == 8 else _PLAIN_32)
            for key, offset, size in (
                ("plmbase", 0x68, 4),
                ("plmlimit", 0x6C, 4),
                ("phmbase", 0x70, 8),
                ("phmlimit", 0x78, 8),
            )
        ]
    if extended.queued_invalidation:
        found += [
            _read_only("iqh", "IQH_REG", 0x80, IQH_REG),
            _writable("iqt", "IQT_REG", 0x88, IQT_REG, _fields(IQT_REG, "QT")),
            _writable("iqa", "IQA_REG", 0x90, IQA_REG, _all(IQA_REG) & address),
            VtdRegister("ics", "ICS_REG", 0x9C, 4, ICS_REG, settled=_all(ICS_REG)),
            *_event("ie", "IE", 0xA0, upper=extended.extended_interrupts),
            # Hardware of before this register reports 0 for every error.
            VtdRegister("iqercd", "IQERCD_REG", 0xB0, 8, IQERCD_REG, settled=0),
        ]
    if extended.interrupt_remapping:
        writable = _fields(IRTA_REG, "S", "IRTA") & address
        if extended.extended_interrupts:
            writable |= _fields(IRTA_REG, "EIME")
        found.append(_writable("irta", "IRTA_REG", 0xB8, IRTA_REG, writable))
    if extended.page_requests:
        found += [
            VtdRegister("prs", "PRS_REG", 0xDC, 4, PRS_REG, settled=_all(PRS_REG)),
            _read_only("pqt", "PQT_REG", 0xC8, PQT_REG),
            _writable("pqh", "PQH_REG", 0xC0, PQH_REG, _fields(PQH_REG, "PQH")),
            _writable("pqa", "PQA_REG", 0xD0, PQA_REG, _all(PQA_REG) & address),
            *_event("pe", "PE", 0xE0, upper=extended.extended_interrupts),
        ]
    records, layout = 16 * CAP_REG["FRO"].get(registers.cap), _record_layout(registers.guest_address_width)
    found += [
        VtdRegister("frcd", "FRCD_REG", records + 16 * index, 16, layout, settled=_all(FRCD_REG), index=index)
        for index in range(registers.fault_recording_registers)
    ]
    return tuple(found)


def _record_layout(width: int) -> Layout:
    """FRCD_REG with the bits of FI that hardware treats as reserved, those above MGAW, as a field of their own."""
    address = (Field("FI", 12, width - 12, in_place=True), Field("FI above MGAW", width, 64 - width, in_place=True))
    before, *behind = (entry for entry in FRCD_REG.fields if entry.name != "FI")
    return Layout(FRCD_REG.name, FRCD_REG.section, (before, *address, *behind))


def _read_only(key: str, name: str, offset: int, layout: Layout, size: int = 8) -> VtdRegister:
    return VtdRegister(key, name, offset, size, layout, settled=_all(layout))


def _writable(key: str, name: str, offset: int, layout: Layout, bits: int, size: int = 8) -> VtdRegister:
    return VtdRegister(key, name, offset, size, layout, writable=bits, settled=bits)


def _event(key: str, name: str, offset: int, *, upper: bool) -> list[VtdRegister]:
    """Control, data, address and upper address of an event; the last is there with extended interrupt mode only."""
    found = [
        VtdRegister(
            f"{key}ctl", f"{name}CTL_REG", offset, 4, EVENT_CONTROL, settled=_fields(EVENT_CONTROL, "IP", "IM")
        ),
        _writable(f"{key}data", f"{name}DATA_REG", offset + 4, _DATA, _fields(_DATA, "IMD"), 4),
        _writable(f"{key}addr", f"{name}ADDR_REG", offset + 8, _ADDRESS, _fields(_ADDRESS, "MA"), 4),
    ]
    if upper:
        found.append(_writable(f"{key}uaddr", f"{name}UADDR_REG", offset + 12, _UPPER, _all(_UPPER), 4))
    return found


def _fields(layout: Layout, *names: str) -> int:
    return sum(layout[name].mask for name in names)


def _all(layout: Layout) -> int:
    """The bits of every field that is not reserved."""
    return sum(entry.mask for entry in layout.fields if not entry.name.startswith("RSVD"))
