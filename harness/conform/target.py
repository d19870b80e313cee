"""What programs can be run on: an IOMMU in one of its configurations, on one board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

from harness.conform.command import MachineWords
from harness.conform.layout import DEVICES
from harness.conform.machine import ConformMachine
from harness.conform.program import Program
from harness.model.memory import WritableMemory
from harness.model.unit import Coverage, Unit
from harness.vmm.qemu.capabilities import Capabilities

__all__ = ["SOURCES", "Bound", "Target"]

SOURCES = tuple((entry.requester, None) for entry in DEVICES)
"""What the board's devices are to a unit: requesters without PASID, which may bring something into its caches."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A target on a machine that runs.

    Attributes:
        unit: the model's, as it is right after a reset; its memory is the one it was given.
        registers: physical address of offset 0 of its registers.
        is_reset: whether a reset of the machine resets the IOMMU; where it does not, each program has its own machine.
    """

    unit: Unit
    registers: int
    is_reset: bool = True


class Target(Protocol):
    """An IOMMU in one of its configurations."""

    @property
    def name(self) -> str:
        """Such as "intel-iommu/legacy"."""
        ...

    @property
    def arch(self) -> str:
        """Of the emulator, under Debian's name."""
        ...

    @property
    def trace_events(self) -> tuple[str, ...]:
        """Patterns of QEMU's trace events that tell what its IOMMU does."""
        ...

    @property
    def unreachable(self) -> Mapping[tuple[str, str], str]:
        """What coverage of it can never hold, by kind and name, each with the reason."""
        ...

    def words(self, capabilities: Capabilities) -> MachineWords:
        """The command line.

        Raises:
            Unsupported: this build has no such IOMMU, or not in this configuration; the message says what is missing.
        """
        ...

    @property
    def prepare(self) -> tuple[str, ...]:
        """The qtest commands for what firmware would do to the IOMMU itself (a BAR, say), for after each reset."""
        ...

    def bind(self, machine: ConformMachine, memory: WritableMemory, coverage: Coverage) -> Bound:
        """Make the unit, from what the registers say now, right after a reset."""
        ...

    def universe(self, machine: ConformMachine) -> frozenset[tuple[str, str]]:
        """Everything that can be covered on this build: kinds and names, see `Coverage`."""
        ...

    def generate(self, seed: int, random: Random, bound: Bound) -> Program:
        """A program; the same one for the same random numbers and the same build.

        Args:
            seed: that the program says it comes from.
            random: to choose by.
            bound: capabilities are read from its unit.
        """
        ...
