"""Ways to a device in VFIO's hands that few kernels have, beside type 1: iommufd, and no IOMMU at all.

Type 1 is `LiveMachine.give_to_vfio`.
"""

from __future__ import annotations

from harness.guest.address_space import AddressSpace
from harness.guest.agent import Agent
from harness.live.machine import LiveMachine, VfioBackEnd

__all__ = ["address_space", "allow_no_iommu", "give_to_iommufd", "give_without_iommu"]

_NO_IOMMU = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"


def address_space(live: LiveMachine, by: Agent | None = None) -> AddressSpace:
    """A new address space of iommufd in the guest.

    Args:
        live: the machine.
        by: who has it; the agent when None.

    Raises:
        Unsupported: the kernel has no iommufd; the message names the option.
    """
    live.load_vfio(VfioBackEnd.IOMMUFD)
    return (by or live.agent).address_space()


def give_to_iommufd(live: LiveMachine, id: str, space: AddressSpace) -> None:
    """Bind a device to vfio-pci, and attach it to an address space."""
    live.bind_to_vfio(id, VfioBackEnd.IOMMUFD)
    space.attach(live.address(id))


def allow_no_iommu(live: LiveMachine) -> None:
    """Have VFIO take devices that have no IOMMU, for whoever may open them.

    Linux, drivers/vfio/Kconfig, VFIO_NOIOMMU: only of a kernel that was built with it can this be asked.

    Raises:
        Unsupported: the kernel has no VFIO; the message names the option.
    """
    live.load_vfio()
    live.agent.write_file(_NO_IOMMU, "Y")


def give_without_iommu(live: LiveMachine, id: str) -> None:
    """Bind a device to vfio-pci that has no IOMMU, and open it; `allow_no_iommu` comes before that."""
    live.agent.pci_bind(live.address(id), "vfio-pci")
    live.agent.vfio_open_without_iommu(live.address(id))
