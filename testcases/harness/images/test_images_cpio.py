"""The initramfs archive."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images_cpio import by_name, read

from harness.images.cpio import Archive


def sample() -> Archive:
    archive = Archive()
    archive.file("/etc/viommu/config", b"x\n", 0o640)
    archive.link("bin/sh", "busybox")
    archive.directory("root", 0o700)
    archive.file("bin/busybox", b"\x7fELF", 0o755)
    return archive


def test_members_have_their_kind_mode_and_content() -> None:
    found = by_name(sample().pack())
    assert {name: (entry.kind, entry.mode & 0o7777, entry.content) for name, entry in found.items()} == {
        "bin": ("directory", 0o755, b""),
        "bin/busybox": ("file", 0o755, b"\x7fELF"),
        "bin/sh": ("link", 0o777, b"busybox"),
        "etc": ("directory", 0o755, b""),
        "etc/viommu": ("directory", 0o755, b""),
        "etc/viommu/config": ("file", 0o640, b"x\n"),
        "root": ("directory", 0o700, b""),
    }


def test_parents_come_before_what_is_in_them() -> None:
    names = [entry.name for entry in read(sample().pack())]
    assert all(names.index(name.rpartition("/")[0]) < names.index(name) for name in names if "/" in name)


def test_parent_keeps_the_mode_it_was_given_before_or_after() -> None:
    for order in (1, -1):
        archive = Archive()
        for name in ("root", "root/.ssh/k")[::order]:
            if name == "root":
                archive.directory(name, 0o700)
            else:
                archive.file(name, b"")
        assert by_name(archive.pack())["root"].mode & 0o7777 == 0o700


def test_later_file_of_the_same_path_replaces_the_earlier() -> None:
    archive = sample()
    archive.file("etc/viommu/config", b"new")
    assert by_name(archive.pack())["etc/viommu/config"].content == b"new"


def test_nothing_of_the_host_or_the_hour_is_in_it() -> None:
    for number, entry in enumerate(read(sample().pack()), start=1):
        inode, _, uid, gid, _, mtime = entry.numbers[:6]
        assert (inode, uid, gid, mtime) == (number, 0, 0, 0)


def test_order_of_adding_does_not_matter() -> None:
    one, other = Archive(), Archive()
    for name in "abc":
        one.file(name, name.encode())
    for name in "cab":
        other.file(name, name.encode())
    assert one.pack() == other.pack()


@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.binary(max_size=40), max_size=8))
def test_files_of_any_size_come_back(files: dict[str, bytes]) -> None:
    archive = Archive()
    for name, content in files.items():
        archive.file(name, content)
    packed = archive.pack()
    assert len(packed) % 4 == 0
    assert {entry.name: entry.content for entry in read(packed)} == files


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_unpacks_it(tmp_path: Path) -> None:
    argv = ["cpio", "-idm", "--quiet", "--no-absolute-filenames"]
    done = subprocess.run(argv, input=sample().pack(), cwd=tmp_path, capture_output=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "etc/viommu/config").read_bytes() == b"x\n"
    assert (tmp_path / "bin/sh").readlink() == Path("busybox")
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "bin/busybox").stat().st_mode & 0o777 == 0o755
