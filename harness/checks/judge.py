"""Where findings become a failure: the one way in which a case says that what it saw is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from harness.report.record import Finding

__all__ = ["Mismatch", "judge"]

_MOST = 200


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

    Of more than 200 findings the last says how many more there were: a guest can make up as many as it likes.

    Raises:
        Mismatch: there is.
    """
    __tracebackhide__ = True
    findings = iter(findings)
    found = list(islice(findings, _MOST))
    if more := sum(1 for _ in findings):
        found.append(Finding(subject="everything else", expected="no finding", seen=f"{more} findings more"))
    if found:
        raise Mismatch(tuple(found))
