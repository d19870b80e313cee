"""Which fault codes the tests reach: a code that an engine declares and no test asserts fails the suite."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from harness.model.access import Fault

__all__ = ["assert_every_code_is_reached", "assert_fault"]


def assert_fault(outcome: object, code: Enum, *, stage: int | None = None, level: int | None = None) -> Fault:
    """The outcome is a fault with that code; stage and level are compared where they are given."""
    assert isinstance(outcome, Fault), outcome
    assert outcome.code is code, outcome
    assert stage is None or outcome.stage == stage, outcome
    assert level is None or outcome.level == level, outcome
    return outcome


def assert_every_code_is_reached(codes: type[Enum], files: Iterable[Path]) -> None:
    """Every member stands in an `assert...(...)` call, or an `assert` statement, of a test function in these files.

    Members that stand in the parameters of a test count too.
    """
    reached: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                reached |= _members(node, codes.__name__)
    assert sorted(member.name for member in codes if member.name not in reached) == []


def _members(test: ast.FunctionDef, enum: str) -> set[str]:
    asserting = [node for node in ast.walk(test) if isinstance(node, ast.Assert) or _is_assertion(node)]
    return {
        node.attr
        for part in (*test.decorator_list, *asserting)
        for node in ast.walk(part)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == enum
    }


def _is_assertion(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("assert")
