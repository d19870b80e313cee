"""Where each device of a spec stands on the PCI topology: the one plan that model and command line share.

The ids of the harness's own devices have a dot in them, which those of a spec cannot.

The q35 machine is laid out so that one look at an address says what it is:

====================  ==========================================================================
``pcie.0`` (bus 0)    devices behind the IOMMU, the IOMMU's own function (virtio-iommu), the
                      management NIC, the chipset's functions at 1f
``outside.0`` (80)    a second root complex (pxb-pcie) with ``bypass_iommu=on``, made only where a
                      device is tagged ``iommu=off``: no IOMMU stands between it and memory
====================  ==========================================================================

A device on `pcie.0` that is attached at boot is an integrated endpoint. One that is hot-plugged gets a root port, since
the root bus takes no hot-plug, and so does every device outside, since a pxb-pcie takes nothing but bridges (QEMU,
docs/pcie.txt, section 2, and `pxb_dev_pre_plug` there).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.errors import SpecError
from harness.spec import Device, IommuKind, Machine

__all__ = ["OUTSIDE_BUS", "Placement", "Port", "Root", "Slot", "place"]

OUTSIDE_BUS = 0x80
"""Bus number of the root complex that bypasses the IOMMU."""

_FIRST_DEVICE = 0x04
_LAST_DEVICE = 0x1E  # 1f is the chipset's


class Root(StrEnum):
    """A root complex, under its QEMU bus name."""

    MAIN = "pcie.0"
    OUTSIDE = "outside.0"


@dataclass(frozen=True, slots=True)
class Port:
    """A PCIe root port with one device below it, which may be absent until it is hot-plugged.

    Attributes:
        id: its QEMU id, which is also the name of the bus below it.
        root: the root complex it belongs to.
        number: its device number on that root bus.
        index: 1, 2...: its chassis and physical slot number.
    """

    id: str
    root: Root
    number: int
    index: int


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one device stands.

    Attributes:
        device: the device, as in the spec.
        root: the root complex above it.
        number: its device number on the bus it sits on (0 behind a port).
        port: the root port above it; None for an integrated endpoint.
    """

    device: Device
    root: Root
    number: int
    port: Port | None

    @property
    def bus(self) -> str:
        """Name of the QEMU bus that the device plugs into."""
        return self.port.id if self.port else self.root.value


@dataclass(frozen=True, slots=True)
class Placement:
    """The whole plan of a machine.

    Attributes:
        slots: one for each device of the spec, in its order.
        ports: root ports, in the order of their index.
        iommu_number: device number of a virtio-iommu on bus 0; None where the IOMMU is no PCI function.
        management_number: device number of the management NIC on bus 0.
        outside_number: device number on bus 0 of the host bridge that carries the outside root complex;
            None where there is none.
        interrupt_remapping: whether VT-d remaps interrupts. Where the spec leaves it open it does, unless a device
            stands outside: Linux takes MSI away from a device that no remapping unit covers while others remap
            (drivers/iommu/intel/irq_remapping.c, map_dev_to_ir), and its driver then waits for interrupts for ever.
    """

    slots: tuple[Slot, ...]
    ports: tuple[Port, ...]
    iommu_number: int | None
    management_number: int
    outside_number: int | None
    interrupt_remapping: bool

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
    next_number = {Root.MAIN: _FIRST_DEVICE, Root.OUTSIDE: 0}

    def take(root: Root, what: str) -> int:
        number = next_number[root]
        if number > _LAST_DEVICE:
            room = _LAST_DEVICE + 1 - (_FIRST_DEVICE if root is Root.MAIN else 0)
            raise SpecError(
                f"{what}: no free device number is left on {root}",
                hint=f"this root complex takes {room} devices at most; ask for fewer",
            )
        next_number[root] += 1
        return number

    slots: list[Slot] = []
    ports: list[Port] = []
    for device in machine.devices:
        root = Root.OUTSIDE if has_iommu and not device.iommu else Root.MAIN
        number = take(root, device.id)
        if device.hotplug or root is Root.OUTSIDE:
            port = Port(id=f"port.{len(ports) + 1}", root=root, number=number, index=len(ports) + 1)
            ports.append(port)
            slots.append(Slot(device=device, root=root, number=0, port=port))
        else:
            slots.append(Slot(device=device, root=root, number=number, port=None))

    asked = machine.iommu.interrupt_remapping
    outside = any(slot.root is Root.OUTSIDE for slot in slots)
    return Placement(
        slots=tuple(slots),
        ports=tuple(ports),
        iommu_number=1 if machine.iommu.kind is IommuKind.VIRTIO else None,
        management_number=2,
        outside_number=3 if outside else None,
        interrupt_remapping=not outside if asked is None else asked,
    )
