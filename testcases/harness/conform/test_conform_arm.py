"""Programs for arm-smmuv3: what they reach, and which builds they are for; without a QEMU."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
from fake_builds import build
from model_alone import Ran, arm_capabilities, make, run_all

from harness.conform.board import ARM
from harness.conform.command import RAM_BYTES
from harness.conform.memory import DATA, HOT_DATA
from harness.conform.program import Write
from harness.conform.targets.arm import ARM_TARGETS
from harness.conform.targets.arm_flaws import WEIGHTS, Oddity
from harness.conform.targets.arm_programs import Generation
from harness.conform.targets.arm_universe import UNREACHABLE, universe
from harness.errors import Unsupported
from harness.model.access import BypassReason
from harness.model.smmuv3.register_map import REGISTERS

SEEDS = range(2)
NAMES = [target.name for target in ARM_TARGETS]


@cache
def ran(name: str) -> Ran:
    return run_all(name, SEEDS)


@pytest.mark.parametrize("name", NAMES)
def test_what_passes_untranslated_goes_to_data_or_to_where_nothing_is(name: str) -> None:
    off = [step for step, outcome in ran(name).bypassed if outcome.reason is BypassReason.TRANSLATION_OFF]
    places = [step.iova - ARM.ram for step in off]
    assert all(at in HOT_DATA or at in DATA or at >= RAM_BYTES for at in places)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_stream_lets_pass_goes_past_the_registers_of_the_board(name: str) -> None:
    passed = [step.iova for step, outcome in ran(name).bypassed if outcome.reason is BypassReason.PASS_THROUGH]
    assert passed
    assert min(passed) >= ARM.ram


def test_few_programs_have_each_oddity() -> None:
    random = Random(1)
    has = arm_capabilities("arm-smmuv3/nested")
    found = [Generation("arm-smmuv3/nested", n, random, has).oddities for n in range(200)]
    for oddity, weight in WEIGHTS.items():
        assert abs(sum(oddity in each for each in found) / len(found) - weight) < 0.12
    assert all(Oddity.RESET not in Generation("n", n, random, has, resets=False).oddities for n in range(50))


@pytest.mark.parametrize("name", NAMES)
def test_what_programs_reach_is_in_the_universe(name: str) -> None:
    coverage = ran(name).coverage
    everything = universe(arm_capabilities(name))
    # What is refused, and bits that the SMMU has not, belong to no universe.
    reached = {entry for entry in coverage.counts if not entry[1].endswith("refused") and entry[0] != "register"}
    assert reached <= everything
    assert not coverage.counts.keys() & UNREACHABLE.keys()


def test_stages_have_commands_of_their_own() -> None:
    stage1, stage2, nested = (
        {what for kind, what in universe(arm_capabilities(f"arm-smmuv3/{name}")) if kind == "command"}
        for name in ("stage1", "stage2", "nested")
    )
    assert "CMD_TLBI_NH_VA leaf" in stage1 - stage2
    assert "CMD_TLBI_S2_IPA" in stage2 - stage1
    assert stage1 | stage2 == nested


def test_registers_that_programs_access_are_the_smmus() -> None:
    places = {(each.start, each.size) for each in REGISTERS.values()}
    for seed in SEEDS:
        known = [step for step in make("arm-smmuv3/nested", seed).steps if isinstance(step, Write)]
        assert sum((step.offset, step.size) in places for step in known) > 0.8 * len(known)
        assert all(step.offset < 0x2_0000 for step in known)


def test_a_build_without_stages_has_stage_1_alone() -> None:
    able = []
    for target in ARM_TARGETS:
        try:
            words = target.words(build("7.2"))
        except Unsupported:
            continue
        able.append(target.name)
        assert words.iommu == ()
        assert "gic-version=2" in " ".join(words.machine or ())
    assert able == ["arm-smmuv3/stage1"]


def test_a_build_with_stages_is_told_which() -> None:
    said = {target.name: target.words(build("11.1", "stage")).iommu[1] for target in ARM_TARGETS}
    assert said == {
        "arm-smmuv3/stage1": "arm-smmuv3.stage=1",
        "arm-smmuv3/stage2": "arm-smmuv3.stage=2",
        "arm-smmuv3/nested": "arm-smmuv3.stage=nested",
    }
