"""Programs run by the model alone: a unit for each target, as QEMU's devices say they are, and what comes of DMAs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random

from harness.conform.board import ARM, RISCV
from harness.conform.command import RAM_BYTES
from harness.conform.layout import DEVICES
from harness.conform.program import Dma, Program, Read, Reset, Store, Write
from harness.conform.target import Bound
from harness.conform.targets.intel import INTEL_TARGETS
from harness.conform.targets.intel_plan import Plan
from harness.conform.targets.registry import TARGETS, find_target
from harness.model.access import Access, Bypassed, Fault, Outcome, Translated
from harness.model.amdvi import AmdviRegisters
from harness.model.amdvi.register_fields import CAPABILITY_HEADER
from harness.model.amdvi.unit import AmdviUnit
from harness.model.engine import NotModelled
from harness.model.memory import MappedMemory, Region
from harness.model.riscv import RiscvIommuRegisters
from harness.model.riscv import registers as riscv
from harness.model.riscv.unit import RiscvIommuUnit
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.registers import Smmuv3Registers
from harness.model.smmuv3.unit import Smmuv3Unit
from harness.model.unit import Coverage, Unit
from harness.model.vtd import ExtendedCapabilities, VtdRegisters
from harness.model.vtd.register_layouts import CAP_REG, TranslationTableMode
from harness.model.vtd.registers import capabilities as vtd_capabilities
from harness.model.vtd.unit import VtdUnit

REQUESTERS = {entry.id: entry.requester for entry in DEVICES}

# What QEMU has up to 11.1: PreFSup, PPRSup, GTSup, IASup, GASup, HESup, HATS=10b, GATS=10b.
AMD_REGISTERS = AmdviRegisters(
    device_table_base=0,
    control=0,
    extended_feature=0x29D3,
    capability_header=CAPABILITY_HEADER.encode(
        {"CapId": 0xF, "CapType": 3, "IotlbSup": 1, "HtTunnel": 1, "NpCache": 1, "EFRSup": 1, "CapExt": 1}
    ),
)
# IDR0 as QEMU 11.1 has it, without S1P and S2P, and what each target has of them.
_IDR0 = 0xD44_1018
_ARM_STAGES = {"arm-smmuv3/stage1": 0b10, "arm-smmuv3/stage2": 0b01, "arm-smmuv3/nested": 0b11}
_RISCV_COMMON = frozenset({"ATS", "PD8", "DBG", "HPM"})
_RISCV_FIRST = frozenset({"Sv39", "Sv48", "Sv57"})
_RISCV_SECOND = frozenset({"Sv39x4", "Sv48x4", "Sv57x4", "MSI_FLAT", "MSI_MRIF"})
_RISCV_STAGES = {
    "riscv-iommu/first-stage": _RISCV_FIRST,
    "riscv-iommu/second-stage": _RISCV_SECOND,
    "riscv-iommu/nested": _RISCV_FIRST | _RISCV_SECOND,
}
_INTEL_PLANS = {target.name: target.plan for target in INTEL_TARGETS}


def arm_capabilities(name: str) -> Smmuv3Capabilities:
    """Of the SMMU of a target."""
    return Smmuv3Capabilities(idr0=_IDR0 | _ARM_STAGES[name], idr1=0x273_0010, idr3=0x1414, idr5=0x74)


def riscv_registers(name: str) -> RiscvIommuRegisters:
    """Of the device of a target."""
    features = riscv.capabilities(
        features=_RISCV_COMMON | _RISCV_STAGES[name], interrupt_generation=riscv.InterruptGeneration.MSI
    )
    return RiscvIommuRegisters(capabilities=features, ddtp=1)


def intel_registers(plan: Plan) -> VtdRegisters:
    """Of an intel-iommu that has what the plan needs."""
    scalable = plan.mode is TranslationTableMode.SCALABLE
    extended = ExtendedCapabilities(
        queued_invalidation=True,
        interrupt_remapping=plan.messages,
        extended_interrupts=plan.messages,
        pass_through=True,
        scalable_mode=scalable,
        second_stage=scalable and not plan.first_stage,
        first_stage=scalable and plan.first_stage,
        device_tlbs=plan.device_tlbs,
        walk_coherency=plan.sets_flags,
        max_index_mask=15,
        iotlb_registers=0xF0,
    )
    cap = vtd_capabilities(levels=frozenset({3, 4}), guest_address_width=48, max_address_mask=18)
    return VtdRegisters(
        rtaddr=0,
        cap=cap | CAP_REG.encode({"FRO": 0x22}),
        ecap=extended.encode(),
        gsts=0,
        ver=0x10,
        host_address_width=48,
    )


def make_unit(name: str, coverage: Coverage) -> Unit:
    """The unit of a target, with the memory of its board."""
    match name.split("/")[0]:
        case "amd-iommu":
            return AmdviUnit(AMD_REGISTERS, _memory(0), coverage=coverage)
        case "arm-smmuv3":
            registers = Smmuv3Registers(capabilities=arm_capabilities(name))
            return Smmuv3Unit(registers, _memory(ARM.ram), coverage=coverage)
        case "riscv-iommu":
            return RiscvIommuUnit(riscv_registers(name), _memory(RISCV.ram), coverage=coverage, vectors=4)
        case _:
            at_reset = intel_registers(_INTEL_PLANS[name])
            return VtdUnit(at_reset, _memory(0), coverage=coverage, compresses=True)


NAMES = tuple(each.name for each in TARGETS if each.name.split("/")[0] in {"amd-iommu", "arm-smmuv3", "riscv-iommu"})
NAMES += tuple(_INTEL_PLANS)
"""The targets that `make_unit` has a unit of."""


def make(name: str, seed: int) -> Program:
    """A program for a target."""
    return find_target(name).generate(seed, Random(seed), Bound(make_unit(name, Coverage()), 0))


@dataclass
class Ran:
    """What came of programs.

    Attributes:
        coverage: of all.
        kinds: how many requests had which kind of outcome.
        bypassed: DMAs that went untranslated, with their outcomes.
        unjudged: of programs that the model could not judge to their end, why.
    """

    coverage: Coverage = field(default_factory=Coverage)
    kinds: Counter[type[Outcome]] = field(default_factory=Counter)
    bypassed: list[tuple[Dma, Bypassed]] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    def share(self, *kinds: type[Outcome]) -> float:
        """How many of all requests had such an outcome, 0 to 1."""
        return sum(self.kinds[kind] for kind in kinds) / self.kinds.total()


def run(program: Program, unit: Unit) -> Iterator[tuple[Dma, Outcome]]:
    """Run a program to its end; each DMA, and the first outcome that it may have."""
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
            case Dma(device=id, kind=kind, iova=iova, length=length):
                length = min(length, unit.granule - iova % unit.granule)
                access = Access(requester=REQUESTERS[id], iova=iova, length=length, kind=kind)
                outcome = unit.outcomes(access)[0]
                unit.settle(access, outcome)
                yield step, outcome
            case _:
                pass


def run_all(name: str, seeds: Iterable[int]) -> Ran:
    """Run programs of a target, each on a unit of its own; requests have the first outcome that they may have."""
    ran = Ran()
    for seed in seeds:
        try:
            for step, outcome in run(make(name, seed), make_unit(name, ran.coverage)):
                ran.kinds[type(outcome)] += 1
                if isinstance(outcome, Fault):
                    ran.coverage.note("fault", outcome.code.name)
                elif isinstance(outcome, Translated):
                    ran.coverage.note("page", f"{outcome.size:#x}")
                else:
                    ran.coverage.note("bypass", outcome.reason.name)
                    ran.bypassed.append((step, outcome))
        except NotModelled as error:
            ran.unjudged.append(error.message)
    return ran


def _memory(base: int) -> MappedMemory:
    return MappedMemory(bytearray(RAM_BYTES), [Region(base, RAM_BYTES)])
