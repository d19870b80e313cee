"""Programs for amd-iommu: that they are what they are said to be, without a QEMU."""

from __future__ import annotations

from collections import Counter
from functools import cache
from random import Random

import pytest

from harness.conform.layout import DEVICES
from harness.conform.memory import HOT_DATA, QUEUES, TABLES
from harness.conform.program import Dma, Program, Read, Reset, Store, Write
from harness.conform.targets.amd import AMD_TARGETS
from harness.conform.targets.amd_programs import Generation
from harness.conform.targets.amd_universe import UNREACHABLE, universe
from harness.errors import Unsupported
from harness.model.access import Access, Bypassed, BypassReason, Fault, Translated
from harness.model.amdvi import AmdviRegisters
from harness.model.amdvi.register_fields import CAPABILITY_HEADER
from harness.model.amdvi.unit import AmdviUnit
from harness.model.engine import NotModelled
from harness.model.memory import MappedMemory
from harness.model.unit import Coverage
from harness.vmm.qemu.capabilities import Capabilities

SEEDS = range(40)
RAM = 8 << 20
# What QEMU has up to 11.1: PreFSup, PPRSup, GTSup, IASup, GASup, HESup, HATS=10b, GATS=10b.
FEATURES = 0x29D3
HEADER = CAPABILITY_HEADER.encode(
    {"CapId": 0xF, "CapType": 3, "IotlbSup": 1, "HtTunnel": 1, "NpCache": 1, "EFRSup": 1, "CapExt": 1}
)
REGISTERS = AmdviRegisters(device_table_base=0, control=0, extended_feature=FEATURES, capability_header=HEADER)


def make(seed: int, *, interrupts: bool = False) -> Program:
    return Generation("amd-iommu/dma", seed, Random(seed), interrupts=interrupts).program()


@cache
def run_all(*, interrupts: bool) -> tuple[Coverage, Counter[str], int]:
    """Run programs on the model alone: coverage, kinds of outcomes, and how many programs it cannot judge."""
    coverage = Coverage()
    kinds: Counter[str] = Counter()
    unjudged = 0
    requesters = {entry.id: entry.requester for entry in DEVICES}
    for seed in SEEDS:
        unit = AmdviUnit(REGISTERS, MappedMemory(bytearray(RAM)), coverage=coverage)
        try:
            for step in make(seed, interrupts=interrupts).steps:
                match step:
                    case Store(address, data):
                        unit.store(address, data)
                    case Write(offset, size, value):
                        unit.write(offset, size, value)
                    case Read(offset, size):
                        unit.read(offset, size)
                    case Reset():
                        unit.reset()
                    case Dma(device=id, kind=kind, iova=iova):
                        access = Access(requester=requesters[id], iova=iova & ~3, length=4, kind=kind)
                        outcome = unit.outcomes(access)[0]
                        unit.settle(access, outcome)
                        kinds[type(outcome).__name__] += 1
                        if isinstance(outcome, Fault):
                            coverage.note("fault", outcome.code.name)
                        elif isinstance(outcome, Translated):
                            coverage.note("page", f"{outcome.size:#x}")
                        elif isinstance(outcome, Bypassed):
                            coverage.note("bypass", outcome.reason.name)
                    case _:
                        pass
        except NotModelled:
            unjudged += 1
    return coverage, kinds, unjudged


def test_a_seed_makes_the_same_program_again() -> None:
    assert make(3) == make(3)
    assert make(3) != make(4)


def test_a_program_says_where_it_comes_from() -> None:
    program = make(5)
    assert (program.target, program.seed) == ("amd-iommu/dma", 5)


def test_programs_store_in_queues_and_tables_alone() -> None:
    for seed in SEEDS:
        for step in make(seed).steps:
            if isinstance(step, Store):
                assert QUEUES.start <= step.address
                assert step.address + len(step.data) <= TABLES.stop


def test_programs_have_hundreds_of_dmas() -> None:
    counts = [sum(isinstance(step, Dma) for step in make(seed).steps) for seed in SEEDS]
    assert min(counts) > 100
    assert sum(counts) / len(counts) > 200


def test_most_dmas_are_about_what_is_set_up() -> None:
    _, kinds, _ = run_all(interrupts=False)
    assert kinds["Translated"] > 0.4 * kinds.total()
    assert kinds["Fault"] > 0.1 * kinds.total()


@pytest.mark.parametrize("interrupts", [False, True])
def test_the_model_judges_every_program(interrupts: bool) -> None:
    assert run_all(interrupts=interrupts)[2] == 0


def test_what_programs_reach_is_in_the_universe() -> None:
    coverage, _, _ = run_all(interrupts=True)
    everything = universe(REGISTERS, interrupts=True)
    reached = {(kind, name) for kind, name in coverage.counts if kind in ("fault", "register")}
    assert reached <= everything
    assert not reached & UNREACHABLE.keys()
    missing = {entry for entry in everything - coverage.counts.keys() if entry[0] == "page"}
    assert len(missing) < 6


def test_what_cannot_be_reached_is_in_the_universe() -> None:
    everything = universe(REGISTERS, interrupts=True)
    assert UNREACHABLE.keys() <= everything


def test_devices_that_pass_untranslated_go_to_data() -> None:
    requesters = {entry.id: entry.requester for entry in DEVICES}
    for seed in SEEDS:
        unit = AmdviUnit(REGISTERS, MappedMemory(bytearray(RAM)), coverage=Coverage())
        for step in make(seed).steps:
            if isinstance(step, Store):
                unit.store(step.address, step.data)
            elif isinstance(step, Write):
                unit.write(step.offset, step.size, step.value)
            elif isinstance(step, Reset):
                unit.reset()
            elif isinstance(step, Dma):
                access = Access(requester=requesters[step.device], iova=step.iova & ~3, length=4, kind=step.kind)
                outcome = unit.outcomes(access)[0]
                if isinstance(outcome, Bypassed) and outcome.reason is BypassReason.TRANSLATION_OFF:
                    assert step.iova in HOT_DATA


def capabilities(version: str, *, translates: bool) -> Capabilities:
    return FakeCapabilities(version, translates)  # type: ignore[return-value]


class FakeCapabilities:
    def __init__(self, version: str, translates: bool) -> None:
        self.version = version
        self._translates = translates

    def has_device(self, name: str) -> bool:
        return True

    def has_property(self, device: str, name: str) -> bool:
        return name == "dma-remap" and self._translates


def test_each_build_has_the_targets_that_it_can_do() -> None:
    for translates, names in (
        (True, {"amd-iommu/dma", "amd-iommu/interrupts"}),
        (False, {"amd-iommu/root-bus"}),
    ):
        able = set()
        for target in AMD_TARGETS:
            try:
                words = target.words(capabilities("11.1", translates=translates))
            except Unsupported:
                continue
            able.add(target.name)
            assert ("dma-remap=on" in words.iommu[1]) is translates
        assert able == names
