"""Where configuration space is, as QEMU tells it: wherever firmware has put it, and nowhere until it has."""

from __future__ import annotations

import pytest
from vmm_rig import Start, spec

from harness.errors import GuestError
from harness.pci import Address
from harness.vmm.qemu.pci import PciFunction, ecam_base
from harness.vmm.qemu.qtest import Width

_HOST_BRIDGE_ID = (0x8086, 0x29C0)  # QEMU, hw/pci-host/q35.c


def test_before_firmware_has_switched_it_on_there_is_none(start: Start) -> None:
    machine = start(spec())
    with pytest.raises(GuestError, match="has not switched the ECAM on"):
        ecam_base(machine.qmp)


@pytest.mark.parametrize("base", [0xB000_0000, 0xE000_0000])
def test_it_is_where_firmware_has_put_it(start: Start, base: int) -> None:
    """PCIEXBAR: Intel 3 Series (P35) datasheet, 5.1.17; SeaBIOS and OVMF choose these two."""
    machine = start(spec())
    machine.qtest.write_port(0xCF8, 0x8000_0060, Width.LONG)
    machine.qtest.write_port(0xCFC, base | 1, Width.LONG)
    assert ecam_base(machine.qmp) == base
    assert PciFunction(machine.qtest, base, Address(0, 0)).vendor_and_device == _HOST_BRIDGE_ID
