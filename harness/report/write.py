"""Writes all reports of a run into a directory, each whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError
from harness.report.html import to_html
from harness.report.junit import to_junit
from harness.report.record import Run

__all__ = ["Written", "write_all"]

_HINTS = {
    errno.ENOSPC: "free some space there, or name another directory",
    errno.EDQUOT: "free some space there, or name another directory",
    errno.EROFS: "the file system is read-only: name another directory",
    errno.EACCES: "name a directory that you may write to",
    errno.EPERM: "name a directory that you may write to",
    errno.ENOTDIR: "a file stands in the way: name another directory",
    errno.EEXIST: "a file stands in the way: name another directory",
    errno.EISDIR: "a directory has the name of a report: name another directory",
}


@dataclass(frozen=True, slots=True)
class Written:
    """Where the reports are.

    Attributes:
        json: the record that the others were written from, `results.json`.
        html: `report.html`.
        junit: `junit.xml`.
    """

    json: Path
    html: Path
    junit: Path


def write_all(run: Run, directory: Path) -> Written:
    """Write the record, then the reports made from it; the directory is made where it does not exist.

    Each file appears under its name only when it is complete, and replaces the one of an earlier run in one step.

    Raises:
        HostError: the directory cannot be made or written to.
    """
    written = Written(directory / "results.json", directory / "report.html", directory / "junit.xml")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(written.json, run.to_json().encode())
        _write(written.html, to_html(run).encode())
        _write(written.junit, to_junit(run))
    except OSError as error:
        raise HostError(
            f"the reports cannot be written to {directory}: {error.strerror or error}",
            hint=_HINTS.get(error.errno or 0, "name another directory"),
        ) from error
    return written


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
