"""VFIO's no-IOMMU mode, which is there for devices that nothing holds back: it holds nothing back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from holds import HOLDS, Opener
from rogue import canary, copy, write

from harness.checks.judge import judge
from harness.checks.work import check_driver, check_refused
from harness.errors import AgentError
from harness.guest.answers import PAGE
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.live.user_space import allow_no_iommu, give_without_iommu
from harness.report.record import Finding
from harness.spec import DmaMode

_TARGET = 0x7FFFE000


@pytest.fixture(autouse=True)
def _no_iommu_mode(lab: Lab) -> None:
    """Looks before a machine is started that would be of no use."""
    lab.require_option("CONFIG_VFIO_NOIOMMU", "mode of VFIO without an IOMMU")


@pytest.mark.claim("QD-4", "QD-1")
@pytest.mark.machine(devices=["edu,iommu=on,id=held", "edu,iommu=off,id=free"])
@pytest.mark.parametrize("hold", HOLDS)
def test_one_device_is_held_while_another_in_no_iommu_mode_is_not(machine: LiveMachine, hold: str) -> None:
    """In one guest a device in VFIO's hands is held to its mappings, and one that VFIO gave away without IOMMU is not.

    That one VFIO does not take before it is told to, and nothing can be mapped for it.
    """
    judge(_both(machine, HOLDS[hold]))


def _both(live: LiveMachine, held_by: Opener) -> Iterator[Finding]:
    pages, free = live.allocate(2, canary()), live.address("free")
    hold = held_by(live, "held")
    hold.map(pages, _TARGET, size=PAGE)
    with suppress(AgentError):  # it says so too, in its own words
        live.agent.pci_bind(free, "vfio-pci")
    yield from check_driver(live.function("free"), live.agent.pci_functions(), "none")
    allow_no_iommu(live)
    give_without_iommu(live, "free")
    yield from check_refused("a mapping without IOMMU", "ENOTTY", live.agent.vfio_map, free, pages, _TARGET)
    aim = pages.frames[1] + 512
    yield from write(live, "held", _TARGET, pages.frames[0], pages, blocked=False, why="mapped by VFIO")
    yield from write(live, "held", aim, aim, pages, blocked=True, why="not mapped by VFIO", count=4)
    yield from write(live, "free", aim, aim, pages, blocked=False, why="VFIO's no-IOMMU mode")
    yield from copy(live, "free")


@pytest.mark.claim("QD-4", "QD-1")
@pytest.mark.machine(devices=["edu,iommu=on"], dma_mode=DmaMode.OFF)
def test_no_iommu_mode_protects_no_guest_whose_iommu_is_off(machine: LiveMachine) -> None:
    """A kernel that does not use its IOMMU gives a device away in no-IOMMU mode: it reads and writes any memory."""
    allow_no_iommu(machine)
    give_without_iommu(machine, "edu0")
    judge(copy(machine, "edu0"))
