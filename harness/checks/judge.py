"""Where findings become a failure: the one way in which a case says that what it saw is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from harness.report.record import Finding

__all__ = ["Mismatch", "judge"]


class Mismatch(AssertionError):
    """Expectations and observations differ.

    Attributes:
        findings: each difference.
    """

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = findings


def judge(findings: Iterable[Finding]) -> None:
    """End the case if there is anything to find.

    Raises:
        Mismatch: there is.
    """
    __tracebackhide__ = True
    found = tuple(findings)
    if found:
        raise Mismatch(found)
