"""Templates that cannot be made or kept: machines start all the same, or it is told what the host lacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from copied_templates import CopiedTemplates
from faults_rig import PLAIN, told
from leftovers import wait_until_gone

from harness.artifacts.cache import Cache
from harness.errors import VmmStartError
from harness.lab import Lab
from harness.verdict import Verdict
from harness.warm.lease import Leases
from harness.warm.shape import template_of
from harness.warm.store import Store

_LEASE = Path(__file__).parent / "rig" / "one_lease.py"
_BOOT_SECONDS = 90
_BOOTS = "booting a machine once, to start others from"
_WAITS = "waiting for another run that fills the cache"


@pytest.mark.parametrize(
    ("mebibytes", "asks", "says"),
    [(64, True, "has 67.1 MB free"), (64, False, "full"), (120, False, "full")],
    ids=["seen", "at-once", "later"],
)
def test_disk_that_is_full_is_the_hosts_fault(temporary: Path, mebibytes: int, asks: bool, says: str) -> None:
    mount = (
        f"mount -t tmpfs -o size={mebibytes}m none {temporary} && mkdir {temporary}/t && export TMPDIR={temporary}/t"
    )
    said = _in_namespace(mount, temporary, *(() if asks else ("unasked",)))
    assert said.startswith("HostError miss: ")
    assert says in said


def test_cache_on_a_read_only_file_system_costs_the_sharing_and_nothing_else(leases: Leases) -> None:
    cache = Cache().root
    mount = f"mount --bind {cache} {cache} && mount -o remount,ro,bind {cache}"
    assert _in_namespace(mount, cache) == "up: up"


def test_host_without_memory_for_the_guest_is_told_as_that(lab: Lab, cache: Cache) -> None:
    short = replace(lab, qemu=replace(lab.qemu, argv_prefix=("prlimit", "--as=200000000", *lab.qemu.argv_prefix)))
    with (
        told(VmmStartError, Verdict.MISS, "QEMU exited with status 1 at start"),
        Leases(short, Store(cache)).start(PLAIN),
    ):
        pass
    assert list((cache.root / "templates").iterdir()) == []


def test_harness_that_is_killed_while_it_makes_a_template_is_followed_by_the_next(cache: Cache) -> None:
    with _harness(cache.root, 60) as first:
        _wait_for(lambda: list(cache.root.glob("templates/.*/ram")))
        with _harness(cache.root, 0) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == f"{_WAITS}\n"
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert second.communicate(timeout=_BOOT_SECONDS)[0].splitlines() == [_BOOTS, "up: up"]
    assert len(Store(cache).entries()) == 1


def test_two_harnesses_at_once_on_an_empty_cache_make_its_template_once(cache: Cache) -> None:
    with _harness(cache.root, 0) as one, _harness(cache.root, 0) as other:
        said = [run.communicate(timeout=_BOOT_SECONDS)[0].splitlines() for run in (one, other)]
    assert sorted(said) == [[_BOOTS, "up: up"], [_WAITS, "up: up"]]
    assert len(Store(cache).entries()) == 1


def test_lock_of_a_process_that_is_dead_holds_up_nobody(copied: CopiedTemplates, cache: Cache) -> None:
    key = copied.key(template_of(PLAIN))
    dies = f"""
import os, signal
from pathlib import Path
from harness.artifacts.cache import Cache
with Cache(Path({str(cache.root)!r})).lock("template-{key}"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", dies], env=_environment(), check=False)
    assert died.returncode == -signal.SIGKILL
    assert (cache.root / "locks" / f"template-{key}.lock").exists()
    with copied.start(PLAIN) as live:
        assert live.guest.run("echo up").stdout == "up\n"
    assert copied.said == [_BOOTS]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("times", [1, 2])
def test_nothing_is_left_of_a_harness_that_is_ended_under_its_machine(
    leases: Leases, temporary: Path, number: signal.Signals, times: int
) -> None:
    with _harness(Cache().root, 60) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up: up\n"
        for _ in range(times):
            run.send_signal(number)
            time.sleep(0.05)
        run.wait(10)
    assert wait_until_gone(temporary) == []


def _in_namespace(mount: str, cache: Path, *words: str) -> str:
    """What a harness says of one lease, with something mounted that only it sees."""
    script = f"{mount} && exec {sys.executable} {_LEASE} {cache} 0 {' '.join(words)}"
    run = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_BOOT_SECONDS,
        check=False,
    )
    return run.stdout.strip().splitlines()[-1]


@contextmanager
def _harness(cache: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, str(_LEASE), str(cache), str(seconds)]
    with (
        subprocess.Popen(
            words, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as run,
        ExitStack() as stack,
    ):
        stack.callback(run.kill)
        yield run


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + _BOOT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
