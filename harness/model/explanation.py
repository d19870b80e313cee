"""A walk, step by step, for a person: what was read where, what its fields are, which section says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.model.access import Access, Outcome
from harness.model.invalidation import CachedEntry

__all__ = ["Explanation", "Step", "step_lines"]

_WIDEST_SHOWN = 1 << 128


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the hardware looks at.

    Attributes:
        what: its name, as the specification has it ("root-entry [bus 0x00]").
        section: specification and section.
        address: where it was read; None for a register or a state of the device.
        value: the bits that were read; None where memory did not answer, or there are none.
        fields: field names, as the specification has them, with their values.
        note: what follows from it, where the fields do not say.
        reason: why the walk ends here with a fault, where the code of that has several reasons; or what about this
            step tells the outcome of the walk from others of its kind.
        size: bytes that were read at `address`.
        cached: under which tags the architecture lets an implementation cache what was read, or would be read; None
            where it may not, or where it is no entry of a table.
        sought: tags of the translations that are looked up by what was read, where it says so: of the last step that
            has some, they are those of a walk that ended before its first page table.
    """

    what: str
    section: str
    address: int | None = None
    value: int | None = None
    fields: tuple[tuple[str, int], ...] = ()
    note: str = ""
    size: int = 8
    cached: CachedEntry | None = None
    reason: str = ""
    sought: CachedEntry | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A whole walk. `str()` gives it as aligned text, one line for each step."""

    access: Access
    steps: tuple[Step, ...]
    outcome: Outcome

    def __str__(self) -> str:
        return "\n".join((str(self.access), *step_lines(self.steps), f"  => {self.outcome}"))


def step_lines(steps: Sequence[Step]) -> list[str]:
    """Steps as aligned text, a line each."""
    rows = [
        (
            step.what,
            "" if step.address is None else f"@{step.address:#x}",
            "" if step.value is None or step.value >= _WIDEST_SHOWN else f"= {step.value:#x}",
            " ".join(f"{name}={value:#x}" for name, value in step.fields),
            " ".join(filter(None, (step.note, step.reason))),
            f"[{step.section}]",
        )
        for step in steps
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines
