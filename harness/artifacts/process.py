"""Runs one host program to its end: bounded, quiet, and never left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from harness.errors import HostError

__all__ = ["Finished", "guarded", "pipe", "require", "run"]

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended.

    Attributes:
        status: exit status; negative for the signal that killed it.
        stdout: all that it wrote there.
        stderr: all that it wrote there.
        stalled: it was killed because nothing that is watched had changed for too long.
    """

    status: int
    stdout: str
    stderr: str
    stalled: bool = False

    @property
    def output(self) -> str:
        """Both streams, the diagnostics last."""
        return f"{self.stdout}{self.stderr}"


def require(program: str, why: str) -> str:
    """The path of a host program.

    Raises:
        HostError: it is not on PATH; the message says what it is needed for.
    """
    path = shutil.which(program)
    if path is None:
        raise HostError(
            f"{program} is not on this host: it is needed {why}",
            hint=f"install {program}, or give the path of a QEMU binary and of a kernel image instead of a suite name",
        )
    return path


def guarded(argv: Sequence[str]) -> list[str]:
    """The command line under which the kernel kills the program when this process dies, whatever kills it."""
    return [require("setpriv", "to leave no process behind"), "--pdeathsig", "KILL", "--", *argv]


def _environment() -> dict[str, str]:
    """The caller's environment (proxies and all), with messages in the one language that is matched on."""
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def run(argv: Sequence[str], *, watch: Callable[[], int], stall_seconds: float) -> Finished:
    """Run a program until it ends, or until nothing has moved for too long.

    Args:
        argv: program and arguments.
        watch: called about ten times a second; a value that differs from the last one is a sign of life.
        stall_seconds: how long the program may run without one.

    Returns:
        how it ended. The program and those that it started are dead in every case, also after an exception
        (Ctrl-C) in this process.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # A process group of its own: Ctrl-C in the terminal comes to this process alone, which then kills the group.
        child = subprocess.Popen(
            guarded(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=_environment(),
            process_group=0,
            umask=0o022,
        )
        stalled = False
        try:
            seen, since = watch(), time.monotonic()
            while child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_POLL_SECONDS)
                now = watch()
                if now != seen:
                    seen, since = now, time.monotonic()
                elif time.monotonic() - since > stall_seconds:
                    stalled = True
                    break
        finally:
            _kill_group(child)
        out.seek(0)
        err.seek(0)
        return Finished(
            child.returncode, out.read().decode(errors="replace"), err.read().decode(errors="replace"), stalled
        )


def pipe(first: Sequence[str], second: Sequence[str], *, deadline_seconds: float) -> tuple[int, int, str]:
    """Run `first | second`.

    Returns:
        both exit statuses, and what the two wrote to stderr. A program that did not end in time was killed, and
        its status is negative.
    """
    with tempfile.TemporaryFile() as err:
        left = subprocess.Popen(
            guarded(first),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err,
            env=_environment(),
            process_group=0,
        )
        children = [left]
        try:
            right = subprocess.Popen(
                guarded(second),
                stdin=left.stdout,
                stdout=subprocess.DEVNULL,
                stderr=err,
                env=_environment(),
                process_group=0,
                umask=0o022,
            )
            children.append(right)
            if left.stdout is not None:
                left.stdout.close()  # so that `first` gets SIGPIPE when `second` ends early
            end = time.monotonic() + deadline_seconds
            with suppress(subprocess.TimeoutExpired):
                right.wait(deadline_seconds)
                left.wait(max(0.0, end - time.monotonic()))
        finally:
            for child in children:
                _kill_group(child)
        err.seek(0)
        return left.returncode, right.returncode, err.read().decode(errors="replace")


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child's process group, and reap the child."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
