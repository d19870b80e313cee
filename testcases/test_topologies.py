"""Devices that share a way to memory, a conventional bridge or a slot: they are isolated as one group."""

from __future__ import annotations

import time

import pytest
from machines import spec
from rogue import canary, write, write_over
from shown import acpi_tables, pci_tree
from traffic import check_disk

from harness.checks.firmware import check_tables
from harness.checks.inventory import check_functions, check_group_types, check_groups
from harness.checks.judge import judge
from harness.checks.pci_tree import check_pci_tree
from harness.errors import AgentError, HarnessError
from harness.guest.lspci import lspci
from harness.live.machine import LiveMachine
from harness.live.user_space import give_to_vfio
from harness.model.access import Mapping, Permissions
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import DmaMode, IommuKind

_BRIDGE = ("virtio-blk,iommu=on,bridge=b,id=disk", "edu,iommu=on,bridge=b,id=rogue", "edu,iommu=on,id=alone")
_SLOT = ("edu,iommu=on,slot=s,id=first", "edu,iommu=on,slot=s,id=second", "edu,iommu=on,id=alone")
_EXPANDER = (
    "virtio-blk,iommu=on,expander=on,id=disk",
    "edu,iommu=on,expander=on,id=rogue",
    "edu,iommu=on,id=alone",
    "edu,iommu=off,id=outside",
)
_IMPATIENT = ("deferred_probe_timeout=10",)  # as Linux is by itself: for a virtio-iommu that it has given up (F-15)
_FLUSHED_SECONDS = 1.0  # Linux, drivers/iommu/dma-iommu.c: a flush queue waits for ten milliseconds
_TRIES = 200


@pytest.mark.claim("CH-4", "CH-5", "VQ-1")
@pytest.mark.parametrize("devices", [pytest.param(_BRIDGE, id="bridge"), pytest.param(_SLOT, id="slot")])
def test_devices_that_share_a_way_share_a_group(lease: Lease, iommu: IommuKind, devices: tuple[str, ...]) -> None:
    """Devices behind a conventional bridge, or functions of a slot without ACS, are one group; others are not in it.

    Firmware's tables, lspci, and the types of bridges and functions that groups follow from, are as they must be.
    """
    live = lease(spec(iommu, *devices, kernel_args=_IMPATIENT))
    judge(check_groups(live.topology, live.agent.iommu_groups()))
    judge(check_functions(live.topology, lspci(live.guest.ssh)))
    judge(check_tables(live.topology.platform, acpi_tables(live)))
    judge(check_pci_tree(live.topology.platform.tree, pci_tree(live)))


@pytest.mark.claim("CH-4", "CH-5", "VQ-1", "VQ-3")
def test_a_second_root_complex_is_behind_the_iommu_like_the_first(lease: Lease, iommu: IommuKind) -> None:
    """Devices below an expander bridge that does not bypass the IOMMU are grouped, translated, and held back by it.

    Firmware's tables, lspci and groups are as they must be. The control: a third root complex, which does bypass it.
    """
    live = lease(spec(iommu, *_EXPANDER))
    judge(check_groups(live.topology, live.agent.iommu_groups()))
    judge(check_functions(live.topology, lspci(live.guest.ssh)))
    judge(check_tables(live.topology.platform, acpi_tables(live)))
    judge(check_pci_tree(live.topology.platform.tree, pci_tree(live)))
    judge(check_disk(live, "disk"))
    judge(write_over(live, "outside", live.allocate(1, canary()), blocked=False))
    judge(write_over(live, "rogue", live.allocate(1, canary()), blocked=True))


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-1", "QD-4")
def test_vfio_refuses_a_device_whose_group_has_another_driver(lease: Lease, iommu: IommuKind) -> None:
    """A device is not given to user space while another one of its group is in the hands of a driver of the kernel."""
    live = lease(spec(iommu, *_BRIDGE, kernel_args=_IMPATIENT))
    judge(check_groups(live.topology, live.agent.iommu_groups()))
    try:
        give_to_vfio(live, "rogue")
        seen = "it was given"
    except AgentError as error:
        seen = error.message
    if "not viable" not in seen:
        judge([Finding(subject="VFIO, of a group that virtio-blk is in", expected="a refusal", seen=seen)])
    judge(check_disk(live, "disk"))


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-7", "QD-2")
@pytest.mark.parametrize("dma_mode", [DmaMode.STRICT, DmaMode.LAZY], ids=str)
def test_what_a_driver_has_unmapped_cannot_be_reached(lease: Lease, iommu: IommuKind, dma_mode: DmaMode) -> None:
    """A buffer that virtio-blk's driver had mapped is out of reach of its whole group once the transfer has ended.

    The rogue device shares the bridge, and with it the tables. The control: what the driver keeps mapped it reaches.
    """
    live = lease(spec(iommu, *_BRIDGE, dma_mode=dma_mode, kernel_args=_IMPATIENT))
    judge(check_groups(live.topology, live.agent.iommu_groups()))
    judge(check_group_types(live.topology, live.agent.iommu_groups()))
    kept = set(live.mappings("disk"))
    buffer = _transient(live, kept)
    if dma_mode is DmaMode.LAZY:
        time.sleep(_FLUSHED_SECONDS)
    queue = _kept(live, kept)
    end, why = queue.size - 8, "kept mapped by virtio-blk's driver"  # where the rings of its page have ended
    live.vmm.memory.write(queue.address + end, canary()[:4])
    live.load("rogue", queue.iova + end, queue.address + end, 4)
    judge(write(live, "rogue", queue.iova + end + 4, queue.address + end + 4, blocked=False, why=why, count=4))
    iova, why = buffer.iova + 512, "unmapped by virtio-blk's driver"
    judge(write(live, "rogue", iova, buffer.address + 512, blocked=True, why=why, count=4))


def _kept(live: LiveMachine, before: set[Mapping]) -> Mapping:
    """What the driver has mapped for good, and writable."""
    for mapping in live.mappings("disk"):
        if mapping in before and Permissions.WRITE in mapping.permissions:
            return mapping
    raise HarnessError("the driver of the disk keeps nothing mapped that is writable")


def _transient(live: LiveMachine, kept: set[Mapping]) -> Mapping:
    """A buffer that is mapped while the disk is read, and not afterwards."""
    node = live.agent.block_device(live.address("disk"))
    reads = f"while [ ! -e /stop ]; do dd if={node} of=/dev/null bs=1M iflag=direct; done"
    live.guest.run(f"({reads}; touch /stopped) 2>/dev/null &")
    try:
        for _ in range(_TRIES):
            found = [mapping for mapping in live.mappings("disk") if mapping not in kept]
            if found:
                return found[0]
    finally:
        live.guest.run("touch /stop; while [ ! -e /stopped ]; do usleep 10000; done")
    raise HarnessError(f"while the disk was read nothing was seen mapped for that in {_TRIES} looks")
