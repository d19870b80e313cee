"""What a guest says, as much of it as has room in an error's message."""

from __future__ import annotations

__all__ = ["SHOWN", "shortened"]

SHOWN = 400
"""Characters that are shown of a text; what a person needs to see is in the first of them."""


def shortened(text: str) -> str:
    """The text, or its start where it is longer than what is shown."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
