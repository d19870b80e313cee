"""What the processors of a running machine have in their registers."""

from __future__ import annotations

import re

from harness.errors import VmmError
from harness.vmm.qemu.qmp import Qmp

__all__ = ["page_table"]

_CR3 = re.compile(r"\bCR3=([0-9a-f]+)")  # HMP `info registers`


def page_table(qmp: Qmp) -> int:
    """Guest physical address of the page table that the first processor uses now: CR3, without its low bits.

    Raises:
        VmmError: QEMU does not tell it.
    """
    text = str(qmp.execute("human-monitor-command", {"command-line": "info registers"}))
    found = _CR3.search(text)
    if found is None:
        raise VmmError("QEMU's `info registers` shows no CR3", evidence=text)
    return int(found[1], 16) & -4096
