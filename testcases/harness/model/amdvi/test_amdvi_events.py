"""Event log entries, bit by bit (AMD-Vi 2.5)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.amdvi import AmdviEvent, AmdviEventCode
from harness.model.amdvi.events import EVENTS

ADDRESS = 0x1234_5678_9ABC_DEF0


@pytest.mark.parametrize(
    ("code", "fields", "low", "high"),
    [
        (
            AmdviEventCode.ILLEGAL_DEV_TABLE_ENTRY,
            {"DeviceID": 0xABCD, "PASID_19_16": 5, "PASID_15_0": 0x6789, "GN": 1, "I": 1, "RW": 1, "RZ": 1, "TR": 1},
            0x11A9_6789_0005_ABCD,
            ADDRESS,
        ),
        (
            AmdviEventCode.IO_PAGE_FAULT,
            {
                "DeviceID": 0xABCD,
                "DomainID_PASID_15_0": 0x6789,
                **dict.fromkeys(("GN", "NX", "US", "I", "PR", "RW", "PE", "RZ", "TR"), 1),
            },
            0x21FF_6789_0000_ABCD,
            ADDRESS,
        ),
        (
            AmdviEventCode.DEV_TAB_HARDWARE_ERROR,
            {"DeviceID": 0xABCD, "I": 1, "RW": 1, "TR": 1, "Type": 3},
            0x3728_0000_0000_ABCD,
            ADDRESS,
        ),
        (
            AmdviEventCode.PAGE_TAB_HARDWARE_ERROR,
            {"DeviceID": 0xABCD, "DomainID_PASID_15_0": 0x6789, "I": 1, "Type": 2},
            0x4408_6789_0000_ABCD,
            ADDRESS,
        ),
        (AmdviEventCode.ILLEGAL_COMMAND_ERROR, {}, 0x5000_0000_0000_0000, ADDRESS),
        (AmdviEventCode.COMMAND_HARDWARE_ERROR, {"Type": 1}, 0x6200_0000_0000_0000, ADDRESS),
        (AmdviEventCode.IOTLB_INV_TIMEOUT, {"DeviceID": 0xABCD}, 0x7000_0000_0000_ABCD, ADDRESS),
        (
            AmdviEventCode.INVALID_DEVICE_REQUEST,
            {"DeviceID": 0xABCD, "PASID_15_0": 0x6789, "GN": 1, "US": 1, "TR": 1, "Type": 5},
            0x8B03_6789_0000_ABCD,
            ADDRESS,
        ),
        (
            AmdviEventCode.INVALID_PPR_REQUEST,
            {"DeviceID": 0xABCD, "PASID_15_0": 0x6789, "PPRTag": 0x3FF, "PASID_19_16": 5, "Flags": 0x123},
            0x9123_17FF_6789_ABCD,
            ADDRESS & ~0xFFF,
        ),
    ],
)
def test_fields_stand_where_the_specification_has_them(
    code: AmdviEventCode, fields: dict[str, int], low: int, high: int
) -> None:
    event = AmdviEvent.make(code, {**fields, "Address": ADDRESS})
    assert event.encode() == low.to_bytes(8, "little") + high.to_bytes(8, "little")
    decoded = AmdviEvent.decode(event.encode())
    assert (decoded.code, decoded.address) == (code, high)
    assert {name: decoded[name] for name in fields} == fields


def test_a_counter_event_has_its_note_in_two_parts() -> None:
    event = AmdviEvent.make(
        AmdviEventCode.EVENT_COUNTER_ZERO, {"CounterNote_51_32": 0xABCDE, "CounterNote_31_0": 0x1234_5678}
    )
    assert event.encode() == bytes(7) + b"\xa0" + bytes.fromhex("debc0a0078563412")


@pytest.mark.parametrize("code", list(AmdviEventCode))
def test_every_event_covers_its_128_bits_once(code: AmdviEventCode) -> None:
    assert sum(entry.mask for entry in EVENTS[code].fields) == (1 << 128) - 1
    assert sum(entry.width for entry in EVENTS[code].fields) == 128


def test_low_bits_that_an_address_has_no_room_for_are_dropped() -> None:
    event = AmdviEvent.make(AmdviEventCode.ILLEGAL_COMMAND_ERROR, {"Address": 0x1238})
    assert event.address == 0x1230


def test_pasid_and_domain_share_a_field_that_gn_tells_apart() -> None:
    fields = {"PASID_19_16": 0xA, "DomainID_PASID_15_0": 0x1234}
    guest = AmdviEvent.make(AmdviEventCode.IO_PAGE_FAULT, {**fields, "GN": 1})
    assert (guest.pasid, guest.domain_id) == (0xA1234, None)
    host = AmdviEvent.make(AmdviEventCode.IO_PAGE_FAULT, {"DomainID_PASID_15_0": 0x1234})
    assert (host.pasid, host.domain_id) == (None, 0x1234)
    illegal = AmdviEvent.make(AmdviEventCode.ILLEGAL_DEV_TABLE_ENTRY, {"GN": 1, "PASID_15_0": 7})
    assert (illegal.pasid, illegal.domain_id) == (7, None)
    assert AmdviEvent.make(AmdviEventCode.ILLEGAL_COMMAND_ERROR, {}).pasid is None


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16))
def test_any_16_bytes_are_read_and_written_unchanged(data: bytes) -> None:
    event = AmdviEvent.decode(data)
    assert event.encode() == data
    assert str(event)
    assert event.pasid is None or 0 <= event.pasid < 1 << 20


def test_an_event_of_an_unknown_code_has_two_operands() -> None:
    event = AmdviEvent.decode(bytes.fromhex("efcdab89674523f1 8877665544332211"))
    assert event.code == 0xF
    assert (event["Operand1"], event["Operand2"]) == (0x123_4567_89AB_CDEF, 0x1122_3344_5566_7788)
    assert str(event).startswith("event 0xf")


@pytest.mark.parametrize("size", [0, 15, 17])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(SpecError, match="16 bytes"):
        AmdviEvent.decode(bytes(size))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(SpecError, match="RZ"):
        AmdviEvent.make(AmdviEventCode.INVALID_DEVICE_REQUEST, {"RZ": 1})


def test_an_event_reads_as_its_fields() -> None:
    fields = {"DeviceID": 0x0128, "DomainID_PASID_15_0": 7, "PR": 1, "Address": 0x1000}
    text = str(AmdviEvent.make(AmdviEventCode.IO_PAGE_FAULT, fields))
    assert text == "IO_PAGE_FAULT device=01:05.0 DomainID_PASID_15_0=0x7 PR=0x1 address=0x1000"
