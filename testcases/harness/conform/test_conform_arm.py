"""Programs for arm-smmuv3: that they are what they are said to be, without a QEMU."""

from __future__ import annotations

from collections import Counter
from functools import cache
from random import Random

import pytest

from harness.conform.board import ARM
from harness.conform.layout import DEVICES
from harness.conform.memory import DATA, HOT_DATA, QUEUES, TABLES
from harness.conform.program import Dma, Program, Read, Reset, Store, Write
from harness.conform.targets.arm import ARM_TARGETS
from harness.conform.targets.arm_programs import Generation
from harness.conform.targets.arm_universe import UNREACHABLE, universe
from harness.errors import Unsupported
from harness.model.access import Access, Bypassed, BypassReason, Fault, Translated
from harness.model.engine import NotModelled
from harness.model.memory import MappedMemory, Region
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.register_map import REGISTERS
from harness.model.smmuv3.registers import Smmuv3Registers
from harness.model.smmuv3.unit import Smmuv3Unit
from harness.model.unit import Coverage
from harness.vmm.qemu.capabilities import Capabilities

SEEDS = range(6)
RAM = 8 << 20
# IDR0 as QEMU 11.1 has it, without S1P and S2P, and what each target has of them.
IDR0 = 0xD44_1018
STAGES = {"arm-smmuv3/stage1": 0b10, "arm-smmuv3/stage2": 0b01, "arm-smmuv3/nested": 0b11}
NAMES = sorted(STAGES)
REQUESTERS = {entry.id: entry.requester for entry in DEVICES}


def capabilities(name: str) -> Smmuv3Capabilities:
    return Smmuv3Capabilities(idr0=IDR0 | STAGES[name], idr1=0x273_0010, idr3=0x1414, idr5=0x74)


def make(seed: int, name: str) -> Program:
    return Generation(name, seed, Random(seed), capabilities(name)).program()


def unit(name: str, coverage: Coverage) -> Smmuv3Unit:
    memory = MappedMemory(bytearray(RAM), [Region(ARM.ram, RAM)])
    sources = [(entry.requester, None) for entry in DEVICES]
    return Smmuv3Unit(Smmuv3Registers(capabilities=capabilities(name)), memory, coverage=coverage, sources=sources)


@cache
def run_all(name: str) -> tuple[Coverage, Counter[str], int]:
    """Run programs on the model alone: coverage, kinds of outcomes, and how many programs it cannot judge."""
    coverage = Coverage()
    kinds: Counter[str] = Counter()
    unjudged = 0
    for seed in SEEDS:
        smmu = unit(name, coverage)
        try:
            for step in make(seed, name).steps:
                match step:
                    case Store(address, data):
                        smmu.store(address, data)
                    case Write(offset, size, value):
                        smmu.write(offset, size, value)
                    case Read(offset, size):
                        smmu.read(offset, size)
                    case Reset():
                        smmu.reset()
                    case Dma(device=id, kind=kind, iova=iova):
                        access = Access(requester=REQUESTERS[id], iova=iova & ~3, length=4, kind=kind)
                        outcome = smmu.outcomes(access)[0]
                        smmu.settle(access, outcome)
                        kinds[type(outcome).__name__] += 1
                        if isinstance(outcome, Fault):
                            coverage.note("fault", outcome.code.name)
                        elif isinstance(outcome, Translated):
                            coverage.note("page", f"{outcome.size:#x}")
                        elif isinstance(outcome, Bypassed):
                            coverage.note("bypass", outcome.reason.name)
                            check_bypass(outcome, step)
                    case _:
                        pass
        except NotModelled:
            unjudged += 1
    return coverage, kinds, unjudged


def check_bypass(outcome: Bypassed, step: Dma) -> None:
    """What passes untranslated goes to data, or to where nothing is."""
    if outcome.reason is BypassReason.TRANSLATION_OFF:
        at = step.iova - ARM.ram
        assert at in HOT_DATA or at in DATA or at >= RAM


def test_a_seed_makes_the_same_program_again() -> None:
    assert make(3, "arm-smmuv3/nested") == make(3, "arm-smmuv3/nested")
    assert make(3, "arm-smmuv3/nested") != make(4, "arm-smmuv3/nested")


def test_a_program_says_where_it_comes_from() -> None:
    program = make(5, "arm-smmuv3/stage2")
    assert (program.target, program.seed) == ("arm-smmuv3/stage2", 5)


@pytest.mark.parametrize("name", NAMES)
def test_programs_store_in_queues_and_tables_alone(name: str) -> None:
    for seed in SEEDS:
        for step in make(seed, name).steps:
            if isinstance(step, Store):
                at = step.address - ARM.ram
                assert QUEUES.start <= at
                assert at + len(step.data) <= TABLES.stop


@pytest.mark.parametrize("name", NAMES)
def test_programs_have_more_than_a_hundred_dmas(name: str) -> None:
    counts = [sum(isinstance(step, Dma) for step in make(seed, name).steps) for seed in SEEDS]
    assert min(counts) > 100
    assert sum(counts) / len(counts) > 150


@pytest.mark.parametrize("name", NAMES)
def test_dmas_are_about_what_is_set_up(name: str) -> None:
    _, kinds, _ = run_all(name)
    assert kinds["Translated"] > 0.25 * kinds.total()
    assert kinds["Fault"] > 0.1 * kinds.total()


@pytest.mark.parametrize("name", NAMES)
def test_the_model_judges_most_programs(name: str) -> None:
    assert run_all(name)[2] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_what_programs_reach_is_in_the_universe(name: str) -> None:
    coverage, _, _ = run_all(name)
    everything = universe(capabilities(name))
    # What is refused, and bits that the SMMU has not, belong to no universe.
    reached = {entry for entry in coverage.counts if not entry[1].endswith("refused") and entry[0] != "register"}
    assert reached <= everything
    assert not coverage.counts.keys() & UNREACHABLE.keys()


def test_stages_have_commands_of_their_own() -> None:
    stage1, stage2, nested = (
        {what for kind, what in universe(capabilities(f"arm-smmuv3/{name}")) if kind == "command"}
        for name in ("stage1", "stage2", "nested")
    )
    assert "CMD_TLBI_NH_VA leaf" in stage1 - stage2
    assert "CMD_TLBI_S2_IPA" in stage2 - stage1
    assert stage1 | stage2 == nested


def test_registers_that_programs_access_are_the_smmus() -> None:
    places = {(each.start, each.size) for each in REGISTERS.values()}
    for seed in SEEDS:
        known = [step for step in make(seed, "arm-smmuv3/nested").steps if isinstance(step, Write)]
        assert sum((step.offset, step.size) in places for step in known) > 0.8 * len(known)
        assert all(step.offset < 0x2_0000 for step in known)


class FakeCapabilities:
    def __init__(self, version: str, *, has_stages: bool) -> None:
        self.version = version
        self._has_stages = has_stages

    def has_device(self, name: str) -> bool:
        return name == "arm-smmuv3"

    def has_property(self, device: str, name: str) -> bool:
        return name == "stage" and self._has_stages


def fake(version: str, *, has_stages: bool) -> Capabilities:
    return FakeCapabilities(version, has_stages=has_stages)  # type: ignore[return-value]


def test_a_build_without_stages_has_stage_1_alone() -> None:
    able = []
    for target in ARM_TARGETS:
        try:
            words = target.words(fake("7.2", has_stages=False))
        except Unsupported:
            continue
        able.append(target.name)
        assert words.iommu == ()
        assert "gic-version=2" in " ".join(words.machine or ())
    assert able == ["arm-smmuv3/stage1"]


def test_a_build_with_stages_is_told_which() -> None:
    said = {target.name: target.words(fake("11.1", has_stages=True)).iommu[1] for target in ARM_TARGETS}
    assert said == {
        "arm-smmuv3/stage1": "arm-smmuv3.stage=1",
        "arm-smmuv3/stage2": "arm-smmuv3.stage=2",
        "arm-smmuv3/nested": "arm-smmuv3.stage=nested",
    }
