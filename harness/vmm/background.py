"""The one event-loop thread of a harness process, where all asyncio of `vmm` lives.

The thread is a daemon that lives as long as the process does. That makes it also the right place to start child
processes from: `PR_SET_PDEATHSIG` fires when the *thread* that forked ends (prctl(2)), not when its process does.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["call", "loop", "run"]

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The running event loop of this process, started on first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="viommu-loop", daemon=True).start()
        return _loop


def run(work: Coroutine[object, object, T], deadline: float) -> T:
    """Run a coroutine in the loop thread and wait for what it returns.

    Args:
        work: what to run; it is cancelled when it is late, and when the wait is interrupted.
        deadline: seconds.

    Raises:
        TimeoutError: it was not done in time.
    """

    async def timed() -> T:
        # Not wait_for: the task's own TimeoutError and ours are told apart by nobody, and need not be.
        async with asyncio.timeout(deadline):
            return await work

    future = asyncio.run_coroutine_threadsafe(timed(), loop())
    try:
        return future.result()
    finally:
        future.cancel()


def call(function: Callable[[], T]) -> T:
    """Run a short function in the loop thread and wait for what it returns."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    loop().call_soon_threadsafe(work)
    return future.result()


def _forget() -> None:
    """In a forked child the loop's thread does not exist: let it start its own."""
    global _loop, _lock
    _loop = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
