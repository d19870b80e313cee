"""What an STE and a CD say, once they were found good: the configuration of a transaction (IHI 0070 5.2, 5.4)."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from harness.model.smmuv3.walk import Table

__all__ = ["GRANULE_OF_TG0", "Context", "Stream", "StreamWorld"]

GRANULE_OF_TG0 = (12, 16, 14, None)
"""log2 of the granule by S2TG and CD.TG0 (5.2, 5.4)."""


class Context(NamedTuple):
    """A CD that was found good.

    Attributes:
        tables: TTB0 and TTB1; None where EPDx disables the walk, or TTB1 is not reachable.
        compared: bits of an address that must agree with its bit 55: TBI leaves out the top byte, for each table.
        aborts: A: a fault of stage 1 aborts; otherwise reads give zero and writes are ignored.
        records: R.
        stalls: S.
    """

    tables: tuple[Table | None, Table | None]
    compared: tuple[int, int]
    aborts: bool
    records: bool
    stalls: bool

    def select(self, address: int) -> Table | None:
        """The table that translates an address; None where its range or its table's state lets nothing through.

        DDI 0487 D8 and IHI 0070 3.4.1: bit 55 selects, and all bits from the input size up must be equal to it.
        """
        upper = address >> 55 & 1
        table = self.tables[upper]
        if table is None:
            return None
        compared = self.compared[upper]
        expected = compared >> table.input_bits if upper else 0
        return table if (address & compared) >> table.input_bits == expected else None


class StreamWorld(Enum):
    """Which translation regime a stream belongs to (5.2, STRW)."""

    EL1 = "NS-EL1"
    EL2 = "NS-EL2"
    EL2_HOST = "NS-EL2-E2H"


class Stream(NamedTuple):
    """An STE that was found good.

    Attributes:
        aborts: Config 0b0xx.
        stage1: stage 1 translates.
        stage2: the stage 2 table; None where stage 2 is bypassed.
        world: StreamWorld of stage 1.
        domain: VMID tag; 0 where there are no VMIDs, `EL2_DOMAIN` in the NS-EL2 regimes.
        context_pointer: S1ContextPtr.
        context_format: S1Fmt; 0 for a single CD.
        context_bits: S1CDMax; 0 where there are no substreams.
        default_substream: S1DSS.
        ats: effective EATS: 0b00, 0b01 or 0b10.
        privileged: PRIVCFG: what PnU becomes; None to use the incoming one.
        instruction: INSTCFG: what InD of a read becomes, likewise.
        stalls: S2S.
        records: S2R.
        stall_disabled: S1STALLD.
        merges: MEV.
        contexts: CDs seen through this STE, decoded, by their bytes; None for ILLEGAL ones.
    """

    aborts: bool
    stage1: bool
    stage2: Table | None
    world: StreamWorld
    domain: int
    context_pointer: int
    context_format: int
    context_bits: int
    default_substream: int
    ats: int
    privileged: bool | None
    instruction: bool | None
    stalls: bool
    records: bool
    stall_disabled: bool
    merges: bool
    contexts: dict[bytes, Context | None]

    @property
    def two_privileges(self) -> bool:
        """Stage 1 tells privileged from unprivileged accesses, and has ASIDs: all regimes but EL2's own."""
        return self.world is not StreamWorld.EL2
