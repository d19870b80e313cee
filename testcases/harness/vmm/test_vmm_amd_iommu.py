"""Registers of QEMU's amd-iommu, read and written with no guest."""

from __future__ import annotations

import pytest
from vmm_rig import Start, function, spec

from harness.errors import VmmError
from harness.vmm.qemu.amdvi import read_interrupt, read_registers, write_interrupt
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.pci import PciFunction
from harness.vmm.qemu.qtest import Width

_NUMBER = 1  # the first that is free
_ENABLE = 1 << 16  # of the MSI capability header


@pytest.fixture
def iommu(start: Start) -> PciFunction:
    return function(start(spec(), Options(extra=(("-device", "amd-iommu"),))).qtest, _NUMBER)


def test_registers_are_those_of_an_iommu_that_nobody_has_enabled(iommu: PciFunction) -> None:
    registers = read_registers(iommu)
    assert (registers.enabled, registers.capability("CapId"), registers.capability("CapType")) == (False, 0xF, 3)
    assert registers.extended_feature != 0
    assert registers.device_id == _NUMBER << 3
    assert registers.interrupt_message is None


def test_an_interrupt_that_is_written_is_read_again(iommu: PciFunction) -> None:
    header, *_ = read_interrupt(iommu)
    wanted = (header | _ENABLE, 0xFEE0_1000, 0, 0x21)
    write_interrupt(iommu, wanted)
    assert read_interrupt(iommu) == wanted
    assert read_registers(iommu).interrupt_message == (0xFEE0_1000, 0x21)


def test_an_interrupt_is_enabled_once_it_is_known_where_it_goes(
    iommu: PciFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, *_ = read_interrupt(iommu)
    written: list[int] = []

    def write(self: PciFunction, offset: int, value: int, width: Width) -> None:
        written.append(value)

    monkeypatch.setattr(PciFunction, "write", write)
    write_interrupt(iommu, (header | _ENABLE, 1, 2, 3))
    assert written[-1] == header | _ENABLE
    assert sorted(written[:-1]) == [1, 2, 3]


def test_another_function_is_no_iommu(start: Start) -> None:
    edu = function(start(spec("edu")).qtest, 4)
    with pytest.raises(VmmError, match=r"no AMD IOMMU at 0000:00:04\.0"):
        read_registers(edu)
