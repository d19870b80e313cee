"""Registers and fault records of the RISC-V IOMMU, bit by bit (4.2, 6)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reasons import assert_every_code_is_reached

from harness.errors import SpecError
from harness.model.riscv import (
    RiscvIommuBlocked,
    RiscvIommuCause,
    RiscvIommuCommandError,
    RiscvIommuFaultRecord,
    RiscvIommuHardwareCause,
    RiscvIommuRegisters,
)
from harness.model.riscv.faults import TransactionType
from harness.model.riscv.register_fields import CAPABILITIES
from harness.model.riscv.registers import InterruptGeneration, IommuMode, MsiTableEntry, capabilities

_FILES = list(Path(__file__).parent.glob("test_*.py"))


def test_every_cause_is_reached() -> None:
    assert_every_code_is_reached(RiscvIommuCause, _FILES)


def test_every_block_without_a_cause_is_reached() -> None:
    assert_every_code_is_reached(RiscvIommuBlocked, _FILES)


def test_every_command_error_is_reached() -> None:
    assert_every_code_is_reached(RiscvIommuCommandError, _FILES)


def test_the_causes_have_the_numbers_of_4_2() -> None:
    causes = {cause.value for cause in (*RiscvIommuCause, *RiscvIommuHardwareCause)}
    assert causes == {1, 4, 5, 6, 7, 12, 13, 15, 20, 21, 23, *range(256, 275)}


# Registers.


def test_the_capability_bits_are_where_6_3_has_them() -> None:
    bits = {
        "Sv32": 8, "Sv39": 9, "Sv48": 10, "Sv57": 11, "Svrsw60t59b": 14, "Svpbmt": 15, "Sv32x4": 16, "Sv39x4": 17,
        "Sv48x4": 18, "Sv57x4": 19, "AMO_MRIF": 21, "MSI_FLAT": 22, "MSI_MRIF": 23, "AMO_HWAD": 24, "ATS": 25,
        "T2GPA": 26, "END": 27, "HPM": 30, "DBG": 31, "PD8": 38, "PD17": 39, "PD20": 40, "QOSID": 41, "NL": 42, "S": 43,
    }  # fmt: skip
    for name, bit in bits.items():
        value = capabilities(
            features=frozenset({name}),
            physical_address_size=0,
            interrupt_generation=InterruptGeneration.MSI,
            version=0,
        )
        assert value == 1 << bit
        assert RiscvIommuRegisters(capabilities=value).has(name)


def test_the_capability_fields_cover_the_register() -> None:
    assert sum(field.mask for field in CAPABILITIES.fields) == (1 << 64) - 1
    value = capabilities(physical_address_size=56, interrupt_generation=InterruptGeneration.WSI, version=0x12)
    registers = RiscvIommuRegisters(capabilities=value)
    assert (registers.physical_address_size, registers.interrupt_generation, value & 0xFF) == (56, 1, 0x12)


@pytest.mark.parametrize(
    ("features", "bits"),
    [({"PD8"}, 8), ({"PD8", "PD17"}, 17), ({"PD20", "PD8"}, 20), (set(), 0)],
)
def test_the_widest_process_directory_says_how_wide_a_process_id_is_6_3(features: set[str], bits: int) -> None:
    assert RiscvIommuRegisters(capabilities=capabilities(features=frozenset(features))).process_id_bits == bits


def test_ddtp_has_its_mode_in_bits_3_0_and_its_ppn_from_bit_10_6_5() -> None:
    registers = RiscvIommuRegisters(capabilities=0, ddtp=0x3F_FFFF_FFFF_FC00 | 3)
    assert (registers.iommu_mode, registers.ddt_root) == (IommuMode.TWO_LEVEL, ((1 << 44) - 1) << 12)


def test_every_register_is_read_at_its_offset_6_1() -> None:
    reads: dict[int, int] = {}

    def read(offset: int, size: int) -> int:
        reads[offset] = size
        return offset + 1

    registers = RiscvIommuRegisters.read(read, gxl_writable=True, qos_id_bits=3)
    assert {offset: size for offset, size in reads.items() if offset < 768} == {
        0: 8, 8: 4, 16: 8, 24: 8, 32: 4, 36: 4, 40: 8, 48: 4, 52: 4, 56: 8, 64: 4, 68: 4, 72: 4, 76: 4, 80: 4, 84: 4,
        760: 8,
    }  # fmt: skip
    assert (registers.capabilities, registers.fctl, registers.ddtp, registers.cqb) == (1, 9, 17, 25)
    assert (registers.cqh, registers.cqt, registers.fqb, registers.fqh, registers.fqt) == (33, 37, 41, 49, 53)
    assert (registers.pqb, registers.pqh, registers.pqt) == (57, 65, 69)
    assert (registers.cqcsr, registers.fqcsr, registers.pqcsr, registers.ipsr) == (73, 77, 81, 85)
    assert registers.icvec == 761
    assert registers.msi_cfg_tbl[0] == MsiTableEntry(769, 777, 781)
    assert registers.msi_cfg_tbl[15] == MsiTableEntry(1009, 1017, 1021)
    assert {offset: size for offset, size in reads.items() if offset >= 768} == {
        768 + 16 * number + offset: size for number in range(16) for offset, size in ((0, 8), (8, 4), (12, 4))
    }
    assert (registers.gxl_writable, registers.qos_id_bits) == (True, 3)


def test_what_no_register_says_is_told_when_they_are_read() -> None:
    told = RiscvIommuRegisters.read(lambda offset, size: 0, be_writable=False, big_endian_msis=True)
    assert (told.be_writable, told.big_endian_msis) == (False, True)
    untold = RiscvIommuRegisters.read(lambda offset, size: 0)
    assert untold == RiscvIommuRegisters(capabilities=0, msi_cfg_tbl=(MsiTableEntry(),) * 16)


@pytest.mark.parametrize(
    "values",
    [
        {"capabilities": 1 << 64},
        {"capabilities": -1},
        {"fctl": 1 << 32},
        {"ddtp": 1 << 64},
        *({name: 1 << 32} for name in ("cqh", "cqt", "cqcsr", "fqh", "fqt", "fqcsr", "pqh", "pqt", "pqcsr", "ipsr")),
        *({name: 1 << 64} for name in ("cqb", "fqb", "pqb", "icvec")),
        {"qos_id_bits": -1},
        {"qos_id_bits": 13},
        {"msi_cfg_tbl": (MsiTableEntry(),) * 17},
    ],
)
def test_registers_that_do_not_fit_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(SpecError):
        RiscvIommuRegisters(**{"capabilities": 0, **values})  # type: ignore[arg-type]


def test_the_widest_values_are_taken() -> None:
    doublewords = dict.fromkeys(("capabilities", "ddtp", "cqb", "fqb", "pqb", "icvec"), (1 << 64) - 1)
    words = dict.fromkeys(
        ("fctl", "cqh", "cqt", "cqcsr", "fqh", "fqt", "fqcsr", "pqh", "pqt", "pqcsr", "ipsr"), (1 << 32) - 1
    )
    table = (MsiTableEntry(),) * 16
    registers = RiscvIommuRegisters(**doublewords, **words, qos_id_bits=12, msi_cfg_tbl=table)  # type: ignore[arg-type]
    assert (registers.icvec, registers.ipsr) == ((1 << 64) - 1, (1 << 32) - 1)


# Fault records.


def test_a_record_has_its_fields_where_4_2_has_them() -> None:
    record = RiscvIommuFaultRecord(
        cause=RiscvIommuCause.WRITE_GUEST_PAGE_FAULT,
        transaction_type=TransactionType.UNTRANSLATED_WRITE,
        device_id=0xABCDEF,
        process_id=0x54321,
        privileged=True,
        iotval=0x1122_3344_5566_7788,
        iotval2=0x99AA_BBCC_DDEE_FF03,
    )
    assert record.encode() == bytes.fromhex(
        "17 10 32 54"  # CAUSE 0x017 in bits 11:0, PID above
        "0f ef cd ab"  # PV, PRIV, TTYP 3 from bit 34, DID from bit 40
        "00 00 00 00 00 00 00 00"
        "88 77 66 55 44 33 22 11"
        "03 ff ee dd cc bb aa 99"
    )


def test_a_big_endian_record_has_each_doubleword_the_other_way_round_4_2() -> None:
    record = RiscvIommuFaultRecord(cause=258, transaction_type=2, device_id=5, iotval=0x1234)
    plain, other = record.encode(), record.encode(big_endian=True)
    # Without a process_id, PID and PV are 0.
    assert plain[:8] == (5 << 40 | 2 << 34 | 258).to_bytes(8, "little")
    assert [other[at : at + 8] for at in range(0, 32, 8)] == [plain[at : at + 8][::-1] for at in range(0, 32, 8)]
    assert RiscvIommuFaultRecord.decode(other, big_endian=True) == record


@given(
    st.integers(0, 4095),
    st.integers(0, 63),
    st.integers(0, (1 << 24) - 1),
    st.none() | st.integers(0, (1 << 20) - 1),
    st.booleans(),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.booleans(),
)
def test_decode_gives_back_what_was_encoded(
    cause: int,
    transaction_type: int,
    device_id: int,
    process_id: int | None,
    privileged: bool,
    iotval: int,
    iotval2: int,
    big_endian: bool,
) -> None:
    record = RiscvIommuFaultRecord(
        cause=cause,
        transaction_type=transaction_type,
        device_id=device_id,
        process_id=process_id,
        privileged=privileged,
        iotval=iotval,
        iotval2=iotval2,
    )
    assert RiscvIommuFaultRecord.decode(record.encode(big_endian=big_endian), big_endian=big_endian) == record


@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_are_a_record(data: bytes) -> None:
    record = RiscvIommuFaultRecord.decode(data)
    assert str(record)
    assert RiscvIommuFaultRecord.decode(record.encode()) == record


@pytest.mark.parametrize("cause", [*RiscvIommuCause, *RiscvIommuHardwareCause])
def test_a_known_cause_is_decoded(cause: RiscvIommuCause | RiscvIommuHardwareCause) -> None:
    record = RiscvIommuFaultRecord.decode(RiscvIommuFaultRecord(cause=cause, transaction_type=8, device_id=0).encode())
    assert record.cause == cause
    assert record.transaction_type == TransactionType.TRANSLATION_REQUEST


def test_a_record_is_told_in_words() -> None:
    record = RiscvIommuFaultRecord(
        cause=RiscvIommuCause.READ_GUEST_PAGE_FAULT,
        transaction_type=TransactionType.UNTRANSLATED_READ,
        device_id=0x28,
        process_id=5,
        iotval=0x1000,
        iotval2=0x2001,
    )
    assert str(record) == "untranslated read by 00:05.0 process 0x5 at 0x1000, cause 21, guest address 0x2001"
