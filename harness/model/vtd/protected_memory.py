"""Protected memory regions: no DMA reaches them, and nothing is reported (VT-d 11.4.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from harness.model.access import Access, AddressType, Bypassed, BypassReason, Fault, Outcome
from harness.model.vtd.fault_conditions import blocked
from harness.model.vtd.faults import VtdBlocked
from harness.model.vtd.register_layouts import CAP_REG, PMEN_REG
from harness.model.vtd.registers import VtdRegisters

__all__ = ["ProtectedMemory"]

# From this major version on all DMA is blocked; before, only what is not subject to translation (VT-d 11.4.8.1, EPM).
_BLOCKS_ALL = 2


@dataclass(frozen=True, slots=True)
class ProtectedMemory:
    """The regions in force.

    PMEN_REG.EPM is taken as the state of the hardware: PRS follows it, and software waits for that.

    Attributes:
        regions: first and last physical address of each.
        blocks_translated: translated DMA is blocked as well.
    """

    regions: tuple[tuple[int, int], ...]
    blocks_translated: bool

    @classmethod
    def of(cls, registers: VtdRegisters) -> Self | None:
        """The regions that the registers set up; None where there are none."""
        if not PMEN_REG["EPM"].get(registers.pmen):
            return None
        # VT-d 11.4.8.2 to 11.4.8.5: the low bits of a base are decoded as zeros, those of a limit as ones; a limit
        # below the base disables the region.
        low_bits = registers.protected_memory_alignment - 1
        pairs = (
            ("PLMR", registers.plmbase, registers.plmlimit),
            ("PHMR", registers.phmbase, registers.phmlimit),
        )
        regions = tuple(
            (base & ~low_bits, limit | low_bits)
            for capability, base, limit in pairs
            if CAP_REG[capability].get(registers.cap) and base & ~low_bits <= limit | low_bits
        )
        return cls(regions, registers.major_version >= _BLOCKS_ALL) if regions else None

    def check(self, access: Access, outcome: Outcome) -> Outcome:
        """The outcome of an access, or that protected memory blocks it.

        A translation request reaches no memory, and an interrupt request is none to memory.
        """
        if isinstance(outcome, Fault) or access.address_type is AddressType.TRANSLATION_REQUEST:
            return outcome
        if isinstance(outcome, Bypassed):
            if outcome.reason is BypassReason.INTERRUPT_RANGE:
                return outcome
        elif not self.blocks_translated:
            return outcome
        first = outcome.address
        last = first + max(access.length, 1) - 1
        if any(first <= end and last >= begin for begin, end in self.regions):
            return blocked(access, VtdBlocked.PROTECTED_MEMORY)
        return outcome
