"""The interrupt message of x86 machines: address and data, and what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.x86_message import DeliveryMode, X86Message, is_interrupt_address

MESSAGES = st.builds(
    X86Message,
    destination=st.integers(0, (1 << 32) - 1),
    vector=st.integers(0, 255),
    delivery_mode=st.sampled_from(DeliveryMode),
    logical=st.booleans(),
    redirection_hint=st.booleans(),
    level_triggered=st.booleans(),
    asserted=st.booleans(),
)


@pytest.mark.parametrize(
    ("message", "address", "data"),
    [
        (X86Message(destination=0, vector=0x41, asserted=False), 0xFEE0_0000, 0x0041),
        (X86Message(destination=0x12, vector=0x41), 0xFEE1_2000, 0x4041),
        (X86Message(destination=0xFF, vector=0xEF, logical=True, redirection_hint=True), 0xFEEF_F00C, 0x40EF),
        (X86Message(destination=1, vector=0, delivery_mode=DeliveryMode.NMI), 0xFEE0_1000, 0x4400),
        (X86Message(destination=1, vector=0x20, level_triggered=True, asserted=False), 0xFEE0_1000, 0x8020),
        (X86Message(destination=1, vector=0x20, delivery_mode=DeliveryMode.LOWEST_PRIORITY), 0xFEE0_1000, 0x4120),
    ],
)
def test_message_stands_where_the_software_developers_manual_has_it(
    message: X86Message, address: int, data: int
) -> None:
    assert message.encode() == (address, data)
    assert X86Message.decode(address, data) == message


def test_destination_above_8_bits_stands_in_address_bits_63_to_40() -> None:
    assert X86Message(destination=0xAABB_CCDD, vector=0).encode()[0] == 0xAABB_CC00_FEED_D000


@given(MESSAGES)
def test_decode_is_the_inverse_of_encode(message: X86Message) -> None:
    address, data = message.encode()
    assert X86Message.decode(address, data) == message
    assert is_interrupt_address(address & 0xFFFF_FFFF)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1))
def test_any_address_and_data_are_read(address: int, data: int) -> None:
    assert isinstance(X86Message.decode(address, data), X86Message)


@pytest.mark.parametrize(("destination", "vector"), [(1 << 32, 0), (0, 256), (0, -1)])
def test_values_that_do_not_fit_are_refused(destination: int, vector: int) -> None:
    with pytest.raises(SpecError):
        X86Message(destination=destination, vector=vector).encode()


@pytest.mark.parametrize(
    ("address", "is_interrupt"),
    [
        (0xFEDF_FFFF, False),
        (0xFEE0_0000, True),
        (0xFEEF_FFFF, True),
        (0xFEF0_0000, False),
        (0x1_FEE0_0000, False),
    ],
)
def test_interrupt_range_is_one_mebibyte_below_4_gib(address: int, is_interrupt: bool) -> None:
    assert is_interrupt_address(address) is is_interrupt
