"""Real templates in a cache of the test's own, without the time that it takes to boot one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.artifacts.cache import Cache
from harness.lab import Lab
from harness.spec import Machine
from harness.warm.lease import Leases
from harness.warm.store import FILES, Manifest, Store


class CopiedTemplates(Leases):
    """Machines whose templates are real ones, made by copying those of the shared cache instead of booting.

    Attributes:
        said: what was told of the progress.
        made: how many templates were.
    """

    def __init__(self, lab: Lab, cache: Cache, source: Leases) -> None:
        self.said: list[str] = []
        self.made = 0
        super().__init__(lab, Store(cache), lambda step, done, total: self.said.append(step))
        self._source = source

    def _boot(self, spec: Machine, directory: Path) -> Manifest:
        self.made += 1
        with self._source.template(spec) as entry:
            files = [entry.file(name) for name in FILES]
            subprocess.run(["cp", "--sparse=always", *files, directory], check=True)
            return entry.manifest
