"""`viommu run`: the test cases, through pytest and pytest-xdist."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import pytest
import typer
from rich.console import Console

from harness.case_runs import own_pytest
from harness.cli.options import KernelOption, QemuOption, iommu_kind, shown_progress
from harness.errors import SpecError
from harness.lab import Lab
from harness.resources import ROOT, TESTCASES
from harness.spec import Iommu, IommuKind, Machine
from harness.verdict import INTERRUPTED

__all__ = ["run"]

_NOT_JUDGED = 2
_PASSED_ON = (0, 1, _NOT_JUDGED, INTERRUPTED)


def run(
    cases: Annotated[list[str] | None, typer.Argument(help="Cases, as a report names them; all without any.")] = None,
    iommu: Annotated[
        list[str] | None, typer.Option(help="Only this IOMMU: intel, virtio or amd. May be repeated.")
    ] = None,
    qemu: QemuOption = None,
    kernel: KernelOption = None,
    k: Annotated[str, typer.Option("-k", metavar="EXPR", help="Only cases whose names match, as pytest's -k.")] = "",
    n: Annotated[int, typer.Option("-n", help="Machines at a time; 0 for as many as there are processors.")] = 0,
    move_to: Annotated[
        str | None,
        typer.Option(metavar="QEMU", help="Move running machines to this QEMU as well, in the cases about that."),
    ] = None,
    cold: Annotated[bool, typer.Option("--cold", help="Boot every machine; start none from a template.")] = False,
    report: Annotated[Path, typer.Option(help="Where results.json, report.html and junit.xml go.")] = Path("reports"),
) -> None:
    """Run the test cases and say whether the virtual IOMMU protects the guest.

    Exit code 0: all is as it should be; 1: something that was tested is wrong; 2: it could not be judged.
    """
    kinds = [iommu_kind(name) for name in iommu or []]
    if IommuKind.NONE in kinds:
        raise SpecError("the cases are about an IOMMU: --iommu none leaves nothing to test")
    # Everything is fetched here, once and with its progress shown, and not by each worker; and what was asked for by
    # name and cannot be had is refused before anything starts.
    with shown_progress() as progress:
        lab = Lab.open(qemu=qemu, kernel=kernel, progress=progress)
    for kind in kinds:
        lab.require(Machine(iommu=Iommu(kind=kind)))
    for case in cases or []:
        if not (ROOT / case.partition("::")[0]).exists():
            raise SpecError(
                f"there is no case {case}", hint="name it as a report does: testcases/test_groups.py::test_..."
            )
    at_a_time = n or os.cpu_count() or 1
    start = "booted" if cold else "started from a template"
    Console(stderr=True).print(
        f"Testing QEMU {lab.qemu.version} ({lab.qemu.name}) with Linux {lab.kernel.release} ({lab.kernel.name}) on "
        f"{lab.accelerator.accelerator}: each case has a machine of its own, {start}, "
        f"{at_a_time} at a time. Ctrl-C ends all.",
        highlight=False,
    )
    words = [*own_pytest(), "-qq", "--no-header", "--no-summary", "--viommu-live"]
    words += [f"--qemu={lab.qemu.name}", f"--kernel={lab.kernel.name}"]
    words += [f"--iommu={kind}" for kind in kinds]
    words += ["-k", k] if k else []
    words += ["--viommu-cold"] if cold else []
    words += [f"--move-to={move_to}"] if move_to else []
    words += ["-n", str(at_a_time), f"--viommu-report={report.absolute()}"]
    words += [str(ROOT / case) for case in cases] if cases else [f"--ignore={TESTCASES / 'harness'}", str(TESTCASES)]
    code = int(pytest.main(words))
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        asked = " ".join([*(cases or []), *(["-k", repr(k)] if k else [])])
        raise SpecError(f"no case matches {asked}", hint="`pytest --collect-only -q testcases` lists them")
    raise typer.Exit(code if code in _PASSED_ON else _NOT_JUDGED)
