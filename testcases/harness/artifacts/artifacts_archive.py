"""A tiny package archive of a test's own, served over HTTP on the loopback interface, that can be made to fail."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote

from harness.artifacts.sources import VENDORS, Repository, Sources

ARCH = "amd64"
SUITE = "stable1"


class Fault(Enum):
    """What the server does to a file."""

    TRUNCATE = "promises the whole file, sends half of it, hangs up"
    STALL = "promises the file, sends half of it, and keeps the connection"


class Archive:
    """The archive: `add` packages, `publish`, and look at `requests` afterwards."""

    def __init__(self, root: Path, uri: str) -> None:
        self.root = root
        self.uri = uri
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.faults: dict[str, Fault] = {}
        """By the end of the path."""
        self.stopped = Event()
        self._stanzas: dict[str, list[str]] = {}

    @property
    def sources(self) -> Sources:
        trusted = (("Trusted", "yes"),)
        return Sources(
            archive=Repository(uri=f"{self.uri}/main", options=trusted),
            security=Repository(uri=f"{self.uri}/security", options=trusted),
            vendor=VENDORS["debian"],
            name="test",
        )

    def debs(self) -> list[str]:
        """The package files that were asked for so far, in order."""
        return [request.rpartition("/")[2] for request in self.requests if request.endswith(".deb")]

    def add(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        version: str = "1.0",
        suite: str = f"main/dists/{SUITE}",
        mode: int = 0o755,
        **fields: str,
    ) -> None:
        """Build a package and put it into a suite; `fields` are of its control file ("Depends")."""
        top = self.root / suite.partition("/")[0]
        tree = self.root / "build" / f"{name}-{version}"
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
            (tree / path).chmod(mode)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: {ARCH}\nMaintainer: none\nDescription: a test\n"
        control += "".join(f"{key}: {value}\n" for key, value in fields.items())
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(control)
        deb = top / "pool" / f"{name}_{version}_{ARCH}.deb"
        deb.parent.mkdir(parents=True, exist_ok=True)
        build = ["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(deb)]
        subprocess.run(build, check=True, capture_output=True, timeout=30)
        data = deb.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        stanza = f"{control}Filename: pool/{deb.name}\nSize: {len(data)}\nSHA256: {digest}\n"
        self._stanzas.setdefault(suite, []).append(stanza)
        self.publish()

    def withdraw(self, name: str, version: str) -> None:
        """Take a package away, from the lists and from the pool, as when a newer version replaces it."""
        for suite, stanzas in self._stanzas.items():
            self._stanzas[suite] = [s for s in stanzas if f"Package: {name}\nVersion: {version}\n" not in s]
        for deb in self.root.glob(f"*/pool/{name}_{version}_{ARCH}.deb"):
            deb.unlink()
        self.publish()

    def publish(self) -> None:
        """Write the package lists."""
        for suite, stanzas in self._stanzas.items():
            listing = "".join(f"{stanza}\n" for stanza in stanzas).encode()
            inside = f"main/binary-{ARCH}/Packages"
            path = self.root / suite / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(listing)
            pocket = suite.rpartition("/")[2]
            release = f"Suite: {pocket}\nCodename: {pocket}\nComponents: main\nArchitectures: {ARCH}\n"
            if "backports" in pocket:
                release += "NotAutomatic: yes\nButAutomaticUpgrades: yes\n"
            release += "Date: Mon, 01 Jan 2024 00:00:00 UTC\n"
            release += f"SHA256:\n {hashlib.sha256(listing).hexdigest()} {len(listing)} {inside}\n"
            (self.root / suite / "Release").write_text(release)


@contextmanager
def serving(root: Path) -> Iterator[Archive]:
    """An empty archive, served until the end of the context."""
    archive = Archive(root, "")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            archive.requests.append(self.path)
            path = root / unquote(self.path).lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            wanted = self.headers.get("Range", "")
            start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0) if wanted else 0
            if wanted:
                archive.ranges.append(wanted)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
            self.end_headers()
            fault = next((f for end, f in archive.faults.items() if self.path.endswith(end)), None)
            if fault is None:
                self.wfile.write(data[start:])
                return
            self.wfile.write(data[start : (start + len(data)) // 2])
            self.wfile.flush()
            if fault is Fault.STALL:
                archive.stopped.wait(30)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the requests are kept."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    archive.uri = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield archive
    finally:
        archive.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
