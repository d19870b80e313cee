"""Programs for intel-iommu: what they are made of, and what they reach; without a QEMU."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from model_alone import intel_registers, make, make_unit, run, run_all

from harness.conform.command import RAM_BYTES
from harness.conform.layout import DEVICES
from harness.conform.memory import QUEUES, TABLES
from harness.conform.program import Dma, Program, Reset, Store, Write
from harness.conform.targets.intel import INTEL_TARGETS, IntelIommu
from harness.conform.targets.intel_driver import Driver
from harness.conform.targets.intel_plan import Plan
from harness.conform.targets.intel_tables import DeviceTlbs, FirstStage, FirstStageFlags, Legacy, SecondStage
from harness.conform.targets.intel_universe import UNREACHABLE, universe
from harness.conform.writer import ProgramWriter
from harness.errors import VmmError
from harness.model.access import AccessKind, Fault, Translated
from harness.model.memory import MappedMemory, Region
from harness.model.unit import Coverage
from harness.model.vtd.context import CONTEXT_ENTRY, context_entry_address
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.first_stage_entries import PAGE_ENTRY
from harness.model.vtd.invalidation.descriptors import DESCRIPTORS, DescriptorType
from harness.model.vtd.invalidation.scopes import device_tlb_pages
from harness.model.vtd.register_layouts import TranslationTableMode
from harness.model.vtd.root import ROOT_ENTRY
from harness.resources import ROOT

# Caching mode changes what software has to do, and nothing of the programs.
TARGETS = [target for target in INTEL_TARGETS if target.name != "intel-iommu/caching-mode"]


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, id=target.name, marks=() if target.plan == Plan() else pytest.mark.nightly)
        for target in TARGETS
    ],
)
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
    assert {target.plan.setup for target in INTEL_TARGETS} == {
        *(Legacy, DeviceTlbs, SecondStage, FirstStage, FirstStageFlags),
    }
    assert {target.arch for target in INTEL_TARGETS} == {"amd64"}


def test_flags_that_a_walk_sets_are_in_the_tables_and_have_names() -> None:
    program = Program.load(ROOT / "ci/divergences/vtd-dirty-flag.json")
    unit = make_unit(program.target, Coverage())
    leaf = 0x144008
    assert unit.structure_at(leaf) is None
    outcomes = [outcome for _, outcome in run(program, unit)]
    assert [type(outcome) for outcome in outcomes] == [Translated, Translated]
    entry = unit.memory.read_u64(leaf)
    assert (PAGE_ENTRY["A"].get(entry), PAGE_ENTRY["D"].get(entry)) == (1, 1)
    place = unit.structure_at(leaf + 4)
    assert place is not None
    assert (place.name, place.start, place.layout) == ("first-stage entry", leaf, PAGE_ENTRY)
    unit.reset()
    assert unit.structure_at(leaf) is None


def test_flags_are_left_to_the_hardware_and_few_programs_read() -> None:
    name, area = "intel-iommu/scalable-first-stage-flags", range(TABLES.start + 0x1000, TABLES.start + 0x5000)
    reads = 0
    for seed in range(20):
        program = make(name, seed)
        reads += any(isinstance(step, Dma) and step.kind is AccessKind.READ for step in program.steps)
        first = next(step for step in program.steps if isinstance(step, Store) and step.address in area)
        assert not PAGE_ENTRY["A"].get(int.from_bytes(first.data[:8], "little"))
    assert 0 < reads < 10


@pytest.mark.parametrize("shift", [12, 13, 14, 21, 30, 64])
def test_a_device_drops_the_whole_range_and_no_more(shift: int) -> None:
    writer = ProgramWriter("intel-iommu/device-iotlb", 0, 0)
    driver = Driver(writer, intel_registers(Plan(DeviceTlbs)), TranslationTableMode.LEGACY, queued=True)
    iova = 0x1234_5678_9000
    driver.invalidate_device_tlb(Random(0), 0x80, iova, shift)
    layout = DESCRIPTORS[DescriptorType.DEVICE_TLB]
    bits = int.from_bytes(writer.memory.read(QUEUES.start, 16), "little")
    pages = device_tlb_pages(layout["ADDR"].get(bits) << 12, larger=bool(layout["S"].get(bits)))
    first = iova >> shift << shift
    assert pages == (first, first + (1 << shift) - 1)


def test_devices_of_a_domain_are_described_alike() -> None:
    memory = MappedMemory(bytearray(RAM_BYTES), [Region(0, RAM_BYTES)])
    setup = DeviceTlbs(memory, intel_registers(Plan(DeviceTlbs)), Random(0), 4)
    table = setup.new_table()
    for entry, domain in zip(DEVICES[:4], (5, 5, 6, 6), strict=True):
        setup.attach(entry.requester, domain, table)
    context_table = ROOT_ENTRY["CTP"].get(memory.read_u64(setup.root))
    entries = [memory.read_u64(context_entry_address(context_table, each.requester)) for each in DEVICES[:4]]
    assert [CONTEXT_ENTRY["TT"].get(entry) for entry in entries] == [1, 1, 0, 0]


def test_interrupts_are_sent_while_a_reset_has_turned_their_remapping_off() -> None:
    programs = (make("intel-iommu/interrupts", seed) for seed in range(200))
    steps = next(program.steps for program in programs if any(isinstance(step, Reset) for step in program.steps))
    behind = steps[next(number for number, step in enumerate(steps) if isinstance(step, Reset)) :]
    command = next(number for number, step in enumerate(behind) if isinstance(step, Write) and step.offset == 0x18)
    assert any(isinstance(step, Dma) and step.iova >> 20 == 0xFEE for step in behind[:command])


def test_descriptors_stay_in_the_queue() -> None:
    program = make("intel-iommu/interrupts", 3)
    tails = [step.value for step in program.steps if isinstance(step, Write) and step.offset == 0x88]
    assert tails
    assert all(0 <= tail < 4096 and tail % 16 == 0 for tail in tails)
    stores = [step for step in program.steps if isinstance(step, Store) and step.address in QUEUES]
    assert stores
    assert any(isinstance(step, Dma) and step.kind is AccessKind.READ for step in program.steps)


@pytest.mark.parametrize("answer", [0, 0xFFFF_FFFF])
def test_a_machine_without_a_unit_is_refused(answer: int) -> None:
    class Nobody:
        command = "qemu-system-x86_64 -M q35"

        def read(self, address: int, size: int) -> int:
            return answer

    machine: Any = Nobody()
    memory = MappedMemory(bytearray(RAM_BYTES), [Region(0, RAM_BYTES)])
    with pytest.raises(VmmError, match="no VT-d unit at 0xfed90000: VER_REG reads as"):
        INTEL_TARGETS[0].bind(machine, memory, Coverage())


@pytest.mark.parametrize("seed", range(20))
def test_a_device_can_be_silenced_whatever_of_its_entries_was_spoilt(seed: int) -> None:
    random = Random(seed)
    memory = MappedMemory(bytearray(RAM_BYTES), [Region(0, RAM_BYTES)])
    requester = DEVICES[0].requester
    setup = FirstStage(memory, intel_registers(Plan(FirstStage)), random, 4)
    for _ in range(20):
        setup.pass_through(requester, 1)
        setup.spoil(random, requester)
        setup.silence(random, requester)
