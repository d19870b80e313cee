"""One cache used by several processes: at once, killed in the middle, without space, without permission to write."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from artifacts_archive import ARCH, SUITE, Archive, Fault, serving

from harness.artifacts.cache import Cache
from harness.artifacts.packages import fetch

CHILD = Path(__file__).with_name("artifacts_child.py")
DEADLINE = 60


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tmp_path / "archive") as archive:
        archive.add("lib", {"usr/lib/lib.so": b"lib"})
        archive.add("big", {"usr/share/big": os.urandom(6_000_000)}, Depends="lib")
        yield archive


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def child(root: Path, archive: Archive, *words: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """A run in another process, which the caller ends."""
    package = str(Path(__file__).parents[3])
    return subprocess.Popen(
        [*before, sys.executable, str(CHILD), str(root), archive.uri, *words],
        env={**os.environ, "PYTHONPATH": package},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=DEADLINE)[0].strip()
    finally:
        process.kill()


def paused(process: subprocess.Popen[str]) -> str:
    """The first line, which a child prints when it has come to its pause."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def users(path: Path) -> list[str]:
    """The command lines of processes that name `path`."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(path) in line:
            lines.append(line)
    return lines


def wait_until_unused(path: Path) -> list[str]:
    """Give dying processes a moment; returns those that live on."""
    end = time.monotonic() + 5
    while (left := users(path)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def building(root: Path) -> list[Path]:
    return list((root / "trees").glob(".*"))


def get(root: Path, archive: Archive) -> Path:
    return fetch(Cache(root), SUITE, ARCH, ["big"], sources=archive.sources).root


def in_mount_namespace(script: str) -> list[str]:
    """The words before a command that run it after `script`, with mounts of its own; skips where that is forbidden."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        allowed = subprocess.run([*unshare, "true"], capture_output=True, timeout=10, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this host does not allow user namespaces, which the test needs to mount without root")
    return [*unshare, "sh", "-ec", f'{script}; exec "$@"', "sh"]


def test_two_runs_at_once_download_and_build_once(root: Path, archive: Archive) -> None:
    runs = [child(root, archive, "big") for _ in range(2)]
    roots = {said(run) for run in runs}
    assert roots == {str(get(root, archive))}
    assert archive.debs() == ["lib_1.0_amd64.deb", "big_1.0_amd64.deb"]
    assert len([entry for entry in (root / "trees").iterdir() if not entry.name.startswith(".")]) == 1


def test_a_run_waits_for_the_one_that_builds_and_then_uses_its_tree(root: Path, archive: Archive) -> None:
    first = child(root, archive, "big", "unpacking")
    try:
        assert paused(first) == "stable1/amd64: unpacking"
        second = child(root, archive, "big", "waiting for another run")
        try:
            assert paused(second) == "waiting for another run that fills the cache"
        finally:
            second.kill()
            second.communicate()
    finally:
        first.kill()
        first.communicate()


def test_after_a_writer_was_killed_in_mid_unpack_the_next_run_succeeds_and_sweeps(root: Path, archive: Archive) -> None:
    run = child(root, archive, "big", "unpacking")
    paused(run)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=DEADLINE)
    assert len(building(root)) == 1
    assert (get(root, archive) / "usr/lib/lib.so").read_bytes() == b"lib"
    assert building(root) == []


def test_what_a_killed_writer_left_is_swept_by_a_run_that_builds_something_else(root: Path, archive: Archive) -> None:
    run = child(root, archive, "big", "unpacking")
    paused(run)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=DEADLINE)
    fetch(Cache(root), SUITE, ARCH, ["lib"], sources=archive.sources)
    assert building(root) == []


def test_what_a_living_writer_is_building_is_not_swept(root: Path, archive: Archive) -> None:
    run = child(root, archive, "big", "unpacking")
    try:
        paused(run)
        fetch(Cache(root), SUITE, ARCH, ["lib"], sources=archive.sources)
        assert len(building(root)) == 1
    finally:
        run.kill()
        run.communicate()


def test_ctrl_c_in_mid_unpack_leaves_nothing_of_the_entry(root: Path, archive: Archive) -> None:
    run = child(root, archive, "big", "unpacking")
    paused(run)
    run.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in said(run)
    assert list((root / "trees").iterdir()) == []


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_ends_in_mid_download_leaves_no_process(root: Path, archive: Archive, kill: signal.Signals) -> None:
    archive.faults["big_1.0_amd64.deb"] = Fault.STALL
    run = child(root, archive, "big")
    end = time.monotonic() + DEADLINE
    while "big_1.0_amd64.deb" not in archive.debs() and time.monotonic() < end:
        time.sleep(0.02)
    assert any("apt-get" in line for line in users(root))
    run.send_signal(kill)
    run.communicate(timeout=DEADLINE)
    assert wait_until_unused(root) == []


def test_a_disk_that_fills_in_mid_unpack_is_named_and_leaves_no_entry(root: Path, archive: Archive) -> None:
    root.mkdir()
    # Room for the package file and half of what is in it.
    before = in_mount_namespace(f"mount -t tmpfs -o size=9m none {root}")
    then_list = ["sh", "-c", f'"$@"; echo Left:; ls -A {root}/trees', "sh"]
    text = said(child(root, archive, "big", "", "free", before=[*before, *then_list]))
    assert text.startswith(f"HostError unpacking big_1.0_amd64.deb below {root} failed: no space left on device")
    assert text.endswith("Left:")


def test_a_complete_entry_of_a_read_only_cache_is_used(root: Path, archive: Archive) -> None:
    tree = get(root, archive)
    before = in_mount_namespace(f"mount --bind {root} {root}; mount -o remount,ro,bind {root}")
    assert said(child(root, archive, "big", before=before)) == str(tree)


def test_a_complete_entry_of_a_read_only_cache_is_used_also_when_it_is_old(root: Path, archive: Archive) -> None:
    tree = get(root, archive)
    (record,) = (root / "resolved").glob("*.json")
    record.write_text(re.sub(r'"when":[\d.]+', '"when":1000.0', record.read_text()))
    before = in_mount_namespace(f"mount --bind {root} {root}; mount -o remount,ro,bind {root}")
    text = said(child(root, archive, "big", before=before))
    assert text.splitlines()[-1] == str(tree)
    assert "resolved 1970-01-01" in text


def test_a_read_only_cache_without_the_entry_is_a_host_error(root: Path, archive: Archive) -> None:
    root.mkdir()
    before = in_mount_namespace(f"mount --bind {root} {root}; mount -o remount,ro,bind {root}")
    assert said(child(root, archive, "big", before=before)).startswith(f"HostError the cache {root} cannot be written")


def test_another_user_without_root_can_fetch_and_unpack(archive: Archive) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests of this file are the check when they are not run by root")
    before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    usable = [*before, sys.executable, "-c", f"open({str(CHILD)!r})"]
    if subprocess.run(usable, capture_output=True, timeout=DEADLINE, check=False).returncode != 0:
        pytest.skip("another user than root cannot run this Python or read these files")
    home = Path(tempfile.mkdtemp(prefix="artifacts-"))  # pytest's own directories are closed to other users
    try:
        os.chown(home, 65534, 65534)
        text = said(child(home, archive, "big", before=before))
        assert text.startswith(f"{home}/trees/")
    finally:
        shutil.rmtree(home)
