"""The command line of a pytest that runs cases, and what nobody else's project has a say in."""

from __future__ import annotations

import os

from harness.resources import ROOT

__all__ = ["own_pytest"]


def own_pytest() -> list[str]:
    """Words for pytest, without the cases.

    Nothing of a project that this is installed in or run from counts: not its pytest options, not its conftest.py.
    """
    words = ["-c", os.devnull, f"--rootdir={ROOT}", f"--confcutdir={ROOT}", "-p", "harness.plugin"]
    return [*words, "--strict-markers", "-o", "xfail_strict=1", "-p", "no:cacheprovider"]
