"""Where templates are kept, with small files in the place of a guest's memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifacts.cache import Cache
from harness.errors import HostError
from harness.warm.store import FILES, Manifest, Store

_SIZE = 1 << 20


class Maker:
    """Makes templates, and counts them."""

    def __init__(self, text: bytes = b"memory", seconds: float = 0.0) -> None:
        self.count = 0
        self._text = text
        self._seconds = seconds

    def __call__(self, directory: Path) -> Manifest:
        self.count += 1
        for name in FILES:
            (directory / name).write_bytes(name.encode())
        with (directory / "ram").open("wb") as file:
            file.truncate(_SIZE)
            file.seek(_SIZE // 2)
            file.write(self._text)
        time.sleep(self._seconds)
        return Manifest(key="", spec="{}", qemu="q 1", kernel="k 2", host_key="00", option_roms=("pvh.bin",), files={})


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def use(store: Store, key: str, fill: Callable[[Path], Manifest]) -> bytes:
    """What a lease of that template finds in its memory."""
    with store.hold(key, fill) as entry:
        assert entry.manifest.key == key
        return entry.file("ram").read_bytes().strip(b"\0")


def test_template_is_made_once(cache: Cache) -> None:
    maker = Maker()
    assert [use(Store(cache), "k", maker) for _ in range(3)] == [b"memory"] * 3
    assert maker.count == 1


def test_each_key_has_a_template_of_its_own(cache: Cache) -> None:
    store = Store(cache)
    assert use(store, "a", Maker(b"one")) == b"one"
    assert use(store, "b", Maker(b"two")) == b"two"
    assert [entry.manifest.key for entry in store.entries()] == ["b", "a"]


@pytest.mark.parametrize("name", FILES)
def test_file_that_was_cut_short_has_its_template_made_again(cache: Cache, name: str) -> None:
    maker, store, told = Maker(), Store(cache), []
    with store.hold("k", maker) as entry:
        os.truncate(entry.file(name), 1)
    with store.hold("k", maker, lambda step, done, total: told.append(step)) as entry:
        assert entry.file(name).stat().st_size > 1
    assert maker.count == 2
    assert f"{name} has 1 bytes" in told[0]


def test_memory_that_was_written_to_has_its_template_made_again(cache: Cache) -> None:
    maker, store, told = Maker(), Store(cache), []
    with store.hold("k", maker) as entry, entry.file("ram").open("r+b") as file:
        file.write(b"x")
    with store.hold("k", maker, lambda step, done, total: told.append(step)) as entry:
        assert entry.file("ram").read_bytes()[:1] == b"\0"
    assert maker.count == 2
    assert "is not as it was saved" in told[0]


def test_copy_with_other_times_and_holes_is_as_good(cache: Cache) -> None:
    maker, store = Maker(), Store(cache)
    with store.hold("k", maker) as entry:
        ram = entry.file("ram")
    data = ram.read_bytes()
    ram.unlink()
    ram.write_bytes(data)
    assert use(store, "k", maker) == b"memory"
    assert maker.count == 1


@pytest.mark.parametrize("name", [*FILES, "template.json"])
def test_file_that_is_gone_has_its_template_made_again(cache: Cache, name: str) -> None:
    maker, store = Maker(), Store(cache)
    with store.hold("k", maker) as entry:
        path = entry.directory / name
    path.unlink()
    assert use(store, "k", maker) == b"memory"
    assert maker.count == 2


@pytest.mark.parametrize("text", ["", "{", '{"schema": "viommu-harness/template/0"}'])
def test_manifest_that_cannot_be_read_has_its_template_made_again(cache: Cache, text: str) -> None:
    maker, store = Maker(), Store(cache)
    with store.hold("k", maker) as entry:
        (entry.directory / "template.json").write_text(text)
    assert use(store, "k", maker) == b"memory"
    assert maker.count == 2


def test_template_under_the_key_of_another_is_not_used(cache: Cache) -> None:
    store = Store(cache)
    with store.hold("a", Maker(b"one")) as entry:
        directory = entry.directory
    directory.rename(directory.with_name("b"))
    assert use(store, "b", Maker(b"two")) == b"two"


def test_two_that_want_the_same_template_make_it_once(cache: Cache) -> None:
    maker, found = Maker(seconds=0.3), []
    users = [threading.Thread(target=lambda: found.append(use(Store(cache), "k", maker))) for _ in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join(10)
    assert found == [b"memory"] * 4
    assert maker.count == 1


def test_nothing_is_left_of_a_template_that_could_not_be_made(cache: Cache) -> None:
    def fails(directory: Path) -> Manifest:
        (directory / "ram").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(HostError, match="is full"):
        use(Store(cache), "k", fails)
    assert list((cache.root / "templates").iterdir()) == []
    assert use(Store(cache), "k", Maker()) == b"memory"


def test_template_that_never_stays_as_it_was_made_is_given_up(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    monkeypatch.setattr("harness.warm.store._damage", lambda entry: "it is always damaged")
    with pytest.raises(HostError, match=r"made 3 times.*always damaged"):
        use(Store(cache), "k", maker)
    assert maker.count == 3


def test_template_that_there_is_no_room_for_is_not_begun(cache: Cache) -> None:
    maker = Maker()
    with pytest.raises(HostError, match="a template needs"), Store(cache).hold("k", maker, room=1 << 60):
        pass
    assert maker.count == 0


def test_what_a_writer_that_died_has_left_is_removed(cache: Cache) -> None:
    left = cache.directory("templates", ".k.abcdefgh")
    (left / "ram").write_bytes(b"half")
    assert use(Store(cache), "k", Maker()) == b"memory"
    assert not left.exists()


def test_least_recently_used_goes_first(cache: Cache) -> None:
    store = Store(cache)
    for key in "abc":
        use(store, key, Maker())
        time.sleep(0.01)
    use(store, "a", Maker())
    size = store.entries()[0].disk_bytes
    assert [entry.manifest.key for entry in store.trim(2 * size)] == ["b"]
    assert [entry.manifest.key for entry in store.entries()] == ["a", "c"]


def test_new_template_makes_room_for_itself(cache: Cache) -> None:
    use(Store(cache), "a", Maker())
    size = Store(cache).entries()[0].disk_bytes
    small = Store(cache, limit_bytes=size)
    assert use(small, "b", Maker()) == b"memory"
    assert [entry.manifest.key for entry in small.entries()] == ["b"]


def test_template_that_is_in_use_stays(cache: Cache) -> None:
    store = Store(cache)
    with store.hold("k", Maker()):
        assert store.trim(0) == ()
    assert len(store.trim(0)) == 1
    assert store.entries() == ()


def test_cache_that_cannot_be_written_costs_the_sharing_and_nothing_else(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*parts: str) -> Path:
        raise HostError("the cache cannot be written")

    monkeypatch.setattr(cache, "directory", refused)
    store, maker = Store(cache), Maker()
    with store.hold("k", maker) as entry:
        assert cache.root not in entry.directory.parents
    assert use(store, "k", maker) == b"memory"
    assert maker.count == 1
    assert [entry.manifest.key for entry in store.entries()] == ["k"]
    assert use(Store(cache), "k", maker) == b"memory"
    assert maker.count == 2


def test_template_that_is_larger_than_all_may_be_is_used_all_the_same(cache: Cache) -> None:
    maker = Maker()
    assert use(Store(cache, limit_bytes=0), "k", maker) == b"memory"
    assert maker.count == 1
