"""The vocabulary of every model: accesses, outcomes, splitting and joining."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.access import Access, AccessKind, Fault, Mapping, Outcome, Permissions, Translated
from harness.model.amdvi import AmdviEngine, AmdviRegisters
from harness.model.engine import (
    AccessCrossesPage,
    CommandResult,
    Engine,
    RawCommand,
    as_bits,
    check_within_page,
    split,
    translate_range,
)
from harness.model.explanation import Explanation, Step
from harness.model.memory import SparseMemory
from harness.model.riscv import RiscvIommuEngine, RiscvIommuRegisters
from harness.model.smmuv3 import Smmuv3Engine, Smmuv3Registers
from harness.model.smmuv3.capabilities import capabilities as smmuv3_capabilities
from harness.model.virtio_iommu import FaultReason, Request, Status, VirtioIommuConfig, VirtioIommuEngine
from harness.model.vtd import VtdEngine, VtdRegisters

PAGE = 4096


class PageMap:
    """An engine of one dict: page to page."""

    granule = PAGE

    def __init__(self, pages: dict[int, int]) -> None:
        self.pages = pages

    def translate(self, access: Access) -> Outcome:
        check_within_page(access, PAGE)
        page = self.pages.get(access.iova // PAGE)
        if page is None:
            return Fault(FaultReason.MAPPING, access.requester, access.iova & ~0xFFF, False)
        return Translated(page * PAGE + access.iova % PAGE, PAGE, Permissions.READ)

    def explain(self, access: Access) -> Explanation:
        return Explanation(access, (), self.translate(access))

    def submit(self, command: object) -> None:
        raise NotImplementedError

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        raise NotImplementedError


def read(iova: int, length: int) -> Access:
    return Access(requester=0x28, iova=iova, length=length, kind=AccessKind.READ)


@given(iova=st.integers(0, 1 << 40), length=st.integers(1, 5 * PAGE))
def test_the_pieces_of_a_split_access_are_the_access(iova: int, length: int) -> None:
    pieces = list(split(read(iova, length), PAGE))
    assert [piece.iova for piece in pieces[1:]] == [piece.iova + piece.length for piece in pieces[:-1]]
    assert (pieces[0].iova, sum(piece.length for piece in pieces)) == (iova, length)
    assert all(piece.iova // PAGE == (piece.iova + piece.length - 1) // PAGE for piece in pieces)


def test_a_zero_length_read_is_not_lost_by_splitting() -> None:
    assert list(split(read(0x1000, 0), PAGE)) == [read(0x1000, 0)]


def test_pages_that_follow_each_other_are_joined() -> None:
    pieces = translate_range(PageMap({1: 7, 2: 8, 3: 9}), read(0x1800, 0x2000))
    assert [(piece.access, piece.outcome) for piece in pieces] == [
        (read(0x1800, 0x2000), Translated(0x7800, PAGE, Permissions.READ))
    ]


def test_pages_that_lie_apart_are_not_joined() -> None:
    pieces = translate_range(PageMap({1: 7, 2: 5}), read(0x1000, 0x2000))
    assert [piece.outcome for piece in pieces] == [
        Translated(0x7000, PAGE, Permissions.READ),
        Translated(0x5000, PAGE, Permissions.READ),
    ]


def test_each_faulting_page_keeps_its_own_fault() -> None:
    pieces = translate_range(PageMap({}), read(0x1FFF, 2))
    assert [piece.outcome.iova for piece in pieces if isinstance(piece.outcome, Fault)] == [0x1000, 0x2000]


def test_a_page_after_a_fault_starts_anew() -> None:
    pieces = translate_range(PageMap({2: 7}), read(0x1000, 0x2000))
    assert [type(piece.outcome) for piece in pieces] == [Fault, Translated]


def test_an_access_that_crosses_a_page_is_refused_by_translate() -> None:
    with pytest.raises(AccessCrossesPage, match="translate_range"):
        PageMap({}).translate(read(0xFFF, 2))


def test_an_access_over_the_end_of_the_address_space_is_refused() -> None:
    with pytest.raises(SpecError, match="64-bit"):
        read((1 << 64) - 1, 2)


def test_a_requester_wider_than_32_bits_is_refused() -> None:
    with pytest.raises(SpecError, match="segment"):
        Access(requester=1 << 32, iova=0, length=1, kind=AccessKind.READ)


def test_an_explanation_is_aligned_text() -> None:
    steps = (Step("short", "spec 1", 0x10, 0x1, (("P", 1),)), Step("much longer", "spec 2.3", note="no memory there"))
    text = str(Explanation(read(0, 4), steps, Translated(0, PAGE, Permissions.READ))).splitlines()
    assert text[0] == "00:05.0 read of 4 bytes at 0x0"
    assert text[1].index("[spec 1]") == text[2].index("[spec 2.3]")
    assert text[3] == "  => translated to 0x0 (r-, 4 KiB mapping)"


def test_every_model_has_the_shape_of_an_engine() -> None:
    memory = SparseMemory()
    capabilities = smmuv3_capabilities()
    hardware: list[Engine[RawCommand, CommandResult]] = [
        VtdEngine(VtdRegisters(rtaddr=0, cap=0, ecap=0, gsts=0), memory),
        AmdviEngine(AmdviRegisters(device_table_base=0, control=0, extended_feature=0), memory),
        Smmuv3Engine(Smmuv3Registers(capabilities=capabilities, cr0=0, strtab_base=0, strtab_base_cfg=0), memory),
        RiscvIommuEngine(RiscvIommuRegisters(capabilities=0, ddtp=0), memory),
    ]
    virtio: Engine[Request, Status | None] = VirtioIommuEngine(VirtioIommuConfig(endpoints={}))
    assert [*(engine.granule for engine in hardware), virtio.granule] == [PAGE] * 5


@pytest.mark.parametrize("command", [bytes(15), bytes(17), 1 << 128, -1])
def test_a_command_of_another_length_is_refused(command: RawCommand) -> None:
    with pytest.raises(SpecError, match="128 bits"):
        as_bits(command, 16)


def test_a_command_is_the_same_as_bits_and_as_bytes() -> None:
    assert as_bits(bytes(range(16)), 16) == as_bits(int.from_bytes(bytes(range(16)), "little"), 16)
