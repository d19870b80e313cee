"""The commands: layout, what is illegal, what they invalidate (AMD-Vi 2.4)."""

from __future__ import annotations

import pytest
from amdvi_unit import Unit
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.access import MemoryWrite
from harness.model.amdvi import AmdviEngine, AmdviEventCode, AmdviOpcode, AmdviRegisters, make_command
from harness.model.amdvi.commands import COMMANDS
from harness.model.amdvi.registers import extended_features
from harness.model.engine import CommandResult, MsiWrite
from harness.model.invalidation import EVERYTHING, CachedEntry, EntryKind, Invalidation
from harness.model.memory import SparseMemory

ILLEGAL = CommandResult(error=AmdviEventCode.ILLEGAL_COMMAND_ERROR)
EVERYWHERE = 0x7FFF_FFFF_FFFF_F000
LEAF, TABLE = EntryKind.LEAF, EntryKind.TABLE


def submit(command: int) -> CommandResult:
    return Unit().engine().submit(command)


def only(result: CommandResult) -> Invalidation:
    assert result.error is None
    (invalidation,) = result.invalidations
    return invalidation


def pages(**fields: int) -> CommandResult:
    return submit(make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, fields))


@pytest.mark.parametrize(
    ("opcode", "fields", "low", "high"),
    [
        (
            AmdviOpcode.COMPLETION_WAIT,
            {"s": 1, "i": 1, "f": 1, "StoreAddress": 0xF_EDCB_A987_6540, "StoreData": 0x1122_3344_5566_7788},
            0x100F_EDCB_A987_6547,
            0x1122_3344_5566_7788,
        ),
        (AmdviOpcode.INVALIDATE_DEVTAB_ENTRY, {"DeviceID": 0xABCD}, 0x2000_0000_0000_ABCD, 0),
        (
            AmdviOpcode.INVALIDATE_IOMMU_PAGES,
            {"PASID": 0x1_2345, "DomainID": 0xABCD, "S": 1, "PDE": 1, "GN": 1, "Address": 0x1234_5678_9ABC_D000},
            0x3000_ABCD_0001_2345,
            0x1234_5678_9ABC_D007,
        ),
        (
            AmdviOpcode.INVALIDATE_IOTLB_PAGES,
            {
                "DeviceID": 0xABCD,
                "PASID_15_8": 0x23,
                "PASID_7_0": 0x45,
                "PASID_19_16": 0x1,
                "Maxpend": 0x67,
                "QueueID": 0x89AB,
                "S": 1,
                "GN": 1,
                "Type": 2,
                "Address": 0x1000,
            },
            0x4145_89AB_6723_ABCD,
            0x1025,
        ),
        (AmdviOpcode.INVALIDATE_INTERRUPT_TABLE, {"DeviceID": 0xABCD}, 0x5000_0000_0000_ABCD, 0),
        (
            AmdviOpcode.PREFETCH_IOMMU_PAGES,
            {"DeviceID": 0xABCD, "PFCount": 0x67, "PASID": 0x1_2345, "Inval": 1, "Address": 0x1000},
            0x6001_2345_6700_ABCD,
            0x1010,
        ),
        (
            AmdviOpcode.COMPLETE_PPR_REQUEST,
            {"DeviceID": 0xABCD, "PASID": 0x1_2345, "GN": 1, "CompletionTag": 0x6789},
            0x7001_2345_0000_ABCD,
            0x0000_6789_0000_0004,
        ),
        (AmdviOpcode.INVALIDATE_IOMMU_ALL, {}, 0x8000_0000_0000_0000, 0),
    ],
)
def test_fields_stand_where_the_specification_has_them(
    opcode: AmdviOpcode, fields: dict[str, int], low: int, high: int
) -> None:
    command = make_command(opcode, fields)
    assert command == high << 64 | low
    assert submit(command) != ILLEGAL


@pytest.mark.parametrize("opcode", list(COMMANDS))
def test_every_command_covers_its_128_bits_once(opcode: AmdviOpcode) -> None:
    assert sum(entry.mask for entry in COMMANDS[opcode].fields) == (1 << 128) - 1
    assert sum(entry.width for entry in COMMANDS[opcode].fields) == 128


@pytest.mark.parametrize("opcode", list(COMMANDS))
def test_a_reserved_bit_makes_a_command_illegal_2_5_6(opcode: AmdviOpcode) -> None:
    for entry in COMMANDS[opcode].fields:
        if entry.name.startswith("RSVD"):
            for bit in (entry.low, entry.low + entry.width - 1):
                assert submit(make_command(opcode) | 1 << bit) == ILLEGAL


@pytest.mark.parametrize("opcode", [0, 9, 10, 11, 12, 13, 14, 15])
def test_unknown_commands_and_those_of_virtual_iommus_are_illegal(opcode: int) -> None:
    assert submit(opcode << 60) == ILLEGAL


@pytest.mark.parametrize(
    ("opcode", "feature"),
    [
        (AmdviOpcode.PREFETCH_IOMMU_PAGES, "PreFSup"),
        (AmdviOpcode.COMPLETE_PPR_REQUEST, "PPRSup"),
        (AmdviOpcode.INVALIDATE_IOMMU_ALL, "IASup"),
    ],
)
def test_a_command_takes_its_feature(opcode: AmdviOpcode, feature: str) -> None:
    unit = Unit(extended_feature=extended_features(features={}))
    assert unit.engine().submit(make_command(opcode)) == ILLEGAL
    unit = Unit(extended_feature=extended_features(features={feature: 1}))
    assert unit.engine().submit(make_command(opcode)).error is None


def test_iotlb_invalidation_takes_iotlbsup_3_2() -> None:
    command = make_command(AmdviOpcode.INVALIDATE_IOTLB_PAGES)
    assert Unit(registers={"capability_header": 0xF}).engine().submit(command) == ILLEGAL
    assert submit(command).error is None


def test_type_takes_invlotlbtypesup() -> None:
    command = make_command(AmdviOpcode.INVALIDATE_IOTLB_PAGES, {"Type": 1})
    unit = Unit(extended_feature=extended_features(features={}))
    assert unit.engine().submit(command) == ILLEGAL


@pytest.mark.parametrize("fields", [{"GN": 1}, {"PASID": 1}])
def test_gn_and_pasid_are_reserved_without_gtsup(fields: dict[str, int]) -> None:
    unit = Unit(extended_feature=extended_features(features={}))
    command = make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, fields)
    assert unit.engine().submit(command) == ILLEGAL
    assert submit(command).error is None


# COMPLETION_WAIT (2.4.1)


def wait(unit: Unit, **fields: int) -> CommandResult:
    return unit.engine().submit(make_command(AmdviOpcode.COMPLETION_WAIT, fields))


def test_completion_wait_stores_with_s_only() -> None:
    unit = Unit()
    result = wait(unit, s=1, StoreAddress=0x1008, StoreData=0x1122_3344_5566_7788)
    assert result.writes == (MemoryWrite(0x1008, bytes.fromhex("8877665544332211")),)
    assert wait(unit, StoreAddress=0x1008, StoreData=1) == CommandResult()


def test_a_store_outside_of_memory_is_a_hardware_error() -> None:
    result = wait(Unit(), s=1, StoreAddress=0x7000_0000)
    assert result == CommandResult(error=AmdviEventCode.COMMAND_HARDWARE_ERROR)


MSI = {"msi_header": 1 << 16, "msi_address_low": 0xFEE0_1000, "msi_data": 0x41, "device_id": 2}


def test_completion_wait_interrupts_with_i_and_comwaitinten() -> None:
    unit = Unit(registers=MSI)
    assert wait(unit, i=1).interrupt is None
    unit.control["ComWaitIntEn"] = 1
    assert wait(unit, i=1).interrupt == MsiWrite(requester=2, address=0xFEE0_1000, data=0x41)
    assert wait(unit, s=1).interrupt is None
    unit.registers["msi_header"] = 0
    assert wait(unit, i=1).interrupt is None


def test_intcapxten_takes_the_interrupt_from_the_xt_register_3_4() -> None:
    unit = Unit(registers={**MSI, "xt_interrupt": 0x0100_0041_0000_0304})
    unit.control |= {"ComWaitIntEn": 1, "IntCapXTEn": 1}
    # Destination 0x01000003, DM.
    assert wait(unit, i=1).interrupt == MsiWrite(requester=2, address=0x0100_0000_FEE0_3004, data=0x4041)


# Invalidations


def test_a_device_entry_is_dropped_for_one_device() -> None:
    drop = only(submit(make_command(AmdviOpcode.INVALIDATE_DEVTAB_ENTRY, {"DeviceID": 5})))
    assert drop.drops(CachedEntry(kind=EntryKind.DEVICE, requester=5, domain=1))
    assert drop.drops(CachedEntry(kind=EntryKind.DEVICE, requester=3 << 16 | 5, domain=1))
    assert not drop.drops(CachedEntry(kind=EntryKind.DEVICE, requester=6, domain=1))
    for kind in EVERYTHING - {EntryKind.DEVICE}:
        assert not drop.drops(CachedEntry(kind=kind, requester=5))


def test_an_interrupt_table_is_dropped_for_one_device() -> None:
    drop = only(submit(make_command(AmdviOpcode.INVALIDATE_INTERRUPT_TABLE, {"DeviceID": 5})))
    assert drop.kinds == {EntryKind.INTERRUPT}
    assert drop.drops(CachedEntry(kind=EntryKind.INTERRUPT, requester=5, index=9))
    assert not drop.drops(CachedEntry(kind=EntryKind.INTERRUPT, requester=4, index=9))


def test_everything_is_dropped_but_what_devices_keep() -> None:
    assert only(submit(make_command(AmdviOpcode.INVALIDATE_IOMMU_ALL))) == Invalidation(kinds=EVERYTHING)


def host_entry(kind: EntryKind, first: int, last: int, domain: int = 7) -> CachedEntry:
    return CachedEntry(kind=kind, domain=domain, stage=2, first=first, last=last)


def guest_entry(kind: EntryKind, first: int, last: int, space: int = 5) -> CachedEntry:
    return CachedEntry(kind=kind, domain=7, space=space, stage=1, first=first, last=last)


def test_pde_0_leaves_directory_entries_2_4_3() -> None:
    drop = only(pages(DomainID=7, S=1, Address=EVERYWHERE))
    assert drop.drops(host_entry(LEAF, 0, 0xFFF))
    assert not drop.drops(host_entry(TABLE, 0, 0x1F_FFFF))
    drop = only(pages(DomainID=7, S=1, PDE=1, Address=EVERYWHERE))
    assert drop.drops(host_entry(TABLE, 0, 0x1F_FFFF))


def test_another_domain_keeps_its_entries() -> None:
    drop = only(pages(DomainID=7, S=1, PDE=1, Address=EVERYWHERE))
    assert not drop.drops(host_entry(LEAF, 0, 0xFFF, domain=8))


def test_gn_0_drops_host_entries_and_gn_1_those_of_one_pasid() -> None:
    host = only(pages(DomainID=7, S=1, Address=EVERYWHERE))
    assert not host.drops(guest_entry(LEAF, 0, 0xFFF))
    guest = only(pages(DomainID=7, S=1, GN=1, PASID=5, Address=EVERYWHERE))
    assert guest.drops(guest_entry(LEAF, 0, 0xFFF))
    assert not guest.drops(guest_entry(LEAF, 0, 0xFFF, space=6))
    assert not guest.drops(host_entry(LEAF, 0, 0xFFF))


def test_gn_1_and_pde_1_drop_gcr3_entries_of_the_pasid() -> None:
    result = pages(DomainID=7, PDE=1, GN=1, PASID=5)
    process = CachedEntry(kind=EntryKind.PROCESS, domain=7, space=5)
    assert any(drop.drops(process) for drop in result.invalidations)
    other = CachedEntry(kind=EntryKind.PROCESS, domain=7, space=6)
    assert not any(drop.drops(other) for drop in result.invalidations)


@pytest.mark.parametrize(
    ("fields", "first", "last"),
    [
        ({"Address": 0x5000}, 0x5000, 0x5FFF),
        ({"Address": 0x4000, "S": 1}, 0x4000, 0x5FFF),
        ({"Address": 0x5000, "S": 1}, 0x4000, 0x7FFF),
        ({"Address": 0x000F_F000, "S": 1}, 0, 0x1F_FFFF),
        ({"Address": 0xFFFF_8000_0000_7000, "S": 1}, 0xFFFF_8000_0000_0000, 0xFFFF_8000_0000_FFFF),
        ({"Address": EVERYWHERE, "S": 1}, 0, (1 << 64) - 1),
        ({"Address": 0xFFFF_FFFF_FFFF_F000, "S": 1}, 0, (1 << 64) - 1),
        ({"Address": EVERYWHERE}, EVERYWHERE, EVERYWHERE + 0xFFF),
    ],
)
def test_s_encodes_the_size_in_the_address(fields: dict[str, int], first: int, last: int) -> None:
    drop = only(pages(DomainID=7, **fields))
    assert (drop.first, drop.last) == (first, last)


def test_device_tlbs_are_invalidated_for_one_device_and_space() -> None:
    fields = {"DeviceID": 5, "PASID_19_16": 1, "PASID_15_8": 0x23, "PASID_7_0": 0x45, "Address": 0x1000}
    with_pasid = only(submit(make_command(AmdviOpcode.INVALIDATE_IOTLB_PAGES, {**fields, "GN": 1})))
    kept = CachedEntry(kind=EntryKind.DEVICE_TLB, requester=5, space=0x1_2345, first=0x1000, last=0x1FFF)
    plain = CachedEntry(kind=EntryKind.DEVICE_TLB, requester=5, first=0x1000, last=0x1FFF)
    assert with_pasid.drops(kept)
    assert not with_pasid.drops(plain)
    without = only(submit(make_command(AmdviOpcode.INVALIDATE_IOTLB_PAGES, {"DeviceID": 5, "Address": 0x1000})))
    assert without.drops(plain)
    assert not without.drops(kept)
    assert not without.drops(CachedEntry(kind=EntryKind.DEVICE_TLB, requester=6, first=0x1000, last=0x1FFF))


# Random


@settings(max_examples=300, deadline=None)
@given(st.integers(0, (1 << 128) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_any_128_bits_are_carried_out_or_refused(command: int, feature: int, control: int) -> None:
    registers = AmdviRegisters(device_table_base=0, extended_feature=feature, control=control)
    result = AmdviEngine(registers, SparseMemory()).submit(command)
    assert result.error is None or result == ILLEGAL
    for drop in result.invalidations:
        assert drop.first is None or drop.first <= (drop.last or 0) < 1 << 64


@pytest.mark.parametrize("command", [-1, 1 << 128])
def test_what_is_no_command_is_refused(command: int) -> None:
    with pytest.raises(SpecError, match="128 bits"):
        submit(command)
