"""What a process writes to stdout and stderr."""

from __future__ import annotations

import time
from pathlib import Path

from vmm_rig import stand_in

from harness.vmm import background
from harness.vmm.rundir import RunDirectory

_FILE_BYTES = 16 << 20
_TAIL_BYTES = 16 << 10


def test_both_streams_are_in_the_file_and_at_hand_also_when_the_directory_is_gone(parent: Path) -> None:
    with RunDirectory.create(parent) as directory:
        with stand_in(directory, "sh", "-c", "echo one; echo two >&2; printf '\\377'") as process:
            process.wait(5)
            assert process.stderr == "one\ntwo\n\ufffd"
        assert (directory.path / "stderr.log").read_bytes() == b"one\ntwo\n\xff"
    assert process.stderr == "one\ntwo\n\ufffd"


def test_what_is_too_much_is_left_out_and_said_to_be(parent: Path) -> None:
    total, end = 100_000_000, "the end\n"
    flood = f"yes | head -c {total - len(end)} >&2; echo {end.strip()} >&2"
    with RunDirectory.create(parent) as directory, stand_in(directory, "sh", "-c", flood) as process:
        process.wait(30)
        first, _, rest = process.stderr.partition("\n")
        assert first == f"({total - _TAIL_BYTES} bytes before this are left out)"
        assert len(rest) == _TAIL_BYTES
        assert rest.endswith(end)
        log = (directory.path / "stderr.log").read_bytes()
    assert log[_FILE_BYTES:] == b"\nthe log is full: what follows is not kept\n"


def test_flood_without_end_holds_up_nothing_else(parent: Path) -> None:
    with RunDirectory.create(parent) as directory, stand_in(directory, "sh", "-c", "exec yes >&2") as process:
        begin = time.monotonic()
        while time.monotonic() < begin + 0.5:
            asked = time.monotonic()
            background.call(lambda: None)
            assert time.monotonic() - asked < 1
        assert process.stderr.endswith("y\n")
