"""The interrupt messages that a function is told to send, read from its registers, and those that arrive."""

from __future__ import annotations

import pytest
from vmm_rig import Start, function, spec

from harness.errors import GuestError
from harness.live.interrupts import Arrivals, Sent, messages
from harness.model.x86_message import X86Message
from harness.observations import Message
from harness.vmm.qemu.edu import Edu
from harness.vmm.qemu.pci import PciFunction
from harness.vmm.qemu.qtest import Width

_FIRST_DEVICE = 4
_MSI = 0x05
_ADDRESS, _DATA = X86Message(destination=0, vector=0x91).encode()


def _switch_msi_on(edu: PciFunction) -> None:
    """As a driver does it (PCI 3.0, 6.8.1)."""
    at = next(at for kind, at in edu.capabilities() if kind == _MSI)
    edu.write(at + 4, _ADDRESS, Width.LONG)
    edu.write(at + 8, 0, Width.LONG)
    edu.write(at + 12, _DATA, Width.WORD)
    edu.write(at + 2, edu.read(at + 2, Width.WORD) | 1, Width.WORD)


def test_message_of_msi_is_what_the_driver_wrote(start: Start) -> None:
    edu = function(start(spec("edu")).qtest, _FIRST_DEVICE)
    _switch_msi_on(edu)
    assert messages(edu) == (Sent(_ADDRESS, _DATA),)


def test_function_without_msi_has_no_message(start: Start) -> None:
    edu = function(start(spec("edu")).qtest, _FIRST_DEVICE)
    with pytest.raises(GuestError, match="neither MSI nor MSI-X"):
        messages(edu)


def test_message_that_a_device_writes_is_seen_to_arrive_once(start: Start) -> None:
    machine = start(spec("edu"))
    machine.qtest.write_value(0xFEE000F0, 0x1FF, Width.LONG)  # the local APIC is on: Intel SDM 3A, 10.4.7.2
    edu = Edu(function(machine.qtest, _FIRST_DEVICE))
    edu.enable()
    machine.qtest.write(0x20_0000, _DATA.to_bytes(4, "little"))
    edu.dma_to_device(0x20_0000, 0, 4)
    edu.dma_from_device(0, _ADDRESS, 4)  # before anybody looks
    with Arrivals(machine) as arrivals:
        assert arrivals.seen() == ()
        edu.dma_from_device(0, _ADDRESS, 4)
        assert arrivals.seen() == (Message.sent(_ADDRESS, _DATA),)
        assert arrivals.seen() == ()
