"""The agent that stays up in the guest: one JSON request a line on stdin, one JSON answer a line on stdout.

It reads and writes a virtio-serial port, which init has opened for it.

Request: `{"id": 1, "op": "read_file", "args": {"path": "/proc/cmdline"}}`. Answer: `{"id": 1, "ok": ...}`, or
`{"id": 1, "error": "...", "kind": "FileNotFoundError"}`. Standard library only; it runs as root in a throw-away guest.
The host's side is `harness.guest.agent`.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable

import block
import child
import files
import iommufd
import kernel_log
import kexec
import memory
import network
import pci
import program
import vfio
import virtio
import wake

OPERATIONS: dict[str, Callable[..., object]] = {
    "ping": lambda: {"pid": os.getpid(), "release": os.uname().release},
    **block.OPERATIONS,
    **child.OPERATIONS,
    **files.OPERATIONS,
    **iommufd.OPERATIONS,
    **kernel_log.OPERATIONS,
    **kexec.OPERATIONS,
    **memory.OPERATIONS,
    **network.OPERATIONS,
    **pci.OPERATIONS,
    **program.OPERATIONS,
    **vfio.OPERATIONS,
    **virtio.OPERATIONS,
    **wake.OPERATIONS,
}


def answer(line: bytes) -> dict[str, object]:
    request = json.loads(line.decode())
    try:
        return {"id": request["id"], "ok": OPERATIONS[request["op"]](**request.get("args", {}))}
    except Exception as error:  # every failure of an operation is the host's to judge
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{error} ({where.filename}:{where.lineno})"
        return {"id": request["id"], "error": text, "kind": type(error).__name__}


def main() -> None:
    port, out = sys.stdin.buffer, sys.stdout.buffer
    for line in port:
        if line.isspace():
            continue  # what init starts the agent at; here it runs already
        out.write(json.dumps(answer(line)).encode() + b"\n")
        out.flush()
