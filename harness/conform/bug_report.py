"""The text of a report for QEMU's issue tracker: one mistake, with a reproducer that was run and what it gave.

Its headings are those of QEMU's own template for bugs (.gitlab/issue_templates/bug.md).
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.conform.divergence import Divergence, Kind, Probe
from harness.conform.export import QtestScript
from harness.conform.reproducer import Answers
from harness.conform.triage import Effect, Known

__all__ = ["Reproduced", "index_text", "report_text"]

_MATTERS = {
    Effect.ISOLATION: (
        "A guest relies on its IOMMU to keep a device away from memory that it has not mapped for it: one that it hands"
        " to user space or to a guest of its own, and one that is broken or hostile. Here such a device gets there, and"
        " nothing tells the guest."
    ),
    Effect.INTERRUPTS: (
        "A guest relies on interrupt remapping to keep a device from sending interrupts that it has not given it: one"
        " that writes to the interrupt address range by DMA can raise any vector otherwise, on any processor. Here such"
        " a message arrives."
    ),
    Effect.ENDS: (
        "Whoever programs the IOMMU in a guest, which can be a nested guest or a driver with a mistake, takes the whole"
        " virtual machine down with it."
    ),
    Effect.TRANSLATION: "A driver that sets the IOMMU up by the specification finds that its devices' DMA is lost.",
    Effect.REPORT: (
        "Fault records are all that a guest learns of DMA that was blocked. A driver that acts on them, or a developer"
        " who reads them, is told what did not happen, or nothing."
    ),
    Effect.REGISTER: "A driver that is written by the specification and works on hardware meets something else here.",
}

_SOURCES = {
    "amd-iommu": "hw/i386/amd_iommu.c",
    "arm-smmuv3": "hw/arm/smmuv3.c, hw/arm/smmu-common.c",
    "intel-iommu": "hw/i386/intel_iommu.c",
    "riscv-iommu": "hw/riscv/riscv-iommu.c",
    "virtio-iommu": "hw/virtio/virtio-iommu.c",
}

_INLINE = 120  # commands of a script that stand in the report itself
_DETAIL_LINES = 40
_STDERR_LINES = 12


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A mistake that was seen on a build, and that a script alone showed there.

    Attributes:
        entry: what is known of it.
        version: of QEMU.
        target: name of what the script is for.
        divergence: as it was seen.
        script: that shows it,
        answers: and what QEMU gave.
    """

    entry: Known
    version: str
    target: str
    divergence: Divergence
    script: QtestScript
    answers: Answers

    @property
    def device(self) -> str:
        """QEMU's name of the IOMMU."""
        return _device(self.entry)


def report_text(reproduced: Reproduced) -> str:
    """The report, in Markdown."""
    entry, script, answers = reproduced.entry, reproduced.script, reproduced.answers
    detail = reproduced.divergence.detail.splitlines()
    if reproduced.divergence.kind is Kind.HANG:
        del detail[1:]  # backtraces of this one process, in libraries without symbols
    return (
        _environment()
        .get_template("bug_report.md.j2")
        .render(
            entry=entry,
            reproduced=reproduced,
            text=" ".join(entry.text.split()),
            matters=_MATTERS[entry.effect],
            source=_SOURCES.get(reproduced.device, ""),
            host=platform.machine(),
            command=shlex.join(script.words),
            commands=script.commands if len(script.commands) <= _INLINE else (),
            what=reproduced.divergence.signature.split(": ", 1)[-1],
            detail=detail[:_DETAIL_LINES],
            expected=[_answer(probe) for probe in script.probes],
            asked=[probe.command for probe in script.probes],
            seen=answers.lines[-1:],
            told=reproduced.divergence.told,
            unanswered=script.commands[len(answers.lines)] if len(answers.lines) < len(script.commands) else "",
            last_words=[line for line in answers.stderr.splitlines() if line.strip()][-_STDERR_LINES:],
        )
    )


def index_text(entries: Sequence[Known]) -> str:
    """A table of reports, in Markdown."""
    rows = [(entry, _device(entry)) for entry in entries]
    return _environment().get_template("bug_reports.md.j2").render(rows=rows)


def _device(entry: Known) -> str:
    return entry.targets[0].partition("/")[0]


def _answer(probe: Probe) -> str:
    """What QEMU must answer."""
    size = {"b": 1, "w": 2, "l": 4, "q": 8}[probe.command.split()[0][-1]]
    settled = (1 << 8 * size) - 1
    text = f"OK {probe.wanted & probe.known:#018x}"
    return text if probe.known & settled == settled else f"{text} in the bits {probe.known & settled:#x}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("harness.conform"),
        autoescape=False,  # it is Markdown, of texts from the repository and from QEMU
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
