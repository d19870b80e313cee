"""Find and compile what the agent imports. Run by the guest's own Python, on the host, when an image is built.

`freeze.py AGENT_DIR OUTPUT_DIR MODULE...` imports the agent's modules and the MODULEs named, and writes every file that
this took into OUTPUT_DIR: `agent/...` and, below the prefix, `usr/...`; bytecode without source, extension modules as
they are. Compiling is what takes longest in starting from source under emulation (docs/design.md).
"""

from __future__ import annotations

import importlib
import os
import py_compile
import shutil
import sys

_OURS = ("__main__", "py_compile", "shutil")  # imported by this file; taken only if somebody else needs them
_ENCODINGS = ("aliases", "ascii", "latin_1", "utf_8")


def main(agent: str, output: str, extra: list[str]) -> None:
    for name in _OURS:
        sys.modules.pop(name, None)
    sys.path.insert(0, agent)
    own = sorted(name.removesuffix(".py") for name in os.listdir(agent) if name.endswith(".py"))
    for name in (*own, *extra, *(f"encodings.{name}" for name in _ENCODINGS)):
        if name != "__main__":
            importlib.import_module(name)
    found = {getattr(module, "__file__", None) for module in sys.modules.values()}
    for path in sorted(os.path.abspath(path) for path in found if path):
        if path.startswith(agent + os.sep):
            _take(path, output, os.path.join("agent", os.path.relpath(path, agent)))
        else:
            _take(path, output, os.path.join("usr", os.path.relpath(path, sys.prefix)))
    _take(os.path.join(agent, "__main__.py"), output, "agent/__main__.py")


def _take(source: str, output: str, name: str) -> None:
    target = os.path.join(output, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if source.endswith(".py"):
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(source, target + "c", dfile=f"/{name}", doraise=True, invalidation_mode=mode)
    else:
        shutil.copyfile(source, target)


main(sys.argv[1], sys.argv[2], sys.argv[3:])
