"""Where findings become a failure: the one way in which a case says that what it saw is wrong."""

from __future__ import annotations

from collections.abc import Iterable

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

    Of more than 200 findings the last says how many more there were: a guest can make up as many as it likes. Where
    looking for more fails, what was found counts all the same, and the last says what happened: after a write that
    arrived where it must not, memory is not as the next step needs it.

    Raises:
        Mismatch: there is.
    """
    __tracebackhide__ = True
    found: list[Finding] = []
    more = 0
    try:
        for finding in findings:
            if len(found) < _MOST:
                found.append(finding)
            else:
                more += 1
    except Exception as error:
        if not found:
            raise
        seen = f"{type(error).__name__}: {error}"
        found.append(Finding(subject="the rest of the case", expected="it can be judged", seen=seen))
        raise Mismatch(tuple(found)) from error
    if more:
        found.append(Finding(subject="everything else", expected="no finding", seen=f"{more} findings more"))
    if found:
        raise Mismatch(tuple(found))
