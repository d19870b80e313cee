"""Writes state files: the mirror image of `harness.state.read`, numbers in hexadecimal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from harness.model.access import format_requester
from harness.model.memory import Region
from harness.model.virtio_iommu import Features, Request, VirtioIommuConfig
from harness.state.read import REQUESTS, VIRTIO_IOMMU

__all__ = ["registers_text", "virtio_iommu_text"]

_TYPES = {make: name for name, make in REQUESTS.items()}
_WIDEST = (1 << 63) - 1  # of TOML's integers


def registers_text(
    kind: str,
    registers: Any,
    *,
    file: str,
    format: str,
    regions: Iterable[Region] = (),
    devices: Mapping[str, int] | None = None,
    comment: str = "",
) -> str:
    """The state of an IOMMU that keeps its tables in memory.

    Args:
        kind: of engine, a key of `ENGINES`.
        registers: of its class.
        file: where its memory is, beside the state file.
        format: raw or elf.
        regions: what of a raw file lies where.
        devices: names of requesters.
        comment: a line for whoever reads the file.
    """
    lines = _head(kind, devices, comment)
    lines += ["[registers]", *_fields(registers)]
    lines += ["", "[memory]", f"file = {json.dumps(file)}", f"format = {json.dumps(format)}"]
    for region in regions:
        lines += ["", "[[memory.regions]]", *_fields(region)]
    return "\n".join(lines) + "\n"


def virtio_iommu_text(
    config: VirtioIommuConfig,
    requests: Iterable[Request],
    *,
    bypass: bool,
    devices: Mapping[str, int] | None = None,
    comment: str = "",
) -> str:
    """The state of a virtio-iommu.

    Args:
        config: of the device.
        requests: those that it has granted, in their order.
        bypass: the field of its configuration space as it is now.
        devices: names of requesters.
        comment: a line for whoever reads the file.
    """
    lines = _head(VIRTIO_IOMMU, devices, comment)
    lines += [
        "[device]",
        f"offered = {_names(config.offered)}",
        f"negotiated = {_names(config.accepted(config.negotiated))}",
        f"page_size_mask = {_value(config.page_size_mask)}",
        f"input_range = {_value(config.input_range)}",
        f"domain_range = {_value(config.domain_range)}",
        f"probe_size = {_value(config.probe_size)}",
        f"bypass = {_value(bypass)}",
    ]
    for endpoint, regions in config.endpoints.items():
        rows = ", ".join(
            f'{{ start = {_value(r.start)}, end = {_value(r.end)}, kind = "{r.kind.name}" }}' for r in regions
        )
        lines += ["", "[[endpoints]]", f'id = "{format_requester(endpoint)}"', f"reserved = [{rows}]"]
    for request in requests:
        lines += ["", "[[requests]]", f'type = "{_TYPES[request.__class__]}"', *_fields(request)]
    return "\n".join(lines) + "\n"


def _head(kind: str, devices: Mapping[str, int] | None, comment: str) -> list[str]:
    lines = [f"# {comment}"] if comment else []
    lines += [f'engine = "{kind}"', ""]
    if devices:
        lines += ["[devices]", *(f'{json.dumps(name)} = "{format_requester(id)}"' for name, id in devices.items()), ""]
    return lines


def _fields(values: Any) -> list[str]:
    """The fields of a dataclass that its constructor takes, one a line."""
    found = {entry.name: getattr(values, entry.name) for entry in fields(values) if entry.init}
    return [f"{name} = {_value(value)}" for name, value in found.items() if value is not None]


def _names(features: Features) -> str:
    return "[" + ", ".join(f'"{feature.name}"' for feature in Features if feature in features) + "]"


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return f"{value:#x}" if value <= _WIDEST else f'"{value:#x}"'
        case tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _ if is_dataclass(value):
            return "{ " + ", ".join(_fields(value)) + " }"
        case _:
            raise TypeError(f"{value!r} has no place in a state file")
