"""Where each device of a spec stands on the PCI topology: the one plan that model and command line share.

The ids of the harness's own devices have a dot in them, which those of a spec cannot.

The q35 machine is laid out so that one look at an address says what it is:

====================  ==========================================================================
``pcie.0`` (bus 0)    devices behind the IOMMU, the IOMMU's own function (virtio-iommu, amd-iommu),
                      the management NIC, the agent's port at 1e, the chipset's functions at 1f
``expander.0`` (40)   a second root complex (pxb-pcie), behind the IOMMU like the first, made only where
                      a device asks for it
``outside.0`` (80)    another root complex (pxb-pcie) with ``bypass_iommu=on``, made only where a
                      device is tagged ``iommu=off``: no IOMMU stands between it and memory
====================  ==========================================================================

A device on `pcie.0` that is attached at boot is an integrated endpoint. One that is hot-plugged gets a root port, since
the root bus takes no hot-plug, and so does every device on another root complex, since a pxb-pcie takes nothing but
bridges (QEMU, docs/pcie.txt, section 2, and `pxb_dev_pre_plug` there), and an igb, whose virtual functions have numbers
of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.errors import SpecError
from harness.spec import Device, Interface, Iommu, IommuKind, Machine

__all__ = ["AGENT_NUMBER", "EXPANDER_BUS", "OUTSIDE_BUS", "Bridge", "Placement", "Port", "Root", "Slot", "place"]

EXPANDER_BUS = 0x40
"""Bus number of the second root complex behind the IOMMU."""

OUTSIDE_BUS = 0x80
"""Bus number of the root complex that bypasses the IOMMU."""

AGENT_NUMBER = 0x1E
"""Device number on bus 0 of the controller behind which the port of the in-guest agent is."""


class Root(StrEnum):
    """A root complex, under its QEMU bus name."""

    MAIN = "pcie.0"
    EXPANDER = "expander.0"
    OUTSIDE = "outside.0"


# Device numbers of what a spec asks for; on the main root the others are the harness's own and the chipset's.
_NUMBERS = {Root.MAIN: range(0x04, AGENT_NUMBER), Root.EXPANDER: range(0x1F), Root.OUTSIDE: range(0x1F)}
_CONVENTIONAL_NUMBERS, _FUNCTIONS = range(0x20), range(8)
_IO_PORTS = 4  # root ports of a pxb-pcie that firmware keeps I/O ports for: 4 KiB each, out of 64 KiB in all


@dataclass(frozen=True, slots=True)
class Port:
    """A PCIe root port with one device below it, which may be absent until it is hot-plugged.

    Attributes:
        id: its QEMU id, which is also the name of the bus below it.
        root: the root complex it belongs to.
        number: its device number on that root bus.
        index: 1, 2...: its chassis and physical slot number.
        takes_bridge: whether firmware is to keep a bus number for a bridge that is plugged here.
    """

    id: str
    root: Root
    number: int
    index: int
    takes_bridge: bool = False

    @property
    def has_io(self) -> bool:
        """Whether firmware is to keep I/O ports for what is plugged here.

        Linux finds some for a port of the main root when it needs them. Of another root it is told the I/O ports that
        firmware has given to what is below it (QEMU, hw/i386/acpi-build.c, build_crs), and no other.
        """
        return self.root is not Root.MAIN and self.number < _IO_PORTS


@dataclass(frozen=True, slots=True)
class Bridge:
    """A PCIe-to-PCI bridge, with a conventional bus below it.

    Attributes:
        id: its QEMU id, which is also the name of the bus below it.
        number: its device number on the bus it sits on: the main root bus, or 0 behind a port.
        port: the root port that it is plugged into; None for one that is there from the start.
    """

    id: str
    number: int
    port: Port | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one device stands.

    Attributes:
        device: the device, as in the spec.
        root: the root complex above it.
        number: its device number on the bus it sits on (0 behind a port).
        port: the root port above it; None for one that is not behind a port.
        bridge: the conventional bridge above it; None for one that is not behind a bridge.
        function: its function number.
    """

    device: Device
    root: Root
    number: int
    port: Port | None = None
    bridge: Bridge | None = None
    function: int = 0

    @property
    def above(self) -> Port | Bridge | None:
        """What it stands behind; None for an integrated endpoint."""
        return self.port or self.bridge

    @property
    def bus(self) -> str:
        """Name of the QEMU bus that the device plugs into."""
        return self.above.id if self.above else self.root.value


@dataclass(frozen=True, slots=True)
class Placement:
    """The whole plan of a machine.

    Attributes:
        slots: one for each device of the spec, in its order.
        ports: root ports, in the order of their index: those on the main root, those of the expander, then those
            outside. A device that needs one takes the next free one of its root.
        bridges: conventional bridges, in the order in which devices name them, those that are plugged later too.
        iommu_number: device number of the IOMMU's own function on bus 0; None where it has none, as VT-d.
        management_number: device number of the management NIC on bus 0.
        expander_number, outside_number: device number on bus 0 of the host bridge that carries that root complex; None
            where there is none.
        interrupt_remapping: whether the IOMMU remaps interrupts; None where its kind cannot. Where the spec leaves it
            open it does, but for a VT-d with a device outside: Linux takes MSI away from a device that no remapping
            unit covers while others remap (drivers/iommu/intel/irq_remapping.c, map_dev_to_ir), and its driver then
            waits for interrupts for ever. Its AMD driver leaves such a device the MSIs of a machine without remapping.
    """

    slots: tuple[Slot, ...]
    ports: tuple[Port, ...]
    bridges: tuple[Bridge, ...]
    iommu_number: int | None
    management_number: int
    expander_number: int | None
    outside_number: int | None
    interrupt_remapping: bool | None

    def slot(self, id: str) -> Slot:
        """The slot of the device with that id.

        Raises:
            SpecError: no device has it.
        """
        for slot in self.slots:
            if slot.device.id == id:
                return slot
        raise SpecError(f"no device {id!r} in this machine", hint=f"it has: {[s.device.id for s in self.slots]}")


def place(machine: Machine) -> Placement:
    """Plan where every device goes.

    On a machine without an IOMMU there is nothing to stand outside of: all devices are on `pcie.0`.

    Raises:
        SpecError: more devices than a root bus has room for.
    """
    has_iommu = machine.iommu.kind is not IommuKind.NONE
    roots = [_root(device) if has_iommu else Root.MAIN for device in machine.devices]
    needs_port = [
        device.hotplug or device.kind.needs_port or root is not Root.MAIN
        for device, root in zip(machine.devices, roots, strict=True)
    ]
    inside = sum(needs for needs, root in zip(needs_port, roots, strict=True) if root is Root.MAIN)
    main = _Bus(Root.MAIN)
    expander = _Bus(Root.EXPANDER, ports_before=max(inside, machine.ports.inside))
    outer = _Bus(Root.OUTSIDE, ports_before=expander.ports_before + roots.count(Root.EXPANDER))
    buses = {Root.MAIN: main, Root.EXPANDER: expander, Root.OUTSIDE: outer}
    slots: list[Slot] = []
    for device, root, needs in zip(machine.devices, roots, needs_port, strict=True):
        if device.bridge or device.slot:
            slots.append(main.share(device))
            continue
        bus = buses[root]
        port = bus.add_port(device.id) if needs else None
        number = 0 if port else bus.take(device.id)
        if device.interface is Interface.LEGACY and root is not Root.MAIN and port is not None and not port.has_io:
            raise SpecError(
                f"{device.id}: virtio=legacy needs I/O ports, which only the first {_IO_PORTS} devices of {root} have",
                hint="name it before the others, or use virtio=transitional",
            )
        slots.append(Slot(device=device, root=root, number=number, port=port))
    main.fill_up(machine.ports.inside)
    outer.fill_up(machine.ports.outside)

    outside = bool(outer.ports)
    expander_number = main.take("the bridge of a second root complex") if expander.ports else None
    return Placement(
        slots=tuple(slots),
        ports=(*main.ports, *expander.ports, *outer.ports),
        bridges=tuple(main.bridges.values()),
        iommu_number=1 if machine.iommu.kind in (IommuKind.VIRTIO, IommuKind.AMD) else None,
        management_number=2,
        expander_number=expander_number,
        outside_number=3 if outside else None,
        interrupt_remapping=_remaps_interrupts(machine.iommu, outside),
    )


def _root(device: Device) -> Root:
    """The root complex that a device stands behind, on a machine with an IOMMU."""
    if not device.iommu:
        return Root.OUTSIDE
    return Root.EXPANDER if device.expander else Root.MAIN


def _remaps_interrupts(iommu: Iommu, outside: bool) -> bool | None:
    """See `Placement.interrupt_remapping`."""
    if iommu.interrupt_remapping is not None:
        return iommu.interrupt_remapping
    match iommu.kind:
        case IommuKind.INTEL:
            return not outside
        case IommuKind.AMD:
            return True
        case IommuKind.VIRTIO | IommuKind.NONE:
            return None


class _Bus:
    """A root bus that is being filled.

    Args:
        root: which.
        ports_before: how many root ports the buses before it have; indices go on from there.
    """

    def __init__(self, root: Root, ports_before: int = 0) -> None:
        self.ports: list[Port] = []
        self.bridges: dict[str, Bridge] = {}
        self._shared: dict[str, list[Slot]] = {}
        self._root = root
        self.ports_before = ports_before
        self._next = _NUMBERS[root].start

    def take(self, what: str) -> int:
        """The next free device number."""
        room = _NUMBERS[self._root]
        if self._next not in room:
            raise SpecError(
                f"{what}: no free device number is left on {self._root}",
                hint=f"this root complex takes {len(room)} devices at most; ask for fewer",
            )
        self._next += 1
        return self._next - 1

    def add_port(self, what: str, *, takes_bridge: bool = False) -> Port:
        """A root port for something."""
        index = self.ports_before + len(self.ports) + 1
        port = Port(f"port.{index}", self._root, self.take(what), index, takes_bridge)
        self.ports.append(port)
        return port

    def share(self, device: Device) -> Slot:
        """The next place behind the bridge, or the next function of the slot, that a device names.

        Raises:
            SpecError: there is none left.
        """
        if device.bridge:
            bridge = self.bridges.get(device.bridge) or self._new_bridge(device)
            self.bridges[device.bridge] = bridge
            beside = self._shared.setdefault(bridge.id, [])
            if beside and (device.hotplug or bridge.port):
                raise SpecError(
                    f"{device.id}: bridge {device.bridge!r} is plugged with one device, and has no place for another",
                    hint="name another bridge, or leave hotplug=on out of all that share it",
                )
            slot = Slot(device, self._root, 1 + len(beside), bridge=bridge)  # 0 may be the hot-plug controller's
        else:
            beside = self._shared.setdefault(device.slot, [])
            number = beside[0].number if beside else self.take(device.id)
            slot = Slot(device, self._root, number, function=len(beside))
        if slot.number not in _CONVENTIONAL_NUMBERS or slot.function not in _FUNCTIONS:
            raise SpecError(f"{device.id}: there is no room left where it asks to stand", hint="name another one")
        beside.append(slot)
        return slot

    def _new_bridge(self, device: Device) -> Bridge:
        id = f"bridge.{device.bridge}"
        if device.hotplug:
            return Bridge(id, 0, self.add_port(device.id, takes_bridge=True))
        return Bridge(id, self.take(device.id))

    def fill_up(self, least: int) -> None:
        """Add free root ports until there are so many."""
        while len(self.ports) < least:
            self.add_port("a free root port")
