"""The five tables by their signatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.errors import SpecError
from harness.model.firmware.dmar import Dmar
from harness.model.firmware.iort import Iort
from harness.model.firmware.ivrs import Ivrs
from harness.model.firmware.rimt import Rimt
from harness.model.firmware.table import FirmwareTable
from harness.model.firmware.viot import Viot

__all__ = ["SIGNATURES", "parse"]

_PARSERS: Mapping[str, Callable[[bytes], FirmwareTable]] = {
    Dmar.SIGNATURE: Dmar.parse,
    Ivrs.SIGNATURE: Ivrs.parse,
    Iort.SIGNATURE: Iort.parse,
    Viot.SIGNATURE: Viot.parse,
    Rimt.SIGNATURE: Rimt.parse,
}

SIGNATURES = frozenset(_PARSERS)
"""Of every table that can say which IOMMU stands before which device."""


def parse(signature: str, data: bytes) -> FirmwareTable:
    """Read a table.

    Raises:
        BadTable: it is broken; the message says where.
        SpecError: no such table.
    """
    if signature not in _PARSERS:
        raise SpecError(f"{signature} says nothing of IOMMUs", hint=f"it is one of {', '.join(sorted(_PARSERS))}")
    return _PARSERS[signature](data)
