"""Which devices a machine has that do DMA, and where: the same on every board.

Most stand on the root bus, some behind a root port, some on a conventional bus, whose requests carry the bridge's
requester id (PCI Express to PCI/PCI-X Bridge specification 1.0, 2.3), and one behind a port where it can be unplugged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.pci import Address

__all__ = ["BRIDGES", "DEVICES", "Bridge", "DmaDevice", "device"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge.

    Attributes:
        id: of the device and of the bus below it; no name of a property of its, which QEMU would take it for.
        driver: QEMU's name for it.
        address: where it is.
        secondary: number of the bus below it.
        subordinate: highest number of a bus below it.
        bus: id of the bus that it is on.
    """

    id: str
    driver: str
    address: Address
    secondary: int
    subordinate: int
    bus: str = ""


@dataclass(frozen=True, slots=True)
class DmaDevice:
    """An edu device.

    Attributes:
        id: of the device.
        address: where it is.
        requester: id that its requests carry when they reach the IOMMU.
        bus: id of the bus that it is on; empty for the root bus.
        bar: where its registers are, from the start of the board's window on, bytes.
        can_unplug: whether it stands where it can be unplugged.
    """

    id: str
    address: Address
    requester: int
    bus: str
    bar: int
    can_unplug: bool = False


_PORT_BUS, _OUTER_BUS, _CONVENTIONAL_BUS, _HOTPLUG_BUS = 1, 2, 3, 4

BRIDGES = (
    Bridge("bus-port", "pcie-root-port", Address(0, 8), _PORT_BUS, _PORT_BUS),
    Bridge("bus-outer", "pcie-root-port", Address(0, 9), _OUTER_BUS, _CONVENTIONAL_BUS),
    Bridge(
        "bus-inner", "pcie-pci-bridge", Address(_OUTER_BUS, 0), _CONVENTIONAL_BUS, _CONVENTIONAL_BUS, bus="bus-outer"
    ),
    Bridge("bus-hotplug", "pcie-root-port", Address(0, 10), _HOTPLUG_BUS, _HOTPLUG_BUS),
)
"""From the root downwards."""

_ON_ROOT_BUS = 24
_FIRST_SLOT = 16


def _devices() -> Iterator[DmaDevice]:
    places: list[tuple[Address, str, int | None]] = []
    places += [(Address(0, _FIRST_SLOT + n // 8, n % 8), "", None) for n in range(_ON_ROOT_BUS)]
    places += [(Address(_PORT_BUS, 0, n), "bus-port", None) for n in range(4)]
    # What comes through a PCIe-to-PCI bridge carries device 0, function 0 of its secondary bus.
    places += [(Address(_CONVENTIONAL_BUS, 1 + n), "bus-inner", _CONVENTIONAL_BUS << 8) for n in range(2)]
    places += [(Address(_HOTPLUG_BUS, 0), "bus-hotplug", None)]
    for number, (address, bus, alias) in enumerate(places):
        yield DmaDevice(
            id=f"edu{number}",
            address=address,
            requester=address.requester if alias is None else alias,
            bus=bus,
            bar=number * MIB,
            can_unplug=bus == "bus-hotplug",
        )


DEVICES = tuple(_devices())
"""In the order of their BARs: those below one bridge follow each other."""

_BY_ID = {entry.id: entry for entry in DEVICES}


def device(id: str) -> DmaDevice | None:
    """The device of that id."""
    return _BY_ID.get(id)
