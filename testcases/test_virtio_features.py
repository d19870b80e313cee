"""The truth table of virtio and the IOMMU: interface, VIRTIO_F_ACCESS_PLATFORM, place, and the guest's DMA mode.

What must become of each combination is `harness.model.virtio.dma_path`'s to say. The device must work where it can,
with the features negotiated that it says, and with what the model finds in the live tables as it says.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from machines import spec
from virtio_uses import check_refused_by_device, check_use

from harness.checks.inventory import check_functions, check_groups
from harness.checks.judge import judge
from harness.checks.work import check_platform_access
from harness.guest.lspci import ListedFunction
from harness.live.machine import LiveMachine
from harness.pci import Address
from harness.placement import place
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import DeviceKind, DmaMode, Interface, IommuKind
from harness.vmm.qemu.devices import front_end, virtio_interface
from harness.vmm.qemu.qmp import QmpError

_BLK = tuple(
    (interface, platform, behind)
    for interface in Interface
    for platform in (True, False)
    for behind in (True, False)
    if interface is Interface.MODERN or not platform
)
"""All that there can be: a device with a legacy interface never offers the bit."""

_OTHERS = tuple(
    kind for kind in DeviceKind if kind.is_virtio and kind not in (DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_GPU)
)
_NEVER_PLUGGED = "virtio-gpu,iommu=on,id=behind", "virtio-gpu,iommu=on,platform=off,id=around"


def _device(kind: DeviceKind, interface: Interface, platform: bool, behind: bool) -> str:
    on_off = {True: "on", False: "off"}
    return f"{kind},iommu={on_off[behind]},virtio={interface},platform={on_off[platform]},id=device"


def _id(interface: Interface, platform: bool, behind: bool) -> str:
    return f"{interface}-{'platform' if platform else 'plain'}-{'behind' if behind else 'outside'}"


def _listed(live: LiveMachine) -> list[ListedFunction]:
    """What lspci would list, without an SSH session for it."""
    return [
        ListedFunction(Address.parse(each.address), each.class_code >> 8, each.vendor, each.device)
        for each in live.agent.pci_functions()
    ]


def _check_device(live: LiveMachine, id: str) -> Iterator[Finding]:
    """Whether it is what was asked for, in the group that it must be in, and used as the truth table has it."""
    topology = live.topology
    address = topology.function(id).address
    yield from check_functions(topology, _listed(live))
    groups = [group for group in live.agent.iommu_groups() if str(address) in group.devices]
    yield from check_groups(topology.only(id), groups)
    if topology.dma_path(id).works:
        yield from check_use(live, id)
    else:
        yield from check_refused_by_device(live, id)


@pytest.mark.claim("VQ-1", "VQ-2", "VQ-3", "VQ-8")
@pytest.mark.parametrize("dma_mode", [DmaMode.STRICT, DmaMode.PASSTHROUGH], ids=str)
@pytest.mark.parametrize(("interface", "platform", "behind"), [pytest.param(*entry, id=_id(*entry)) for entry in _BLK])
def test_virtio_blk_takes_the_path_of_the_truth_table(
    lease: Lease, iommu: IommuKind, interface: Interface, platform: bool, behind: bool, dma_mode: DmaMode
) -> None:
    """A virtio-blk with each interface works, and is translated exactly where the truth table says so."""
    device = _device(DeviceKind.VIRTIO_BLK, interface, platform, behind)
    judge(_check_device(lease(spec(iommu, device, dma_mode=dma_mode)), "device"))


@pytest.mark.claim("VQ-1", "VQ-2", "VQ-3", "VQ-8")
@pytest.mark.parametrize("kind", _OTHERS, ids=str)
@pytest.mark.parametrize(
    ("platform", "behind"),
    [
        pytest.param(True, True, id="platform-behind"),
        pytest.param(False, True, id="plain-behind", marks=pytest.mark.nightly),
        pytest.param(False, False, id="plain-outside", marks=pytest.mark.nightly),
    ],
)
def test_every_kind_takes_the_path_of_the_truth_table(
    lease: Lease, iommu: IommuKind, kind: DeviceKind, platform: bool, behind: bool
) -> None:
    """Each kind of virtio device works translated, around the IOMMU, and outside of it, or is refused as it must be."""
    interface = Interface.TRANSITIONAL if kind.has_legacy and not platform else Interface.MODERN
    judge(_check_device(lease(spec(iommu, _device(kind, interface, platform, behind))), "device"))


@pytest.mark.claim("VQ-2", "VQ-3", "VQ-8")
@pytest.mark.machine(devices=_NEVER_PLUGGED)
def test_virtio_gpus_take_the_path_of_the_truth_table(machine: LiveMachine) -> None:
    """Of two displays, one behind the IOMMU and one that goes around it, QEMU shows what the guest has painted."""
    for device in machine.spec.devices:
        judge(check_use(machine, device.id))


@pytest.mark.claim("VQ-2", "VQ-3")
@pytest.mark.machine(devices=["virtio-rng,iommu=on,hotplug=on,id=refused"])
@pytest.mark.parametrize("interface", [Interface.TRANSITIONAL, Interface.LEGACY], ids=str)
def test_qemu_refuses_access_platform_of_a_legacy_interface(machine: LiveMachine, interface: Interface) -> None:
    """A device that a driver from before virtio 1.0 could use is never translated: QEMU does not make it."""
    (front,) = front_end(place(machine.spec).slot("refused"))
    try:
        machine.vmm.qmp.execute("device_add", front.json() | virtio_interface(interface, platform=True))
        seen = "it was made"
    except QmpError as error:
        seen = error.message
    if "neither legacy nor transitional" not in seen:
        subject = f"a {interface} virtio-rng with iommu_platform=on"
        judge([Finding(subject=subject, expected="a refusal: it is not modern alone", seen=seen)])


@pytest.mark.claim("VQ-2")
@pytest.mark.machine(iommu=IommuKind.VIRTIO, devices=["virtio-blk,iommu=on"])
def test_the_virtio_iommu_goes_around_itself(machine: LiveMachine) -> None:
    """A virtio-iommu works without VIRTIO_F_ACCESS_PLATFORM, in no group: its own queues are not its to translate."""
    id = "virtio-iommu"
    judge(check_platform_access(id, machine.virtio_features(id), expected=False))
    address = machine.address(id)
    groups = [group for group in machine.agent.iommu_groups() if address in group.devices]
    judge(check_groups(machine.topology.only(id), groups))
    judge(check_use(machine, "virtio-blk0"))
