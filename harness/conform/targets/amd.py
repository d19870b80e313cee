"""amd-iommu: DMA remapping, and interrupt remapping beside it, on a q35."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from harness.conform.board import PC
from harness.conform.command import MachineWords
from harness.conform.layout import DEVICES
from harness.conform.machine import ConformMachine
from harness.conform.placing import configuration
from harness.conform.program import Program
from harness.conform.target import SOURCES, Bound
from harness.conform.targets.amd_programs import Generation
from harness.conform.targets.amd_universe import UNREACHABLE, universe
from harness.errors import Unsupported, VmmError
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.amdvi.unit import AmdviUnit
from harness.model.memory import WritableMemory
from harness.model.topology import AMDVI_REGISTERS
from harness.model.unit import Coverage
from harness.pci import Address
from harness.vmm.qemu.amdvi import read_registers
from harness.vmm.qemu.capabilities import Capabilities
from harness.vmm.qemu.pci import PciFunction

__all__ = ["AMD_TARGETS", "AmdIommu"]

_DMA_REMAP = "dma-remap"
_FUNCTION = Address(0, 1)  # the IOMMU's own, which comes first of all devices

# Where QEMU has the MSI capability of that function; PCI 3.0, 6.8.1: with 64 bits of address.
_MSI_AT = 0x60
_MSI_ENABLE = 0x0001
_BUS_MASTER = 0x0004
# Goes to a processor that there is not.
_MESSAGE_ADDRESS, _MESSAGE_DATA = 0xFEE7_F000, 0xD1


@dataclass(frozen=True, slots=True)
class AmdIommu:
    """An amd-iommu.

    Attributes:
        name: "amd-iommu/dma", "amd-iommu/interrupts" or "amd-iommu/root-bus".
        remaps_interrupts: whether interrupts are remapped as well.
        root_bus_only: for builds up to 10.1, which take every device for one on the root bus.
    """

    name: str
    remaps_interrupts: bool = False
    root_bus_only: bool = False

    arch = PC.arch
    trace_events = ("amdvi_*",)
    unreachable = UNREACHABLE

    @property
    def prepare(self) -> tuple[str, ...]:
        """See `Target`: the MSI that tells of events and completed waits."""
        at = configuration(PC, _FUNCTION, 0)
        return (
            f"writel {at + _MSI_AT + 0x4:#x} {_MESSAGE_ADDRESS:#x}",
            f"writel {at + _MSI_AT + 0xC:#x} {_MESSAGE_DATA:#x}",
            f"writew {at + _MSI_AT + 0x2:#x} {_MSI_ENABLE:#x}",
            f"writew {at + 0x4:#x} {_BUS_MASTER:#x}",
        )

    def words(self, capabilities: Capabilities) -> MachineWords:
        """See `Target`."""
        if not capabilities.has_device("amd-iommu"):
            raise Unsupported(f"QEMU {capabilities.version} has no device amd-iommu")
        translates = capabilities.has_property("amd-iommu", _DMA_REMAP)
        if translates is self.root_bus_only:
            has = "has the property" if translates else "has no property"
            so = "translates behind bridges as well" if translates else "takes every device for one on the root bus"
            raise Unsupported(f"the amd-iommu of QEMU {capabilities.version} {has} {_DMA_REMAP}, and so {so}")
        options = f"amd-iommu,intremap={'on' if self.remaps_interrupts else 'off'}"
        return MachineWords(PC, ("-device", f"{options},{_DMA_REMAP}=on" if translates else options))

    def bind(self, machine: ConformMachine, memory: WritableMemory, coverage: Coverage) -> Bound:
        """See `Target`."""
        registers = _registers(machine)
        if registers.msi_address_low != _MESSAGE_ADDRESS:
            raise VmmError(f"the MSI capability of the IOMMU is not at {_MSI_AT:#x}", evidence=machine.command)
        unit = AmdviUnit(registers, memory, coverage=coverage, sources=SOURCES)
        return Bound(unit, AMDVI_REGISTERS)

    def universe(self, machine: ConformMachine) -> frozenset[tuple[str, str]]:
        """See `Target`."""
        return universe(_registers(machine), interrupts=self.remaps_interrupts)

    def generate(self, seed: int, random: Random, bound: Bound) -> Program:
        """See `Target`."""
        assert isinstance(bound.unit, AmdviUnit)
        devices = [entry for entry in DEVICES if not self.root_bus_only or not entry.bus]
        return Generation(
            self.name,
            seed,
            random,
            interrupts=self.remaps_interrupts,
            devices=devices,
            careful=self.root_bus_only,
        ).program()


def _registers(machine: ConformMachine) -> AmdviRegisters:
    """What registers and configuration space say."""
    return read_registers(PciFunction(machine.qtest, machine.board.ecam, _FUNCTION))


AMD_TARGETS = (
    AmdIommu("amd-iommu/dma"),
    AmdIommu("amd-iommu/interrupts", remaps_interrupts=True),
    AmdIommu("amd-iommu/root-bus", root_bus_only=True),
)
"""Every one."""

if TYPE_CHECKING:
    from harness.conform.target import Target

    _targets: tuple[Target, ...] = AMD_TARGETS
