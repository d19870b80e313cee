"""Judging IOMMU groups and lspci: each way to be wrong gives the one finding that it should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.checks.inventory import check_functions, check_group_types, check_groups
from harness.checks.judge import Mismatch, judge
from harness.guest.answers import Group
from harness.guest.lspci import ListedFunction
from harness.model.topology import Topology, topology
from harness.pci import Address
from harness.report.record import Finding
from harness.spec import Device, DmaMode, Iommu, IommuKind, Machine

DEVICES = tuple(Device.parse(text) for text in ("edu,iommu=on", "virtio-blk,iommu=on", "edu,iommu=off,id=out"))
TOPOLOGY = topology(Machine(iommu=Iommu(kind=IommuKind.INTEL), devices=DEVICES))
EDU, DISK, OUT = (str(TOPOLOGY.function(id).address) for id in ("edu0", "virtio-blk0", "out"))


def right(found: Topology = TOPOLOGY) -> list[Group]:
    return [
        Group(number, min(group.types), tuple(str(member) for member in sorted(group.members)))
        for number, group in enumerate(found.groups)
    ]


def without(name: str) -> list[Group]:
    """The right groups, less one device."""
    left = [replace(group, devices=tuple(d for d in group.devices if d != name)) for group in right()]
    return [group for group in left if group.devices]


def with_(name: str, *, beside: str) -> list[Group]:
    """The right groups, with a device more in the group of another."""
    return [replace(g, devices=(*g.devices, name)) if beside in g.devices else g for g in right()]


def of(findings: list[Finding], address: str) -> list[Finding]:
    return [finding for finding in findings if address in finding.subject]


@pytest.mark.parametrize("kind", IommuKind)
@pytest.mark.parametrize("mode", [DmaMode.STRICT, DmaMode.LAZY, DmaMode.PASSTHROUGH])
def test_right_groups_give_no_finding(kind: IommuKind, mode: DmaMode) -> None:
    found = topology(Machine(iommu=Iommu(kind=kind), dma_mode=mode))
    assert [*check_groups(found, right(found)), *check_group_types(found, right(found))] == []


def test_device_in_no_group_is_found() -> None:
    (finding,) = check_groups(TOPOLOGY, without(EDU))
    assert (finding.subject, finding.expected, finding.seen) == (
        f"IOMMU group of {EDU} (edu0)", f"a group of {EDU}", "no group",
    )  # fmt: skip


def test_missing_member_of_a_shared_group_is_found_for_every_member() -> None:
    findings = list(check_groups(TOPOLOGY, without("0000:00:1f.2")))
    assert [finding.subject.split()[3] for finding in findings] == ["0000:00:1f.0", "0000:00:1f.2", "0000:00:1f.3"]


def test_device_that_joined_anothers_group_is_found_for_both() -> None:
    groups = [replace(g, devices=(*g.devices, EDU)) if DISK in g.devices else g for g in without(EDU)]
    findings = list(check_groups(TOPOLOGY, groups))
    assert len(findings) == 2
    assert all(finding.seen == f"a group of {EDU}, {DISK}" for finding in findings)


def test_device_in_two_groups_is_found() -> None:
    (finding,) = of(list(check_groups(TOPOLOGY, with_(EDU, beside=DISK))), EDU)
    assert (finding.expected, finding.seen) == ("one group", "2 groups")


def test_group_for_a_device_outside_is_found() -> None:
    (finding,) = check_groups(TOPOLOGY, [*right(), Group(99, "DMA", (OUT,))])
    assert (finding.subject, finding.expected, finding.seen) == (
        f"IOMMU group of {OUT} (out)", "no group", f"a group of {OUT}",
    )  # fmt: skip


def test_group_of_a_function_that_the_machine_has_not_is_found() -> None:
    (finding,) = check_groups(TOPOLOGY, [*right(), Group(99, "DMA", ("0000:77:00.0",))])
    assert finding.subject == "IOMMU group of 0000:77:00.0"


def test_group_of_a_device_that_is_no_pci_function_is_found() -> None:
    seen = [*right(), Group(99, "DMA", ("virtio-mmio.1",))]
    (finding,) = check_groups(TOPOLOGY, seen)
    assert "virtio-mmio.1" in finding.seen
    assert list(check_group_types(TOPOLOGY, seen)) == []


@pytest.mark.parametrize("wrong", ["identity", "DMA-FQ", "blocked", ""])
def test_wrong_type_of_one_group_is_found_once(wrong: str) -> None:
    seen = [replace(group, type=wrong) if "0000:00:1f.0" in group.devices else group for group in right()]
    (finding,) = check_group_types(TOPOLOGY, seen)
    assert (finding.expected, finding.seen) == ("DMA", wrong)
    assert "0000:00:1f.0" in finding.subject


def test_no_group_at_all_is_found() -> None:
    (finding,) = check_group_types(TOPOLOGY, [])
    assert (finding.expected, finding.seen) == ("groups", "0 groups")
    assert len(list(check_groups(TOPOLOGY, []))) == sum(function.covered for function in TOPOLOGY.functions)


def test_groups_where_there_must_be_none_are_found() -> None:
    bare = topology(Machine(iommu=Iommu(kind=IommuKind.NONE)))
    (finding,) = check_group_types(bare, [Group(0, "DMA", ("0000:00:00.0",))])
    assert (finding.expected, finding.seen) == ("no group", "1 groups")


LISTED = [ListedFunction(f.address, f.class_code, f.vendor, f.device) for f in TOPOLOGY.functions]


def changed(id: str, **values: int) -> list[ListedFunction]:
    address = TOPOLOGY.function(id).address
    return [replace(f, **values) if f.address == address else f for f in LISTED]  # type: ignore[arg-type]


def test_right_listing_in_any_order_gives_no_finding() -> None:
    assert list(check_functions(TOPOLOGY, LISTED[::-1])) == []


def test_function_that_is_not_listed_is_found() -> None:
    (finding,) = check_functions(TOPOLOGY, [f for f in LISTED if str(f.address) != EDU])
    assert (finding.expected, finding.seen) == ("1234:11e8 class 00ff", "nothing")
    assert "edu0" in finding.subject


def test_function_too_many_is_found() -> None:
    (finding,) = check_functions(TOPOLOGY, [*LISTED, ListedFunction(Address(9, 0), 0x0200, 0x8086, 0x10D3)])
    assert finding.subject == "lspci at 0000:09:00.0"
    assert finding.seen == "8086:10d3 class 0200"


@pytest.mark.parametrize("field", ["vendor", "device", "class_code"])
def test_function_that_is_something_else_is_found(field: str) -> None:
    (finding,) = check_functions(TOPOLOGY, changed("virtio-blk0", **{field: 0x1001}))
    assert finding.expected == "1af4:1042 class 0100"
    assert "1001" in finding.seen


def test_judge_raises_all_findings_and_nothing_for_none() -> None:
    judge(())
    findings = (
        Finding(subject="a", expected="b", seen="c"),
        Finding(subject="d", expected="e", seen="f", citation="g"),
    )
    with pytest.raises(Mismatch) as caught:
        judge(iter(findings))
    assert caught.value.findings == findings
    assert str(caught.value) == "a: expected b, saw c\nd: expected e, saw f (g)"
