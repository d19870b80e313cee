"""Makes a program smaller while it still shows the same divergence: delta debugging over its steps, then in each.

Parts of the list are left out, first large ones, then small ones (Zeller and Hildebrandt, Simplifying and Isolating
Failure-Inducing Input, 2002).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from harness.conform.program import Dma, Program, Step, Store

__all__ = ["shrink"]

_WORD = 8


def shrink(program: Program, shows: Callable[[Program], bool], *, seconds: float = 30.0) -> Program:
    """The smallest program that was found and that `shows` says yes to.

    Args:
        program: one that it says yes to.
        shows: runs a program, and says whether the divergence is there.
        seconds: after which the smallest so far is good enough.
    """
    end = time.monotonic() + seconds

    def try_(steps: tuple[Step, ...]) -> bool:
        return time.monotonic() < end and shows(program.with_steps(steps))

    steps = program.steps
    while time.monotonic() < end:
        before = steps
        steps = _without_parts(steps, try_)
        steps = _with_smaller_steps(steps, try_)
        if steps == before:
            break
    return replace(program, steps=steps, seed=program.seed if steps == program.steps else -1)


def _without_parts(steps: tuple[Step, ...], shows: Callable[[tuple[Step, ...]], bool]) -> tuple[Step, ...]:
    """Leave out as many steps as can be."""
    size = max(1, len(steps) // 2)
    while True:
        at = max(0, len(steps) - size)  # from the end: what comes last is needed least by the rest
        while True:
            shorter = steps[:at] + steps[at + size :]
            if len(shorter) < len(steps) and shows(shorter):
                steps = shorter
            if at == 0:
                break
            at = max(0, at - size)
        if size == 1:
            return steps
        size = max(1, size // 2)


def _with_smaller_steps(steps: tuple[Step, ...], shows: Callable[[tuple[Step, ...]], bool]) -> tuple[Step, ...]:
    """Make each step smaller, where that can be."""
    for number in range(len(steps) - 1, -1, -1):
        for smaller in _smaller(steps[number]):
            changed = (*steps[:number], *smaller, *steps[number + 1 :])
            if shows(changed):
                steps = changed
                break
    return steps


def _smaller(step: Step) -> Iterator[tuple[Step, ...]]:
    """What may stand in a step's place."""
    match step:
        case Dma(length=length) if length > 4:
            yield (replace(step, length=4),)
        case Store(address, data) if len(data) > _WORD:
            words = [(at, data[at : at + _WORD]) for at in range(0, len(data), _WORD)]
            filled = [(at, word) for at, word in words if any(word)]
            if filled and len(filled) < len(words):
                first, last = filled[0][0], filled[-1][0] + _WORD
                if (first, last) != (0, len(data)):
                    yield (Store(address + first, data[first:last]),)
                if len(filled) <= len(words) // 2:
                    yield tuple(Store(address + at, word) for at, word in filled)
            middle = len(data) // 2 & -_WORD
            yield (Store(address, data[:middle]),)
            yield (Store(address + middle, data[middle:]),)
        case _:
            return
