"""Devices in the hands of programs of the guest: VFIO's, by type 1, by iommufd or without an IOMMU, and UIO's."""

from __future__ import annotations

from enum import StrEnum

from harness.guest.address_space import AddressSpace
from harness.guest.agent import Agent
from harness.live.machine import LiveMachine
from harness.placement import place

__all__ = [
    "VfioBackEnd",
    "address_space",
    "allow_no_iommu",
    "bind_to_vfio",
    "give_to_iommufd",
    "give_to_uio",
    "give_to_vfio",
    "give_without_iommu",
    "load_vfio",
]

_VFIO = "vfio_pci"
_VFIO_DRIVER = "vfio-pci"
_UIO = "uio_pci_generic"
_NO_IOMMU = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"


class VfioBackEnd(StrEnum):
    """What maps memory for the devices in VFIO's hands, by its module in the guest."""

    TYPE1 = "vfio_iommu_type1"
    IOMMUFD = "iommufd"

    @property
    def unsafe_interrupts(self) -> str:
        """Where it is told to take devices whose interrupts are not remapped."""
        return f"/sys/module/{self}/parameters/allow_unsafe_interrupts"


def load_vfio(live: LiveMachine, back_end: VfioBackEnd = VfioBackEnd.TYPE1) -> None:
    """Have the guest load VFIO's modules; errors as of `LiveMachine.load_modules`."""
    live.load_modules(back_end, _VFIO)


def bind_to_vfio(live: LiveMachine, id: str, back_end: VfioBackEnd = VfioBackEnd.TYPE1) -> None:
    """Bind a device to vfio-pci, for whatever program of the guest is to have it.

    Where interrupts are not remapped VFIO is told to put up with that: it refuses the device otherwise, and DMA is
    what this is for.

    Args:
        live: the machine.
        id: of the device.
        back_end: what is to map memory for it.

    Raises:
        Unsupported: the kernel has no VFIO; the message names the option.
    """
    load_vfio(live, back_end)
    remapped = place(live.spec).interrupt_remapping
    live.agent.write_file(back_end.unsafe_interrupts, "N" if remapped else "Y")
    live.agent.pci_bind(live.address(id), _VFIO_DRIVER)


def give_to_vfio(live: LiveMachine, id: str, *, beside: str | None = None, by: Agent | None = None) -> None:
    """Bind a device to vfio-pci and open it, in a container of type 1.

    Args:
        live: the machine.
        id: of the device.
        beside: id of the device whose container it is put into; into one of its own when None.
        by: who opens it; the agent when None.

    Raises:
        Unsupported: the kernel has no VFIO; the message names the option.
    """
    bind_to_vfio(live, id)
    (by or live.agent).vfio_open(live.address(id), live.address(beside) if beside else None)


def address_space(live: LiveMachine, by: Agent | None = None) -> AddressSpace:
    """A new address space of iommufd in the guest.

    Args:
        live: the machine.
        by: who has it; the agent when None.

    Raises:
        Unsupported: the kernel has no iommufd; the message names the option.
    """
    load_vfio(live, VfioBackEnd.IOMMUFD)
    return (by or live.agent).address_space()


def give_to_iommufd(live: LiveMachine, id: str, space: AddressSpace) -> None:
    """Bind a device to vfio-pci, and attach it to an address space."""
    bind_to_vfio(live, id, VfioBackEnd.IOMMUFD)
    space.attach(live.address(id))


def allow_no_iommu(live: LiveMachine) -> None:
    """Have VFIO take devices that have no IOMMU, for whoever may open them.

    Linux, drivers/vfio/Kconfig, VFIO_NOIOMMU: only of a kernel that was built with it can this be asked.

    Raises:
        Unsupported: the kernel has no VFIO; the message names the option.
    """
    load_vfio(live)
    live.agent.write_file(_NO_IOMMU, "Y")


def give_without_iommu(live: LiveMachine, id: str) -> None:
    """Bind a device to vfio-pci that has no IOMMU, and open it; `allow_no_iommu` comes before that."""
    live.agent.pci_bind(live.address(id), _VFIO_DRIVER)
    live.agent.vfio_open_without_iommu(live.address(id))


def give_to_uio(live: LiveMachine, id: str) -> None:
    """Bind a device to uio_pci_generic.

    Raises:
        Unsupported: the kernel has no UIO; the message names the option.
    """
    live.load_modules(_UIO)
    live.agent.pci_bind(live.address(id), _UIO)
