"""What each engine says of tables that its builder wrote, against what a real QEMU then does.

The engine is built from the registers of the live device; the tables lie in that machine's memory; an edu device does
the DMA. virtio-iommu is not here: it has no tables to look at, and the cases that boot a guest try it.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from vmm_bench import REQUESTER, Bench, StartBench, arm_bench, pc_bench, riscv_bench
from vmm_iommu import DATA, TABLES, Mapper, Rig, Stages
from vmm_iommu_virt import RiscvRig, Smmuv3Rig
from vmm_iommu_x86 import AmdviRig, VtdRig

from harness.model.access import Access, AccessKind, Fault, MemoryWrite, Permissions, Translated
from harness.model.engine import Engine
from harness.model.memory import MappedMemory, Region
from harness.model.vtd import VtdEngine, VtdFaultReason, VtdFaultRecord
from harness.model.vtd.register_layouts import ECAP_REG

READ, WRITE = AccessKind.READ, AccessKind.WRITE
READ_ONLY = Permissions.READ
READ_WRITE = Permissions.READ | Permissions.WRITE
SMALL, LARGE = 4 << 10, 2 << 20
_GUARD = 64
_IN_PAGE = 0x120
# A device moves this much in one piece: one access, one fault.
_WORD = 4
_MENDED = "a finding is gone, and may be taken off the list in docs/findings.md"


@dataclass(frozen=True)
class Setup:
    """Which machine a rig stands on: the suite of its QEMU, what starts it, the words of its IOMMU, and the rig."""

    suite: str
    start: StartBench
    words: tuple[str, ...]
    rig: Callable[[Bench], Rig]


def _vtd(suite: str, options: str = "", *, scalable: bool = False, first_stage: bool = False) -> Setup:
    words = ("-device", f"intel-iommu,intremap=off,aw-bits=48{options}")
    return Setup(suite, pc_bench, words, lambda bench: VtdRig(bench, scalable=scalable, first_stage=first_stage))


def _smmu(stages: Stages) -> Setup:
    return Setup("sid", arm_bench, ("-global", "arm-smmuv3.stage=nested"), lambda bench: Smmuv3Rig(bench, stages))


def _riscv(stages: Stages) -> Setup:
    return Setup("sid", riscv_bench, ("-device", "riscv-iommu-pci,addr=1"), lambda bench: RiscvRig(bench, stages))


_FIRST, _SECOND = Stages(True, False, 1), Stages(False, True, 2)
_FIRST_OF_BOTH, _SECOND_OF_BOTH = Stages(True, True, 1), Stages(True, True, 2)
SETUPS = {
    "VT-d legacy": _vtd("trixie"),
    "VT-d second stage": _vtd("sid", ",scalable-mode=on,fsts=off", scalable=True),
    "VT-d first stage": _vtd("sid", ",scalable-mode=on,fsts=on", scalable=True, first_stage=True),
    "AMD-Vi host": Setup("sid", pc_bench, ("-device", "amd-iommu,dma-remap=on"), AmdviRig),
    "SMMUv3 stage 1": _smmu(_FIRST),
    "SMMUv3 stage 2": _smmu(_SECOND),
    "SMMUv3 stage 1 of both": _smmu(_FIRST_OF_BOTH),
    "SMMUv3 stage 2 of both": _smmu(_SECOND_OF_BOTH),
    "RISC-V first stage": _riscv(_FIRST),
    "RISC-V second stage": _riscv(_SECOND),
    "RISC-V first stage of both": _riscv(_FIRST_OF_BOTH),
    "RISC-V second stage of both": _riscv(_SECOND_OF_BOTH),
}


@contextmanager
def started(name: str, parent: Path) -> Iterator[Rig]:
    """The rig of that name, with its machine for as long as the context lasts."""
    setup = SETUPS[name]
    with setup.start(parent, setup.suite, *setup.words) as bench:
        yield setup.rig(bench)


@pytest.fixture(scope="module", params=list(SETUPS))
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="vt-") as parent, started(request.param, Path(parent)) as found:
        yield found


def _access(kind: AccessKind, iova: int, count: int = _WORD) -> Access:
    return Access(requester=REQUESTER, iova=iova, length=count, kind=kind)


@dataclass
class Trial:
    """A rig with fresh tables, and three places: input addresses, and pages of memory that they may lead to."""

    rig: Rig
    mapper: Mapper

    def __post_init__(self) -> None:
        self.memory = self.rig.bench.memory
        self.source_iova, self.target_iova, self.other_iova = (self.rig.window + n * LARGE for n in range(3))
        self.source, self.target, self.other = (self.rig.bench.place(DATA + n * LARGE) for n in range(3))

    def map(self, iova: int, address: int, permissions: Permissions, size: int = SMALL) -> None:
        self.mapper.map(iova, address, size, permissions)

    def says(self, kind: AccessKind, iova: int, count: int = _WORD) -> Translated | Fault:
        """What the model says, of the registers and tables as they are now."""
        outcome = self.rig.engine().translate(_access(kind, iova, count))
        assert isinstance(outcome, Translated | Fault)
        return outcome

    def load(self, iova: int, count: int = _WORD) -> None:
        """The device reads memory into its buffer."""
        self.rig.bench.edu.dma_to_device(iova, 0, count)

    def store(self, iova: int, count: int = _WORD) -> None:
        """The device writes its buffer to memory."""
        self.rig.bench.edu.dma_from_device(0, iova, count)

    def fill(self, address: int, count: int) -> bytes:
        """Put bytes there that stand nowhere else, none of them zero; returns them."""
        data = bytes(random.Random(address).choices(range(1, 256), k=count))
        self.memory.write(address, data)
        return data

    def tables(self) -> bytes:
        """All tables of the IOMMU."""
        return self.memory.read(self.rig.bench.place(TABLES.start), len(TABLES))

    def expect_flags(self, engine: Engine[Any, Any], kind: AccessKind, iova: int) -> tuple[MemoryWrite, ...]:
        """An access changes in the tables what an engine says, and nothing else; returns that."""
        said = engine.translate(_access(kind, iova))
        assert isinstance(said, Translated), said
        image = bytearray(self.tables())
        expected = MappedMemory(image, (Region(self.rig.bench.place(TABLES.start), len(TABLES)),))
        for write in said.writes:
            write.apply(expected)
        (self.load if kind is READ else self.store)(iova)
        assert self.tables() == image
        return said.writes

    def expect_blocked(self, kind: AccessKind, iova: int, behind: int) -> None:
        """The model has it that an access faults: so it does, with that record, and does nothing to what lies behind.

        Args:
            kind: read or write.
            iova: what the device asks for.
            behind: address of the memory that it shall not reach.
        """
        secret = self.fill(behind - _GUARD, 2 * _GUARD)
        said = self.says(kind, iova)
        assert isinstance(said, Fault), said
        assert said.record is not None
        self.load(self.source_iova + _IN_PAGE)
        if kind is READ:
            self.load(iova)
            records = self.rig.take_records()
            # What the device has now it writes where anyone may look.
            self.store(self.target_iova)
            assert self.memory.read(self.target, _WORD) != self.memory.read(behind, _WORD)
        else:
            self.store(iova)
            records = self.rig.take_records()
        assert self.memory.read(behind - _GUARD, 2 * _GUARD) == secret
        assert [self.rig.agreed(record) for record in records] == [self.rig.agreed(said.record)]


def _trial(rig: Rig, mapper: Mapper) -> Trial:
    """With a payload that the device may read, and a page that it may write."""
    found = Trial(rig, mapper)
    found.map(found.source_iova, found.source, READ_ONLY)
    found.map(found.target_iova, found.target, READ_WRITE)
    found.fill(found.source, SMALL)
    rig.take_records()
    return found


@pytest.fixture
def trial(rig: Rig) -> Trial:
    return _trial(rig, rig.point_at_tables())


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_mapped_page_is_where_the_model_says(trial: Trial, size: int) -> None:
    trial.map(trial.other_iova, trial.other, READ_WRITE, size)
    iova, address, count = trial.other_iova + size - 0x538, trial.other + size - 0x538, 48
    before = trial.fill(address - _GUARD, count + 2 * _GUARD)
    read = trial.says(READ, trial.source_iova + _IN_PAGE, count)
    written = trial.says(WRITE, iova, count)
    assert isinstance(read, Translated), read
    assert isinstance(written, Translated), written
    assert (read.address, read.permissions & READ_WRITE) == (trial.source + _IN_PAGE, READ_ONLY)
    assert (written.address, written.size) == (address, size)
    payload = trial.memory.read(read.address, count)
    trial.load(trial.source_iova + _IN_PAGE, count)
    trial.store(iova, count)
    after = trial.memory.read(written.address - _GUARD, count + 2 * _GUARD)
    assert after == before[:_GUARD] + payload + before[-_GUARD:]
    assert trial.rig.take_records() == []


@pytest.mark.parametrize("kind", [READ, WRITE])
def test_a_page_that_is_not_mapped_is_blocked_with_the_record_that_the_model_says(
    trial: Trial, kind: AccessKind
) -> None:
    trial.expect_blocked(kind, trial.other_iova + _IN_PAGE, trial.other + _IN_PAGE)


def test_a_write_to_a_read_only_page_is_blocked_with_the_record_that_the_model_says(trial: Trial) -> None:
    trial.map(trial.other_iova, trial.other, READ_ONLY)
    trial.expect_blocked(WRITE, trial.other_iova + _IN_PAGE, trial.other + _IN_PAGE)
    # What a read of it brings goes through.
    secret = trial.memory.read(trial.other + _IN_PAGE, _WORD)
    trial.load(trial.other_iova + _IN_PAGE)
    trial.store(trial.target_iova)
    assert trial.memory.read(trial.target, _WORD) == secret
    assert trial.rig.take_records() == []


def test_a_page_that_was_unmapped_and_invalidated_is_blocked_with_the_record_that_the_model_says(trial: Trial) -> None:
    trial.map(trial.other_iova, trial.other, READ_WRITE)
    trial.load(trial.source_iova + _IN_PAGE)
    trial.store(trial.other_iova + _IN_PAGE)
    assert trial.memory.read(trial.other + _IN_PAGE, _WORD) == trial.memory.read(trial.source + _IN_PAGE, _WORD)
    trial.mapper.unmap(trial.other_iova, SMALL)
    trial.rig.invalidate(trial.other_iova)
    trial.expect_blocked(WRITE, trial.other_iova + _IN_PAGE, trial.other + _IN_PAGE)


def test_a_page_that_was_moved_and_invalidated_is_where_the_model_says_now(trial: Trial) -> None:
    trial.load(trial.source_iova + _IN_PAGE)
    trial.store(trial.target_iova)
    trial.mapper.unmap(trial.target_iova, SMALL)
    trial.map(trial.target_iova, trial.other, READ_WRITE)
    trial.rig.invalidate(trial.target_iova)
    left = trial.fill(trial.target, SMALL)
    said = trial.says(WRITE, trial.target_iova)
    assert isinstance(said, Translated), said
    assert said.address == trial.other
    trial.fill(trial.other, _WORD)
    trial.store(trial.target_iova)
    assert trial.memory.read(said.address, _WORD) == trial.memory.read(trial.source + _IN_PAGE, _WORD)
    assert trial.memory.read(trial.target, SMALL) == left


def test_dma_changes_in_the_tables_what_the_model_says(trial: Trial) -> None:
    for kind, iova in ((READ, trial.source_iova), (WRITE, trial.target_iova)):
        trial.expect_flags(trial.rig.engine(), kind, iova)


def test_dma_sets_the_accessed_and_dirty_flags_of_vt_d_first_stage_tables_that_the_model_says(tmp_path: Path) -> None:
    with started("VT-d first stage", tmp_path) as rig:
        assert isinstance(rig, VtdRig)
        trial = _trial(rig, rig.point_at_tables(preset_flags=False))
        # QEMU 11.1 sets flags though ECAP_REG.SMPWCS says that no walk snoops, where SFS.9 (VT-d 7.1.3) has a fault: it
        # does what hardware with that capability does.
        registers = rig.registers()
        engine = VtdEngine(replace(registers, ecap=registers.ecap | ECAP_REG["SMPWCS"].mask), trial.memory)
        accessed = trial.expect_flags(engine, READ, trial.source_iova)
        assert len(accessed) == trial.mapper.table.levels
        dirty = trial.expect_flags(engine, WRITE, trial.target_iova)
        leaf = trial.mapper.table.entry_address(trial.target_iova, 1)
        assert [write.address for write in dirty][-1] == leaf
        assert rig.take_records() == []


# What follows is wrong in QEMU 11.1, and right in the model.


def test_an_invalidation_by_guest_address_that_leaves_two_stage_translations_is_found_out(tmp_path: Path) -> None:
    """QEMU, hw/riscv/riscv-iommu.c, `riscv_iommu_iot_inval_gscid_iova`: compares the guest physical address in
    IOTINVAL.GVMA with the IOVA of what it has made of two stages, where all that maps to that guest address must go
    (RISC-V IOMMU 4.1.1).
    """
    with started("RISC-V second stage of both", tmp_path) as rig:
        assert isinstance(rig, RiscvRig)
        trial = _trial(rig, rig.point_at_tables())
        trial.load(trial.source_iova)
        trial.store(trial.target_iova)
        trial.mapper.unmap(trial.target_iova, SMALL)
        rig.invalidate_second_stage(trial.target_iova, by_address=True)
        before = trial.fill(trial.target, _WORD)
        assert isinstance(trial.says(WRITE, trial.target_iova), Fault)
        trial.store(trial.target_iova)
        if rig.take_records():
            pytest.skip(f"{_MENDED}, F-7: this QEMU ends what two stages gave")
        assert trial.memory.read(trial.target, _WORD) == trial.memory.read(trial.source, _WORD) != before
        rig.invalidate_second_stage(trial.target_iova, by_address=False)
        trial.expect_blocked(WRITE, trial.target_iova, trial.target)


def test_a_first_stage_that_is_as_wide_as_the_second_stage_s_aw_is_found_out(tmp_path: Path) -> None:
    """QEMU, hw/i386/intel_iommu.c, `vtd_iova_limit`: takes AW of the PASID table entry, 0 on hardware without a second
    stage (VT-d 9.6), for the width of first-stage addresses, which FSPM says: those from 2^29 on are not canonical.
    """
    with started("VT-d first stage", tmp_path) as rig:
        trial = _trial(rig, rig.point_at_tables())
        iova = 1 << 29
        trial.map(iova, trial.other, READ_WRITE)
        trial.fill(trial.other, _WORD)
        assert isinstance(trial.says(WRITE, iova), Translated)
        trial.load(trial.source_iova)
        trial.store(iova)
        records = rig.take_records()
        if not records:
            pytest.skip(f"{_MENDED}: this QEMU takes the width of the first stage from FSPM")
        assert [record.reason for record in records if isinstance(record, VtdFaultRecord)] == [
            VtdFaultReason.NOT_CANONICAL
        ]
