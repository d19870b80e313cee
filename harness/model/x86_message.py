"""The message by which an x86 machine sends an interrupt: a write of 32 bits of data to 0xFEEx_xxxx.

It is what devices and I/O APICs send where nothing remaps (the compatibility format of VT-d 5.1.2.1), and what VT-d
and AMD-Vi make of a remapping table entry. A remapped interrupt has a destination of 32 bits, for which that format has
no place; so a choice is made here: destination bits 31:8 stand in address bits 63:40. VT-d has them there in the
messages of the remapping hardware itself (5.1.6.2), and KVM and QEMU in all of them (Linux,
Documentation/virt/kvm/api.rst, KVM_CAP_X2APIC_API).

>>> [hex(part) for part in X86Message(destination=0x103, vector=0x41).encode()]
['0x100fee03000', '0x4041']
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from harness.errors import SpecError
from harness.model.bits import Field, Layout

__all__ = ["INTERRUPT_RANGE", "MESSAGE_ADDRESS", "MESSAGE_DATA", "DeliveryMode", "X86Message", "is_interrupt_address"]

INTERRUPT_RANGE = 0xFEE
"""Bits 31:20 of the address of every message."""

MESSAGE_ADDRESS = Layout(
    "message address",
    "Intel SDM volume 3A, message signalled interrupts",
    (
        Field("IGN_0", 0, 2),
        Field("DM", 2, 1),
        Field("RH", 3, 1),
        Field("RSVD_4", 4, 8),
        Field("DESTINATION", 12, 8),
        Field("FEE", 20, 12),
        Field("RSVD_32", 32, 8),
        Field("DESTINATION_HIGH", 40, 24),
    ),
)

MESSAGE_DATA = Layout(
    "message data",
    "Intel SDM volume 3A, message signalled interrupts",
    (
        Field("VECTOR", 0, 8),
        Field("DELIVERY_MODE", 8, 3),
        Field("RSVD_11", 11, 3),
        Field("LEVEL", 14, 1),
        Field("TRIGGER_MODE", 15, 1),
        Field("RSVD_16", 16, 16),
    ),
)


class DeliveryMode(IntEnum):
    """What a processor does with the message."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    RESERVED_3 = 3
    NMI = 4
    INIT = 5
    RESERVED_6 = 6
    EXT_INT = 7


_DELIVERY_MODES = tuple(DeliveryMode)


@dataclass(frozen=True, slots=True, kw_only=True)
class X86Message:
    """What a message says.

    Attributes:
        destination: APIC id, or a set of them when `logical`; 32 bits, of which xAPIC has 8.
        vector: 8 bits.
        delivery_mode: see `DeliveryMode`.
        logical: DM, destination mode.
        redirection_hint: RH.
        level_triggered: TM, trigger mode.
        asserted: the level; says nothing of an edge, where it is 1 by custom.
    """

    destination: int
    vector: int
    delivery_mode: DeliveryMode = DeliveryMode.FIXED
    logical: bool = False
    redirection_hint: bool = False
    level_triggered: bool = False
    asserted: bool = True

    def encode(self) -> tuple[int, int]:
        """Address and data.

        Raises:
            SpecError: destination or vector do not fit.
        """
        if self.destination >> 32 or self.vector >> 8:
            raise SpecError(f"destination {self.destination:#x} or vector {self.vector:#x} does not fit a message")
        # As `MESSAGE_ADDRESS` and `MESSAGE_DATA` have it; written out, since it is done for each interrupt.
        address = (
            self.destination >> 8 << 40
            | INTERRUPT_RANGE << 20
            | (self.destination & 0xFF) << 12
            | self.redirection_hint << 3
            | self.logical << 2
        )
        return address, self.level_triggered << 15 | self.asserted << 14 | self.delivery_mode << 8 | self.vector

    @classmethod
    def decode(cls, address: int, data: int) -> Self:
        """Read a message; reserved and ignored bits, also the format bit of VT-d, are not looked at."""
        # Written out, as in `encode`.
        return cls(
            destination=address >> 40 << 8 | address >> 12 & 0xFF,
            vector=data & 0xFF,
            delivery_mode=_DELIVERY_MODES[data >> 8 & 0b111],
            logical=bool(address & 1 << 2),
            redirection_hint=bool(address & 1 << 3),
            level_triggered=bool(data & 1 << 15),
            asserted=bool(data & 1 << 14),
        )


def is_interrupt_address(address: int) -> bool:
    """Whether a device's write there is an interrupt: 0xFEE0_0000 to 0xFEEF_FFFF, bits 63:32 zero."""
    return address >> 20 == INTERRUPT_RANGE
