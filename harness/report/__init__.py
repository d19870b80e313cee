"""One results record in; console, HTML and JUnit out."""

from __future__ import annotations

from harness.report.console import print_run
from harness.report.record import Artifact, Case, Evidence, Finding, Run
from harness.report.write import Written, write_all

__all__ = ["Artifact", "Case", "Evidence", "Finding", "Run", "Written", "print_run", "write_all"]
