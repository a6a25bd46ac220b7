"""Threads for calls that may hang, such as a resolver whose servers are silent: the end waits for none of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class DaemonThreads(ThreadPoolExecutor):
    """The loop's default executor (which has to be this type), with a daemon thread for each call.

    The standard one is joined when the loop and again when the interpreter ends: a stop would last as long as
    getaddrinfo(3) tries. How many there are is bounded by the backoff between two attempts.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call in a thread of its own."""
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name="call", daemon=True).start()
        return future
