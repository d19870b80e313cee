"""What about a request its explanation says, whatever it ends with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.model.access import Access, AccessKind, Fault
from harness.model.explanation import Explanation, Step
from harness.model.invalidation import EntryKind, Invalidation
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.circumstances import with_circumstances
from harness.model.smmuv3.events import Smmuv3EventType
from harness.model.smmuv3.structures import CD, STE

_HAS = Smmuv3Capabilities(idr0=0, idr1=0, idr3=0, idr5=0)
_STAGE1, _STAGE2 = 0b101, 0b110


def _reason(
    *,
    iova: int = 0x1000,
    ste: dict[str, int] | None = None,
    cd: dict[str, int] | None = None,
    dropped: tuple[Invalidation, ...] = (),
    capabilities: Smmuv3Capabilities = _HAS,
) -> str:
    access = Access(requester=1, iova=iova, length=4, kind=AccessKind.WRITE)
    steps = [
        Step("SMMU_CR0", "IHI 0070 6.3.9"),
        Step("STE [0x1]", STE.section, 0x1000, STE.encode({"V": 1, "CONFIG": _STAGE1, **(ste or {})})),
    ]
    if cd is not None:
        steps.append(Step("CD [0x0]", CD.section, 0x2000, CD.encode({"V": 1, **cd}), reason="no table"))
    fault = Fault(Smmuv3EventType.F_TRANSLATION, 1, iova, is_write=True)
    first, *others = with_circumstances(Explanation(access, tuple(steps), fault), capabilities, dropped).steps
    assert [step.reason for step in others] == [step.reason for step in steps[1:]]
    return first.reason


@pytest.mark.parametrize(
    ("iova", "reason"), [((1 << 48) - 4, ""), (1 << 48, "above bit 47"), (1 << 63, "above bit 47")]
)
def test_an_address_of_more_than_48_bits_is_named(iova: int, reason: str) -> None:
    assert _reason(iova=iova) == reason


def test_s1cdmax_is_named_where_there_are_no_substreams() -> None:
    assert _reason(ste={"S1CDMAX": 1}) == "S1CDMAX"
    assert not _reason(ste={"S1CDMAX": 1}, capabilities=replace(_HAS, idr1=4 << 6))


def test_s1stalld_is_named_where_there_is_no_stage_1() -> None:
    assert _reason(ste={"S1STALLD": 1, "CONFIG": _STAGE2, "S2PS": 5, "S2T0SZ": 25}) == "S1STALLD"
    assert not _reason(ste={"S1STALLD": 1, "CONFIG": _STAGE1})


@pytest.mark.parametrize(("encoding", "is_named"), [(0, True), (2, True), (3, False), (5, False)])
def test_an_input_range_of_stage_2_above_its_output_size_is_named(encoding: int, is_named: bool) -> None:
    fields = {"S2T0SZ": 64 - 42, "S2PS": encoding}
    assert _reason(ste={**fields, "CONFIG": _STAGE2}) == ("S2T0SZ beyond S2PS" if is_named else "")
    assert not _reason(ste={**fields, "CONFIG": _STAGE1})


def test_a_context_with_an_upper_half_is_named() -> None:
    assert _reason(cd={"EPD1": 0}) == "TTB1"
    assert not _reason(cd={"EPD1": 1})
    assert not _reason()


@pytest.mark.parametrize(("iova", "reason"), [(0x1000, ""), (0x2000, "dropped by another address of its page")])
def test_what_was_dropped_by_another_address_is_named(iova: int, reason: str) -> None:
    page = Invalidation(kinds=frozenset({EntryKind.LEAF}), first=0x1000, last=0x1FFF)
    everything = Invalidation(kinds=frozenset({EntryKind.LEAF}))
    assert _reason(iova=iova, dropped=(page,)) == reason
    assert not _reason(iova=iova, dropped=(everything,))


def test_all_of_it_is_said() -> None:
    assert _reason(iova=1 << 50, ste={"S1CDMAX": 2}, cd={"EPD1": 0}) == "above bit 47; S1CDMAX; TTB1"
