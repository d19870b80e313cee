"""Programs: what is done to an IOMMU, as data.

A program is a list of steps for one target, run from a reset of the machine. Steps are few and low: memory is stored
to, registers are written and read, devices do DMA, things are reset and plugged. What they mean to an architecture only
the generator of the program knows, and the unit of the model that runs it too. So any program can be cut, changed,
written to a file, and turned into qtest commands.

In JSON a step is an object with `op` and its fields; numbers are hexadecimal texts, data the bytes in their order::

    {"op": "store", "address": "0x200000", "data": "0310200000000000"}
    {"op": "write", "offset": "0x18", "size": "0x4", "value": "0x80000000"}
    {"op": "read", "offset": "0x1c", "size": "0x4"}
    {"op": "dma", "device": "edu3", "kind": "write", "iova": "0x1000", "length": "0x4", "offset": "0x100"}
    {"op": "reset"}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, TypeAlias

from harness.errors import SpecError
from harness.model.access import AccessKind

__all__ = ["SCHEMA", "Dma", "Plug", "Program", "Read", "Reset", "Step", "Store", "Unplug", "Write"]

SCHEMA = "viommu-harness/program/1"


@dataclass(frozen=True, slots=True)
class Store:
    """Software stores `data` in memory, from physical address `address` on."""

    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """Software writes `size` bytes of the IOMMU's registers."""

    offset: int
    size: int
    value: int


@dataclass(frozen=True, slots=True)
class Read:
    """Software reads `size` bytes of the IOMMU's registers."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Dma:
    """A device moves data between its buffer and memory.

    Attributes:
        device: its id.
        kind: READ moves from memory to the buffer, WRITE from the buffer to memory.
        iova: address on the bus.
        length: bytes, one or more.
        offset: into the buffer, bytes.
    """

    device: str
    kind: AccessKind
    iova: int
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The machine is reset: registers and caches, not memory, and not what devices have in their buffers."""


@dataclass(frozen=True, slots=True)
class Plug:
    """A device that was unplugged is plugged again."""

    device: str


@dataclass(frozen=True, slots=True)
class Unplug:
    """A device is taken away."""

    device: str


Step: TypeAlias = Store | Write | Read | Dma | Reset | Plug | Unplug

_STEPS: dict[str, type[Step]] = {
    "store": Store,
    "write": Write,
    "read": Read,
    "dma": Dma,
    "reset": Reset,
    "plug": Plug,
    "unplug": Unplug,
}
_NAMES = {step: name for name, step in _STEPS.items()}


@dataclass(frozen=True, slots=True)
class Program:
    """A program.

    Attributes:
        target: name of what it is for.
        seed: that it was generated from; -1 where it was not, or was changed since.
        steps: in their order.
    """

    target: str
    seed: int
    steps: tuple[Step, ...]

    def with_steps(self, steps: tuple[Step, ...]) -> Self:
        """The same with other steps."""
        return replace(self, steps=steps)

    def to_json(self) -> str:
        """As text, one step a line."""
        lines = ",\n".join(f"    {json.dumps(_plain(step))}" for step in self.steps)
        head = f'  "schema": {json.dumps(SCHEMA)},\n  "target": {json.dumps(self.target)},\n  "seed": {self.seed}'
        return f'{{\n{head},\n  "steps": [\n{lines}\n  ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read it.

        Raises:
            SpecError: it is no program; the message says where.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise SpecError(
                f"this is no program: {error}", hint="a program is JSON, as viommu conform writes it"
            ) from None
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise SpecError(
                f"this is no program of {SCHEMA}: its schema is {found!r}",
                hint="write it again with this version of viommu conform",
            )
        if content.keys() != {"schema", "target", "seed", "steps"}:
            raise SpecError(f"a program has schema, target, seed and steps; this has {', '.join(content)}")
        target, seed, steps = content["target"], content["seed"], content["steps"]
        if not isinstance(target, str) or not isinstance(seed, int) or not isinstance(steps, list):
            raise SpecError("of a program the target is a text, the seed a number, and the steps are a list")
        return cls(target, seed, tuple(_step(number, step) for number, step in enumerate(steps)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            SpecError: it cannot be read, or is no program.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{path} cannot be read: {error}") from error
        try:
            return cls.from_json(text)
        except SpecError as error:
            raise SpecError(f"{path}: {error.message}", hint=error.hint) from None


def _plain(step: Step) -> dict[str, str]:
    values = {"op": _NAMES[type(step)]}
    for entry in fields(step):
        match getattr(step, entry.name):
            case bytes() as data:
                values[entry.name] = data.hex()
            case int() as number:
                values[entry.name] = hex(number)
            case text:
                values[entry.name] = str(text)
    return values


def _step(number: int, content: Any) -> Step:
    if not isinstance(content, dict) or content.get("op") not in _STEPS:
        raise SpecError(f"step {number}: {content!r}", hint=f"a step is an object with op: one of {', '.join(_STEPS)}")
    kind = _STEPS[content["op"]]
    names = {entry.name: str(entry.type) for entry in fields(kind)}
    if content.keys() - {"op"} != names.keys():
        raise SpecError(f"step {number}: {content['op']} has the fields {', '.join(names) or 'op only'}")
    values: dict[str, Any] = {}
    for name, type_ in names.items():
        try:
            values[name] = _READERS[type_](content[name])
        except (ValueError, TypeError):
            raise SpecError(f"step {number}: {name} is {content[name]!r}, which is no {type_}") from None
    step = kind(**values)
    _check(number, step)
    return step


def _number(text: str) -> int:
    return int(text, 16)


_READERS: dict[str, Any] = {"int": _number, "bytes": bytes.fromhex, "str": str, "AccessKind": AccessKind}


def _check(number: int, step: Step) -> None:
    """Refuse what no hardware can be asked."""
    match step:
        case Write(size=size) | Read(size=size) if size not in (1, 2, 4, 8):
            raise SpecError(f"step {number}: registers are accessed by 1, 2, 4 or 8 bytes, not {size}")
        case Write(size=size, value=value) if not 0 <= value < 1 << 8 * size:
            raise SpecError(f"step {number}: {value:#x} does not fit {size} bytes")
        case Dma(kind=AccessKind.EXECUTE):
            raise SpecError(f"step {number}: a DMA reads or writes")
        case Dma(iova=iova, length=length) if length < 1 or not 0 <= iova <= (1 << 64) - length:
            raise SpecError(f"step {number}: no DMA of {length} bytes at {iova:#x}")
        case _:
            pass
