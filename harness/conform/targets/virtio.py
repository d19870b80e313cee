"""virtio-iommu-pci: on a q35, and on the virt board of an Arm processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from harness.conform.board import ARM, PC, Board
from harness.conform.command import MachineWords
from harness.conform.layout import DEVICES, MIB
from harness.conform.machine import ConformMachine
from harness.conform.placing import configuration
from harness.conform.program import Program
from harness.conform.target import Bound
from harness.conform.targets.virtio_programs import Generation
from harness.conform.targets.virtio_universe import UNREACHABLE, universe
from harness.errors import Unsupported
from harness.model.memory import WritableMemory
from harness.model.unit import Coverage
from harness.model.virtio.pci_registers import PciIdentity, PciLayout
from harness.model.virtio_iommu.device import read_config_space
from harness.model.virtio_iommu.probe import RegionKind, ReservedRegion
from harness.model.virtio_iommu.unit import VirtioIommuUnit
from harness.pci import Address
from harness.vmm.qemu.capabilities import Capabilities

__all__ = ["VIRTIO_TARGETS", "VirtioIommu"]

_DRIVER = "virtio-iommu-pci"
_ADDRESS = Address(0, 1)
_BAR = 0x20  # BAR 4, 64 bits wide: QEMU, hw/virtio/virtio-pci.c
_REGISTERS = 0x80 * MIB  # from the start of the board's window on
_ENABLE = 0x0006  # command register: memory space and bus master
# What a board reserves for its interrupt controller, which no option changes: on a q35 the range of the local APICs
# (QEMU, hw/i386/pc.c), on a virt with a GICv2 the page of its GICv2m (hw/arm/virt.c).
_APIC = ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, RegionKind.MSI)
_GICV2M = ReservedRegion(0x0802_0000, 0x0802_0FFF, RegionKind.MSI)


@dataclass(frozen=True, slots=True)
class VirtioIommu:
    """A virtio-iommu-pci.

    Attributes:
        name: such as "virtio-iommu/pc".
        board: that it stands on.
        machine: words in the place of the board's own for machine and processor; empty for those.
        regions: that are reserved for every endpoint.
        asks_for_regions: whether the command line has to say them, on a board that has no controller for MSIs.
    """

    name: str
    board: Board
    machine: tuple[str, ...] = ()
    regions: tuple[ReservedRegion, ...] = (_APIC,)
    asks_for_regions: bool = False

    @property
    def arch(self) -> str:
        """See `Target`."""
        return self.board.arch

    @property
    def trace_events(self) -> tuple[str, ...]:
        """See `Target`."""
        return ("virtio_iommu_*",)

    @property
    def unreachable(self) -> Mapping[tuple[str, str], str]:
        """See `Target`."""
        return UNREACHABLE

    def words(self, capabilities: Capabilities) -> MachineWords:
        """See `Target`."""
        if not capabilities.has_device(_DRIVER):
            raise Unsupported(f"QEMU {capabilities.version} has no device {_DRIVER}")
        if not capabilities.has_property(_DRIVER, "boot-bypass"):
            # The devices' buffers are filled before a driver is there.
            raise Unsupported(f"the {_DRIVER} of QEMU {capabilities.version} lets nothing through after a reset")
        if self.asks_for_regions and not capabilities.machine_has_property("msi"):
            raise Unsupported(f"the board of QEMU {capabilities.version} has no PCI Express without MSIs")
        options: dict[str, object] = {
            "driver": _DRIVER,
            "bus": "pcie.0",
            "addr": f"{_ADDRESS.device:x}",
            "boot-bypass": True,
        }
        if self.asks_for_regions:
            options["reserved-regions"] = [f"{each.start:#x}:{each.end:#x}:{each.kind:d}" for each in self.regions]
        return MachineWords(self.board, ("-device", json.dumps(options)), machine=self.machine, names_devices=True)

    @property
    def prepare(self) -> tuple[str, ...]:
        """See `Target`: the BAR."""
        at = configuration(self.board, _ADDRESS, 0)
        return (
            f"writel {at + _BAR:#x} {self._registers:#x}",
            f"writel {at + _BAR + 4:#x} 0",
            f"writew {at + 0x04:#x} {_ENABLE:#x}",
        )

    def bind(self, machine: ConformMachine, memory: WritableMemory, coverage: Coverage) -> Bound:
        """See `Target`."""
        layout, identity, space = self._ask(machine)
        endpoints = {entry.requester: self.regions for entry in DEVICES}
        unit = VirtioIommuUnit(layout, identity, space, memory, coverage=coverage, endpoints=endpoints)
        return Bound(unit, self._registers)

    def universe(self, machine: ConformMachine) -> frozenset[tuple[str, str]]:
        """See `Target`."""
        _, identity, _ = self._ask(machine)
        return universe(identity)

    def generate(self, seed: int, random: Random, bound: Bound) -> Program:
        """See `Target`."""
        assert isinstance(bound.unit, VirtioIommuUnit)
        return Generation(self.name, seed, random, bound.unit, self.board.ram).program()

    @property
    def _registers(self) -> int:
        return self.board.window + _REGISTERS

    def _ask(self, machine: ConformMachine) -> tuple[PciLayout, PciIdentity, bytes]:
        """Where the registers are, and what they say, with that of configuration space."""
        base = configuration(self.board, _ADDRESS, 0)
        layout = PciLayout.read(b"".join(machine.read(base + at, 4).to_bytes(4, "little") for at in range(0, 256, 4)))

        def read(offset: int, size: int) -> int:
            return machine.read(self._registers + offset, size)

        def write(offset: int, size: int, value: int) -> None:
            machine.write(self._registers + offset, value, size)

        space = read_config_space(lambda offset, size: read(layout.device.offset + offset, size))
        # MSI-X stays disabled: what a vector is set to is not looked at.
        return layout, PciIdentity.read(layout, read, write), space


VIRTIO_TARGETS = (
    VirtioIommu("virtio-iommu/pc", PC),
    VirtioIommu(
        "virtio-iommu/arm",
        ARM,
        ("-machine", "virt,gic-version=2,highmem=off", "-cpu", "cortex-a57"),
        (_GICV2M,),
    ),
    VirtioIommu(
        "virtio-iommu/arm-regions",
        ARM,
        # Without an ITS the board reserves nothing, and leaves it to the command line.
        ("-machine", "virt,gic-version=3,its=off,highmem=off", "-cpu", "cortex-a57"),
        (
            ReservedRegion(0x0800_0000, 0x0801_FFFF),
            ReservedRegion(0x5000_0000, 0x5FFF_FFFF, RegionKind.RESERVED),
        ),
        asks_for_regions=True,
    ),
)
"""Every one."""

if TYPE_CHECKING:
    from harness.conform.target import Target

    _targets: tuple[Target, ...] = VIRTIO_TARGETS
