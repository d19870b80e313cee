"""A malicious device on a guest at work: everything that it aims at, in the catalogue of attacks."""

from __future__ import annotations

from itertools import chain

import pytest
from attacks import ATTACKS, DEVICES, READS, Scene, check_read, check_write
from holds import type1
from rogue import canary, copy, write_over

from harness.checks.judge import judge
from harness.live.machine import LiveMachine
from harness.spec import DmaMode


@pytest.mark.claim("QD-2", "IV-1")
@pytest.mark.machine(devices=DEVICES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_rogue_write_is_blocked(machine: LiveMachine, attack: str) -> None:
    """A device writes outside of what is mapped for it: memory is untouched, and the guest reports it.

    The controls: it writes to what is mapped for it, and a device outside of the IOMMU gets to where this one aimed.
    """
    judge(check_write(Scene(machine, type1), attack))


@pytest.mark.claim("QD-2", "IV-1")
@pytest.mark.machine(devices=DEVICES)
@pytest.mark.parametrize("attack", READS)
def test_a_rogue_read_is_blocked(machine: LiveMachine, attack: str) -> None:
    """A device reads outside of what is mapped for it: it gets nothing of what stands there, and the guest reports it.

    The controls: it reads what is mapped for it, and a device outside of the IOMMU reads what this one aimed at.
    """
    judge(check_read(Scene(machine, type1), attack))


@pytest.mark.claim("QD-1", "QD-2", "IV-1")
@pytest.mark.machine(devices=["edu,iommu=on,id=inside", "edu,iommu=off,id=outside"])
def test_a_device_without_a_driver_reaches_nothing(machine: LiveMachine) -> None:
    """A device behind the IOMMU writes to memory it was never given: memory is untouched, and the guest reports it.

    The control: a device outside does the same in the same machine, and gets through.
    """
    victim, control = machine.allocate(1, canary()), machine.allocate(1, canary())
    inside, outside = (
        write_over(machine, "inside", victim, blocked=True),
        write_over(machine, "outside", control, blocked=False),
    )
    judge(chain(inside, outside))


@pytest.mark.claim("CH-1", "QD-1")
@pytest.mark.machine(devices=["edu,iommu=off"])
def test_a_device_outside_the_iommu_reaches_all_memory(machine: LiveMachine) -> None:
    """A device with iommu=off reads and writes any memory of the guest, and the guest hears nothing of it."""
    judge(copy(machine, "edu0"))


@pytest.mark.claim("VQ-7", "QD-1")
@pytest.mark.machine(devices=["edu,iommu=on"], dma_mode=DmaMode.PASSTHROUGH)
def test_with_iommu_pt_a_device_reaches_all_memory(machine: LiveMachine) -> None:
    """With iommu=pt a device behind the IOMMU reads and writes any memory of the guest, and no fault is reported."""
    judge(copy(machine, "edu0"))
