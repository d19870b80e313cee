"""Makes programs out of programs that reached something: what the generator's grammar would not come to."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from harness.conform.program import Dma, Program, Reset, Step, Store, Write

__all__ = ["mutate"]

_MOST_CHANGES = 4
_IN_DATA = 0.3  # how often bits are turned over in what is stored: most of it is addresses, and leads nowhere


def mutate(program: Program, random: Random) -> Program:
    """The program with a few changes: bits turned over in data, values and addresses, steps left out or done again."""
    steps = list(program.steps)
    for _ in range(random.randint(1, _MOST_CHANGES)):
        if steps:
            _change(steps, random)
    return Program(program.target, -1, tuple(steps))


def _change(steps: list[Step], random: Random) -> None:
    at = random.randrange(len(steps))
    draw = random.random()
    if draw < 0.1:
        del steps[at]
    elif draw < 0.2:
        steps.insert(random.randrange(len(steps) + 1), steps[at])
    elif draw < 0.23:
        steps.insert(at, Reset())
    else:
        steps[at] = _changed(steps[at], random)


def _changed(step: Step, random: Random) -> Step:
    match step:
        case Store(data=data) if random.random() < _IN_DATA:
            bits = int.from_bytes(data, "little") ^ 1 << random.randrange(8 * len(data))
            return replace(step, data=bits.to_bytes(len(data), "little"))
        case Write(size=size, value=value):
            return replace(step, value=value ^ 1 << random.randrange(8 * size))
        case Dma(iova=iova, length=length):
            return replace(step, iova=min(iova ^ 1 << random.randrange(64), (1 << 64) - length))
        case _:
            return step
