"""The results record: what a run saw and said, as data. Every report is written from it and from nothing else.

A record is JSON, `schema` first, so that a reader of another version can say so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from harness.errors import SpecError
from harness.verdict import INTERRUPTED, Verdict, exit_code

__all__ = ["SCHEMA", "Artifact", "Case", "Evidence", "Finding", "Run"]

SCHEMA = "viommu-harness/results/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Something that was used: a QEMU build, a kernel, a package of the guest image.

    Attributes:
        role: `qemu` and `kernel`, one each; `qemu-package`, `kernel-package` and `guest-package`, what came with them.
        name: package or file name.
        version: package version, or the version that the file itself reports.
        source: suite it came from, or the path the user gave.
        sha256: of the file that was used (package file, or the file at the path).
    """

    role: str
    name: str
    version: str
    source: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An expectation and an observation that differ.

    Attributes:
        subject: what was looked at ("iommu group of 0000:00:04.0").
        expected: what the model says must be seen.
        seen: what was seen.
        citation: specification and section, or kernel or QEMU file, that the expectation comes from.
        detail: the model's walk, or other evidence that belongs to this finding alone.
    """

    subject: str
    expected: str
    seen: str
    citation: str = ""
    detail: str = ""

    def __str__(self) -> str:
        source = f" ({self.citation})" if self.citation else ""
        return f"{self.subject}: expected {self.expected}, saw {self.seen}{source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was kept of one machine of a case.

    Attributes:
        spec: the machine's spec as JSON.
        command: the command line that runs the same machine again.
        console: the last lines of the serial console.
        qmp_log: the last QMP messages, one a line, with the time since start in seconds.
        vmm_stderr: what QEMU wrote to stderr.
        trace: the last trace events, where they were recorded.
        directory: where the whole files are kept; empty when nothing was.
        origin: how it was started: booted, or from which template.
    """

    spec: str
    command: str
    console: str = ""
    qmp_log: str = ""
    vmm_stderr: str = ""
    trace: str = ""
    directory: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case and what is said of it.

    Attributes:
        id: pytest node id.
        claim: the sentence that it checks.
        claim_ids: ids of `docs/reference/claims.md` that it shows ("CH-4").
        iommu: kind of IOMMU ("intel"), empty for cases without a machine.
        verdict: see `harness.verdict`.
        seconds: set-up, call and tear-down together.
        message: why it is not a pass: first lines of the failure, reason of the skip, known issue's id and title.
        findings: what differed, in full.
        machines: evidence of each machine that it started; in full for a case that did not pass.
        rerun: the command that runs this case alone, with the same kernel and QEMU.
    """

    id: str
    claim: str
    verdict: Verdict
    seconds: float
    claim_ids: tuple[str, ...] = ()
    iommu: str = ""
    message: str = ""
    findings: tuple[Finding, ...] = ()
    machines: tuple[Evidence, ...] = ()
    rerun: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole run.

    Attributes:
        harness_version: of this package.
        started: ISO 8601, UTC.
        seconds: from start to end.
        host: machine, cores, memory, accelerator, as plain text by name.
        artifacts: everything used, to the package version.
        cases: in the order they were collected.
        interrupted: by Ctrl-C: there may be cases that are not here.
    """

    schema: str = SCHEMA
    harness_version: str
    started: str
    seconds: float
    host: dict[str, str] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    cases: tuple[Case, ...] = ()
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0, 1 or 2, as `harness.verdict.exit_code` has it; 130 where the run was interrupted."""
        return INTERRUPTED if self.interrupted else exit_code(case.verdict for case in self.cases)

    def to_json(self) -> str:
        """The record as indented JSON; a lone surrogate, as in a path that is not UTF-8, becomes `?`."""
        text = json.dumps(msgspec.to_builtins(self), indent=2, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote.

        Raises:
            SpecError: not a results record, or one of another schema.
        """
        try:
            header: Any = msgspec.json.decode(text)
            schema = header.get("schema") if isinstance(header, dict) else None
            if schema != SCHEMA:
                raise SpecError(
                    f"this is not a results record of schema {SCHEMA}: it says {schema!r}",
                    hint="give the results.json that `viommu run --report DIR` wrote, with the same version",
                )
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise SpecError(f"this is not a results record: {error}") from error
