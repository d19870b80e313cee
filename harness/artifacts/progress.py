"""How a long step tells its caller how far it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called now and then from the thread that does the work; must return at once.

    `done` and `total` count the same unit: bytes for downloads, packages for unpacking. A `total` of 0 says that
    the end is not known. Each step ends with a call in which `done` equals `total`, unless it fails.
    """

    def __call__(self, step: str, done: int, total: int) -> None:
        """Take note of one state of one step; `step` is text for people ("trixie: downloading")."""


def silent(step: str, done: int, total: int) -> None:
    """A `Progress` that says nothing."""
