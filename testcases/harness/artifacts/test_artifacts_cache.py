"""The cache by itself: its keys, and how damage is found and mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.artifacts.cache import Cache, PackageEntry
from harness.errors import CorruptArtifact, HostError

PACKAGES = tuple(
    PackageEntry(name=name, version="1", arch="amd64", sha256=f"{number:064x}") for number, name in enumerate("ab")
)
KEY = Cache.key(PACKAGES)


def fill(root: Path) -> None:
    (root / "usr").mkdir()
    (root / "usr/file").write_bytes(b"content")
    (root / "link").symlink_to("usr/file")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path)
    cache.build(PACKAGES, fill)
    return Cache(tmp_path)  # as another run sees it


def refuse(root: Path) -> None:
    pytest.fail("a complete entry was built again")


def test_the_order_of_packages_does_not_change_the_key() -> None:
    assert Cache.key(PACKAGES[::-1]) == KEY


@pytest.mark.parametrize("field", ["name", "version", "arch", "sha256"])
def test_every_field_of_a_package_changes_the_key(field: str) -> None:
    words = {"name": "a", "version": "1", "arch": "amd64", "sha256": "0" * 64}
    assert Cache.key((PackageEntry(**words),)) != Cache.key((PackageEntry(**{**words, field: "other"}),))


def test_the_environment_names_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIOMMU_CACHE", str(tmp_path / "named"))
    assert Cache().root == tmp_path / "named"


def test_without_a_name_the_root_is_the_users_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIOMMU_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache().root == tmp_path / "viommu-harness"


def test_a_complete_entry_is_not_built_again(cache: Cache) -> None:
    assert (cache.build(PACKAGES, refuse) / "usr/file").read_bytes() == b"content"


def truncate_manifest(entry: Path) -> None:
    manifest = entry / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])


def drop_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def truncate_file(entry: Path) -> None:
    (entry / "root/usr/file").write_bytes(b"cont")


def drop_file(entry: Path) -> None:
    (entry / "root/usr/file").unlink()


def drop_link(entry: Path) -> None:
    (entry / "root/link").unlink()


@pytest.mark.parametrize("damage", [truncate_manifest, drop_manifest, truncate_file, drop_file, drop_link])
def test_a_damaged_entry_is_not_used_and_is_built_again(cache: Cache, damage: object) -> None:
    assert callable(damage)
    damage(cache.root / "trees" / KEY)
    assert cache.tree(KEY) is None
    root = cache.build(PACKAGES, fill)
    assert (root / "link").read_bytes() == b"content"
    assert Cache(cache.root).tree(KEY) == root


def test_an_entry_under_the_name_of_another_is_not_used(cache: Cache) -> None:
    (cache.root / "trees" / KEY).rename(cache.root / "trees" / ("0" * 32))
    assert cache.tree("0" * 32) is None


def test_verify_accepts_a_sound_entry(cache: Cache) -> None:
    cache.verify(KEY)
    assert cache.tree(KEY) is not None


def test_verify_names_a_changed_file_of_the_same_size_and_removes_the_entry(cache: Cache) -> None:
    (cache.root / "trees" / KEY / "root/usr/file").write_bytes(b"c0ntent")
    assert cache.tree(KEY) is not None
    with pytest.raises(CorruptArtifact, match="usr/file is not as it was unpacked"):
        cache.verify(KEY)
    assert list((cache.root / "trees").iterdir()) == []
    assert cache.tree(KEY) is None


def test_a_fill_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(root: Path) -> None:
        (root / "half").write_bytes(b"half")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  raised above, without words
        Cache(tmp_path).build(PACKAGES, fail)
    assert list((tmp_path / "trees").iterdir()) == []


def test_a_full_disk_while_filling_is_a_host_error(tmp_path: Path) -> None:
    def fail(root: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(HostError, match=r"the cache .* is full \(No space left on device\), with .* MB free"):
        Cache(tmp_path).build(PACKAGES, fail)


def test_a_directory_that_its_package_made_read_only_can_be_removed(tmp_path: Path) -> None:
    def fill_closed(root: Path) -> None:
        fill(root)
        (root / "usr").chmod(0o555)

    cache = Cache(tmp_path)
    entry = cache.build(PACKAGES, fill_closed).parent
    drop_manifest(entry)
    assert (Cache(tmp_path).build(PACKAGES, fill) / "usr/file").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "trees").iterdir()] == [KEY]


def test_a_fact_is_computed_once(cache: Cache) -> None:
    assert cache.remember(KEY, "fact", list[str], lambda: ["one"]) == ["one"]
    assert Cache(cache.root).remember(KEY, "fact", list[str], lambda: ["two"]) == ["one"]


def test_a_truncated_fact_is_computed_again(cache: Cache) -> None:
    cache.remember(KEY, "fact", list[str], lambda: ["one"])
    (cache.root / "derived" / f"{KEY}.fact.json").write_bytes(b'["on')
    assert cache.remember(KEY, "fact", list[str], lambda: ["two"]) == ["two"]


def test_a_cache_that_is_no_directory_is_a_host_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError, match="cannot be written"):
        Cache(tmp_path / "file").build(PACKAGES, fill)
