"""Which PCI functions a machine has, which of them stand behind its IOMMU, and which IOMMU groups Linux makes of them.

Pure: from the spec alone. The general part, which knows of no spec, is `harness.model.pci`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise

from harness.model.pci.aliases import seen_as
from harness.model.pci.functions import Acs, AcsCapability, Function, PortType
from harness.model.pci.groups import iommu_groups
from harness.model.pci.platform import Platform, Unit, UnitPlace
from harness.model.pci.tree import PciTree, RootBus
from harness.model.virtio.dma_path import DmaPath, VirtioGuest, VirtioOffer, dma_path
from harness.pci import Address
from harness.placement import AGENT_NUMBER, EXPANDER_BUS, OUTSIDE_BUS, Bridge, Placement, Port, Root, Slot, place
from harness.spec import DeviceKind, DmaMode, Interface, IommuKind, Machine

__all__ = ["AMDVI_REGISTERS", "VTD_REGISTERS", "ExpectedGroup", "PciFunction", "Topology", "topology"]

VTD_REGISTERS = 0xFED9_0000
"""Where the registers of q35's VT-d unit are (QEMU, include/hw/i386/intel_iommu.h, Q35_HOST_BRIDGE_IOMMU_ADDR)."""

AMDVI_REGISTERS = 0xFED8_0000
"""Where the registers of an amd-iommu are (QEMU, hw/i386/amd_iommu.h, AMDVI_BASE_ADDR)."""


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
        requester: requester id that its DMA carries when it reaches the IOMMU: its own, or one that a bridge gives it.
    """

    address: Address
    vendor: int
    device: int
    class_code: int
    what: str
    covered: bool
    translated: bool
    requester: int


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
    """All of a machine's functions, in the order of their addresses.

    Attributes:
        machine: the spec.
        functions: what the guest must find.
        platform: the same functions, with what is above and below each, and the IOMMU.
        bridged: ids of the devices in whose place a bridge stands.
    """

    machine: Machine
    functions: tuple[PciFunction, ...]
    platform: Platform
    bridged: frozenset[str]

    def function(self, what: str) -> PciFunction:
        """The function of a device id of the spec, or of a chipset part.

        Raises:
            KeyError: there is none (a device to be hot-plugged that is not there yet, for one).
        """
        for function in self.functions:
            if function.what == what:
                return function
        raise KeyError(what)

    def dma_path(self, id: str) -> DmaPath:
        """What becomes of the DMA of a virtio device of the spec."""
        device = self.machine.device(id)
        offer = VirtioOffer(
            interface=device.interface,
            access_platform=device.access_platform,
            behind=self.function(id).covered,
        )
        accepts = device.kind is not DeviceKind.VIRTIO_BALLOON
        return dma_path(offer, VirtioGuest(dma_mode=self.machine.dma_mode, accepts=accepts))

    def only(self, what: str) -> Topology:
        """The same with no other function than that one."""
        return replace(self, functions=(self.function(what),))

    @property
    def iommu(self) -> PciFunction | None:
        """The IOMMU's own function; None where it is none, as VT-d is."""
        return next((function for function in self.functions if function.what in _IOMMU_FUNCTIONS), None)

    @property
    def groups(self) -> tuple[ExpectedGroup, ...]:
        """The groups, in the order of their lowest member."""
        if self.machine.iommu.kind is IommuKind.NONE or self.machine.dma_mode is DmaMode.OFF:
            return ()
        types = _group_types(self.machine)
        covered = {function.address for function in self.functions if function.covered}
        return tuple(ExpectedGroup(members, types) for members in iommu_groups(self.platform.tree, covered))


def topology(machine: Machine, plugged: Collection[str] = (), bridged: Collection[str] = ()) -> Topology:
    """What the guest must find.

    Args:
        machine: the spec.
        plugged: ids of its hot-plug devices that are plugged in now.
        bridged: ids of those in whose place firmware has found a PCIe-to-PCI bridge with nothing behind it.
    """
    plan = place(machine)
    parts = [*_chipset(plan, machine.iommu.kind), *_devices(plan, plugged, bridged)]
    platform = _platform(machine, plan, PciTree(_roots(plan), (part.function for part in parts)))
    behind = platform.behind()
    functions = (
        PciFunction(
            address=part.function.address,
            vendor=part.ids[0],
            device=part.ids[1],
            class_code=part.ids[2],
            what=part.what,
            covered=part.function.address in behind,
            translated=part.function.address in behind and not part.goes_around,
            requester=seen_as(platform.tree, part.function).requester,
        )
        for part in parts
    )
    in_order = tuple(sorted(functions, key=lambda function: function.address))
    return Topology(machine, in_order, platform, frozenset(bridged))


@dataclass(frozen=True, slots=True)
class _Part:
    """A function before it is known who is behind what.

    Attributes:
        function: where it is, and of what type.
        ids: vendor, device, class code.
        what: as in `PciFunction`.
        goes_around: whether its DMA goes around an IOMMU that stands before it.
    """

    function: Function
    ids: tuple[int, int, int]
    what: str
    goes_around: bool = False


# Ids and classes: QEMU, include/hw/pci/pci.h and pci_ids.h; virtio 1.3, section 4.1.2: 0x1040 + device type.
_VIRTIO = 0x1AF4
_RED_HAT = 0x1B36
_INTEL = 0x8086
_VIRTIO_IOMMU = "virtio-iommu"
_AMD_IOMMU = "amd-iommu"
_IOMMU_FUNCTIONS = {
    _VIRTIO_IOMMU: (_VIRTIO, 0x1057, 0x00FF),
    _AMD_IOMMU: (0x1022, 0x1419, 0x0806),
}
# Of each kind of virtio device: id with the modern interface alone, id with a legacy one, class.
_KINDS: dict[DeviceKind, tuple[int, int | None, int]] = {
    DeviceKind.VIRTIO_NET: (0x1041, 0x1000, 0x0200),
    DeviceKind.VIRTIO_BLK: (0x1042, 0x1001, 0x0100),
    DeviceKind.VIRTIO_SERIAL: (0x1043, 0x1003, 0x0780),
    DeviceKind.VIRTIO_RNG: (0x1044, 0x1005, 0x00FF),
    DeviceKind.VIRTIO_BALLOON: (0x1045, 0x1002, 0x00FF),
    DeviceKind.VIRTIO_SCSI: (0x1048, 0x1004, 0x0100),
    DeviceKind.VIRTIO_GPU: (0x1050, None, 0x0380),
    DeviceKind.VIRTIO_KEYBOARD: (0x1052, None, 0x0900),
    DeviceKind.VIRTIO_CRYPTO: (0x1054, None, 0x00FF),
}
# 82574L and 82576: Intel's datasheets of them, 9.1.1.2 and 9.4.2.
_OTHERS: dict[DeviceKind, tuple[int, int, int]] = {
    DeviceKind.E1000E: (_INTEL, 0x10D3, 0x0200),
    DeviceKind.IGB: (_INTEL, 0x10C9, 0x0200),
    DeviceKind.EDU: (0x1234, 0x11E8, 0x00FF),
}


def _ids(kind: DeviceKind, interface: Interface = Interface.MODERN) -> tuple[int, int, int]:
    """Vendor, device and class of a device: a transitional one has the id of a legacy one (virtio 1.3, 4.1.2.1)."""
    if kind in _OTHERS:
        return _OTHERS[kind]
    modern, legacy, of_class = _KINDS[kind]
    id = modern if interface is Interface.MODERN else legacy
    assert id is not None  # `Device` refuses a legacy interface of what has none
    return _VIRTIO, id, of_class


_ROOT_PORT_ACS = AcsCapability(
    Acs.SOURCE_VALIDATION
    | Acs.TRANSLATION_BLOCKING
    | Acs.REQUEST_REDIRECT
    | Acs.COMPLETION_REDIRECT
    | Acs.UPSTREAM_FORWARDING
    | Acs.DIRECT_TRANSLATED
).as_linux_sets_it()
"""ACS of a root port (QEMU, hw/pci/pcie.c, `pcie_acs_init`)."""


def _chipset(plan: Placement, kind: IommuKind) -> list[_Part]:
    """What q35 has without being asked, the harness's own devices, the IOMMU's function, a pxb's host bridge."""

    def on_root_bus(number: int, function: int = 0, *, multifunction: bool = False) -> Function:
        # All are conventional functions: no PCI Express capability, no ACS.
        return Function(address=Address(0, number, function), multifunction=multifunction)

    parts = [
        _Part(on_root_bus(0), (_INTEL, 0x29C0, 0x0600), "host bridge"),
        _Part(on_root_bus(0x1F, 0, multifunction=True), (_INTEL, 0x2918, 0x0601), "LPC bridge"),
        _Part(on_root_bus(0x1F, 2, multifunction=True), (_INTEL, 0x2922, 0x0106), "SATA controller"),
        _Part(on_root_bus(0x1F, 3, multifunction=True), (_INTEL, 0x2930, 0x0C05), "SMBus"),
        _Part(on_root_bus(plan.management_number), _ids(DeviceKind.VIRTIO_NET), "management NIC", goes_around=True),
        _Part(on_root_bus(AGENT_NUMBER), _ids(DeviceKind.VIRTIO_SERIAL), "agent port", goes_around=True),
    ]
    if plan.iommu_number is not None:
        what = _AMD_IOMMU if kind is IommuKind.AMD else _VIRTIO_IOMMU
        parts.append(_Part(on_root_bus(plan.iommu_number), _IOMMU_FUNCTIONS[what], what))
    for root, carrier in ((Root.EXPANDER, plan.expander_number), (Root.OUTSIDE, plan.outside_number)):
        if carrier is not None:
            parts.append(_Part(on_root_bus(carrier), (_RED_HAT, 0x000B, 0x0600), f"host bridge of {root}"))
    return parts


def _devices(plan: Placement, plugged: Collection[str], bridged: Collection[str]) -> list[_Part]:
    """The root ports, and what is below them or on a root bus itself."""
    ports = frozenset(slot.port for slot in plan.slots if slot.port and slot.device.id in bridged)
    secondary = _secondary_buses(plan, ports)
    parts = [
        _Part(
            Function(
                address=Address(_root_bus(port.root), port.number),
                port_type=PortType.ROOT_PORT,
                secondary=secondary[port],
                subordinate=secondary[port] + (port in ports or port.takes_bridge),
                acs=_ROOT_PORT_ACS,
            ),
            (_RED_HAT, 0x000C, 0x0604),
            port.id,
        )
        for port in plan.ports
    ]
    parts += [_bridge(Address(secondary[port], 0), secondary[port] + 1, f"bridge below {port.id}") for port in ports]
    for bridge in plan.bridges:
        if bridge.port is None or any(slot.bridge == bridge and slot.device.id in plugged for slot in plan.slots):
            bus = secondary[bridge.port] if bridge.port else _root_bus(Root.MAIN)
            parts.append(_bridge(Address(bus, bridge.number), secondary[bridge], bridge.id))
    for slot in plan.slots:
        device = slot.device
        if device.hotplug and device.id not in plugged:
            continue
        bus = secondary[slot.above] if slot.above else _root_bus(slot.root)
        address = Address(bus, slot.number, slot.function)
        function = Function(address=address, port_type=_port_type(slot), multifunction=bool(device.slot))
        around = device.kind.is_virtio and not device.access_platform
        parts.append(_Part(function, _ids(device.kind, device.interface), device.id, goes_around=around))
    return parts


def _bridge(at: Address, secondary: int, what: str) -> _Part:
    function = Function(address=at, port_type=PortType.PCIE_TO_PCI_BRIDGE, secondary=secondary)
    return _Part(function, (_RED_HAT, 0x000E, 0x0604), what)


def _port_type(slot: Slot) -> PortType | None:
    """What the PCI Express capability of a device says; None where it has none."""
    match slot.device.kind:
        case DeviceKind.EDU:
            return None
        case DeviceKind.E1000E | DeviceKind.IGB:
            # QEMU, hw/pci/pcie.c, `pcie_endpoint_cap_common_init`.
            return PortType.ENDPOINT if slot.above else PortType.RC_INTEGRATED_ENDPOINT
        case _:
            # Conventional on a root bus (QEMU, hw/virtio/virtio-pci.c, `virtio_pci_realize`), and everywhere with the
            # legacy interface alone (`virtio_pci_dc_realize`).
            modern = slot.device.interface is not Interface.LEGACY
            return PortType.ENDPOINT if slot.port and modern else None


def _platform(machine: Machine, plan: Placement, tree: PciTree) -> Platform:
    """The IOMMU stands before all root complexes but the outside one, which goes around it (`harness.placement`)."""
    units: tuple[Unit, ...] = ()
    inside = frozenset(root.number for root in tree.roots) - {_root_bus(Root.OUTSIDE)}
    match machine.iommu.kind:
        case IommuKind.NONE:
            pass
        case IommuKind.INTEL:
            units = (Unit(place=UnitPlace(registers=VTD_REGISTERS), table="DMAR", root_buses=inside),)
        case IommuKind.AMD:
            assert plan.iommu_number is not None
            place = UnitPlace(registers=AMDVI_REGISTERS, function=Address(0, plan.iommu_number))
            units = (Unit(place=place, table="IVRS", root_buses=inside),)
        case IommuKind.VIRTIO:
            assert plan.iommu_number is not None
            place = UnitPlace(function=Address(0, plan.iommu_number))
            units = (Unit(place=place, table="VIOT", root_buses=inside),)
    return Platform(
        tree=tree,
        units=units,
        interrupt_remapping=plan.interrupt_remapping,
        address_width=_address_width(machine),
        ioapics=frozenset({0}),  # QEMU, hw/i386/acpi-common.h, ACPI_BUILD_IOAPIC_ID
    )


def _address_width(machine: Machine) -> int:
    """Bits that reach all RAM and the devices below 4 GiB.

    Machines of 2.75 GiB and more have 2 GiB of their RAM below 4 GiB and the rest above (QEMU, hw/i386/pc_q35.c).
    """
    ram = machine.memory_mib << 20
    end = (4 << 30) + ram - (2 << 30) if ram >= 0xB000_0000 else 4 << 30
    return (end - 1).bit_length()


def _roots(plan: Placement) -> list[RootBus]:
    carriers = {Root.MAIN: 0, Root.EXPANDER: plan.expander_number, Root.OUTSIDE: plan.outside_number}
    buses = [_root_bus(root) for root, carrier in carriers.items() if carrier is not None]
    return [RootBus(bus, last=following - 1) for bus, following in pairwise((*buses, 0x100))]


def _root_bus(root: Root) -> int:
    return {Root.MAIN: 0, Root.EXPANDER: EXPANDER_BUS, Root.OUTSIDE: OUTSIDE_BUS}[root]


def _secondary_buses(plan: Placement, bridged: Collection[Port]) -> dict[Port | Bridge, int]:
    """Bus number below each port and bridge: firmware counts up from the root bus (SeaBIOS, fw/pciinit.c).

    Args:
        plan: of the machine.
        bridged: ports below which is a bridge, whose own bus gets the number that follows.
    """
    buses: dict[Port | Bridge, int] = {}
    for root in Root:
        above: list[Port | Bridge] = [port for port in plan.ports if port.root is root]
        above += [bridge for bridge in plan.bridges if bridge.port is None] if root is Root.MAIN else ()
        number = _root_bus(root)
        for bridge in sorted(above, key=lambda bridge: bridge.number):
            buses[bridge] = number + 1
            number += 2 if bridge in bridged or (isinstance(bridge, Port) and bridge.takes_bridge) else 1
    return buses | {bridge: buses[bridge.port] + 1 for bridge in plan.bridges if bridge.port is not None}


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
            # Where the IOMMU may cache what is not present the flush queue is off: VT-d's caching mode (Linux,
            # drivers/iommu/intel/iommu.c, intel_iommu_init), and NpCache, which QEMU's amd-iommu always says
            # (drivers/iommu/amd/init.c, iommu_init_pci).
            return frozenset({"DMA"})
