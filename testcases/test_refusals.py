"""What cannot be done is refused by name, before anything starts."""

from __future__ import annotations

import pytest

from harness.checks.judge import judge
from harness.errors import SpecError, Unsupported
from harness.lab import Lab
from harness.report.record import Finding
from harness.spec import Device, DeviceKind, Iommu, IommuKind, Machine
from harness.vmm.qemu.capabilities import refusal

_INTEL, _VIRTIO = "intel-iommu", "virtio-iommu-pci"


@pytest.mark.claim("CH-3")
@pytest.mark.parametrize("kind", list(DeviceKind), ids=str)
def test_a_device_that_no_iommu_can_stand_before_is_refused_by_name(kind: DeviceKind) -> None:
    """A device tagged iommu=on on a machine without an IOMMU is refused, by its name."""
    try:
        Machine(iommu=Iommu(kind=IommuKind.NONE), devices=(Device(kind=kind, iommu=True, id="tagged"),))
        seen = "no refusal"
    except SpecError as error:
        seen = error.message
    if "tagged" not in seen:
        subject = f"{kind},iommu=on without an IOMMU"
        judge([Finding(subject=subject, expected="a refusal that names it", seen=seen)])


@pytest.mark.claim("VQ-1", "VQ-3")
@pytest.mark.parametrize("second", [_INTEL, _VIRTIO])
@pytest.mark.parametrize("first", [_INTEL, _VIRTIO])
def test_a_machine_has_one_iommu_and_qemu_refuses_a_second(lab: Lab, first: str, second: str) -> None:
    """A second IOMMU on a machine is refused by QEMU, which could not tell which of them a device is behind.

    The control: each comes up alone.
    """
    for device in (first, second):
        if not lab.capabilities.has_device(device):
            raise Unsupported(f"{lab.qemu.name} has no {device} on this machine: qom-list-types, or a start with it")
        if said := refusal(lab.qemu, device):
            judge([Finding(subject=f"a machine with {device} alone", expected="it comes up", seen=said)])
    said = refusal(lab.qemu, first, second)
    if "multiple vIOMMUs" not in said:
        subject = f"a machine with {first} and {second}"
        judge([Finding(subject=subject, expected="a refusal that says why", seen=said or "it came up")])
