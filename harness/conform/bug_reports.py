"""Writes a report for each mistake that a QEMU still has, once a script alone has shown it on that QEMU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.cache import Cache
from harness.artifacts.progress import Progress, silent
from harness.artifacts.qemu import QemuBuild, find_qemu
from harness.conform.bug_report import Reproduced, index_text, report_text
from harness.conform.campaign import capabilities_of
from harness.conform.command import Clock
from harness.conform.divergence import Kind
from harness.conform.page import worst_first
from harness.conform.program import Program
from harness.conform.reproducer import run_script
from harness.conform.session import Session, clock_of
from harness.conform.target import Target
from harness.conform.targets.registry import find_target
from harness.conform.triage import Known, KnownDivergences, Nature
from harness.errors import SpecError, Unsupported, VmmError
from harness.model.unit import Coverage

__all__ = ["Report", "write_reports"]

_BROKEN = frozenset({Kind.CRASH, Kind.HANG})


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was written, or was not.

    Attributes:
        entry: what it is about.
        why_not: what stood against it; empty where it was written.
    """

    entry: Known
    why_not: str = ""


def write_reports(
    known: KnownDivergences,
    targets: Sequence[Target],
    qemu: str,
    root: Path,
    directory: Path,
    progress: Progress = silent,
) -> Iterator[Report]:
    """Write `ID.md` and `ID.qtest` for each bug that is expected of a build, and `README.md`, which lists them.

    A report that is there of earlier and cannot be written any more is removed.

    Args:
        known: what is understood.
        targets: entries whose program is for another one are left alone.
        qemu: a suite, "host" or a path.
        root: what the paths in `known` start from.
        directory: where they go; made where it is not there.
        progress: told of what is fetched, and of each entry.

    Raises:
        SpecError, ArtifactError, HostError: there is no such QEMU.
        Unsupported: the build has no qtest accelerator: what is piped into it would run ahead of its clock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    entries = [entry for entry in known.entries if entry.kind is Nature.BUG]
    for number, entry in enumerate(entries):
        program = Program.load(root / entry.program)
        target = find_target(program.target)
        if target not in targets:
            continue
        build = find_qemu(qemu, target.arch, Cache(), progress)
        files = [directory / f"{entry.id}.{kind}" for kind in ("md", "qtest")]
        if not entry.concerns(target.name, build.version):
            _remove(files)
            continue
        progress(f"{entry.id} on QEMU {build.version}", number, len(entries))
        found = _reproduce(entry, program, target, build, known)
        if isinstance(found, Reproduced):
            texts = report_text(found), "".join(f"{line}\n" for line in found.script.commands)
            for path, text in zip(files, texts, strict=True):
                path.write_text(text, encoding="utf-8")
            yield Report(entry)
        else:
            _remove(files)
            yield Report(entry, found)
    written = [entry for entry in worst_first(known) if (directory / f"{entry.id}.md").is_file()]
    (directory / "README.md").write_text(index_text(written), encoding="utf-8")


def _remove(files: Sequence[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)


def _reproduce(
    entry: Known, program: Program, target: Target, build: QemuBuild, known: KnownDivergences
) -> Reproduced | str:
    """See it in a session, and again by a script alone; or why that cannot be."""
    capabilities = capabilities_of(build, target)
    if clock_of(capabilities) is not Clock.QTEST:
        raise Unsupported(
            f"QEMU {build.version} has no qtest accelerator", hint="write reports with a build that has it"
        )
    try:
        with Session(target, build, capabilities, known.of(target.name, build.version), Coverage()) as session:
            seen = session.run(program, thorough=True).divergences
            divergence = next((each for each in seen if entry.describes(each.signature)), None)
            if divergence is None:
                return f"{entry.program} does not show it on QEMU {build.version}"
            # QEMU can have broken at a step that was not done to its end.
            steps = program.steps if divergence.kind in _BROKEN else program.steps[: divergence.step + 1]
            script = session.qtest_script(program.with_steps(steps), divergence)
    except (SpecError, VmmError) as error:
        return error.message
    answers = run_script(build, script)
    if not answers.show(divergence):
        last = answers.lines[-1] if answers.lines else "nothing"
        return f"its script alone does not show it: the last answer of QEMU {build.version} was {last}"
    return Reproduced(entry, build.version, target.name, divergence, script, answers)
