"""Address spaces of iommufd, as the agent is asked for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
import pytest

from harness.guest.address_space import AddressSpace
from harness.guest.answers import PAGE, Pages

_T = TypeVar("_T")
_ADDRESS, _NUMBER = "0000:00:04.0", 7


class Script:
    """An agent that answers each operation with what it is told to, and keeps what it was asked."""

    def __init__(self, **answers: object) -> None:
        self._answers: Mapping[str, object] = {"iommufd_ioas": _NUMBER, **answers}
        self.asked: list[tuple[str, dict[str, object]]] = []

    def __call__(self, op: str, args: dict[str, object], type: type[_T], deadline_seconds: float = 10.0) -> _T:
        self.asked.append((op, args))
        return msgspec.convert(self._answers.get(op), type)


def test_an_address_space_is_made_once_and_asked_for_by_its_number() -> None:
    agent = Script(iommufd_unmap=PAGE)
    space = AddressSpace(agent)
    assert space.unmap(0x1000, PAGE) == PAGE
    assert agent.asked == [("iommufd_ioas", {}), ("iommufd_unmap", {"ioas": _NUMBER, "iova": 0x1000, "size": PAGE})]


@pytest.mark.parametrize(
    ("asked", "offset", "size"), [((0, None), 0, 3 * PAGE), ((PAGE, None), PAGE, 2 * PAGE), ((PAGE, 512), PAGE, 512)]
)
def test_pages_are_mapped_to_their_end_or_as_far_as_is_said(
    asked: tuple[int, int | None], offset: int, size: int
) -> None:
    agent = Script()
    pages = Pages(3, (0x1000, 0x9000, 0x5000))
    AddressSpace(agent).map(pages, 0x40000000, "r", offset=asked[0], size=asked[1])
    where = {"ioas": _NUMBER, "iova": 0x40000000}
    what = {"handle": 3, "permission": "r", "offset": offset, "size": size}
    assert agent.asked[-1] == ("iommufd_map", {**where, **what})


@pytest.mark.parametrize(
    ("call", "op", "arguments"),
    [
        (lambda space: space.attach(_ADDRESS), "iommufd_attach", {"address": _ADDRESS, "ioas": _NUMBER}),
        (lambda space: space.detach(_ADDRESS), "iommufd_detach", {"address": _ADDRESS}),
        (lambda space: space.close(_ADDRESS), "iommufd_close", {"address": _ADDRESS}),
        (lambda space: space.destroy(), "iommufd_destroy", {"ioas": _NUMBER}),
    ],
)
def test_devices_come_and_go_by_their_address(
    call: Callable[[AddressSpace], None], op: str, arguments: dict[str, object]
) -> None:
    agent = Script()
    call(AddressSpace(agent))
    assert agent.asked[-1] == (op, arguments)


def test_ranges_are_pairs_of_first_and_last() -> None:
    space = AddressSpace(Script(iommufd_ranges=[[0, 0xFEDFFFFF], [0xFEF00000, (1 << 64) - 1]]))
    assert space.ranges() == ((0, 0xFEDFFFFF), (0xFEF00000, (1 << 64) - 1))


@pytest.mark.parametrize("ranges", [None, [[0]], [[-1, 1]], [["0", 1]]])
def test_ranges_of_another_form_are_refused(ranges: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        AddressSpace(Script(iommufd_ranges=ranges)).ranges()
