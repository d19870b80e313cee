"""The targets of riscv-iommu-pci; what holds of their programs is in `test_conform_generators`."""

from __future__ import annotations

import pytest
from model_alone import make, riscv_registers

from harness.conform.program import Dma, Reset, Unplug, Write
from harness.conform.targets.riscv import RISCV_TARGETS
from harness.conform.targets.riscv_universe import UNREACHABLE, universe


def test_what_cannot_be_reached_is_part_of_what_there_is() -> None:
    assert UNREACHABLE.keys() <= universe(riscv_registers("riscv-iommu/nested"), 4)


def test_every_target_is_named_after_its_stages() -> None:
    assert {target.name for target in RISCV_TARGETS} == {
        "riscv-iommu/first-stage",
        "riscv-iommu/second-stage",
        "riscv-iommu/nested",
    }


_FQCSR = 76


@pytest.mark.parametrize("name", [target.name for target in RISCV_TARGETS])
def test_programs_are_long_and_seldom_do_what_takes_a_machine_long(name: str) -> None:
    programs = [make(name, seed) for seed in range(12)]
    dmas = [sum(isinstance(step, Dma) for step in program.steps) for program in programs]
    assert min(dmas) > 1000
    slow = [program for program in programs if any(isinstance(step, Reset | Unplug) for step in program.steps)]
    assert len(slow) < len(programs) / 2


@pytest.mark.parametrize("name", [target.name for target in RISCV_TARGETS])
def test_the_fault_queue_begins_again_before_it_is_full(name: str) -> None:
    for seed in range(4):
        since = 0
        for step in make(name, seed).steps:
            if isinstance(step, Write) and step.offset == _FQCSR and not step.value & 1:
                since = 0
            since += isinstance(step, Dma)
            assert since <= 13 * 31
