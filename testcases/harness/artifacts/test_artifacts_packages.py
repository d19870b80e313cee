"""What `packages.fetch` answers, from an archive of the test's own."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from artifacts_archive import ARCH, SUITE, Archive, Fault, serving

from harness.artifacts import apt, packages
from harness.artifacts.cache import Cache
from harness.artifacts.packages import Tree, fetch
from harness.artifacts.sources import VENDORS, Repository, Sources
from harness.errors import ArtifactError, CorruptArtifact, HostError, MirrorUnreachable, SpecError

DAY = 24 * 3600


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(apt, "_OPTIONS", {**apt._OPTIONS, "Acquire::Retries": "0"})
    with serving(tmp_path / "archive") as archive:
        archive.add("tool", {"usr/bin/tool": b"tool" * 1000}, Depends="lib")
        archive.add("lib", {"usr/lib/lib.so": b"lib"})
        yield archive


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def get(cache: Cache, archive: Archive, *names: str, suite: str = SUITE, refresh: bool = False) -> Tree:
    return fetch(cache, suite, ARCH, names, sources=archive.sources, refresh=refresh)


def age(cache: Cache, seconds: float) -> None:
    """Make what the cache knows of the mirror older."""
    for record in (cache.root / "resolved").glob("*.json"):
        known = record.read_text()
        start = known.index('"when":') + len('"when":')
        end = known.index(",", start)
        record.write_text(known[:start] + str(time.time() - seconds) + known[end:])
    for stamp in (cache.root / "apt").glob("*/updated"):
        os.utime(stamp, (time.time() - seconds,) * 2)


def entries(cache: Cache) -> list[str]:
    return sorted(path.name for path in (cache.root / "trees").glob("*"))


def test_a_package_comes_with_what_it_depends_on(cache: Cache, archive: Archive) -> None:
    tree = get(cache, archive, "tool")
    assert (tree.root / "usr/bin/tool").read_bytes() == b"tool" * 1000
    assert (tree.root / "usr/lib/lib.so").read_bytes() == b"lib"
    assert [package.name for package in tree.packages] == ["lib", "tool"]


def test_what_was_used_is_recorded_to_the_version_and_hash(cache: Cache, archive: Archive) -> None:
    tree = get(cache, archive, "lib")
    (artifact,) = tree.artifacts("guest-package")
    assert (artifact.role, artifact.name, artifact.version, artifact.source) == ("guest-package", "lib", "1.0", SUITE)
    deb = cache.root / "archives" / "lib_1.0_amd64.deb"
    assert artifact.sha256 == hashlib.sha256(deb.read_bytes()).hexdigest()


def test_recommended_packages_do_not_come(cache: Cache, archive: Archive) -> None:
    archive.add("extra", {"usr/bin/extra": b""})
    archive.add("eager", {"usr/bin/eager": b""}, Recommends="extra")
    assert [package.name for package in get(cache, archive, "eager").packages] == ["eager"]


def test_a_package_whose_file_is_among_the_archives_already_is_in_the_next_tree(cache: Cache, archive: Archive) -> None:
    get(cache, archive, "lib")
    assert [package.name for package in get(cache, archive, "tool").packages] == ["lib", "tool"]
    assert archive.debs().count("lib_1.0_amd64.deb") == 1


def test_assumed_packages_and_what_they_need_do_not_come(cache: Cache, archive: Archive) -> None:
    archive.add("script", {"usr/bin/script": b""})
    archive.add("setup", {"usr/bin/setup": b""}, Depends="script")
    archive.add("program", {"usr/bin/program": b""}, Depends="setup, set-up-2.0")
    assumed = {"setup": ("set-up-2.0",)}
    tree = fetch(cache, SUITE, ARCH, ["program"], assumed=assumed, sources=archive.sources)
    assert [package.name for package in tree.packages] == ["program"]


def test_a_second_request_starts_no_program_and_asks_no_mirror(
    cache: Cache, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = get(cache, archive, "tool")
    asked = len(archive.requests)
    monkeypatch.setenv("PATH", str(tmp_path))
    second = get(Cache(cache.root), archive, "tool")
    assert (second.root, second.packages, len(archive.requests)) == (first.root, first.packages, asked)


def test_a_day_later_the_mirror_is_asked_again(cache: Cache, archive: Archive) -> None:
    get(cache, archive, "lib")
    archive.add("lib", {"usr/lib/lib.so": b"newer"}, version="1.1")
    assert get(cache, archive, "lib").packages[0].version == "1.0"
    age(cache, DAY + 60)
    assert get(cache, archive, "lib").packages[0].version == "1.1"


def test_refresh_asks_the_mirror_at_once(cache: Cache, archive: Archive) -> None:
    get(cache, archive, "lib")
    archive.add("lib", {"usr/lib/lib.so": b"newer"}, version="1.1")
    assert get(cache, archive, "lib", refresh=True).packages[0].version == "1.1"


def test_a_package_that_was_replaced_on_the_mirror_since_the_lists_came_is_found_in_its_new_version(
    cache: Cache, archive: Archive
) -> None:
    get(cache, archive, "lib")
    archive.withdraw("tool", "1.0")
    archive.add("tool", {"usr/bin/tool": b"newer"}, version="1.1", Depends="lib")
    assert [p.version for p in get(cache, archive, "tool").packages] == ["1.0", "1.1"]


def test_security_updates_are_preferred_where_the_suite_has_them(cache: Cache, archive: Archive) -> None:
    archive.add("lib", {"usr/lib/lib.so": b"safe"}, version="1.0+sec", suite=f"security/dists/{SUITE}-security")
    assert get(cache, archive, "lib").packages[0].version == "1.0+sec"


def test_backports_are_chosen_from_the_pocket_and_completed_from_the_base(cache: Cache, archive: Archive) -> None:
    archive.add("tool", {"usr/bin/tool": b""}, version="2.0", suite=f"main/dists/{SUITE}-backports", Depends="lib")
    tree = get(cache, archive, "tool", suite=f"{SUITE}-backports")
    assert [(p.name, p.version) for p in tree.packages] == [("lib", "1.0"), ("tool", "2.0")]


def test_an_unknown_suite_is_refused_by_name(cache: Cache, archive: Archive) -> None:
    with pytest.raises(SpecError) as caught:
        get(cache, archive, "lib", suite="sarge")
    assert caught.value.message == "the package archive has no suite sarge"
    assert "trixie" in caught.value.hint


def test_an_unknown_package_is_refused_with_those_of_a_similar_name(cache: Cache, archive: Archive) -> None:
    with pytest.raises(SpecError, match="stable1/amd64 has no package tooll") as caught:
        get(cache, archive, "tooll")
    assert "tool" in caught.value.hint


def test_a_name_that_apt_would_take_for_an_option_is_refused(cache: Cache, archive: Archive) -> None:
    with pytest.raises(SpecError, match="'-o' cannot be the name"):
        get(cache, archive, "-o")


def test_packages_that_do_not_fit_together_are_refused_with_apts_words(cache: Cache, archive: Archive) -> None:
    archive.add("broken", {"usr/bin/broken": b""}, Depends="nowhere")
    with pytest.raises(ArtifactError, match="broken cannot be installed") as caught:
        get(cache, archive, "broken")
    assert "nowhere" in caught.value.evidence


def test_an_archive_that_is_not_signed_is_refused(cache: Cache, archive: Archive) -> None:
    unsigned = Repository(uri=archive.sources.archive.uri)
    sources = Sources(archive=unsigned, security=None, vendor=archive.sources.vendor, name="unsigned")
    with pytest.raises(ArtifactError, match="did not accept the archive's signature"):
        fetch(cache, SUITE, ARCH, ["lib"], sources=sources)


def test_a_truncated_package_file_in_the_archives_is_fetched_again(cache: Cache, archive: Archive) -> None:
    get(cache, archive, "lib")
    deb = cache.root / "archives" / "lib_1.0_amd64.deb"
    whole = deb.read_bytes()
    deb.write_bytes(whole[: len(whole) // 2])
    tree = get(cache, archive, "tool")
    assert deb.read_bytes() == whole
    assert (tree.root / "usr/lib/lib.so").read_bytes() == b"lib"


def test_a_package_file_of_the_right_size_with_a_wrong_byte_is_fetched_again(cache: Cache, archive: Archive) -> None:
    get(cache, archive, "lib")
    deb = cache.root / "archives" / "lib_1.0_amd64.deb"
    whole = deb.read_bytes()
    deb.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    get(cache, archive, "tool")
    assert deb.read_bytes() == whole


def test_an_interrupted_download_is_resumed_where_it_stopped(cache: Cache, archive: Archive) -> None:
    archive.add("big", {"usr/share/big": os.urandom(200_000)})
    get(cache, archive, "lib")
    deb = next(archive.root.glob("main/pool/big_*.deb"))
    partial = cache.root / "archives" / "partial" / deb.name
    partial.write_bytes(deb.read_bytes()[:100_000])
    os.utime(partial, (deb.stat().st_mtime,) * 2)
    get(cache, archive, "big", refresh=True)
    assert archive.ranges == ["bytes=100000-"]


def test_a_download_that_is_always_cut_short_fails_and_leaves_no_entry(cache: Cache, archive: Archive) -> None:
    archive.add("big", {"usr/share/big": os.urandom(200_000)})
    archive.faults["big_1.0_amd64.deb"] = Fault.TRUNCATE
    with pytest.raises((CorruptArtifact, MirrorUnreachable)):
        get(cache, archive, "big")
    assert entries(cache) == []


def test_a_mirror_that_delivers_another_file_than_it_lists_is_called_corrupt(cache: Cache, archive: Archive) -> None:
    deb = next(archive.root.glob("main/pool/lib_*.deb"))
    deb.write_bytes(deb.read_bytes()[:-1] + b"!")
    with pytest.raises(CorruptArtifact, match="does not deliver what its package lists of stable1/amd64 name"):
        get(cache, archive, "lib")
    assert entries(cache) == []


def test_a_mirror_that_cannot_be_reached_is_said_to_be_after_a_few_tries(cache: Cache, tmp_path: Path) -> None:
    closed = Repository(uri="http://127.0.0.1:9/none", options=(("Trusted", "yes"),))
    sources = Sources(archive=closed, security=None, vendor=VENDORS["debian"], name="closed")
    started = time.monotonic()
    with pytest.raises(MirrorUnreachable, match="the mirror did not answer") as caught:
        fetch(cache, SUITE, ARCH, ["lib"], sources=sources)
    assert "Connection refused" in caught.value.evidence
    assert time.monotonic() - started < 15


def test_a_mirror_that_stops_in_mid_file_is_given_up_on(
    cache: Cache, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add("big", {"usr/share/big": os.urandom(200_000)})
    archive.faults["big_1.0_amd64.deb"] = Fault.STALL
    monkeypatch.setattr(apt, "_STALL_SECONDS", 0.5)
    with pytest.raises(MirrorUnreachable, match=r"nothing arrived for 0\.5 s"):
        get(cache, archive, "big")
    assert entries(cache) == []


def test_what_was_resolved_before_is_used_and_said_to_be_old_when_the_mirror_is_gone(
    tmp_path: Path, cache: Cache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(apt, "_OPTIONS", {**apt._OPTIONS, "Acquire::Retries": "0"})
    with serving(tmp_path / "gone") as archive:
        archive.add("lib", {"usr/lib/lib.so": b"lib"})
        online = get(cache, archive, "lib")
    age(cache, 3 * DAY)
    with caplog.at_level(logging.WARNING):
        tree = get(cache, archive, "lib")
    assert (tree.root, tree.offline, online.offline) == (online.root, True, False)
    assert f"resolved {tree.resolved:%F %R} UTC" in caplog.text


def test_a_mirror_that_did_not_answer_is_left_alone_for_a_while(
    cache: Cache, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(cache, archive, "lib")
    age(cache, 3 * DAY)
    archive.faults["Release"] = Fault.TRUNCATE
    archive.faults["Packages"] = Fault.TRUNCATE
    assert get(cache, archive, "lib").offline
    asked = len(archive.requests)
    assert get(cache, archive, "lib").offline
    assert len(archive.requests) == asked
    monkeypatch.setattr(packages, "_RETRY_SECONDS", 0)
    archive.faults.clear()
    assert not get(cache, archive, "lib").offline


def test_a_damaged_tree_is_built_again_from_the_archives_when_the_mirror_is_gone(
    cache: Cache, archive: Archive
) -> None:
    tree = get(cache, archive, "lib")
    (tree.root / "usr/lib/lib.so").unlink()
    age(cache, 3 * DAY)
    archive.faults["Release"] = Fault.TRUNCATE
    archive.faults["Packages"] = Fault.TRUNCATE
    again = get(Cache(cache.root), archive, "lib")
    assert (again.offline, (again.root / "usr/lib/lib.so").read_bytes()) == (True, b"lib")


def test_too_little_space_is_found_before_anything_is_downloaded(
    cache: Cache, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(cache, archive, "lib")
    monkeypatch.setattr(Cache, "free", lambda self: 1000)
    with pytest.raises(HostError, match=r"tool of stable1/amd64 needs \S+ MB below .*, which has 0\.0 MB free"):
        get(cache, archive, "tool")
    assert "tool_1.0_amd64.deb" not in archive.debs()


def test_progress_is_told_in_bytes_and_ends_at_the_total(cache: Cache, archive: Archive) -> None:
    told: list[tuple[str, int, int]] = []
    fetch(cache, SUITE, ARCH, ["lib"], lambda *state: told.append(state), sources=archive.sources)
    size = next(archive.root.glob("main/pool/lib_*.deb")).stat().st_size
    assert ("stable1/amd64: downloading", size, size) in told
    assert told[-1] == ("stable1/amd64: unpacking", 1, 1)


def test_no_unpacked_file_is_set_uid(cache: Cache, archive: Archive) -> None:
    archive.add("su", {"usr/bin/su": b"su"}, mode=0o4755)
    assert (get(cache, archive, "su").root / "usr/bin/su").stat().st_mode & 0o7777 == 0o755
