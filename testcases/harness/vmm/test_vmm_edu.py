from __future__ import annotations

import pytest
from vmm_rig import Start, function, spec

from harness.errors import SpecError, VmmTimeout
from harness.spec import IommuKind
from harness.vmm.qemu.edu import BUFFER_BYTES, Edu
from harness.vmm.qemu.machine import QemuMachine

_FIRST_DEVICE = 4
_SOURCE, _TARGET = 0x20_0000, 0x30_0000


def _edu(machine: QemuMachine) -> Edu:
    edu = Edu(function(machine.qtest, _FIRST_DEVICE))
    edu.enable()
    return edu


@pytest.mark.parametrize("iommu", [IommuKind.NONE, IommuKind.INTEL])
def test_a_dma_through_no_active_iommu_copies_memory(start: Start, iommu: IommuKind) -> None:
    machine = start(spec("edu,iommu=on" if iommu is not IommuKind.NONE else "edu", iommu=iommu))
    machine.qtest.write(_SOURCE, bytes(range(1, 65)))
    machine.qtest.write(_TARGET, b"\xee" * 80)
    edu = _edu(machine)
    edu.dma_to_device(_SOURCE, 8, 64)
    edu.dma_from_device(8, _TARGET + 8, 64)
    assert machine.qtest.read(_TARGET, 80) == b"\xee" * 8 + bytes(range(1, 65)) + b"\xee" * 8


def test_the_whole_usable_buffer_can_be_moved(start: Start) -> None:
    machine = start(spec("edu"))
    data = bytes(n % 251 + 1 for n in range(4095))
    machine.qtest.write(_SOURCE, data)
    edu = _edu(machine)
    edu.dma_to_device(_SOURCE, 0, 4095)
    edu.dma_from_device(0, _TARGET, 4095)
    assert machine.qtest.read(_TARGET, 4095) == data


def test_a_device_that_may_not_be_bus_master_reads_nothing(start: Start) -> None:
    from harness.vmm.qemu.pci import COMMAND_BUS_MASTER

    machine = start(spec("edu"))
    machine.qtest.write(_SOURCE, b"\x55" * 16)
    edu = _edu(machine)
    edu.function.disable(COMMAND_BUS_MASTER)
    edu.dma_to_device(_SOURCE, 0, 16)
    edu.function.enable(COMMAND_BUS_MASTER)
    edu.dma_from_device(0, _TARGET, 16)
    assert machine.qtest.read(_TARGET, 16) != b"\x55" * 16


@pytest.mark.parametrize(("offset", "count"), [(0, 0), (0, BUFFER_BYTES + 1), (BUFFER_BYTES, 1), (-1, 4), (4, -1)])
def test_a_transfer_that_some_builds_abort_on_is_refused(start: Start, offset: int, count: int) -> None:
    machine = start(spec("edu"))
    edu = _edu(machine)
    with pytest.raises(SpecError, match="of its buffer"):
        edu.dma_to_device(_SOURCE, offset, count)
    with pytest.raises(SpecError, match="of its buffer"):
        edu.dma_from_device(offset, _TARGET, count)


def test_another_device_is_not_taken_for_an_edu(start: Start) -> None:
    machine = start(spec("virtio-blk"))
    with pytest.raises(SpecError, match=r"0000:00:04\.0 is 1af4:1042, not an edu device"):
        _edu(machine)


def test_an_empty_place_is_not_taken_for_an_edu(start: Start) -> None:
    with pytest.raises(SpecError, match="is ffff:ffff"):
        _edu(start())


def test_a_stopped_guest_is_a_timeout(start: Start) -> None:
    machine = start(spec("edu"))
    edu = _edu(machine)
    machine.qmp.execute("stop")
    with pytest.raises(VmmTimeout, match="is the guest stopped"):
        edu.dma_to_device(_SOURCE, 0, 4, deadline=0.3)
