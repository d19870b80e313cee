"""Where the directories beside the package are: in a checkout beside `harness/`, in an installed wheel inside it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["GUEST_IMAGES", "KNOWN_ISSUES", "ROOT", "TESTCASES"]

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_data"

ROOT = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
"""The checkout, or its stand-in inside the installed package."""

GUEST_IMAGES = ROOT / "guest_images"
TESTCASES = ROOT / "testcases"
KNOWN_ISSUES = ROOT / "ci" / "known_issues.toml"
