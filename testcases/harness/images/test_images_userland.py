"""The userland of the guest image: complete, and the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from images_cpio import Entry, by_name

from harness.artifacts.packages import Tree
from harness.errors import ArtifactError, SpecError
from harness.images.elf import libraries
from harness.images.recipe import Recipe
from harness.images.userland import pack_userland
from harness.resources import ROOT

pytest_plugins = ("images_fixtures",)

RECIPE = Recipe.load()


@pytest.fixture(scope="module")
def packed(tree: Tree) -> bytes:
    return pack_userland(RECIPE, tree)


@pytest.fixture(scope="module")
def members(packed: bytes) -> dict[str, Entry]:
    return by_name(packed)


def test_init_and_programs_can_be_run(members: dict[str, Entry]) -> None:
    for name in ("init", "bin/busybox", "usr/bin/dropbear", "usr/bin/lspci", "usr/bin/setpci"):
        assert members[name].mode & 0o7777 == 0o755
    assert members["usr/bin/python3"].kind == "link"
    assert f"usr/bin/{members['usr/bin/python3'].content.decode()}" in members


def test_every_applet_is_a_link_to_busybox(members: dict[str, Entry]) -> None:
    assert {members[f"bin/{applet}"].content for applet in RECIPE.applets} == {b"busybox"}


def test_agent_is_there_as_bytecode_without_source(members: dict[str, Entry]) -> None:
    names = {name.rpartition("/")[2] for name in members if name.startswith("usr/lib/viommu/agent/")}
    assert {"__main__.pyc", "loop.pyc", "vfio.pyc"} <= names
    assert not any(name.endswith(".py") for name in names)


def test_bytecode_is_used_without_a_look_at_a_source(members: dict[str, Entry]) -> None:
    """PEP 552: the flags are the second word; 1 is a hash that is not checked."""
    flags = {entry.content[4:8] for name, entry in members.items() if name.endswith(".pyc")}
    assert flags == {b"\1\0\0\0"}


def test_program_interpreter_and_libc_are_there(members: dict[str, Entry]) -> None:
    assert {"lib64/ld-linux-x86-64.so.2", "usr/lib/libc.so.6"} <= set(members)


def test_nobody_can_log_in_by_password(members: dict[str, Entry]) -> None:
    assert members["etc/shadow"].content == b"root:*:::::::\n"


_PACK = """
import hashlib, os, sys
from datetime import UTC, datetime
from pathlib import Path
from harness.artifacts.packages import Tree
from harness.images.recipe import Recipe
from harness.images.userland import pack_userland
os.umask(0o077)
tree = Tree(root=Path(sys.argv[1]), key="", packages=(), suite="", resolved=datetime.now(UTC))
print(hashlib.sha256(pack_userland(Recipe.load(), tree)).hexdigest())
"""


def test_bytes_are_the_same_in_another_process_place_umask_locale_time_zone_and_hash_seed(
    packed: bytes, tree: Tree, tmp_path: Path
) -> None:
    env = {"TMPDIR": str(tmp_path), "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    env |= {"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": "1"}
    argv = [sys.executable, "-c", _PACK, str(tree.root)]
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    assert done.stdout.decode().strip() == hashlib.sha256(packed).hexdigest()
    assert list(tmp_path.iterdir()) == []


def test_nobody_but_root_writes_to_the_root_directory(members: dict[str, Entry]) -> None:
    assert (members["."].kind, members["."].mode & 0o7777) == ("directory", 0o755)


def test_plugin_stays_where_it_was_and_comes_with_its_libraries(tree: Tree) -> None:
    found = by_name(pack_userland(replace(RECIPE, plugins=("usr/lib/*/libkmod.so.2",)), tree))
    assert any(name.endswith("-linux-gnu/libkmod.so.2") for name in found)
    assert "usr/lib/libcrypto.so.3" in found


def test_plugin_that_no_package_has_is_named(tree: Tree) -> None:
    with pytest.raises(SpecError, match=r"no package has a file 'usr/lib/nothing\.so'"):
        pack_userland(replace(RECIPE, plugins=("usr/lib/nothing.so",)), tree)


def test_program_that_no_package_has_is_named(tree: Tree) -> None:
    with pytest.raises(SpecError, match="no package has a program 'perl6'"):
        pack_userland(replace(RECIPE, programs=(*RECIPE.programs, "perl6")), tree)


def test_file_that_no_package_has_is_named(tree: Tree) -> None:
    with pytest.raises(SpecError, match="no package has the file usr/share/nothing"):
        pack_userland(replace(RECIPE, files=("usr/share/nothing",)), tree)


def test_module_that_python_has_not_is_named(tree: Tree) -> None:
    with pytest.raises(ArtifactError) as caught:
        pack_userland(replace(RECIPE, stdlib=("no_such_module",)), tree)
    assert "no_such_module" in caught.value.evidence


def test_library_that_no_package_has_is_named_with_who_needs_it(tree: Tree, tmp_path: Path) -> None:
    lspci = tmp_path / "usr/bin/lspci"
    lspci.parent.mkdir(parents=True)
    shutil.copy(tree.root / "usr/bin/lspci", lspci)
    with pytest.raises(ArtifactError, match=r"usr/bin/lspci needs \S+, which no fetched package has"):
        libraries([lspci], tmp_path)


def test_libraries_of_libraries_are_followed(tree: Tree) -> None:
    found = libraries([tree.root / "usr/bin/lspci"], tree.root)
    assert {"libpci.so.3", "libc.so.6", "/lib64/ld-linux-x86-64.so.2"} <= set(found)
    assert {"libz.so.1"} <= set(found)
