"""A real user-space driver in the guest: DPDK's testpmd on a virtio-net, safe through VFIO and unsafe through UIO."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from dpdk import (
    check_counters,
    check_frames,
    check_physical_rings,
    check_stray_read,
    check_stray_write,
    check_virtual_addresses,
)
from traffic import check_network
from unmaps import count_unmaps

from harness.checks.judge import judge
from harness.checks.work import check_count, check_same_mappings
from harness.guest.testpmd import IovaMode, Testpmd
from harness.live.machine import LiveMachine
from harness.live.user_space import bind_to_vfio, give_to_uio
from harness.report.record import Finding

_NIC = "nic"
_FRAMES = 1024
_FEW_FRAMES = 128

pytestmark = pytest.mark.machine(devices=["virtio-net,iommu=on,id=nic"], image="dpdk")


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-1", "QD-4")
def test_dpdk_forwards_every_frame_by_its_virtual_addresses(machine: LiveMachine) -> None:
    """testpmd, through VFIO, returns every frame to the byte, and counts as the harness does.

    What its device reaches is its own memory, at IOVAs that are its virtual addresses.
    """
    bind_to_vfio(machine, _NIC)
    testpmd = _start(machine, IovaMode.VA)
    judge(check_virtual_addresses(machine, _NIC, testpmd.pid))
    testpmd.forward()
    before = testpmd.stats()
    judge(check_frames(machine, _NIC, _FRAMES))
    judge(check_counters(before, testpmd.stats(), _FRAMES))
    testpmd.quit()


@pytest.mark.claim("QD-3")
def test_dpdk_costs_the_iommu_nothing_while_frames_flow(machine: LiveMachine) -> None:
    """While testpmd forwards, nothing is unmapped: what its device may reach was mapped once, and stays.

    The control: the kernel's driver of the same NIC has what it sent unmapped, frame by frame.
    """
    unmaps = count_unmaps(machine)
    judge(check_network(machine, _NIC))
    if not (seen := unmaps()):
        judge(
            [Finding(subject="unmaps of the kernel's driver", expected="one a frame that it has sent", seen=str(seen))]
        )
    bind_to_vfio(machine, _NIC)
    testpmd = _start(machine, IovaMode.VA)
    before = machine.mappings(_NIC)
    testpmd.forward()
    unmaps()
    judge(check_frames(machine, _NIC, _FEW_FRAMES))
    judge(check_count(f"unmaps while testpmd forwards {_FEW_FRAMES} frames", 0, unmaps()))
    judge(check_same_mappings(_NIC, before, machine.mappings(_NIC)))
    testpmd.kill()


@pytest.mark.claim("QD-4", "QD-2", "QD-1")
@pytest.mark.parametrize("stray", [check_stray_write, check_stray_read], ids=["write", "read"])
def test_a_dpdk_device_goes_astray_in_uio_only(machine: LiveMachine, stray: Callable[..., Iterator[Finding]]) -> None:
    """A NIC that DPDK drives through VFIO and that goes astray is stopped and reported; through UIO it gets through.

    It is the same NIC in the same guest, and forwards frames with both. For UIO its group is passed through, without
    which DPDK's physical addresses would lead nowhere.
    """
    bind_to_vfio(machine, _NIC)
    testpmd = _start(machine, IovaMode.VA)
    testpmd.forward()
    judge(check_frames(machine, _NIC, _FEW_FRAMES))
    testpmd.halt()
    held = list(stray(machine, _NIC, blocked=True, why="VFIO has mapped testpmd's memory, and nothing else"))
    testpmd.kill()
    judge(check_count(f"mappings of {_NIC} that outlive testpmd", 0, len(machine.mappings(_NIC))))

    machine.agent.pci_bind(machine.address(_NIC), "")
    machine.set_group_type(_NIC, "identity")
    give_to_uio(machine, _NIC)
    testpmd = _start(machine, IovaMode.PA)
    judge(check_physical_rings(machine, _NIC))
    testpmd.forward()
    judge(check_frames(machine, _NIC, _FEW_FRAMES))
    testpmd.halt()
    judge([*held, *stray(machine, _NIC, blocked=False, why="UIO maps nothing: the group is passed through")])
    testpmd.kill()


def _start(machine: LiveMachine, mode: IovaMode) -> Testpmd:
    testpmd = Testpmd(machine.agent, machine.address(_NIC))
    if testpmd.iova_mode is not mode:
        judge([Finding(subject="IOVA mode that DPDK selects", expected=mode, seen=testpmd.iova_mode)])
    return testpmd
