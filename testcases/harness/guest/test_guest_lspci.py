"""lspci's machine-readable form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import GuestError
from harness.guest.lspci import ListedFunction, parse_lspci
from harness.pci import Address


def test_each_line_is_one_function() -> None:
    text = '0000:00:00.0 "0600" "8086" "29c0" -p00 "1af4" "1100"\n0000:80:01.0 "00ff" "1234" "11e8" -r10 "" ""\n'
    assert parse_lspci(text) == (
        ListedFunction(Address(0, 0), 0x0600, 0x8086, 0x29C0),
        ListedFunction(Address(0x80, 1), 0x00FF, 0x1234, 0x11E8),
    )


def test_no_output_is_no_function() -> None:
    assert parse_lspci("") == ()


@pytest.mark.parametrize(
    "line", ["lspci: Cannot open /proc/bus/pci", '0000:00:00.0 "0600" "8086', "00:00.0", '0000:00:ff.0 "0" "0" "0"']
)
def test_line_of_another_form_is_quoted(line: str) -> None:
    with pytest.raises(GuestError) as caught:
        parse_lspci(line)
    assert repr(line) in caught.value.message


@given(st.text())
def test_no_text_raises_anything_but_a_guest_error(text: str) -> None:
    try:
        parse_lspci(text)
    except GuestError:
        return
