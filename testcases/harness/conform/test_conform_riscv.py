"""The targets of riscv-iommu-pci, and the programs for them; without a QEMU."""

from __future__ import annotations

from random import Random

import pytest

from harness.conform.board import RISCV
from harness.conform.command import RAM_BYTES
from harness.conform.layout import DEVICES
from harness.conform.program import Dma, Program, Read, Reset, Store, Write
from harness.conform.targets.riscv import RISCV_TARGETS
from harness.conform.targets.riscv_programs import Generation
from harness.conform.targets.riscv_universe import UNREACHABLE, universe
from harness.model.access import Access, Fault
from harness.model.engine import NotModelled
from harness.model.memory import MappedMemory, Region
from harness.model.riscv import RiscvIommuRegisters
from harness.model.riscv.registers import InterruptGeneration, capabilities
from harness.model.riscv.unit import RiscvIommuUnit
from harness.model.unit import Coverage

_SEEDS = range(6)
_COMMON = frozenset({"ATS", "PD8", "DBG", "HPM"})
_FIRST = frozenset({"Sv39", "Sv48", "Sv57"})
_SECOND = frozenset({"Sv39x4", "Sv48x4", "Sv57x4", "MSI_FLAT", "MSI_MRIF"})
_STAGES = {"first-stage": _FIRST, "second-stage": _SECOND, "nested": _FIRST | _SECOND}


def _registers(stages: str) -> RiscvIommuRegisters:
    """What QEMU's device says it has."""
    features = _COMMON | _STAGES[stages]
    return RiscvIommuRegisters(
        capabilities=capabilities(features=features, interrupt_generation=InterruptGeneration.MSI), ddtp=1
    )


def _program(stages: str, seed: int) -> Program:
    return Generation(f"riscv-iommu/{stages}", seed, Random(seed), _registers(stages)).program()


def _run(program: Program, unit: RiscvIommuUnit) -> tuple[int, int]:
    """How many DMAs there were, and how many of them went through, by the model alone; each had its first outcome."""
    requesters = {entry.id: entry.requester for entry in DEVICES}
    dmas = through = 0
    unit.reset()
    for step in program.steps:
        match step:
            case Store(address=address, data=data):
                unit.store(address, data)
            case Write(offset=offset, size=size, value=value):
                unit.write(offset, size, value)
            case Read(offset=offset, size=size):
                unit.read(offset, size)
            case Dma(device=device, kind=kind, iova=iova, length=length):
                length = min(length, 4096 - iova % 4096)
                access = Access(requester=requesters[device], iova=iova, length=length, kind=kind)
                outcome = unit.outcomes(access)[0]
                unit.settle(access, outcome)
                dmas += 1
                through += not isinstance(outcome, Fault)
            case Reset():
                unit.reset()
            case _:
                pass
    return dmas, through


@pytest.mark.parametrize("stages", _STAGES)
class TestPrograms:
    """What is generated."""

    def test_a_seed_always_gives_the_same_program(self, stages: str) -> None:
        assert _program(stages, 3) == _program(stages, 3)
        assert _program(stages, 3) != _program(stages, 4)

    def test_stores_lie_in_memory(self, stages: str) -> None:
        for seed in _SEEDS:
            for step in _program(stages, seed).steps:
                if isinstance(step, Store):
                    assert RISCV.ram <= step.address
                    assert step.address + len(step.data) <= RISCV.ram + RAM_BYTES

    def test_nothing_is_done_that_is_not_specified_and_most_requests_go_through(self, stages: str) -> None:
        dmas = through = 0
        for seed in _SEEDS:
            memory = MappedMemory(bytearray(RAM_BYTES), [Region(RISCV.ram, RAM_BYTES)])
            unit = RiscvIommuUnit(_registers(stages), memory, coverage=Coverage(), vectors=4)
            try:
                one = _run(_program(stages, seed), unit)
            except NotModelled as error:
                pytest.fail(f"seed {seed}: {error}")
            dmas, through = dmas + one[0], through + one[1]
        assert dmas > 150 * len(_SEEDS)
        assert through > dmas * 0.4


def test_what_cannot_be_reached_is_part_of_what_there_is() -> None:
    assert UNREACHABLE.keys() <= universe(_registers("nested"), 4)


def test_every_target_is_named_after_its_stages() -> None:
    assert {target.name for target in RISCV_TARGETS} == {f"riscv-iommu/{stages}" for stages in _STAGES}
