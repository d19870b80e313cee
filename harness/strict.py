"""Data from a file as one of the package's dataclasses, with unknown fields refused.

msgspec passes over fields that a dataclass does not have. A misspelt one (`iomu = true`) would then mean its default.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import inspect

__all__ = ["convert"]

_T = TypeVar("_T")


def convert(data: object, type: type[_T]) -> _T:
    """Make a value of `type` out of what a JSON or TOML reader gave.

    Raises:
        msgspec.ValidationError: a field is unknown, missing, or of another type; the message has its path.
    """
    _refuse_unknown(data, inspect.type_info(type), "$")
    return msgspec.convert(data, type=type)


def _refuse_unknown(data: object, type: inspect.Type, path: str) -> None:
    match type:
        case inspect.UnionType(types=types):
            for option in types:
                _refuse_unknown(data, option, path)
        case inspect.DataclassType(fields=fields) if isinstance(data, dict):
            known = {field.name: field.type for field in fields}
            for name, value in data.items():
                if name not in known:
                    raise msgspec.ValidationError(
                        f"Unknown field `{name}` - at `{path}`; there are: {', '.join(known)}"
                    )
                _refuse_unknown(value, known[name], f"{path}.{name}")
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item) if isinstance(data, list):
            for value in data:
                _refuse_unknown(value, item, f"{path}[...]")
        case inspect.DictType(value_type=inner) if isinstance(data, dict):
            for value in data.values():
                _refuse_unknown(value, inner, f"{path}[...]")
        case _:
            pass
