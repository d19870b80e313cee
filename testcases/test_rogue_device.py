"""A malicious device on a guest at work: everything that it aims at, in the catalogue of attacks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import pytest
from attacks import ATTACKS, DEVICES, OUTSIDE, READS, ROGUE, Dma, Scene
from rogue import canary, copy, read, write, write_in_parts, write_over

from harness.checks.judge import judge
from harness.live.machine import LiveMachine
from harness.report.record import Finding
from harness.spec import DmaMode

_WHY = "VFIO has mapped three pages for the device, and nothing else"


@pytest.mark.claim("QD-2", "IV-1")
@pytest.mark.machine(devices=DEVICES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_rogue_write_is_blocked(machine: LiveMachine, attack: str) -> None:
    """A device writes outside of what is mapped for it: memory is untouched, and the guest reports it.

    The controls: it writes to what is mapped for it, and a device outside of the IOMMU gets to where this one aimed.
    """
    judge(_write(Scene(machine), attack))


def _write(scene: Scene, attack: str) -> Iterator[Finding]:
    live, dma = scene.live, ATTACKS[attack](scene)
    yield from write(live, ROGUE, scene.window, scene.frame, scene.pages, blocked=False, why=_WHY)
    yield from write_in_parts(live, ROGUE, dma.iova, dma.aim, scene.pages, parts=dma.parts, why=_WHY)
    if dma.owned:
        yield from write(live, OUTSIDE, dma.aim, dma.aim, scene.pages, blocked=False, why="iommu=off")
    else:
        yield from _read_outside(scene, dma)


@pytest.mark.claim("QD-2", "IV-1")
@pytest.mark.machine(devices=DEVICES)
@pytest.mark.parametrize("attack", READS)
def test_a_rogue_read_is_blocked(machine: LiveMachine, attack: str) -> None:
    """A device reads outside of what is mapped for it: it gets nothing of what stands there, and the guest reports it.

    The controls: it reads what is mapped for it, and a device outside of the IOMMU reads what this one aimed at.
    """
    judge(_read(Scene(machine), attack))


def _read(scene: Scene, attack: str) -> Iterator[Finding]:
    live, dma = scene.live, READS[attack](scene)
    yield from read(live, ROGUE, scene.window, scene.frame, show=scene.show, blocked=False, why=_WHY)
    yield from read(live, ROGUE, dma.iova, dma.aim, show=scene.show, blocked=True, why=_WHY)
    yield from _read_outside(scene, dma)


def _read_outside(scene: Scene, dma: Dma) -> Iterator[Finding]:
    """The control: a device outside reads what the rogue aimed at, and shows it in a page of the case's own."""
    own = scene.secret + 1536
    yield from read(scene.live, OUTSIDE, dma.aim, dma.aim, show=(own, own), blocked=False, why="iommu=off")


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
