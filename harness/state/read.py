"""Reads a state file: which IOMMU, its registers by name, and where its memory is.

The format is in docs/reference/formats.md. Whatever is wrong in a file is told with its place in it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from harness.errors import SpecError
from harness.model.amdvi import AmdviEngine, AmdviRegisters
from harness.model.engine import Engine
from harness.model.memory import Memory, Region
from harness.model.riscv import RiscvIommuEngine, RiscvIommuRegisters
from harness.model.smmuv3 import Smmuv3Engine, Smmuv3Registers
from harness.model.virtio_iommu import (
    Attach,
    Detach,
    Features,
    Map,
    Probe,
    RegionKind,
    Request,
    ReservedRegion,
    Status,
    Unmap,
    VirtioIommuConfig,
    VirtioIommuEngine,
)
from harness.model.vtd import VtdEngine, VtdRegisters
from harness.pci import Address
from harness.state.dump import open_elf, open_raw
from harness.state.table import HINT, Table, number, of_type

__all__ = ["ENGINES", "REQUESTS", "VIRTIO_IOMMU", "AnyEngine", "State", "open_state", "parse_requester"]

AnyEngine = Engine[Any, Any]

ENGINES: Mapping[str, tuple[type[Any], Callable[[Any, Memory], AnyEngine]]] = {
    "vtd": (VtdRegisters, VtdEngine),
    "amdvi": (AmdviRegisters, AmdviEngine),
    "smmuv3": (Smmuv3Registers, Smmuv3Engine),
    "riscv": (RiscvIommuRegisters, RiscvIommuEngine),
}
"""Of each kind that keeps its tables in memory: the class of its registers, and the engine that is made of them."""
VIRTIO_IOMMU = "virtio-iommu"
REQUESTS: Mapping[str, type[Request]] = {
    "attach": Attach,
    "detach": Detach,
    "map": Map,
    "unmap": Unmap,
    "probe": Probe,
}
"""The requests of a virtio-iommu by the names that a state file has for them."""


@dataclass(frozen=True, slots=True)
class State:
    """What a state file says.

    Attributes:
        kind: of IOMMU, as the file names it.
        engine: the model of it.
        devices: requester ids by name, where the file gives names.
    """

    kind: str
    engine: AnyEngine
    devices: Mapping[str, int]

    def requester(self, text: str) -> int:
        """The requester id of a device: its name in the file, a PCI address, or a number.

        Raises:
            SpecError: it is none of them.
        """
        if text in self.devices:
            return self.devices[text]
        try:
            return parse_requester(text)
        except SpecError as error:
            known = f", or one of {', '.join(self.devices)}" if self.devices else ""
            raise SpecError(error.message, hint=f"{error.hint}{known}") from None


def parse_requester(text: str) -> int:
    """A requester id from a PCI address (00:05.0, 0001:00:05.0) or a number (0x28, what SMMUv3 calls a StreamID).

    Raises:
        SpecError: it is neither.
    """
    try:
        number = int(text, 0)
    except ValueError:
        try:
            address = Address.parse(text)
        except SpecError:
            raise SpecError(
                f"requester {text!r} is no PCI address and no number", hint="write it as 00:05.0 or as 0x28"
            ) from None
        return address.segment << 16 | address.requester
    if not 0 <= number < 1 << 32:
        raise SpecError(f"requester {text} does not fit 32 bits", hint="write it as 00:05.0 or as 0x28")
    return number


@contextmanager
def open_state(path: Path) -> Iterator[State]:
    """Read a state file, and map the memory that it names, for as long as the context lasts.

    Raises:
        SpecError: it cannot be read, says what is not known or leaves out what is needed; or its memory is not there,
            truncated, or in a format that cannot be mapped. The message has the place.
    """
    with ExitStack() as stack:
        file = Table(f"state file {path}", _load(path))
        kind = file.take("engine", str)
        devices = {
            name: parse_requester(of_type(f"{file.where}, [devices].{name}", value, str))
            for name, value in file.take("devices", dict, {}).items()
        }
        if kind == VIRTIO_IOMMU:
            engine: AnyEngine = _virtio_iommu(file)
        elif kind in ENGINES:
            make_registers, make_engine = ENGINES[kind]
            registers = _registers(file.table("registers"), make_registers)
            memory = _memory(file.table("memory"), path.parent, stack)
            engine = make_engine(registers, memory)
        else:
            raise SpecError(
                f"{file.where}: engine {kind!r} is not known",
                hint=f"it is one of {', '.join((*ENGINES, VIRTIO_IOMMU))}",
            )
        file.end()
        yield State(kind, engine, devices)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"state file {path}: {error.strerror}", hint=HINT) from error
    except UnicodeDecodeError as error:
        raise SpecError(f"state file {path} is not a text file: {error}", hint=HINT) from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of too many digits, too
        raise SpecError(f"state file {path} is not TOML: {error}", hint=HINT) from error


def _registers(table: Table, make: type[Any]) -> Any:
    """Registers by the names of their class: numbers, lists of numbers, or a table where the class has a class."""
    types = get_type_hints(make)
    values: dict[str, Any] = {}
    for entry in fields(make):
        if entry.init:
            value = table.find(entry.name) if entry.default is not MISSING else table.take(entry.name, object)
            if value is not None:
                values[entry.name] = _register(table.place(entry.name), value, types[entry.name])
    table.end()
    try:
        return make(**values)
    except SpecError as error:
        raise SpecError(f"{table.where}: {error.message}", hint=error.hint or HINT) from None


def _register(where: str, value: object, hint: Any) -> Any:
    """A value of the type that a class has for its field."""
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return tuple(_register(where, part, inner) for part in of_type(where, value, list))
    if isinstance(hint, type) and is_dataclass(hint):
        return _registers(Table(where, of_type(where, value, dict)), hint)
    return of_type(where, value, bool) if hint in (bool, bool | None) else number(where, value)


def _memory(table: Table, directory: Path, stack: ExitStack) -> Memory:
    path = directory / table.take("file", str)
    format = table.take("format", str)
    regions: list[Region] = []
    for row in table.tables("regions"):
        regions.append(Region(row.number("base"), row.number("size"), row.number("offset", 0)))
        row.end()
        if min(regions[-1].base, regions[-1].offset) < 0 or regions[-1].size <= 0:
            raise SpecError(f"{row.where} is no run of memory: {regions[-1]}", hint=HINT)
    table.end()
    match format:
        case "raw":
            return stack.enter_context(open_raw(path, regions))
        case "elf":
            if regions:
                raise SpecError(f"{table.where} has regions, but an ELF core says itself what lies where", hint=HINT)
            return stack.enter_context(open_elf(path))
        case _:
            raise SpecError(f"{table.where}: format {format!r} is not known", hint="it is raw or elf")


def _virtio_iommu(file: Table) -> VirtioIommuEngine:
    table = file.table("device")
    endpoints = dict(map(_endpoint, file.tables("endpoints")))
    values: dict[str, Any] = {
        "offered": _features(table, "offered"),
        "negotiated": _features(table, "negotiated"),
        "page_size_mask": table.number("page_size_mask"),
        "input_range": _range(table, "input_range", (1 << 64) - 1),
        "domain_range": _range(table, "domain_range", (1 << 32) - 1),
        "probe_size": table.number("probe_size", 0),
        "bypass": table.take("bypass", bool, False),
    }
    table.end()
    try:
        engine = VirtioIommuEngine(VirtioIommuConfig(endpoints=endpoints, **values))
    except SpecError as error:
        raise SpecError(f"{table.where}: {error.message}", hint=error.hint or HINT) from None
    for row in file.tables("requests"):
        request = _request(row)
        status = engine.submit(request)
        if status is not Status.OK:
            raise SpecError(
                f"{row.where}: the model answers {request} with {'nothing' if status is None else status.name}",
                hint="a state file holds the requests that the device has granted, in their order",
            )
    return engine


def _features(table: Table, name: str) -> Features:
    features = Features(0)
    for text in table.take(name, list):
        if text not in Features.__members__:
            raise SpecError(
                f"{table.where}, {name!r}: {text!r} is no feature", hint=f"there are: {', '.join(Features.__members__)}"
            )
        features |= Features[text]
    return features


def _range(table: Table, name: str, last: int) -> tuple[int, int]:
    found = [number(table.place(name), value) for value in table.take(name, list, [0, last])]
    if len(found) != 2:
        raise SpecError(f"{table.where}, {name!r} has {len(found)} numbers, not a first and a last", hint=HINT)
    return found[0], found[1]


def _endpoint(row: Table) -> tuple[int, tuple[ReservedRegion, ...]]:
    endpoint = parse_requester(row.take("id", str))
    regions = []
    for region in row.tables("reserved"):
        kind = region.take("kind", str, RegionKind.RESERVED.name)
        if kind not in RegionKind.__members__:
            raise SpecError(f"{region.where}: kind {kind!r} is not known", hint="it is RESERVED or MSI")
        regions.append(ReservedRegion(region.number("start"), region.number("end"), RegionKind[kind]))
        region.end()
    row.end()
    return endpoint, tuple(regions)


def _request(row: Table) -> Request:
    name = row.take("type", str)
    if name not in REQUESTS:
        raise SpecError(f"{row.where}: request {name!r} is not known", hint=f"it is one of {', '.join(REQUESTS)}")
    make = REQUESTS[name]
    values = {
        entry.name: row.number(entry.name, None if entry.default is MISSING else entry.default)
        for entry in fields(make)
    }
    row.end()
    return make(**values)
