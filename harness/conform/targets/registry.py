"""Every target there is."""

from __future__ import annotations

from collections.abc import Sequence

from harness.checks.known_issues import matches
from harness.conform.target import Target
from harness.conform.targets.amd import AMD_TARGETS
from harness.conform.targets.arm import ARM_TARGETS
from harness.conform.targets.intel import INTEL_TARGETS
from harness.conform.targets.riscv import RISCV_TARGETS
from harness.conform.targets.virtio import VIRTIO_TARGETS
from harness.errors import SpecError

__all__ = ["TARGETS", "find_target", "select"]

TARGETS: tuple[Target, ...] = (
    *INTEL_TARGETS,
    *AMD_TARGETS,
    *ARM_TARGETS,
    *RISCV_TARGETS,
    *VIRTIO_TARGETS,
)
"""In the order in which they are shown."""


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        SpecError: there is none.
    """
    for target in TARGETS:
        if target.name == name:
            return target
    raise SpecError(f"there is no target {name!r}", hint=f"there are {', '.join(each.name for each in TARGETS)}")


def select(patterns: Sequence[str]) -> tuple[Target, ...]:
    """The targets whose names are of one of the patterns, in which `*` stands for anything.

    Raises:
        SpecError: a pattern is of none.
    """
    for pattern in patterns:
        if not any(matches(target.name, [pattern]) for target in TARGETS):
            raise SpecError(f"no target is {pattern!r}", hint=f"there are {', '.join(each.name for each in TARGETS)}")
    return tuple(target for target in TARGETS if matches(target.name, patterns))
