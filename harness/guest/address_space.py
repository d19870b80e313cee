"""Address spaces of iommufd in a guest, which its agent has: `guest_images/agent/iommufd.py`."""

from __future__ import annotations

from typing import Protocol, TypeVar

from harness.guest.answers import Pages, Ranges

__all__ = ["AddressSpace", "Call", "map_arguments"]

_T = TypeVar("_T")


class Call(Protocol):
    """Has an agent do something: the operation by its name, its arguments, and what it answers."""

    def __call__(self, op: str, args: dict[str, object], type: type[_T], deadline_seconds: float = 10.0) -> _T:
        """Its answer; raises AgentError when it could not be done, and GuestUnreachable when none came."""


def map_arguments(pages: Pages, iova: int, permission: str, offset: int, size: int | None) -> dict[str, object]:
    """What the agent is told of a mapping, whichever way it is made: arguments as of `Agent.vfio_map`."""
    size = len(pages.frames) * pages.size - offset if size is None else size
    return {"handle": pages.handle, "iova": iova, "permission": permission, "offset": offset, "size": size}


class AddressSpace:
    """One, which lives until it is destroyed or its agent ends: devices come and go.

    Every call raises as those of an agent do. Linux, Documentation/userspace-api/iommufd.rst: an IOAS.

    Args:
        call: of the agent that is to have it.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._number = call("iommufd_ioas", {}, int)

    def attach(self, address: str) -> None:
        """Attach a function bound to vfio-pci, by its address; it leaves the address space that it had.

        It is opened for that, and stays so where it is refused.
        """
        self._call("iommufd_attach", {"address": address, "ioas": self._number}, type(None))

    def detach(self, address: str) -> None:
        """Detach a function; it stays open."""
        self._call("iommufd_detach", {"address": address}, type(None))

    def close(self, address: str) -> None:
        """Close a function; what is mapped stays for others."""
        self._call("iommufd_close", {"address": address}, type(None))

    def map(self, pages: Pages, iova: int, permission: str = "rw", *, offset: int = 0, size: int | None = None) -> None:
        """Map pages at an IOVA: arguments as of `Agent.vfio_map`."""
        arguments = map_arguments(pages, iova, permission, offset, size)
        self._call("iommufd_map", {"ioas": self._number, **arguments}, type(None), 30.0)

    def unmap(self, iova: int, size: int) -> int:
        """Unmap a range (bytes); the bytes that were mapped."""
        return self._call("iommufd_unmap", {"ioas": self._number, "iova": iova, "size": size}, int, 30.0)

    def ranges(self) -> Ranges:
        """Ranges of IOVAs that can be mapped for all devices that are attached: first and last byte of each."""
        return self._call("iommufd_ranges", {"ioas": self._number}, Ranges)

    def destroy(self) -> None:
        """Destroy it, with what is mapped in it; no device may be attached."""
        self._call("iommufd_destroy", {"ioas": self._number}, type(None))
