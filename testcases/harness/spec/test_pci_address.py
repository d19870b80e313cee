"""PCI addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.pci import Address

addresses = st.builds(
    Address,
    bus=st.integers(0, 0xFF),
    device=st.integers(0, 0x1F),
    function=st.integers(0, 7),
    segment=st.integers(0, 0xFFFF),
)


@given(addresses)
def test_address_is_the_same_after_its_text(address: Address) -> None:
    assert Address.parse(str(address)) == address
    assert Address.parse(str(address).upper()) == address


@given(addresses)
def test_address_is_the_same_after_its_requester_id(address: Address) -> None:
    assert 0 <= address.requester <= 0xFFFF
    assert Address.of_requester(address.requester, address.segment) == address


def test_address_without_a_segment_is_of_segment_0() -> None:
    assert Address.parse("1f:03.2") == Address(bus=0x1F, device=3, function=2, segment=0)


def test_requester_id_has_bus_device_and_function_in_their_places() -> None:
    assert Address(bus=0x12, device=0x1F, function=5).requester == 0x12FD


def test_addresses_are_in_the_order_of_bus_device_function() -> None:
    mixed = [Address(1, 0), Address(0, 1, 2), Address(0, 2), Address(0, 1)]
    assert sorted(mixed) == [Address(0, 1), Address(0, 1, 2), Address(0, 2), Address(1, 0)]


@pytest.mark.parametrize(
    "text", ["", "0:0.0", "00:00", "00:00.8", "00:20.0", "00:ff.0", " 00:00.0", "00:00.0\n", "\u0660\u0660:00.0"]
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Address.parse(text)


@pytest.mark.parametrize("values", [(256, 0, 0, 0), (0, 32, 0, 0), (0, 0, 8, 0), (0, 0, 0, 65536), (-1, 0, 0, 0)])
def test_number_that_no_function_has_is_refused(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(SpecError):
        Address(*values)
