"""Runs a qtest script as those do who are sent it: QEMU's plain command line, the script on its standard input."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from itertools import islice

from harness.artifacts.process import guarded
from harness.artifacts.qemu import QemuBuild
from harness.conform.divergence import Divergence, Kind, Told
from harness.conform.export import QtestScript

__all__ = ["Answers", "run_script"]

_SECONDS = 20.0  # for all of a script; QEMU takes less than one


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of a script.

    Attributes:
        lines: QEMU's answers, one for each command, as far as they came.
        status: how QEMU ended of its own, minus the signal's number where one did it; None where it did not.
        hung: it was ended because it answered no more.
        stderr: what it said there.
    """

    lines: tuple[str, ...]
    status: int | None
    hung: bool
    stderr: str

    def show(self, divergence: Divergence) -> bool:
        """Whether they show that divergence, and as it was seen before."""
        match divergence.kind:
            case Kind.CRASH:
                return self.status is not None
            case Kind.HANG:
                return self.hung
        if self.hung or self.status is not None:
            return False
        if divergence.told is not None:
            return self._tell(divergence.told)
        probe = divergence.probe
        if probe is None:
            return False
        word, _, value = self.lines[-1].partition(" ")
        if word != "OK":
            return False
        seen = int(value, 16)
        return bool((seen ^ probe.wanted) & probe.known) and not (seen ^ probe.seen) & probe.known

    def _tell(self, told: Told) -> bool:
        """Whether QEMU told of an interrupt what it must not, and not what it must."""
        # Releases up to 8 put a time before it.
        lines = [line.rpartition(":")[2] for line in self.stderr.splitlines()]
        return (not told.seen or told.seen in lines) and (not told.wanted or told.wanted not in lines)


def run_script(build: QemuBuild, script: QtestScript) -> Answers:
    """Run it; QEMU is gone when this returns.

    Args:
        build: the QEMU.
        script: for a build with the qtest accelerator: the commands come all at once.
    """
    argv = guarded([*build.argv_prefix, *script.words[1:]])
    hung = threading.Event()
    with tempfile.TemporaryFile("w+") as commands, tempfile.TemporaryFile("w+", errors="replace") as errors:
        commands.write("".join(f"{line}\n" for line in script.commands))
        commands.seek(0)
        with subprocess.Popen(
            argv, stdin=commands, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **build.env}
        ) as qemu:
            assert qemu.stdout is not None

            def give_up() -> None:
                hung.set()
                qemu.kill()

            timer = threading.Timer(_SECONDS, give_up)
            timer.start()
            try:
                answers = (line.rstrip() for line in qemu.stdout if line.startswith(("OK", "FAIL")))
                lines = tuple(islice(answers, len(script.commands)))
                # Where answers are missing its output has ended, and so does it.
                status = qemu.wait() if len(lines) < len(script.commands) else None
            finally:
                timer.cancel()
                qemu.kill()
        errors.seek(0)
        return Answers(lines, None if hung.is_set() else status, hung.is_set(), errors.read())
