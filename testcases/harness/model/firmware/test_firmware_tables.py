"""What holds for each of the five tables: builder and parser are inverse, a broken one is refused by name and place."""

from __future__ import annotations

import pytest
from firmware_samples import SAMPLES, TREE, damaged, with_checksum
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.firmware.acpi import HARNESS_HEADER, BadTable
from harness.model.firmware.dmar import Dmar
from harness.model.firmware.dmar_structures import Drhd
from harness.model.firmware.table import FirmwareTable
from harness.model.firmware.tables import SIGNATURES, parse

every_table = pytest.mark.parametrize("signature", sorted(SAMPLES))


def ask_everything(table: FirmwareTable) -> None:
    """Every question that a check asks."""
    assert table.units is not None
    _ = table.interrupt_remapping, table.physical_address_bits, table.ioapics
    table.reserved(TREE)
    for function in TREE:
        table.behind(TREE, function)


def read(signature: str, data: bytes) -> FirmwareTable | None:
    """The table, or None where it is refused as it must be."""
    try:
        return parse(signature, data)
    except BadTable as bad:
        refusal = bad
    assert refusal.signature == signature
    assert 0 <= refusal.offset <= len(data)
    return None


def test_there_is_a_sample_of_every_table() -> None:
    assert SAMPLES.keys() == SIGNATURES


@every_table
def test_what_is_built_is_read_back(signature: str) -> None:
    assert parse(signature, SAMPLES[signature].encode()) == SAMPLES[signature]


@every_table
def test_a_table_starts_with_the_header_that_acpi_gives_it(signature: str) -> None:
    """ACPI 6.5, 5.2.6: signature, length, revision, checksum, OEM id, OEM table id, OEM revision, creator."""
    data = SAMPLES[signature].encode()
    assert data[:4] == signature.encode()
    assert int.from_bytes(data[4:8], "little") == len(data)
    assert sum(data) % 256 == 0
    assert data[10:16] == HARNESS_HEADER.oem_id
    assert data[16:24] == HARNESS_HEADER.oem_table_id
    assert data[24:28] == b"\1\0\0\0"
    assert data[28:32] == HARNESS_HEADER.creator_id


@every_table
def test_a_wrong_checksum_is_told(signature: str) -> None:
    data = bytearray(SAMPLES[signature].encode())
    data[-1] ^= 1
    with pytest.raises(BadTable, match=f"{signature} at offset 0x9: .* the checksum is wrong"):
        parse(signature, bytes(data))


@every_table
def test_a_table_cut_short_anywhere_is_told(signature: str) -> None:
    """Cut within a structure, with length and checksum that fit, or cut against its own length."""
    whole = SAMPLES[signature].encode()
    for end in range(len(whole)):
        with pytest.raises(BadTable):
            parse(signature, whole[:end])
        if (table := read(signature, with_checksum(whole[:end]))) is not None:
            ask_everything(table)


@every_table
def test_another_table_is_told(signature: str) -> None:
    with pytest.raises(BadTable, match="the signature is b'FACP'"):
        parse(signature, with_checksum(b"FACP" + bytes(40)))


def test_a_table_that_says_nothing_of_iommus_is_refused() -> None:
    with pytest.raises(SpecError, match="FACP says nothing of IOMMUs"):
        parse("FACP", b"")


def test_a_value_that_does_not_fit_its_field_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"Drhd\.segment_number=0x10000 does not fit 2 bytes"):
        Dmar(host_address_width=38, structures=(Drhd(segment_number=1 << 16),)).encode()


@every_table
@given(st.data())
def test_a_damaged_table_is_read_or_refused_and_nothing_else(signature: str, data: st.DataObject) -> None:
    table = read(signature, data.draw(damaged(signature)))
    if table is not None:
        ask_everything(table)
        assert parse(signature, table.encode()) == table


@every_table
@given(st.binary(max_size=300))
def test_random_bytes_are_read_or_refused_and_nothing_else(signature: str, body: bytes) -> None:
    header = SAMPLES[signature].encode()[:36]
    if (table := read(signature, with_checksum(header + body))) is not None:
        ask_everything(table)


@every_table
@given(st.binary(max_size=100))
def test_bytes_that_are_no_table_are_refused(signature: str, data: bytes) -> None:
    with pytest.raises(BadTable):
        parse(signature, data)
