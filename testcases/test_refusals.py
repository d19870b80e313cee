"""What cannot be done is refused by name, before anything starts."""

from __future__ import annotations

import pytest

from harness.checks.judge import judge
from harness.errors import SpecError
from harness.report.record import Finding
from harness.spec import Device, DeviceKind, Iommu, IommuKind, Machine


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
