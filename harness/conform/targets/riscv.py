"""riscv-iommu-pci: first stage, second stage, and both, on the virt board of a RISC-V processor."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from harness.conform.board import RISCV
from harness.conform.command import MachineWords
from harness.conform.layout import MIB
from harness.conform.machine import ConformMachine
from harness.conform.placing import configuration
from harness.conform.program import Program
from harness.conform.target import SOURCES, Bound
from harness.conform.targets.riscv_programs import Generation
from harness.conform.targets.riscv_universe import UNREACHABLE, universe
from harness.errors import Unsupported
from harness.model.memory import WritableMemory
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.unit import RiscvIommuUnit
from harness.model.unit import Coverage
from harness.pci import Address
from harness.vmm.qemu.capabilities import Capabilities

__all__ = ["RISCV_TARGETS", "RiscvIommu"]

_DRIVER = "riscv-iommu-pci"
_ADDRESS = Address(0, 1)
_REGISTERS = RISCV.window + 0x80 * MIB
# QEMU, hw/riscv/riscv-iommu-pci.c: MSI-X follows the PCI Express capability of 0x3C bytes at 0x40.
_MSIX_CONTROL = 0x7C + 2
_MSIX_ENABLE = 1 << 15
_VECTORS = 4  # RISCV_IOMMU_PCI_ICVEC_VECTORS
_ENABLE = 0x0006  # command register: memory space and bus master


@dataclass(frozen=True, slots=True)
class RiscvIommu:
    """A riscv-iommu-pci with the stages that its name says.

    Attributes:
        name: "riscv-iommu/first-stage", "riscv-iommu/second-stage" or "riscv-iommu/nested".
        options: of the device.
    """

    name: str
    options: str

    arch = RISCV.arch
    trace_events = ("riscv_iommu_*",)
    unreachable = UNREACHABLE

    def words(self, capabilities: Capabilities) -> MachineWords:
        """See `Target`."""
        if not capabilities.has_device(_DRIVER):
            raise Unsupported(f"QEMU {capabilities.version} has no device {_DRIVER}")
        # Not off after a reset: the devices' buffers are filled then.
        device = f"{_DRIVER},bus=pcie.0,addr={_ADDRESS.device:x},off=off{self.options}"
        return MachineWords(RISCV, ("-device", device))

    @property
    def prepare(self) -> tuple[str, ...]:
        """See `Target`: the BAR, and MSI-X, by which QEMU sends the messages of the IOMMU."""
        at = configuration(RISCV, _ADDRESS, 0)
        return (
            f"writel {at + 0x10:#x} {_REGISTERS:#x}",
            f"writel {at + 0x14:#x} 0",
            f"writew {at + 0x04:#x} {_ENABLE:#x}",
            f"writew {at + _MSIX_CONTROL:#x} {_MSIX_ENABLE:#x}",
        )

    def bind(self, machine: ConformMachine, memory: WritableMemory, coverage: Coverage) -> Bound:
        """See `Target`."""
        unit = RiscvIommuUnit(_registers(machine), memory, coverage=coverage, sources=SOURCES, vectors=_VECTORS)
        return Bound(unit, _REGISTERS)

    def universe(self, machine: ConformMachine) -> frozenset[tuple[str, str]]:
        """See `Target`."""
        return universe(_registers(machine), _VECTORS)

    def generate(self, seed: int, random: Random, bound: Bound) -> Program:
        """See `Target`."""
        assert isinstance(bound.unit, RiscvIommuUnit)
        return Generation(self.name, seed, random, bound.unit.registers).program()


def _registers(machine: ConformMachine) -> RiscvIommuRegisters:
    return RiscvIommuRegisters.read(lambda offset, size: machine.read(_REGISTERS + offset, size))


RISCV_TARGETS = (
    RiscvIommu("riscv-iommu/first-stage", ",g-stage=off,intremap=off"),
    RiscvIommu("riscv-iommu/second-stage", ",s-stage=off"),
    RiscvIommu("riscv-iommu/nested", ""),
)
"""Every one."""

if TYPE_CHECKING:
    from harness.conform.target import Target

    _targets: tuple[Target, ...] = RISCV_TARGETS
