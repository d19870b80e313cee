"""PCI functions of another type than they must be are found, field by field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.checks.pci_tree import check_pci_tree
from harness.model.pci.functions import ISOLATION, AcsCapability, Function, PortType
from harness.model.pci.tree import PciTree, RootBus
from harness.pci import Address

_PORT = Function(
    address=Address(0, 1), port_type=PortType.ROOT_PORT, secondary=1, acs=AcsCapability(ISOLATION, ISOLATION)
)
_BELOW = Function(address=Address(1, 0), port_type=PortType.ENDPOINT)


def _tree(*functions: Function) -> PciTree:
    return PciTree([RootBus()], functions)


def test_functions_that_are_as_they_must_be_give_no_finding() -> None:
    assert list(check_pci_tree(_tree(_PORT, _BELOW), _tree(_PORT, _BELOW))) == []


@pytest.mark.parametrize(
    ("other", "subjects"),
    [
        (replace(_PORT, port_type=None), ["port_type"]),
        (replace(_PORT, multifunction=True), ["multifunction"]),
        (replace(_PORT, subordinate=2), ["subordinate"]),
        (replace(_PORT, secondary=2, subordinate=2), ["secondary", "subordinate"]),
        (replace(_PORT, acs=None), ["acs"]),
        (replace(_PORT, acs=AcsCapability(ISOLATION)), ["acs"]),
    ],
)
def test_each_thing_that_is_otherwise_is_found(other: Function, subjects: list[str]) -> None:
    findings = list(check_pci_tree(_tree(_PORT), _tree(other)))
    assert [finding.subject for finding in findings] == [f"{name} of 0000:00:01.0" for name in subjects]


def test_a_finding_says_which_services_are_on() -> None:
    (finding,) = check_pci_tree(_tree(_PORT), _tree(replace(_PORT, acs=AcsCapability(ISOLATION))))
    names = "SOURCE_VALIDATION REQUEST_REDIRECT COMPLETION_REDIRECT UPSTREAM_FORWARDING"
    assert (finding.expected, finding.seen) == (f"{names} on, of {names}", f"nothing on, of {names}")


@pytest.mark.parametrize(
    ("other", "expected", "seen"),
    [
        (replace(_PORT, port_type=None), "ROOT_PORT", "none"),
        (replace(_PORT, multifunction=True), "no", "yes"),
        (replace(_PORT, subordinate=0x1F), "bus 01", "bus 1f"),
    ],
)
def test_a_finding_is_in_words(other: Function, expected: str, seen: str) -> None:
    (finding,) = check_pci_tree(_tree(_PORT), _tree(other))
    assert (finding.expected, finding.seen) == (expected, seen)


def test_a_function_that_is_not_there_is_left_to_the_inventory() -> None:
    assert list(check_pci_tree(_tree(_PORT, _BELOW), _tree(_PORT))) == []
