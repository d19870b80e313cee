"""Makes text that the harness did not write safe to show: control characters made visible, length bounded.

A guest's console, a device's name, QEMU's stderr: any of them may hold anything. Every report passes all of its
text through `harmless`, whatever else it does to quote it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Shown", "harmless", "head", "tail"]

# ECMA-48 section 5.4: CSI, parameter bytes, intermediate bytes, one final byte. Such a sequence holds no text of its
# own (colour, cursor movement), so nothing that the guest wrote is hidden when it is dropped.
_CONTROL_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")
_LINE_END = re.compile(r"\r+\n")
_NOT_PLAIN_ASCII = re.compile(r"[^\t\n -~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Text as it is shown.

    Attributes:
        text: what is left of it.
        note: how much was cut, and from which end, in characters; empty when nothing was.
    """

    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.text}\n[{self.note}]" if self.note else self.text


def harmless(text: str) -> str:
    """The text with nothing in it that a terminal, browser or XML parser would act upon, save newline and tab.

    Colour and cursor sequences are dropped. Any other character that does not print, such as a control, a direction
    override or a lone surrogate, is shown as an escape (`\\x1b`, `\\u202e`). What is returned holds only characters
    that XML 1.0 section 2.2 allows. It does not quote markup.
    """
    text = _LINE_END.sub("\n", _CONTROL_SEQUENCE.sub("", text))
    return _NOT_PLAIN_ASCII.sub(_visible, text)


def head(text: str, limit: int) -> Shown:
    """The harmless text, its first `limit` characters where it is longer."""
    text = harmless(text)
    if len(text) <= limit:
        return Shown(text=text)
    return Shown(text=text[:limit], note=f"cut: the last {len(text) - limit:,} of {len(text):,} characters")


def tail(text: str, limit: int) -> Shown:
    """The harmless text, its last `limit` characters where it is longer."""
    text = harmless(text)
    if len(text) <= limit:
        return Shown(text=text)
    return Shown(text=text[-limit:], note=f"cut: the first {len(text) - limit:,} of {len(text):,} characters")


def _visible(match: re.Match[str]) -> str:
    character = match.group()
    if character.isprintable():
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
