"""intel-iommu in its modes, on a q35 (VT-d 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from harness.conform.board import PC
from harness.conform.command import MachineWords
from harness.conform.machine import ConformMachine
from harness.conform.program import Program
from harness.conform.target import SOURCES, Bound
from harness.conform.targets.intel_plan import Plan
from harness.conform.targets.intel_programs import Generation
from harness.conform.targets.intel_tables import DeviceTlbs, FirstStage, FirstStageFlags, SecondStage
from harness.conform.targets.intel_universe import UNREACHABLE, universe
from harness.errors import Unsupported, VmmError
from harness.model.memory import WritableMemory
from harness.model.unit import Coverage
from harness.model.vtd.register_layouts import ECAP_REG
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.unit import VtdUnit
from harness.vmm.qemu.capabilities import Capabilities
from harness.vmm.qemu.command import FIRST_STAGE, SCALABLE_MODE

__all__ = ["INTEL_TARGETS", "IntelIommu"]

_DEVICE = "intel-iommu"
_REGISTERS = 0xFED9_0000  # QEMU, hw/i386/intel_iommu_internal.h
_WIDTH = 48
_NOBODY = 0xFFFF_FFFF  # what is read where nothing answers
_FLAGS_ARE_SET = ECAP_REG["SMPWCS"].mask


@dataclass(frozen=True, slots=True)
class IntelIommu:
    """An intel-iommu.

    Attributes:
        name: such as "intel-iommu/legacy".
        plan: what its programs are like.
        options: properties that are turned on, each by every name that it has had.
    """

    name: str
    plan: Plan
    options: tuple[tuple[str, ...], ...] = ()

    arch = PC.arch
    trace_events = ("vtd_*",)
    unreachable = UNREACHABLE
    prepare = ()

    def words(self, capabilities: Capabilities) -> MachineWords:
        """See `Target`."""
        if not capabilities.has_device(_DEVICE):
            raise Unsupported(f"QEMU {capabilities.version} has no device {_DEVICE}")
        words = [_DEVICE, f"intremap={'on' if self.plan.messages else 'off'}", f"aw-bits={_WIDTH}"]
        for names in self.options:
            name = next((name for name in names if capabilities.has_property(_DEVICE, name)), None)
            if name is None:
                raise Unsupported(f"the {_DEVICE} of QEMU {capabilities.version} has no property {names[0]}")
            words.append(f"{name}=on")
        return MachineWords(PC, ("-device", ",".join(words)))

    def bind(self, machine: ConformMachine, memory: WritableMemory, coverage: Coverage) -> Bound:
        """See `Target`. QEMU records no second fault of a device whose first is pending: vtd_try_collapse_fault."""
        registers = self._registers(machine)
        unit = VtdUnit(registers, memory, coverage=coverage, compresses=True, sources=SOURCES)
        return Bound(unit, _REGISTERS)

    def universe(self, machine: ConformMachine) -> frozenset[tuple[str, str]]:
        """See `Target`."""
        return universe(self._registers(machine), self.plan)

    def generate(self, seed: int, random: Random, bound: Bound) -> Program:
        """See `Target`."""
        assert isinstance(bound.unit, VtdUnit)
        return Generation(self.name, seed, random, bound.unit.registers, self.plan).program()

    def _registers(self, machine: ConformMachine) -> VtdRegisters:
        """As read; but where flags are to be set the unit can do so, whatever SMPWCS says of it (VT-d 11.4.3).

        Raises:
            VmmError: nothing answers there.
        """
        if (version := machine.read(_REGISTERS, 4)) in (0, _NOBODY):
            raise VmmError(
                f"there is no VT-d unit at {_REGISTERS:#x}: VER_REG reads as {version:#x}",
                hint=f"has this QEMU's {_DEVICE} other registers than are known here?",
                evidence=machine.command,
            )
        read = VtdRegisters.read(
            lambda offset, size: machine.read(_REGISTERS + offset, size), host_address_width=_WIDTH
        )
        return replace(read, ecap=read.ecap | _FLAGS_ARE_SET) if self.plan.sets_flags else read


INTEL_TARGETS = (
    IntelIommu("intel-iommu/legacy", Plan()),
    IntelIommu("intel-iommu/caching-mode", Plan(), options=(("caching-mode",),)),
    IntelIommu("intel-iommu/interrupts", Plan(messages=True)),
    IntelIommu("intel-iommu/device-iotlb", Plan(DeviceTlbs), options=(("device-iotlb",),)),
    IntelIommu("intel-iommu/scalable-second-stage", Plan(SecondStage), (SCALABLE_MODE,)),
    IntelIommu("intel-iommu/scalable-first-stage", Plan(FirstStage), (SCALABLE_MODE, FIRST_STAGE)),
    IntelIommu("intel-iommu/scalable-first-stage-flags", Plan(FirstStageFlags), (SCALABLE_MODE, FIRST_STAGE)),
    IntelIommu("intel-iommu/scalable-pass-through", Plan(SecondStage, pass_through=0.7), (SCALABLE_MODE,)),
)
"""Every one."""

if TYPE_CHECKING:
    from harness.conform.target import Target

    _targets: tuple[Target, ...] = INTEL_TARGETS
