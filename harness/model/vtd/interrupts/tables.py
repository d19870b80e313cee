"""Builds interrupt remapping tables, posted-interrupt descriptors and remappable messages: the mirror image of
`harness.model.vtd.interrupts.remapping`, legal by default, any field overridable.

>>> from harness.model.memory import SparseMemory
>>> table = InterruptTable(SparseMemory(), 0x10000)
>>> table.remap(5, vector=0x41, destination=3, requester=0x28)
>>> [hex(part) for part in remappable_message(5)]
['0xfee000b0', '0x0']
>>> hex(table.irta)
'0x10007'
"""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass

from harness.errors import SpecError
from harness.model.bits import changed
from harness.model.memory import WritableMemory
from harness.model.radix import NO_OVERRIDES
from harness.model.vtd.interrupts.entries import (
    IRTA_REG,
    POSTED_DESCRIPTOR,
    POSTED_ENTRY,
    REMAPPABLE_ADDRESS,
    REMAPPABLE_DATA,
    REMAPPED_ENTRY,
    SourceValidation,
    destination_field,
    interrupt_entry_address,
)
from harness.model.x86_message import INTERRUPT_RANGE, DeliveryMode

__all__ = ["InterruptTable", "remappable_message"]


@dataclass(frozen=True, slots=True)
class InterruptTable:
    """An interrupt remapping table (VT-d 9.9, 9.10).

    Attributes:
        memory: what it is in.
        base: physical address, a multiple of 4 KiB.
        entries: a power of two from 2 to 65536.
        extended: for x2APIC mode (EIME): destinations of 32 bits, not of 8.
    """

    memory: WritableMemory
    base: int
    entries: int = 256
    extended: bool = False

    def __post_init__(self) -> None:
        if self.entries not in (2 << size for size in range(16)):
            raise SpecError(f"{self.entries} entries are no power of two from 2 to 65536")

    @property
    def irta(self) -> int:
        """IRTA_REG for this table."""
        size = self.entries.bit_length() - 2
        return IRTA_REG.encode({"S": size, "EIME": int(self.extended), "IRTA": self.base})

    def remap(
        self,
        index: int,
        *,
        vector: int,
        destination: int,
        requester: int | None = None,
        delivery_mode: DeliveryMode = DeliveryMode.FIXED,
        logical: bool = False,
        redirection_hint: bool = False,
        level_triggered: bool = False,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Give an index an entry in remapped format.

        Args:
            index: of the entry.
            vector: V.
            destination: APIC id, or a set of them when `logical`.
            requester: the only source id that may use the entry; None for any.
            delivery_mode: DLM.
            logical: DM.
            redirection_hint: RH.
            level_triggered: TM.
            overrides: fields of `REMAPPED_ENTRY` to set otherwise.
        """
        fields = {
            "P": 1,
            "DM": int(logical),
            "RH": int(redirection_hint),
            "TM": int(level_triggered),
            "DLM": delivery_mode,
            "V": vector,
            "DST": destination_field(destination, extended=self.extended),
        }
        self._write(index, REMAPPED_ENTRY.encode({**fields, **_only(requester), **overrides}))

    def post(
        self,
        index: int,
        *,
        vector: int,
        descriptor: int,
        requester: int | None = None,
        urgent: bool = False,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Give an index an entry in posted format.

        Args:
            index: of the entry.
            vector: VV, the bit that is set in the descriptor.
            descriptor: physical address of the descriptor, a multiple of 64.
            requester: as for `remap`.
            urgent: URG.
            overrides: fields of `POSTED_ENTRY` to set otherwise.
        """
        fields = {
            "P": 1,
            "URG": int(urgent),
            "IM": 1,
            "VV": vector,
            "PDAL": descriptor >> 6 & (1 << 26) - 1,
            "PDAH": descriptor >> 32,
        }
        self._write(index, POSTED_ENTRY.encode({**fields, **_only(requester), **overrides}))

    def write_descriptor(
        self, address: int, *, vector: int, destination: int, overrides: NamedValues[str, int] = NO_OVERRIDES
    ) -> None:
        """Write a posted-interrupt descriptor with nothing posted (VT-d 9.11).

        Args:
            address: physical address, a multiple of 64.
            vector: NV, of the notification.
            destination: APIC id that is notified.
            overrides: fields of `POSTED_DESCRIPTOR` to set otherwise.
        """
        fields = {"NV": vector, "NDST": destination_field(destination, extended=self.extended)}
        bits = POSTED_DESCRIPTOR.encode({**fields, **overrides})
        self.memory.write(address, bits.to_bytes(64, "little"))

    def set_fields(self, index: int, values: NamedValues[str, int]) -> None:
        """Set fields of an entry, by their names in the format that it has."""
        bits = int.from_bytes(self.memory.read(interrupt_entry_address(self.base, index), 16), "little")
        layout = POSTED_ENTRY if POSTED_ENTRY["IM"].get(bits) else REMAPPED_ENTRY
        self._write(index, changed(layout, bits, values))

    def _write(self, index: int, bits: int) -> None:
        self.memory.write(interrupt_entry_address(self.base, index), bits.to_bytes(16, "little"))


def remappable_message(index: int, subhandle: int | None = None) -> tuple[int, int]:
    """Address and data of an interrupt request in remappable format (VT-d 5.1.5.2).

    Args:
        index: the interrupt_index, or with a subhandle what it is added to.
        subhandle: sent as data, with SHV set; None for SHV clear.
    """
    address = REMAPPABLE_ADDRESS.encode(
        {
            "HANDLE_15": index >> 15,
            "SHV": int(subhandle is not None),
            "FORMAT": 1,
            "HANDLE": index & 0x7FFF,
            "FEE": INTERRUPT_RANGE,
        }
    )
    return address, REMAPPABLE_DATA.encode({"SUBHANDLE": subhandle or 0})


def _only(requester: int | None) -> dict[str, int]:
    """Source-id validation that lets one requester in, or all."""
    if requester is None:
        return {}
    return {"SVT": SourceValidation.SOURCE_ID, "SID": requester}
