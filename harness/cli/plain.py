"""Accesses, walks and outcomes as JSON has them: addresses and bits in hexadecimal, counts as numbers."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any

from harness.model.access import Bypassed, Fault, Outcome, Translated, format_requester
from harness.model.engine import Interrupt, MsiOutcome, PostedInterrupt
from harness.model.explanation import Explanation, Step

__all__ = ["outcome", "plain", "step", "walk"]

_KINDS = {
    Translated: "translated",
    Bypassed: "bypassed",
    Fault: "fault",
    Interrupt: "interrupt",
    PostedInterrupt: "posted",
}


def walk(explanation: Explanation) -> dict[str, Any]:
    """A whole walk: access, steps, outcome."""
    return {
        "access": plain(explanation.access),
        "steps": list(map(step, explanation.steps)),
        "outcome": outcome(explanation.outcome),
    }


def step(seen: Step) -> dict[str, Any]:
    """One thing that the hardware looks at."""
    shown = {name: getattr(seen, name) for name in ("what", "section", "address", "value", "size", "note")}
    values: dict[str, Any] = {name: _value(name, value) for name, value in shown.items()}
    return {**values, "fields": {name: hex(value) for name, value in seen.fields}}


def outcome(found: Outcome | MsiOutcome) -> dict[str, Any]:
    """What becomes of an access or an interrupt: its kind, and its fields."""
    values = {"kind": _KINDS[found.__class__], **plain(found)}
    if isinstance(found, Fault):
        code = found.code.value
        values |= {"code": found.code.name, "number": code if isinstance(code, int) else None}
        values["record"] = None if found.record is None else str(found.record)
    return values


def plain(value: Any) -> dict[str, Any]:
    """A dataclass by its fields."""
    return {entry.name: _value(entry.name, getattr(value, entry.name)) for entry in fields(value)}


_COUNTS = frozenset({"size", "length", "stage", "level", "number"})


def _value(name: str, value: Any) -> Any:
    """A value as JSON has it: addresses and bits in hexadecimal, since readers of JSON need not keep 64 bits."""
    match value:
        case None | bool():
            return value
        case _ if name == "requester":
            return format_requester(value)
        case _ if name in ("permissions", "attributes"):
            return str(value) if name == "permissions" else [flag.name for flag in value]
        case Enum():
            return value.value if isinstance(value.value, str) else value.name.lower()
        case int():
            return value if name in _COUNTS else hex(value)
        case tuple():
            return [_value(name, part) for part in value]
        case _ if hasattr(value, "__dataclass_fields__") and name in ("notify", "writes"):
            return plain(value)
        case bytes():
            return value.hex()
        case _:
            return str(value)
