"""Where entries of tables with two levels are, by numbers worked out by hand; and what tags they are cached with."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from smmuv3_unit import IOVA, OUTPUT, SID, Unit

from harness.model.access import Access, AccessKind, Permissions, Translated
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation
from harness.model.memory import Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.smmuv3 import (
    Smmuv3ContextTable,
    Smmuv3Engine,
    Smmuv3EventType,
    Smmuv3Registers,
    Smmuv3Tables,
    Stage1Format,
)
from harness.model.smmuv3.capabilities import capabilities


def access(requester: int, pasid: int | None = None) -> Access:
    return Access(requester=requester, iova=IOVA, length=4, kind=AccessKind.READ, pasid=pasid)


class TwoLevels:
    """An SMMU whose stream table has two levels, with one stream that is translated."""

    def __init__(self, stream_id: int, split: int, substream_bits: int = 0, substream_id: int = 0) -> None:
        self.memory = SparseMemory((Region(0, 1 << 26),))
        self.tables = Smmuv3Tables(self.memory, 0x10_0000, bits=16, split=split)
        self.contexts = Smmuv3ContextTable(self.tables.pages, substream_bits, 0b01 if substream_bits else 0)
        stage1 = RadixTable(self.tables.pages, Stage1Format(), Stage1Format().levels)
        stage1.map(IOVA, OUTPUT, 0x1000)
        self.contexts.describe(substream_id, stage1)
        self.tables.attach(stream_id, self.contexts)

    def engine(self) -> Smmuv3Engine:
        registers = Smmuv3Registers(
            capabilities=capabilities(),
            cr0=0b1101,
            strtab_base=self.tables.strtab_base,
            strtab_base_cfg=self.tables.strtab_base_cfg,
        )
        return Smmuv3Engine(registers, self.memory)


@pytest.mark.parametrize(
    ("split", "stream_id", "level1", "level2"),
    [(6, 0x0028, 0x00, 0x28), (6, 0x1FE5, 0x7F, 0x25), (8, 0x1FE5, 0x1F, 0xE5), (10, 0x1FE5, 0x07, 0x3E5)],
)
def test_upper_bits_of_a_stream_id_index_level_1_and_the_lower_split_bits_level_2_3_3_1(
    split: int, stream_id: int, level1: int, level2: int
) -> None:
    unit = TwoLevels(stream_id, split)
    l1std = unit.memory.read_u64(unit.tables.root + 8 * level1)
    assert l1std & 0x1F == split + 1
    ste = unit.memory.read_u64((l1std & ~0x3F) + 64 * level2)
    assert ste & 0b1111 == 0b1011  # V, Config 0b101
    outcome = unit.engine().translate(access(stream_id))
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT


def test_stream_of_another_level_1_entry_is_a_bad_stream_id_7_3_3() -> None:
    engine = TwoLevels(0x1FE5, 6).engine()
    assert_fault(engine.translate(access(0x1FE5 + 64)), Smmuv3EventType.C_BAD_STREAMID)
    assert_fault(engine.translate(access(0x25)), Smmuv3EventType.C_BAD_STREAMID)


def test_stream_of_the_same_level_2_table_without_an_ste_is_a_bad_ste_7_3_5() -> None:
    assert_fault(TwoLevels(0x1FE5, 6).engine().translate(access(0x1FE4)), Smmuv3EventType.C_BAD_STE)


def test_upper_bits_of_a_substream_id_index_l1cds_and_the_lower_6_the_cds_5_3() -> None:
    unit = TwoLevels(SID, 6, substream_bits=10, substream_id=0x1C5)
    l1cd = unit.memory.read_u64(unit.contexts.root + 8 * (0x1C5 >> 6))
    assert l1cd & 1
    assert unit.memory.read((l1cd & ~0xFFF) + 64 * (0x1C5 & 0x3F), 64) != bytes(64)
    outcome = unit.engine().translate(access(SID, 0x1C5))
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT
    assert_fault(unit.engine().translate(access(SID, 0x1C5 + 64)), Smmuv3EventType.C_BAD_SUBSTREAMID)


def test_level_1_fields_are_set_in_the_entry_that_serves_the_index_5_1_5_3() -> None:
    unit = TwoLevels(0x1FE5, 6, substream_bits=10, substream_id=0x1C5)
    other = unit.memory.read_u64(unit.tables.root)
    unit.contexts.set_level1_fields(0x1C5, {"V": 0})
    assert_fault(unit.engine().translate(access(0x1FE5, 0x1C5)), Smmuv3EventType.C_BAD_SUBSTREAMID)
    unit.tables.set_level1_fields(0x1FE5, {"SPAN": 0})
    assert_fault(unit.engine().translate(access(0x1FE5, 0x1C5)), Smmuv3EventType.C_BAD_STREAMID)
    assert unit.memory.read_u64(unit.tables.root) == other


def test_entries_of_both_levels_of_the_stream_table_are_cached_by_stream_id_3_21_3() -> None:
    steps = TwoLevels(0x1FE5, 6).engine().explain(access(0x1FE5)).steps
    tags = [step.cached for step in steps if step.what.startswith(("L1STD", "STE"))]
    assert [tag.requester if tag else None for tag in tags] == [0x1FE5, 0x1FE5]
    one = Invalidation(kinds=frozenset({EntryKind.DEVICE}), requester=0x1FE5)
    other = Invalidation(kinds=frozenset({EntryKind.DEVICE}), requester=0x1FE4)
    for tag in tags:
        assert isinstance(tag, CachedEntry)
        assert one.drops(tag)
        assert not other.drops(tag)


@pytest.mark.parametrize(("first", "second"), [("rw", "r"), ("r", "rw"), ("r", "r"), ("rw", "rw")])
def test_an_access_has_the_rights_that_both_stages_give_it(first: str, second: str) -> None:
    rights = {"r": Permissions.READ, "rw": Permissions.READ | Permissions.WRITE}
    unit = Unit("12")
    unit.tree.unmap(IOVA, 0x1000)
    unit.tree.map(IOVA, 0x4000_0000, 0x1000, rights[first])
    unit.outer.unmap(0x4000_0000, 0x1000)
    unit.outer.map(0x4000_0000, OUTPUT, 0x1000, rights[second])
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.permissions & rights["rw"] == rights[first] & rights[second]
    written = unit.access(AccessKind.WRITE)
    if first == second == "rw":
        assert isinstance(written, Translated)
    else:
        assert_fault(written, Smmuv3EventType.F_PERMISSION, stage=1 if first == "r" else 2)
