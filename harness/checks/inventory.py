"""IOMMU groups and PCI functions: what the topology says must be there, against what the guest shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from harness.errors import SpecError
from harness.guest.answers import Group
from harness.guest.lspci import ListedFunction
from harness.model.topology import Topology
from harness.pci import Address
from harness.report.record import Finding

__all__ = ["check_functions", "check_group_types", "check_groups"]

_GROUPS_ABI = "Linux, Documentation/ABI/testing/sysfs-kernel-iommu_groups; cloud-hypervisor, docs/iommu.md"


def check_groups(topology: Topology, seen: Collection[Group]) -> Iterator[Finding]:
    """Every function that is covered is in one group, with exactly the expected members; every other is in none."""
    expected = {address: group.members for group in topology.groups for address in group.members}
    seen_in: dict[Address, list[frozenset[Address]]] = {}
    for group in seen:
        members = frozenset(address for name in group.devices if (address := _address(name)) is not None)
        for member in members:
            seen_in.setdefault(member, []).append(members)
        for name in group.devices:
            if _address(name) is None:
                yield Finding(
                    subject=f"IOMMU group {group.number}",
                    expected="PCI functions alone",
                    seen=f"a device {name!r}",
                    citation=_GROUPS_ABI,
                )
    for function in topology.functions:
        address = function.address
        subject = f"IOMMU group of {address} ({function.what})"
        groups = seen_in.pop(address, [])
        if len(groups) > 1:
            yield Finding(subject=subject, expected="one group", seen=f"{len(groups)} groups", citation=_GROUPS_ABI)
            continue
        found = groups[0] if groups else None
        if found != expected.get(address):
            yield Finding(
                subject=subject,
                expected=_members(expected.get(address)),
                seen=_members(found),
                citation=_GROUPS_ABI,
            )
    for address, groups in sorted(seen_in.items()):
        yield Finding(
            subject=f"IOMMU group of {address}",
            expected="no such function in the machine",
            seen=_members(groups[0]),
            citation=_GROUPS_ABI,
        )


def check_group_types(topology: Topology, seen: Collection[Group]) -> Iterator[Finding]:
    """Every group that is there has the `type` that the guest's DMA mode gives it, and there are groups at all."""
    allowed = {address: group.types for group in topology.groups for address in group.members}
    if bool(seen) != bool(allowed):
        yield Finding(
            subject="/sys/kernel/iommu_groups",
            expected="groups" if allowed else "no group",
            seen=f"{len(seen)} groups",
            citation=_GROUPS_ABI,
        )
    for group in seen:
        for name in group.devices:
            address = _address(name)
            types = allowed.get(address) if address else None
            if types is not None and group.type not in types:
                yield Finding(
                    subject=f"type of IOMMU group {group.number} ({', '.join(group.devices)})",
                    expected=" or ".join(sorted(types)),
                    seen=group.type,
                    citation=_GROUPS_ABI,
                )
                break


def check_functions(topology: Topology, seen: Collection[ListedFunction]) -> Iterator[Finding]:
    """`lspci` shows every function of the machine, each as what it is, and none else."""
    listed = {function.address: function for function in seen}
    for function in topology.functions:
        found = listed.pop(function.address, None)
        wanted = (function.vendor, function.device, function.class_code)
        if found is None or (found.vendor, found.device, found.class_code) != wanted:
            yield Finding(
                subject=f"lspci at {function.address} ({function.what})",
                expected=_ids(*wanted),
                seen="nothing" if found is None else _ids(found.vendor, found.device, found.class_code),
                citation="PCI Local Bus 3.0, 6.1; virtio 1.3, 4.1.2",
            )
    for address, found in sorted(listed.items()):
        yield Finding(
            subject=f"lspci at {address}",
            expected="nothing: the machine has no such function",
            seen=_ids(found.vendor, found.device, found.class_code),
        )


def _address(name: str) -> Address | None:
    """The address of a device that is a PCI function; None for another, as of the platform bus."""
    try:
        return Address.parse(name)
    except SpecError:
        return None


def _members(members: frozenset[Address] | None) -> str:
    return "no group" if members is None else "a group of " + ", ".join(map(str, sorted(members)))


def _ids(vendor: int, device: int, class_code: int) -> str:
    return f"{vendor:04x}:{device:04x} class {class_code:04x}"
