"""A harness of its own: leases one machine from the templates of a cache, says so, and waits to be ended.

Arguments: the cache of the templates; seconds to stay; `unasked` where nobody looks whether there is room.
It says each step that takes long in a line; what becomes of the lease, or is told of a fault, is the last.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from faults_rig import PLAIN

from harness.artifacts.cache import Cache
from harness.errors import HarnessError
from harness.lab import Lab
from harness.warm.lease import Leases
from harness.warm.store import Store


def _say(step: str, done: int, total: int) -> None:
    print(step, flush=True)


if __name__ == "__main__":
    if "unasked" in sys.argv:
        Cache.require_space = lambda *asked: None  # type: ignore[method-assign]
    try:
        with Leases(Lab.open(), Store(Cache(Path(sys.argv[1]))), _say).start(PLAIN) as live:
            print(f"up: {live.guest.run('echo up').stdout.strip()}", flush=True)
            time.sleep(float(sys.argv[2]))
    except HarnessError as error:
        print(f"{type(error).__name__} {error.verdict}: {error.message}", flush=True)
