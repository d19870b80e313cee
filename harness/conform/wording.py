"""What signatures call outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from harness.conform.request import Request
from harness.model.access import Bypassed, Fault, Outcome
from harness.model.engine import Interrupt, MsiOutcome

__all__ = ["after", "said"]


def after(requests: Sequence[Request]) -> str:
    """The one kind of fault that requests have had; nothing where there was none, or more than one kind."""
    faults = {request.outcome.code.name for request in requests if isinstance(request.outcome, Fault)}
    return f" after fault {min(faults)}" if len(faults) == 1 else ""


def said(outcome: Outcome | MsiOutcome) -> str:
    """An outcome, by its kind."""
    match outcome:
        case Fault(code=code):
            return f"fault {code.name}"
        case Bypassed(reason=reason):
            return f"bypass ({reason})"
        case Interrupt():
            return "interrupt"
        case _:
            return "translation"
