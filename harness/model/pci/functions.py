"""One PCI function: what its configuration space says that decides where its requests go and whom it can reach.

Field names are those of the PCI Express Base Specification; what Linux adds to it, because some devices do not keep to
it, is in `Quirks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, IntEnum

from harness.errors import SpecError
from harness.pci import Address

__all__ = ["ISOLATION", "NO_QUIRKS", "Acs", "AcsCapability", "Function", "PortType", "Quirks"]


class PortType(IntEnum):
    """Device/Port Type of the PCI Express Capabilities register (PCIe 5.0, 7.5.3.2)."""

    ENDPOINT = 0x0
    LEGACY_ENDPOINT = 0x1
    ROOT_PORT = 0x4
    UPSTREAM_PORT = 0x5
    DOWNSTREAM_PORT = 0x6
    PCIE_TO_PCI_BRIDGE = 0x7
    PCI_TO_PCIE_BRIDGE = 0x8
    RC_INTEGRATED_ENDPOINT = 0x9
    RC_EVENT_COLLECTOR = 0xA


class Acs(Flag):
    """Access control services: the bits of the ACS Capability and Control registers (PCIe 5.0, 7.7.8.2 and 7.7.8.3)."""

    NONE = 0
    SOURCE_VALIDATION = 1 << 0
    TRANSLATION_BLOCKING = 1 << 1
    REQUEST_REDIRECT = 1 << 2
    COMPLETION_REDIRECT = 1 << 3
    UPSTREAM_FORWARDING = 1 << 4
    EGRESS_CONTROL = 1 << 5
    DIRECT_TRANSLATED = 1 << 6


ISOLATION = Acs.SOURCE_VALIDATION | Acs.REQUEST_REDIRECT | Acs.COMPLETION_REDIRECT | Acs.UPSTREAM_FORWARDING
"""What keeps functions apart: none forges a requester id, and every request goes up to the root complex, where the
IOMMU is, also one for a neighbour (Linux, drivers/iommu/iommu.c, REQ_ACS_FLAGS)."""


@dataclass(frozen=True, slots=True)
class AcsCapability:
    """The ACS extended capability of a function.

    Attributes:
        capability: what it can do.
        control: what of it is switched on.
    """

    capability: Acs
    control: Acs = Acs.NONE

    def enables(self, wanted: Acs) -> bool:
        """Whether all of that is in effect.

        A service other than egress control that the capability lacks counts as there: a function must implement each
        that it could act against, so that one left out has nothing to control (PCIe 5.0, 6.12.1; Linux,
        drivers/pci/pci.c, `pci_acs_flags_enabled`).
        """
        controllable = wanted & (self.capability | Acs.EGRESS_CONTROL)
        return self.control & controllable == controllable

    def as_linux_sets_it(self) -> AcsCapability:
        """The same once Linux has switched on what isolation needs, which it does when the platform has an IOMMU.

        Source: Linux, drivers/pci/pci.c, `pci_std_enable_acs`, for a device that is not marked as untrusted.
        """
        return AcsCapability(self.capability, self.control | self.capability & ISOLATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """What is known of a device beside its configuration space (Linux, drivers/pci/quirks.c).

    Attributes:
        dma_aliases: further device << 3 | function numbers on its own bus that its requests may carry
            (`dma_alias_mask`).
        dma_device: the function that really makes its requests, where it is another one (`pci_real_dma_dev`: functions
            behind Intel VMD).
        no_bridge_alias: a PCIe-to-PCI bridge that passes requester ids on (PCI_DEV_FLAGS_PCI_BRIDGE_NO_ALIAS).
        express_bridge_alias: a bridge without a PCIe capability that takes ids over as a PCIe-to-PCI bridge does
            (PCI_DEV_FLAG_PCIE_BRIDGE_ALIAS).
        translation_root: a bridge with the translation unit of what is below it, so that nothing above it takes ids
            over (PCI_DEV_FLAGS_BRIDGE_XLATE_ROOT).
        isolated: whether it is known to keep its functions apart, or not to, whatever its ACS capability says
            (`pci_dev_specific_acs_enabled`); None: nothing is known.
    """

    dma_aliases: frozenset[int] = frozenset()
    dma_device: Address | None = None
    no_bridge_alias: bool = False
    express_bridge_alias: bool = False
    translation_root: bool = False
    isolated: bool | None = None


NO_QUIRKS = Quirks()


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One PCI function.

    Attributes:
        address: where.
        port_type: from its PCI Express capability; None for a conventional PCI function, which has none.
        multifunction: bit 7 of its Header Type register.
        secondary: number of the bus below it, for a function with the header of a bridge (type 1); None for another.
        subordinate: highest number of a bus below it; that of `secondary` when left out.
        acs: its ACS capability; None where it has none.
        physical: the physical function that it belongs to, for a virtual one (PCIe 5.0, chapter 9).
        quirks: what else is known of it.

    Raises:
        SpecError: fields that no function can have together.
    """

    address: Address
    port_type: PortType | None = None
    multifunction: bool = False
    secondary: int | None = None
    subordinate: int | None = None
    acs: AcsCapability | None = None
    physical: Address | None = None
    quirks: Quirks = NO_QUIRKS

    def __post_init__(self) -> None:
        if self.secondary is None:
            if self.subordinate is not None or self.port_type in _BRIDGES:
                raise SpecError(f"{self.address} is a bridge without a secondary bus", hint="give it one")
            return
        if self.port_type is not None and self.port_type not in _BRIDGES:
            raise SpecError(f"{self.address} is no bridge ({self.port_type.name}), and has a secondary bus")
        if self.subordinate is None:
            object.__setattr__(self, "subordinate", self.secondary)
        assert self.subordinate is not None
        if not self.address.bus < self.secondary <= self.subordinate <= 0xFF:
            raise SpecError(
                f"{self.address}: buses {self.secondary:#x} to {self.subordinate:#x} cannot be below it",
                hint="bus numbers grow downwards, to ff",
            )

    @property
    def is_bridge(self) -> bool:
        """Whether there is a bus below it."""
        return self.secondary is not None

    @property
    def isolates(self) -> bool:
        """Whether it lets nothing pass, or reach a neighbour, but by way of the root complex.

        Linux, drivers/pci/pci.c, `pci_acs_enabled` with what isolation needs.
        """
        if self.quirks.isolated is not None:
            return self.quirks.isolated
        match self.port_type:
            case (
                None  # conventional: everybody on the bus takes part in everything
                | PortType.PCI_TO_PCIE_BRIDGE
                | PortType.PCIE_TO_PCI_BRIDGE  # ACS does not apply to it (PCIe 5.0, 6.12.1)
                | PortType.RC_EVENT_COLLECTOR
            ):
                return False
            case PortType.ROOT_PORT | PortType.DOWNSTREAM_PORT:
                return self._acs_isolates
            case _:
                # A single function has no neighbour to reach (PCIe 5.0, 6.12.1.3).
                return not self.is_multifunction or self._acs_isolates

    @property
    def is_multifunction(self) -> bool:
        """Whether its device has several functions that could reach each other.

        It says so, or is not the first (Linux, drivers/pci/probe.c, `pci_scan_slot`); a virtual function counts alone
        (drivers/pci/iov.c, `pci_iov_add_virtfn`).
        """
        return self.physical is None and (self.multifunction or self.address.function > 0)

    @property
    def _acs_isolates(self) -> bool:
        return self.acs is not None and self.acs.enables(ISOLATION)


_BRIDGES = (
    PortType.ROOT_PORT,
    PortType.UPSTREAM_PORT,
    PortType.DOWNSTREAM_PORT,
    PortType.PCIE_TO_PCI_BRIDGE,
    PortType.PCI_TO_PCIE_BRIDGE,
)
