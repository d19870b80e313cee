"""arm-smmuv3: stage 1, stage 2, and both, on the virt board of an Arm processor."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from harness.conform.board import ARM
from harness.conform.command import MachineWords
from harness.conform.machine import ConformMachine
from harness.conform.program import Program
from harness.conform.target import SOURCES, Bound
from harness.conform.targets.arm_programs import Generation
from harness.conform.targets.arm_universe import UNREACHABLE, universe
from harness.errors import Unsupported
from harness.model.memory import WritableMemory
from harness.model.smmuv3.register_map import REGISTERS
from harness.model.smmuv3.registers import CR0, Smmuv3Registers
from harness.model.smmuv3.unit import Smmuv3Unit
from harness.model.unit import Coverage
from harness.vmm.qemu.capabilities import Capabilities

__all__ = ["ARM_TARGETS", "ArmSmmuv3"]

_REGISTERS = 0x905_0000  # QEMU, hw/arm/virt.c: VIRT_SMMU
_FLASH_BYTES = 1 << 27  # likewise: VIRT_FLASH
_SINGLE_STAGE_BOARD = "virt-9.0,"


@dataclass(frozen=True, slots=True)
class ArmSmmuv3:
    """An SMMU with the stages that its name says.

    Attributes:
        name: "arm-smmuv3/stage1", "arm-smmuv3/stage2" or "arm-smmuv3/nested".
        stages: that it has.
    """

    name: str
    stages: frozenset[int]

    arch = ARM.arch
    trace_events = ("smmu*",)
    unreachable = UNREACHABLE
    prepare = ()

    def words(self, capabilities: Capabilities) -> MachineWords:
        """See `Target`."""
        if not capabilities.has_device("arm-smmuv3"):
            raise Unsupported(f"QEMU {capabilities.version} has no device arm-smmuv3")
        if not capabilities.has_property("arm-smmuv3", "stage"):
            if self.stages != {1}:
                raise Unsupported(f"the arm-smmuv3 of QEMU {capabilities.version} has stage 1 only")
            # Builds before 6.2 have no MSIs with version 3 (QEMU, hw/arm/virt.c, create_its).
            machine = tuple(word.replace("gic-version=3", "gic-version=2") for word in ARM.words)
            return MachineWords(ARM, (), machine=machine)
        if self.stages == {1, 2}:
            return MachineWords(ARM, ("-global", "arm-smmuv3.stage=nested"))
        # Boards from 9.1 on have both stages, whatever is said (QEMU, hw/arm/virt.c, create_smmu).
        machine = tuple(word.replace("virt,", _SINGLE_STAGE_BOARD) for word in ARM.words)
        return MachineWords(ARM, ("-global", f"arm-smmuv3.stage={min(self.stages)}"), machine=machine)

    def bind(self, machine: ConformMachine, memory: WritableMemory, coverage: Coverage) -> Bound:
        """See `Target`."""
        registers = Smmuv3Registers.read(lambda offset, size: machine.read(_REGISTERS + offset, size))
        has = registers.capabilities
        if self.stages != {stage for stage, there in ((1, has.stage1), (2, has.stage2)) if there}:
            raise Unsupported(f"this build of arm-smmuv3 does not have the stages of {self.name}")
        unit = Smmuv3Unit(registers, _BoardMemory(memory), coverage=coverage, sources=SOURCES)
        return Bound(unit, _REGISTERS, is_reset=_is_reset(machine))

    def universe(self, machine: ConformMachine) -> frozenset[tuple[str, str]]:
        """See `Target`."""
        registers = Smmuv3Registers.read(lambda offset, size: machine.read(_REGISTERS + offset, size))
        return universe(registers.capabilities)

    def generate(self, seed: int, random: Random, bound: Bound) -> Program:
        """See `Target`."""
        assert isinstance(bound.unit, Smmuv3Unit)
        return Generation(self.name, seed, random, bound.unit.capabilities, resets=bound.is_reset).program()


def _is_reset(machine: ConformMachine) -> bool:
    """Whether SMMU_CR0.EVENTQEN is, which stands for all registers, when the machine is reset; it is 0 afterwards."""
    at = _REGISTERS + REGISTERS["SMMU_CR0"].start
    machine.write(at, CR0["EVENTQEN"].mask, 4)
    machine.reset()
    is_reset = not machine.read(at, 4)
    machine.write(at, 0, 4)
    return is_reset


class _BoardMemory:
    """Memory with the board's flash below it, which tables may be read from: zeroes, behind the firmware.

    Args:
        memory: RAM.
    """

    def __init__(self, memory: WritableMemory) -> None:
        self._memory = memory
        self._read = memory.read
        self._read_u64 = memory.read_u64
        self.write_u64 = memory.write_u64
        self.write = memory.write

    def read(self, address: int, size: int) -> bytes:
        """See `Memory`."""
        if address >= _FLASH_BYTES:
            return self._read(address, size)
        return ARM.firmware[address : address + size].ljust(size, b"\0")

    def read_u64(self, address: int) -> int:
        """See `Memory`."""
        if address >= _FLASH_BYTES:
            return self._read_u64(address)
        return int.from_bytes(self.read(address, 8), "little")


ARM_TARGETS = (
    ArmSmmuv3("arm-smmuv3/stage1", frozenset({1})),
    ArmSmmuv3("arm-smmuv3/stage2", frozenset({2})),
    ArmSmmuv3("arm-smmuv3/nested", frozenset({1, 2})),
)
"""Every one."""

if TYPE_CHECKING:
    from harness.conform.target import Target

    _targets: tuple[Target, ...] = ARM_TARGETS
