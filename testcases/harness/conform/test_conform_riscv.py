"""The targets of riscv-iommu-pci; what holds of their programs is in `test_conform_generators`."""

from __future__ import annotations

from model_alone import riscv_registers

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
