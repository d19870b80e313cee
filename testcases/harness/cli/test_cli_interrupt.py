"""A `viommu boot` that is interrupted or killed while its guest boots leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import nothing_left

from harness.soak.leaks import marked_processes

_START_SECONDS = 60.0


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary directory with a short path, for the run directory."""
    path = Path(tempfile.mkdtemp(prefix="vi-"))
    yield path
    shutil.rmtree(path)


def _boot(temporary: Path) -> subprocess.Popen[bytes]:
    """A `viommu boot`, waited for until its QEMU has written to the guest's console."""
    command = [sys.executable, "-c", "from harness.cli.main import main; main()", "boot", "--exec", "sleep 1000"]
    process = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    end = time.monotonic() + _START_SECONDS
    while not any(log.stat().st_size for log in temporary.glob("viommu-*/console.log")):
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < end, "no QEMU was started"
        time.sleep(0.05)
    assert marked_processes(temporary)
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_boot_that_is_ended_leaves_nothing(temporary: Path, number: signal.Signals, status: int) -> None:
    with nothing_left(temporary):
        process = _boot(temporary)
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == status, output.decode()
    assert b"Traceback" not in output
