"""Agents that this one has started: processes of their own, which can be killed with what they hold."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable

children: dict[int, subprocess.Popen[str]] = {}


def child_start() -> int:
    """Start one; its process id."""
    argv = [sys.executable, "-S", "-E", "-s", "-B", sys.argv[0]]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    children[child.pid] = child
    return child.pid


def child_call(pid: int, op: str, args: dict[str, object], seconds: float) -> object:
    """Have one do something; its answer, which must come within that time."""
    child = children[pid]
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps({"id": 1, "op": op, "args": args}) + "\n")
    child.stdin.flush()
    ready, _, _ = select.select([child.stdout], [], [], seconds)
    if not ready:
        raise TimeoutError(f"{op}: process {pid} gives no answer within {seconds} s")
    answer = json.loads(child.stdout.readline())
    if "error" in answer:
        raise RuntimeError(f"{answer['kind']}: {answer['error']}")
    return answer["ok"]


def child_kill(pid: int) -> None:
    """End one with SIGKILL, and wait until it is gone."""
    child = children.pop(pid)
    child.kill()
    child.wait(10)


OPERATIONS: dict[str, Callable[..., object]] = {f.__name__: f for f in (child_start, child_call, child_kill)}
