"""The event log entry: every event with its 128 bits (AMD-Vi 2.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from harness.errors import SpecError
from harness.model.access import format_requester
from harness.model.bits import Field, Layout

__all__ = ["EVENTS", "EVENT_SIZE", "AmdviEvent", "AmdviEventCode", "HardwareErrorType"]

EVENT_SIZE = 16
"""Bytes of an entry."""


class AmdviEventCode(IntEnum):
    """The number of an event, bits 63:60 of its entry, and the section that defines it."""

    ILLEGAL_DEV_TABLE_ENTRY = 0x1
    """2.5.2: a device table entry that is used is not legal."""
    IO_PAGE_FAULT = 0x2
    """2.5.3: a translation or an interrupt that the tables do not allow."""
    DEV_TAB_HARDWARE_ERROR = 0x3
    """2.5.4: the device table cannot be read."""
    PAGE_TAB_HARDWARE_ERROR = 0x4
    """2.5.5: a page table, GCR3 table or interrupt table cannot be read."""
    ILLEGAL_COMMAND_ERROR = 0x5
    """2.5.6: a command that is not known, not supported, or has reserved bits set."""
    COMMAND_HARDWARE_ERROR = 0x6
    """2.5.7: a command cannot be read, or its store cannot be done."""
    IOTLB_INV_TIMEOUT = 0x7
    """2.5.8: a device does not answer an invalidation of its IOTLB."""
    INVALID_DEVICE_REQUEST = 0x8
    """2.5.9: a request of a kind that the device may not send, or not there."""
    INVALID_PPR_REQUEST = 0x9
    """2.5.10: a page request that is not allowed; neither a translation nor a command causes it."""
    EVENT_COUNTER_ZERO = 0xA
    """2.5.11: a performance counter ran over; neither a translation nor a command causes it."""


class HardwareErrorType(IntEnum):
    """The Type field of the hardware errors (AMD-Vi 2.5.4)."""

    RESERVED = 0
    MASTER_ABORT = 1
    TARGET_ABORT = 2
    DATA_ERROR = 3


def _layout(name: str, section: str, *fields: Field) -> Layout:
    """The layout of an event, from its fields but for the event code, which all have in the same place."""
    every = (*fields, Field("EventCode", 60, 4))
    return Layout(name, section, tuple(sorted(every, key=lambda entry: entry.low)))


def _address(low: int) -> tuple[Field, ...]:
    """The second half of an event: an address, of which the bits below `low` are not there."""
    address = Field("Address", 64 + low, 64 - low, in_place=low > 0)
    return (Field("RSVD_64", 64, low), address) if low else (address,)


_DEVICE = Field("DeviceID", 0, 16)


def _space(name: str) -> tuple[Field, ...]:
    """What an event starts with that names an address space: PASID bits 15:0, or what else stands in their place."""
    return (
        _DEVICE,
        Field("PASID_19_16", 16, 4),
        Field("RSVD_20", 20, 12),
        Field(name, 32, 16),
        Field("GN", 48, 1),
    )


# Bits 59:51 of the errors of reading a table.
_HARDWARE_ERROR = (
    Field("I", 51, 1),
    Field("RSVD_52", 52, 1),
    Field("RW", 53, 1),
    Field("RSVD_54", 54, 2),
    Field("TR", 56, 1),
    Field("Type", 57, 2),
    Field("RSVD_59", 59, 1),
)

EVENTS: Mapping[AmdviEventCode, Layout] = {
    AmdviEventCode.ILLEGAL_DEV_TABLE_ENTRY: _layout(
        "ILLEGAL_DEV_TABLE_ENTRY",
        "AMD-Vi 2.5.2",
        *_space("PASID_15_0"),
        Field("RSVD_49", 49, 2),
        Field("I", 51, 1),
        Field("RSVD_52", 52, 1),
        Field("RW", 53, 1),
        Field("RSVD_54", 54, 1),
        Field("RZ", 55, 1),
        Field("TR", 56, 1),
        Field("RSVD_57", 57, 3),
        *_address(2),
    ),
    AmdviEventCode.IO_PAGE_FAULT: _layout(
        "IO_PAGE_FAULT",
        "AMD-Vi 2.5.3",
        *_space("DomainID_PASID_15_0"),
        Field("NX", 49, 1),
        Field("US", 50, 1),
        Field("I", 51, 1),
        Field("PR", 52, 1),
        Field("RW", 53, 1),
        Field("PE", 54, 1),
        Field("RZ", 55, 1),
        Field("TR", 56, 1),
        Field("RSVD_57", 57, 3),
        *_address(0),
    ),
    AmdviEventCode.DEV_TAB_HARDWARE_ERROR: _layout(
        "DEV_TAB_HARDWARE_ERROR",
        "AMD-Vi 2.5.4",
        _DEVICE,
        Field("RSVD_16", 16, 35),
        *_HARDWARE_ERROR,
        *_address(4),
    ),
    AmdviEventCode.PAGE_TAB_HARDWARE_ERROR: _layout(
        "PAGE_TAB_HARDWARE_ERROR",
        "AMD-Vi 2.5.5",
        *_space("DomainID_PASID_15_0"),
        Field("RSVD_49", 49, 2),
        *_HARDWARE_ERROR,
        # The entries of 4 bytes of interrupt tables lose bit 2 of their address.
        *_address(3),
    ),
    AmdviEventCode.ILLEGAL_COMMAND_ERROR: _layout(
        "ILLEGAL_COMMAND_ERROR", "AMD-Vi 2.5.6", Field("RSVD_0", 0, 60), *_address(4)
    ),
    AmdviEventCode.COMMAND_HARDWARE_ERROR: _layout(
        "COMMAND_HARDWARE_ERROR",
        "AMD-Vi 2.5.7",
        Field("RSVD_0", 0, 57),
        Field("Type", 57, 2),
        Field("RSVD_59", 59, 1),
        *_address(4),
    ),
    AmdviEventCode.IOTLB_INV_TIMEOUT: _layout(
        "IOTLB_INV_TIMEOUT", "AMD-Vi 2.5.8", _DEVICE, Field("RSVD_16", 16, 44), *_address(4)
    ),
    AmdviEventCode.INVALID_DEVICE_REQUEST: _layout(
        "INVALID_DEVICE_REQUEST",
        "AMD-Vi 2.5.9",
        *_space("PASID_15_0"),
        Field("US", 49, 1),
        Field("RSVD_50", 50, 6),
        Field("TR", 56, 1),
        Field("Type", 57, 3),
        *_address(0),
    ),
    AmdviEventCode.INVALID_PPR_REQUEST: _layout(
        "INVALID_PPR_REQUEST",
        "AMD-Vi 2.5.10",
        _DEVICE,
        Field("PASID_15_0", 16, 16),
        Field("PPRTag", 32, 10),
        Field("PASID_19_16", 42, 4),
        Field("RSVD_46", 46, 2),
        Field("Flags", 48, 12),
        *_address(12),
    ),
    AmdviEventCode.EVENT_COUNTER_ZERO: _layout(
        "EVENT_COUNTER_ZERO",
        "AMD-Vi 2.5.11",
        Field("RSVD_0", 0, 60),
        Field("CounterNote_51_32", 64, 20),
        Field("RSVD_84", 84, 12),
        Field("CounterNote_31_0", 96, 32),
    ),
}

_OTHER = Layout("event", "AMD-Vi 2.5", (Field("Operand1", 0, 60), Field("EventCode", 60, 4), Field("Operand2", 64, 64)))
_CODES = frozenset(int(code) for code in AmdviEventCode)
_PRESENT, _DIRECTION, _DENIED, _RESERVED, _INTERRUPT, _TRANSLATION = (
    EVENTS[AmdviEventCode.IO_PAGE_FAULT][name].mask for name in ("PR", "RW", "PE", "RZ", "I", "TR")
)
_NO_DIRECTION = _INTERRUPT | _TRANSLATION
_EVENT_CODE = _OTHER["EventCode"]


@dataclass(frozen=True, slots=True)
class AmdviEvent:
    """One entry of the event log. It keeps all its bits, also reserved ones that some hardware may set.

    Attributes:
        bits: the 128 bits, as one little-endian number.
    """

    bits: int

    @classmethod
    def make(cls, code: AmdviEventCode, fields: Mapping[str, int]) -> Self:
        """An event from its fields, named as in `EVENTS`; those left out are zero.

        An address gives up the low bits that its event has no room for.

        Raises:
            SpecError: no such field, or a value that does not fit.
        """
        for name in fields:
            _ = EVENTS[code][name]  # which has to be there
        return cls.make_known(code, fields)

    @classmethod
    def make_known(cls, code: AmdviEventCode, values: Mapping[str, int]) -> Self:
        """An event from those of the values that it has fields for."""
        layout = EVENTS[code]
        bits = _EVENT_CODE.put(code)
        for name, value in values.items():
            if not value or name not in layout:
                continue
            # The address is 64 bits up, and its field may lack low bits.
            bits |= value << 64 & layout[name].mask if name == "Address" else layout[name].put(value)
        return cls(bits)

    @property
    def code(self) -> int:
        """Event code, the number of an `AmdviEventCode` where it is known."""
        return _EVENT_CODE.get(self.bits)

    @property
    def layout(self) -> Layout:
        """Its fields."""
        code = self.code
        return EVENTS[AmdviEventCode(code)] if code in _CODES else _OTHER

    def __contains__(self, name: str) -> bool:
        return name in self.layout

    def __getitem__(self, name: str) -> int:
        """A field by its name in the specification.

        Raises:
            SpecError: this event has no such field.
        """
        if name == "Address":
            return self.address
        return self.layout[name].get(self.bits)

    @property
    def address(self) -> int:
        """The address, in place.

        Raises:
            SpecError: this event has none.
        """
        return (self.bits & self.layout["Address"].mask) >> 64

    @property
    def meaningless(self) -> int:
        """The bits of an IO_PAGE_FAULT that say nothing beside the others, so that hardware may write either (2.5.3).

        RW counts with PR alone, and not for a translation request or an interrupt; PE counts with PR, and RZ with PR
        and without PE.
        """
        bits = self.bits
        if _EVENT_CODE.get(bits) != AmdviEventCode.IO_PAGE_FAULT:
            return 0
        if not bits & _PRESENT:
            return _DIRECTION | _DENIED | _RESERVED
        free = _RESERVED if bits & _DENIED else 0
        return free | _DIRECTION if bits & _NO_DIRECTION else free

    @property
    def pasid(self) -> int | None:
        """The PASID, where GN says that there is one."""
        if "GN" not in self or not self["GN"]:
            return None
        low = "PASID_15_0" if "PASID_15_0" in self else "DomainID_PASID_15_0"
        return self["PASID_19_16"] << 16 | self[low]

    @property
    def domain_id(self) -> int | None:
        """The DomainID, where the event has one and GN says that it is not a PASID."""
        if "DomainID_PASID_15_0" not in self or self["GN"]:
            return None
        return self["DomainID_PASID_15_0"]

    def encode(self) -> bytes:
        """The bytes of the entry."""
        return self.bits.to_bytes(EVENT_SIZE, "little")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an entry.

        Raises:
            SpecError: not 16 bytes.
        """
        if len(data) != EVENT_SIZE:
            raise SpecError(f"an event log entry has {EVENT_SIZE} bytes, not {len(data)}")
        return cls(int.from_bytes(data, "little"))

    def __str__(self) -> str:
        parts = [self.layout.name if self.code in _CODES else f"event {self.code:#x}"]
        for name, value in self.layout.describe(self.bits):
            if name == "DeviceID":
                parts.append(f"device={format_requester(value)}")
            elif name == "Address":
                parts.append(f"address={self.address:#x}")
            elif name != "EventCode" and value:
                parts.append(f"{name}={value:#x}")
        return " ".join(parts)
