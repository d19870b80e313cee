"""What an implementation may cache of a walk, and the mappings that a stream has (IHI 0070 3.17, 4.3, 5.2.1, 5.4.1)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from smmuv3_unit import ASID, IOVA, IPA, MOVED, OUTPUT, SID, TABLES_IPA, TABLES_SIZE, VMID, Unit

from harness.model.access import Access, AccessKind, Fault, Mapping, Permissions
from harness.model.engine import TableLoop
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.radix import RadixTable
from harness.model.smmuv3 import Stage1Format

RW = Permissions.READ | Permissions.WRITE


def steps(unit: Unit, iova: int = IOVA, pasid: int | None = None) -> list[Step]:
    access = Access(requester=SID, iova=iova, length=4, kind=AccessKind.READ, pasid=pasid)
    return [step for step in unit.engine().explain(access).steps if step.address is not None]


def tags(unit: Unit, kind: EntryKind, stage: int | None = None) -> list[CachedEntry]:
    cached = [step.cached for step in steps(unit) if step.cached is not None]
    return [entry for entry in cached if entry.kind is kind and entry.stage == stage]


@pytest.mark.parametrize(
    ("stages", "settings"),
    [("1", {}), ("2", {}), ("12", {}), ("12", {"split": 6, "substream_bits": 8, "context_format": 1})],
)
def test_every_read_of_a_walk_is_a_step_with_its_bytes_and_tags(stages: str, settings: dict[str, int]) -> None:
    unit = Unit(stages, **settings)  # type: ignore[arg-type]
    read: list[tuple[int, int]] = []

    class Watched:
        def read(self, address: int, size: int) -> bytes:
            read.append((address, size))
            return unit.memory.read(address, size)

        def read_u64(self, address: int) -> int:
            read.append((address, 8))
            return unit.memory.read_u64(address)

    engine = type(unit.engine())(unit.all_registers(), Watched())
    engine.translate(Access(requester=SID, iova=IOVA, length=4, kind=AccessKind.READ))
    shown = steps(unit)
    assert [(step.address, step.size) for step in shown] == read
    for step in shown:
        assert step.address is not None
        assert step.cached is not None, step
        assert step.value == int.from_bytes(unit.memory.read(step.address, step.size), "little")


def test_ste_and_cd_are_tagged_with_their_stream_5_2_1_5_4_1() -> None:
    unit = Unit(substream_bits=3)
    unit.cd.describe(5, unit.tree)
    by_name = {step.what: step.cached for step in steps(unit, pasid=5)}
    assert by_name["STE [0x28]"] == CachedEntry(kind=EntryKind.DEVICE, requester=SID, domain=VMID)
    assert by_name["CD [0x5]"] == CachedEntry(kind=EntryKind.PROCESS, requester=SID, space=5)


def test_stage_1_entries_are_tagged_with_vmid_asid_and_range_3_17() -> None:
    unit = Unit("12")
    (leaf,) = tags(unit, EntryKind.LEAF, 1)
    whose = CachedEntry(kind=EntryKind.LEAF, domain=VMID, space=ASID, stage=1, granule=12, level=1)
    assert leaf == replace(whose, first=IOVA, last=IOVA + 0xFFF)
    table = tags(unit, EntryKind.TABLE, 1)[-1]
    assert (table.first, table.last, table.space) == (IOVA & ~0x1F_FFFF, IOVA | 0x1F_FFFF, ASID)
    assert (table.granule, table.level) == (12, 2)


def test_global_leaf_has_no_asid_3_17_1() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"NG": 0})
    (leaf,) = tags(unit, EntryKind.LEAF, 1)
    assert leaf.is_global
    assert leaf.space is None


@pytest.mark.parametrize("not_global", [0, 1])
@pytest.mark.parametrize(
    ("inner", "outer", "is_kept"),
    [
        ({"AP": 0b11}, {}, True),
        ({}, {"S2AP": 0b01}, True),
        ({"AF": 0}, {}, False),
        ({"VALID": 0}, {}, False),
    ],
    ids=["permission", "stage 2", "access flag", "not valid"],
)
def test_a_fault_says_whether_a_global_page_that_caches_may_hold_led_to_it(
    not_global: int, inner: dict[str, int], outer: dict[str, int], is_kept: bool
) -> None:
    unit = Unit("12")
    unit.tree.set_fields(IOVA, 1, {"NG": not_global, **inner})
    unit.outer.set_fields(IPA, 1, outer)
    fault = unit.engine().translate(Access(requester=SID, iova=IOVA, length=4, kind=AccessKind.WRITE))
    assert isinstance(fault, Fault)
    assert fault.is_global is (is_kept and not not_global)


def test_stage_2_entries_are_tagged_with_vmid_and_ipa_3_17() -> None:
    leaf = tags(Unit("12"), EntryKind.LEAF, 2)[-1]
    assert (leaf.domain, leaf.space, leaf.first, leaf.last) == (VMID, None, IPA, IPA + 0xFFF)


def test_upper_table_is_tagged_with_its_own_addresses() -> None:
    unit = Unit()
    upper = RadixTable(unit.pages, Stage1Format(input_bits=39), 3)
    upper.map(0x3000, OUTPUT, 0x1000)
    unit.cd.describe(0, None, upper=upper, overrides={"TBI1": 1})
    iova = (1 << 64) - (1 << 39) + 0x3000
    shown = steps(unit, iova & ~(0xFF << 56) | 0x5A << 56)
    leaf = shown[-1].cached
    assert leaf is not None
    assert (leaf.first, leaf.last) == (iova, iova + 0xFFF)


@pytest.mark.parametrize("fields", [{"VALID": 0}, {"AF": 0}, {"ADDR": 1 << 46}])
def test_descriptor_that_faults_is_not_cached(fields: dict[str, int]) -> None:
    unit = Unit(caps={"address_bits": 44})
    unit.tree.set_fields(IOVA, 1, fields)
    assert steps(unit)[-1].cached is None


@pytest.mark.parametrize("field", ["HA", "AFFD"])
def test_leaf_without_access_flag_is_cached_where_that_is_no_fault_3_13(field: str) -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"AF": 0})
    unit.cd.set_fields(0, {field: 1})
    assert tags(unit, EntryKind.LEAF, 1)


def test_el2_regime_has_neither_asids_nor_global_pages_3_17() -> None:
    unit = Unit(caps={"HYP": 1})
    unit.tables.set_fields(SID, {"STRW": 0b10})
    unit.tree.set_fields(IOVA, 1, {"NG": 0})
    (leaf,) = tags(unit, EntryKind.LEAF, 1)
    assert (leaf.space, leaf.is_global) == (None, False)


def test_without_stage_2_in_the_smmu_there_are_no_vmids_3_17() -> None:
    assert tags(Unit(caps={"stages": frozenset({1})}), EntryKind.LEAF, 1)[0].domain == 0


# iter_mappings.


def test_mappings_are_the_pages_in_order() -> None:
    unit = Unit()
    unit.tree.map(0x1000, OUTPUT + 0x9000, 0x1000, Permissions.READ)
    unit.tree.map(1 << 30, 1 << 31, 1 << 30, Permissions.READ | Permissions.EXECUTE)
    assert list(unit.engine().iter_mappings(SID)) == [
        Mapping(0x1000, OUTPUT + 0x9000, 0x1000, Permissions.READ),
        Mapping(IOVA, OUTPUT, 0x1000, RW),
        Mapping(1 << 30, 1 << 31, 1 << 30, Permissions.READ | Permissions.EXECUTE),
    ]


def test_mappings_of_both_tables_are_in_order() -> None:
    unit = Unit()
    upper = RadixTable(unit.pages, Stage1Format(input_bits=30), 2)
    upper.map(0x3000, OUTPUT + 0x1000, 0x1000)
    unit.cd.describe(0, unit.tree, upper=upper)
    first = (1 << 64) - (1 << 30) + 0x3000
    assert [mapping.iova for mapping in unit.engine().iter_mappings(SID)] == [IOVA, first]


def test_mappings_go_through_stage_2_in_pieces_that_both_map() -> None:
    unit = Unit("12")
    unit.tree.map(1 << 30, 1 << 33, 1 << 21, Permissions.READ)
    unit.outer.map((1 << 33) + 0x1000, OUTPUT + 0x5000, 0x1000)
    unit.outer.map((1 << 33) + 0x10_0000, OUTPUT + 0x7000, 0x1000, Permissions.WRITE)
    unit.outer.map((1 << 33) + 0x1F_F000, OUTPUT + 0x8000, 0x1000)
    assert list(unit.engine().iter_mappings(SID)) == [
        Mapping(IOVA, OUTPUT, 0x1000, RW),
        Mapping((1 << 30) + 0x1000, OUTPUT + 0x5000, 0x1000, Permissions.READ),
        Mapping((1 << 30) + 0x1F_F000, OUTPUT + 0x8000, 0x1000, Permissions.READ),
    ]


def test_mapping_of_a_page_inside_a_larger_one_of_stage_2_ends_with_the_page() -> None:
    unit = Unit("12")
    unit.tree.map(0x1000, (1 << 33) + 0x3000, 0x1000)
    unit.outer.map(1 << 33, 1 << 32, 1 << 21)
    assert next(unit.engine().iter_mappings(SID)) == Mapping(0x1000, (1 << 32) + 0x3000, 0x1000, RW)


def test_mappings_are_listed_with_the_rights_that_are_left() -> None:
    unit = Unit("12")
    unit.outer.set_fields(IPA, 1, {"S2AP": 0b10})
    assert list(unit.engine().iter_mappings(SID)) == [Mapping(IOVA, OUTPUT, 0x1000, Permissions.WRITE)]


@pytest.mark.parametrize("readable", [True, False])
def test_table_that_stage_2_does_not_let_read_is_not_listed_7_3_16(readable: bool) -> None:
    unit = Unit("12")
    table = (unit.tree.entry_address(IOVA, 1) & ~0xFFF) + MOVED
    unit.outer.map(0x7000_0000, table, 0x1000, Permissions.READ if readable else Permissions.WRITE)
    unit.tree.set_fields(IOVA, 2, {"ADDR": 0x7000_0000})
    assert list(unit.engine().iter_mappings(SID)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)] * readable


def test_mappings_do_not_depend_on_flags_that_hardware_would_set_3_13() -> None:
    unit = Unit("12")
    unit.tables.set_fields(SID, {"S2HA": 1})
    unit.outer.set_fields(IPA, 1, {"AF": 0})
    unit.outer.set_fields(TABLES_IPA, 2, {"AF": 0})
    assert list(unit.engine().iter_mappings(SID)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)]


@pytest.mark.parametrize("device_tables", [False, True])
def test_s2ptw_keeps_tables_in_device_memory_out_of_the_listing_but_not_pages_5_2(device_tables: bool) -> None:
    unit = Unit("12")
    unit.tables.set_fields(SID, {"S2PTW": 1})
    unit.outer.set_fields(IPA, 1, {"MEMATTR": 0})
    # The last stage 1 table alone lies in device memory, or in ordinary one.
    table = (unit.tree.entry_address(IOVA, 1) & ~0xFFF) + MOVED
    unit.outer.map(0x7000_0000, table, 0x1000)
    unit.outer.set_fields(0x7000_0000, 1, {"MEMATTR": 0 if device_tables else 0b1111})
    unit.tree.set_fields(IOVA, 2, {"ADDR": 0x7000_0000})
    assert list(unit.engine().iter_mappings(SID)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)] * (not device_tables)


def test_mappings_of_stage_2_alone() -> None:
    assert list(Unit("2").engine().iter_mappings(SID)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)]


def test_mappings_of_bypass_are_everything_below_the_oas() -> None:
    everything = [Mapping(0, 0, 1 << 48, RW)]
    assert list(Unit("").engine().iter_mappings(SID)) == everything
    assert list(Unit(registers={"cr0": 0}).engine().iter_mappings(SID)) == everything
    unit = Unit(substream_bits=1)
    unit.tables.set_fields(SID, {"S1DSS": 0b01})
    assert list(unit.engine().iter_mappings(SID)) == everything
    assert list(unit.engine().iter_mappings(SID, 0)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)]


@pytest.mark.parametrize(
    ("fields", "registers"),
    [({"V": 0}, {}), ({"CONFIG": 0}, {}), ({"S1CONTEXTPTR": 0x2_0000_0000}, {}), ({}, {"cr0": 0, "gbpa": 1 << 20})],
)
def test_stream_that_lets_nothing_pass_maps_nothing(fields: dict[str, int], registers: dict[str, int]) -> None:
    unit = Unit(registers=registers)
    unit.tables.set_fields(SID, fields)
    assert list(unit.engine().iter_mappings(SID)) == []
    assert list(unit.engine().iter_mappings(SID, 3)) == []


def test_table_that_is_its_own_ancestor_cannot_be_listed_but_is_walked() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 3, {"ADDR": unit.tree.root})
    with pytest.raises(TableLoop, match="reached again"):
        list(unit.engine().iter_mappings(SID))
    unit.access()


def test_privilege_of_the_mappings_is_that_of_privcfg() -> None:
    unit = Unit()
    unit.tree.set_fields(IOVA, 1, {"AP": 0b00})
    assert list(unit.engine().iter_mappings(SID)) == []
    unit.tables.set_fields(SID, {"PRIVCFG": 0b11})
    assert list(unit.engine().iter_mappings(SID)) == [Mapping(IOVA, OUTPUT, 0x1000, RW)]


def test_tables_of_the_test_unit_lie_where_stage_2_puts_them() -> None:
    unit = Unit("12")
    tables = [step.address for step in steps(unit) if step.what.startswith(("CD", "stage 1"))]
    assert all(at is not None and TABLES_IPA + MOVED <= at < TABLES_IPA + MOVED + TABLES_SIZE for at in tables)
