"""Judging devices at work: each way to be wrong gives the one finding that it should."""

from __future__ import annotations

from harness.checks.work import (
    check_count,
    check_driver,
    check_identity,
    check_platform_access,
    check_translated,
    check_untranslated,
    check_unused,
)
from harness.guest.answers import Function, VirtioDevice
from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Mapping, Permissions, Translated
from harness.model.topology import topology
from harness.spec import Device, Iommu, IommuKind, Machine

_DISK = topology(Machine(iommu=Iommu(kind=IommuKind.INTEL), devices=(Device.parse("virtio-blk,iommu=on"),))).function(
    "virtio-blk0"
)
_ACCESS_PLATFORM = frozenset({32, 33})


def _held_by(driver: str, address: str = "0000:00:04.0") -> list[Function]:
    return [Function(address=address, vendor=0x1AF4, device=0x1042, class_code=0x010000, driver=driver, group=1)]


def _mapping(iova: int, address: int) -> Mapping:
    return Mapping(iova, address, 4096, Permissions.READ | Permissions.WRITE)


def test_the_driver_that_must_hold_a_device_gives_no_finding() -> None:
    assert list(check_driver(_DISK, _held_by("virtio-pci"), "virtio-pci")) == []


def test_another_driver_none_and_no_device_are_found() -> None:
    seen = (_held_by("vfio-pci"), _held_by(""), _held_by("virtio-pci", "0000:00:05.0"))
    findings = [finding for functions in seen for finding in check_driver(_DISK, functions, "virtio-pci")]
    assert [finding.seen for finding in findings] == ["vfio-pci", "none", "not there at all"]


def test_access_platform_is_found_where_it_must_not_be_and_missed_where_it_must() -> None:
    assert list(check_platform_access("disk", _ACCESS_PLATFORM, expected=True)) == []
    assert list(check_platform_access("disk", frozenset({32}), expected=False)) == []
    (missing,) = check_platform_access("disk", frozenset({32}), expected=True)
    assert missing.seen == "not negotiated"
    (present,) = check_platform_access("disk", _ACCESS_PLATFORM, expected=False)
    assert present.seen == "negotiated"


def test_a_device_at_work_without_mappings_or_with_identity_is_not_translated() -> None:
    assert list(check_translated("disk", [_mapping(0xFFFF0000, 0x1000)])) == []
    (nothing,) = check_translated("disk", [])
    assert nothing.seen == "nothing"
    assert len(list(check_translated("disk", [_mapping(0x1000, 0x1000), _mapping(0x9000, 0x2000)]))) == 1


def test_a_mapping_of_a_device_that_goes_around_the_iommu_is_found() -> None:
    assert list(check_untranslated("NIC", [])) == []
    assert len(list(check_untranslated("NIC", [_mapping(0x1000, 0x2000)]))) == 1


def test_a_device_whose_group_is_identity_reaches_each_address_as_itself() -> None:
    access = Access(requester=0x20, iova=0x5000, length=64, kind=AccessKind.WRITE)
    passes = Bypassed(0x5000, BypassReason.PASS_THROUGH)
    same, elsewhere = (Translated(at, 4096, Permissions.READ | Permissions.WRITE) for at in (0x5000, 0x9000))
    assert list(check_identity("disk", access, passes, "")) == []
    assert list(check_identity("disk", access, same, "")) == []
    (moved,) = check_identity("disk", access, elsewhere, "the walk")
    assert (moved.expected, moved.detail) == ("it goes to 0x5000", "the walk")


def test_a_driver_of_a_device_that_must_have_none_is_found() -> None:
    assert list(check_unused("balloon", VirtioDevice("", frozenset(), 0x83))) == []
    (held,) = check_unused("balloon", VirtioDevice("virtio_balloon", frozenset(), 0x83))
    assert held.seen == "virtio_balloon"


def test_a_device_that_no_driver_has_tried_is_found() -> None:
    (untried,) = check_unused("balloon", VirtioDevice("", frozenset(), 0x01))
    assert (untried.expected, untried.seen) == ("FAILED: a driver has given it up", "0x1")


def test_another_number_than_the_right_one_is_found() -> None:
    assert list(check_count("mappings", 6, 6)) == []
    (found,) = check_count("mappings", 6, 65535)
    assert (found.expected, found.seen) == ("6", "65535")
