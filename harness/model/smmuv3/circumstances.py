"""What about a request tells a difference from others of its kind, whatever its walk ends with, for signatures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.model.access import Access
from harness.model.explanation import Explanation, Step
from harness.model.invalidation import Invalidation
from harness.model.smmuv3.capabilities import ADDRESS_SIZES, Smmuv3Capabilities
from harness.model.smmuv3.structures import CD, STE

__all__ = ["with_circumstances"]

_VA_BITS = 48
_STAGE1, _STAGE2 = 0b001, 0b010  # of STE.Config


def with_circumstances(
    explanation: Explanation, capabilities: Smmuv3Capabilities, dropped: Sequence[Invalidation]
) -> Explanation:
    """An explanation whose first step says what is particular about the request, beside what the others say.

    Args:
        explanation: of the request.
        capabilities: of the SMMU.
        dropped: what has ended the last translation of the request that caches had.
    """
    found = list(_circumstances(explanation, capabilities))
    if any(_is_by_other_address(each, explanation.access) for each in dropped):
        found.append("dropped by another address of its page")
    if any(each.level is not None and each.space is None for each in dropped):
        found.append("dropped by level in every address space")
    if not found or not explanation.steps:
        return explanation
    first, *others = explanation.steps
    return replace(explanation, steps=(replace(first, reason="; ".join(found)), *others))


def _circumstances(explanation: Explanation, capabilities: Smmuv3Capabilities) -> Iterator[str]:
    if explanation.access.iova >> _VA_BITS:
        yield f"above bit {_VA_BITS - 1}"
    ste, cd = _value(explanation.steps, "STE"), _value(explanation.steps, "CD")
    if ste is not None and STE["S1CDMAX"].get(ste) and not capabilities.substream_id_bits:
        yield "S1CDMAX"
    if ste is not None and STE["S1STALLD"].get(ste) and not STE["CONFIG"].get(ste) & _STAGE1:
        yield "S1STALLD"
    if ste is not None and STE["CONFIG"].get(ste) & _STAGE2 and _input_bits(ste) > ADDRESS_SIZES[STE["S2PS"].get(ste)]:
        yield "S2T0SZ beyond S2PS"
    if cd is not None and not CD["EPD1"].get(cd):
        yield "TTB1"


def _input_bits(ste: int) -> int:
    """Width of the addresses that stage 2 of an STE translates."""
    return 64 - STE["S2T0SZ"].get(ste)


def _value(steps: Sequence[Step], name: str) -> int | None:
    """The bits of the STE or CD of a walk."""
    return next((step.value for step in steps if step.what.startswith(f"{name} [")), None)


def _is_by_other_address(invalidation: Invalidation, access: Access) -> bool:
    first, last = invalidation.first, invalidation.last
    return first is not None and last is not None and not first <= access.iova <= last
