"""Programs for intel-iommu: what they are made of, and that the unit of the model runs them."""

from __future__ import annotations

from random import Random

import pytest

from harness.conform.memory import QUEUES
from harness.conform.program import Dma, Program, Read, Reset, Store, Write
from harness.conform.targets.intel import INTEL_TARGETS
from harness.conform.targets.intel_programs import Generation, Plan
from harness.conform.targets.intel_tables import FirstStage, Legacy, SecondStage
from harness.conform.targets.intel_universe import UNREACHABLE, universe
from harness.model.access import Access, AccessKind, Fault, Outcome
from harness.model.memory import MappedMemory, Region
from harness.model.unit import Coverage
from harness.model.vtd import ExtendedCapabilities, VtdRegisters
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.register_layouts import CAP_REG, TranslationTableMode
from harness.model.vtd.registers import capabilities
from harness.model.vtd.unit import VtdUnit

MIB = 1 << 20
PLANS = (Plan(), Plan(messages=True), Plan(SecondStage), Plan(FirstStage), Plan(SecondStage, pass_through=0.7))
_GRANULE = 4096


def registers(plan: Plan) -> VtdRegisters:
    """As of an intel-iommu that has what the plan needs."""
    scalable = plan.mode is TranslationTableMode.SCALABLE
    extended = ExtendedCapabilities(
        queued_invalidation=True,
        interrupt_remapping=plan.messages,
        extended_interrupts=plan.messages,
        pass_through=True,
        scalable_mode=scalable,
        second_stage=scalable and not plan.first_stage,
        first_stage=scalable and plan.first_stage,
        max_index_mask=15,
        iotlb_registers=0xF0,
    )
    cap = capabilities(levels=frozenset({3, 4}), guest_address_width=48, max_address_mask=18)
    return VtdRegisters(
        rtaddr=0,
        cap=cap | CAP_REG.encode({"FRO": 0x22}),
        ecap=extended.encode(),
        gsts=0,
        ver=0x10,
        host_address_width=48,
    )


def generate(plan: Plan, seed: int) -> Program:
    return Generation("intel-iommu/test", seed, Random(seed), registers(plan), plan).program()


def run(plan: Plan, program: Program) -> tuple[Coverage, list[Outcome]]:
    """The unit alone runs a program; the first outcome of each request comes to pass."""
    coverage = Coverage()
    memory = MappedMemory(bytearray(8 * MIB), [Region(0, 8 * MIB)])
    unit = VtdUnit(registers(plan), memory, coverage=coverage, compresses=True)
    found: list[Outcome] = []
    for step in program.steps:
        match step:
            case Store(address, data):
                unit.store(address, data)
            case Write(offset, size, value):
                unit.write(offset, size, value)
            case Read(offset, size):
                unit.read(offset, size)
            case Reset():
                unit.reset()
            case Dma(kind=kind, iova=iova, length=length):
                length = min(length, _GRANULE - iova % _GRANULE)
                access = Access(requester=0x80, iova=iova, length=length, kind=kind)
                found.append(unit.outcomes(access)[0])
                unit.settle(access, found[-1])
            case _:
                pass
    return coverage, found


@pytest.mark.parametrize("plan", PLANS)
def test_the_same_seed_gives_the_same_program_and_another_seed_another(plan: Plan) -> None:
    assert generate(plan, 1) == generate(plan, 1)
    assert generate(plan, 1) != generate(plan, 2)


@pytest.mark.parametrize("plan", PLANS)
def test_a_program_is_mostly_dma_and_can_be_written_down(plan: Plan) -> None:
    for seed in range(5):
        program = generate(plan, seed)
        assert Program.from_json(program.to_json()) == program
        assert 200 <= sum(isinstance(step, Dma) for step in program.steps)


@pytest.mark.parametrize("plan", PLANS)
def test_the_unit_runs_every_program_and_both_translates_and_blocks(plan: Plan) -> None:
    kinds: set[type[Outcome]] = set()
    for seed in range(12):
        _, outcomes = run(plan, generate(plan, seed))
        kinds |= {type(outcome) for outcome in outcomes}
    assert Fault in kinds
    assert len(kinds) > 1


@pytest.mark.parametrize("plan", PLANS)
def test_commands_of_the_universe_are_reached(plan: Plan) -> None:
    reached: set[tuple[str, str]] = set()
    for seed in range(150 if plan == Plan() else 60):
        coverage, _ = run(plan, generate(plan, seed))
        reached |= coverage.counts.keys()
    commands = {each for each in universe(registers(plan), plan) if each[0] == "command"}
    # A wait descriptor with both flags is rare, since builds abort on it.
    assert commands - reached <= {("command", "WAIT IF SW")}


def test_a_universe_has_the_faults_of_its_mode_and_no_others() -> None:
    def faults(plan: Plan) -> set[str]:
        return {name for kind, name in universe(registers(plan), plan) if kind == "fault"}

    assert "CONTEXT_NOT_PRESENT" in faults(Plan())
    assert "INTERRUPT_ENTRY_NOT_PRESENT" not in faults(Plan())
    assert "INTERRUPT_ENTRY_NOT_PRESENT" in faults(Plan(messages=True))
    assert "SECOND_STAGE_NOT_PRESENT" in faults(Plan(SecondStage))
    assert "FIRST_STAGE_NOT_PRESENT" in faults(Plan(FirstStage))
    assert "CONTEXT_NOT_PRESENT" not in faults(Plan(FirstStage))


def test_what_cannot_be_reached_is_a_fault_that_there_is() -> None:
    assert {name for _, name in UNREACHABLE} <= VtdFaultReason.__members__.keys()


def test_targets_have_names_of_their_own_and_every_setup() -> None:
    assert len({target.name for target in INTEL_TARGETS}) == len(INTEL_TARGETS)
    assert {target.plan.setup for target in INTEL_TARGETS} == {Legacy, SecondStage, FirstStage}
    assert {target.arch for target in INTEL_TARGETS} == {"amd64"}


def test_descriptors_stay_in_the_queue() -> None:
    program = generate(Plan(messages=True), 3)
    tails = [step.value for step in program.steps if isinstance(step, Write) and step.offset == 0x88]
    assert tails
    assert all(0 <= tail < 4096 and tail % 16 == 0 for tail in tails)
    stores = [step for step in program.steps if isinstance(step, Store) and step.address in QUEUES]
    assert stores
    assert any(isinstance(step, Dma) and step.kind is AccessKind.READ for step in program.steps)
