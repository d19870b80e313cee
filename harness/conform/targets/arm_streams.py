"""The stream table of a program for arm-smmuv3, of either format; in some programs it has no place for some streams."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass, field
from random import Random

from harness.conform.board import ARM
from harness.conform.command import behind_memory
from harness.conform.layout import DEVICES
from harness.conform.memory import TABLES
from harness.model.memory import WritableMemory
from harness.model.radix import NO_OVERRIDES, RadixTable
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.tables import Smmuv3ContextTable, Smmuv3Tables

__all__ = ["Streams", "make_streams"]

_MOST_LINEAR_BITS = 12
_OUTSIDE = behind_memory(ARM)
# Streams have to reach the highest requester id of the layout; those behind bridges begin where the root bus ends.
_STREAM_BITS, _ROOT_BUS_BITS = max(entry.requester for entry in DEVICES).bit_length(), 8
_BEHIND_BRIDGES = sorted({entry.requester for entry in DEVICES if entry.requester >> _ROOT_BUS_BITS})


@dataclass(slots=True)
class Streams:
    """Gives streams their STEs.

    Attributes:
        table: the stream table.
        bad_level1: by number, the fields of descriptors that lead to no STE.
    """

    table: Smmuv3Tables
    bad_level1: dict[int, dict[str, int]] = field(default_factory=dict)

    def attach(
        self,
        stream_id: int,
        contexts: Smmuv3ContextTable | None,
        stage2: RadixTable | None,
        *,
        vmid: int,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> bool:
        """As `Smmuv3Tables.attach`, for a stream that has a place; whether it has one."""
        if stream_id >> self.table.bits:
            return False
        if (fields := self.bad_level1.get(stream_id >> (self.table.split or 0))) is not None:
            self.table.set_level1_fields(stream_id, fields)
            return False
        self.table.attach(stream_id, contexts, stage2, vmid=vmid, overrides=overrides)
        return True


def make_streams(
    random: Random, memory: WritableMemory, capabilities: Smmuv3Capabilities, *, loses_some: bool
) -> Streams:
    """An empty stream table.

    Args:
        random: to choose by.
        memory: that it is in.
        capabilities: of the SMMU.
        loses_some: some streams behind bridges have no place.
    """
    splits = (None, 6, 8) if loses_some else (None, None, 6, 8, 10)
    split = random.choice(splits) if capabilities.two_level_streams else None
    bits = min(random.choice((_STREAM_BITS, _STREAM_BITS, 12, 16)), capabilities.stream_id_bits)
    if split is None:
        bits = min(bits, _MOST_LINEAR_BITS)
    bad_level1: dict[int, dict[str, int]] = {}
    if loses_some and split is not None:
        outside = {"SPAN": split + 1, "L2PTR": _OUTSIDE}
        fields = random.choice(({"SPAN": 0}, outside, outside))
        bad_level1 = {random.choice(_BEHIND_BRIDGES) >> split: fields}
    elif loses_some:
        bits = _ROOT_BUS_BITS
    return Streams(Smmuv3Tables(memory, ARM.ram + TABLES.start, bits=bits, split=split), bad_level1)
