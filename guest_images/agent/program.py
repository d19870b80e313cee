"""Programs that are spoken with at a terminal: started, told a line, answered up to their next prompt, and ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from contextlib import suppress

_KEPT = 64 * 1024  # bytes that a program may say to one line
_BLOCK = 4096
_LAST_WORDS = 240  # so many are shown of an error: harness/guest/shortened.py
_KILL_SECONDS = 10


class Program:
    """One that runs, in a session of its own, with everything that it is connected to a terminal."""

    def __init__(self, argv: list[str], prompt: str) -> None:
        self.prompt = prompt.encode()
        self.said = b""
        self.terminal, there = os.openpty()
        attributes = termios.tcgetattr(there)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(there, termios.TCSANOW, attributes)
        try:
            self.process = subprocess.Popen(argv, stdin=there, stdout=there, stderr=there, start_new_session=True)
        except BaseException:
            os.close(self.terminal)
            raise
        finally:
            os.close(there)

    def answer(self, seconds: float) -> str:
        """What it says up to its next prompt."""
        end = time.monotonic() + seconds
        while self.prompt not in self.said:
            if not self._hear(end):
                raise RuntimeError(f"it ended: {self._last_words()}")
        said, _, self.said = self.said.partition(self.prompt)
        return said.decode(errors="replace")

    def tell(self, line: str) -> None:
        os.write(self.terminal, line.encode() + b"\n")

    def ended(self, seconds: float) -> tuple[int, str]:
        """Wait until it has ended by itself: its exit status, and the last that it said."""
        end = time.monotonic() + seconds
        while self._hear(end):
            pass
        return self.process.wait(max(0.1, end - time.monotonic())), self.said.decode(errors="replace")

    def kill(self) -> None:
        """End it, with what it has started, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_KILL_SECONDS)
        os.close(self.terminal)

    def _hear(self, end: float) -> bool:
        """Take what it says next; False where there will be no more."""
        ready, _, _ = select.select([self.terminal], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError(f"it said nothing more in time: {self._last_words()}")
        try:
            said = os.read(self.terminal, _BLOCK)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self.said += said
        if len(self.said) > _KEPT:
            raise RuntimeError(f"it says more than {_KEPT} bytes and no prompt: {self._last_words()}")
        return bool(said)

    def _last_words(self) -> str:
        return self.said.decode(errors="replace").strip()[-_LAST_WORDS:]


programs: dict[int, Program] = {}


def program_start(argv: list[str], prompt: str, seconds: float) -> dict[str, object]:
    """Start one and wait for its first prompt; its process id, and what it said up to there."""
    program = Program(argv, prompt)
    try:
        said = program.answer(seconds)
    except BaseException:
        program.kill()
        raise
    programs[program.process.pid] = program
    return {"pid": program.process.pid, "said": said}


def program_tell(pid: int, line: str, seconds: float) -> str:
    """Tell it a line; what it says up to its next prompt."""
    programs[pid].tell(line)
    return programs[pid].answer(seconds)


def program_end(pid: int, line: str, seconds: float) -> dict[str, object]:
    """Tell it the line that ends it: its exit status, and the last that it said. One that goes on is killed."""
    try:
        programs[pid].tell(line)
        status, said = programs[pid].ended(seconds)
        return {"status": status, "said": said}
    finally:
        program_kill(pid)


def program_kill(pid: int) -> None:
    """End it with SIGKILL, and wait until it is gone."""
    programs.pop(pid).kill()


OPERATIONS: dict[str, Callable[..., object]] = {
    f.__name__: f for f in (program_start, program_tell, program_end, program_kill)
}
