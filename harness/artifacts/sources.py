"""Where packages come from: the archive that the host's own apt is set up for, for any suite of it."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from harness.artifacts.process import require, run
from harness.errors import HostError

__all__ = ["VENDORS", "Repository", "Sources", "Vendor", "host_suite", "host_vendor"]

_APT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """What differs between the distributions that the harness runs on.

    Attributes:
        id: `ID` of os-release(5).
        suites: suites to name in hints; others work when the archive has them.
        rolling: names that a host's sources may give its suite instead of the code name.
        bases: suites that are not whole by themselves, and what they stand on; for `X-POCKET` that is `X`.
        updates: pockets of the main archive that hold newer packages of a stable suite.
        kernel: name of the kernel metapackage.
        kernel_variant: the same for a variant ("cloud").
    """

    id: str
    suites: tuple[str, ...]
    rolling: tuple[str, ...]
    bases: Mapping[str, str] = field(default_factory=dict)
    updates: tuple[str, ...] = ()
    kernel: str
    kernel_variant: str

    def kernel_package(self, variant: str, arch: str) -> str:
        """The metapackage of the current kernel; `variant` is empty for the ordinary one."""
        template = self.kernel_variant if variant else self.kernel
        return template.format(variant=variant, arch=arch)

    def base(self, suite: str) -> str:
        """The suite that `suite` must be used together with; itself when it is whole."""
        return self.bases.get(suite, suite.partition("-")[0])


VENDORS: Mapping[str, Vendor] = MappingProxyType(
    {
        vendor.id: vendor
        for vendor in (
            Vendor(
                id="debian",
                suites=("bullseye", "bookworm", "trixie", "forky", "sid", "bookworm-backports", "trixie-backports"),
                rolling=("sid", "unstable", "testing", "stable", "oldstable"),
                bases=MappingProxyType({"experimental": "sid", "rc-buggy": "sid"}),
                kernel="linux-image-{arch}",
                kernel_variant="linux-image-{variant}-{arch}",
            ),
            Vendor(
                id="ubuntu",
                suites=("jammy", "noble", "plucky", "questing", "noble-backports"),
                rolling=("devel",),
                updates=("updates",),
                kernel="linux-image-generic",
                kernel_variant="linux-image-{variant}",
            ),
        )
    }
)


def host_vendor() -> Vendor:
    """The vendor whose packages this host uses.

    Raises:
        HostError: it is neither Debian nor Ubuntu, nor made from them.
    """
    release = _os_release()
    for id in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        if id in VENDORS:
            return VENDORS[id]
    raise HostError(
        f"this host is {release.get('PRETTY_NAME', 'of an unknown kind')}: "
        f"the harness fetches packages on {' and '.join(VENDORS)} only",
        hint="give the path of a QEMU binary and of a kernel image instead of a suite name",
    )


def host_suite() -> str:
    """The code name of the host's own suite; empty where os-release(5) has none."""
    release = _os_release()
    return release.get("UBUNTU_CODENAME") or release.get("VERSION_CODENAME", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """One package archive.

    Attributes:
        uri: as in sources.list(5).
        components: of it.
        options: further fields of its deb822 stanza, `Signed-By` foremost; a value of several lines is in the
            form that it has in a file.
    """

    uri: str
    components: tuple[str, ...] = ("main",)
    options: tuple[tuple[str, str], ...] = ()

    def stanza(self, suite: str) -> str:
        """The deb822 stanza for one suite, deb822(5) and sources.list(5)."""
        fields = (
            ("Types", "deb"),
            ("URIs", self.uri),
            ("Suites", suite),
            ("Components", " ".join(self.components)),
            *self.options,
        )
        return "".join(f"{name}: {value}\n" for name, value in fields) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The archives that suites are looked for in.

    Attributes:
        archive: the main one.
        security: the one that has `X-security` for stable suites, if there is one.
        vendor: whose they are.
        name: tells the caches of different sources apart; empty for the host's own.
        host: for those of the host, the suite of each package source that its apt has, the vendor's or not.
    """

    archive: Repository
    security: Repository | None
    vendor: Vendor
    name: str = ""
    host: tuple[str, ...] = ()

    @classmethod
    def of_host(cls) -> Sources:
        """The sources that the host's apt is set up with; apt need not have been run yet.

        Raises:
            HostError: the host has no apt, or its configuration names no archive of the vendor.
        """
        vendor = host_vendor()
        codename = host_suite()
        entries = _host_entries()
        wanted = (codename, *vendor.rolling)
        archive = _best(vendor, [e for e in entries if e.suite in wanted])
        if archive is None:
            raise HostError(
                f"apt on this host has no source for {codename or vendor.id} with component main",
                hint="see `apt-get indextargets --no-release-info`, and add the archive to /etc/apt/sources.list.d",
            )
        security = _best(vendor, [e for e in entries if e.suite in {f"{suite}-security" for suite in wanted}])
        return cls(
            archive=archive.repository(),
            security=None if security is None else security.repository(),
            vendor=vendor,
            host=tuple(sorted(suite for suite, _ in {(entry.suite, entry.uri) for entry in entries})),
        )

    def stanzas(self, suite: str, *, security: bool) -> str:
        """The sources that make `suite` whole: its base, its pockets, and with `security` the base's updates."""
        base = self.vendor.base(suite)
        suites = dict.fromkeys((base, suite))
        if base not in self.vendor.rolling:
            suites.update(dict.fromkeys(f"{base}-{pocket}" for pocket in self.vendor.updates))
        text = "".join(self.archive.stanza(name) for name in suites)
        if security and self.security is not None:
            text += self.security.stanza(self.security_suite(suite))
        return text

    def security_suite(self, suite: str) -> str:
        """The name that the security updates of a suite would have."""
        return f"{self.vendor.base(suite)}-security"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of `apt-get indextargets`."""

    suite: str
    uri: str
    component: str
    file: Path

    def repository(self) -> Repository:
        key = _signed_by(self.file, self.uri)
        return Repository(uri=self.uri, components=("main",), options=(("Signed-By", key),) if key else ())


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _host_entries() -> list[_Entry]:
    apt = require("apt-get", "to find and verify packages")
    form = "$(CREATED_BY)|$(RELEASE)|$(REPO_URI)|$(COMPONENT)|$(SOURCESENTRY)"
    # Without --no-release-info, sources whose lists were never fetched are left out.
    listing = run([apt, "indextargets", "--no-release-info", "--format", form], watch=int, stall_seconds=_APT_SECONDS)
    entries = []
    for line in listing.stdout.splitlines():
        kind, suite, uri, component, entry = line.split("|")
        if kind == "Packages":
            entries.append(_Entry(suite, uri, component, Path(entry.rpartition(":")[0])))
    return entries


def _best(vendor: Vendor, entries: list[_Entry]) -> _Entry | None:
    """The vendor's own archive among those for a suite: third parties name their suites after the vendor's too."""

    def rank(entry: _Entry) -> int:
        own_key = f"{vendor.id}-archive-keyring" in _signed_by(entry.file, entry.uri)
        own_path = re.search(rf"/{vendor.id}(-security|-ports)?/?$", entry.uri) is not None
        return -(2 * own_key + own_path)

    return min((entry for entry in entries if entry.component == "main"), key=rank, default=None)


def _signed_by(file: Path, uri: str) -> str:
    """The keyring that the source file ties the archive to (indextargets does not say); empty without one.

    Source: sources.list(5), both formats.
    """
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return ""
    bare = uri.rstrip("/")
    if file.suffix == ".sources":
        for stanza in re.split(r"\n[ \t]*\n", text):
            kept = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
            uris = re.search(r"^URIs:((?:.|\n[ \t])*)", kept, re.MULTILINE | re.IGNORECASE)
            key = re.search(r"^Signed-By:[ \t]*((?:.|\n[ \t])*)", kept, re.MULTILINE | re.IGNORECASE)
            if uris and key and bare in [word.rstrip("/") for word in uris[1].split()]:
                return key[1].rstrip()
        return ""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+\[([^]]*)\]\s+(\S+)", line)
        key = match and re.search(r"signed-by=(\S+)", match[1], re.IGNORECASE)
        if match and key and match[2].rstrip("/") == bare:
            return key[1]
    return ""
