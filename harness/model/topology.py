"""Which PCI functions a machine has, which of them stand behind its IOMMU, and which IOMMU groups Linux makes of them.

Pure: from the spec alone. Groups follow `pci_device_group` in Linux, drivers/iommu/iommu.c: functions share a group
where nothing (ACS) keeps one from reaching the other without passing the IOMMU.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from harness.pci import Address
from harness.placement import OUTSIDE_BUS, Placement, Port, Root, place
from harness.spec import DeviceKind, DmaMode, IommuKind, Machine

__all__ = ["ExpectedGroup", "PciFunction", "Topology", "topology"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PciFunction:
    """One function that the guest must find.

    Attributes:
        address: where.
        vendor: vendor id.
        device: device id.
        class_code: base class and subclass, 16 bits.
        what: what it is, for people: the device's id in the spec, or the part of the chipset.
        covered: whether the firmware's tables put it behind the IOMMU, so that the guest makes a group for it.
        translated: whether its DMA passes the IOMMU. A virtio device without VIRTIO_F_ACCESS_PLATFORM is covered
            and not translated (virtio 1.3, section 6.1).
        isolated: whether it can reach no neighbour but through the IOMMU: it is a single function of the root
            complex, or the port above it has ACS. Functions of one device that are not isolated share a group.
    """

    address: Address
    vendor: int
    device: int
    class_code: int
    what: str
    covered: bool
    translated: bool
    isolated: bool = True


@dataclass(frozen=True, slots=True)
class ExpectedGroup:
    """An IOMMU group that must be there.

    Attributes:
        members: exactly these functions.
        types: the values that its `type` may have: one, except where drivers differ in what they can do.
    """

    members: frozenset[Address]
    types: frozenset[str]


@dataclass(frozen=True, slots=True)
class Topology:
    """All of a machine's functions, in the order of their addresses."""

    machine: Machine
    functions: tuple[PciFunction, ...]

    def function(self, what: str) -> PciFunction:
        """The function of a device id of the spec, or of a chipset part.

        Raises:
            KeyError: there is none (a device to be hot-plugged that is not there yet, for one).
        """
        for function in self.functions:
            if function.what == what:
                return function
        raise KeyError(what)

    def only(self, what: str) -> Topology:
        """The same with no other function than that one."""
        return replace(self, functions=(self.function(what),))

    @property
    def iommu(self) -> PciFunction | None:
        """The IOMMU's own function; None where it is none, as VT-d is."""
        return next((function for function in self.functions if function.what == _IOMMU), None)

    @property
    def groups(self) -> tuple[ExpectedGroup, ...]:
        """The groups, in the order of their lowest member."""
        if self.machine.iommu.kind is IommuKind.NONE or self.machine.dma_mode is DmaMode.OFF:
            return ()
        members: dict[tuple[int, int, int], set[Address]] = {}
        for function in self.functions:
            if function.covered:
                address = function.address
                alone = address.function + 1 if function.isolated else 0
                members.setdefault((address.bus, address.device, alone), set()).add(address)
        types = _group_types(self.machine)
        return tuple(ExpectedGroup(frozenset(group), types) for _, group in sorted(members.items()))


def topology(machine: Machine, plugged: Collection[str] = ()) -> Topology:
    """What the guest must find.

    Args:
        machine: the spec.
        plugged: ids of its hot-plug devices that are plugged in now.
    """
    plan = place(machine)
    functions = [*_chipset(machine, plan), *_devices(machine, plan, plugged)]
    return Topology(machine, tuple(sorted(functions, key=lambda function: function.address)))


# Ids and classes: QEMU, include/hw/pci/pci.h and pci_ids.h; virtio 1.3, section 4.1.2: 0x1040 + device type.
_VIRTIO = 0x1AF4
_RED_HAT = 0x1B36
_IOMMU = "virtio-iommu"
_INTEL = 0x8086
_DEVICES = {
    DeviceKind.VIRTIO_NET: (_VIRTIO, 0x1041, 0x0200),
    DeviceKind.VIRTIO_BLK: (_VIRTIO, 0x1042, 0x0100),
    DeviceKind.EDU: (0x1234, 0x11E8, 0x00FF),
}


def _chipset(machine: Machine, plan: Placement) -> list[PciFunction]:
    """What q35 has without being asked, the management NIC, the IOMMU's own function and the host bridge of a pxb."""
    covered = machine.iommu.kind is not IommuKind.NONE

    def part(
        number: int, ids: tuple[int, int, int], what: str, function: int = 0, *, shared: bool = False
    ) -> PciFunction:
        vendor, device, class_code = ids
        return PciFunction(
            address=Address(0, number, function),
            vendor=vendor,
            device=device,
            class_code=class_code,
            what=what,
            covered=covered,
            translated=covered,
            isolated=not shared,
        )

    parts = [
        part(0, (_INTEL, 0x29C0, 0x0600), "host bridge"),
        # The functions of 1f have no ACS: one group (QEMU, hw/isa/lpc_ich9.c and its neighbours).
        part(0x1F, (_INTEL, 0x2918, 0x0601), "LPC bridge", 0, shared=True),
        part(0x1F, (_INTEL, 0x2922, 0x0106), "SATA controller", 2, shared=True),
        part(0x1F, (_INTEL, 0x2930, 0x0C05), "SMBus", 3, shared=True),
    ]
    vendor, device, class_code = _DEVICES[DeviceKind.VIRTIO_NET]
    parts.append(
        PciFunction(
            address=Address(0, plan.management_number),
            vendor=vendor,
            device=device,
            class_code=class_code,
            what="management NIC",
            covered=covered,
            translated=False,
        )
    )
    if plan.iommu_number is not None:
        # The IOMMU is not behind itself: VIOT leaves its own endpoint out (ACPI 6.5, table 5.153).
        parts.append(
            PciFunction(
                address=Address(0, plan.iommu_number),
                vendor=_VIRTIO,
                device=0x1057,
                class_code=0x00FF,
                what=_IOMMU,
                covered=False,
                translated=False,
            )
        )
    if plan.outside_number is not None:
        parts.append(part(plan.outside_number, (_RED_HAT, 0x000B, 0x0600), "expander bridge"))
    return parts


def _devices(machine: Machine, plan: Placement, plugged: Collection[str]) -> list[PciFunction]:
    """The root ports, and what is below them or on a root bus itself."""
    behind = machine.iommu.kind is not IommuKind.NONE
    secondary = _secondary_buses(plan)
    functions = [
        PciFunction(
            address=Address(_root_bus(port.root), port.number),
            vendor=_RED_HAT,
            device=0x000C,
            class_code=0x0604,
            what=port.id,
            covered=behind and port.root is Root.MAIN,
            translated=behind and port.root is Root.MAIN,
        )
        for port in plan.ports
    ]
    for slot in plan.slots:
        device = slot.device
        if device.hotplug and device.id not in plugged:
            continue
        vendor, device_id, class_code = _DEVICES[device.kind]
        covered = behind and slot.root is Root.MAIN
        functions.append(
            PciFunction(
                address=Address(secondary[slot.port] if slot.port else _root_bus(slot.root), slot.number),
                vendor=vendor,
                device=device_id,
                class_code=class_code,
                what=device.id,
                covered=covered,
                translated=covered and device.iommu,
            )
        )
    return functions


def _root_bus(root: Root) -> int:
    return 0 if root is Root.MAIN else OUTSIDE_BUS


def _secondary_buses(plan: Placement) -> dict[Port, int]:
    """Bus number below each root port: firmware counts up from the root bus, port by port (SeaBIOS, fw/pciinit.c)."""
    buses: dict[Port, int] = {}
    for root in Root:
        ports = sorted((port for port in plan.ports if port.root is root), key=lambda port: port.number)
        buses |= {port: _root_bus(root) + count for count, port in enumerate(ports, start=1)}
    return buses


def _group_types(machine: Machine) -> frozenset[str]:
    """What a group's `type` must be. Linux, Documentation/ABI/testing/sysfs-kernel-iommu_groups."""
    match machine.dma_mode:
        case DmaMode.PASSTHROUGH:
            return frozenset({"identity"})
        case DmaMode.LAZY if machine.iommu.kind is IommuKind.INTEL and not machine.iommu.caching_mode:
            return frozenset({"DMA-FQ"})
        case DmaMode.LAZY if machine.iommu.kind is IommuKind.VIRTIO:
            # A flush queue came to drivers/iommu/virtio-iommu.c with Linux 6.10 only.
            return frozenset({"DMA", "DMA-FQ"})
        case _:
            # In caching mode the flush queue is off (drivers/iommu/intel/iommu.c, intel_iommu_init).
            return frozenset({"DMA"})
