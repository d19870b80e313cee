"""The commands of the RISC-V IOMMU: which are legal, and what each drops or writes (4.1, 9.2, 9.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.access import MemoryWrite
from harness.model.engine import CommandResult
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation
from harness.model.memory import Region, SparseMemory
from harness.model.riscv import RiscvIommuCommandError, RiscvIommuEngine, RiscvIommuRegisters
from harness.model.riscv.commands import encode_command
from harness.model.riscv.registers import capabilities
from harness.model.riscv.tags import HOST, StageTags, directory_entry, msi_entry, page_entry

ILLEGAL = CommandResult(error=RiscvIommuCommandError.ILLEGAL)
EXTENSIONS = capabilities() | capabilities(features=frozenset({"NL", "S"}))
MEMORY = SparseMemory((Region(0, 0x10000),))
PAGE = 0x1234_5000


def submit(name: str, *, caps: int = EXTENSIONS, ddtp: int = 4, fctl: int = 2, **fields: int) -> CommandResult:
    registers = RiscvIommuRegisters(capabilities=caps, ddtp=ddtp, fctl=fctl)
    command = encode_command(name, big_endian=bool(fctl & 1), **fields)
    return RiscvIommuEngine(registers, MEMORY).submit(command)


def drops(result: CommandResult, entry: CachedEntry) -> bool:
    assert result.error is None
    return any(invalidation.drops(entry) for invalidation in result.invalidations)


def first_stage(
    domain: int = HOST, space: int = 7, page: int = PAGE, *, is_leaf: bool = True, is_global: bool = False
) -> CachedEntry:
    return page_entry(StageTags(1, domain, space), page, 0x1000, is_leaf=is_leaf, is_global=is_global)


def second_stage(domain: int = 3, page: int = PAGE, *, is_leaf: bool = True) -> CachedEntry:
    return page_entry(StageTags(2, domain, None), page, 0x1000, is_leaf=is_leaf, is_global=False)


# Formats.


def test_the_fields_of_the_commands_are_where_4_1_has_them() -> None:
    assert encode_command("IOTINVAL.VMA", AV=1, PSCID=0xABCDE, PSCV=1, GV=1, NL=1, GSCID=0x1234, S=1, ADDR=5) == (
        1 | 1 << 10 | 0xABCDE << 12 | 7 << 32 | 0x1234 << 44
    ).to_bytes(8, "little") + (1 << 9 | 5 << 10).to_bytes(8, "little")
    assert encode_command("IOFENCE.C", AV=1, WSI=1, PR=1, PW=1, DATA=0xDEADBEEF, ADDR=0x400) == (
        2 | 0xF << 10 | 0xDEADBEEF << 32
    ).to_bytes(8, "little") + (0x400).to_bytes(8, "little")
    assert encode_command("IODIR.INVAL_PDT", PID=0xABCDE, DV=1, DID=0x123456) == (
        3 | 1 << 7 | 0xABCDE << 12 | 1 << 33 | 0x123456 << 40
    ).to_bytes(16, "little")
    assert encode_command("ATS.PRGR", PID=1, PV=1, DSV=1, RID=0x28, DSEG=9, PAYLOAD=6) == (
        4 | 1 << 7 | 1 << 12 | 3 << 32 | 0x28 << 40 | 9 << 56
    ).to_bytes(8, "little") + (6).to_bytes(8, "little")


def test_a_command_of_another_size_is_refused() -> None:
    engine = RiscvIommuEngine(RiscvIommuRegisters(capabilities=0), MEMORY)
    with pytest.raises(SpecError, match="no command of 128 bits"):
        engine.submit(bytes(8))


def test_an_unknown_command_is_not_built() -> None:
    with pytest.raises(SpecError, match=r"IOFENCE\.C"):
        encode_command("IOFENCE.D")


def test_a_value_that_does_not_fit_a_command_is_refused() -> None:
    with pytest.raises(SpecError, match="PSCID"):
        encode_command("IOTINVAL.VMA", PSCID=1 << 20)


@pytest.mark.parametrize("opcode", [0, *range(5, 128)])
def test_an_opcode_that_is_not_there_is_illegal_4_1(opcode: int) -> None:
    engine = RiscvIommuEngine(RiscvIommuRegisters(capabilities=EXTENSIONS), MEMORY)
    assert engine.submit(opcode.to_bytes(16, "little")).error is RiscvIommuCommandError.ILLEGAL


@pytest.mark.parametrize("function", range(1, 8))
def test_a_function_that_is_not_there_is_illegal_4_1(function: int) -> None:
    for name in ("IOFENCE.C", *(("IOTINVAL.VMA", "IODIR.INVAL_DDT", "ATS.INVAL") if function > 1 else ())):
        assert submit(name, func3=function) == ILLEGAL


RESERVED = [
    ("IOTINVAL.VMA", ("RSVD_11", "RSVD_35", "RSVD_60", "RSVD_64", "RSVD_126")),
    ("IOTINVAL.GVMA", ("RSVD_11", "RSVD_35", "RSVD_60", "RSVD_64", "RSVD_126", "PSCV")),
    ("IOFENCE.C", ("RSVD_14", "RSVD_126")),
    ("IODIR.INVAL_DDT", ("RSVD_10", "RSVD_32", "RSVD_34", "RSVD_64", "PID")),
    ("IODIR.INVAL_PDT", ("RSVD_10", "RSVD_32", "RSVD_34", "RSVD_64")),
    ("ATS.INVAL", ("RSVD_10", "RSVD_34")),
    ("ATS.PRGR", ("RSVD_10", "RSVD_34")),
]


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in RESERVED for field in fields])
def test_a_reserved_bit_of_a_command_is_illegal_4_1(name: str, field: str) -> None:
    legal = {"DV": 1} if name == "IODIR.INVAL_PDT" else {}
    assert submit(name, **legal).error is None
    assert submit(name, **legal, **{field: 1}) == ILLEGAL


@pytest.mark.parametrize("name", ["IOTINVAL.VMA", "IOTINVAL.GVMA"])
@pytest.mark.parametrize("bit", ["NL", "S"])
def test_nl_and_s_are_reserved_without_their_extensions_9_2_9_3(name: str, bit: str) -> None:
    assert submit(name, **{bit: 1}).error is None
    assert submit(name, caps=capabilities(), **{bit: 1}) == ILLEGAL


def test_the_ats_commands_need_ats_4_1_4() -> None:
    for name in ("ATS.INVAL", "ATS.PRGR"):
        assert submit(name, caps=capabilities(without=frozenset({"ATS"}))) == ILLEGAL


def test_iofence_wsi_needs_wired_interrupts_4_1_2() -> None:
    assert submit("IOFENCE.C", WSI=1, fctl=2).error is None
    assert submit("IOFENCE.C", WSI=1, fctl=0) == ILLEGAL


@pytest.mark.parametrize(("ddtp", "bits"), [(2, 6), (3, 15)])
@pytest.mark.parametrize("name", ["IODIR.INVAL_DDT", "IODIR.INVAL_PDT"])
def test_a_did_wider_than_the_mode_is_illegal_4_1_3(name: str, ddtp: int, bits: int) -> None:
    assert submit(name, ddtp=ddtp, DV=1, DID=(1 << bits) - 1).error is None
    assert submit(name, ddtp=ddtp, DV=1, DID=1 << bits) == ILLEGAL


def test_the_did_is_ignored_without_dv_4_1_3() -> None:
    assert submit("IODIR.INVAL_DDT", ddtp=2, DID=0xFFFFFF).error is None


def test_inval_pdt_needs_dv_and_a_pid_no_wider_than_supported_4_1_3() -> None:
    assert submit("IODIR.INVAL_PDT") == ILLEGAL
    narrow = capabilities(without=frozenset({"PD17", "PD20"}))
    assert submit("IODIR.INVAL_PDT", caps=narrow, DV=1, PID=0xFF).error is None
    assert submit("IODIR.INVAL_PDT", caps=narrow, DV=1, PID=0x100) == ILLEGAL


@given(st.binary(min_size=16, max_size=16), st.integers(0, (1 << 64) - 1), st.integers(0, 7), st.integers(0, 15))
def test_any_16_bytes_lead_to_a_result(command: bytes, caps: int, fctl: int, ddtp: int) -> None:
    registers = RiscvIommuRegisters(capabilities=caps, fctl=fctl, ddtp=ddtp)
    assert isinstance(RiscvIommuEngine(registers, MEMORY).submit(command), CommandResult)


# IOTINVAL.VMA (4.1.1).


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize("av", [0, 1])
@pytest.mark.parametrize("pscv", [0, 1])
def test_iotinval_vma_drops_what_its_operands_name_and_no_more_4_1_1(guest: bool, av: int, pscv: int) -> None:
    domain = 3 if guest else HOST
    result = submit("IOTINVAL.VMA", GV=int(guest), GSCID=3, AV=av, PSCV=pscv, PSCID=7, ADDR=PAGE >> 12)
    assert drops(result, first_stage(domain))
    assert drops(result, first_stage(domain, space=8)) == (not pscv)
    assert drops(result, first_stage(domain, page=PAGE + 0x1000)) == (not av)
    assert drops(result, first_stage(domain, is_leaf=False)) == (not av)
    assert drops(result, first_stage(domain, is_global=True)) == (not pscv)
    for other in (HOST, 3, 4):
        if other != domain:
            assert not drops(result, first_stage(other))
    assert not drops(result, second_stage(3))
    assert not drops(result, msi_entry(3, PAGE, 0))
    assert not drops(result, directory_entry(0x28, None, is_leaf=True))


def test_iotinval_vma_with_nl_drops_tables_of_the_address_too_9_2() -> None:
    table = page_entry(StageTags(1, HOST, 7), 0x1220_0000, 1 << 21, is_leaf=False, is_global=False)
    assert not drops(submit("IOTINVAL.VMA", AV=1, ADDR=PAGE >> 12), table)
    assert drops(submit("IOTINVAL.VMA", AV=1, NL=1, ADDR=PAGE >> 12), table)
    assert not drops(submit("IOTINVAL.VMA", AV=1, NL=1, ADDR=0), table)


def test_an_address_within_a_large_page_drops_it_4_1_1() -> None:
    large = page_entry(StageTags(1, HOST, 7), 0x1220_0000, 1 << 21, is_leaf=True, is_global=False)
    assert drops(submit("IOTINVAL.VMA", AV=1, ADDR=PAGE >> 12), large)


@pytest.mark.parametrize(
    ("address", "first", "last"),
    [
        (0x10, 0x10, 0x11),
        (0x11, 0x10, 0x13),
        (0x17, 0x10, 0x1F),
        (0x0FFF, 0, 0x1FFF),
        ((1 << 51) - 1, 0, (1 << 52) - 1),
        ((1 << 52) - 1, 0, (1 << 52) - 1),
    ],
)
def test_with_s_the_address_says_the_size_of_the_range_9_3(address: int, first: int, last: int) -> None:
    for name in ("IOTINVAL.VMA", "IOTINVAL.GVMA"):
        for one in submit(name, GV=1, AV=1, S=1, ADDR=address).invalidations:
            assert (one.first, one.last) == (first << 12, (last + 1 << 12) - 1)


# IOTINVAL.GVMA (4.1.1).


@pytest.mark.parametrize("av", [0, 1])
def test_iotinval_gvma_drops_the_second_stage_of_one_guest_4_1_1(av: int) -> None:
    result = submit("IOTINVAL.GVMA", GV=1, GSCID=3, AV=av, ADDR=PAGE >> 12)
    assert drops(result, second_stage(3))
    assert not drops(result, second_stage(4))
    assert drops(result, second_stage(3, PAGE + 0x1000)) == (not av)
    assert drops(result, second_stage(3, is_leaf=False)) == (not av)
    # 3.8: MSI page tables are tagged with GSCID and GPA, and go with this command.
    assert drops(result, msi_entry(3, PAGE, 1))
    assert not drops(result, msi_entry(4, PAGE, 1))
    assert drops(result, msi_entry(3, PAGE + 0x1000, 1)) == (not av)
    assert not drops(result, first_stage(3))


def test_iotinval_gvma_without_gv_drops_every_guest_and_ignores_the_rest_9_2_9_3() -> None:
    result = submit("IOTINVAL.GVMA", AV=1, S=1, NL=1, ADDR=0, GSCID=9)
    assert drops(result, second_stage(3))
    assert drops(result, second_stage(4, is_leaf=False))
    assert drops(result, msi_entry(4, PAGE, 1))
    assert not drops(result, first_stage(HOST))


def test_iotinval_gvma_with_nl_drops_tables_of_the_address_too_9_2() -> None:
    table = second_stage(3, is_leaf=False)
    assert drops(submit("IOTINVAL.GVMA", GV=1, GSCID=3, AV=1, NL=1, ADDR=PAGE >> 12), table)


# IODIR (4.1.3).


def test_inval_ddt_of_one_device_drops_its_context_and_its_processes_4_1_3() -> None:
    result = submit("IODIR.INVAL_DDT", DV=1, DID=0x28)
    assert drops(result, directory_entry(0x28, None, is_leaf=True))
    assert drops(result, directory_entry(0x28, 5, is_leaf=True))
    assert drops(result, directory_entry(0x28, 5, is_leaf=False))
    assert not drops(result, directory_entry(0x29, None, is_leaf=True))
    assert not drops(result, directory_entry(0x29, 5, is_leaf=True))
    # Only the leaf-level entry goes.
    assert not drops(result, directory_entry(0x28, None, is_leaf=False))
    assert not drops(result, first_stage())


def test_inval_ddt_of_all_drops_every_directory_entry_4_1_3() -> None:
    result = submit("IODIR.INVAL_DDT", DID=0x28)
    for device in (0x28, 0x29):
        assert drops(result, directory_entry(device, None, is_leaf=True))
        assert drops(result, directory_entry(device, None, is_leaf=False))
        assert drops(result, directory_entry(device, 5, is_leaf=True))


def test_inval_pdt_drops_the_context_of_one_process_4_1_3() -> None:
    result = submit("IODIR.INVAL_PDT", DV=1, DID=0x28, PID=5)
    assert drops(result, directory_entry(0x28, 5, is_leaf=True))
    assert not drops(result, directory_entry(0x28, 6, is_leaf=True))
    assert not drops(result, directory_entry(0x29, 5, is_leaf=True))
    assert not drops(result, directory_entry(0x28, 5, is_leaf=False))
    assert not drops(result, directory_entry(0x28, None, is_leaf=True))


# IOFENCE.C (4.1.2).


def test_iofence_writes_its_data_with_av_only_4_1_2() -> None:
    assert submit("IOFENCE.C", PR=1, PW=1, ADDR=0x400, DATA=1) == CommandResult()
    expected = CommandResult(writes=(MemoryWrite(0x1000, bytes.fromhex("efbeadde")),))
    assert submit("IOFENCE.C", AV=1, ADDR=0x400, DATA=0xDEADBEEF) == expected


def test_iofence_writes_in_the_byte_order_of_be_6_4() -> None:
    expected = CommandResult(writes=(MemoryWrite(0x1000, bytes.fromhex("deadbeef")),))
    assert submit("IOFENCE.C", fctl=1, AV=1, ADDR=0x400, DATA=0xDEADBEEF) == expected


def test_iofence_that_cannot_write_is_a_memory_fault_4_1_2() -> None:
    outcome = submit("IOFENCE.C", AV=1, ADDR=0x10000 >> 2, DATA=1)
    assert outcome == CommandResult(error=RiscvIommuCommandError.MEMORY_FAULT)
    assert submit("IOFENCE.C", AV=1, ADDR=0xFFFC >> 2, DATA=1).error is None
    beyond = submit("IOFENCE.C", caps=capabilities(physical_address_size=12), AV=1, ADDR=0x400)
    assert beyond == CommandResult(error=RiscvIommuCommandError.MEMORY_FAULT)


# ATS (4.1.4).


def test_ats_inval_drops_what_a_device_keeps_of_an_address_4_1_4() -> None:
    result = submit("ATS.INVAL", RID=0x28, PV=1, PID=5, PAYLOAD=PAGE)
    assert result.invalidations == (
        Invalidation(kinds=frozenset({EntryKind.DEVICE_TLB}), requester=0x28, space=5, first=PAGE, last=PAGE + 0xFFF),
    )
    result = submit("ATS.INVAL", RID=0x28, DSV=1, DSEG=2, PV=1, PID=5, PAYLOAD=0x7000 | 1 << 11 | 1)
    (one,) = result.invalidations
    assert (one.requester, one.space, one.first, one.last) == (0x2_0028, None, 0, 0xFFFF)
    # DSEG counts with DSV only.
    (one,) = submit("ATS.INVAL", RID=0x28, DSEG=2, PAYLOAD=PAGE).invalidations
    assert one.requester == 0x28


def test_ats_prgr_changes_nothing_of_the_iommu_4_1_4() -> None:
    assert submit("ATS.PRGR", RID=0x28, PAYLOAD=1 << 32) == CommandResult()
