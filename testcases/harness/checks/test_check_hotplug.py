"""What must have gone with a device, and what may be there of others."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from harness.checks.hotplug import check_leftovers, check_nothing_left
from harness.checks.work import check_same_mappings
from harness.model.access import PERMISSIONS, Mapping
from harness.observations import Leftovers

BEFORE = Leftovers(groups=8, functions=10, guest_kib=30000, descriptors=27, threads=5, vmm_kib=18000)
ONE = Mapping(iova=0x1000, address=0x10_0000, size=0x1000, permissions=PERMISSIONS[3])
OTHER = replace(ONE, iova=0x2000)


@pytest.mark.parametrize("name", [field.name for field in fields(Leftovers)])
def test_more_of_anything_is_found_by_its_name(name: str) -> None:
    more = replace(BEFORE, **{name: getattr(BEFORE, name) + 100_000})
    (finding,) = check_leftovers(BEFORE, more)
    assert finding.subject.startswith(name)


@pytest.mark.parametrize("name", ["groups", "functions", "descriptors"])
def test_of_what_is_counted_one_more_is_too_many(name: str) -> None:
    assert len(list(check_leftovers(BEFORE, replace(BEFORE, **{name: getattr(BEFORE, name) + 1})))) == 1


def test_as_much_as_before_and_less_is_well() -> None:
    less = Leftovers(**{field.name: getattr(BEFORE, field.name) - 1 for field in fields(Leftovers)})
    assert list(check_leftovers(BEFORE, BEFORE)) == list(check_leftovers(BEFORE, less)) == []


def test_mapping_that_stayed_when_its_device_went_is_found() -> None:
    (finding,) = check_nothing_left("disk", [ONE, OTHER], [OTHER])
    assert "disk" in finding.subject
    assert finding.seen == str(OTHER)


def test_mapping_that_came_when_a_device_had_gone_is_not_its() -> None:
    assert list(check_nothing_left("disk", [ONE], [OTHER])) == list(check_nothing_left("disk", [ONE], [])) == []


def test_mappings_that_went_and_that_came_are_both_found() -> None:
    assert list(check_same_mappings("edu", [ONE, OTHER], [OTHER, ONE])) == []
    gone, come = check_same_mappings("edu", [ONE], [OTHER])
    assert (gone.expected, come.seen) == (str(ONE), str(OTHER))
