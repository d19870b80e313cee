"""Programs for intel-iommu: what they are made of, and what they reach; without a QEMU."""

from __future__ import annotations

import pytest
from model_alone import intel_registers, make, run_all

from harness.conform.memory import QUEUES
from harness.conform.program import Dma, Store, Write
from harness.conform.targets.intel import INTEL_TARGETS, IntelIommu
from harness.conform.targets.intel_programs import Plan
from harness.conform.targets.intel_tables import FirstStage, Legacy, SecondStage
from harness.conform.targets.intel_universe import UNREACHABLE, universe
from harness.model.access import AccessKind, Fault
from harness.model.vtd.faults import VtdFaultReason

# Caching mode changes what software has to do, and nothing of the programs.
TARGETS = [target for target in INTEL_TARGETS if target.name != "intel-iommu/caching-mode"]


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_commands_of_the_universe_are_reached_and_requests_are_blocked_or_not(target: IntelIommu) -> None:
    ran = run_all(target.name, range(40 if target.plan == Plan() else 20))
    assert Fault in ran.kinds
    assert len(ran.kinds) > 1
    commands = {each for each in universe(intel_registers(target.plan), target.plan) if each[0] == "command"}
    # A wait descriptor with both flags is rare, since builds abort on it.
    assert commands - ran.coverage.counts.keys() <= {("command", "WAIT IF SW")}


def test_a_universe_has_the_faults_of_its_mode_and_no_others() -> None:
    def faults(plan: Plan) -> set[str]:
        return {name for kind, name in universe(intel_registers(plan), plan) if kind == "fault"}

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
    program = make("intel-iommu/interrupts", 3)
    tails = [step.value for step in program.steps if isinstance(step, Write) and step.offset == 0x88]
    assert tails
    assert all(0 <= tail < 4096 and tail % 16 == 0 for tail in tails)
    stores = [step for step in program.steps if isinstance(step, Store) and step.address in QUEUES]
    assert stores
    assert any(isinstance(step, Dma) and step.kind is AccessKind.READ for step in program.steps)
