"""Reading what the kernel shows in sysfs and procfs; and loading its modules."""

from __future__ import annotations

import errno
import glob
import os
import subprocess
import time
from collections.abc import Callable

_MATCH_SECONDS = 10.0
GROUPS = "/sys/kernel/iommu_groups"


def read_file(path: str, limit: int = 1 << 20) -> str:
    """The text of one file, cut to `limit` bytes."""
    with open(path, "rb") as file:
        return file.read(limit).decode(errors="replace")


def read_bytes(path: str, offset: int, size: int) -> str:
    """Bytes of one file, in hex: PCI configuration space, for one."""
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size).hex()


def write_file(path: str, text: str) -> int:
    """Write `text` in one write(2), as sysfs wants it."""
    with open(path, "wb", buffering=0) as file:
        return file.write(text.encode()) or 0


def iommu_groups() -> list[dict[str, object]]:
    """Every group: its number, `type` and device names, in the order of the numbers."""
    numbers = sorted(int(name) for name in os.listdir(GROUPS)) if os.path.isdir(GROUPS) else []
    return [
        {
            "number": number,
            "type": read_file(f"{GROUPS}/{number}/type").strip(),
            "devices": sorted(os.listdir(f"{GROUPS}/{number}/devices")),
        }
        for number in numbers
    ]


def modprobe(names: list[str]) -> None:
    """Load modules with what they depend on, those that are not there yet."""
    for name in names:
        if os.path.isdir(f"/sys/module/{name}"):
            continue  # to ask modprobe costs a tenth of a second under emulation
        done = subprocess.run(["modprobe", name], stderr=subprocess.PIPE, timeout=30, check=False)
        if done.returncode:
            raise RuntimeError(f"modprobe {name}: {done.stderr.decode(errors='replace').strip()}")


def wait_path(path: str, seconds: float, present: bool = True) -> float:
    """Wait until a path is there, or gone; the seconds that it took."""
    start = time.monotonic()
    while os.path.exists(path) != present:
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"{path} is {'not there' if present else 'still there'} after {seconds} s")
        time.sleep(0.005)
    return time.monotonic() - start


def wait_for(*patterns: str) -> list[str]:
    """What matches one of the patterns, which must come within ten seconds: drivers make some things late."""
    end = time.monotonic() + _MATCH_SECONDS
    while not (found := [path for pattern in patterns for path in glob.glob(pattern)]):
        if time.monotonic() > end:
            raise TimeoutError(errno.ETIMEDOUT, f"there is no {' or '.join(patterns)}")
        time.sleep(0.02)
    return found


OPERATIONS: dict[str, Callable[..., object]] = {
    f.__name__: f for f in (read_file, read_bytes, write_file, iommu_groups, modprobe, wait_path)
}
