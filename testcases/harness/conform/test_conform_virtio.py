"""The targets of virtio-iommu-pci, and the programs for them; without a QEMU."""

from __future__ import annotations

import struct
from functools import cache
from random import Random

import pytest

from harness.conform.board import PC
from harness.conform.command import RAM_BYTES, Clock, MachineWords
from harness.conform.export import qtest_script
from harness.conform.layout import DEVICES
from harness.conform.program import Dma, Program, Read, Reset, Store, Write
from harness.conform.targets.virtio import VIRTIO_TARGETS
from harness.conform.targets.virtio_programs import Generation
from harness.conform.targets.virtio_universe import UNREACHABLE, universe
from harness.model.access import Access, Fault
from harness.model.engine import NotModelled
from harness.model.memory import MappedMemory, Region
from harness.model.unit import Coverage
from harness.model.virtio.negotiation import TransportFeatures
from harness.model.virtio.pci_registers import PciIdentity, PciLayout, QueueIdentity, Structure
from harness.model.virtio_iommu import Attach, Features, RegionKind, ReservedRegion
from harness.model.virtio_iommu.unit import VirtioIommuUnit
from harness.model.virtio_iommu.wire import encode_request

_SEEDS = range(6)
_THOROUGH_SEEDS = [seed for seed in range(130) if Random(seed).random() < 0.1]
_LAYOUT = PciLayout(
    4, Structure(0, 0x1000), Structure(0x3000, 0x1000), Structure(0x1000, 0x1000), Structure(0x2000, 0x1000), 4
)
_TRANSPORT = (
    TransportFeatures.VERSION_1
    | TransportFeatures.INDIRECT_DESC
    | TransportFeatures.EVENT_IDX
    | TransportFeatures.RING_RESET
)
_OWN = Features(sum(Features)) & ~Features.BYPASS
_IDENTITY = PciIdentity(int(_OWN) | int(_TRANSPORT), (QueueIdentity(256, 0), QueueIdentity(256, 1)))
_SPACE = struct.pack("<QQQIIIB3x", 0xFFFF_FFFF_FFFF_F000, 0, (1 << 39) - 1, 0, 0xFFFF_FFFF, 512, 1)
_APIC = ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, RegionKind.MSI)


def _unit() -> VirtioIommuUnit:
    """A device such as QEMU's."""
    memory = MappedMemory(bytearray(RAM_BYTES), [Region(PC.ram, RAM_BYTES)])
    endpoints = {entry.requester: (_APIC,) for entry in DEVICES}
    return VirtioIommuUnit(_LAYOUT, _IDENTITY, _SPACE, memory, coverage=Coverage(), endpoints=endpoints)


@cache
def _program(seed: int) -> Program:
    return Generation("virtio-iommu/pc", seed, Random(seed), _unit(), PC.ram).program()


def _run(program: Program, unit: VirtioIommuUnit) -> tuple[int, int]:
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


class TestPrograms:
    """What is generated."""

    def test_a_seed_always_gives_the_same_program(self) -> None:
        assert _program.__wrapped__(3) == _program(3)
        assert _program(3) != _program(4)

    def test_stores_lie_in_memory(self) -> None:
        for seed in _SEEDS:
            for step in _program(seed).steps:
                if isinstance(step, Store):
                    assert PC.ram <= step.address
                    assert step.address + len(step.data) <= PC.ram + RAM_BYTES

    def test_nothing_is_done_that_is_not_specified_and_much_goes_through(self) -> None:
        dmas = through = 0
        for seed in _SEEDS:
            try:
                one = _run(_program(seed), _unit())
            except NotModelled as error:
                pytest.fail(f"seed {seed}: {error}")
            dmas, through = dmas + one[0], through + one[1]
        assert dmas > 100 * len(_SEEDS)
        assert through > dmas * 0.3

    def test_every_request_is_both_granted_and_refused(self) -> None:
        unit = _unit()
        for seed in range(12):
            _run(_program(seed), unit)
        wanted = {("command", f"{name} status OK") for name in ("ATTACH", "DETACH", "MAP", "UNMAP", "PROBE")}
        wanted |= {("command", f"{name} status NOENT") for name in ("ATTACH", "DETACH", "MAP", "UNMAP")}
        assert wanted <= unit.coverage.counts.keys()


class TestThorough:
    """The programs that try what QEMU gets wrong."""

    def test_they_reach_what_others_go_around(self) -> None:
        unit = _unit()
        for seed in _THOROUGH_SEEDS:
            _run(_program(seed), unit)
        wanted = {
            "ATTACH, endpoint of another segment",
            "ATTACH, reserved",
            "ATTACH, again the only endpoint",
            "MAP read write mmio",
            "MAP read write, not aligned",
            "MAP read write, beyond input_range",
            "MAP read write, over RESV_MEM",
            "MAP read write, beyond physical addresses",
            "UNMAP, reserved",
            "PROBE status INVAL",
            "request of no type",
            "request without a head",
        }
        assert wanted <= {name for kind, name in unit.coverage.counts if kind == "command"}
        assert ("format", "malformed chain") in unit.coverage.counts

    def test_they_ask_for_queues_that_no_device_can_have(self) -> None:
        select = _LAYOUT.common_field("queue_select")
        steps = [step for seed in _THOROUGH_SEEDS for step in _program(seed).steps]
        assert {step.value for step in steps if isinstance(step, Write) and step.offset == select} >= {1024, 0xFFFF}

    def test_a_write_of_the_byte_before_a_mapping_is_looked_at_alone(self) -> None:
        found = 0
        for seed in _THOROUGH_SEEDS:
            steps = _program(seed).steps
            for number, step in enumerate(steps):
                if isinstance(step, Dma) and step.length == 1:
                    found += 1
                    around = (steps[number - 1], steps[number + 1])
                    assert not any(isinstance(each, Dma) for each in around)
        assert found


def _machine_of(*steps: Store, names_devices: bool) -> list[str]:
    """Ids of the devices that the command line of a program's script has."""
    words = MachineWords(PC, (), names_devices=names_devices)
    script = qtest_script(Program("virtio-iommu/pc", -1, steps), words, 0, Clock.QTEST, (), binary="qemu")
    return [word.split(",")[1].removeprefix("id=") for word in script.words if word.startswith("edu,")]


@pytest.mark.parametrize("segment", [0, 1])
def test_a_script_has_the_endpoints_that_its_requests_name(segment: int) -> None:
    requester = next(entry.requester for entry in DEVICES if entry.id == "edu9")
    attach = Store(PC.ram, encode_request(Attach(domain=1, endpoint=segment << 16 | requester)))
    # edu8 is the first function of the slot.
    assert _machine_of(attach, names_devices=True) == ["edu8", "edu9"]
    assert _machine_of(attach, names_devices=False) == []


def test_what_cannot_be_reached_is_part_of_what_there_is() -> None:
    assert UNREACHABLE.keys() <= universe(_IDENTITY)


def test_features_that_are_not_offered_are_not_there_to_be_covered() -> None:
    poor = PciIdentity(int(Features.MAP_UNMAP | TransportFeatures.VERSION_1), _IDENTITY.queues)
    missing = universe(_IDENTITY) - universe(poor)
    assert {("register", "bypass 1"), ("register", "queue_reset"), ("format", "indirect table")} <= missing


def test_there_is_a_target_for_each_board() -> None:
    assert {(target.name, target.arch) for target in VIRTIO_TARGETS} == {
        ("virtio-iommu/pc", "amd64"),
        ("virtio-iommu/arm", "arm64"),
        ("virtio-iommu/arm-regions", "arm64"),
    }
