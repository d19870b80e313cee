"""Sources are derived from the configuration of the host's apt."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from harness.artifacts.cache import Cache
from harness.artifacts.packages import fetch
from harness.artifacts.sources import VENDORS, Repository, Sources, host_suite, host_vendor
from harness.errors import HostError

ARCHIVE = "http://mirror.example/debian"


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose apt is set up by the files in this directory, and has never been run."""
    directory = tmp_path / "sources.list.d"
    directory.mkdir()
    config = tmp_path / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{directory}"; Dir::State "{tmp_path}/state";'
    )
    monkeypatch.setenv("APT_CONFIG", str(config))
    be(monkeypatch, ID="debian", VERSION_CODENAME="trixie")
    return directory


def be(monkeypatch: pytest.MonkeyPatch, **release: str) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)


def test_a_deb822_source_gives_archive_security_and_keyring(etc: Path) -> None:
    (etc / "debian.sources").write_text(
        f"Types: deb\n# a remark\nURIs: {ARCHIVE}/\nSuites: trixie trixie-updates\nComponents: main contrib\n"
        "Signed-By: /keys/debian-archive-keyring.gpg\n\n"
        f"Types: deb\nURIs: {ARCHIVE}-security\nSuites: trixie-security\nComponents: main\nSigned-By: /keys/other.gpg\n"
    )
    sources = Sources.of_host()
    key = (("Signed-By", "/keys/debian-archive-keyring.gpg"),)
    assert sources.archive == Repository(uri=f"{ARCHIVE}/", options=key)
    assert sources.security == Repository(uri=f"{ARCHIVE}-security/", options=(("Signed-By", "/keys/other.gpg"),))


def test_a_one_line_source_gives_the_same(etc: Path) -> None:
    (etc / "debian.list").write_text(f"deb [arch=amd64 signed-by=/keys/archive.gpg] {ARCHIVE} trixie main\n")
    sources = Sources.of_host()
    assert sources.archive == Repository(uri=f"{ARCHIVE}/", options=(("Signed-By", "/keys/archive.gpg"),))
    assert sources.security is None


def test_a_source_without_a_keyring_is_left_to_apts_trusted_keys(etc: Path) -> None:
    (etc / "debian.list").write_text(f"deb {ARCHIVE} trixie main\n")
    assert Sources.of_host().archive.options == ()


def test_a_key_written_into_the_source_is_kept_in_its_form(etc: Path) -> None:
    key = " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n -----END PGP PUBLIC KEY BLOCK-----"
    (etc / "debian.sources").write_text(
        f"Types: deb\nURIs: {ARCHIVE}\nSuites: trixie\nComponents: main\nSigned-By:\n{key}\n"
    )
    assert f"Signed-By: \n{key}\n" in Sources.of_host().archive.stanza("sid")


def test_a_third_party_that_uses_the_suites_name_is_not_taken_for_the_archive(etc: Path) -> None:
    (etc / "a.list").write_text("deb http://third.example/prod trixie main\n")
    (etc / "b.list").write_text("deb http://fourth.example/linux/debian trixie stable\n")
    (etc / "c.list").write_text(f"deb {ARCHIVE} trixie main\n")
    assert Sources.of_host().archive.uri == f"{ARCHIVE}/"


def test_a_host_that_names_its_suite_by_role_is_understood(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, ID="debian", VERSION_CODENAME="forky")
    (etc / "c.list").write_text(f"deb {ARCHIVE} unstable main\n")
    assert Sources.of_host().archive.uri == f"{ARCHIVE}/"


def test_a_host_without_the_archive_is_told_so(etc: Path) -> None:
    with pytest.raises(HostError, match="apt on this host has no source for trixie with component main"):
        Sources.of_host()


def test_a_suite_is_completed_by_its_security_updates() -> None:
    security = Repository(uri="http://s.example")
    sources = Sources(archive=Repository(uri="http://a.example"), security=security, vendor=VENDORS["debian"])
    text = sources.stanzas("bookworm-backports", security=True)
    assert [line for line in text.splitlines() if line.startswith("Suites")] == [
        "Suites: bookworm",
        "Suites: bookworm-backports",
        "Suites: bookworm-security",
    ]


def test_experimental_stands_on_sid() -> None:
    sources = Sources(archive=Repository(uri="http://a.example"), security=None, vendor=VENDORS["debian"])
    assert "Suites: sid\n" in sources.stanzas("experimental", security=True)


def test_ubuntus_kernel_and_pockets_have_their_own_names() -> None:
    ubuntu = VENDORS["ubuntu"]
    sources = Sources(archive=Repository(uri="http://a.example"), security=None, vendor=ubuntu)
    assert ubuntu.kernel_package("", "amd64") == "linux-image-generic"
    assert ubuntu.kernel_package("virtual", "amd64") == "linux-image-virtual"
    assert "Suites: noble-updates\n" in sources.stanzas("noble", security=True)


def test_debians_kernel_variants_name_the_architecture_last() -> None:
    assert VENDORS["debian"].kernel_package("cloud", "arm64") == "linux-image-cloud-arm64"


def test_a_distribution_made_from_ubuntu_counts_as_ubuntu(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, ID="linuxmint", ID_LIKE="ubuntu debian", VERSION_CODENAME="wilma", UBUNTU_CODENAME="noble")
    assert (host_vendor().id, host_suite()) == ("ubuntu", "noble")


def test_another_distribution_is_refused_with_what_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, ID="fedora", PRETTY_NAME="Fedora Linux 44")
    with pytest.raises(HostError, match="this host is Fedora Linux 44") as caught:
        host_vendor()
    assert "give the path of a QEMU binary" in caught.value.hint


def test_a_host_without_apt_is_told_what_to_install(etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="apt-get is not on this host"):
        fetch(Cache(tmp_path / "cache"), "trixie", "amd64", ["hostname"])


def test_a_package_of_the_hosts_own_suite_comes_from_the_hosts_mirror() -> None:
    tree = fetch(Cache(), host_suite(), "amd64", ["pci.ids"])
    assert tree.path("/usr/share/misc/pci.ids") is not None
