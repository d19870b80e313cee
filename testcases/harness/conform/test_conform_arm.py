"""Programs for arm-smmuv3: what they reach, and which builds they are for; without a QEMU."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
from fake_builds import build
from model_alone import Ran, arm_capabilities, make, make_unit, run, run_all

from harness.conform.board import ARM
from harness.conform.command import RAM_BYTES
from harness.conform.layout import DEVICES
from harness.conform.memory import DATA, HOT_DATA, QUEUES
from harness.conform.program import Dma, Store, Write
from harness.conform.targets.arm import ARM_TARGETS
from harness.conform.targets.arm_commands import COMMAND_ERRORS, answers, refused_for_features
from harness.conform.targets.arm_flaws import WEIGHTS, Oddity
from harness.conform.targets.arm_programs import Generation
from harness.conform.targets.arm_streams import make_streams
from harness.conform.targets.arm_universe import UNREACHABLE, universe
from harness.errors import Unsupported
from harness.model.access import BypassReason, Fault
from harness.model.invalidation import EntryKind
from harness.model.memory import MappedMemory, Region
from harness.model.smmuv3 import Smmuv3CommandError, Smmuv3Opcode, Smmuv3Registers
from harness.model.smmuv3.capabilities import capabilities
from harness.model.smmuv3.commands import COMMANDS, Commands
from harness.model.smmuv3.register_map import REGISTERS
from harness.model.smmuv3.registers import CR0, GERROR
from harness.model.unit import Coverage

_OP = Smmuv3Opcode
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


def test_requests_that_stage_1_translates_have_all_of_its_addresses_and_others_those_of_the_oas() -> None:
    oas = 1 << arm_capabilities("arm-smmuv3/nested").address_bits
    nested = [step.iova for seed in SEEDS for step in make("arm-smmuv3/nested", seed).steps if isinstance(step, Dma)]
    assert sum(iova >= oas for iova in nested) > 0.05 * len(nested)
    generation = Generation("n", 1, Random(1), arm_capabilities("arm-smmuv3/stage2"))
    generation.make_tables()
    for entry in DEVICES:
        generation.attach(entry)
    generation.is_on = True
    for _ in range(10):
        generation.burst()
    translated = {entry.id for entry in DEVICES if entry.requester not in generation.passing}
    steps = generation.writer.program().steps
    assert all(step.iova < oas for step in steps if isinstance(step, Dma) and step.device in translated)


@pytest.mark.parametrize("loses_some", [False, True])
def test_streams_behind_bridges_alone_may_have_no_place(loses_some: bool) -> None:
    has = arm_capabilities("arm-smmuv3/stage1")
    lost = []
    for seed in range(40):
        memory = MappedMemory(bytearray(RAM_BYTES), [Region(ARM.ram, RAM_BYTES)])
        streams = make_streams(Random(seed), memory, has, loses_some=loses_some)
        lost.append([each for each in DEVICES if not streams.attach(each.requester, None, None, vmid=0)])
    assert all(bool(each) is loses_some for each in lost)
    assert all(entry.bus for each in lost for entry in each)
    assert len({len(each) for each in lost}) > 2 * loses_some


@pytest.mark.parametrize(("leads_outside", "fault"), [(False, "C_BAD_STREAMID"), (True, "F_STE_FETCH")])
def test_what_becomes_of_a_stream_without_a_place_is_reached(leads_outside: bool, fault: str) -> None:
    name = "arm-smmuv3/stage1"
    made = (Generation(name, seed, Random(seed), arm_capabilities(name)) for seed in range(500))
    generation = next(
        each
        for each in made
        if each.has(Oddity.LOST_STREAMS)
        and any("L2PTR" in fields for fields in each.streams.bad_level1.values()) is leads_outside
    )
    outcomes = [outcome for _, outcome in run(generation.program(), make_unit(name, Coverage()))]
    assert fault in {outcome.code.name for outcome in outcomes if isinstance(outcome, Fault)}


def test_programs_acknowledge_events_that_no_memory_took() -> None:
    generation = Generation("n", 2, Random(2), arm_capabilities("arm-smmuv3/nested"))
    generation.oddities.discard(Oddity.OVERFLOW)
    generation.make_tables()
    for entry in DEVICES:
        generation.attach(entry)
    generation.set_up()
    generation.turn_on()
    generation.lose_events()
    unit = make_unit("arm-smmuv3/nested", Coverage())
    for _ in run(generation.writer.program(), unit):
        pass
    lost = GERROR["EVENTQ_ABT_ERR"].mask
    errors, acknowledged = (unit.read(REGISTERS[name].start, 4) for name in ("SMMU_GERROR", "SMMU_GERRORN"))
    assert errors.value & errors.known & lost
    assert acknowledged.value & lost


def test_of_all_cds_one_at_a_time_is_made_wrong() -> None:
    generation = Generation("n", 3, Random(3), arm_capabilities("arm-smmuv3/nested"))
    generation.make_tables()
    for entry in DEVICES:
        generation.attach(entry)
    bad = []
    for _ in range(20):
        generation.change_context()
        bad.append(generation.bad_context)
    assert all(bad[::2])
    assert not any(bad[1::2])


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
    # Bits that the SMMU has not belong to no universe.
    reached = {entry for entry in coverage.counts if entry[0] != "register"}
    assert reached <= everything
    assert not coverage.counts.keys() & UNREACHABLE.keys()


def test_stages_have_commands_of_their_own() -> None:
    stage1, stage2, nested = (
        {what for kind, what in universe(arm_capabilities(f"arm-smmuv3/{name}")) if kind == "command"}
        for name in ("stage1", "stage2", "nested")
    )
    assert "CMD_TLBI_NH_VA leaf" in stage1 - stage2
    assert "CMD_TLBI_S2_IPA" in stage2 - stage1
    assert "CMD_TLBI_S2_IPA refused" in stage1 - nested
    taken = {what for what in stage1 | stage2 if not what.endswith("refused")}
    assert taken == {what for what in nested if not what.endswith("refused")}


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


@pytest.mark.parametrize("name", NAMES)
def test_commands_that_are_to_be_refused_are_refused(name: str) -> None:
    has = arm_capabilities(name)
    refused = [Commands(Smmuv3Registers(capabilities=has)).submit(each) for each in refused_for_features(has)]
    assert {each.error for each in refused} == {Smmuv3CommandError.CERROR_ILL}
    assert all(Commands(Smmuv3Registers(capabilities=has)).submit(each).error for each in COMMAND_ERRORS)


def test_what_answers_devices_that_ask_nothing_is_taken_by_an_smmu_that_has_it() -> None:
    has = capabilities(ATS=1, PRI=1, STALL_MODEL=0b00)
    assert not answers(capabilities(STALL_MODEL=0b01))
    kinds = set()
    for command in answers(has):
        result = Commands(Smmuv3Registers(capabilities=has, cr0=CR0["SMMUEN"].mask)).submit(command)
        assert result.error is None
        assert all(each.kinds == {EntryKind.DEVICE_TLB} for each in result.invalidations)
        kinds.add(command & 0xFF)
    assert kinds == {_OP.CMD_ATC_INV, _OP.CMD_PRI_RESP, _OP.CMD_RESUME, _OP.CMD_STALL_TERM}


def test_what_builds_before_6_0_get_wrong_is_left_out_of_their_programs() -> None:
    has = arm_capabilities("arm-smmuv3/stage1")
    queues = range(ARM.ram + QUEUES.start, ARM.ram + QUEUES.start + 0x1_0000)
    found = []
    for seed in range(4):
        program = Generation("arm-smmuv3/stage1", seed, Random(seed), has, resets=False).program()
        for step in program.steps:
            if isinstance(step, Store) and step.address in queues:
                found += [int.from_bytes(step.data[at : at + 16], "little") for at in range(0, len(step.data), 16)]
    streams = [each for each in found if each & 0xFF == _OP.CMD_CFGI_STE_RANGE]
    pages = [each for each in found if each & 0xFF == _OP.CMD_TLBI_NH_VAA]
    assert max(COMMANDS[_OP.CMD_CFGI_STE_RANGE]["RANGE"].get(each) for each in streams) == has.stream_id_bits - 1
    assert {COMMANDS[_OP.CMD_TLBI_NH_VAA]["TG"].get(each) for each in pages} == {0}
