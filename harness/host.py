"""What this host is, as records and figures have it beside them."""

from __future__ import annotations

import os
import platform

__all__ = ["host_facts"]


def host_facts() -> dict[str, str]:
    """Processors, memory, system and Python, as text by name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {memory:.0f} GiB",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
    }
