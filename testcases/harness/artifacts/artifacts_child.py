"""A run in a process of its own: `python artifacts_child.py CACHE URI NAME [PAUSE [free]]` fetches one package.

Prints the root of the tree, or the class and message of the error. With PAUSE it sleeps, when a step whose text
contains PAUSE begins, until it is killed; with `free` it believes that space never ends.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from artifacts_archive import ARCH, SUITE, Archive

from harness.artifacts.cache import Cache
from harness.artifacts.packages import fetch
from harness.errors import HarnessError


def main(root: str, uri: str, name: str, pause: str = "", space: str = "") -> None:
    def progress(step: str, done: int, total: int) -> None:
        if pause and pause in step:
            print(step, flush=True)
            time.sleep(60)

    if space:
        Cache.free = lambda self: 10**15  # type: ignore[method-assign]
    try:
        tree = fetch(Cache(Path(root)), SUITE, ARCH, [name], progress, sources=Archive(Path(), uri).sources)
        print(tree.root)
    except HarnessError as error:
        print(type(error).__name__, error)


if __name__ == "__main__":
    main(*sys.argv[1:])
