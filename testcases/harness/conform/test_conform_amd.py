"""Programs for amd-iommu: what they reach, and which builds they are for; without a QEMU."""

from __future__ import annotations

from functools import cache

import pytest
from fake_builds import build
from model_alone import AMD_REGISTERS, Ran, run_all

from harness.conform.memory import HOT_DATA
from harness.conform.targets.amd import AMD_TARGETS
from harness.conform.targets.amd_universe import UNREACHABLE, universe
from harness.errors import Unsupported
from harness.model.access import BypassReason, Fault, Translated

SEEDS = range(16)


@cache
def ran(name: str) -> Ran:
    return run_all(name, SEEDS)


def test_most_dmas_are_about_what_is_set_up() -> None:
    assert ran("amd-iommu/dma").share(Translated) > 0.4
    assert ran("amd-iommu/dma").share(Fault) > 0.1


@pytest.mark.parametrize("name", ["amd-iommu/dma", "amd-iommu/interrupts"])
def test_the_model_judges_every_program(name: str) -> None:
    assert not ran(name).unjudged


def test_what_programs_reach_is_in_the_universe() -> None:
    coverage = ran("amd-iommu/interrupts").coverage
    everything = universe(AMD_REGISTERS, interrupts=True)
    reached = {(kind, name) for kind, name in coverage.counts if kind in ("fault", "register")}
    assert reached <= everything
    assert not reached & UNREACHABLE.keys()
    missing = {entry for entry in everything - coverage.counts.keys() if entry[0] == "page"}
    assert len(missing) < 6


def test_what_cannot_be_reached_is_in_the_universe() -> None:
    assert UNREACHABLE.keys() <= universe(AMD_REGISTERS, interrupts=True)


def test_devices_that_pass_untranslated_go_to_data() -> None:
    off = [step for step, outcome in ran("amd-iommu/dma").bypassed if outcome.reason is BypassReason.TRANSLATION_OFF]
    assert off
    assert all(step.iova in HOT_DATA for step in off)


def test_each_build_has_the_targets_that_it_can_do() -> None:
    for properties, names in (
        (("dma-remap",), {"amd-iommu/dma", "amd-iommu/interrupts"}),
        ((), {"amd-iommu/root-bus"}),
    ):
        able = set()
        for target in AMD_TARGETS:
            try:
                words = target.words(build("11.1", *properties))
            except Unsupported:
                continue
            able.add(target.name)
            assert ("dma-remap=on" in words.iommu[1]) is bool(properties)
        assert able == names
