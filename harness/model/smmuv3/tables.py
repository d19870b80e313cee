"""Builds stream tables and CD tables that the SMMUv3 engine walks: their mirror image, legal by default."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass, field

from harness.errors import SpecError
from harness.model.bits import Layout, changed
from harness.model.memory import WritableMemory
from harness.model.radix import NO_OVERRIDES, PageAllocator, RadixTable
from harness.model.smmuv3.formats import Stage1Format, Stage2Format
from harness.model.smmuv3.registers import STRTAB_BASE, STRTAB_BASE_CFG
from harness.model.smmuv3.stream import Config
from harness.model.smmuv3.structures import CD, L1CD, L1STD, STE, STE_SIZE

__all__ = ["Smmuv3ContextTable", "Smmuv3Tables"]

_TG0 = {12: 0b00, 14: 0b10, 16: 0b01}
_TG1 = {12: 0b10, 14: 0b01, 16: 0b11}
_SIZE_48, _SIZE_52 = 0b101, 0b110


@dataclass(slots=True)
class Smmuv3ContextTable:
    """A table of CDs (IHI 0070 5.3, 5.4). Behind stage 2 all its addresses are IPAs, and so are those of its pages.

    Attributes:
        pages: where it and its level 2 tables come from.
        bits: S1CDMax: log2 of the number of CDs; 0 for a single one.
        format: S1Fmt: 0b00 linear, 0b01 level 2 tables of 4 KB, 0b10 of 64 KB.
        root: address of the topmost table.
    """

    pages: PageAllocator
    bits: int = 0
    format: int = 0b00
    root: int = field(init=False)

    def __post_init__(self) -> None:
        size = STE_SIZE << self.bits if not self._leaf_bits else 8 << max(self.bits - self._leaf_bits, 0)
        self.root = self.pages.take(max(size, 64))

    def describe(
        self,
        substream_id: int,
        table: RadixTable | None,
        *,
        upper: RadixTable | None = None,
        asid: int = 0,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Write the CD of a SubstreamID, which is its index in the table.

        Args:
            substream_id: the index; 0 in a table of one.
            table: for TTB0, of `Stage1Format`; None disables its walks.
            upper: for TTB1, likewise. Its input addresses count from where the upper half of the address space begins
                that it serves.
            asid: ASID.
            overrides: fields of `CD` to set otherwise, for illegal ones.
        """
        fields = {"V": 1, "AA64": 1, "A": 1, "R": 1, "IPS": _SIZE_48, "ASID": asid, "EPD0": 1, "EPD1": 1}
        for number, tree, granules in ((0, table, _TG0), (1, upper, _TG1)):
            if tree is None:
                continue
            entries = tree.format
            if not isinstance(entries, Stage1Format):
                raise SpecError("a CD points at tables of Stage1Format")
            fields |= {
                f"T{number}SZ": 64 - entries.input_bits,
                f"TG{number}": granules[entries.granule],
                f"TTB{number}": tree.root >> 4,
                f"EPD{number}": 0,
            }
            if entries.address_bits == 52:
                fields |= {"IPS": _SIZE_52, "DS": int(entries.granule != 16)}
        _write(self.pages.memory, self._address(substream_id), CD.encode({**fields, **overrides}), STE_SIZE)

    def set_fields(self, substream_id: int, values: NamedValues[str, int]) -> None:
        """Set fields of a CD, by their names in `CD`."""
        _change(self.pages.memory, self._address(substream_id), CD, values, STE_SIZE)

    def set_level1_fields(self, substream_id: int, values: NamedValues[str, int]) -> None:
        """Set fields of the L1CD that leads to a CD, by their names in `L1CD`."""
        _change(self.pages.memory, self.root + (substream_id >> self._leaf_bits << 3), L1CD, values, 8)

    @property
    def _leaf_bits(self) -> int:
        return {0b00: 0, 0b01: 6, 0b10: 10}[self.format]

    def _address(self, index: int) -> int:
        if index >> self.bits:
            raise SpecError(f"index {index:#x} is beyond a table of 2^{self.bits} CDs")
        if not self._leaf_bits:
            return self.root + (index << 6)
        at = self.root + (index >> self._leaf_bits << 3)
        entry = self.pages.memory.read_u64(at)
        if not entry & 1:
            entry = L1CD.encode({"V": 1, "L2PTR": self.pages.take(STE_SIZE << self._leaf_bits)})
            self.pages.memory.write_u64(at, entry)
        return L1CD["L2PTR"].get(entry) + ((index & (1 << self._leaf_bits) - 1) << 6)


@dataclass(slots=True)
class Smmuv3Tables:
    """A stream table, linear or with two levels (IHI 0070 3.3.1, 5.1, 5.2).

    Attributes:
        memory: what the tables are in.
        base: physical address from which on pages are taken.
        bits: LOG2SIZE: log2 of the number of StreamIDs.
        split: SPLIT of a table of two levels: 6, 8 or 10; None for a linear one.
    """

    memory: WritableMemory
    base: int
    bits: int = 8
    split: int | None = None
    pages: PageAllocator = field(init=False)
    root: int = field(init=False)

    def __post_init__(self) -> None:
        self.pages = PageAllocator(self.memory, self.base)
        size = STE_SIZE << self.bits if self.split is None else 8 << max(self.bits - self.split, 0)
        self.root = self.pages.take(max(size, 64))

    @property
    def strtab_base(self) -> int:
        """STRTAB_BASE of the table."""
        return STRTAB_BASE.encode({"ADDR": self.root})

    @property
    def strtab_base_cfg(self) -> int:
        """STRTAB_BASE_CFG of the table."""
        two_levels = self.split is not None
        return STRTAB_BASE_CFG.encode({"LOG2SIZE": self.bits, "SPLIT": self.split or 0, "FMT": int(two_levels)})

    def attach(
        self,
        stream_id: int,
        contexts: Smmuv3ContextTable | None = None,
        stage2: RadixTable | None = None,
        *,
        vmid: int = 0,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Give a StreamID an STE: stage 1, stage 2, both, or bypass, by which tables there are.

        Args:
            stream_id: up to 32 bits, below 2^`bits`.
            contexts: its CDs; None to bypass stage 1.
            stage2: a table of `Stage2Format`; None to bypass stage 2.
            vmid: S2VMID.
            overrides: fields of `STE` to set otherwise, for illegal ones.

        Raises:
            SpecError: a StreamID beyond the table, tables of another format, or an override that does not fit.
        """
        fields = {"V": 1, "CONFIG": Config.BYPASS | int(contexts is not None) | int(stage2 is not None) << 1}
        fields |= {"S2VMID": vmid, "SHCFG": 0b01, "S1DSS": 0b10}
        if contexts is not None:
            fields |= {"S1CONTEXTPTR": contexts.root, "S1CDMAX": contexts.bits, "S1FMT": contexts.format}
        if stage2 is not None:
            fields |= _stage2_fields(stage2)
        _write(self.memory, self._address(stream_id), STE.encode({**fields, **overrides}), STE_SIZE)

    def set_fields(self, stream_id: int, values: NamedValues[str, int]) -> None:
        """Set fields of an STE, by their names in `STE`."""
        _change(self.memory, self._address(stream_id), STE, values, STE_SIZE)

    def set_level1_fields(self, stream_id: int, values: NamedValues[str, int]) -> None:
        """Set fields of the L1STD that leads to an STE, by their names in `L1STD`."""
        _change(self.memory, self.root + (stream_id >> (self.split or 0) << 3), L1STD, values, 8)

    def _address(self, stream_id: int) -> int:
        if stream_id >> self.bits:
            raise SpecError(f"StreamID {stream_id:#x} is beyond a table of 2^{self.bits} streams")
        if self.split is None:
            return self.root + (stream_id << 6)
        at = self.root + (stream_id >> self.split << 3)
        entry = self.memory.read_u64(at)
        if not entry & 0x1F:
            entry = L1STD.encode({"SPAN": self.split + 1, "L2PTR": self.pages.take(STE_SIZE << self.split)})
            self.memory.write_u64(at, entry)
        return L1STD["L2PTR"].get(entry) + ((stream_id & (1 << self.split) - 1) << 6)


def _stage2_fields(table: RadixTable) -> dict[str, int]:
    """The S2 fields of an STE for a table of 1 to 5 levels."""
    entries = table.format
    if not isinstance(entries, Stage2Format):
        raise SpecError("an STE points at a table of Stage2Format")
    # S2SL0 counts levels from 2 with 4 KB, from 1 with 16 and 64 KB; with 4 KB, 3 is one level, and 4 needs DS.
    start = {1: 3, 2: 0, 3: 1, 4: 2, 5: 4}[table.levels] if entries.granule == 12 else table.levels - 1
    wide = entries.address_bits == 52
    return {
        "S2T0SZ": 64 - entries.input_bits,
        "S2SL0": start & 0b11,
        "S2SL0_2": start >> 2,
        "S2TG": _TG0[entries.granule],
        "S2PS": _SIZE_52 if wide else _SIZE_48,
        "S2DS": int(wide and entries.granule != 16),
        "S2AA64": 1,
        "S2R": 1,
        "S2TTB": table.root >> 4,
    }


def _write(memory: WritableMemory, address: int, value: int, size: int) -> None:
    # The word with the valid bit last, as software has to (3.21.3).
    data = value.to_bytes(size, "little")
    memory.write(address + 8, data[8:])
    memory.write(address, data[:8])


def _change(memory: WritableMemory, address: int, layout: Layout, values: NamedValues[str, int], size: int) -> None:
    old = int.from_bytes(memory.read(address, size), "little")
    memory.write(address, changed(layout, old, values).to_bytes(size, "little"))
