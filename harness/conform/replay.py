"""Runs one program again."""

from __future__ import annotations

from dataclasses import dataclass

from harness.artifacts.cache import Cache
from harness.artifacts.progress import Progress, silent
from harness.artifacts.qemu import find_qemu
from harness.conform.campaign import capabilities_of
from harness.conform.divergence import Divergence
from harness.conform.program import Program
from harness.conform.session import Session
from harness.conform.targets.registry import find_target
from harness.errors import SpecError
from harness.model.unit import Coverage

__all__ = ["Replayed", "replay_program"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it.

    Attributes:
        version: of QEMU.
        divergences: where it and the model differ.
        dmas: how many were compared.
        unjudged: why the model could not go on; empty when it could.
        script: the program for qtest.
    """

    version: str
    divergences: tuple[Divergence, ...]
    dmas: int
    unjudged: str
    script: str


def replay_program(program: Program, qemu: str, progress: Progress = silent) -> Replayed:
    """Run it on a machine of its own.

    Args:
        program: names its target.
        qemu: a suite, "host" or a path.
        progress: told of what is fetched.

    Raises:
        SpecError: there is no such target or QEMU, or the program asks for what the machine does not have.
        Unsupported: this QEMU has no such IOMMU.
        VmmError: it does not start.
    """
    target = find_target(program.target)
    build = find_qemu(qemu, target.arch, Cache(), progress)
    with Session(target, build, capabilities_of(build, target), (), Coverage()) as session:
        result = session.run(program, thorough=True)
        if not result.divergences and not result.dmas and not program.steps:
            raise SpecError("the program has no steps: there is nothing to run")
        script = session.script(program, result.divergences[-1] if result.divergences else None)
        return Replayed(build.version, tuple(result.divergences), result.dmas, result.unjudged, script)
