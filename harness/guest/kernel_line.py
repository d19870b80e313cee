"""One line of a kernel's log on a console: what may stand before the message, and how much of it is looked at."""

from __future__ import annotations

__all__ = ["LINE_LIMIT", "MESSAGE_START"]

LINE_LIMIT = 1000
"""Characters. Linux's own lines are hardly longer (kernel/printk/internal.h, PRINTKRB_RECORD_MAX); a guest's may be."""

MESSAGE_START = r"(?:^|\] )\s*"
"""A message starts the line, or follows a time stamp or caller id: `[    1.234567] `, `[    1.234567][    T1] `.

A prompt or an unfinished line of a program may stand before the stamp.
"""
